"""The sweep against a plain full forward pass in PyTorch, example by example, on real weights and data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import nearzero as nz
from nearzero.evaluators.two_layer import TwoLayerEvaluator
from nearzero.networks import initial_stack
from nearzero.networks.modules import PerturbationLayer, activation_module

NEAR = 1e-5  # two greatest logits nearer than this share of the greatest may change places in float32


def plain_logits(
    network: nz.TwoLayer, x: np.ndarray, perturbation: nz.Perturbation, dtype: torch.dtype
) -> torch.Tensor:
    """One full forward pass, with the perturbation as a module of the network."""
    layer = PerturbationLayer(perturbation, network.units)
    act = activation_module(network.activation)
    hidden, _, output = network.to_module()
    middle = [layer, act] if perturbation.side == "pre" else [act, layer]
    model = torch.nn.Sequential(hidden, *middle, output).to(dtype)
    with torch.no_grad():
        return model(torch.from_numpy(x.astype(np.float32)).to(dtype))


def clear_differences(
    network: nz.TwoLayer, x: np.ndarray, perturbation: nz.Perturbation, predictions: np.ndarray
) -> tuple[int, int]:
    """How many predictions differ from PyTorch's: beyond what float32 explains, and within it."""
    plain = plain_logits(network, x, perturbation, torch.float32).argmax(1).numpy()
    different = np.flatnonzero(plain != predictions)
    if not len(different):
        return 0, 0
    exact = plain_logits(network, x[different], perturbation, torch.float64)
    top = exact.topk(2, dim=1).values
    near = (top[:, 0] - top[:, 1]) < NEAR * exact.abs().max(dim=1).values
    return int((~near).sum()), int(near.sum())


@pytest.mark.parametrize("name", ["abs", "relu"])
def test_every_prediction_at_all_325_levels(name: str, trained: dict, mnist_5k: nz.datasets.Dataset) -> None:
    network, x, labels = trained[name], mnist_5k.train.pixels[:2000], mnist_5k.train.labels[:2000]
    swept = nz.sweep(network, x, labels, keep_predictions=True)
    ranges = nz.unit_ranges(network, x)
    clear = near = levels = 0
    for family in ("offset", "scale", "clip"):
        made = nz.make_family(family, nz.Conduct())
        for level in made.levels:
            predictions = swept.predictions.sel(family=family, level=level).values
            found = clear_differences(network, x, made.at(level, ranges), predictions)
            clear, near, levels = clear + found[0], near + found[1], levels + 1
            right = np.mean(predictions == labels)
            assert float(swept.accuracy.sel(family=family, level=level)) == right
    print(f"{name}: {near} near ties of {levels * len(x)} predictions")
    assert levels == 325
    assert clear == 0
    assert near <= max(2, levels * len(x) / 1e6)


CONDUCTS = [
    nz.Conduct(offset="shift", clip="post", clip_threshold="pr", range="pre"),
    nz.Conduct(offset="as-written", clip="post"),
    nz.Conduct(offset="shift", clip="pre", clip_threshold="pr", range="post"),
]


@pytest.mark.parametrize("name", ["abs", "relu", "leaky_relu", "gelu"])
@pytest.mark.parametrize("conduct", CONDUCTS, ids=str)
def test_other_conducts_and_activations(
    name: str, conduct: nz.Conduct, trained: dict, mnist_5k: nz.datasets.Dataset
) -> None:
    if conduct.offset == "as-written" and name in ("leaky_relu", "gelu"):
        conduct = nz.Conduct(offset="shift", clip="post", range="pre")
    network, x = trained[name], mnist_5k.test.pixels
    swept = nz.sweep(network, x, conduct=conduct, keep_predictions=True)
    ranges = nz.unit_ranges(network, x)
    near = 0
    for family in ("offset", "scale", "clip"):
        made = nz.make_family(family, conduct)
        for level in made.levels[::8]:
            predictions = swept.predictions.sel(family=family, level=level).values
            clear, more = clear_differences(network, x, made.at(level, ranges), predictions)
            assert clear == 0, (family, level)
            near += more
    assert near <= 2


@pytest.mark.parametrize("name", ["abs", "relu", "leaky_relu", "gelu"])
def test_the_identity_level_is_the_unperturbed_network_exactly(
    name: str, trained: dict, mnist_5k: nz.datasets.Dataset
) -> None:
    network, data = trained[name], mnist_5k.train
    for family, identity in (("offset", 0.0), ("scale", 1.0), ("clip", np.inf)):
        found = nz.sweep(network, data.pixels, data.labels, family=family, levels=[identity])
        unperturbed = nz.HiddenLayer(network, data.pixels).unperturbed
        assert float(found.accuracy[0]) == float(found.unperturbed_accuracy)
        assert float(found.accuracy[0]) == np.mean(unperturbed == data.labels)
        assert float(found.agreement[0]) == 1.0


def test_the_closed_form_of_scale_equals_the_general_way(
    trained: dict, mnist_5k: nz.datasets.Dataset
) -> None:
    """Up to near ties; for clips that no example reaches, to the last bit: both are the network as it is."""
    for name in ("abs", "relu", "leaky_relu"):
        hidden = nz.HiddenLayer(trained[name], mnist_5k.test.pixels)
        scales = np.logspace(-2, 1, 25)
        scaled, clipped = [nz.Perturbation(scale=s) for s in scales], [nz.Perturbation(clip=1e30)]
        closed, general = (hidden.predict(scaled, by_algebra=how) for how in (True, False))
        np.testing.assert_array_equal(hidden.predict(clipped), hidden.predict(clipped, by_algebra=False))
        assert np.mean(closed != general) < 1e-4
        for level, scale in enumerate(scales):
            assert (
                clear_differences(
                    trained[name], mnist_5k.test.pixels, nz.Perturbation(scale=scale), closed[level]
                )[0]
                == 0
            )


def test_a_dead_unit_that_speaks_on_other_data_is_not_scaled() -> None:
    """Ranges from one data set, responses on another: the closed form would scale what is to be left alone."""
    network = nz.TwoLayer(np.eye(2), np.zeros(2), np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros(2), "relu")
    ranges = nz.unit_ranges(network, np.array([[1.0, -1.0], [2.0, -2.0]]))
    found = nz.sweep(
        network, np.array([[3.0, 2.0]]), family="scale", levels=[0.5], ranges=ranges, keep_predictions=True
    )
    assert int(found.predictions[0, 0]) == 1  # 0.5 * 3 < 2
    assert int(found.dead_units) == 1


@pytest.mark.parametrize("name", ["relu", "abs", "leaky_relu"])
def test_a_clip_acts_from_the_greatest_z_down(name: str) -> None:
    """A clip that no example reaches isn't computed; one that is the next number below the greatest z must be."""
    top = np.float32(3.7)
    below = np.nextafter(top, np.float32(0))
    logit = np.float32(activation_module(name)(torch.tensor(below)))
    unit = np.array([[1.0]], np.float32)
    network = nz.TwoLayer(unit, [0.0], np.array([[0.0], [1.0]], np.float32), [logit, 0.0], name)
    hidden = nz.HiddenLayer(network, np.array([[0.5], [top]], np.float32))
    clips = [np.inf, 5.0, float(top), float(below), 1.0]
    predictions = hidden.predict([nz.Perturbation(clip=clip) for clip in clips])
    assert predictions[:, 1].tolist() == [1, 1, 1, 0, 0]  # of two equal logits the first wins
    assert predictions[:, 0].tolist() == [0] * 5


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_and_company_change_no_prediction(
    threads: int, trained: dict, mnist_5k: nz.datasets.Dataset
) -> None:
    x = mnist_5k.test.pixels[:333]
    network = trained["abs"]
    whole = nz.sweep(network, x, keep_predictions=True, ranges=nz.unit_ranges(network, x), threads=threads)
    part = nz.sweep(network, x[100:133], keep_predictions=True, ranges=nz.unit_ranges(network, x))
    np.testing.assert_array_equal(whole.predictions[..., 100:133], part.predictions)


@pytest.mark.parametrize(("units", "classes"), [(1, 2), (5, 3), (16, 10), (37, 11), (130, 23)])
@pytest.mark.parametrize("name", nz.ACTIVATIONS)
def test_any_shape_and_activation(name: str, units: int, classes: int, rng: np.random.Generator) -> None:
    inputs = 11
    network = nz.TwoLayer(
        rng.normal(size=(units, inputs)),
        rng.normal(size=units),
        rng.normal(size=(classes, units)),
        rng.normal(size=classes),
        name,
    )
    x = rng.normal(size=(101, inputs)).astype(np.float32)
    hidden = nz.HiddenLayer(network, x)
    perturbations = [
        nz.Perturbation(
            scale=rng.normal(size=units),
            offset=rng.normal(size=units),
            clip=rng.normal(size=units),
            side=side,
            low=low,
        )
        for side in ("pre", "post")
        for low in (-np.inf, np.where(np.arange(units) == units - 1, -4.0, -np.inf))
    ] + [nz.Perturbation(), nz.Perturbation(scale=0.3), nz.Perturbation(scale=-0.3)]
    predictions = hidden.predict(perturbations)
    assert predictions.shape == (7, 101)
    for perturbation, row in zip(perturbations, predictions, strict=True):
        clear, near = clear_differences(network, x, perturbation, row)
        assert clear == 0
        assert near <= 1
    assert hidden.predict([]).shape == (0, 101)


@pytest.mark.parametrize("backend", ["two-layer", "model"])
def test_floor_and_distances_of_two_units_by_hand(backend: str) -> None:
    """z = (x, -3 x), ranges of 1 and 3, norms of 1 and 3, so that R = 1; logits = (a_1, a_2 / 3 + 0.5)."""
    network = nz.TwoLayer([[1.0], [-3.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1 / 3]], [0.0, 0.5], "relu")
    x = np.array([[-1.0], [0.25], [1.0]], np.float32)
    options: dict = {"keep_predictions": True, "backend": backend}
    found = nz.sweep(network, x, family="floor", levels=[0.2, 0.5, 1.0], **options)
    # with a floor of 1 - p under a_1 and a_2 / 3, the logits of x = 1 are (1, 1.5 - p)
    assert found.predictions.values.tolist() == [[1, 1, 1], [1, 1, 0], [1, 1, 0]]
    found = nz.sweep(network, x, family="distance_shift", levels=[-0.5, 0.0, 0.5], **options)
    # by -0.5: (0, 1), (0, 0.5), (0.5, 0.5); by 0.5: (0, 2), (0.75, 0.75), (1.5, 0.5)
    assert found.predictions.values.tolist() == [[1, 1, 0], [1, 1, 0], [1, 0, 0]]


def test_two_units_by_hand() -> None:
    """z = (x, -x); logits = (relu(x), relu(-x) + 0.5). A shift of p adds p * range to both."""
    network = nz.TwoLayer([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0.0, 0.5], "relu")
    x = np.array([[-1.0], [0.25], [1.0]])
    conduct = nz.Conduct(offset="shift", range="pre")  # both units range from -1 to 1: r = 2
    found = nz.sweep(
        network, x, [1, 1, 0], family="offset", levels=[-0.5, 0.0], conduct=conduct, keep_predictions=True
    )
    # p = 0: logits (0, 1.5), (0.25, 0.5), (1, 0.5)
    assert found.predictions.sel(level=0.0).values.tolist() == [1, 1, 0]
    # p = -0.5: z - 1 is at most 0, so that only the biases are left
    assert found.predictions.sel(level=-0.5).values.tolist() == [1, 1, 1]
    np.testing.assert_allclose(found.accuracy.values, [2 / 3, 1.0])
    np.testing.assert_allclose(found.agreement.values, [2 / 3, 1.0])


def test_labels_are_optional_and_everything_is_labelled(trained: dict, mnist_5k: nz.datasets.Dataset) -> None:
    network, x = trained["relu"], mnist_5k.test.pixels[:50]
    found = nz.sweep(network, x, family=["clip", "offset"])
    assert found.agreement.dims == ("family", "level")
    assert "accuracy" not in found
    assert found.family.values.tolist() == ["clip", "offset"]
    assert found.agreement.sel(family="offset").dropna("level").sizes == {"level": 125}
    assert found.agreement.sel(family="clip").dropna("level").sizes == {"level": 100}
    assert nz.sweep(network, x, family="clip").agreement.dims == ("level",)
    conduct = {"offset": "as-run", "clip": "pre", "clip_threshold": "min+pr", "range": "post"}
    assert found.attrs == conduct | {"backend": "two-layer", "layer": "hidden"}


def test_modules_tensors_and_floats_give_what_arrays_give(
    trained: dict, mnist_5k: nz.datasets.Dataset
) -> None:
    network, data = trained["relu"], mnist_5k.test
    expected = nz.sweep(network, data.pixels, data.labels)
    module = torch.nn.Sequential(torch.nn.Flatten(), *network.to_module())
    images = torch.from_numpy(data.images.astype(np.float32))
    found = nz.sweep(module, images, torch.from_numpy(data.labels))
    difference = np.abs(found.accuracy - expected.accuracy)
    assert float(difference.max()) <= 2 / len(data.labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 3))}, "inputs have 3 values an example, but the network takes 784"),
        ({"x": np.zeros((0, 784))}, r"with at least one example; got shape \(0, 784\)"),
        ({"x": np.array([["a"] * 784])}, "inputs must be real numbers; got <U1"),
        ({"x": np.full((3, 784), np.nan), "y": None}, "some are infinite or NaN"),
        ({"y": [1, 2]}, r"y must have one label per example, shape \(1000,\); got \(2,\)"),
        ({"y": np.zeros(1000)}, "labels must be whole numbers, the classes; got float64"),
        ({"y": np.arange(1, 1001) % 10 + 1}, "labels must be classes from 0 to 9; got values from 1 to 10"),
        ({"y": np.full(1000, -1)}, "labels must be classes from 0 to 9; got values from -1 to -1"),
        ({"x": np.zeros((3, 784), complex)}, "inputs must be real numbers; got complex128"),
        ({"x": [[1.0], [1.0, 2.0]]}, "inputs can't be read as an array"),
        ({"family": []}, r"family must be a name or a sequence of names; got \[\]"),
        ({"family": 3}, "family must be a name or a sequence of names; got 3"),
        ({"family": ["scale", "scale"]}, "family must contain each name once; got scale, scale"),
        ({"family": "scale", "levels": "a"}, "levels must be real numbers"),
        ({"family": "scale", "levels": [[1.0]]}, "levels must be a number or a one-dimensional array"),
        (
            {"family": "scale", "levels": [1e39]},
            "scale must stay within float32, in which networks compute; got 1e\\+39",
        ),
        ({"conduct": "as-run"}, "conduct must be an nz.Conduct; got str"),
        ({"threads": "2"}, "threads must be a whole number, at least 1; got '2'"),
        ({"family": "ofset"}, "unknown family 'ofset': did you mean 'offset'"),
        (
            {"family": ["scale", "clip"], "levels": [1.0]},
            "levels can be given for one family only; got 2 families",
        ),
        ({"network": "model.pt"}, "a network is a TwoLayer or a PyTorch module .* got str"),
        (
            {"network": torch.nn.Linear(784, 10)},
            "no activation was found in a forward pass",
        ),
        ({"threads": 0}, "threads must be a whole number, at least 1; got 0"),
    ],
)
def test_bad_input(change: dict, message: str, trained: dict, mnist_5k: nz.datasets.Dataset) -> None:
    arguments = {"network": trained["relu"], "x": mnist_5k.test.pixels, "y": mnist_5k.test.labels} | change
    with pytest.raises(nz.InputError, match=message):
        nz.sweep(arguments.pop("network"), arguments.pop("x"), arguments.pop("y"), **arguments)


def test_a_network_that_diverged_is_refused() -> None:
    network = nz.TwoLayer([[np.nan]], [0.0], [[1.0]], [0.0], "relu")
    with pytest.raises(nz.InputError, match="did it diverge"):
        nz.sweep(network, np.ones((2, 1)))


def test_as_run_is_refused_for_tanh_with_its_reason() -> None:
    network = nz.TwoLayer([[1.0]], [0.0], [[1.0]], [0.0], "tanh")
    with pytest.raises(nz.InputError, match="offset=as-run isn't defined for tanh"):
        nz.sweep(network, np.ones((2, 1)), conduct=nz.Conduct())


@pytest.mark.parametrize("pixels", [True, False])
def test_memory_changes_no_number(pixels):
    """A memory so small that z is computed block by block, against all at once."""
    rng = np.random.default_rng(0)
    network = initial_stack([0], "relu", inputs=9, units=64, classes=5)[0]
    x = rng.integers(0, 256, (40_001, 9)) if pixels else rng.normal(size=(40_001, 9))
    y = rng.integers(0, 5, len(x))
    hidden = nz.HiddenLayer(network, x, memory="16 MB")
    assert len(list(hidden.blocks(325))) > 3
    whole, parts = (
        nz.sweep(network, x, y, memory=memory, keep_predictions=True) for memory in ("1 GB", "16 MB")
    )
    assert parts.equals(whole) if pixels else np.mean(parts.predictions == whole.predictions) > 0.999999
    np.testing.assert_array_equal(hidden.unperturbed, nz.HiddenLayer(network, x).unperturbed)


def test_levels_that_do_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """They are taken in groups, with the same numbers."""
    units = 400
    network = nz.TwoLayer(
        rng.normal(size=(units, 16)), np.zeros(units), rng.normal(size=(5, units)), np.zeros(5), "gelu"
    )
    x, levels = rng.integers(0, 17, (60, 16)).astype(np.uint8), np.linspace(-2, 1, 400)
    counts: list[int] = []
    scores = TwoLayerEvaluator.scores

    def counted(self, perturbations, *rest):  # type: ignore[no-untyped-def]
        counts.append(len(perturbations))
        return scores(self, perturbations, *rest)

    monkeypatch.setattr(TwoLayerEvaluator, "scores", counted)
    swept = [
        nz.sweep(network, x, family="offset", levels=levels, keep_predictions=True, memory=memory)
        for memory in ("1 GB", "16 MB")
    ]
    assert counts[0] == sum(counts[1:]) == 400
    assert max(counts[1:]) * units * 64 < 16e6  # eight numbers in float64 for each unit
    assert swept[0].identical(swept[1])
