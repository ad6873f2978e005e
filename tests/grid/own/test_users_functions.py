"""Functions of a user's that can't be used end in one line; runs that diverge are lost and not an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from torch import nn
from torch.nn import functional

import nearzero as nz
from nearzero.evaluators.base import halves

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CODE = """
import numpy as np
import torch
from torch import nn

DRAWS = np.random.default_rng(0)


def build(width=5):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def train(model, data, rate=1.0):
    with torch.no_grad():
        for weight in model.parameters():
            weight += rate * 0.01 * torch.randn_like(weight)
"""
SPEC = """
title = "Own"
vary = "rate"
values = [1.0]

[network]
build = "networks.py:build"
train = "networks.py:train"
data = "digits"
runs = 2

[network.probe]
examples = 40

[study]
verdict_targets = [0.5]
verdict_draws = 1
verdict_checks = []
"""


def written(folder: Path, spec: str = SPEC, code: str = CODE) -> Path:
    """Return the path of a spec, with the code beside it."""
    (folder / "networks.py").write_text(code)
    (folder / "own.toml").write_text(spec)
    return folder / "own.toml"


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nearzero.report.figures.style.DOTS_PER_INCH", 20)
    monkeypatch.chdir(tmp_path)


SPECS = {
    "rate = ": (
        '"rate"',
        '"rtae"',
        "vary = 'rtae' isn't an argument of networks.py:build or networks.py:train: did",
    ),
    "argument": (
        "[network.probe]",
        "[network.arguments]\nwidht = 3\n[network.probe]",
        "did you mean 'width'? they",
    ),
    "function": ("py:train", "py:trian", "networks.py has no 'trian': did you mean 'train'?"),
    "file": ("networks.py:build", "network.py:build", "there is no file network.py"),
    "module": ("networks.py:build", "no.such:build", "no.such can't be imported: ModuleNotFoundError"),
    "form": (
        "networks.py:build",
        "networks.py",
        "build is named file.py:function or package.module:function",
    ),
    "data": ('"digits"', '"digts"', "unknown data set 'digts'; did you mean 'digits'?"),
    "no data": ('data = "digits"', "", "[network] needs data: the name of a data set, or file.py:function"),
    "layer": (
        "runs = 2",
        'runs = 2\nlayers = ["relu"]',
        "rate 1: there is no layer 'relu': the layers are 1, 2, 3",
    ),
    "probe": (
        "examples = 40",
        "exmples = 40",
        "unknown key 'exmples' in [network.probe]: did you mean 'examples'?",
    ),
    "many": ("examples = 40", "examples = 4000", "examples = 4000, but the split has 355"),
    "metric": ("examples = 40", 'metric = "loss"', "should be 'accuracy', 'agreement' or 'cross_entropy'"),
    "margin": (
        "examples = 40",
        'metric = "cross_entropy"',
        "needs a margin in nats, the smallest rise of the loss",
    ),
    "key": ("runs = 2", "rums = 2", "unknown key 'rums' in [network]: did you mean 'runs'?"),
    "study": ("verdict_draws = 1", "steps = 3", "[study] has the rules of the verdict alone; got 'steps'"),
    "twice": (
        "[network.probe]",
        "[network.arguments]\nrate = 3\n[network.probe]",
        "rate varies, so it can't be under",
    ),
    "seed": (
        "[network.probe]",
        "[network.arguments]\nseed = 3\n[network.probe]",
        "set first_seed under [network]",
    ),
    "labels": (
        'vary = "rate"\nvalues = [1.0]',
        'vary = "rate"\nvalues = [1.0, "rate 1"]',
        "must differ in their names",
    ),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_spec_that_cant_be_used_ends_in_a_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is trained, and the corrected spec can be run in the same folder."""
    before, after, message = SPECS[case]
    assert SPEC.count(before)
    code, out, err = run(
        capsys, "grid", written(tmp_path, SPEC.replace(before, after, 1)), "--out", "out", "--quiet"
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "bug" not in err
    assert not list(tmp_path.rglob("*.safetensors"))
    assert nz.Grid.create("out", written(tmp_path)).spec.network is not None


CODES = {
    "build fails": (
        "return nn.Sequential(",
        "raise KeyError('no')\n    return (",
        "py:build fails: KeyError: 'no' (networks.py, line 10)",
    ),
    "no module": (
        "return nn.Sequential(",
        "return 3, (",
        "networks.py:build: model must be a torch.nn.Module; got",
    ),
    "train fails": (
        "with torch.no_grad():",
        "if 1 / 0:",
        "run 0: networks.py:train fails: ZeroDivisionError: division by zero (networks.py, line 14)",
    ),
    "trains nothing": (
        "+= rate *",
        "+= 0 *",
        "networks.py:train returned nothing and left the weights of seed 0 as they were",
    ),
    "returns else": (
        "with torch.no_grad():",
        "return {}\n    if 1:",
        "networks.py:train must return the trained module, or nothing",
    ),
    "own generator": (
        "return nn.Sequential(",
        "torch.manual_seed(int(DRAWS.integers(99)))\n    return nn.Sequential(",
        "makes other weights in every call with the same seed",
    ),
    "same weights": (
        "import torch\n",
        "import torch\ntorch.manual_seed = lambda seed: torch.default_generator.manual_seed(5)\n",
        "runs 0 and 1 have the same weights, so they aren't trainings of their own",
    ),
    "other form": (
        "with torch.no_grad():",
        "return nn.Linear(2, 2)\n    if 1:",
        "the weights of the trained module don't fit what networks.py:build makes",
    ),
    "one argument": (
        "def train(model, data, rate=1.0)",
        "def train(model, *, rate=1.0)",
        "networks.py:train must take 2 arguments by position",
    ),
    "needs more": (
        "def build(width=5)",
        "def build(width)",
        "networks.py:build needs the argument 'width'; give it under [network.arguments]",
    ),
    "syntax": ("def build(width=5)", "def build(width=5", "networks.py can't be imported: SyntaxError"),
    "import": (
        "import numpy as np",
        "import numpyy as np",
        "networks.py can't be imported: ModuleNotFoundError: No module named 'numpyy' (networks.py, line 2)",
    ),
    "no function": ("def build(width=5):\n    return ", "build = ", "NameError: name 'width' is not defined"),
}


@pytest.mark.parametrize("case", CODES)
def test_a_function_that_cant_be_used_ends_in_a_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "manual_seed", torch.manual_seed)  # put back what the code changes
    before, after, message = CODES[case]
    assert CODE.count(before)
    spec = written(tmp_path, code=CODE.replace(before, after, 1))
    code, out, err = run(capsys, "grid", spec, "--out", "out", "--quiet")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert "bug" not in err


def test_runs_that_diverge_are_lost(tmp_path: Path) -> None:
    code = CODE.replace("def train(model, data, rate=1.0)", "def train(model, data, seed, rate=1.0)")
    code = code.replace("rate * 0.01", "(float('nan') if seed == 1 else rate) * 0.01")
    grid = nz.Grid.create("out", written(tmp_path, SPEC.replace("runs = 2", "runs = 3"), code)).run()
    assert grid.notices == ("1 of 3 runs of rate 1 diverged",)
    assert np.isfinite(grid.responses.unperturbed_accuracy.values).tolist() == [[True, False, True]]
    assert "| rate 1 | 1 | 1 | – | lost |" in (grid.folder / "tables" / "runs.md").read_text()


def test_what_a_run_leaves_behind_doesnt_reach_the_next(tmp_path: Path) -> None:
    """A generator of the module, a global switch and the data: each run gets them as they were at first."""
    code = CODE.replace(
        "    with torch.no_grad():",
        "    torch.set_default_dtype(torch.float64)\n"
        "    assert float(data[0].max()) == 1.0\n"
        "    data[0][:] = 7\n"
        "    with torch.no_grad():\n"
        "        model[1].bias += float(DRAWS.normal())",
    )
    both = nz.Grid.create("both", written(tmp_path, code=code)).run(networks="first")
    assert torch.get_default_dtype() == torch.float32
    one = nz.Grid.create("one", written(tmp_path, SPEC.replace("runs = 2", "runs = 1\nfirst_seed = 1"), code))
    one.run(networks="second")
    first, second = (next(Path(folder).rglob("seed-0001.safetensors")) for folder in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert both.responses.sizes["run"] == 2


def test_a_builder_without_the_seed_gets_a_notice(tmp_path: Path) -> None:
    code = CODE.replace(
        "    return nn", "    state = torch.get_rng_state()\n    torch.manual_seed(5)\n    made = nn"
    )
    code = code.replace(
        "nn.Linear(width, 10))\n", "nn.Linear(width, 10))\n    torch.set_rng_state(state)\n    return made\n"
    )
    grid = nz.Grid.create("out", written(tmp_path, code=code)).run()
    assert grid.notices == (
        "all runs of rate 1 begin with the same weights: networks.py:build makes them without the seed",
    )


def test_helpers_beside_the_code_are_part_of_it(tmp_path: Path) -> None:
    code = CODE.replace("import torch\n", "import torch\nimport shapes\n").replace(
        "width=5", "width=shapes.WIDTH"
    )
    (tmp_path / "shapes.py").write_text("WIDTH = 4\n")
    spec = written(tmp_path, code=code)
    grid = nz.Grid.create("out", spec).run()
    assert set(grid.provenance["code"]) == {"../networks.py", "../shapes.py"}
    (tmp_path / "shapes.py").write_text("WIDTH = 6\n")
    with pytest.raises(nz.InputError, match=r"was begun with other code \(shapes.py\)"):
        nz.Grid.create("out", spec).run()
    other = nz.Grid.create("other", spec).run()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    assert not other.responses.equals(grid.responses)


def test_data_can_vary_and_networks_can_be_used_as_they_are_built(tmp_path: Path) -> None:
    spec = SPEC.replace('vary = "rate"\nvalues = [1.0]', 'vary = "data"\nvalues = ["digits"]')
    spec = spec.replace('data = "digits"\n', "").replace(
        'train = "networks.py:train"\n', 'pixels = "normalized"\n'
    )
    grid = nz.Grid.create("out", written(tmp_path, spec)).run()
    assert grid.responses.network.values.tolist() == ["digits, 2"]
    data = nz.datasets.load("digits")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    images = torch.from_numpy(data.test.images).float()[:40] / data.white
    logits = model((images - data.mean) / data.std)
    right = (logits.argmax(1).numpy() == data.test.labels[:40]).astype(float)
    _, responding = halves(40, 0)
    assert float(grid.responses.unperturbed_accuracy[0, 1]) == pytest.approx(right[responding].mean())


UNLABELLED = """

def data():
    print("hello")
    return {"train": torch.rand(9, 64), "test": torch.rand(40, 64)}
"""


def test_data_without_labels_are_judged_by_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the user's code prints doesn't get into the JSON."""
    spec = SPEC.replace('"digits"', '"networks.py:data"').replace("examples = 40", 'metric = "agreement"')
    code, out, err = run(capsys, "grid", written(tmp_path, spec, CODE + UNLABELLED), "--out", "out", "--json")
    assert code == 0
    assert "hello" in err
    tables = json.loads(out)["tables"]
    assert set(tables) >= {"grid", "verdict", "runs"}
    grid = nz.Grid.open("out")
    assert grid.verdict().rules.measure == "agreement"
    assert "unperturbed_accuracy" not in grid.responses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "return [3]",
            'networks.py:data must return {"train": ..., "test": ...}, each in a form that nz.probe',
        ),
        ("return {'train': 3}", "'test' is missing from train"),
        (
            "return {'train': 3, 'test': 3}",
            "rate 1: data must be an iterable of batches, a Dataset, or arrays",
        ),
        (
            "import time; return {'train': torch.tensor(time.perf_counter_ns()), 'test': 3}",
            "gives other data than when this",
        ),
    ],
)
def test_data_that_cant_be_used_end_in_a_line(
    change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SPEC.replace('"digits"', '"networks.py:data"').replace("examples = 40", 'metric = "agreement"')
    code = CODE + UNLABELLED.replace('print("hello")', change)
    status, out, err = run(capsys, "grid", written(tmp_path, spec, code), "--out", "out", "--quiet")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


LANGUAGE = """
import torch
from torch import nn
from torch.nn import functional

TOKENS, WIDTH = 7, 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(TOKENS, WIDTH)
        self.up, self.act, self.down = nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH)
        self.head = nn.Linear(WIDTH, TOKENS, bias=False)
        self.head.weight = self.embed.weight  # tied

    def forward(self, input_ids):
        x = self.embed(input_ids)
        return self.head(x + self.down(self.act(self.up(x))))


def data():
    chain = torch.arange(40 * 10).reshape(40, 10) * 3 % TOKENS
    blocks = torch.where(torch.rand(40, 10) < 0.2, torch.randint(TOKENS, (40, 10)), chain)
    return {name: [{"input_ids": part, "labels": part}] for name, part in (("train", blocks), ("test", blocks[:16]))}


def train(model, data, steps):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(steps):
        ids = data[0]["input_ids"]
        loss = functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model
"""


def test_a_language_model_is_judged_by_its_loss(tmp_path: Path) -> None:
    """The reference is a plain pass: the rise of the mean loss per token under a shift, in nats."""
    spec = SPEC.replace('vary = "rate"\nvalues = [1.0]', 'vary = "steps"\nvalues = [60]')
    spec = spec.replace('"networks.py:build"', '"networks.py:Model"').replace(
        '"digits"', '"networks.py:data"'
    )
    spec = spec.replace("examples = 40", 'metric = "cross_entropy"\ncausal = true')
    spec = spec.replace("verdict_draws = 1", "verdict_draws = 1\nverdict_margin = 0.01")
    spec = spec.replace("verdict_checks = []", 'verdict_checks = ["centred_accuracy", "whitened"]')
    grid = nz.Grid.create("out", written(tmp_path, spec, LANGUAGE)).run()
    judged = grid.verdict()
    assert (judged.rules.measure, judged.rules.unit) == ("cross_entropy", "nats")
    assert judged.networks == ("steps 60, act",)
    assert set(judged.checks) == {"centred_accuracy", "whitened"}

    scope: dict[str, object] = {"__name__": "language"}
    exec(LANGUAGE, scope)
    torch.manual_seed(0)
    ids = scope["data"]()["test"][0]["input_ids"]  # type: ignore[operator]
    model = scope["Model"]()  # type: ignore[operator]
    nz.load_weights(model, next(tmp_path.rglob("seed-0001.safetensors")))
    reference, responding = halves(16, 0)

    def loss(shift: torch.Tensor | None = None) -> float:
        hook = (
            None
            if shift is None
            else model.act.register_forward_pre_hook(lambda _, given: (given[0] + shift,))
        )
        with torch.no_grad():
            logits = model(ids[responding])
        if hook is not None:
            hook.remove()
        return float(
            functional.cross_entropy(logits[:, :-1].flatten(0, 1).double(), ids[responding][:, 1:].flatten())
        )

    own = grid.responses.sel(network="steps 60, act", run=1, family="shift", side="above", target=0.5)
    with torch.no_grad():
        z = model.up(model.embed(ids[reference])).flatten(0, 1)
    level, width = float(own.level), z.amax(0) - z.amin(0)
    assert float(own.unperturbed_cross_entropy) == pytest.approx(loss(), rel=1e-5)
    assert float(own.cross_entropy) == pytest.approx(loss(level * width), rel=1e-4)
    below = grid.responses.cross_entropy.sel(
        network="steps 60, act", run=1, family="shift", side="below", target=0.5
    )
    rise = (float(own.cross_entropy) + float(below)) / 2 - float(own.unperturbed_cross_entropy)
    cost = judged.costs.sel(network="steps 60, act", run=1, family="shift", target=0.5)
    assert float(cost) == pytest.approx(rise)
    table = (grid.folder / "tables" / "verdict.csv").read_text().splitlines()[0]
    assert "difference_nats" in table
    assert "distance_cost_nats" in table
    text = (grid.folder / "tables" / "grid.md").read_text()
    assert "| cross-entropy, nats |" in text
    assert "in nats of cross-entropy" in text
    assert "points" not in text
    assert "centred cross-entropy" in (grid.folder / "tables" / "robust.md").read_text()
