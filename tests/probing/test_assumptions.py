"""The table of what was inferred: a row changes if the truth does, survives a file, and is shown."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import nearzero as nz
from nearzero.torch_models.assumptions import Assumptions


def net(activation=nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 7), nn.GELU(), nn.Linear(7, 3))


X, Y = torch.randn(10, 6), torch.arange(10) % 3


def value(result: nz.ProbeResult, what: str) -> str:
    (row,) = [row for row in result.assumptions if row.what == what]
    assert row.argument.endswith("=")
    assert row.source
    return row.value


class Named(nn.Module):
    """A model whose logits are one entry of a mapping."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return {"logits": self.net(x)}


@pytest.mark.parametrize(
    ("what", "model", "settings", "before", "after"),
    [
        ("logits", Named(), {}, "the tensor that the model returns", "output['logits']"),
        (
            "logits",
            net(),
            {"output": lambda y: y},
            "the tensor that the model returns",
            "what output= returns",
        ),
        ("activation of layer 0", net(nn.Tanh), {}, "relu", "tanh"),
        (
            "conduct of layer 0",
            net(nn.Tanh),
            {},
            "offset as-run, clip pre, range post",
            "offset shift, clip pre, range pre",
        ),
        ("path of layer 0", net(), {"method": "full"}, "suffix", "full"),
        ("ranges", net(), {"quantiles": (0.1, 0.9)}, "minimum and maximum", "quantiles 0.1 and 0.9"),
        ("data of the ranges", net(), {"ranges_from": X}, "the data that are measured", "data of their own"),
    ],
)
def test_a_row_changes_with_the_truth(what, model, settings, before, after):
    data, layer = [(X, Y)], ["*0"]
    assert value(nz.probe(net(), data, layer, families="scale", levels=2), what) == before
    changed = nz.probe(model, data, layer, families="scale", levels=2, **settings)
    assert value(changed, what.replace(" 0", f" {changed.layers[0]}")) == after


def test_units_and_halves():
    conv = nn.Sequential(nn.Conv1d(6, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
    found = nz.probe(conv, torch.randn(5, 6, 4), "1", levels=2)
    given = nz.probe(conv, torch.randn(5, 6, 4), "1", levels=2, unit_axis=2)
    assert value(found, "units of layer 1") == "dimension 1 of (2, 8, 4)"
    assert value(given, "units of layer 1") == "dimension 2 of (2, 8, 4)"
    assert value(found, "halves") == "none"
    design = nz.Design(families=("scale",), targets=(0.1,), draws=1)
    halved = nz.probe(net(), (X, Y), "1", levels=2, design=design)
    assert value(halved, "halves") == halved.matched.attrs["halves"]


def test_kept_and_shown(tmp_path):
    result = nz.probe(net(), (X, Y), levels=2, families=("scale", "clip"))
    assert nz.ProbeResult.open(result.save(tmp_path)).assumptions == result.assumptions
    table = str(result.summary())
    assert "units of 2 layers" not in table  # they differ in shape
    for row in result.assumptions:
        assert row.value in table
        assert row.argument in table
    caption = result.plot()._suptitle.get_text().replace("\n", " ")
    assert "logits: the tensor that the model returns" in caption
    assert "units of layer" not in caption


def test_other_analyses_keep_them_too():
    for response in (
        nz.matched(net(), X, Y, layer="1", design=nz.Design(families=("scale",), targets=(0.1,))),
        nz.sweep(net(), X, Y, layer="1", family="scale", levels=[0.5]),
    ):
        rows = json.loads(response.attrs["assumptions"])
        assert ["logits", "the tensor that the model returns"] in [row[:2] for row in rows]


def test_two_readings_are_refused():
    assumptions = Assumptions()
    assumptions.record("output", "logits", "some are negative", "output_kind=")
    assumptions.record("output", "logits", "as before", "output_kind=")
    with pytest.raises(nz.InputError, match=r"output can be read in two ways: logits \(some are negative\)"):
        assumptions.record("output", "probabilities", "they sum to 1", "output_kind=")


def test_rows_that_cant_be_compared_are_marked():
    result = nz.probe(net(), (X, Y), levels=2, families=("offset", "scale"))
    (note,) = [note for note in result.notes if "compared" in note]
    assert "offset as-run, range post in 1; offset shift, range pre in 3" in note
    assert [row["conduct"] for row in result.summary()] == ["as-run, post", "shift, pre"]
    figure = result.plot()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["1", "3 †"]
    caption = figure._suptitle.get_text().replace("\n", " ")
    assert "no mark: offset as-run, range post; †: offset shift, range pre" in caption
    for settings in (
        {"families": "scale"},
        {"families": "offset", "conduct": nz.Conduct("shift", range="pre")},
    ):
        alike = nz.probe(net(), (X, Y), levels=2, **settings)
        assert not [note for note in alike.notes if "compared" in note]
        assert "conduct" not in alike.summary()[0]
        assert "no mark" not in alike.plot()._suptitle.get_text()
