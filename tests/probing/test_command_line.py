"""The commands `nearzero layers` and `nearzero probe`, with models, weights and data given by name."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run
from safetensors.torch import save_file
from torch import nn

import nearzero as nz

CODE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))

def fails():
    raise KeyError("no such thing")

def leaves():
    raise SystemExit(7)

def nothing():
    pass

def batches():
    return [(torch.arange(24.0).view(4, 6) / 10, torch.tensor([0, 1, 2, 0]))]

number = 3
model = build()

class Holder:
    build = staticmethod(build)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter a folder that holds a module with models, and data."""
    (tmp_path / "kept_models.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "ends.py").write_text("import sys; sys.exit(0)\n")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 6)).astype(np.float32), rng.integers(0, 3, 20)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    save_file({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, tmp_path / "data.safetensors")
    np.savez(tmp_path / "other.npz", z=x)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}], dtype=object))
    (tmp_path / "empty.npz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    known, paths = set(sys.modules), list(sys.path)
    yield tmp_path
    sys.path[:] = paths
    for name in set(sys.modules) - known:
        if name in ("kept_models", "broken", "ends"):
            del sys.modules[name]


def build() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))


def files(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if "__pycache__" not in each.parts}


def test_layers(folder, capsys):
    for model in (
        "kept_models:build",
        "kept_models.py:build",
        "kept_models:model",
        "kept_models:Holder.build",
    ):
        code, out, err = run(capsys, "layers", model, "--data", "data.npz", "--pixels", "unit")
        assert (code, err) == (0, "")
        lines = [line.split() for line in out.splitlines()]
        assert lines[0] == ["layer", "kind", "type", "shape", "units", "unit", "axis", "activation"]
        assert lines[2] == ["0", "linear", "Linear", "Nx8", "8", "1", "gelu"]
        assert [line[-1] for line in lines[2:7]] == ["gelu", "gelu", "tanh", "tanh", "none"]
        assert re.split(r"\n\n|; |\n", out.rstrip())[-2:] == [
            "5 layers",
            f"next: nearzero probe {model} --data data.npz --pixels unit",
        ]


@pytest.mark.parametrize("data", ["data.npz", "data.safetensors", "kept_models:batches", "x.npy"])
def test_probe_writes_what_the_library_gives(data, folder, capsys):
    code, out, err = run(
        capsys,
        "probe",
        "kept_models.py:build",
        "--data",
        data,
        "--layer",
        "1",
        "--layer",
        "[34]",
        "--levels",
        5,
        "--family",
        "scale",
        "--family",
        "clip",
        "--out",
        "made/result",
    )
    assert (code, err) == (0, "")
    assert "The responses, their table and the figure are in made/result." in out
    assert "nearzero page made/result" in out
    made = {Path(each).name for each in files(folder / "made" / "result")}
    assert made == {"probe.nc", "response.csv", "layers.png", "layers.pdf"}
    kept = nz.ProbeResult.open("made/result")
    assert kept.layers == ["1", "3", "4"]
    x, y = np.load("data.npz")["x"], np.load("data.npz")["y"]
    given = {"x.npy": x, "kept_models:batches": None}.get(data, (x, y))
    if given is not None:
        found = nz.probe(build(), given, ["1", "3", "4"], families=["scale", "clip"], levels=5)
        for name in found.response.attrs["metrics"]:
            np.testing.assert_array_equal(kept.response[name], found.response[name])
    assert kept.response.attrs["metrics"] == (
        ["agreement", "kl_divergence"] if data == "x.npy" else ["accuracy", "agreement"]
    )


def test_quiet_prints_nothing(folder, capsys):
    assert run(capsys, "probe", "kept_models:build", "--data", "data.npz", "--levels", 2, "-q") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing_there:build"], "nothing_there can't be imported: ModuleNotFoundError: No module named"),
        (["kept_models"], "a model is named package.module:function or file.py:function; got 'kept_models'"),
        (["kept_models:"], "a model is named package.module:function"),
        (["nowhere.py:build"], "there is no file nowhere.py"),
        (["kept_models:made"], "kept_models has no 'made'"),
        (["kept_models:bild"], "kept_models has no 'bild': did you mean 'build'?"),
        (["kept_models:number"], "kept_models:number is an int, not a function that builds a model"),
        (["kept_models:fails"], "kept_models:fails fails: KeyError: 'no such thing'"),
        (["kept_models:leaves"], "kept_models:leaves fails: SystemExit: 7"),
        (["kept_models:nothing"], "model must be a torch.nn.Module; got NoneType"),
        (
            ["broken:build"],
            "broken can't be imported: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        ),
        (["ends:build"], "ends can't be imported: SystemExit: 0"),
        (["kept_models:build", "--data", "nowhere.npz"], "there is no file nowhere.npz"),
        (["kept_models:build", "--data", "nist"], "nist"),
        (
            ["kept_models:build", "--data", "other.npz"],
            "other.npz must hold arrays x and perhaps y; it holds z",
        ),
        (
            ["kept_models:build", "--data", "objects.npz"],
            "objects.npz can't be read (ValueError: Object arrays cannot",
        ),
        (["kept_models:build", "--data", "empty.npz"], "empty.npz can't be read (EOFError"),
        (["kept_models:build", "--data", "kept_models:number"], "data must be an iterable of batches"),
        (["kept_models:build", "--data", "kept_models:fails"], "kept_models:fails fails: KeyError"),
        (["kept_models:build", "--data", "digits"], "can't be run on a batch of float32 (2, 1, 8, 8): "),
        (
            ["kept_models:build", "--data", "digits", "--pixels", "half"],
            "unknown pixels 'half': known are raw, ",
        ),
        (
            ["kept_models:build", "--data", "digits", "--pixels", "unti"],
            "'unti': did you mean 'unit'? known are raw, ",
        ),
        (
            ["kept_models:build", "--data", "digits", "--split", "tests"],
            "'tests': did you mean 'test'? known are",
        ),
        (["kept_models:build", "--weights", "nowhere.pt"], "there is no file nowhere.pt"),
    ],
)
@pytest.mark.parametrize("command", ["layers", "probe"])
def test_bad_input_is_one_line_and_exit_code_2(command, arguments, message, folder, capsys):
    before = files(folder)
    more = [] if "--data" in arguments else ["--data", "data.npz"]
    out = ["--out", "result"] if command == "probe" else []
    code, printed, err = run(capsys, command, *arguments, *more, *out)
    assert (code, printed) == (2, "")
    assert err.startswith("nearzero: ")
    assert err.count("\n") == 1
    assert message in err
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "5"], "there is no layer '5'"),
        (["--layer", "conv*"], "no layer matches 'conv*'; the layers are 0, 1, 2, 3, 4"),
        (["--family", "ofset"], "unknown family 'ofset': did you mean 'offset'?"),
        (["--metric", "accuracie"], "unknown metric 'accuracie': did you mean 'accuracy'?"),
        (["--levels", "0"], "levels must be at least 1; got 0"),
        (["--levels", "many"], "Invalid value for '--levels'"),
        (["--memory", "lots"], "memory"),
        (["--device", "cuda:99"], "device cuda:99 isn't available here"),
        (["--device", "gpu"], "device gpu isn't available here"),
        (["--batch-size", "0"], "batch_size must be a whole number, at least 1; got 0"),
        (["--nonsense"], "No such option"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(arguments, message, folder, capsys):
    before = files(folder)
    code, printed, err = run(
        capsys, "probe", "kept_models:build", "--data", "data.npz", "--out", "result", *arguments
    )
    assert (code, printed) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert files(folder) == before
    run(capsys, "probe", "kept_models:build", "--data", "data.npz", "--out", "a/b/c", *arguments)
    assert files(folder) == before


def test_a_folder_that_cant_be_written_to(folder, capsys):
    (folder / "taken").write_text("")
    code, _, err = run(capsys, "probe", "kept_models:build", "--data", "data.npz", "--out", "taken")
    assert code == 2
    assert err.count("\n") == 1
    assert "taken" in err


def test_an_existing_folder_is_kept(folder, capsys):
    (folder / "mine").mkdir()
    assert (
        run(capsys, "probe", "kept_models:build", "--data", "data.npz", "--out", "mine", "--layer", "9")[0]
        == 2
    )
    assert (folder / "mine").is_dir()


# --- weights --------------------------------------------------------------------------------------------------------


class Runs:
    """An object that writes a file when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def other_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(9)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).state_dict()


@pytest.mark.parametrize("kind", ["w.safetensors", "w.pt", "w.pth", "w.bin", "state_dict", "model"])
def test_weights_of_every_kind(kind, folder, capsys):
    state = other_weights()
    if kind.endswith("safetensors"):
        save_file(state, kind)
    else:
        torch.save(
            {kind: state} if "." not in kind else state, f"w.{kind.split('.')[-1]}" if "." in kind else "w.pt"
        )
    name = kind if "." in kind else "w.pt"
    arguments = ("--data", "data.npz", "--levels", 3, "--out", "result", "--weights", name, "-q")
    assert run(capsys, "probe", "kept_models:build", *arguments) == (0, "", "")
    model = build()
    model.load_state_dict(state)
    saved = np.load("data.npz")
    found = nz.probe(model, (saved["x"], saved["y"]), levels=3).response
    kept = nz.ProbeResult.open("result").response
    np.testing.assert_array_equal(kept.accuracy, found.accuracy)
    np.testing.assert_array_equal(kept.agreement, found.agreement)


def pickled(name):
    Path(name).write_bytes(pickle.dumps({"0.weight": Runs()}))


def saved_by_torch(name):
    torch.save({"0.weight": Runs()}, name)


def saved_whole(name):
    torch.save(build(), name)


@pytest.mark.parametrize(
    ("write", "name", "message"),
    [
        (pickled, "bad.pt", "bad.pt holds more than tensors, and nothing is unpickled"),
        (
            saved_by_torch,
            "bad.pt",
            "bad.pt holds more than tensors, and nothing is unpickled; save model.state_dict()",
        ),
        (saved_by_torch, "bad.pth", "bad.pth holds more than tensors"),
        (saved_whole, "whole.pt", "whole.pt holds more than tensors, and nothing is unpickled"),
        (
            lambda name: torch.save(torch.ones(3), name),
            "tensor.pt",
            "tensor.pt holds a Tensor, not a state dict",
        ),
        (lambda name: Path(name).write_bytes(b"not weights"), "w.pt", "w.pt "),
        (lambda name: Path(name).write_bytes(b"not weights"), "w.safetensors", "can't be read as weights"),
        (lambda name: Path(name).write_bytes(b""), "w.bin", "w.bin can't be read as weights"),
        (
            lambda name: Path(name).write_bytes(b""),
            "w.h5",
            "weights are read from .safetensors, .pt, .pth, .pth.tar, .th, .bin, .ckpt, .pkl files; got w.h5",
        ),
        (
            lambda name: torch.save({"0.weight": torch.ones(2, 2)}, name),
            "w.pt",
            "don't fit the model: size mismatch",
        ),
        (
            lambda name: torch.save({"a.b": torch.ones(2)}, name),
            "w.pt",
            "don't fit the model: the file lacks 0.weight",
        ),
        (
            lambda name: torch.save({"0.weight": torch.ones(8, 6), "z": torch.ones(2)}, name),
            "w.pt",
            "the file lacks 0.bias, 2.weight, 2.bias and 2 more; the model has no z",
        ),
    ],
)
def test_weights_that_cant_be_loaded_run_nothing(write, name, message, folder, capsys):
    write(name)
    before = files(folder)
    code, printed, err = run(
        capsys, "probe", "kept_models:build", "--data", "data.npz", "--weights", name, "--out", "result"
    )
    assert (code, printed) == (2, "")
    assert err.count("\n") == 1
    assert message in err
    assert not Path("ran").exists()
    assert files(folder) == before


def test_the_pickle_would_have_run(folder):
    """Shows that the test above can fail."""
    saved_by_torch("bad.pt")
    torch.load("bad.pt", weights_only=False)
    assert Path("ran").exists()


def test_assumptions_are_printed_and_set(folder, capsys):
    command = ("probe", "kept_models:build", "--data", "data.npz", "--layer", "1", "--levels", 2)
    code, out, _ = run(capsys, *command)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["output", "logits"] in [line[:2] for line in lines]
    assert {"output_kind=", "class_axis=", "unit_axis=", "conduct="} <= {line[-1] for line in lines if line}
    code, _, err = run(capsys, *command, "--output-kind", "probabilities", "--class-axis", "1")
    assert (code, "is read as probabilities, but holds other values" in err) == (2, True)
    code, out, err = run(capsys, *command, "--class-axis", "2")
    assert (code, "class_axis=2 isn't a dimension of classes" in err) == (2, True)


@pytest.mark.parametrize(("option", "items"), [([], 10), (["--causal"], 10), (["--no-causal"], 12)])
def test_causality_can_be_given(option, items, tmp_path, monkeypatch, capsys):
    (tmp_path / "copies.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build(): torch.manual_seed(0); return nn.Sequential(nn.Embedding(5, 4), nn.ReLU(), nn.Linear(4, 5))\n"
        "def data(): ids = torch.arange(12).view(2, 6) % 5; return [(ids, ids)]\n"
    )
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "probe", "copies.py:build", "--data", "copies.py:data", "--levels", 1, *option)
    assert code == 0
    assert f"{items} items" in out
