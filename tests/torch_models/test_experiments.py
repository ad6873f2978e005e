"""Experiments before any number: what the examples are, whether a pass repeats, and what it changes."""

from __future__ import annotations

import itertools
import random
import threading
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz
from nearzero.torch_models.data import MemoryBudget
from nearzero.torch_models.forward import greatest

LOGITS = {"logit": lambda logits, target: logits[:, 1]}


class Base(nn.Module):
    """Linear, GELU, Linear; a subclass does something after the activation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.b = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.after(self.act(self.a(x))))

    def after(self, h):
        return h


X = torch.randn(24, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(24) % 3


def probed(model, data, **options) -> nz.ProbeResult:
    defaults = {"families": "scale", "levels": [0.5], "metrics": LOGITS, "keep_items": True}
    return nz.probe(model, data, **{"layers": "act", **defaults, **options})


def by_hand(model, x, scale=0.5) -> np.ndarray:
    """Return the logits of class 1 with the pre-activations scaled by a hook."""
    with model.act.register_forward_pre_hook(lambda _, args: (scale * args[0],)):
        logits = model(x)
    return logits.detach().reshape(-1, 3)[:, 1].numpy()


def items(result, name="logit_items") -> np.ndarray:
    return result.response[name].values.ravel()


def row(result, what) -> str:
    (found,) = [each for each in result.assumptions if each.what == what]
    assert found.source
    assert found.argument.endswith("=")
    return found.value


@pytest.fixture
def small_blocks(monkeypatch):
    """Let two examples fit in memory at a time."""
    monkeypatch.setattr(MemoryBudget, "rows", lambda *_: 2)


# --- what the examples are ---


class TokensFirst(Base):
    """A recurrent network on (S, B, 6) that gives logits for each sequence, or for each token."""

    def __init__(self, each_token):
        super().__init__()
        self.recurrent, self.each_token = nn.GRU(8, 8), each_token

    def after(self, h):
        h = self.recurrent(h)[0]
        return h if self.each_token else h[-1]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("length", [5, 6])
@pytest.mark.parametrize("each_token", [False, True])
def test_a_model_that_takes_tokens_first(each_token, length):
    model, x = TokensFirst(each_token), torch.randn(length, 6, 6)
    right = by_hand(model, x)
    result = probed(model, [x])
    assert row(result, "cuts of batches") == "as memory allows, along dimension 1 of the inputs"
    assert result.response.attrs["examples"] == 6
    expected = right.reshape(length, 6).T.ravel() if each_token else right
    np.testing.assert_allclose(items(result), expected, rtol=1e-4, atol=1e-6)
    whole = probed(model, [x], batch_axis="none")
    assert row(whole, "cuts of batches") == "not cut"
    np.testing.assert_array_equal(np.sort(items(whole)), np.sort(right))


class BatchStatistics(Base):
    def after(self, h):
        return h - h.mean(0)


@pytest.mark.usefixtures("small_blocks")
def test_a_batch_whose_examples_depend_on_each_other_isnt_cut():
    model = BatchStatistics()
    result = probed(model, X)
    assert row(result, "cuts of batches") == "not cut"
    np.testing.assert_array_equal(items(result), by_hand(model, X))
    cut = probed(model, X, batch_axis=0)
    assert row(cut, "cuts of batches") == "as memory allows, along dimension 0 of the inputs"
    np.testing.assert_allclose(items(cut)[:2], by_hand(model, X[:2]), rtol=1e-5)


class WholeBatches(TokensFirst):
    """The same, of a batch that can't be cut: by its statistics, or by random numbers that are hardly ever felt."""

    def __init__(self, each_token, drawn):
        super().__init__(each_token)
        self.drawn = drawn

    def after(self, h):
        h = super().after(h)
        return F.dropout(h, 1e-9, training=True) if self.drawn else h - 0.5 * h.mean(-2, keepdim=True)


@pytest.mark.parametrize("length", [5, 6])
@pytest.mark.parametrize("drawn", [False, True], ids=["statistics", "random numbers"])
@pytest.mark.parametrize("each_token", [False, True])
def test_the_examples_of_a_batch_that_cant_be_cut_are_found(each_token, drawn, length):
    model, x = WholeBatches(each_token, drawn), torch.randn(length, 6, 6)
    right = by_hand(model, x)
    result = probed(model, [x])
    assert row(result, "cuts of batches") == "not cut, along dimension 1 of the inputs"
    assert result.response.attrs["examples"] == 6
    expected = right.reshape(length, 6).T.ravel() if each_token else right
    np.testing.assert_allclose(items(result), expected, rtol=1e-5, atol=1e-6)


def test_targets_of_as_many_examples_as_tokens():
    model, x = TokensFirst(True), torch.randn(6, 6, 6)
    y = model(x).argmax(-1)
    settings = {"metrics": "accuracy", "keep_items": False}
    with pytest.raises(
        nz.InputError, match=r"may have examples or tokens first; .* prepare=.* batch_axis='none'"
    ):
        probed(model, [(x, y)], **settings)
    for given in ({"batch_axis": "none"}, {"prepare": lambda item: (x, y.t(), None)}):
        assert probed(model, [(x, y)], **settings, **given).response.unperturbed_accuracy == 1


def test_as_many_examples_as_tokens_where_no_experiment_tells():
    class Both(WholeBatches):
        def after(self, h):
            h = F.dropout(super().after(h), 0.3, training=True)
            return h - 0.5 * h.mean(-2, keepdim=True)

    model, x = Both(True, False), torch.randn(6, 6, 6)
    y = torch.arange(36).view(6, 6) % 3
    settings = {"metrics": "accuracy", "keep_items": False, "prepare": lambda item: (x, y, None)}
    with pytest.raises(
        nz.InputError, match=r"isn't known whether examples or tokens come first .* batch_axis="
    ):
        probed(model, [x], **settings)
    assert probed(model, [x], batch_axis="none", **settings).response.attrs["items"] == 36


def test_targets_whose_first_dimension_is_that_of_outputs_arent_taken_for_tokens_first():
    """Each token has three numbers with targets of their own; attention can't tell examples from tokens."""

    class Numbers(Base):
        def after(self, h):
            return h + (h @ h.transpose(1, 2)).softmax(-1) @ h

        def forward(self, x):
            return super().forward(x).permute(2, 0, 1)

    model, x = Numbers(), torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(2))
    y = (model(x) > 0).long()
    y[0, :, 1:] = 0  # some targets that the model doesn't predict
    right = ((model(x) > 0) == y).double().mean()
    settings = {"metrics": "accuracy", "keep_items": False}
    with pytest.raises(nz.InputError, match=r"isn't known whether examples or tokens come first .* prepare="):
        probed(model, [(x, y)], **settings)
    prepared = probed(
        model, [(x, y)], prepare=lambda item: (item[0], item[1].movedim(1, 0), None), **settings
    )
    assert prepared.response.unperturbed_accuracy.item() == pytest.approx(right.item())


def test_logits_without_the_examples_first_are_refused_where_no_experiment_tells():
    class Turned(Base):
        def after(self, h):
            return torch.randn(h.shape) + h - h.mean(0)

        def forward(self, x):
            return super().forward(x).t()

    with pytest.raises(nz.InputError, match=r"\(3, 10\) .* don't have the examples first; give output="):
        probed(Turned(), X[:10])
    given = probed(Turned(), X[:10], output=lambda logits: logits.t())
    assert given.response.attrs["items"] == 10


class Turning(Base):
    """Takes (B, S, 6) and returns (S, B, 3)."""

    def forward(self, x):
        return super().forward(x).transpose(0, 1)


def test_targets_of_either_order_where_the_logits_alone_have_the_tokens_first():
    model, settings = Turning(), {"metrics": "accuracy", "keep_items": False}
    x = torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(2))
    y = model(x).argmax(-1)  # in the order of the logits
    y[0] = (y[0] + 1) % 3
    with pytest.raises(nz.InputError, match=r"may have examples or tokens first, since .* batch_axis='none'"):
        probed(model, [(x, y)], **settings)
    for given in ({"batch_axis": "none"}, {"prepare": lambda item: (item[0], y.t(), None)}):
        assert probed(
            model, [(x, y)], **settings, **given
        ).response.unperturbed_accuracy.item() == pytest.approx(5 / 6)


def test_the_examples_of_a_batch_with_a_cache_are_looked_for_in_the_logits():
    class Cached(Base):
        def forward(self, x, cache):
            return super().forward(x + cache.seen.mean()).t()

    data = [{"x": X[:10], "cache": SimpleNamespace(seen=torch.ones(10, 2))}]
    with pytest.raises(nz.InputError, match=r"\(3, 10\) .* don't have the examples first; give output="):
        probed(Cached(), data)
    given = probed(Cached(), data, output=lambda logits: logits.t())
    np.testing.assert_array_equal(items(given), by_hand_cached(Cached(), data[0]))


def by_hand_cached(model, batch):
    with model.act.register_forward_pre_hook(lambda _, args: (0.5 * args[0],)):
        return model(**batch).t().detach()[:, 1].numpy()


@pytest.mark.usefixtures("small_blocks")
def test_where_memory_holds_two_examples_more_of_them_are_tried():
    """All examples depend on the first of the batch, and the first and the last, which are tried first, are equal."""

    class Neighbours(Base):
        def after(self, h):
            return h - h[:1, :1]

    model = Neighbours()
    x = X[:8].clone()
    x[-1] = x[0]
    result = probed(model, [x])
    assert row(result, "cuts of batches").startswith("not cut")
    np.testing.assert_array_equal(items(result), by_hand(model, x))


class Squeezed(Base):
    def forward(self, x):
        return super().forward(x).squeeze()


def test_a_model_that_drops_the_dimension_of_a_single_example(small_blocks):
    model = Squeezed()
    np.testing.assert_array_equal(items(probed(model, X[:5])), by_hand(model, X[:5]))
    with pytest.raises(nz.InputError, match="drops one for a single example, give batches of several"):
        probed(model, X, batch_size=23)
    with pytest.raises(nz.InputError, match=r"the logits \(3,\) .* aren't those of 1 example;"):
        probed(model, X, batch_size=1)


class Images(nn.Module):
    def __init__(self, dense):
        super().__init__()
        self.a, self.act = nn.Conv2d(3, 4, 3, padding=1), nn.GELU()
        self.b = nn.Conv2d(4, 5, 1) if dense else nn.Sequential(nn.Flatten(-3), nn.Linear(256, 5))

    def forward(self, x):
        return self.b(self.act(self.a(x)))


@pytest.mark.parametrize("dense", [False, True])
def test_single_images_arent_batches(dense):
    x = torch.randn(4, 3, 8, 8)
    assert nz.probe(Images(dense), x, levels=1).response.attrs["items"] == (256 if dense else 4)
    with pytest.raises(
        nz.InputError, match=r"aren't those of 3 examples; if an item .* DataLoader.* batch_axis"
    ):
        nz.probe(Images(dense), list(x), levels=1)


# --- what a pass changes ---


class Slots:
    __slots__ = ("late", "n")

    def __init__(self):
        self.n = 0


class Stateful(Base):
    """A model whose pass depends on how many there were; `state` is its place for that, `step` counts on."""

    def __init__(self, state, step):
        super().__init__()
        self.state, self.step = state, step

    def after(self, h):
        return h * (1 + 0.2 * self.step(self.state))


def counted(state):
    state.n += 1
    state.late = state.n
    return state.n


def written(tensor):
    tensor.data.add_(1)
    return float(tensor[0])


def grown(values):
    values.append(1)
    return len(values)


def drawn(generator):
    return float(generator.normal())


STATES = {
    "object": (lambda: SimpleNamespace(n=0, late=0), counted, "state.n"),
    "slots": (Slots, counted, "state.late"),
    "tensor": (lambda: torch.zeros(2), lambda tensor: float(tensor.add_(1)[0]), "state"),
    "tensor, by .data": (lambda: torch.zeros(2), written, "state"),
    "tensor in a dict": (lambda: {"x": torch.zeros(2)}, lambda held: written(held["x"]), "state['x']"),
    "array": (lambda: np.zeros(2), lambda array: float(np.add(array, 1, out=array)[0]), "state"),
    "list in a tuple": (lambda: ([],), lambda held: grown(held[0]), "state[0]"),
    "NumPy's generator": (lambda: np.random.default_rng(0), drawn, "state"),
    "Python's generator": (lambda: random.Random(0), lambda generator: generator.random(), "state"),
}


@pytest.mark.parametrize("method", ["auto", "full"])
@pytest.mark.parametrize("name", STATES)
def test_state_that_a_pass_changes_is_put_back(name, method):
    make, step, place = STATES[name]
    right = by_hand(Stateful(make(), step), X)
    model = Stateful(make(), step)
    result = probed(model, [X[:12], X[:12]], method=method, levels=[0.5, 0.7])
    np.testing.assert_array_equal(result.response.logit_items.values[0, 0, 0], [*right[:12], *right[:12]])
    assert row(result, "state that a pass changes").startswith(place)
    assert step(model.state) == step(make())
    assert row(probed(Base(), X), "state that a pass changes") == "none"


def test_state_that_cant_be_put_back_is_refused():
    model = Stateful(itertools.count(), next)
    with pytest.raises(nz.InputError, match=r"a second pass .* gives other logits .* can't be put back"):
        probed(model, X)


class Cache:
    """Keys of earlier tokens, as a key-value cache holds them."""

    def __init__(self, seen):
        self.seen = seen

    def update(self, h):
        self.seen = torch.cat([self.seen, h], 1)
        return self.seen


class Locked(Cache):
    """A cache that can't be copied."""

    def __init__(self, seen):
        super().__init__(seen)
        self.lock = threading.Lock()


class Cached(Base):
    def forward(self, x, cache):
        h = self.act(self.a(x))
        return self.b(h + cache.update(h).mean(1, keepdim=True))


@pytest.mark.parametrize("method", ["auto", "full"])
def test_a_cache_among_the_inputs_is_as_it_was_in_every_pass(method):
    model, seen = Cached(), torch.randn(4, 3, 8, requires_grad=True) * 1  # as made without no_grad
    x, cache = X.view(4, 6, 6), Cache(seen)
    with model.act.register_forward_pre_hook(lambda _, args: (0.5 * args[0],)):
        right = model(x, Cache(seen)).detach().view(-1, 3)[:, 1]
    result = probed(model, [{"x": x, "cache": cache}] * 2, method=method)
    np.testing.assert_array_equal(items(result), [*right, *right])
    assert cache.seen is seen
    locked = Locked(seen)
    with pytest.raises(nz.InputError, match=r"changes its input 'cache.*which can't be copied"):
        probed(model, [{"x": x, "cache": locked}])
    assert locked.seen is seen


class WritesLater(Base):
    def forward(self, x):
        return super().forward(x.mul_(2) if len(x) == 7 else x)


@pytest.mark.parametrize("method", ["auto", "full"])
def test_a_model_that_writes_into_a_later_batch_gets_copies(method):
    batches = [X[:8].clone(), X[8:15].clone()]
    found = probed(WritesLater(), batches, method=method)
    right = probed(Base(), [X[:8], 2 * X[8:15]], method=method)
    np.testing.assert_array_equal(items(found), items(right))
    np.testing.assert_array_equal(found.response.unit_maximum, right.response.unit_maximum)
    assert torch.equal(batches[1], X[8:15])


class WritesContainers(Base):
    """Adds the mean of the batch to what a dict holds, and counts its passes in a list."""

    def forward(self, x, state, passes):
        h = self.act(self.a(x))
        state["h"] = state.get("h", 0) + h.mean(0)
        passes.append(len(passes))
        return self.b(h + len(passes) * state["h"])


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize("before", [{}, {"h": torch.full((8,), 0.5)}], ids=["empty", "filled"])
@pytest.mark.parametrize("method", ["auto", "full"])
def test_containers_in_a_batch_are_as_they_were_in_every_pass(kind, before, method):
    model, state, passes = WritesContainers(), kind(before), []
    with torch.no_grad(), model.act.register_forward_pre_hook(lambda _, args: (0.5 * args[0],)):
        right = model(X, kind(before), [])[:, 1]
    result = probed(model, [{"x": X, "state": state, "passes": passes}] * 2, method=method)
    np.testing.assert_array_equal(items(result), [*right, *right])
    assert state == before
    assert passes == []


# --- random numbers ---


class Drawing(Base):
    def __init__(self, after):
        super().__init__()
        self.after = after


def branching(h):
    return h * 0 if torch.rand([]) < 0.001 else h


def unused(h):
    torch.rand([])
    return h


RANDOM = {
    "bernoulli": (lambda h: h * h.new_empty(len(h), 1).bernoulli_(0.7), "aten::bernoulli_", "full"),
    "rare": (lambda h: F.dropout(h, 1e-6, training=True), "aten::bernoulli_", "full"),
    "noise": (lambda h: h + torch.randn(8), "aten::randn", "suffix"),
    "own": (
        lambda h: h + torch.randn(8, generator=torch.Generator().manual_seed(1)),
        "aten::randn",
        "suffix",
    ),
    "branch": (branching, "aten::rand", "suffix"),
    "NumPy": (lambda h: h * (np.random.rand() > 0.001), "NumPy", "full"),  # noqa: NPY002
    "Python": (lambda h: h * (random.random() > 0.001), "Python", "full"),
    "unused": (unused, "none", "suffix"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_the_same_at_every_level(name):
    after, source, method = RANDOM[name]
    result = probed(Drawing(after), X, layers="act", levels=[0.5, 1 - 1e-7, 1.0], batch_size=12)
    assert row(result, "random numbers").partition(",")[0] == source
    assert result.response.method.item() == method
    _, near, same = result.response.logit_items.values[0, 0]
    np.testing.assert_allclose(near, same, atol=1e-5)
    full = probed(Drawing(after), X, method="full", levels=[0.5, 1 - 1e-7, 1.0], batch_size=12)
    np.testing.assert_array_equal(full.response.logit_items, result.response.logit_items)
    assert row(result, "cuts of batches").startswith("as" if source == "none" else "not cut")


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
@pytest.mark.parametrize("passes", [{1}, {1, 2}, {2, 3, 4}])
def test_what_other_threads_draw_is_not_the_models(draw, passes):
    """They draw during some passes only, as those of a Dask worker do."""
    count = itertools.count(1)

    def after(h):
        if next(count) in passes:
            thread = threading.Thread(target=draw)
            thread.start()
            thread.join()
        return h

    result = probed(Drawing(after), X, layers="act", levels=[0.5], batch_size=12)
    assert row(result, "random numbers") == "none"
    assert row(result, "cuts of batches").startswith("as memory allows")


def test_a_generator_without_a_seed_that_hardly_ever_matters_is_found_in_full_passes():
    """A twentieth of the examples is drawn anew in every pass; the few of the experiments may not show it."""

    class Fresh(Base):
        def after(self, h):
            drawn = np.random.default_rng().random((len(h), 1)) > (0.05 if len(h) > 8 else 0)
            return h * torch.from_numpy(drawn)

    x = X.repeat(20, 1)
    with pytest.raises(
        nz.InputError, match="a second pass of the model on the same batch gives other logits"
    ):
        probed(Fresh(), x, method="full")


# --- full passes with gradients and in threads ---


class Forces(Base):
    """Minus the gradient of an energy, with a second path to the inputs that needs no layer."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = (self.b(self.act(self.a(x)))[:, 0] + x.square().sum(1)).sum()
            return -torch.autograd.grad(energy, x)[0][:, :3]


class Graded(Base):
    @torch.enable_grad()
    def forward(self, x):
        return super().forward(x)


class Inference(Base):
    @torch.inference_mode()
    def forward(self, x):
        return super().forward(x)


class Threaded(Base):
    def after(self, h):
        results = []
        thread = threading.Thread(target=lambda: results.append(self.act(self.a(X[: len(h)])) + h * 0 + h))
        thread.start()
        thread.join()
        return results[0]


@pytest.mark.parametrize("method", ["auto", "full"])
@pytest.mark.parametrize("kind", [Forces, Graded, Inference, Threaded])
def test_full_passes_keep_gradients_and_reach_threads(kind, method):
    model = kind()
    right = by_hand(model, X[:4])
    layers = "act@1" if kind is Threaded else "act"
    if kind is Threaded:  # only the first of two calls is changed
        calls = itertools.count()
        with model.act.register_forward_pre_hook(lambda _, args: (args[0] * (1 if next(calls) else 0.5),)):
            right = model(X[:4]).detach()[:, 1].numpy()
    result = probed(model, [X[:4]], layers=layers, method=method, batch_axis="none")
    np.testing.assert_array_equal(items(result), right)
    if kind is Threaded and method == "auto":
        assert "runs in several threads" in result.notes[0]


def test_the_greatest_of_half_precision_is_found_where_the_range_overflows() -> None:
    """The values are finite, and the difference of the least and the greatest isn't."""
    values = torch.tensor([-6e4, 6e4, 1.0], dtype=torch.float16)
    assert greatest(values) == float(values.abs().max())
    assert greatest(torch.tensor([torch.inf, -2.0, torch.nan])) == 2.0
    assert greatest(torch.tensor([torch.nan])) == 0.0
