"""Errors in a user's model or data: one line that names the user's own file and line, and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import beside_progress, run

import nearzero as nz
from nearzero import cli
from nearzero.support import users

CODE = """
import os, sys
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

def build():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

def embeds():
    return nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))

def batch(n=4):
    return torch.linspace(0, 1, 6 * n).view(n, 6), torch.zeros(n).long()

def two():
    return [batch(), batch(5)]

def token():
    return [(torch.full((4, 6), number), torch.zeros(4).long()) for number in (3, 25)]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = build()

    def forward(self, x):
        if len(x) == 5:
            self.trouble()  # here
        return self.layers(x)

class Raises(Net):
    def trouble(self):
        raise KeyError("five")  # raises

class Leaves(Net):
    def trouble(self):
        sys.exit(3)  # leaves

class Odd(BaseException):
    pass

class Oddly(Net):
    def trouble(self):
        raise Odd  # oddly

class Opens(Net):
    def trouble(self):
        open("nowhere.txt")  # opens

class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = build()

    def forward(self, x):
        y = self.layers(x)
        assert float(y.detach().abs().max()) < 1.5, "too large"  # picky
        return y

class Nowhere(Net):  # nowhere
    def forward(self, x):
        return self.layers(x.relu()).to("meta" if len(x) == 5 else "cpu")

class Items(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, i):
        if i == 9:
            raise ValueError("item nine\\nis bad")  # item
        return torch.full((6,), float(i)), i % 3

def items():
    return Items()

class Objects(Items):
    def __getitem__(self, i):
        return object(), 0

def objects():  # objects
    return Objects()

def generator():
    yield batch()
    {}["key"]  # generator

class Good(Items):
    def __getitem__(self, i):
        return torch.full((6,), float(i)), i % 3

def spawned():
    return DataLoader(Good(), 4, num_workers=1, multiprocessing_context="spawn")

def spawned_bad():
    return DataLoader(Items(), 4, num_workers=1, multiprocessing_context="spawn")

def unpicklable():  # unpicklable
    return DataLoader(Good(), 4, num_workers=1, multiprocessing_context="spawn", collate_fn=lambda items: items)

def fails():
    return 1 / 0  # fails
"""


def line_of(comment: str) -> int:
    """Return the number of the line that ends with a comment; of the first line of a function if it names one."""
    return next(i for i, line in enumerate(CODE.splitlines(), 1) if line.endswith(f"# {comment}"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Enter a folder that holds the user's file."""
    (tmp_path / "users_own.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    paths = list(sys.path)
    yield tmp_path
    sys.path[:] = paths
    for name in ("users_own", "users_own_2", "users_helper", "users_broken"):
        sys.modules.pop(name, None)


def probed(capsys, model: str, data: str, *more) -> tuple[int, str, str]:
    names = (f"users_own.py:{model}", "--data", f"users_own.py:{data}")
    return run(capsys, "probe", *names, "--levels", 3, *more)


@pytest.mark.parametrize(
    ("model", "data", "message", "comment"),
    [
        ("Raises", "two", "the model fails on a batch of float32 (5, 6): KeyError: 'five'", "raises"),
        ("Leaves", "two", "the model fails on a batch of float32 (5, 6): SystemExit: 3", "leaves"),
        ("Oddly", "two", "the model fails on a batch of float32 (5, 6): Odd", "oddly"),
        ("Opens", "two", "No such file or directory: 'nowhere.txt'", "opens"),
        ("Picky", "two", "AssertionError: too large", "picky"),
        ("build", "items", "batch 1 of the data can't be read: ValueError: item nine", "item"),
        ("build", "generator", "the data can't be read: KeyError: 'key'", "generator"),
        ("fails", "two", "users_own.py:fails fails: ZeroDivisionError: division by zero", "fails"),
        ("build", "fails", "users_own.py:fails fails: ZeroDivisionError: division by zero", "fails"),
    ],
)
def test_the_line_is_named(model, data, message, comment, folder, capsys):
    code, out, err = probed(capsys, model, data)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert err.endswith(f"(users_own.py, line {line_of(comment)})\n")


def test_a_layers_listing_names_it_too(folder, capsys):
    code, _, err = run(capsys, "layers", "users_own.py:build", "--data", "users_own.py:items")
    assert (code, err.count("\n")) == (2, 1)
    assert err.endswith(f"(users_own.py, line {line_of('item')})\n")


def test_a_model_without_code_of_its_own_is_named_by_its_builder(folder, capsys):
    code, _, err = probed(capsys, "embeds", "token")
    lines = CODE.splitlines()
    places = [1 + lines.index(f"def {name}():") for name in ("embeds", "token")]
    assert (code, err.count("\n")) == (2, 1)
    assert err == (
        "nearzero: the model fails on a batch of int64 (4, 6): IndexError: index out of range in self "
        f"(model: users_own.py, line {places[0]}; data: users_own.py, line {places[1]})\n"
    )


def test_data_that_cant_be_collated(folder, capsys):
    code, _, err = probed(capsys, "build", "objects")
    assert (code, err.count("\n")) == (2, 1)
    assert "the examples of the data set can't be put into one batch: default_collate: " in err
    assert err.endswith(f"(data: users_own.py, line {line_of('objects')})\n")


@pytest.mark.parametrize(
    ("model", "data", "message", "comment"),
    [
        (
            "Nowhere",
            "two",
            "the model's response to a batch of float32 (5, 6) can't be measured: ",
            "nowhere",
        ),
    ],
)
def test_what_cant_be_measured_isnt_a_bug(model, data, message, comment, folder, capsys):
    code, _, err = probed(capsys, model, data)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert f"users_own.py, line {line_of(comment)}" in err


def test_a_broken_file(folder, capsys):
    (folder / "users_broken.py").write_text("x = 1\ndef build(:\n")
    code, _, err = run(capsys, "layers", "users_broken.py:build", "--data", "digits")
    assert code == 2
    assert err.count("users_broken.py, line 2") == 1
    assert "users_broken" not in sys.modules


def test_a_debugged_error_is_shown_whole(folder, capsys, monkeypatch):
    monkeypatch.setenv("NEARZERO_DEBUG", "1")
    monkeypatch.setattr(
        sys, "argv", ["nearzero", "probe", "users_own.py:Raises", "--data", "users_own.py:two"]
    )
    with pytest.raises(KeyError):
        cli.main()


def test_an_error_of_nearzero_is_still_a_bug(folder, capsys, monkeypatch):
    monkeypatch.setattr("nearzero.probing.probe", {}.pop)  # raises where nearzero calls it
    code, _, err = probed(capsys, "build", "two")
    assert (code, "a bug in nearzero (TypeError: " in err) == (1, True)


def test_the_error_in_python_is_the_users_own():
    class Raises(torch.nn.Linear):
        def forward(self, x):
            if len(x) == 5:
                raise KeyError("five")
            return super().forward(x).relu()

    with pytest.raises(KeyError) as error:
        nz.probe(Raises(2, 2), [torch.randn(4, 2), torch.randn(5, 2)], levels=2, output_kind="logits")
    assert error.value.__notes__ == ["nearzero: the model fails on a batch of float32 (5, 2)"]


# --- files and workers ----------------------------------------------------------------------------------------------


def as_program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nearzero", "probe", *arguments, "--levels", "2"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}
    )
    done.stderr = beside_progress(done.stderr)
    return done


@pytest.mark.slow
@pytest.mark.parametrize("path", ["users_own.py", "below/users_own.py"])
def test_model_and_data_of_one_file_with_spawned_workers(path, folder):
    if "/" in path:
        (folder / "below").mkdir()
        (folder / "users_own.py").rename(folder / path)
    done = as_program(folder, f"{path}:build", "--data", f"{path}:spawned")
    # a worker that PyTorch stops while it starts up may print this line, which says nothing about the probe
    stderr = done.stderr.replace("terminate called without an active exception\n", "")
    assert (done.returncode, stderr) == (0, "")


@pytest.mark.slow
def test_an_error_in_a_spawned_worker(folder):
    done = as_program(folder, "users_own.py:build", "--data", "users_own.py:spawned_bad")
    assert done.returncode == 2
    assert done.stderr == (
        "nearzero: batch 3 of the data can't be read: ValueError: item nine (users_own.py, line "
        f"{line_of('item')})\n"
    )


def test_data_that_cant_be_sent_to_a_worker(folder, capsys):
    code, _, err = probed(capsys, "build", "unpicklable")
    assert (code, err.count("\n")) == (2, 1)
    assert "Can't pickle local object" in err
    assert err.endswith(f"(data: users_own.py, line {line_of('unpicklable')})\n")


def test_a_file_is_run_once(folder, capsys):
    with (folder / "users_own.py").open("a") as file:
        file.write("print('runs')\n")
    for model in ("users_own.py:build", "users_own:build"):
        assert run(capsys, "probe", model, "--data", "users_own.py:two", "--levels", 2, "-q")[0] == 0
        sys.modules.pop("users_own", None)
    run(capsys, "probe", "users_own.py:build", "--data", "users_own.py:two", "--levels", 2, "-q")
    assert run(capsys, "probe", "users_own.py:build", "--data", "users_own:two", "--levels", 2, "-q")[1] == ""


def test_a_file_beside_another_and_one_of_the_same_name(folder, capsys):
    (folder / "below").mkdir()
    (folder / "below" / "users_helper.py").write_text("from torch import nn\n")
    (folder / "below" / "users_own.py").write_text(
        "from users_helper import nn\n"
        "def build(): return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))\n"
    )
    names = ("below/users_own.py:build", "--data", "users_own.py:two")
    assert run(capsys, "probe", *names, "--levels", 2, "-q") == (0, "", "")
    assert Path(sys.modules["users_own"].__file__ or "").parent.name == "below"


SHADOWING = ("torch", "json", "random", "numpy", "typing")


@pytest.mark.slow
def test_files_with_the_names_of_others(folder):
    """`python -m` puts the working folder first on the path."""
    for name in SHADOWING:
        (folder / f"{name}.py").write_text("raise RuntimeError('the wrong file')\n")
    (folder / "users_helper.py").write_text("from torch import nn\n")
    with (folder / "users_own.py").open("a") as file:
        file.write("import users_helper\n")
    done = as_program(folder, "users_own.py:build", "--data", "users_own.py:two")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("place", ["import", "build"])
def test_a_parser_of_the_users_own(place, folder, capsys):
    lines = ["parser.add_argument('--width', type=int, default=4)", "width = parser.parse_args().width"]
    if place == "import":
        code = ["def build(): return nn.Sequential(nn.Linear(6, width), nn.ReLU())"]
    else:
        code, lines = (
            ["def build():", *(f"    {line}" for line in lines), "    return nn.Linear(6, width)"],
            [],
        )
    head = ["import argparse", "from torch import nn", "parser = argparse.ArgumentParser()"]
    (folder / "users_broken.py").write_text("\n".join([*head, *lines, *code]) + "\n")
    names = ("layers", "users_broken.py:build", "--data", "users_own.py:two")
    assert run(capsys, *names)[::2] == (0, "")
    sys.modules.pop("users_broken")
    needed = (folder / "users_broken.py").read_text().replace("default=4", "required=True")
    (folder / "users_broken.py").write_text(needed)
    number = 1 + next(i for i, line in enumerate(needed.splitlines()) if "parse_args" in line)
    code, out, err = run(capsys, *names)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(
        f"SystemExit: the following arguments are required: --width (users_broken.py, line {number})\n"
    )


def test_an_error_in_a_metric_names_the_metric(folder, capsys):
    with (folder / "users_own.py").open("a") as file:
        file.write(
            "def few(logits): return logits\n"
            "def wrong(logits, target): return 1 / 0\n"
            "def text(logits, target): return 'good'\n"
        )
    first = 1 + len(CODE.splitlines())
    messages = {
        "few": "metric 'few' must take (logits, target) or (logits, target, unperturbed); it takes (logits)",
        "wrong": "metric 'wrong' fails: ZeroDivisionError: division by zero",
        "text": "metric 'text' must return one number, or one for each of 4 items; got str",
    }
    for line, (name, message) in enumerate(messages.items(), first):
        code, _, err = probed(capsys, "build", "two", "--metric", f"users_own.py:{name}")
        assert (code, err) == (2, f"nearzero: {message} (users_own.py, line {line})\n")


# --- weights, as they are told --------------------------------------------------------------------------------------


def test_random_weights_are_told(folder, capsys):
    said = probed(capsys, "build", "two")[1].splitlines()
    assert "weights: random, as users_own.py:build builds them; --weights loads others" in said
    assert probed(capsys, "build", "two", "-q")[1] == ""


def test_weights_that_the_builder_loads_are_told(folder, capsys):
    with (folder / "users_own.py").open("a") as file:
        file.write(
            "def loads():\n    net = build()\n    net.load_state_dict(build().state_dict())\n    return net\n"
        )
    load = torch.nn.Module.load_state_dict
    assert "weights: as users_own.py:loads builds them" in probed(capsys, "loads", "two")[1].splitlines()
    assert torch.nn.Module.load_state_dict is load


def test_every_name_that_isnt_used_is_told(folder, capsys):
    state = {"0.weight": torch.ones(8, 6), "0.bias": torch.ones(8), "2.weight": torch.ones(3, 8)}
    extra = {f"extra.of.a.long.name.{i}": torch.ones(1) for i in range(12)}
    torch.save({"epoch": 1, "state_dict": {**state, "2.bias": torch.ones(3), **extra}}, "net.ckpt")
    lines = [
        "weights: 4 tensors from net.ckpt, in state_dict",
        f"in the file and not used: {', '.join(extra)}, epoch",
    ]
    said = " ".join(probed(capsys, "build", "two", "--weights", "net.ckpt")[1].split())  # lines may be broken
    assert " ".join(lines) in said
    names = ("users_own.py:build", "--data", "users_own.py:two", "--weights", "net.ckpt")
    assert " ".join(lines) in " ".join(run(capsys, "layers", *names)[1].split())


# --- reading errors -------------------------------------------------------------------------------------------------


def test_causes_are_searched():
    def fails():
        raise KeyError("x")

    def wraps():
        try:
            with users.running("the model fails"):
                fails()
        except KeyError as error:
            raise nz.InputError("wrong") from error

    with pytest.raises(nz.InputError) as error:
        wraps()
    assert users.failing_part(error.value) == "the model fails"
    error.value.__traceback__ = None
    assert "test_users_errors.py, line " in (users.place(error.value) or "")


def test_code_of_others_isnt_the_users():
    with pytest.raises(ValueError, match="invalid literal") as error:
        int("x")
    trace, error.value.__traceback__ = error.value.__traceback__, None
    assert trace is not None
    assert users.place(error.value) is None
    assert users.defined_at(nz.probe) is None
    assert users.defined_at(torch.nn.Linear) is None
    assert users.defined_at(3) is None
