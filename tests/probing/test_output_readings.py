"""A model's output is read in one way, which is right or refused: its logits, their kind, their classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nearzero as nz


class Head(nn.Module):
    """A ReLU network whose output is given to a function."""

    def __init__(self, classes, function, inputs=6):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.last = nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, classes)
        self.function = function

    def forward(self, x):
        return self.function(self.last(self.act(self.first(x))))


def rows(count: int = 60, inputs: int = 6) -> torch.Tensor:
    return torch.randn(count, inputs, generator=torch.Generator().manual_seed(1))


def assumed(result: nz.ProbeResult, what: str) -> str:
    return next(row.value for row in result.assumptions if row.what == what)


BY_HAND = {
    "written": lambda z: 1 / (1 + torch.exp(-z)),
    "sliced": lambda z: F.softmax(F.pad(z, (1, 0)), -1)[:, 1:],
}
SINGLE = {
    "sigmoid": torch.sigmoid,
    "clamped": lambda z: z.sigmoid().clamp(1e-7, 1),
    "log": F.logsigmoid,
    **BY_HAND,
}


@pytest.mark.parametrize("form", SINGLE)
def test_a_single_probability_has_the_threshold_one_half(form):
    x, y = rows(), (rows()[:, 0] > 0.2).long()
    model = Head(1, SINGLE[form])
    settings = {
        "levels": [0.3, 1.0, 3.0],
        "families": "scale",
        "metrics": ["accuracy", "cross_entropy", "kl_divergence"],
    }
    if form == "written":
        with pytest.raises(
            nz.InputError, match=r"can be read as logits or as probabilities: .* output_kind="
        ):
            nz.probe(model, (x, y), "act", **settings)
        settings["output_kind"] = "probabilities"
    read = nz.probe(model, (x, y), "act", **settings)
    plain = nz.probe(Head(1, lambda z: z), (x, y), "act", **settings | {"output_kind": None})
    assert assumed(plain, "output") == "logits"
    assert assumed(read, "output") == ("log-probabilities" if form == "log" else "probabilities")
    assert read.response.accuracy.equals(plain.response.accuracy)
    assert 0 < float(plain.response.unperturbed_accuracy) < 1
    for name in ("cross_entropy", "kl_divergence", "unperturbed_cross_entropy"):
        np.testing.assert_allclose(read.response[name], plain.response[name], rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        bce = F.binary_cross_entropy_with_logits(Head(1, lambda z: z)(x)[:, 0], y.float())
    np.testing.assert_allclose(float(read.response.unperturbed_cross_entropy), bce, rtol=1e-4)


@pytest.mark.parametrize(
    "function", [lambda z: z.softmax(-1), lambda z: z.exp() / z.exp().sum(-1, keepdim=True)]
)
def test_probabilities_of_classes_have_logarithms(function):
    x, y = rows(), torch.arange(60) % 4
    settings = {
        "levels": [0.3, 3.0],
        "families": "scale",
        "metrics": ["accuracy", "cross_entropy", "kl_divergence"],
    }
    read = nz.probe(Head(4, function), (x, y), "act", **settings)
    plain = nz.probe(Head(4, lambda z: z), (x, y), "act", **settings)
    as_logits = nz.probe(Head(4, function), (x, y), "act", output_kind="logits", **settings)
    assert assumed(read, "output") == "probabilities"
    assert read.response.accuracy.equals(plain.response.accuracy)
    assert as_logits.response.accuracy.equals(plain.response.accuracy)
    for name in ("cross_entropy", "kl_divergence"):
        np.testing.assert_allclose(read.response[name], plain.response[name], rtol=1e-3, atol=1e-6)
        assert not np.allclose(as_logits.response[name], plain.response[name], rtol=0.1)
    logarithms = nz.probe(Head(4, lambda z: z.log_softmax(-1)), (x, y), "act", **settings)
    np.testing.assert_allclose(logarithms.response.cross_entropy, plain.response.cross_entropy, rtol=1e-5)


def test_saturated_probabilities_can_be_ranked():
    x, y = 1000 * rows(), torch.arange(60) % 4
    for model in (Head(4, lambda z: z.softmax(-1)), Head(1, torch.sigmoid)):
        with torch.no_grad():
            output = model(x)
            assert bool((output == 0).any())
            predicted = (output[:, 0] > 0.5).long() if output.shape[1] == 1 else output.argmax(1)
        result = nz.probe(model, (x, y % output.shape[1] if output.shape[1] > 1 else y % 2), "act", levels=3)
        labels = y if output.shape[1] > 1 else y % 2
        assert "not_finite" not in result.response
        assert float(result.response.unperturbed_accuracy) == pytest.approx(
            float((predicted == labels).double().mean())
        )


def test_centred_metrics_are_of_logarithms():
    """Adding one number to a logit's bias moves it by a constant: centred, nothing has changed."""
    x, y = rows(200), (rows(200)[:, 0] > 0.2).long()
    design = nz.Design(families=("shift",), targets=(0.2, 0.4))
    read = nz.matched(Head(1, torch.sigmoid), [(x, y)], layer="act", design=design)
    plain = nz.matched(Head(1, lambda z: z), [(x, y)], layer="act", design=design)
    for name in ("centred_accuracy", "centred_agreement", "logit_displacement"):
        np.testing.assert_allclose(read[name], plain[name], rtol=1e-3)


def test_a_metric_gets_what_the_model_returned():
    x, y = rows(), torch.arange(60) % 4
    seen = []

    def own(output, target):
        seen.append(output)
        return (output.argmax(1) == target).float()

    model = Head(4, lambda z: z.softmax(-1))
    nz.probe(model, (x, y), "act", metrics={"own": own}, levels=[1.0], families="scale")
    with torch.no_grad():
        assert torch.equal(seen[0], model(x))
    seen.clear()
    single = Head(1, lambda z: z.sigmoid()[:, 0])
    nz.probe(
        single,
        (x, y % 2),
        "act",
        metrics={"own": lambda p, t: seen.append(p) or p},
        levels=[1.0],
        families="scale",
    )
    with torch.no_grad():
        assert torch.equal(seen[0], single(x))


def test_sigmoids_that_dont_add_up():
    x, y = rows(), torch.arange(60) % 4
    model = Head(4, torch.sigmoid)
    ranked = nz.probe(model, (x, y), "act", levels=3)
    assert ranked.response.accuracy.equals(
        nz.probe(Head(4, lambda z: z), (x, y), "act", levels=3).response.accuracy
    )
    with pytest.raises(nz.InputError, match="holds 4 probabilities for each item that don't add up to 1"):
        nz.probe(model, (x, y), "act", levels=3, metrics="cross_entropy")
    result = nz.probe(model, (x, y), "act", levels=3, metrics="cross_entropy", output_kind="probabilities")
    with torch.no_grad():
        p = model(x)
        expected = -(p / p.sum(1, keepdim=True)).log()[torch.arange(60), y].mean()
    np.testing.assert_allclose(float(result.response.unperturbed_cross_entropy), expected, rtol=1e-5)


def test_a_later_batch_that_contradicts():
    x, y = rows(), torch.arange(60) % 4
    model = Head(4, lambda z: z.softmax(-1) if len(z) > 10 else z)
    data = [(x[:50], y[:50]), (x[50:], y[50:])]
    with pytest.raises(nz.InputError, match=r"read as probabilities, but holds other values .* output_kind="):
        nz.probe(
            Head(4, lambda z: z.exp() / z.exp().sum(-1, keepdim=True) if len(z) != 10 else z),
            data,
            "act",
            levels=2,
        )
    with pytest.raises(nz.InputError, match="read as probabilities, but holds other"):
        nz.probe(model, data, "act", levels=2, output_kind="probabilities")
    squeezed = Head(4, lambda z: z.squeeze())
    with pytest.raises(nz.InputError, match="those of the first batch have 2 dimensions"):
        nz.probe(squeezed, [(x[:5], y[:5]), (x[5:6], y[5:6])], "act", levels=2)


# --- which output ---


class Several(nn.Module):
    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act = nn.Linear(6, 16), nn.ReLU()
        self.box, self.scores, self.form = nn.Linear(16, 4), nn.Linear(16, 3), form

    def forward(self, x):
        h = self.act(self.first(x))
        return self.form(self.box(h), self.scores(h))


def test_the_first_output_need_not_be_the_logits():
    x, y = rows(), torch.arange(60) % 3
    both = Several(lambda box, scores: (box, scores))
    with pytest.raises(
        nz.InputError, match=r"several outputs .* 0: float32 of shape \(2, 4\), 1: .* output="
    ):
        nz.probe(both, (x, y), "act", levels=2)
    with torch.no_grad():
        accuracy = float((both(x)[1].argmax(1) == y).double().mean())
    chosen = [
        (both, {"output": 1}, "output[1]"),
        (both, {"output": lambda out: out[1]}, "what output= returns"),
        (
            Several(lambda box, scores: {"box": box, "scores": scores}),
            {"output": "scores"},
            "output['scores']",
        ),
        (Several(lambda box, scores: {"box": box, "logits": scores}), {}, "output['logits']"),
        (Several(lambda box, scores: (scores, (box, box))), {}, "output[0]"),
        (Several(lambda box, scores: (box[:, :2], scores)), {}, "output[1]"),  # two can't be three classes
        (Several(lambda box, scores: (scores.sum(), scores)), {}, "output[1]"),
        (
            Several(
                lambda box, scores: (F.cross_entropy(scores, y[: len(scores)], reduction="none"), scores)
            ),
            {},
            "output[1]",
        ),
    ]
    for model, settings, place in chosen:
        result = nz.probe(model, (x, y), "act", levels=2, **settings)
        assert float(result.response.unperturbed_accuracy) == pytest.approx(accuracy)
        assert assumed(result, "logits") == place
    with pytest.raises(
        nz.InputError, match="output=7 isn't among the outputs of the model, which are 0: float32"
    ):
        nz.probe(both, (x, y), "act", levels=2, output=7)


# --- which dimension ---


class Tokens(nn.Module):
    """Scores of 5 classes for each token, with the classes on a dimension of one's choice."""

    def __init__(self, axis, classes=5, hidden=(lambda z: z)):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.act, self.head = nn.Embedding(30, 8), nn.ReLU(), nn.Linear(8, classes)
        self.axis, self.hidden = axis, hidden

    def forward(self, tokens):
        return self.hidden(self.head(self.act(self.embed(tokens)))).movedim(-1, self.axis)


def tokens(length: int, model: nn.Module, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randint(30, (16, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        return x, model(x).argmax(dim)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("lengths", [(5,), (5, 7), (7, 5), (4, 5, 6)])
def test_classes_are_on_one_dimension_for_all_batches(axis, lengths):
    model = Tokens(axis)
    data = [tokens(length, model, axis) for length in lengths]  # all predictions are right by construction
    result = nz.probe(model, data, "act", levels=2)
    assert float(result.response.unperturbed_accuracy) == 1
    assert assumed(result, "classes") == f"dimension {axis} of 3"
    assert assumed(result, "items") == f"{16 * sum(lengths)} tokens of {16 * len(lengths)} examples"
    unlabelled = nz.probe(model, [x for x, _ in data], "act", levels=[0.5], families="scale", keep_items=True)
    with torch.no_grad():
        perturbed = [model.head(F.relu(0.5 * model.embed(x))).argmax(2) for x, _ in data]
        plain = [model.head(F.relu(model.embed(x))).argmax(2) for x, _ in data]
    expected = torch.cat([(a == b).flatten() for a, b in zip(perturbed, plain, strict=True)]).double().mean()
    assert float(unlabelled.response.agreement.squeeze()) == pytest.approx(float(expected))


def test_an_operation_that_cant_be_followed():
    """Through NumPy and back nothing is known: sizes decide if they can, else the user."""
    lost = lambda z: torch.from_numpy(z.numpy().copy())  # noqa: E731
    model = Tokens(1, hidden=lost)
    same, other = tokens(5, model, 1), tokens(7, model, 1)
    assert (
        float(nz.probe(model, [same, other], "act", levels=2, method="full").response.unperturbed_accuracy)
        == 1
    )
    for data in ([same], [same[0]]):
        with pytest.raises(
            nz.InputError, match=r"the classes of the output \(2, 5, 5\), .* class_axis=1 or 2"
        ):
            nz.probe(model, data, "act", levels=2, method="full")
    given = nz.probe(model, [same], "act", levels=2, method="full", class_axis=1)
    assert float(given.response.unperturbed_accuracy) == 1


class Pixels(nn.Module):
    def __init__(self, classes, function=lambda z: z):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, classes, 1)
        self.function = function

    def forward(self, x):
        return self.function(self.head(self.act(self.conv(x))))


def test_as_many_classes_as_pixels():
    x, model = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), Pixels(6)
    with torch.no_grad():
        y = model(x).argmax(1)
    result = nz.probe(model, (x, y), "act", levels=2)
    assert float(result.response.unperturbed_accuracy) == 1
    assert assumed(result, "items") == "144 pixels of 4 examples"


def test_binary_masks():
    x = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    y = torch.randint(2, (8, 1, 5, 5), generator=torch.Generator().manual_seed(1))
    model, squeezed = Pixels(1), Pixels(1, lambda z: z.squeeze(1))
    with torch.no_grad():
        expected = float(((model(x) > 0).long() == y).double().mean())
    for each, target in (
        (model, y),
        (model, y[:, 0]),
        (squeezed, y[:, 0]),
        (squeezed, y),
        (Pixels(1, torch.sigmoid), y),
    ):
        result = nz.probe(each, (x, target), "act", levels=2)
        assert float(result.response.unperturbed_accuracy) == pytest.approx(expected)
        assert int(result.response.attrs["items"]) == 200
    one_hot = torch.eye(5, dtype=torch.long).repeat(8, 1, 1)
    with pytest.raises(nz.InputError, match=r"each number is an item of its own; .* class_axis=.* or 'none'"):
        nz.probe(squeezed, (x, one_hot), "act", levels=2)


def test_a_number_per_token():
    """A readout of one unit, squeezed away: the positions aren't classes, unless the targets say so."""
    x = torch.randint(30, (16, 7), generator=torch.Generator().manual_seed(0))
    model = Tokens(-1, classes=1, hidden=lambda z: z.squeeze(-1))
    model.forward = lambda tokens: model.head(model.act(model.embed(tokens))).squeeze(-1)
    with torch.no_grad():
        scores = model(x)
    labels, positions = torch.arange(112).reshape(16, 7) % 2, torch.arange(16) % 7
    with pytest.raises(
        nz.InputError,
        match="with no targets, can be on dimension 1, or there are none, since each number is an item",
    ):
        nz.probe(model, [x], "act", levels=2)
    by_token = nz.probe(model, [(x, labels)], "act", levels=2)
    assert float(by_token.response.unperturbed_accuracy) == pytest.approx(
        float(((scores > 0) == labels).double().mean())
    )
    pointer = nz.probe(model, [(x, positions)], "act", levels=2)
    expected = float((scores.argmax(1) == positions).double().mean())
    assert float(pointer.response.unperturbed_accuracy) == pytest.approx(expected)


# --- several outputs, in any order of their dimensions ---


@pytest.mark.parametrize("layout", ["classes first", "tokens first", "one number each"])
def test_an_output_isnt_taken_for_the_logits_because_these_have_another_layout(layout):
    class Two(Head):
        def forward(self, x):
            h = self.act(self.first(x))
            logits = self.last(h)
            if layout == "classes first":
                return {"state": h[:, 0], "scores": logits[:, 0].t()}
            if layout == "tokens first":
                return {"state": h, "scores": logits.transpose(0, 1)}
            return {"state": h, "scores": logits[..., 0]}

    x, y = rows(24).view(6, 4, 6), torch.arange(24).view(6, 4) % 2
    y = y[:, 0] if layout == "classes first" else y
    with pytest.raises(nz.InputError, match=r"several outputs that may be the logits: .* output="):
        nz.probe(Two(3, None), [(x, y)], "act", levels=2)


def test_auxiliary_logits_arent_taken_for_the_logits_by_their_name():
    class Two(Head):
        def forward(self, x):
            h = self.act(self.first(x))
            return {"aux_logits": h[:, :3], "main": self.last(h)}

    model, x = Two(3, None), rows(24)
    y = model(x)["main"].argmax(1)
    with pytest.raises(nz.InputError, match=r"'aux_logits': .* 'main': .* output="):
        nz.probe(model, (x, y), "act", levels=2)
    assert nz.probe(model, (x, y), "act", levels=2, output="main").response.unperturbed_accuracy == 1


def test_flattened_targets_dont_tell_classes_first_from_examples_first():
    class ClassesFirst(Head):
        def forward(self, x):
            return super().forward(x).permute(2, 0, 1)

    model, x = ClassesFirst(4, lambda z: z), rows(20).view(4, 5, 6)
    y = model(x).argmax(0).flatten()
    with pytest.raises(
        nz.InputError, match=r"flattened targets \(20,\), can be on dimension 0 or 1; give output="
    ):
        nz.probe(model, [(x, y)], "act", levels=2)
    turned = {"output": lambda output: output.movedim(0, -1), "class_axis": 2}
    assert nz.probe(model, [(x, y)], "act", levels=2, **turned).response.unperturbed_accuracy == 1


def test_a_batch_of_one_example_is_read_as_larger_ones_are():
    """One number for each of seven points: nothing tells that these aren't classes."""

    class Points(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.last = nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1)

        def forward(self, x):
            return self.last(self.act(self.first(x))).squeeze(-1)

    model, x = Points(), rows(35).view(5, 7, 6)
    for data in ([x], [x[:1], x[1:]], list(x.split(1))):
        with pytest.raises(nz.InputError, match=r"choose with class_axis=1 or 'none'"):
            nz.probe(model, data, "act", levels=2)
        given = nz.probe(model, data, "act", levels=2, class_axis="none")
        assert given.response.attrs["items"] == 35


def test_a_single_output_below_zero_may_be_a_log_probability():
    model, x, y = Head(1, lambda z: -F.softplus(-z)), rows(), (rows()[:, 0] > 0.2).long()
    with pytest.raises(
        nz.InputError, match=r"logits or as log-probabilities: .* are below 0, .* output_kind="
    ):
        nz.probe(model, (x, y), "act", levels=2)
    found = nz.probe(model, (x, y), "act", levels=2, output_kind="log-probabilities")
    known = nz.probe(Head(1, F.logsigmoid), (x, y), "act", levels=2)
    assert found.response.unperturbed_accuracy == known.response.unperturbed_accuracy


def test_pixels_that_are_ignored_are_in_no_range():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.GELU(), nn.Conv2d(5, 4, 1))
    x, y = torch.randn(4, 3, 2, 3), torch.arange(24).view(4, 2, 3) % 4
    ignored = torch.arange(24).view(4, 2, 3) % 5 == 0
    settings = {"families": "shift", "levels": [0.2], "metrics": "kl_divergence"}
    other = torch.where(ignored[:, None], 100.0, x)
    found = [
        nz.probe(model, [(each, y.masked_fill(ignored, -100))], "1", **settings).response.kl_divergence.item()
        for each in (x, other)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-5)
