"""`benchmarks/gpu.py` runs on the CPU with small sizes; what it measures means something on a GPU only."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
SMALL = [
    "--device",
    "cpu",
    "--data",
    "digits",
    "--examples",
    "200",
    "--runs",
    "2",
    "--units",
    "16",
    "--steps",
    "5",
]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_benchmark", module)
    spec.loader.exec_module(module)
    return module


def rows_of(text: str) -> dict[str, list[float]]:
    """The numbers of each line of the table, by its name."""
    lines = re.findall(r"^  (\w[\w, ]*?)  +(\d.* ms.*)$", text, re.MULTILINE)
    return {
        name: [float(each) for each in re.findall(r"\d+\.\d+(?:e[+-]\d+)?", rest)] for name, rest in lines
    }


def test_every_precision(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(SMALL)
    rows = rows_of(capsys.readouterr().out)
    assert list(rows) == ["plain PyTorch", "plain, pixels in reverse", "float32", "tf32", "bfloat16"]
    for name, (milliseconds, ratio, study, memory, *apart) in rows.items():
        assert min(milliseconds, ratio, memory) > 0, name
        assert study == pytest.approx(milliseconds * 2 * 10_000 / 1000, rel=0.02, abs=0.1)
        assert len(apart) == (2 if name.startswith("plain") else 4)
    assert rows["plain PyTorch"][-2:] == [0, 0]
    assert rows["float32"][-4:-2] == [0, 0]
    assert rows["float32"][-2] < 1e-3
    assert rows["bfloat16"][-4] > 0


def test_one_precision(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main([*SMALL, "--precision", "float32", "--activation", "gelu"])
    out = capsys.readouterr().out
    assert "digits, 200 images; gelu" in out
    assert list(rows_of(out)) == ["plain PyTorch", "plain, pixels in reverse", "float32"]
