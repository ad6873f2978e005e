"""The arguments of a probe: data, ranges, metrics and settings, each accepted in many forms or refused in one line."""

from __future__ import annotations

from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import nearzero as nz
from nearzero.torch_models.batches import Batch, read_batch
from nearzero.torch_models.data import BatchSource

LEVELS = {"offset": [-0.4, 0.3], "scale": [0.5, 2.0], "clip": [0.4]}
CLASSES = 3


def model() -> nn.Sequential:
    """Return a network of two hidden layers, unlike the paper's."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, CLASSES))


def data(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(4)
    return torch.randn(count, 6, generator=random), torch.randint(CLASSES, (count,), generator=random)


X, Y = data()


def probed(given, layer="1", **options) -> nz.ProbeResult:
    return nz.probe(model(), given, layer, **{"levels": LEVELS, "batch_size": 7, **options})


def assert_same(one: nz.ProbeResult, other: nz.ProbeResult, slack: float = 0.0) -> None:
    assert set(one.response.data_vars) == set(other.response.data_vars)
    assert one.response.attrs["items"] == other.response.attrs["items"]
    for name in one.response.attrs["metrics"]:
        np.testing.assert_allclose(one.response[name], other.response[name], rtol=0, atol=slack, err_msg=name)


# --- forms of data --------------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", "inputs targets")


class Examples(Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, place):
        return X[place].numpy(), int(Y[place])


class Streamed(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


class Again:
    """An iterable that can be iterated again, and has no length."""

    def __iter__(self):
        return iter(parts())


def parts(size=7):
    return list(zip(X.split(size), Y.split(size), strict=True))


FORMS = {
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "64 bits": lambda: (X.double().numpy(), Y.int().numpy()),
    "not to be written to": lambda: (frozen(X.numpy()), frozen(Y.numpy())),
    "a loader": lambda: DataLoader(TensorDataset(X, Y), 7),
    "examples": Examples,
    "streamed examples": Streamed,
    "a list": parts,
    "lists in a list": lambda: [list(each) for each in parts()],
    "named pairs": lambda: [Pair(*each) for each in parts()],
    "an iterable": Again,
    "a generator": lambda: (each for each in parts()),
    "mappings": lambda: [{"input": x, "labels": y} for x, y in parts()],
    "mappings of another kind": lambda: [UserDict({"input": x, "label": y}) for x, y in parts()],
    "arrays in batches": lambda: [(x.numpy(), y.numpy()) for x, y in parts()],
    "arguments": lambda: [((x,), y) for x, y in parts()],
    "inference tensors": lambda: inference(),
    "tensors with gradients": lambda: [(x.clone().requires_grad_(), y) for x, y in parts()],
}


def frozen(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def inference():
    with torch.inference_mode():
        return [(x.clone(), y.clone()) for x, y in parts()]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_data(form):
    # float64 inputs meet float32 weights, and are converted to these
    assert_same(probed(FORMS[form]()), probed((X, Y)))


@pytest.mark.parametrize("form", ["a list", "a generator", "a loader", "examples"])
def test_ranges_from_other_data_in_the_same_forms(form):
    wide = (5 * X, Y)
    result = probed(wide, ranges_from=FORMS[form]())
    assert_same(result, probed(wide, ranges_from=(X, Y)))
    assert_same(result, probed(wide, ranges_from=[X]))
    assert not result.response.accuracy.equals(probed(wide).response.accuracy)


def test_batches_of_any_size_give_the_same():
    whole = probed((X, Y), batch_size=50, metrics=["accuracy", "cross_entropy"])
    for size in (1, 3, 49):
        assert_same(probed((X, Y), batch_size=size, metrics=["accuracy", "cross_entropy"]), whole, 1e-6)


def test_a_shuffled_loader_is_in_one_order_in_all_passes():
    loader = DataLoader(TensorDataset(X, Y), 7, shuffle=True)
    state = torch.get_rng_state()
    result = probed(loader, keep_items=True, metrics={"label": lambda logits, target: target})
    assert torch.equal(torch.get_rng_state(), state)
    labels = result.response.label_items.sel(layer="1", family="scale", level=0.5).values
    assert sorted(labels) == sorted(Y.tolist())
    again = probed(
        loader, ["1", "3"], keep_items=True, metrics={"label": lambda logits, target: target}
    ).response
    first, second = (
        again.label_items.sel(layer=name, family="scale", level=0.5).values for name in ("1", "3")
    )
    np.testing.assert_array_equal(first, second)


def test_several_arguments_and_keywords():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model()

        def forward(self, x, y, sign=None):
            return self.inner(x + y) * (1 if sign is None else sign)

    half = X / 2
    expected = probed((X, Y)).response
    given = {
        "tuple": ([((half, half), Y)], {}),
        "list": ([([half, half], Y)], {}),
        "mapping": ([{"x": half, "y": half, "sign": torch.ones(50, 1), "target": Y}], {}),
        "prepare": ([(half, half, Y)], {"prepare": lambda item: ((item[0], item[1]), item[2], None)}),
        "prepared mapping": (
            [(half, Y)],
            {"prepare": lambda item: ({"x": item[0], "y": item[0]}, item[1], None)},
        ),
    }
    for name, (batches, options) in given.items():
        response = nz.probe(Sums(), batches, "inner.1", levels=LEVELS, **options).response
        np.testing.assert_allclose(response.accuracy, expected.accuracy, atol=1 / 50, err_msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "data hold no batches"),
        (iter([]), "data hold no batches"),
        (X[:0], "data hold no examples"),
        ((X, Y[:3]), r"inputs and targets must be of one length; got \[50, 3\]"),
        ([(X[:0], Y[:0])], "a batch is empty; leave it out of the data"),
        (None, "data must be an iterable of batches, a Dataset, or arrays; got NoneType"),
        ("digts", "did you mean 'digits'"),
        ({"input": X}, "a mapping is one batch: give"),
        (
            [("a", "b")],
            r"a batch must be inputs, \(inputs, targets\) or a mapping, of tensors; got tuple of str, str",
        ),
        (
            [(X, Y, Y)],
            r"a batch must have one or two parts, \(inputs,\) or \(inputs, targets\); got 3; convert it with prepare=",
        ),
        ([np.array(["a", "b"])], "arrays must be of numbers; got <U1"),
        ([object()], "a batch must be inputs"),
        ([(X, "labels")], "a batch must be inputs"),
        (
            [(X, Y + 1)],
            "targets must be classes from 0 to 2, as the logits have them .* got values from 1 to 3",
        ),
        (
            [(X, Y[:, None].expand(50, 2))],
            r"there must be one target for each item, its class; got \(50, 2\)",
        ),
        ([(X, Y[:7])], r"targets \(2,\) don't fit logits|targets \(7,\) don't fit logits"),
        ([(torch.full_like(X, torch.nan), Y)], r"layer '1' has values that aren't finite \(pre-activation\)"),
        (
            [(X, Y), (X * torch.inf, Y)],
            "aren't finite .* did the model diverge, or overflow in half precision",
        ),
    ],
)
def test_data_that_cant_be_used(given, message):
    with pytest.raises(nz.InputError, match=message) as caught:
        probed(given)
    assert "\n" not in str(caught.value)


def test_data_that_end_when_gone_through_again():
    class Once:
        def __init__(self):
            self.items = iter(parts())

        def __iter__(self):
            return self.items

    with pytest.raises(nz.InputError, match="when read again; give data that can be read several times"):
        probed(Once())


class Counted(Dataset):
    """Examples that count how often they are read, and are others after some reads, if `changes` says how many."""

    def __init__(self, changes=False):
        self.reads, self.changes = [0] * len(X), changes

    def __len__(self):
        return len(X)

    def __getitem__(self, place):
        self.reads[place] += 1
        return X[place] + (self.changes and self.reads[0] > self.changes), Y[place]


def test_the_first_batches_are_read_once_before_anything_is_measured():
    data = Counted()
    options = {"metrics": {"first": lambda logits, target: logits[:, 0]}, "batch_size": 7}
    probed(data, **options)
    assert data.reads == [3] * 28 + [2] * (len(X) - 28)  # and for the ranges, and for the response
    assert_same(probed(Counted(), **options), probed((X, Y), **options), 1e-7)
    for changes in (1, 2):  # for the ranges, or for the response alone
        with pytest.raises(nz.InputError, match="batch 1 of the data is another one when read again"):
            probed(Counted(changes), **options)


def test_items_that_prepare_changes_are_read_each_time():
    class Made:
        def __iter__(self):
            return iter([{"x": x, "y": y} for x, y in parts()])

    prepared = probed(Made(), prepare=lambda item: (item.pop("x"), item.pop("y"), None))
    assert_same(prepared, probed(parts()))


def test_batches_that_are_too_large_or_unknown_arent_held():
    reads = []
    for limit in (0, 300, 10**9):  # none, the first of 224 bytes, or as many as are ever held
        data = Counted()
        source = BatchSource(data, lambda item, dtype: read_batch(item, torch.device("cpu")), 7, 10**9)
        with source.held(limit):
            passes = [[batch.inputs[0] for batch in source] for _ in range(3)]
            assert all(torch.equal(source.first().inputs[0], X[:7]) for _ in range(3))
        assert [len(each) for each in passes] == [8, 8, 8]
        assert all(torch.equal(torch.cat(each), X) for each in passes)
        reads.append(data.reads[0])
    assert reads == [7, 4, 4]  # longer passes read all
    objects = [{"x": X, "cache": object()}] * 3
    source = BatchSource(objects, lambda item, dtype: Batch((item["x"],), {"cache": item["cache"]}), 7, 10**9)
    with source.held(10**9):
        assert len(list(source)) == 3
        assert not source._held._first


def test_a_generator_that_is_too_large_to_be_kept():
    big = (torch.zeros(1000, 6) for _ in range(10_000))
    with pytest.raises(nz.InputError, match="can be read only once, and keeping them takes more than 20 MB"):
        probed(big, memory="20 MB")


# --- ranges ---------------------------------------------------------------------------------------------------------


def widths(quantiles, batch_size=7):
    """Return z and max - min of each unit as the probe has them, from a model whose logits are the layer's values."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 8)
    metrics = {f"unit {unit}": lambda logits, target, unit=unit: logits[:, unit] for unit in range(8)}
    response = nz.probe(
        nn.Sequential(layer),
        X,
        "0",
        families="offset",
        levels=[1.0],
        metrics=metrics,
        quantiles=quantiles,
        conduct=nz.Conduct(offset="shift", range="pre"),
        keep_items=True,
        batch_size=batch_size,
    ).response
    with torch.no_grad():
        z = layer(X).double().numpy()
    moved = np.stack([response[f"{name}_items"].values[0, 0, 0] for name in metrics], axis=1)
    return z, (moved - z).mean(axis=0)


@pytest.mark.parametrize("quantiles", [None, (0.0, 1.0), (0.1, 0.9), (0.25, 0.5), (0.013, 0.987)])
@pytest.mark.parametrize("batch_size", [50, 7])
def test_ranges_are_numpys(quantiles, batch_size):
    z, measured = widths(quantiles, batch_size)
    low, high = np.quantile(z, quantiles or (0.0, 1.0), axis=0, method="inverted_cdf")
    # streamed quantiles are exact to 2^-24 of a unit's range; float32 logits to some 1e-6
    np.testing.assert_allclose(measured, high - low, atol=2e-6 * np.ptp(z))


def test_quantiles_of_a_generator():
    conduct = nz.Conduct(offset="shift", range="pre")
    settings = {"quantiles": (0.1, 0.9), "conduct": conduct}
    assert_same(probed(iter(parts()), **settings), probed((X, Y), **settings))
    assert_same(probed((X, Y), ranges_from=iter(parts()), **settings), probed((X, Y), **settings))


@pytest.mark.parametrize(
    "quantiles", [(0.9, 0.1), (0.5, 0.5), (-0.1, 1), (0.1,), 0.5, ("a", "b"), (0.1, np.nan)]
)
def test_quantiles_that_cant_be(quantiles):
    with pytest.raises(
        nz.InputError, match=r"quantiles must be two numbers from 0 to 1, the lower first; got"
    ):
        probed((X, Y), quantiles=quantiles)


# --- metrics --------------------------------------------------------------------------------------------------------


def test_metrics_by_hand():
    network = model()
    response = nz.probe(
        network,
        (X, Y),
        "1",
        families="scale",
        levels=[0.3],
        metrics=["accuracy", "agreement", "cross_entropy", "margin", "kl_divergence"],
    ).response
    with torch.no_grad():
        before = network(X).double()
        after = network[2:](network[1](0.3 * network[0](X))).double()
    rest = after.clone()
    rest[torch.arange(50), Y] = -torch.inf
    expected = {
        "accuracy": (after.argmax(1) == Y).double().mean(),
        "agreement": (after.argmax(1) == before.argmax(1)).double().mean(),
        "cross_entropy": F.cross_entropy(after, Y),
        "margin": (after[torch.arange(50), Y] - rest.amax(1)).mean(),
        "kl_divergence": F.kl_div(
            after.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean"
        ),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(response[name].item(), float(value), rtol=1e-5, atol=1e-7, err_msg=name)


def test_metrics_of_ones_own():
    def entropy(logits, target):
        return torch.distributions.Categorical(logits=logits).entropy()

    def share(logits, target):
        return float((logits.argmax(1) == target).float().mean())

    def right(logits, target):
        return logits.argmax(1) == target

    result = probed(
        (X, Y), batch_size=50, metrics={"entropy": entropy, "share": share, "right": right, "a": "accuracy"}
    )
    response = result.response
    assert response.attrs["metrics"] == ["entropy", "share", "right", "a"]
    np.testing.assert_allclose(response.share, response.a, atol=1e-7)
    np.testing.assert_array_equal(response.right, response.a)
    assert probed((X, Y), metrics=entropy).response.attrs["metrics"] == ["entropy"]
    targets = probed((X, X[:, :2]), metrics=lambda logits, target: (logits[:, :2] - target).square().sum(1))
    assert targets.response.attrs["items"] == 50


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_metrics_in_other_precisions(dtype):
    def first(logits, target):
        return logits[:, 0]

    for keep in (False, True):
        response = nz.probe(model().to(dtype), X, "1", levels=LEVELS, metrics=first, keep_items=keep).response
        assert np.isfinite(response["first"].sel(family="scale", level=0.5)).all()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("accuracie", r"unknown metric 'accuracie': did you mean 'accuracy'\? known are accuracy, agreement"),
        ([], "metrics must name at least one of accuracy"),
        (3, r"metrics must be names, functions of \(logits, target\), or a mapping; got 3"),
        ({"level": "accuracy"}, "a metric can't be called 'level', since the result uses this name already"),
        ({3: "accuracy"}, "the name of a metric must be text; got 3"),
        (
            {"two": lambda logits, target: logits},
            "'two' must return one number, or one for each of 7 items; got",
        ),
        (
            {"none": lambda logits, target: None},
            "'none' must return one number, or one for each of 7 .*; got NoneType",
        ),
        ({"words": lambda logits, target: "good"}, "'words' must return one number, .* got str"),
    ],
)
def test_metrics_that_cant_be(metrics, message):
    with pytest.raises(nz.InputError, match=message):
        probed((X, Y), metrics=metrics)


def test_metrics_that_need_what_isnt_there():
    with pytest.raises(nz.InputError, match="'cross_entropy' needs targets, and the batches have none"):
        probed(X, metrics="cross_entropy")
    with pytest.raises(nz.InputError, match="needs whole numbers as targets, the classes; got float32"):
        probed((X, X[:, 0]), metrics="accuracy")


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": "ofset"}, "unknown family 'ofset': did you mean 'offset'"),
        ({"families": []}, "families must name at least one, of offset, scale, clip"),
        ({"families": ["clip", "clip"]}, "families name one of them twice: clip, clip"),
        (
            {"levels": {"ofset": [1]}},
            r"which isn't among the families: did you mean 'offset'\? the families are offset, scale, clip",
        ),
        ({"levels": 0}, "levels must be at least 1; got 0"),
        ({"levels": True}, "levels must be numbers, or how many of a family's own; got True"),
        ({"levels": [[1.0]]}, r"levels of offset must be a flat array of at least one; got shape \(1, 1\)"),
        ({"levels": []}, r"levels of offset must be a flat array of at least one; got shape \(0,\)"),
        ({"levels": ["a"]}, "levels must be real numbers"),
        ({"levels": [np.nan]}, "layer '1': "),
        ({"method": "fast"}, "method must be one of auto, suffix, full; got 'fast'"),
        ({"conduct": "as-run"}, "conduct must be an nz.Conduct; got str"),
        ({"conduct": nz.Conduct()}, "layer '1': offset=as-run isn't defined for gelu"),
        ({"prepare": 3}, "prepare must be a function; got int"),
        ({"output": "logits"}, "output='logits' chooses one of several outputs, but the model returns one"),
        ({"output": 1.0}, "output must be a function, or the key or index of the logits; got float"),
        ({"output_kind": "odds"}, "output_kind must be one of logits, probabilities, log-probabilities; got"),
        ({"class_axis": 0}, r"class_axis must be the dimension of the classes, .* got 0"),
        ({"class_axis": 2}, r"class_axis=2 isn't a dimension of classes of the output, which is \("),
        ({"prepare": lambda item: item}, r"prepare must return a tuple of three, \(inputs, target, mask\)"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1; got 0"),
        ({"batch_size": 2.0}, r"batch_size must be a whole number, at least 1; got 2\.0"),
        ({"memory": "lots"}, "memory"),
        ({"memory": 1000}, "memory|allowed"),
        ({"activation": 3}, "activation"),
        ({"causal": "yes"}, "causal must be True, False or None; got 'yes'"),
    ],
)
def test_settings_that_cant_be(options, message):
    with pytest.raises(nz.InputError, match=message) as caught:
        probed((X, Y), **options)
    assert "\n" not in str(caught.value)
