"""Describe in short what a figure draws, so that a kept picture can be compared with what the code draws today.

A PNG of a figure carries this as a text with the keyword `KEYWORD`. Pixels would differ between machines with their
fonts; here numbers may differ by rounding alone, and words, colours, markers and dashes not at all.
"""

import json
import math
from collections.abc import Iterator
from io import BytesIO
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

__all__ = ["KEYWORD", "content_of", "differences", "drawn"]

KEYWORD = "nearzero"
TOLERANCE = 1e-5  # of numbers, relative to the greatest of their kind
Content = dict[str, Any]


def drawn(figure: Figure) -> str:
    """Return what a figure draws, as JSON: words, colours, and a few moments of every array of numbers.

    Example:
        >>> import json
        >>> from matplotlib.figure import Figure
        >>> from nearzero.report.figures.content import drawn
        >>> figure = Figure()
        >>> _ = figure.subplots().plot([0, 1], [2, 4], color="blue", label="offset")
        >>> json.loads(drawn(figure))["panels"][0]["lines"][0]["y"]
        [2, 3.0, 3.162278, 3.333333]
    """
    titles = (figure._suptitle, figure._supxlabel, figure._supylabel)  # type: ignore[attr-defined]
    content = {
        "words": [text.get_text() for text in titles if text is not None],
        "legends": [
            [legend.get_title().get_text(), *_words(legend.get_texts())] for legend in figure.legends
        ],
        "panels": [_panel(axes) for outer in figure.axes for axes in (outer, *outer.child_axes)],
    }
    return json.dumps(content, ensure_ascii=True)


def _panel(axes: Any) -> Content:
    legend = axes.get_legend()
    return {
        "titles": [axes.get_title(place) for place in ("left", "center", "right")],
        "labels": [axes.get_xlabel(), axes.get_ylabel()],
        "legend": [] if legend is None else _words(legend.get_texts()),
        "texts": _words(axes.texts),
        "lines": [_line(line) for line in axes.lines],
        "areas": [_area(area) for area in axes.collections],
        "patches": [_patch(patch) for patch in axes.patches],
        "images": [_moments(image.get_array()) for image in axes.images],
    }


def _words(texts: Any) -> list[str]:
    return [text.get_text() for text in texts if isinstance(text, Text)]


def _line(line: Line2D) -> Content:
    colour: Any = line.get_color()
    return {
        "x": _moments(line.get_xdata(orig=False)),
        "y": _moments(line.get_ydata(orig=False)),
        "colour": to_hex(colour),
        "face": str(line.get_markerfacecolor()),
        "marker": str(line.get_marker()),
        "dashes": str(line.get_linestyle()),
        "label": _label(line),
    }


def _area(area: Collection) -> Content:
    values, faces = area.get_array(), cast(Any, area.get_facecolor())
    paths = area.get_paths() if isinstance(area, PolyCollection) else []
    corners = [path.vertices for path in paths] or [np.empty((0, 2))]
    return {
        "values": _moments(np.empty(0) if values is None else values),
        "corners": _moments(np.concatenate(corners)),
        "colours": sorted({to_hex(colour) for colour in faces}) if values is None else [],
    }


def _patch(patch: Patch) -> Content:
    corners = patch.get_patch_transform().transform(patch.get_path().vertices)
    return {
        "corners": _moments(corners),
        "colour": to_hex(patch.get_facecolor()),
        "hatch": str(patch.get_hatch() or ""),
        "label": _label(patch),
    }


def _label(artist: Artist) -> str:
    """Return the label of an artist; nothing for one that matplotlib made up."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label


def _moments(values: Any) -> list[float]:
    """Return how many finite numbers there are, their mean, root mean square, and mean with rising weights."""
    flat = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan).ravel()
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return [0]
    weights = np.arange(1, finite.size + 1) / finite.size
    moments = (finite.mean(), math.sqrt(float((finite**2).mean())), (finite * weights).sum() / weights.sum())
    return [finite.size, *(float(f"{moment:.7g}") for moment in moments)]


def content_of(png: bytes) -> str | None:
    """Return what the figure of a PNG drew; None if the PNG doesn't say so."""
    from PIL import Image

    with Image.open(BytesIO(png)) as picture:
        picture.load()
        return picture.info.get(KEYWORD)


def differences(kept: str, now: str) -> list[str]:
    """Return the places in which two contents differ by more than rounding; none if the figures are the same.

    Example:
        >>> from matplotlib.figure import Figure
        >>> from nearzero.report.figures.content import differences, drawn
        >>> first, second = Figure(), Figure()
        >>> _ = first.subplots().plot([0, 1], [2, 4]), second.subplots().plot([0, 1], [2, 4.1])
        >>> differences(drawn(first), drawn(second))
        ['panels 0 lines 0 y: [2, 3.0, 3.162278, 3.333333], now [2, 3.05, 3.225678, 3.4]']
    """
    return list(_differing(json.loads(kept), json.loads(now), ""))


def _differing(kept: Any, now: Any, place: str) -> Iterator[str]:
    if isinstance(kept, dict) and isinstance(now, dict) and kept.keys() == now.keys():
        for key in kept:
            yield from _differing(kept[key], now[key], f"{place} {key}".strip())
    elif _are_numbers(kept) and _are_numbers(now):
        scale = max(map(abs, (*kept[1:], *now[1:])), default=0.0)
        if len(kept) != len(now) or not np.allclose(kept, now, rtol=0.0, atol=TOLERANCE * scale):
            yield f"{place}: {kept}, now {now}"
    elif isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        for number, pair in enumerate(zip(kept, now, strict=True)):
            yield from _differing(*pair, f"{place} {number}")
    elif kept != now:
        yield f"{place}: {kept!r:.80}, now {now!r:.80}"


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, list) and bool(values) and all(isinstance(value, int | float) for value in values)
    )
