"""What a probe's page says as a text: hostile names, results with less in them, refusals, the command line."""

from __future__ import annotations

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run
from probes import WORDS, convolutional, language_model
from torch import nn

import nearzero as nz
from nearzero.page.probe import items as page_items

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
SCRIPT = re.compile(r"<script([^>]*)>(.*?)</script>", re.DOTALL)


def small(**options: Any) -> nz.ProbeResult:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 3))
    data = torch.randn(60, 5), torch.randint(3, (60,))
    return nz.probe(model, data, **{"levels": 4, "keep_items": True} | options)


def data_of(page: str) -> dict[str, Any]:
    text = next(content for attributes, content in SCRIPT.findall(page) if "page-data" in attributes)
    return dict(json.loads(text))


def array_of(page: str, name: str) -> np.ndarray:
    found = re.search(
        rf'data-array="{re.escape(name)}" data-type="(\w+)Array" data-shape="([\d,]*)">([^<]*)<', page
    )
    assert found is not None, name
    kind, shape, text = found.groups()
    values = np.frombuffer(base64.b64decode(text), np.dtype(kind.lower()).newbyteorder("<"))
    return values.reshape([int(each) for each in shape.split(",")])


def test_cells_are_all_that_was_measured() -> None:
    result = small(metrics=["accuracy", "cross_entropy"])
    page = result.to_html()
    levels, start = array_of(page, "cell/level"), array_of(page, "cell/start")
    for metric in ("accuracy", "cross_entropy"):
        means = array_of(page, f"mean/{metric}")
        low = array_of(page, f"low/{metric}")
        ends = result.intervals(metric)
        for place in range(6):
            own = slice(start[place], start[place + 1])
            where = {"layer": place // 3, "family": place % 3}
            curve = result.response[metric].isel(where).dropna("level")
            assert levels[own].tolist() == curve.level.values.tolist()
            assert means[own].tolist() == curve.values.tolist()
            assert low[own].tolist() == ends.low.isel(where).sel(level=curve.level).values.tolist()
    changes = abs(result.response.accuracy - result.response.unperturbed_accuracy).sel(family="scale")
    level = changes.level.values[changes.max("layer").fillna(-1.0).argmax("level").item()]
    assert f"at level {level:.4g} in layer" in page


def test_responses_at_equal_displacement_are_there_with_a_design() -> None:
    design = nz.Design(families=("signed_shift", "gains", "cap"), targets=(0.1, 0.3), draws=2)
    result = small(design=design)
    page = result.to_html()
    assert "Distance and intensity at equal displacement" in page
    for layer in ("1", "3"):
        costs = 100 * (result.matched.unperturbed_accuracy - result.matched.accuracy).sel(layer=layer)
        per_family = costs.mean("side").sel(target=0.3)
        columns = data_of(page)["charts"][f"cost-{layer}"]["columns"]
        drawn = dict(zip(zip(columns["series"], columns["x"], strict=True), columns["y"], strict=True))
        for family in ("signed_shift", "gains"):
            assert drawn[family, 30.0] == pytest.approx(float(per_family.sel(family=family)), abs=1e-5)
        assert columns["low"] == [None] * len(columns["low"])  # one network has no interval over runs
    level = float(result.matched.level.sel(layer="3", family="gains", target=0.3).dropna("side")[0])
    assert f"{level:.4g}" in page


def test_responses_without_deciding_families_arent_compared() -> None:
    design = nz.Design(families=("shift", "clip"), targets=(0.2,), draws=1)
    page = small(design=design).to_html()
    assert "Distance and intensity aren't compared: " in html.unescape(page)
    assert "All responses at equal displacement" in page
    assert "Distance and intensity at equal displacement" not in small().to_html()


def test_unperturbed_items_are_kept() -> None:
    """An independent pass of the model gives the same losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(30, 5), torch.randint(3, (30,))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(model(x), y, reduction="none")
    for backend in ("two-layer", "model"):
        found = nz.probe(
            model, (x, y), levels=2, metrics="cross_entropy", keep_items=True, backend=backend
        ).response
        np.testing.assert_allclose(found.unperturbed_cross_entropy_items, expected, rtol=1e-5)
        assert float(found.unperturbed_cross_entropy_items.mean()) == pytest.approx(
            float(found.unperturbed_cross_entropy)
        )


def test_a_page_without_a_title_has_the_headline_once() -> None:
    result = small()
    _, _, body = result.to_html().partition("<body")
    assert html.unescape(body).count(result.headline) == 1


def test_texts_from_outside_are_escaped() -> None:
    result = small(units={HOSTILE: [0, 1]}, layers=["1"], families={HOSTILE: "clip"})
    page = result.to_html(title=HOSTILE, class_names=[HOSTILE] * 3, code=HOSTILE)
    inside = [content for _, content in SCRIPT.findall(page) if "alert" in content]
    assert len(inside) == 1  # the data, which is no script
    assert "<script>alert" not in page
    assert "<img" not in page
    assert HOSTILE in data_of(page)["probe"]["layers"][0]


def test_without_items_there_are_no_intervals_and_the_page_says_so() -> None:
    page = small(keep_items=False).to_html()
    assert "keep its items (keep_items=True)" in page
    assert "95 % interval " not in page.split('id="cell"')[0].split("<table")[0]
    assert "items" not in data_of(page)["probe"]
    with pytest.raises(nz.InputError, match="probe with keep_items=True"):
        small(keep_items=False).to_html(inputs=np.zeros((60, 2, 2), np.uint8))


def test_results_of_older_versions_have_a_page() -> None:
    """They have no versions, no unit ranges, and no unperturbed items."""
    result = small()
    names = [name for name in result.response if str(name).startswith(("unperturbed_", "unit_m"))]
    names = [name for name in names if str(name).endswith("_items") or str(name).startswith("unit_m")]
    older = result.response.drop_vars(names)
    for key in ("versions", "causal", "assumptions"):
        del older.attrs[key]
    page = nz.ProbeResult(older).to_html()
    assert "not recorded" in page
    assert "Nothing was recorded about what was assumed" in page
    assert "The result holds no unit ranges" in page
    assert "low/accuracy" in page


def test_each_unit_alone_and_levels_without_end() -> None:
    page = small(units="each", layers=["1"], families="clip", levels=[0.1, np.inf]).to_html()
    assert len(data_of(page)["probe"]["layers"]) == 8
    assert np.isinf(array_of(page, "cell/level")).sum() == 8


def test_what_isnt_finite_is_counted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Hardtanh(-1e38, 1e38), nn.Linear(6, 3)
    )
    data = 1e3 * torch.randn(60, 5), torch.randint(3, (60,))
    result = nz.probe(model, data, "1", families="scale", levels=[1.0, 1e38], keep_items=True)
    counts = array_of(result.to_html(), "cell/not-finite")
    assert counts.tolist() == result.response.not_finite.values.ravel().tolist()
    assert counts.max() > 0


def test_the_items_of_a_page_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = language_model(levels=3)
    cells = len(array_of(probed.page(), "cell/level"))
    monkeypatch.setattr(page_items, "BUDGET", cells * 5 * 50)  # 50 items: a loss in 4 bytes, an accuracy in 1
    page = probed.page()
    assert len(data_of(page)["probe"]["items"]["examples"]) == 2
    assert array_of(page, "item/cross_entropy").shape == (cells, 46)
    assert array_of(page, "item/accuracy").dtype == np.uint8
    monkeypatch.setattr(page_items, "MOST_TOKENS", 10)
    page = probed.page()
    assert "of each the first 10 tokens that count" in page
    assert array_of(page, "item/token").tolist() == [*range(10)] * 5
    assert data_of(page)["probe"]["items"]["texts"][0][0] in WORDS


def test_tokens_without_inputs_are_the_targets() -> None:
    probed = language_model(levels=2)
    ids = probed.options["inputs"]
    values = data_of(probed.result.to_html(decode=probed.options["decode"]))["probe"]["items"]
    assert values["texts"] is None
    assert values["targets"][:23] == [WORDS[token] for token in ids[0, 1:]]
    assert data_of(probed.result.to_html())["probe"]["items"]["targets"][:23] == [
        str(int(each)) for each in ids[0, 1:]
    ]


def test_other_inputs_are_refused() -> None:
    probed = language_model(levels=2)
    ids = probed.options["inputs"]
    with pytest.raises(
        nz.InputError, match=r"token \d+ of example \d+ is \d, and the probe's is \d; give them in"
    ):
        probed.result.to_html(inputs=ids.flip(0))
    with pytest.raises(nz.InputError, match="inputs are of 11 examples, and the probe had 12"):
        probed.result.to_html(inputs=ids[:11])
    with pytest.raises(
        nz.InputError, match=r"inputs of example 0 have 5 tokens, and the probe measured token 5"
    ):
        probed.result.to_html(inputs=ids[:, :5])
    with pytest.raises(
        nz.InputError, match=r"decode must return a text, such as tokenizer\.decode does; got int"
    ):
        probed.result.to_html(inputs=ids, decode=len)  # type: ignore[arg-type]
    pictures = convolutional(levels=2)
    images = pictures.options["inputs"]
    with pytest.raises(nz.InputError, match="must be uint8, from 0 to 255; got float32"):
        pictures.result.to_html(inputs=images.astype(np.float32))
    with pytest.raises(nz.InputError, match="must have one channel or three"):
        pictures.result.to_html(inputs=np.concatenate([images, images], axis=-1))
    with pytest.raises(nz.InputError, match=r"an example is float64 of shape \(5,\)"):
        pictures.result.to_html(inputs=np.zeros((80, 5)))
    with pytest.raises(nz.InputError, match="examples must be a whole number from 1; got 0"):
        pictures.result.to_html(examples=0)


def test_pictures_of_any_form() -> None:
    probed = convolutional(levels=2)
    images = probed.options["inputs"]
    chosen = data_of(probed.page())["probe"]["items"]["examples"]
    for given in (images, np.moveaxis(images, -1, 1), torch.from_numpy(images)):
        assert np.array_equal(array_of(probed.result.to_html(inputs=given), "images"), images[chosen])
    grey = array_of(probed.result.to_html(inputs=images[..., 0]), "images")
    assert np.array_equal(grey, images[chosen][..., :1])
    large = np.repeat(np.repeat(images, 12, 1), 12, 2)  # 192 pixels, shown as squares of 2 x 2
    shown = array_of(probed.result.to_html(inputs=large), "images")
    assert np.array_equal(shown, np.repeat(np.repeat(images[chosen], 6, 1), 6, 2))


def test_the_command_makes_the_same_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probed = convolutional(levels=2)
    folder, images = probed.result.save(tmp_path / "probe"), tmp_path / "images.npy"
    np.save(images, probed.options["inputs"])
    code, out, _ = run(capsys, "page", folder / "probe.nc", "--inputs", images, "--title", "A <CNN>")
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert code == 0
    assert "page.html" in out
    command = f"nearzero page {folder / 'probe.nc'} --inputs {images} --title 'A <CNN>'"
    expected = probed.result.to_html(inputs=probed.options["inputs"], title="A <CNN>", code=command)
    assert page == expected
    code, _, err = run(capsys, "page", folder, "--runs", "0")
    assert code == 2
    assert "--runs belong to the page of a study, and this is a probe" in err
