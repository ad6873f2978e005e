"""Options, labels and metrics of an evaluator, in all the forms that a user may give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import nearzero as nz

X, Y = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32), np.arange(24) % 3


def network(*, recognised: bool) -> nn.Module:
    torch.manual_seed(0)
    passive = [] if recognised else [nn.Identity()]
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), *passive, nn.Linear(9, 3))


@pytest.mark.parametrize("recognised", [True, False])
def test_labels_may_be_a_list(*, recognised: bool) -> None:
    model = network(recognised=recognised)
    results = [nz.sweep(model, X, y, family="scale") for y in (Y, Y.tolist(), torch.from_numpy(Y))]
    for result in results[1:]:
        np.testing.assert_array_equal(result.accuracy, results[0].accuracy)


@pytest.mark.parametrize("recognised", [True, False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layre": "1"}, "unknown option 'layre': did you mean 'layer'"),
        ({"method": "sufix"}, "method must be one of auto, suffix, full; got 'sufix'; did you mean 'suffix'"),
        ({"backend": "modl"}, "backend must be one of two-layer, model; got 'modl'; did you mean 'model'"),
        ({"metrics": "acuracy"}, "unknown metric 'acuracy': did you mean 'accuracy'"),
        ({"layer": "01"}, "there is no layer '01': did you mean '1'"),
        ({"layer": "hiden*"}, r"no layer matches 'hiden\*'; the layers are"),
    ],
)
def test_refusals(options: Any, message: str, *, recognised: bool) -> None:
    with pytest.raises(nz.InputError, match=message):
        nz.sweep(network(recognised=recognised), X, Y, family="scale", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["0", "01"]}, "there is no layer '01': did you mean '1'"),
        ({"layers": "hiden*"}, r"no layer matches 'hiden\*'; the layers are"),
        ({"families": "clp"}, "unknown family 'clp': did you mean 'clip'"),
        ({"levels": {"clp": [0.5]}}, "which isn't among the families: did you mean 'clip'"),
        ({"metrics": "acuracy"}, "unknown metric 'acuracy': did you mean 'accuracy'"),
        ({"metrics": {"mine": "acuracy"}}, "unknown metric 'acuracy': did you mean 'accuracy'"),
        ({"activation": "rleu"}, "unknown activation 'rleu': did you mean 'relu'"),
        ({"method": "sufix"}, "method must be one of auto, suffix, full; got 'sufix'; did you mean 'suffix'"),
        ({"backend": "modl"}, "backend must be one of two-layer, model; got 'modl'; did you mean 'model'"),
    ],
)
def test_typos_in_a_probe(options: Any, message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        nz.probe(network(recognised=True), (X, Y), **options)


def test_typos_in_a_plot() -> None:
    result = nz.probe(network(recognised=True), (X, Y), levels=1)
    with pytest.raises(nz.InputError, match="metric 'acuracy' wasn't measured: did you mean 'accuracy'"):
        result.plot("acuracy")


def test_labels_separate_from_batches_are_refused() -> None:
    with pytest.raises(
        nz.InputError, match="y goes with inputs that come as one array; got list, whose batches"
    ):
        nz.sweep(network(recognised=False), [(X, Y)], Y, family="scale")


def test_a_method_is_of_the_model_backend() -> None:
    assert nz.sweep(network(recognised=True), X, Y, family="scale", method="full").attrs["backend"] == "model"


def test_a_metric_may_be_a_function_alone() -> None:
    def right(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.argmax(-1) == target).float()

    design = nz.Design(families=("shift",), targets=(0.1,), draws=1)
    alone = nz.matched(network(recognised=True), X, Y, design=design, metrics=right)
    known = nz.matched(network(recognised=False), X, Y, design=design, metrics="accuracy")
    np.testing.assert_array_equal(alone.right, known.accuracy)


def test_ranges_critical_levels_and_audits_need_no_classes_as_targets() -> None:
    """Regression data have no classes."""
    model, data = network(recognised=False), [(X, X[:, :3])]
    expected = nz.unit_ranges(model, X)
    np.testing.assert_array_equal(nz.unit_ranges(model, data).pre.width, expected.pre.width)
    assert len(nz.critical_levels(model, data, family="scale", grid=9)) == len(X)
    assert "measured_accuracy" not in nz.scale_audit(model, data, levels=(0.5, 1.0, 2.0)).curves


@pytest.mark.parametrize("tokens", [5, 9])
def test_an_activation_with_a_slope_for_each_token_is_refused(tokens: int) -> None:
    """With as many tokens as units no error is raised by PyTorch: the slopes would be used as slopes of units."""
    model = nn.Sequential(nn.Linear(6, 9), nn.PReLU(tokens), nn.Identity(), nn.Linear(9, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(0.1, 0.9, tokens))
    data = [torch.from_numpy(X)[:, None].expand(-1, tokens, -1) * torch.linspace(1.0, 2.0, tokens)[:, None]]
    for analysis in (nz.matched, nz.near_and_far):
        with pytest.raises(nz.InputError, match="the activation of layer '1' depends on a row's position"):
            analysis(model, data, layer="1")
    assert nz.sweep(model, data, family="scale", layer="1").attrs["backend"] == "model"


class TokensFirst(nn.Module):
    """A model whose hidden values are (tokens, examples, units), as in PyTorch's attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.last = nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x.movedim(0, 1)))).mean(0)


def test_rows_are_refused_where_tokens_come_before_examples() -> None:
    """If the tokens are a multiple of the examples, rows would silently be given to wrong examples."""
    data = [(torch.from_numpy(X)[:6, None].expand(-1, 12, -1) * torch.linspace(1.0, 2.0, 12)[:, None], Y[:6])]
    with pytest.raises(nz.InputError, match="so it isn't known which rows belong to which example"):
        nz.matched(TokensFirst(), data, layer="act")
    with pytest.raises(nz.InputError, match="so it isn't known which rows belong to which example"):
        nz.critical_levels(TokensFirst(), data, layer="act", family="clip", grid=20)
    assert nz.sweep(TokensFirst(), data, family="scale", layer="act").attrs["layer"] == "act"


def accuracy(batches: list[Any]) -> float:
    return float(nz.probe(network(recognised=True), batches, levels=2).response.unperturbed_accuracy)


def test_batches_that_the_two_layer_backend_cant_take() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    dense = accuracy([(x, y)])
    with torch.no_grad():
        assert dense == pytest.approx(float((network(recognised=True)(x).argmax(1) == y).float().mean()))
    for other in (x.to_sparse(), x.double(), x.half().float().double()):
        expected = accuracy([(x, y), (other.to_dense().float(), y)])
        assert accuracy([(x, y), (other, y)]) == expected
    assert accuracy([(x.to_sparse(), y)]) == dense


def test_batches_that_no_backend_can_take() -> None:
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    with pytest.raises(nz.InputError, match=r"targets \(23,\) don't fit logits \(24, 3\)"):
        accuracy([(x, y[:23])])
    for batches in ([(x * torch.nan, y)], [(x, y), (x * torch.nan, y)]):
        with pytest.raises(nz.InputError, match="has values that aren't finite"):
            accuracy(batches)
