"""The suffix and the full pass give equal logits on random small architectures, and the model is restored.

An independent oracle, which uses nothing of `nearzero.probing`, perturbs with a hook of its own.
"""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nearzero as nz

CHANNELS, SIDE, TOKENS, CLASSES, COUNT = 4, 6, 5, 3, 7


# --- parts of architectures: images (N, C, H, W) to images, or tokens (N, S, C) to tokens --------------------------


class Residual(nn.Module):
    """x + f(x), in which f may write into x first."""

    def __init__(self, in_place, after):
        super().__init__()
        self.conv, self.act = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(inplace=in_place)
        self.after = after

    def forward(self, x):
        x = x + 0.1
        if self.after:
            return self.act(self.conv(x) + x)
        return self.conv(self.act(x)) + x  # an in-place activation changes what the branch around it adds


class InPlaceAdd(nn.Module):
    """In-place addition to a view."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)

    def forward(self, x):
        out = self.conv(x)
        out[:, ::2] += 0.5 * x[:, 1::2]
        out.view(len(out), -1)[:, :3].mul_(2.0)
        return F.relu(out, inplace=True)


class Buffered(nn.Module):
    """Write into a tensor made earlier or later, part by part, and read it in between."""

    def __init__(self, early):
        super().__init__()
        self.conv, self.act, self.early = nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ELU(), early

    def forward(self, x):
        buffer = torch.zeros(len(x), 2 * CHANNELS, *x.shape[2:]) if self.early else None
        out = self.act(self.conv(x))
        if buffer is None:
            buffer = torch.ones(len(x), 2 * CHANNELS, *x.shape[2:])
        buffer[:, :CHANNELS] = x
        seen = buffer.sum(1, keepdim=True)
        buffer[:, CHANNELS:] = out
        buffer += 1.0
        return buffer[:, :CHANNELS] * buffer[:, CHANNELS:] + seen


class Reused(nn.Module):
    """One ReLU at three places."""

    def __init__(self, in_place):
        super().__init__()
        self.one, self.two = (nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in range(2))
        self.act = nn.ReLU(inplace=in_place)

    def forward(self, x):
        return self.act(self.two(self.act(self.one(self.act(x - 0.1)))))


class Branches(nn.Module):
    """Branches side by side."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(CHANNELS, 2, 1), nn.Conv2d(CHANNELS, 2, 3, padding=1)
        self.norm = nn.GroupNorm(2, CHANNELS)

    def forward(self, x):
        return self.norm(torch.cat([F.silu(self.one(x)), self.two(x).tanh()], dim=1))


class Gated(nn.Module):
    """Squeeze and excitation, or a gated linear unit."""

    def __init__(self, glu):
        super().__init__()
        self.glu = glu
        self.gate = nn.Conv2d(CHANNELS, 2 * CHANNELS if glu else CHANNELS, 1)

    def forward(self, x):
        if self.glu:
            return F.glu(self.gate(x), dim=1)
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class Split(nn.Module):
    """Activations of views that aren't contiguous in memory."""

    def __init__(self, in_place):
        super().__init__()
        self.conv, self.act = nn.Conv2d(CHANNELS, 2 * CHANNELS, 1), nn.GELU()
        self.gate = nn.Hardswish(inplace=in_place)

    def forward(self, x):
        one, two = self.conv(x).split(CHANNELS, dim=1)
        return self.act(one) * self.gate(two) + x.mean(1, keepdim=True).expand_as(x).sigmoid()


class Recurrent(nn.Module):
    """A recurrent layer on tokens."""

    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(CHANNELS, CHANNELS, batch_first=True)
        self.act = nn.GELU()

    def forward(self, x):
        return self.act(self.rnn(x)[0]) + x


class Mixer(nn.Module):
    """A layer over tokens, then one over channels."""

    def __init__(self):
        super().__init__()
        self.tokens, self.channels = nn.Linear(TOKENS, TOKENS), nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, x):
        x = x + F.gelu(self.tokens(self.norm(x).transpose(1, 2))).transpose(1, 2)
        return x + F.relu(self.channels(x), inplace=True)


def batch_norm():
    layer = nn.BatchNorm2d(CHANNELS)
    layer.running_mean.uniform_(-0.2, 0.2)
    layer.running_var.uniform_(0.5, 2.0)
    return nn.Sequential(layer, nn.LeakyReLU(0.1, inplace=True))


IMAGE_PARTS = {
    "conv": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU()),
    "conv, in place": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1), nn.ReLU(inplace=True)),
    "batch norm": batch_norm,
    "residual": lambda: Residual(False, False),
    "residual, in place": lambda: Residual(True, False),
    "residual, after": lambda: Residual(True, True),
    "in-place add": InPlaceAdd,
    "buffer, early": lambda: Buffered(True),
    "buffer, late": lambda: Buffered(False),
    "reused": lambda: Reused(False),
    "reused, in place": lambda: Reused(True),
    "branches": Branches,
    "excitation": lambda: Gated(False),
    "glu": lambda: Gated(True),
    "split": lambda: Split(False),
    "split, in place": lambda: Split(True),
    "pool": lambda: nn.Sequential(nn.MaxPool2d(2, stride=1, padding=1), nn.Dropout2d(0.5)),
}
TOKEN_PARTS = {
    "linear": lambda: nn.Sequential(nn.Linear(CHANNELS, CHANNELS), nn.Tanh()),
    "encoder": lambda: nn.TransformerEncoderLayer(CHANNELS, 2, 8, batch_first=True),
    "encoder, norm first": lambda: nn.TransformerEncoderLayer(
        CHANNELS, 2, 8, batch_first=True, norm_first=True, activation="gelu"
    ),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "mixer": Mixer,
}


class Network(nn.Module):
    """Parts in a row, then classes."""

    def __init__(self, parts, image):
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, 1) if image else nn.Linear(3, CHANNELS)
        self.parts = nn.ModuleList(parts)
        self.hidden, self.head = nn.Linear(CHANNELS, 8), nn.Linear(8, CLASSES)
        self.register_buffer("calls", torch.zeros(()))
        self.image, self.fails_at, self.done = image, None, 0

    def forward(self, x):
        self.done = self.done + 1
        self.calls += 1
        if self.fails_at is not None and len(x) == self.fails_at:
            raise ValueError("no")
        x = self.first(x)
        for part in self.parts:
            x = part(x)
        x = x.mean((2, 3)) if self.image else x[:, 0]
        return self.head(F.relu(self.hidden(x)))


@st.composite
def networks(draw):
    """Draw a network with random weights and training flags, and data for it."""
    image = draw(st.booleans())
    kinds = IMAGE_PARTS if image else TOKEN_PARTS
    names = draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=4))
    torch.manual_seed(draw(st.integers(0, 10**6)))
    model = Network([kinds[name]() for name in names], image)
    for each in model.modules():
        each.training = bool(torch.rand(()) < 0.5)
    for each in model.parameters():
        each.requires_grad_(bool(torch.rand(()) < 0.8))
        each.grad = torch.randn_like(each) if each.requires_grad else None
    x = torch.randn(COUNT, 1, SIDE, SIDE) if image else torch.randn(COUNT, TOKENS, 3)
    return model, x, torch.randint(0, CLASSES, (COUNT,))


def logit(number):
    """Return a metric that is one of the logits."""
    return lambda logits, target: logits[:, number]


EVERY_LOGIT = {f"logit {number}": logit(number) for number in range(CLASSES)}
# The dictionaries of hooks, in which nothing may be left.
OWN = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")


def state(model):
    """Return all that a probe must restore, as bytes and plain values."""
    tensors = {name: (id(each), each.numpy().tobytes()) for name, each in model.state_dict().items()}
    grads = {
        name: (each.requires_grad, None if each.grad is None else each.grad.numpy().tobytes())
        for name, each in model.named_parameters()
    }
    modules = [
        (each.training, sorted(each.__dict__), [dict(getattr(each, name)) for name in OWN])
        for each in model.modules()
    ]
    generators = torch.get_rng_state().numpy().tobytes(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    switches = torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()
    return (
        {name: value for name, (_, value) in tensors.items()},
        grads,
        modules,
        generators,
        switches,
        model.done,
    )


@given(networks())
@settings(max_examples=20)
def test_suffix_and_full_pass_give_the_same_logits_and_leave_all_as_it_was(made):
    model, x, y = made
    before = state(model)
    options = {
        "levels": {"offset": [0.7], "scale": [0.5], "clip": [0.3]},
        "batch_size": 4,
        "keep_items": True,
    }
    kinds = {each.name for each in nz.layers(model, x)}
    results = [
        nz.probe(model, (x, y), sorted(kinds), metrics=EVERY_LOGIT, method=method, **options).response
        for method in ("suffix", "full", "auto")
    ]
    assert state(model) == before
    assert set(results[2].method.values) == {"suffix"}
    for name in EVERY_LOGIT:
        suffix, full, auto = (each[f"{name}_items"].values for each in results)
        assert suffix.tobytes() == full.tobytes() == auto.tobytes()
        plain = [each[f"unperturbed_{name}"].item() for each in results]
        assert plain[0] == plain[1] == plain[2]
        assert np.isfinite(suffix[~np.isnan(suffix)]).all()


@given(networks(), st.integers(0, 60))
@settings(max_examples=25)
def test_a_metric_that_raises_leaves_all_as_it_was(made, call):
    model, x, y = made
    before = state(model)
    calls = 0

    def raises(logits, target):
        nonlocal calls
        calls += 1
        if calls > call:
            raise ZeroDivisionError
        return logits[:, 0]

    with contextlib.suppress(ZeroDivisionError):
        nz.probe(model, (x, y), metrics=raises, levels=2, batch_size=4)
    assert state(model) == before


@given(networks(), st.sampled_from(["auto", "full"]))
@settings(max_examples=20)
def test_a_model_that_raises_leaves_all_as_it_was(made, method):
    model, x, y = made
    model.fails_at = COUNT - 4  # the second batch
    before = state(model)
    with pytest.raises(ValueError, match="no"):
        nz.probe(model, (x, y), levels=2, batch_size=4, method=method)
    assert state(model) == before


# --- an oracle ------------------------------------------------------------------------------------------------------


def oracle(model, module, before, x, y, family, levels, act, conduct):
    """Return the accuracy at each level, measured with a plain hook; the units are on the second dimension."""
    seen = []

    def look(_, args, output=None):
        seen.append((args[0] if before else output).clone())

    def hooked(function):
        register = module.register_forward_pre_hook if before else module.register_forward_hook
        handle = register(function)
        try:
            with torch.no_grad():
                return model(x)
        finally:
            handle.remove()

    model.eval()
    hooked(look)
    z = seen[0].double().numpy()
    z = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1])
    side = act(torch.from_numpy(z)).numpy() if conduct.range == "post" else z
    post = act(torch.from_numpy(z)).numpy()
    live = np.ptp(post, axis=0) > 0
    low, high = side.min(0), side.max(0)
    shape = (1, -1, *[1] * (seen[0].ndim - 2))

    def unit(values, identity):
        return torch.from_numpy(np.where(live, values, identity)).float().view(shape)

    accuracies = []
    for level in levels:
        width = high - low
        scale, offset, clip = np.ones_like(low), np.zeros_like(low), np.full_like(low, np.inf)
        if family == "scale":
            scale = scale * level
        elif family == "clip":
            clip = low + level * width
        elif conduct.offset == "shift":
            offset = level * width
        else:
            with np.errstate(all="ignore"):
                scale, offset = (high - level * width) / high, level * width
        s, o, c = unit(scale, 1.0), unit(offset, 0.0), unit(clip, np.inf)

        def move(values, s=s, o=o, c=c):
            return torch.minimum(s * values + o, c)

        if family == "clip" and conduct.clip == "post":
            handle = module.register_forward_hook(lambda _, args, output, c=c: torch.minimum(output, c))
            with torch.no_grad():
                logits = model(x)
            handle.remove()
        elif before:
            logits = hooked(lambda _, args, move=move: (move(args[0]),))
        else:
            logits = hooked(lambda _, args, output, move=move: move(output))
        accuracies.append((logits.argmax(1) == y).double().mean().item())
    return accuracies


@pytest.mark.parametrize("clip", ["pre", "post"])
@pytest.mark.parametrize("name", ["relu", "gelu"])
@pytest.mark.parametrize("site", ["act", "linear", "conv act"])
def test_an_independent_loop_gives_the_same_accuracies(site, name, clip):
    torch.manual_seed(1)
    acts = {"relu": nn.ReLU, "gelu": nn.GELU}
    model = nn.Sequential(
        nn.Conv2d(1, 5, 3),
        acts[name](),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 9),
        acts[name](),
        nn.Linear(9, CLASSES),
    )
    x, y = torch.randn(200, 1, SIDE, SIDE), torch.randint(0, CLASSES, (200,))
    conduct = nz.Conduct(clip=clip) if name == "relu" else nz.Conduct(offset="shift", range="pre", clip=clip)
    path, before = {"act": ("5", True), "linear": ("4", False), "conv act": ("1", True)}[site]
    result = nz.probe(model, (x, y), path, conduct=conduct, levels=12, batch_size=200)
    act = torch.relu if name == "relu" else F.gelu
    for family in ("offset", "scale", "clip"):
        if family == "clip" and clip == "post" and not before:
            continue  # the oracle clips where its hook is
        curve = result.response.accuracy.sel(layer=path, family=family).dropna("level")
        expected = oracle(
            model, model[int(path)], before, x, y, family, curve.level.values.tolist(), act, conduct
        )
        np.testing.assert_array_equal(curve.values, expected)
