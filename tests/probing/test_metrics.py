"""Metrics of the user's own: their names, what they are given, and their way into a file and back."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz

X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (24,), generator=torch.Generator().manual_seed(2))
LEVELS = {"scale": [0.5, 1.0, 2.0]}


def model(outputs: int = 3, last: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, outputs)]
    return nn.Sequential(*layers, *([] if last is None else [last]))


def probed(module: nn.Module, data, metrics, **options) -> nz.ProbeResult:
    return nz.probe(module, data, "1", families="scale", levels=LEVELS, metrics=metrics, **options)


def top(logits, target, k):
    return (logits.topk(k, 1).indices == target[:, None]).any(1)


class Top:
    def __init__(self, k):
        self.k = k

    def __call__(self, logits, target):
        return top(logits, target, self.k)


def named(name, k):
    def function(logits, target):
        return top(logits, target, k)

    function.__name__ = name
    return function


# --- names ---


@pytest.mark.parametrize(
    ("metrics", "name"),
    [
        ([partial(top, k=1), partial(top, k=3)], "partial"),
        ([lambda z, t: z[:, 0], lambda z, t: z[:, 1]], "<lambda>"),
        ([Top(1), Top(2)], "Top"),
        ([named("top", 1), named("top", 2)], "top"),
        (["accuracy", named("accuracy", 2)], "accuracy"),
    ],
    ids=["partials", "lambdas", "objects", "functions", "a known one"],
)
def test_two_metrics_of_one_name(metrics, name):
    message = f"two metrics are called '{name}'; give a mapping, in which each has a name of its own"
    for analysis in (nz.probe, nz.sweep, nz.matched):
        with pytest.raises(nz.InputError, match=message):
            analysis(model(), [(X, Y)], metrics=metrics)
    both = probed(model(), (X, Y), dict(zip("ab", metrics, strict=True))).response
    assert both.attrs["metrics"] == ["a", "b"]


def test_a_metric_named_twice_counts_once():
    assert probed(model(), (X, Y), ["accuracy", "accuracy"]).response.attrs["metrics"] == ["accuracy"]
    network = nz.TwoLayer(np.eye(2), np.zeros(2), np.eye(2), np.zeros(2), "relu")
    x = np.array([[2, 1], [1, 2], [5, 4], [4, 5]])
    once, *others = (
        nz.sweep(network, x, [0, 1, 0, 1], family="clip", metrics=metrics)
        for metrics in ("accuracy", ["accuracy"] * 2, iter(["accuracy"]))
    )
    assert all(other.identical(once) for other in others)


@pytest.mark.parametrize(
    "name", ["", ".", "/", "top1/acc", "a\x00b", "a\nb", "a\x7f", "\ud800", "_nc4_non_coord_x"]
)
def test_names_that_a_file_cant_hold_are_refused_before_any_work(name):
    class Untouchable(nn.Module):
        def forward(self, x):
            raise AssertionError("the model ran")

    with pytest.raises(
        nz.InputError, match=r"since a file can't hold this name; .* metrics=\{'name': \.\.\.\}$"
    ):
        nz.probe(Untouchable(), (X, Y), metrics={"agreement": "agreement", name: lambda logits, target: 0.0})


@pytest.mark.parametrize(
    "name", ["a b", " ", "_a", "__a", "..", "1", "é", "a,b", 'a"b', "a\\b", "_FillValue", "$\\frac$"]
)
def test_other_names_go_into_a_file_and_back(name, tmp_path):
    result = probed(model(), (X, Y), {name: lambda logits, target: logits[:, 0]}, keep_items=True)
    again = nz.ProbeResult.open(result.save(tmp_path / "result"))
    assert again.response.attrs["metrics"] == [name]
    np.testing.assert_array_equal(again.response[name], result.response[name])


@pytest.mark.parametrize(
    "names",
    [
        ["displacement"],
        ["side"],
        ["predictions"],
        ["a", "unperturbed_a"],
        ["a", "a_items"],
        ["a", "centred_a"],
    ],
)
def test_names_that_a_result_has_itself(names):
    metrics = {name: lambda logits, target: logits[:, 0] for name in names}
    with pytest.raises(nz.InputError, match=f"'{names[-1]}', since the result uses this name already"):
        nz.matched(model(), [(X, Y)], layer="1", metrics=metrics)


def test_a_metric_called_prediction_isnt_the_predicted_class():
    metrics = {
        "prediction": lambda logits, target: logits[:, 0],
        "other": lambda logits, target: logits[:, 0],
    }
    options = {"layer": "1", "family": "scale", "metrics": metrics}
    curves = nz.sweep(model(), [(X, Y)], **options)
    np.testing.assert_array_equal(curves.prediction, curves.other)
    with pytest.raises(nz.InputError, match="'prediction' if predictions are kept; rename the metric"):
        nz.sweep(model(), [(X, Y)], keep_predictions=True, **options)


@pytest.mark.parametrize("own", [lambda logits, target: logits[:, 0], "agreement"])
def test_a_metric_of_ones_own_may_have_the_name_of_a_known_one(own):
    """On the two-layer backend, too, the name doesn't decide."""
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    expected = probed(network, (X, Y), {"other": own}, backend="model").response
    for found in (
        probed(network, (X, Y), {"accuracy": own}).response.isel(layer=0, family=0),
        nz.sweep(network, X, Y, family="scale", levels=LEVELS["scale"], metrics={"accuracy": own}),
    ):
        np.testing.assert_allclose(found.accuracy, expected.other[0, 0], rtol=1e-6)


# --- into a file and back ---


@pytest.mark.parametrize("keep_items", [False, True])
def test_one_metric_saved_and_opened(keep_items, tmp_path):
    design = nz.Design(families=("shift",), targets=(0.1,), draws=1)
    result = probed(model(), (X, Y), "accuracy", keep_items=keep_items, design=design)
    again = nz.ProbeResult.open(result.save(tmp_path / "first"))
    assert again.response.attrs["metrics"] == ["accuracy"]
    assert again.headline == result.headline
    assert again.summary() == result.summary()
    assert again.notes == result.notes
    assert again.matched.identical(nz.ProbeResult.open(again.save(tmp_path / "second")).matched)
    again.plot("accuracy")
    with pytest.raises(nz.InputError, match=r"measured were accuracy$"):
        again.plot("agreement")
    table = (tmp_path / "second" / "response.csv").read_text()
    assert table == (tmp_path / "first" / "response.csv").read_text()


# --- gradients and inference mode ---


class Inferred(nn.Module):
    """A model that computes in inference mode."""

    def __init__(self):
        super().__init__()
        self.body = model()

    @torch.inference_mode()
    def forward(self, x):
        return self.body(x)


def gradient(logits, target):
    logits = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(F.cross_entropy(logits, target, reduction="sum"), logits)
    return found.norm(dim=1)


def gradient_of_its_argument(logits, target):
    F.cross_entropy(logits.requires_grad_(), target, reduction="sum").backward()
    return logits.grad.norm(dim=1)


def expected_gradient(logits, target):
    return (logits.softmax(1) - F.one_hot(target, 3)).norm(dim=1)


@pytest.mark.parametrize("made", [model, Inferred])
def test_metrics_that_need_gradients(made):
    metrics = {"plain": expected_gradient, "copy": gradient, "own": gradient_of_its_argument}
    module = made()
    name = "1" if made is model else "body.1"
    response = nz.probe(module, (X, Y), name, families="scale", levels=LEVELS, metrics=metrics).response
    for each in ("copy", "own"):
        np.testing.assert_allclose(response[each], response.plain, rtol=1e-5)
        np.testing.assert_allclose(response[f"unperturbed_{each}"], response.unperturbed_plain, rtol=1e-5)
    assert all(weight.grad is None for weight in module.parameters())


@pytest.mark.parametrize("made", [model, Inferred])
def test_metrics_in_inference_mode(made):
    @torch.inference_mode()
    def greatest(logits, target):
        return logits.amax(1)

    def writes(logits, target):
        with torch.inference_mode():
            return logits.mul_(2).amax(1) / 2

    name = "1" if made is model else "body.1"
    metrics = {"inferred": greatest, "writes": writes, "plain": lambda logits, target: logits.amax(1)}
    response = nz.probe(made(), (X, Y), name, levels=LEVELS, families="scale", metrics=metrics).response
    np.testing.assert_array_equal(response.inferred, response.plain)
    np.testing.assert_array_equal(response.writes, response.plain)


def test_a_metric_with_weights_may_leave_pytorch():
    calibration = nn.Linear(3, 3)
    metrics = {
        "numpy": lambda logits, target: calibration(logits).numpy()[:, 0],
        "torch": lambda logits, target: calibration(logits)[:, 0],
    }
    response = probed(model(), (X, Y), metrics).response
    np.testing.assert_array_equal(response["numpy"], response["torch"])


# --- models with one output ---


@pytest.mark.parametrize("last", [None, nn.Flatten(0)], ids=["a column", "a number"])
@pytest.mark.parametrize("batch_size", [24, 7])
def test_a_metric_gets_one_output_as_it_is(last, batch_size):
    module, target = model(1, last), 3 + X[:, 0]
    shapes = set()

    def error(output, target):
        shapes.add(tuple(output.shape[1:]))
        return (output.reshape(-1) - target) ** 2

    response = probed(module, (X, target), {"error": error}, batch_size=batch_size, keep_items=True).response
    assert shapes == {() if last else (1,)}
    with torch.no_grad():
        h = module[0](X)
        for level in LEVELS["scale"]:
            outputs = module[1:](level * h).reshape(-1)
            found = response.error_items.sel(level=level).values[0, 0]
            np.testing.assert_allclose(found, (outputs - target) ** 2, rtol=1e-5)


@pytest.mark.parametrize("last", [None, nn.Flatten(0)], ids=["a column", "a number"])
def test_each_metric_of_one_output_gets_its_own_form(last):
    metrics = {
        "accuracy": "accuracy",
        "positive": lambda z, t: (z.reshape(-1) > 0) == t,
        "loss": "cross_entropy",
    }
    metrics["bce"] = lambda z, t: F.binary_cross_entropy_with_logits(
        z.reshape(-1), t.float(), reduction="none"
    )
    response = probed(model(1, last), (X, Y % 2), metrics).response
    np.testing.assert_array_equal(response.accuracy, response.positive)
    np.testing.assert_allclose(response.loss, response.bce, rtol=1e-5)


def test_one_output_for_each_token():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.hidden, self.act, self.head = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1)

        def forward(self, x):
            return self.head(self.act(self.hidden(x)))

    x = X.reshape(4, 6, 6)
    metrics = {"output": lambda output, target: output[:, 0]}
    with torch.no_grad():
        expected = Tokens()(x).reshape(-1)
    response = nz.probe(
        Tokens(), x, "act", levels={"scale": [1.0]}, families="scale", metrics=metrics
    ).response
    np.testing.assert_allclose(response.output.item(), float(expected.mean()), rtol=1e-5)


def test_one_output_with_its_mean_shift_taken_out():
    design = nz.Design(families=("scale",), targets=(0.2,), draws=1)
    metrics = {"output": lambda output, target: output.reshape(-1)}
    second = {"output": lambda output, target: output[:, 1]}
    two = nz.matched(model(1, nn.ZeroPad1d((1, 0))), [X], layer="1", metrics=second, design=design)
    for last in (None, nn.Flatten(0)):
        one = nz.matched(model(1, last), [X], layer="1", metrics=metrics, design=design)
        np.testing.assert_allclose(one.centred_output, two.centred_output, rtol=1e-6)
        assert not np.allclose(one.centred_output, one.output, equal_nan=True)


# --- what a metric may do ---


def writes_logits(logits, target, unperturbed):
    return logits.zero_()[:, 0]


def writes_targets(logits, target, unperturbed):
    return target.zero_() == 0


def writes_unperturbed(logits, target, unperturbed):
    return unperturbed.fill_(torch.nan)[:, 0] * 0


def writes_by_numpy(logits, target, unperturbed):
    for array in (logits, target, unperturbed):
        array.numpy().fill(0)
    return logits[:, 0]


def writes_earlier_results():
    kept = torch.empty(24)
    return lambda logits, target: torch.amax(logits, 1, out=kept)


@pytest.mark.parametrize("writes", [writes_logits, writes_targets, writes_unperturbed, writes_by_numpy])
def test_a_metric_writes_into_copies(writes):
    def moved(logits, target, unperturbed):
        return (logits - unperturbed).norm(dim=1) + (logits.argmax(1) == target)

    labels, others = Y.clone(), {"accuracy": "accuracy", "moved": moved}
    expected = probed(model(), (X, labels), others).response
    found = probed(model(), (X, labels), {"first": writes, **others}).response
    for name in others:
        np.testing.assert_array_equal(found[name], expected[name])
        assert found[f"unperturbed_{name}"] == expected[f"unperturbed_{name}"]
    assert torch.equal(labels, Y)


def test_a_metric_may_reuse_the_memory_of_its_results():
    metrics = {"kept": writes_earlier_results(), "new": lambda logits, target: logits.amax(1)}
    response = probed(model(), (X, Y), metrics).response
    np.testing.assert_array_equal(response.kept, response.new)
    assert len(np.unique(response.new)) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_targets_of_the_outputs_own_shape_keep_it(dtype):
    module, target = model(1), (2 * X[:, :1]).to(dtype)
    with torch.no_grad():
        expected = ((module(X) - target) ** 2).mean()
    metrics = {
        "mean": lambda output, target: F.mse_loss(output, target.float()),
        "items": lambda output, target: ((output - target) ** 2)[:, 0],
    }
    response = probed(module, (X, target), metrics, batch_size=7).response
    for name in metrics:
        np.testing.assert_allclose(response[f"unperturbed_{name}"], expected, rtol=1e-5)


# --- one number for a batch ---


def spread(logits, target):
    return logits.std(0).max()


def test_one_number_that_isnt_a_mean_doesnt_depend_on_memory():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 256), nn.GELU(), nn.Linear(256, 3))
    x = torch.randn(4000, 6)
    options = {"families": "scale", "levels": [0.5], "metrics": {"spread": spread}}
    with torch.no_grad():
        expected = float(module(x).std(0).max())
    whole = nz.probe(module, [x], "1", memory="60 MB", **options)
    assert whole.response.unperturbed_spread == pytest.approx(expected, rel=1e-6)
    assert whole.notes == []
    with pytest.raises(
        nz.InputError,
        match="'spread' returns one number that isn't known to be a mean over items, and memory holds ",
    ):
        nz.probe(module, [x], "1", memory="20 MB", **options)


def test_one_number_in_blocks_of_one_item_is_refused():
    """A single item can't tell whether the number is a mean."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 400_000), nn.GELU(), nn.Linear(400_000, 3))
    options = {"memory": "16 MB", "families": "scale", "levels": [0.5]}
    for metric in (lambda logits, target: float(logits.max()), lambda logits, target: float(logits.mean())):
        with pytest.raises(
            nz.InputError, match="isn't known to be a mean over items, and memory holds 1 of a batch"
        ):
            nz.probe(module, [X[:4]], "1", metrics={"own": metric}, **options)
    each = nz.probe(module, [X[:4]], "1", metrics={"own": lambda logits, target: logits.amax(1)}, **options)
    with torch.no_grad():
        assert each.response.unperturbed_own == pytest.approx(float(module(X[:4]).amax(1).mean()), rel=1e-5)


def test_one_number_that_isnt_a_mean_is_told_for_several_batches():
    metrics = {"spread": spread, "mean": lambda logits, target: float(logits[:, 0].mean())}
    result = probed(model(), (X, Y), metrics, batch_size=12)
    assert [row.what for row in result.assumptions if row.what.startswith("metric")] == ["metric spread"]
    (note,) = result.notes
    assert note.startswith("metric spread: one number for each batch, averaged over batches by their items")
    with torch.no_grad():
        halves = [float(model()(part).std(0).max()) for part in (X[:12], X[12:])]
    assert result.response.unperturbed_spread == pytest.approx(sum(halves) / 2, rel=1e-6)
    assert probed(model(), (X, Y), metrics).notes == []


def test_a_number_that_halves_cant_give_isnt_a_mean():
    def needs_all(logits, target):
        if len(logits) < 12:
            raise ValueError("too few items")
        return 1.0

    assert len(probed(model(), (X, Y), needs_all, batch_size=12).notes) == 1


def test_a_metric_that_remembers_is_refused():
    class Accumulates:
        def __init__(self):
            self.right = self.seen = 0

        def __call__(self, logits, target):
            self.right += int((logits.argmax(1) == target).sum())
            self.seen += len(target)
            return self.right / self.seen

    for metric in (Accumulates(), lambda logits, target: float(torch.rand(()))):
        with pytest.raises(nz.InputError, match="without random numbers or memory of earlier calls"):
            probed(model(), (X, Y), {"own": metric})


def test_a_metric_of_other_arguments_is_refused_before_any_work():
    for metric in (lambda logits: 0.0, lambda a, b, c, d: 0.0, lambda a, b, *, k: 0.0):
        with pytest.raises(
            nz.InputError,
            match=r"'own' must take \(logits, target\) or .*; it takes \(.*test_metrics.py, line \d+\)",
        ):
            nz.probe(nn.Identity(), [object()], metrics={"own": metric})


# --- labels as floating-point numbers ---


@pytest.mark.parametrize("shape", [(24,), (24, 1)])
@pytest.mark.parametrize("last", [None, nn.Sigmoid()])
def test_labels_as_floating_point_numbers_are_classes(shape, last):
    labels = Y.clamp(max=1)
    metrics = ["accuracy", "cross_entropy", "margin"]
    expected = probed(model(1, last), (X, labels), metrics).response
    found = probed(model(1, last), (X, labels.float().view(shape)), metrics, keep_items=True)
    for name in metrics:
        np.testing.assert_array_equal(found.response[name], expected[name])
    row = next(row for row in found.assumptions if row.what == "targets")
    assert (row.value, row.argument) == ("classes 0 and 1", "prepare=")
    assert not [row for row in probed(model(), (X, Y), metrics).assumptions if row.what == "targets"]
    np.testing.assert_array_equal(found.response.target, labels)


def test_several_labels_of_an_example_are_items():
    labels = torch.stack([Y > 0, Y > 1, Y < 2], 1).float()
    with torch.no_grad():
        expected = ((model()(X) > 0) == labels).float().mean()
    found = probed(model(), (X, labels), None)
    np.testing.assert_allclose(found.response.unperturbed_accuracy, expected, rtol=1e-6)
    assert found.response.attrs["items"] == 72

    def whole(logits, target):  # a metric of one's own gets the targets as they are
        return ((logits > 0) == target).float().mean(1)

    assert probed(model(), (X, labels), {"own": whole}).response.attrs["items"] == 24


def test_masks_of_zeros_and_ones():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    images, masks = torch.randn(6, 1, 5, 5), torch.randint(2, (6, 1, 5, 5)).float()
    with torch.no_grad():
        expected = ((module(images) > 0) == masks).float().mean()
    for target in (masks, masks[:, 0]):
        response = nz.probe(module, (images, target), "1", families="scale", levels=[0.5]).response
        np.testing.assert_allclose(response.unperturbed_accuracy, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_one_hot_targets_are_refused(dtype):
    one_hot = F.one_hot(Y, 3).to(dtype)
    with pytest.raises(
        nz.InputError, match=r"1 for one class each: give the classes, y\.argmax\(1\), or class_axis='none'"
    ):
        probed(model(), (X, one_hot), "accuracy")


def test_soft_labels_are_refused():
    soft = Y.clamp(max=1).float()
    soft[20] = 0.5
    with pytest.raises(
        nz.InputError, match="'accuracy' needs whole numbers as targets, the classes; got float32"
    ):
        probed(model(1), (X, soft.flip(0) / 2), "accuracy")
    with pytest.raises(
        nz.InputError, match="targets must be classes, whole numbers from 0 to 1; got float32"
    ):
        probed(model(1), (X, soft), "accuracy", batch_size=12)
    with pytest.raises(
        nz.InputError, match="whole numbers from 0 to 2; got float32, as only labels of two classes may"
    ):
        probed(model(), (X, Y.clamp(max=1).float()), "accuracy")


# --- sentences ---


def test_a_partial_needs_a_name():
    with pytest.raises(
        nz.InputError, match=r"can't be called 'partial'.*name it in a mapping: metrics=\{'name': \.\.\.\}"
    ):
        probed(model(), (X, Y), partial(top, k=2))


def test_only_predictions_count_as_wrong():
    options = {"families": "scale", "levels": [3e38]}
    for metrics, wrong in (({"own": lambda logits, target: logits[:, 0]}, False), ("accuracy", True)):
        (note,) = nz.probe(model(), (100 * X, Y), "1", metrics=metrics, **options).notes
        assert note.startswith("1: logits are NaN or infinite at 1 level")
        assert note.endswith(", which count as wrong") is wrong


def test_probabilities_of_labels_may_be_items():
    labels = torch.stack([Y > 0, Y > 1, Y < 2], 1).long()
    with pytest.raises(
        nz.InputError, match="or with class_axis='none' if each is the probability of a label of its own"
    ):
        probed(model(3, nn.Sigmoid()), (X, Y), "cross_entropy")
    with torch.no_grad():
        expected = F.binary_cross_entropy(model(3, nn.Sigmoid())(X), labels.float())
    response = probed(model(3, nn.Sigmoid()), (X, labels), "cross_entropy", class_axis="none").response
    np.testing.assert_allclose(response.unperturbed_cross_entropy, expected, rtol=1e-5)


def test_a_last_batch_of_one_that_is_squeezed():
    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = model(1)

        def forward(self, x):
            return self.body(x).squeeze()

    with pytest.raises(
        nz.InputError,
        match=r"dimension of the examples; got a single number for a batch of float32 \(1, 6\); keep the dimension",
    ):
        nz.probe(Squeezed(), [(X[:23], Y[:23] > 0), (X[23:], Y[23:] > 0)], levels=2)
