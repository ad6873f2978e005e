"""Models and layers that are hard or impossible to probe: handled, or refused in one line with the reason."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz

LEVELS = {"offset": [-0.4, 0.3], "scale": [0.5], "clip": [0.4]}


def rows(count: int = 12) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def logits_of(model, data, layer, **options) -> np.ndarray:
    """Return all logits at all levels, (family, level, item, class)."""
    metrics = {f"logit {place}": lambda logits, target, place=place: logits[:, place] for place in range(3)}
    response = nz.probe(
        model, data, layer, metrics=metrics, levels=LEVELS, keep_items=True, **options
    ).response
    return np.stack([response[f"{name}_items"].values[0] for name in metrics], axis=-1)


# --- the model ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: nn.Linear, "model must be a torch.nn.Module; got the class Linear; give an instance of it"),
        (lambda: "model.pt", "a model is named package.module:function or file.py:function; got 'model.pt'"),
        (lambda: mlp().state_dict(), "; if it is a state dict, load it into a module first"),
        (lambda: torch.jit.script(mlp()), "TorchScript module, inside of which nothing can be perturbed"),
        (lambda: torch.jit.trace(mlp(), rows(2)), "give the Python module that it was made from"),
        (lambda: mlp().to("meta"), "weights on the meta device, without values; load them first"),
        (
            lambda: nn.Sequential(nn.LazyLinear(3)),
            "lazy layers without weights; run it once on a batch first",
        ),
        (
            lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, device="meta")),
            "weights on the meta device",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_what_isnt_a_model_with_weights(made, message):
    with pytest.raises(nz.InputError, match=message):
        nz.probe(made(), rows())


class Gives(nn.Module):
    """A small network whose logits go through a function before they are returned."""

    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)
        self.function = function

    def forward(self, x):
        return self.function(self.last(self.act(self.first(x))))


class WithLogits:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "function",
    [
        lambda z: (z, (z * 2,), z.sum()),
        lambda z: [z],
        lambda z: {"logits": z, "loss": None},
        lambda z: {"out": z, "aux": z},
        lambda z: {"class_logits": z, "states": (z,)},
        WithLogits,
    ],
    ids=["tuple", "list", "logits", "out", "class_logits", "attribute"],
)
def test_logits_in_what_a_model_returns(function):
    plain = logits_of(Gives(lambda z: z), rows(), "act")
    np.testing.assert_array_equal(logits_of(Gives(function), rows(), "act"), plain)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: {"pred": z}, r"returns dict with pred, in which no logits are found; give output=\.\.\."),
        (
            lambda z: {"start_logits": z, "end_logits": z},
            "returns dict with start_logits, end_logits, in which",
        ),
        (
            lambda z: [z, 2 * z],
            r"several outputs that may be the logits: 0: float32 of shape \(2, 3\), 1: .*output=",
        ),
        (lambda z: [{"boxes": z}], "returns list of dict, in which no logits are found"),
        (lambda z: (), "returns tuple of nothing"),
        (lambda z: None, "returns NoneType, in which no logits are found"),
        (lambda z: z.argmax(1), r"floating-point numbers; got int64 of shape \(2,\); give output="),
        (lambda z: torch.fft.fft(z), r"floating-point numbers; got complex64 of shape \(2, 3\)"),
        (lambda z: z.sum(), r"got a single number for a batch of float32 \(\d+, 6\); .* or give output="),
    ],
)
def test_what_a_model_returns_without_logits(function, message):
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Gives(function), rows(), "act")


def test_output_takes_them_out():
    model = Gives(lambda z: {"pred": z})
    logits = logits_of(model, rows(), "act", output=lambda out: out["pred"])
    np.testing.assert_array_equal(logits, logits_of(Gives(lambda z: z), rows(), "act"))


class Fails(Gives):
    def forward(self, x):
        raise RuntimeError("no\nmore lines" if len(x) < 3 else "words " * 90)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (
            mlp,
            torch.randn(4, 5),
            r"can't be run on a batch of float32 \(2, 5\): .*; prepare=... makes what it takes",
        ),
        (mlp, torch.randn(4, 6, 7), r"batch of float32 \(2, 6, 7\)"),
        (lambda: mlp().half(), torch.randn(4, 5), r"batch of float32 \(2, 5\)"),
        (
            lambda: Fails(None),
            torch.randn(4, 6),
            r"batch of float32 .*: no \(.*test_refusals.py, line \d+\); prepare",
        ),
        (lambda: Fails(None), torch.randn(3, 6)[2:].expand(9, 6), r"no \(.*, line \d+\); prepare"),
        (lambda: nn.Embedding(4, 3), torch.tensor([[9, 9]]), "index out of range in self"),
    ],
)
def test_a_model_that_cant_be_run_on_the_data(model, data, message):
    with pytest.raises(nz.InputError, match=message) as caught:
        nz.layers(model(), data)
    assert "\n" not in str(caught.value)


def test_a_long_reason_is_cut():
    class Long(nn.Module):
        def forward(self, x):
            raise RuntimeError("word " * 200)

    with pytest.raises(nz.InputError) as caught:
        nz.layers(Long(), rows())
    assert len(str(caught.value)) < 400
    assert "word ... (" in str(caught.value)


# --- naming a layer -------------------------------------------------------------------------------------------------


class Parts(nn.Module):
    """Parts that can be probed, and parts that can't."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
        self.rnn, self.pool, self.unused = nn.GRU(8, 8, batch_first=True), nn.Identity(), nn.Linear(8, 8)
        self.borrowed, self.head, self.same = nn.Linear(8, 8), nn.Linear(8, 3), self.encoder[2]
        self.count = nn.Embedding(3, 1)

    def forward(self, x):
        x = F.gelu(self.encoder(x))
        x = F.linear(x, self.borrowed.weight)
        x = self.pool(self.rnn(x[:, None])[0][:, 0])
        return self.head(x)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "encoder.3",
            r"there is no layer 'encoder.3': did you mean 'encoder\.\d'\? the layers are encoder\.0, ",
        ),
        ("encodr.1", r"did you mean 'encoder\.1'\?"),
        (
            "decoder.*",
            r"no layer matches 'decoder\.\*'; the layers are encoder\.0, encoder\.1, encoder\.2, :gelu, ",
        ),
        (
            "rnn",
            r"no layer 'rnn': rnn \(GRU\) returns several tensors; name one of them: rnn\[0\], rnn\[1\]",
        ),
        ("unused", r"layer 'unused' isn't called in a forward pass, so nothing can be perturbed there"),
        (
            "borrowed",
            r"isn't called in a forward pass, .*\(its weights may be used directly\); layers that are: ",
        ),
        ("same", r"layer 'same' is known as encoder\.2"),
        ("", r"layer '' \(Parts\) can't be probed"),
        (3, r"layers must be names or globs, at least one, or None for all activations; got 3"),
        ([], r"layers must be names or globs, at least one, or None for all activations; got \[\]"),
        (["encoder.1", 4], r"layers must be names or globs"),
    ],
)
def test_a_name_that_stands_for_no_layer(name, message):
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Parts(), rows(), name)


def test_a_side_that_there_isnt():
    (layer, *_) = nz.layers(mlp(), rows())
    with pytest.raises(
        nz.InputError, match="unknown side 'pots': did you mean 'post'\\? known are pre, post"
    ):
        layer.place("pots")


def test_names_globs_and_layers_stand_for_layers():
    model = Parts()
    by_name = {each.name: each for each in nz.layers(model, rows())}
    assert list(by_name) == ["encoder.0", "encoder.1", "encoder.2", ":gelu", "head"]
    assert [by_name[name].activation for name in by_name] == ["relu", "relu", "gelu", "gelu", None]

    def probed(layers):
        return nz.probe(model, rows(), layers, levels=1).layers

    assert probed(None) == ["encoder.1", ":gelu"]
    assert probed("encoder.*") == ["encoder.0", "encoder.1", "encoder.2"]
    assert probed(["head", "*gelu", "encoder.1"]) == ["encoder.1", ":gelu", "head"]
    assert probed(["encoder.[02]", by_name["head"]]) == ["encoder.0", "encoder.2", "head"]


@pytest.mark.parametrize("name", ["lstm", "GRU"])
def test_a_recurrent_classifier_has_layers_beside_the_recurrent_one(name):
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(nn, name.upper())(6, 8, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    data = torch.randn(5, 4, 6)
    assert [each.name for each in nz.layers(Classifier(), data)] == ["head"]
    message = (
        "no activation was found in a forward pass; name layers whose output is a pre-activation; the layers"
    )
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Classifier(), data)
    with pytest.raises(nz.InputError, match="nor any linear, convolution or normalization layer"):
        nz.probe(nn.Softmax(1), data)


class Ragged(nn.Module):
    """A network with a layer of nested, sparse or integer values."""

    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.first, self.last = kind, nn.Linear(6, 8), nn.Linear(8, 3)
        self.middle = Passes(kind)

    def forward(self, x):
        if self.kind == "nested":
            x = torch.nested.as_nested_tensor([x[:1], x[1:]], layout=torch.jagged)
            return self.last(self.middle(F.relu(self.first(x))).values())
        z = F.relu(self.first(x))
        return self.last(self.middle(z).to_dense().to(z.dtype))


class Passes(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        return {"nested": lambda: x, "sparse": x.to_sparse, "whole": x.int}[self.kind]() if x.ndim else x


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("nested", "first", "it gives jagged of shape .*, no units to perturb"),
        ("sparse", "middle", r"it gives sparse_coo of shape \(2, 8\), no units to perturb"),
        ("whole", "middle", r"it gives int32 of shape \(2, 8\), no units to perturb"),
    ],
)
def test_values_without_units(kind, layer, message):
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Ragged(kind), rows(), layer)
    assert nz.probe(Ragged(kind), rows(), "last", levels=2).layers == ["last"]


# --- units ----------------------------------------------------------------------------------------------------------


class Turned(nn.Module):
    """Activations with their units on different dimensions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.conv1 = nn.Conv2d(2, 4, 1), nn.Conv1d(4, 5, 1)
        self.tokens, self.head, self.act = nn.Linear(5, 6), nn.Linear(6, 3), nn.ReLU()

    def forward(self, x):  # (N, 2, 3, 3)
        x = self.act(self.conv(x))  # units on 1
        x = self.act(x.permute(0, 2, 3, 1) + 0.0)  # on 3
        x = self.act(self.conv1(x.flatten(1, 2).transpose(1, 2)))  # (N, 5, 9): on 1
        x = self.act(self.tokens(x.transpose(1, 2)))  # (N, 9, 6): on 2
        x = self.act(x.transpose(0, 1) + 0.0)  # (9, N, 6): on 2
        return self.head(self.act(x.mean(0).unsqueeze(1).squeeze_(1)))  # (N, 6): on 1


def test_where_the_units_are():
    data = torch.randn(5, 2, 3, 3)
    axes = [(each.unit_axis, each.units) for each in nz.layers(Turned(), data) if each.kind == "activation"]
    assert axes == [(1, 4), (3, 4), (1, 5), (2, 6), (2, 6), (1, 6)]


@pytest.mark.parametrize(("axis", "units"), [(1, 4), (2, 3), (-1, 3)])
def test_units_that_the_user_names(axis, units):
    data = torch.randn(5, 2, 3, 3)
    response = nz.probe(Turned(), data, "conv", unit_axis=axis, levels=2).response
    assert (int(response.units[0]), int(response.unit_axis[0])) == (units, axis % 4)


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        (0, r"unit_axis=0 isn't a dimension of units of layer 'conv', whose values are \(2, 4, 3, 3\)"),
        (4, "unit_axis=4 isn't a dimension"),
        (-5, "unit_axis=-5 isn't a dimension"),
        (True, "unit_axis must be a whole number, a dimension; got True"),
        ("1", "unit_axis must be a whole number, a dimension; got '1'"),
    ],
)
def test_a_dimension_that_cant_be_of_units(axis, message):
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Turned(), torch.randn(5, 2, 3, 3), "conv", unit_axis=axis)


def test_units_that_change_in_number():
    class Grows(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.weight = nn.ReLU(), nn.Parameter(torch.randn(9, 3))

        def forward(self, x):
            return self.act(x) @ self.weight[: x.shape[1]]

    message = r"layer 'act' has 6 units on the first examples and 7 on others, whose values are \(4, 7\); unit_axis="
    with pytest.raises(nz.InputError, match=message):
        nz.probe(Grows(), [torch.randn(4, 6), torch.randn(4, 7)], "act")


def test_an_activation_that_is_named_or_given():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.first(x).clamp(min=0))

    model = Own()
    (first, _) = nz.layers(model, rows())
    assert first.activation is None
    plain = nz.Conduct()
    unknown = nz.probe(model, rows(), "first", levels=2, conduct=nz.Conduct(offset="shift", range="pre"))
    assert unknown.response.activation.item() == "none"
    by_name = logits_of(model, rows(), "first", activation="relu", conduct=plain)
    given = logits_of(model, rows(), "first", activation=torch.relu, conduct=plain)
    module = nn.Sequential(model.first, nn.ReLU(), model.last)
    np.testing.assert_array_equal(by_name, given)
    np.testing.assert_array_equal(by_name, logits_of(module, rows(), "0", conduct=plain))
    with pytest.raises(nz.InputError, match="unknown activation 'rlu'"):
        nz.probe(model, rows(), "first", activation="rlu")
    with pytest.raises(nz.InputError, match=r"layer '1' is the input of relu itself; leave it out, or name"):
        nz.probe(mlp(), rows(), activation="gelu")
    with pytest.raises(nz.InputError, match="must keep the shape of its values"):
        nz.probe(model, rows(), "first", activation=lambda z: z[:, :2])
    with pytest.raises(
        nz.InputError,
        match="clip=post, cap and floor act after the activation, whose place in the model isn't",
    ):
        nz.probe(model, rows(), "first", activation="relu", conduct=nz.Conduct(clip="post"))
    with pytest.raises(nz.InputError, match="layer '3': offset=as-run isn't defined for tanh"):
        nz.probe(mlp(), rows(), "3", conduct=plain)


# --- nothing is changed ---------------------------------------------------------------------------------------------


def all_of(model) -> tuple:
    tensors = [(name, id(each), each.clone()) for name, each in model.state_dict(keep_vars=True).items()]
    modules = [
        (
            each.training,
            {name: dict(own) for name, own in each.__dict__.items() if "_hooks" in name},
            sorted(each.__dict__),
        )
        for each in model.modules()
    ]
    return tensors, modules, torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002


def assert_unchanged(before, model) -> None:
    after = all_of(model)
    for (name, known, value), (_, now, other) in zip(before[0], after[0], strict=True):
        assert known == now, name
        assert value.detach().numpy().tobytes() == other.detach().numpy().tobytes(), name
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])
    assert before[3:] == after[3:]


def noisy() -> nn.Sequential:
    """Return a network with batch normalization and dropout, in training mode except for the dropout."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    model[1].running_mean.normal_()
    model[3].eval()
    return model.requires_grad_(False)


def test_training_mode_is_left_and_comes_back():
    model = noisy()
    before = all_of(model)
    logits = logits_of(model, rows(), "2")
    assert_unchanged(before, model)
    assert [each.training for each in model] == [True, True, True, False, True]
    np.testing.assert_array_equal(logits, logits_of(noisy().eval(), rows(), "2"))


class Stops(Exception):
    pass


@pytest.mark.parametrize("kind", ["metric", "keyboard", "data", "prepare", "output", "advanced"])
def test_after_an_exception_all_is_as_before(kind):
    model, calls = noisy(), 0
    error = KeyboardInterrupt if kind == "keyboard" else Stops

    def raises(*_):
        nonlocal calls
        calls += 1
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(())
        if calls > 4:
            raise error
        return _[0] if _ else None

    def batches():
        for part in rows().split(1):
            yield raises(part)

    def metric(logits, target):
        raises()
        return logits[:, 0]

    def took(examples):
        raise error

    options = {
        "metric": {"metrics": metric},
        "keyboard": {"metrics": metric},
        "data": {},
        "output": {"output": raises},
        "prepare": {"prepare": lambda item: (raises(item[0]), None, None)},
        "advanced": {"advanced": took},
    }[kind]
    data = (
        batches()
        if kind == "data"
        else torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows()), 4)
    )
    before = all_of(model)
    with pytest.raises(error):
        nz.probe(model, data, "2", levels=3, **options)
    if kind == "data":  # the generator runs outside of the probe, as the user's own code
        before = (*before[:2], *all_of(model)[2:])
    assert_unchanged(before, model)


class Remembers(nn.Module):
    """Keeps its results in lists and mappings, and sets a hook in its first pass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)
        self.seen, self.cache, self.sizes, self.hooked = [], {"deep": []}, set(), False

    def forward(self, x):
        if not self.hooked:
            self.hooked = True
            self.act.register_forward_hook(lambda module, args, output: output + len(self.seen))
        self.sizes.add(len(x))
        self.cache["deep"].append(x)
        self.cache[len(x)] = x
        out = self.last(self.act(self.first(x)))
        self.seen.append(out)
        return out


def test_what_a_model_remembers_in_a_pass_is_forgotten():
    model = Remembers()
    seen, cache, sizes = model.seen, model.cache, model.sizes
    before = all_of(model)
    suffix, full = (
        logits_of(model, rows(), "first", method=method, batch_size=5) for method in ("suffix", "full")
    )
    np.testing.assert_array_equal(suffix, full)
    assert_unchanged(before, model)
    assert model.seen is seen == []
    assert model.cache is cache == {"deep": []}
    assert model.sizes is sizes == set()
    assert model.hooked is False
    plain = logits_of(nn.Sequential(model.first, nn.ReLU(), model.last), rows(), "0", batch_size=5)
    np.testing.assert_array_equal(full, plain)  # as in a first pass, with an empty list


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_other_precisions(dtype):
    model, data = mlp().to(dtype), rows()
    before = all_of(model.float() if dtype == torch.bfloat16 else model)
    model = model.to(dtype)
    result = nz.probe(
        model, (data, torch.zeros(len(data), dtype=torch.long)), "1", levels=LEVELS, keep_items=True
    )
    assert result.response.attrs["items"] == len(data)
    given = logits_of(model, data.to(dtype), "1", method="full")
    np.testing.assert_array_equal(logits_of(model, data, "1"), given)
    exact = logits_of(mlp().double(), data.double(), "1")
    slack = {torch.float16: 5e-3, torch.bfloat16: 5e-2, torch.float64: 1e-6}[dtype]
    np.testing.assert_allclose(given, exact, atol=slack * np.abs(exact[np.isfinite(exact)]).max())
    assert len(before[0]) == 6


def test_a_compiled_model_runs_uncompiled_and_stays_compiled():
    plain, compiled, part = mlp(), torch.compile(mlp(), backend="eager"), mlp()
    part.compile(backend="eager")
    part[2] = torch.compile(part[2], backend="eager")
    expected = logits_of(plain, rows(), "1")
    np.testing.assert_array_equal(logits_of(compiled, rows(), "1"), expected)
    np.testing.assert_array_equal(logits_of(part, rows(), "1"), expected)
    assert type(compiled).__name__ == "OptimizedModule"
    assert [each.name for each in nz.layers(part, rows())] == ["0", "1", "2", "3", "4"]
