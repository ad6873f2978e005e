"""`nearzero compile` makes all kernels of a study, and reports a cache that can't be written."""

import os
import subprocess
import sys

import pytest
from commands import beside_progress

SETTINGS = "data=digits runs=2 units=16 steps=4 evaluate_every=2 learning_rate=0.01 batch_size=64"
COMPILE = "from nearzero.cli import main; main()"


def nearzero(*arguments, cache):
    command = [sys.executable, "-c", COMPILE, *arguments]
    environment = {**os.environ, "NEARZERO_CACHE": str(cache)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def compiled(cache):
    return {path: path.stat().st_mtime_ns for path in cache.glob("kernels/**/*.nb*")}


@pytest.mark.long(
    "a study after `nearzero compile` compiles nothing; tests/kernels/test_registers.py, for one network"
)
def test_a_study_compiles_nothing_more(tmp_path):
    cache = tmp_path / "cache"
    assert nearzero("compile", cache=cache).returncode == 0
    before = compiled(cache)
    assert before
    options = [part for each in SETTINGS.split() for part in ("--set", each)]
    done = nearzero("reproduce", "--out", str(tmp_path / "study"), *options, cache=cache)
    assert done.returncode == 0, done.stderr
    assert "compiling" not in done.stdout
    assert compiled(cache) == before


def test_a_cache_that_cant_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    done = nearzero("compile", cache=tmp_path / "file" / "cache")
    assert done.returncode == 2
    said = beside_progress(done.stderr)
    assert said.startswith("nearzero: compiled kernels can't be kept in ")
    assert said.count("\n") == 1
