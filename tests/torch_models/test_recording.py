"""Recordings: the operations that run again, the number of the model's runs, and many levels measured at once."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import nearzero as nz
from nearzero.evaluators import responses as work
from nearzero.evaluators.scores import METRICS, Outputs
from nearzero.torch_models.batches import Batch
from nearzero.torch_models.replay import OpRecorder


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 3),
    )


class Seen(TorchDispatchMode):
    """Records the names of operations, and the greatest number of their results alive at a time."""

    def __init__(self):
        super().__init__()
        self.names, self.results, self.most = [], [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(func._schema.name)
        new = result if isinstance(result, (tuple, list)) else [result]
        self.results += [weakref.ref(each) for each in new]
        self.most = max(self.most, sum(each() is not None for each in self.results))
        return result


@torch.no_grad()
def recorded(model, act, x):
    recorder = OpRecorder()
    hook = act.register_forward_pre_hook(lambda _, args: recorder.cut(args[0], in_place=False))
    with recorder.running():
        logits = model(x)
    hook.remove()
    return recorder.suffixes(logits)[None]


@pytest.mark.parametrize("place", [1, 4, 7])
@torch.no_grad()
def test_only_what_comes_after_the_layer_runs_again(place):
    model, x = network(), torch.randn(3, 1, 8, 8)
    suffix = recorded(model, model[place], x)
    values = model[:place](x)
    with Seen() as plain:
        logits = model[place:](values)
    with Seen() as again:
        result = suffix.run(lambda _: values)
    assert torch.equal(result, logits)
    views = {"aten::t", "aten::view", "aten::_unsafe_view", "aten::detach"}  # of weights; made once
    assert [name for name in again.names if name not in views] == [
        name for name in plain.names if name not in views
    ]


@torch.no_grad()
def test_what_is_no_longer_needed_goes_while_a_suffix_runs():
    model = nn.Sequential(*[nn.ReLU() for _ in range(20)])
    suffix = recorded(model, model[0], torch.randn(2, 3))
    with Seen() as seen:
        suffix.run(lambda values: values + 1)
    assert len(seen.names) == 21
    assert seen.most <= 2  # an operation's argument and its result


def test_the_model_runs_as_often_whatever_the_number_of_levels():
    model, x = network(), torch.randn(6, 1, 8, 8)
    calls = []
    model[0].register_forward_pre_hook(lambda *_: calls.append(1))

    def passes(levels, method):
        calls.clear()
        nz.probe(model, x, ["1", "4"], levels=levels, method=method, batch_size=3)
        return len(calls)

    assert passes(3, "suffix") == passes(30, "suffix")
    assert passes(30, "full") - passes(3, "full") >= 2 * 2 * 27  # layers, batches, levels of one family


# --- many levels at a time ------------------------------------------------------------------------------------------


def by_pytorch(name, logits, target, before):
    """Return a metric of one level for each example, computed with plain PyTorch."""
    if name == "cross_entropy":
        return F.cross_entropy(logits, target, reduction="none")
    if name == "kl_divergence":
        p, q = before.softmax(1), logits.softmax(1)
        return (p * (p / q).log()).sum(1)
    if name == "margin":
        return torch.stack(
            [row[k] - torch.cat([row[:k], row[k + 1 :]]).max() for row, k in zip(logits, target, strict=True)]
        )
    return logits.argmax(1) == (target if name == "accuracy" else before.argmax(1))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_many_levels_are_those_of_each(name):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 11, 5, generator=generator)
    target = torch.randint(0, 5, (11,), generator=generator)
    score = METRICS[name].score
    unperturbed = Outputs(logits[:1])
    many = score(Outputs(logits), target, unperturbed)
    alone = torch.stack([score(Outputs(each[None]), target, unperturbed)[0] for each in logits])
    assert torch.equal(many, alone)
    expected = torch.stack([by_pytorch(name, each, target, logits[0]) for each in logits])
    torch.testing.assert_close(many, expected)


def test_levels_measured_together_and_alone_give_one_result(monkeypatch):
    model, data = network(), (torch.randn(20, 1, 8, 8), torch.randint(0, 3, (20,)))
    metrics = {**{name: name for name in METRICS}, "own": lambda logits, target: logits[:, 0] - target}

    def response():
        return nz.probe(model, data, metrics=metrics, levels=9, keep_items=True, batch_size=8).response

    together = response()
    monkeypatch.setattr(work, "AT_ONCE", 1)
    assert together.equals(response())
    monkeypatch.setattr(work, "AT_ONCE", 3 * 8 * 3)  # three levels of a batch
    assert together.equals(response())


def test_a_parameter_beyond_float32_is_no_clip():
    like = torch.randn(4, 3)
    layer = nz.layers(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), torch.randn(4, 2))[0]
    perturbations = [
        nz.Perturbation(scale=2.0, offset=np.array([0.0, 1.0, 0.0]), clip=1e300),
        nz.Perturbation(),
    ]
    change, nothing = work.changes_of(perturbations, like, layer, Batch((like,), {}), 0)
    torch.testing.assert_close(change(like), 2 * like + torch.tensor([0.0, 1.0, 0.0]), rtol=0, atol=0)
    half = change(like.half())
    assert half.dtype == torch.half
    assert torch.equal(half, (2 * like.half().float() + torch.tensor([0.0, 1.0, 0.0])).half())
    same = nothing(like)
    assert torch.equal(same, like)
    assert same.data_ptr() != like.data_ptr()
