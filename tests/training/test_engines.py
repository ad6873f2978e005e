"""Both engines against autograd in float64, and the independence of runs."""

import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from nearzero.errors import InputError
from nearzero.networks import Stack, initial_stack
from nearzero.networks.pixels import Pixels
from nearzero.perturbations.activations import ACTIVATIONS
from nearzero.training.engine import Examples, epoch_order, steps_per_epoch
from nearzero.training.fused import FusedEngine
from nearzero.training.stacked import StackedEngine

RAW, NORMALIZED = (1.0, 0.0), (1 / (255 * 0.3081), -0.1307 / 0.3081)
ENGINES = {
    "fused": functools.partial(FusedEngine, threads=2),
    "stacked": functools.partial(StackedEngine, device="cpu"),
}
both = pytest.mark.parametrize("engine", ENGINES)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def examples(count, inputs=77, classes=10, affine=RAW, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (count, inputs)) * (rng.random((count, inputs)) < 0.3)
    return Examples(Pixels(values.astype(np.uint8), *affine), rng.integers(0, classes, count))


def make(engine, stack, train, *, batch_size=None, learning_rate=1e-4, seeds=None, **more):
    test = examples(
        40, train.pixels.values.shape[1], stack.b2.shape[1], (train.pixels.gain, train.pixels.shift), seed=9
    )
    seeds = range(len(stack)) if seeds is None else seeds
    return ENGINES[engine](
        stack, train, test, seeds=seeds, learning_rate=learning_rate, batch_size=batch_size, **more
    )


def batches(seed, count, batch_size, steps):
    """Return the examples of each step's batch."""
    if batch_size is None:
        return [np.arange(count)] * steps
    places = (divmod(step, steps_per_epoch(count, batch_size)) for step in range(steps))
    return [epoch_order(seed, epoch, count)[k * batch_size : (k + 1) * batch_size] for epoch, k in places]


def autograd(network, train, plan, learning_rate, dtype=torch.float64):
    """Train in plain PyTorch; return the module, and its loss and correct predictions on all examples."""
    pixels = train.pixels
    module = network.to_module().to(dtype)
    x = torch.from_numpy(pixels.values).to(dtype) * pixels.gain + pixels.shift
    y = torch.from_numpy(train.labels)
    for rows in plan:
        loss = torch.nn.functional.cross_entropy(module(x[rows]), y[rows])
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(module.parameters(), gradients, strict=True):
                parameter -= learning_rate * gradient
    with torch.no_grad():
        logits = module(x)
    return module, torch.nn.functional.cross_entropy(logits, y).item(), int((logits.argmax(1) == y).sum())


def arrays(stack):
    return [stack.w1, stack.b1, stack.w2, stack.b2]


def assert_same(one, two):
    for a, b in zip(arrays(one), arrays(two), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_trains_like_autograd(engine, activation, train, units, classes, batch_size, steps, learning_rate):
    stack = initial_stack(
        [3, 4], activation, inputs=train.pixels.values.shape[1], units=units, classes=classes
    )
    trained = make(engine, stack, train, batch_size=batch_size, learning_rate=learning_rate)
    trained.advance(0, steps)
    measured = trained.measure("train")
    for run in range(2):
        plan = batches(run, len(train), batch_size, steps)
        module, loss, correct = autograd(stack[run], train, plan, learning_rate)
        assert measured.loss[run] == pytest.approx(loss, rel=2e-5)
        assert abs(measured.correct[run] - correct) <= 1
        parameters = [parameter.detach().numpy() for parameter in module.parameters()]
        for before, after, exact in zip(arrays(stack), arrays(trained.stack()), parameters, strict=True):
            moved = np.abs(exact - before[run]).max()
            # float32: a few roundings of each weight, and of its gradient
            assert np.abs(after[run] - exact).max() < 2e-7 * np.abs(exact).max() * steps**0.5 + 2e-5 * moved
            assert moved > 0


@both
@pytest.mark.parametrize("affine", [RAW, NORMALIZED], ids=["raw", "normalized"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_full_batch_is_autograd(engine, activation, affine):
    assert_trains_like_autograd(engine, activation, examples(131, affine=affine), 20, 10, None, 4, 1e-4)


@both
@pytest.mark.parametrize("affine", [RAW, NORMALIZED], ids=["raw", "normalized"])
@pytest.mark.parametrize("activation", ["relu", "abs", "gelu", "softplus"])
def test_mini_batches_are_autograd(engine, activation, affine):
    """50 examples in batches of 24: the third batch of each epoch has 2, and 7 steps reach the third epoch."""
    assert_trains_like_autograd(engine, activation, examples(50, affine=affine), 20, 10, 24, 7, 1e-4)


@both
@pytest.mark.parametrize("batch_size", [None, 100])
@pytest.mark.parametrize(
    ("count", "inputs", "units", "classes"),
    [(1, 1, 1, 2), (65, 64, 128, 16), (130, 33, 250, 3), (66, 130, 64, 37), (200, 784, 176, 150)],
)
def test_any_sizes(engine, count, inputs, units, classes, batch_size):
    train = examples(count, inputs, classes)
    if count == 1:
        train.pixels.values[:] = 9
    assert_trains_like_autograd(engine, "abs", train, units, classes, batch_size, 2, 1e-5)


@both
@pytest.mark.parametrize("value", [0, 255])
def test_identical_images(engine, value):
    train = examples(70)
    train.pixels.values[:] = value
    stack = initial_stack([0], "relu", inputs=77, units=20)
    trained = make(engine, stack, train, learning_rate=1e-6)
    trained.advance(0, 2)
    module, loss, _ = autograd(stack[0], train, batches(0, 70, None, 2), 1e-6)
    assert trained.measure("train").loss[0] == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(trained.stack().w1[0], module[0].weight.detach().numpy(), rtol=1e-5, atol=1e-8)


@both
def test_an_engine_keeps_and_returns_the_stack(engine):
    stack = initial_stack([1, 2, 3], "gelu", inputs=77, units=45, classes=11)
    train = examples(70, classes=11, affine=NORMALIZED)
    kept = make(engine, stack, train)
    before = [array.copy() for array in arrays(stack)]
    assert_same(kept.stack(), stack)
    kept.advance(0, 1)
    for array, copy in zip(arrays(stack), before, strict=True):
        np.testing.assert_array_equal(array, copy)  # the engine has a copy


@both
@pytest.mark.parametrize("batch_size", [None, 48])
def test_a_run_alone_is_that_run_among_others(engine, batch_size):
    train, seeds = examples(200), [5, 6, 7, 8, 9, 10]
    stack = initial_stack(seeds, "relu", inputs=77, units=130)
    among = make(engine, stack, train, seeds=seeds, batch_size=batch_size)
    among.active[2] = False
    among.measure("train")
    among.advance(0, 6)
    among.active[0] = False
    among.advance(6, 9)
    alone = make(engine, Stack.of([stack[4]]), train, seeds=[9], batch_size=batch_size)
    alone.advance(0, 9)
    assert_same(Stack.of([among.stack()[4]]), alone.stack())
    for which in ("train", "test"):
        assert among.measure(which).loss[4] == alone.measure(which).loss[0]
        assert among.measure(which).correct[4] == alone.measure(which).correct[0]
    assert_same(Stack.of([among.stack()[2]]), Stack.of([stack[2]]))  # masked from the start
    assert np.isnan(among.measure("train").loss[[0, 2]]).all()
    assert not among.measure("train").correct[[0, 2]].any()


@pytest.mark.parametrize("affine", [RAW, NORMALIZED], ids=["raw", "normalized"])
@pytest.mark.parametrize("batch_size", [30, None])
def test_networks_trained_together_are_those_trained_alone(batch_size, affine):
    """A stack has all activations. Networks of a seed share batches; one is masked between updates."""
    train = examples(101, affine=affine)
    seeds = [7, 8] * len(ACTIVATIONS)
    alone = [initial_stack([7, 8], name, inputs=77, units=33) for name in ACTIVATIONS]
    # ENGINES has threads=2, and runs share batches if there are at least as many seeds
    together = make("fused", Stack.joined(alone), train, batch_size=batch_size, seeds=seeds)
    assert len(together._seed_groups) == 2
    together.advance(0, 5)
    together.active[2] = False
    together.advance(5, 9)
    trained, measured = together.stack(), together.measure("train")
    assert trained.activations == tuple(name for name in ACTIVATIONS for _ in range(2))
    for place, stack in enumerate(alone):
        engine = make("fused", stack, train, batch_size=batch_size, seeds=[7, 8])
        engine.advance(0, 5)
        engine.active[0] = place != 1
        engine.advance(5, 9)
        assert len(engine._seed_groups) == 2
        rows = slice(2 * place, 2 * place + 2)
        assert_same(trained.part(rows), engine.stack())
        np.testing.assert_array_equal(measured.loss[rows], engine.measure("train").loss)


def test_the_stacked_engine_refuses_networks_of_several_activations():
    stacks = [initial_stack([1], name, inputs=77) for name in ("relu", "abs")]
    with pytest.raises(InputError, match="one activation; got abs, relu; train them one after the other"):
        make("stacked", Stack.joined(stacks), examples(50))


@pytest.mark.parametrize("batch_size", [None, 48])
@pytest.mark.parametrize("affine", [RAW, NORMALIZED], ids=["raw", "normalized"])
def test_threads_change_nothing(batch_size, affine):
    train = examples(1500, affine=affine)  # more tiles than shards
    stack = initial_stack([1, 2, 3], "abs", inputs=77, units=33)
    results = []
    for threads in (1, 2, 3):
        trained = make("fused", stack, train, batch_size=batch_size, threads=threads)
        trained.advance(0, 5)
        results.append((trained.stack(), trained.measure("train"), trained.measure("test")))
    for stack_, *measured in results[1:]:
        assert_same(stack_, results[0][0])
        for one, two in zip(measured, results[0][1:], strict=True):
            np.testing.assert_array_equal(one.loss, two.loss)
            np.testing.assert_array_equal(one.correct, two.correct)


@both
@pytest.mark.parametrize("batch_size", [None, 48])
def test_resumed_is_uninterrupted_and_measuring_changes_nothing(engine, batch_size):
    train = examples(200, affine=NORMALIZED)
    stack = initial_stack([1, 2], "silu", inputs=77, units=20)
    whole = make(engine, stack, train, batch_size=batch_size)
    whole.advance(0, 11)
    first = make(engine, stack, train, batch_size=batch_size)
    first.measure("train")
    first.advance(0, 3)
    first.measure("train")
    first.measure("test")
    first.measure("train")
    first.advance(3, 4)
    second = make(engine, first.stack(), train, batch_size=batch_size)
    second.measure("test")
    second.advance(4, 11)
    assert_same(second.stack(), whole.stack())


@pytest.mark.parametrize("batch_size", [None, 48])
def test_products_that_runs_share_give_the_same_to_rounding(batch_size, monkeypatch):
    """All runs are in one product, the masked one too, as on other devices."""
    train, stack = examples(200), initial_stack([1, 2, 3], "abs", inputs=77, units=20)
    apart = make("stacked", stack, train, batch_size=batch_size)
    monkeypatch.setattr(StackedEngine, "_groups", [slice(0, 3)])
    together = make("stacked", stack, train, batch_size=batch_size)
    together.active[1] = apart.active[1] = False
    for engine in (apart, together):
        engine.measure("train")
        engine.advance(0, 5)
    one, two = together.measure("train"), apart.measure("train")
    np.testing.assert_allclose(one.loss, two.loss, rtol=1e-5)
    np.testing.assert_array_equal(one.correct, two.correct)
    for a, b in zip(arrays(together.stack()), arrays(apart.stack()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert_same(Stack.of([together.stack()[1]]), Stack.of([stack[1]]))


def test_precision_of_products_is_restored():
    train, stack = examples(50), initial_stack([1], "relu", inputs=77, units=20)
    before = torch.get_float32_matmul_precision()
    make("stacked", stack, train, precision="tf32").advance(0, 1)
    assert torch.get_float32_matmul_precision() == before


@both
def test_a_run_unmasked_between_measurement_and_update_gets_its_own_gradient(engine):
    train, stack = examples(100), initial_stack([1, 2], "relu", inputs=77, units=20)
    straight, late = make(engine, stack, train), make(engine, stack, train)
    straight.advance(0, 1)
    late.active[1] = False
    late.measure("train")
    late.active[1] = True
    late.advance(0, 1)
    assert_same(late.stack(), straight.stack())


@both
def test_seeds_decide_the_order_of_examples(engine):
    train, stack = examples(100), initial_stack([1, 1], "relu", inputs=77, units=20)
    trained = make(engine, stack, train, seeds=[1, 2], batch_size=30)
    trained.advance(0, 1)
    assert (trained.stack().w1[0] != trained.stack().w1[1]).any()


@both
@pytest.mark.parametrize("activation", ["relu", "abs", "sigmoid"])
@pytest.mark.parametrize("name", ["w1", "b1", "w2", "b2"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_give_nan_and_do_not_affect_other_runs(engine, activation, name, value):
    train, stack = examples(100), initial_stack([1, 2], activation, inputs=77, units=20)
    healthy = make(engine, Stack.of([stack[1]]), train, seeds=[1])
    healthy.advance(0, 2)
    getattr(stack, name)[0].flat[5] = value
    trained = make(engine, stack, train)
    measured = trained.measure("train")
    assert not np.isfinite(measured.loss[0])
    assert np.isfinite(measured.loss[1])
    trained.advance(0, 2)
    assert not np.isfinite(trained.measure("train").loss[0])
    assert_same(Stack.of([trained.stack()[1]]), healthy.stack())


@both
@pytest.mark.parametrize("batch_size", [None, 32])
def test_a_run_that_diverges_has_a_loss_that_is_not_finite(engine, batch_size):
    train, stack = examples(100), initial_stack([1], "relu", inputs=77, units=20)
    trained = make(engine, stack, train, batch_size=batch_size, learning_rate=1e30)
    trained.advance(0, 4)
    assert not np.isfinite(trained.measure("train").loss[0])


@pytest.mark.parametrize("activation", ["relu", "abs"])
def test_loss_curves_differ_as_those_of_two_orders_of_sums_do(activation):
    """The bound comes from plain PyTorch's curves with examples and pixels in order and reversed."""
    values, labels = load_digits(return_X_y=True)
    train = Examples(Pixels((values * 15).astype(np.uint8)), labels.astype(np.int64))
    stack = initial_stack([0], activation, inputs=64, units=128)
    plain, mirrored = (float32_curve(stack[0], train, steps=60, mirror=mirror) for mirror in (False, True))
    assert plain[-1] < 0.1 * plain[0]
    bound = 10 * np.abs(mirrored - plain).max()
    assert 0 < bound < 1e-4 * plain[0]
    for engine in ENGINES:
        trained, curve = make(engine, stack, train, learning_rate=1e-4), []
        for step in range(60):
            curve.append(trained.measure("train").loss[0])
            trained.advance(step, step + 1)
        assert np.abs(np.array(curve) - plain).max() < bound, engine


@pytest.mark.parametrize("batch_size", [None, 256])
def test_leaving_out_examples_without_a_loss_costs_no_precision(batch_size, mnist_5k):
    """The gradient of a network that fits most examples has an error as in plain float32, against float64."""
    pixels, labels = mnist_5k.train.pixels[:1000], mnist_5k.train.labels[:1000].astype(np.int64)
    train = Examples(Pixels(pixels), labels)
    fitting = FusedEngine(
        initial_stack([0], "abs"), train, train, seeds=[0], learning_rate=1e-3, batch_size=100, threads=1
    )
    fitting.advance(0, 300)
    stack, rate = fitting.stack(), 1e8  # a step so long that the rounding of weights is negligible
    (rows,) = batches(0, len(train), batch_size, 1)
    engine = FusedEngine(stack, train, train, seeds=[0], learning_rate=rate, batch_size=batch_size, threads=1)
    engine.advance(0, 1)
    after = arrays(engine.stack())
    gradients = {}
    for dtype in (torch.float64, torch.float32):
        module = stack[0].to_module().to(dtype)
        logits = module(torch.from_numpy(train.pixels.values[rows]).to(dtype))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]))
        gradients[dtype] = [
            gradient.double() for gradient in torch.autograd.grad(loss, list(module.parameters()))
        ]
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels[rows]), reduction="none")
    assert (losses == 0).float().mean() > 0.5  # plain float32 has losses of 0 too
    for before, moved, exact, plain in zip(arrays(stack), after, *gradients.values(), strict=True):
        ours = (before[0].astype(np.float64) - moved[0]) / rate
        allowed = 4 * torch.linalg.norm(plain - exact)
        assert np.linalg.norm(ours - exact.numpy()) < allowed


def float32_curve(network, train, steps, mirror):
    module, x, y = network.to_module(), torch.from_numpy(train.pixels.dense()), torch.from_numpy(train.labels)
    if mirror:
        x, y = x.flip(0, 1), y.flip(0)
        module[0].weight.data = module[0].weight.data.flip(1)
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    curve = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), y)
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return np.array(curve)


@both
def test_measurements_count_the_first_of_equal_logits(engine):
    train = examples(80)
    stack = initial_stack([1], "relu", inputs=77, units=20)
    for array in arrays(stack):
        array[:] = 0
    stack.b2[:, 3:] = 1
    measured = make(engine, stack, train).measure("train")
    assert measured.correct[0] == np.count_nonzero(train.labels == 3)
    expected = np.log(7 * np.e + 3) - np.mean(train.labels >= 3)
    assert measured.loss[0] == pytest.approx(expected, rel=1e-6)


@both
def test_arguments_that_do_not_fit_are_refused(engine):
    train, stack = examples(30), initial_stack([1, 2], "relu", inputs=77, units=20)
    with pytest.raises(InputError, match="a stack of 2 runs needs as many seeds; got 1"):
        make(engine, stack, train, seeds=[1])
    with pytest.raises(
        InputError, match="batch_size must be at least 1, or None for the whole training set; got 0"
    ):
        make(engine, stack, train, batch_size=0)
    with pytest.raises(InputError, match="images of the training set have 76 pixels; the networks take 77"):
        make(engine, stack, examples(30, inputs=76))
    with pytest.raises(InputError, match="the training set has 30 images and 29 labels"):
        make(engine, stack, Examples(train.pixels, train.labels[1:]))
    with pytest.raises(
        InputError, match=r"labels of the training set go from \d to 10; the networks have classes 0 to 9"
    ):
        make(engine, stack, Examples(train.pixels, np.where(train.labels == 9, 10, train.labels)))
    with pytest.raises(
        InputError, match=r"must have the same gain and shift of pixels; got \(1.0, 0.0\) and \(0.01.*\)"
    ):
        ENGINES[engine](
            stack, train, examples(30, affine=NORMALIZED), seeds=[1, 2], learning_rate=0.1, batch_size=None
        )
