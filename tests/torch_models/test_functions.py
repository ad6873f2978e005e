"""A user's functions: the files that they are made of, their arguments, and calls that repeat."""

from __future__ import annotations

import hashlib
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import nearzero as nz
from nearzero.torch_models.loading.functions import (
    Arguments,
    as_in_a_new_process,
    call,
    code_files,
    function_of,
    seed_generators,
)


def test_code_is_a_file_and_what_it_imports_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in packages and within functions; installed packages and what isn't imported don't count."""
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    files = {
        "one.py": "import json, numpy\nimport two\ndef f():\n    from pkg.sub import deep\n",
        "two.py": "import torch\n",
        "other.py": "",
        "pkg/__init__.py": "",
        "pkg/near.py": "from . import beside\nfrom .sub.deep import g\n",
        "pkg/beside.py": "",
        "pkg/sub/__init__.py": "",
        "pkg/sub/deep.py": "def g(): pass\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def found(*names: str) -> set[str]:
        known = code_files(names)
        for path, digest in known.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
        return {path.relative_to(tmp_path).as_posix() for path in known}

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.py").write_text("import nearzero\n")
    (tmp_path / "far_user.py").write_text("import far\n")
    assert found(f"{tmp_path}/far_user.py:far") == {"far_user.py"}
    monkeypatch.syspath_prepend(str(elsewhere))
    assert found(f"{tmp_path}/far_user.py:far") == {"far_user.py", "elsewhere/far.py"}
    package = {"pkg/__init__.py", "pkg/sub/__init__.py", "pkg/sub/deep.py"}
    assert found(f"{tmp_path}/one.py:f") == {"one.py", "two.py"} | package
    monkeypatch.chdir(tmp_path)
    assert found("pkg.near:g") == {"pkg/near.py", "pkg/beside.py"} | package
    assert found("two.py:x", "two:x", "one.py:f") == {"one.py", "two.py"} | package
    assert [path.name for path in code_files(["torch.nn:Linear"])] == ["__init__.py"]
    for name, message in (
        ("three.py:f", "there is no file three.py"),
        ("three:f", "there is no module 'three'"),
        ("three.four:f", "three.four can't be imported: ModuleNotFoundError"),
    ):
        with pytest.raises(nz.InputError, match=message):
            code_files([name])
    (tmp_path / "torn.py").write_text("def f(:\n")
    with pytest.raises(nz.InputError, match=r"torn.py can't be imported: SyntaxError: .*torn.py, line 1"):
        code_files(["torn.py:f"])


def test_arguments_are_those_of_the_signature() -> None:
    def plain(model: object, data: object, steps: int, *, rate: float = 0.1) -> None: ...

    def anything(model: object, **others: object) -> None: ...

    own = Arguments.of(plain, "f", 2)
    assert (own.names, own.required, own.takes_any) == (("steps", "rate"), ("steps",), False)
    assert own.chosen({"steps": 3, "width": 4, "model": 5}) == {"steps": 3}
    taken = Arguments.of(anything, "f", 1)
    assert taken.chosen({"width": 4}) == {"width": 4}
    assert Arguments.of(torch.nn.Linear, "f").required == ("in_features", "out_features")
    with pytest.raises(nz.InputError, match=r"f must take 2 arguments by position; it takes 1: \(model\)"):
        Arguments.of(anything, "f", 2)


def test_a_block_is_like_a_new_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module keeps, the generators, switches and the path are those of before, also after an error."""
    path = tmp_path / "counting.py"
    path.write_text(
        "import random\nfound = []\ndef f():\n    found.append(random.random())\n    return found\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import counting  # type: ignore[import-not-found]

    counting.f()
    code = {str(file): known for file, known in code_files([f"{path}:f"]).items()}
    torch.manual_seed(3)
    before, paths = (torch.get_rng_state(), np.random.get_state()[1].copy()), list(sys.path)  # noqa: NPY002
    drawn = []
    for _ in range(2):
        with suppress(ZeroDivisionError), torch.no_grad(), as_in_a_new_process(code):
            assert torch.is_grad_enabled()
            assert torch.get_num_threads() == 1
            seed_generators(7)
            drawn.append(call("f", function_of(f"{path}:f", "f")))
            drawn.append([float(torch.rand(())), np.random.random()])  # noqa: NPY002
            torch.set_default_dtype(torch.float64)
            _ = 1 / 0
    assert drawn[:2] == drawn[2:]
    assert len(drawn[0]) == 1
    assert sys.modules["counting"] is counting
    assert len(counting.found) == 1
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert sys.path == paths
