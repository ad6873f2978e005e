"""Short forms of the campaigns in the gate, and all of them in `make test-long`."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nearzero.errors import InputError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # programs, and not a package

import faults
import kills
from campaign import Found, run_cases
from cases import outcome
from mutations import mutated
from readers import BY_BYTES, BY_VALUES, make_originals


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    make_originals(folder)
    return folder


def assert_clean(found: Mapping[str, Found], cases: int) -> None:
    for reader, own in found.items():
        assert not own.faults, (reader, own.faults[:10])
        assert own.outcomes.total() == cases
    refused = sum(own.outcomes["refused"] for own in found.values())
    assert refused > 0.1 * cases * len(found)  # mutations do damage


@pytest.mark.slow
def test_mutated_files_are_read_or_refused_in_a_line(originals: Path) -> None:
    """In one process for all readers, since most of the time would go to imports."""
    assert_clean(run_cases(originals, BY_BYTES, cases=60, seed=1), 60)
    assert_clean(run_cases(originals, BY_VALUES, cases=10, seed=1), 10)


@pytest.mark.long("10,000 mutated files for each reader are read, or refused in one line, in time and memory")
@pytest.mark.parametrize("name", BY_BYTES)
def test_ten_thousand_mutated_files(name: str, originals: Path) -> None:
    assert_clean(run_cases(originals, [name], cases=10_000), 10_000)


@pytest.mark.long("1,000 results with other values are read, or refused in one line, in time and memory")
@pytest.mark.parametrize("name", BY_VALUES)
def test_a_thousand_files_with_other_values(name: str, originals: Path) -> None:
    assert_clean(run_cases(originals, [name], cases=1000), 1000)


@pytest.mark.long(
    "a minute of a fuzzer guided by coverage finds no input that isn't read, or refused in one line"
)
@pytest.mark.parametrize("name", BY_BYTES)
def test_guided(name: str) -> None:
    pytest.importorskip("atheris")
    program = [sys.executable, str(HERE / "guided.py"), name, "--seconds", "60"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep", "probe"])
def test_a_killed_command_is_resumed(name: str) -> None:
    assert kills.campaign([name], kills=1, seed=2) == {name: []}


@pytest.mark.long(
    "after 100 kills at random moments over all commands, resumed results are those of a whole run"
)
def test_a_hundred_kills() -> None:
    assert not any(kills.campaign(kills.ALL, kills=100, seed=0).values())


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [faults.ON_DISKS, faults.ANYWHERE], ids=["disks", "limits"])
def test_a_command_under_faults_says_so_and_is_run_again(kinds: tuple[str, ...]) -> None:
    if kinds == faults.ON_DISKS and not faults.can_mount():
        pytest.skip("disks that are full or read-only need root on Linux, which can mount them")
    found = faults.campaign(kinds, ["train"], faults=len(kinds), seed=1)
    assert not [line for outcome in found.values() for line in outcome.faults]
    assert any(2 in outcome.codes for outcome in found.values())


@pytest.mark.long(
    "under faults of disks, limits and second processes, commands end in one line; then results are whole"
)
def test_commands_under_all_faults() -> None:
    found = faults.campaign(faults.possible_kinds(), kills.ALL, faults=60, seed=0)
    assert not [line for outcome in found.values() for line in outcome.faults]


# --- the campaign itself ---


def test_faults_are_noticed() -> None:
    assert outcome(ValueError("x"))[0] == "fault"
    assert outcome(InputError(""))[0] == "fault"
    lines = InputError("one")
    lines.args = ("one\ntwo",)  # which its constructor makes one line
    assert outcome(lines)[0] == "fault"
    assert outcome(InputError("one line"))[0] == "refused"
    assert outcome(None)[0] == "accepted"


def test_mutations_are_seeded_and_change_contents() -> None:
    content = bytes(range(256)) * 4
    once = [mutated(content, random.Random(seed), [b"other"]) for seed in range(200)]
    assert once == [mutated(content, random.Random(seed), [b"other"]) for seed in range(200)]
    assert sum(each != content for each in once) > 190


def test_a_hang_and_a_death_are_faults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A child that dies while it reads a case is a fault of this case, and the others are read by another child."""
    program = tmp_path / "cases.py"
    program.write_text(
        "import json, os, sys\n"
        "for reader, first, last in json.loads(sys.argv[4]):\n"
        "    for case in range(first, last):\n"
        "        which = {'reader': reader, 'case': case}\n"
        "        print(json.dumps(which | {'file': 'x'}), flush=True)\n"
        "        if (reader, case) == ('npy', 1): os.abort()\n"
        "        print(json.dumps(which | {'outcome': 'accepted', 'words': '', 'MiB': 0, 's': 0.0}), flush=True)\n"
    )
    monkeypatch.setattr("campaign.HERE", tmp_path)
    found = run_cases(tmp_path, ["idx", "npy", "npz"], cases=4)
    assert [found[reader].outcomes["accepted"] for reader in ("idx", "npy", "npz")] == [4, 3, 4]
    assert found["npy"].faults[0].startswith("case 1: x: the process ended with -6")
