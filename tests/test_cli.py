"""The command line: its output and its errors."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import beside_progress, run

import nearzero as nz
from nearzero import cli
from nearzero.study.spec import parse_setting
from nearzero.support.files import cache_root

SMALL = "data=digits runs=2 units=16 steps=40 batch_size=64 evaluate_every=20 learning_rate=0.01"


def sets(text: str) -> list[str]:
    return [part for pair in text.split() for part in ("--set", pair)]


def assert_one_line(code: int, err: str, *, exit_code: int = 2) -> None:
    assert code == exit_code
    assert err.startswith("nearzero: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "study"
    settings = dict(parse_setting(pair) for pair in SMALL.split())
    nz.reproduce("quick", folder, settings=settings)
    return folder


def test_reproduce(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "reproduce", "--out", tmp_path / "study", "--runs", 3, *sets(SMALL))
    assert (code, err) == (0, "")
    for words in (
        "training Abs and ReLU: 3 runs each, 40 steps",
        "figures in",
        "The page of it all is",
        "next: nearzero verdict",
    ):
        assert words in " ".join(out.split())
    for name in ("spec.toml", "provenance.json", "log", "results.nc", "tables", "figures", "networks"):
        assert (tmp_path / "study" / name).exists()
    assert len(list((tmp_path / "study" / "figures").glob("*.png"))) == 4
    assert len(list((tmp_path / "study" / "figures").glob("*.pdf"))) == 4
    for suffix in ("md", "csv", "tex"):
        assert len(list((tmp_path / "study" / "tables").glob(f"table?_*.{suffix}"))) >= 4


def test_step_by_step_is_the_same_as_at_once(
    capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    assert run(capsys, "new", folder, *sets(SMALL))[0] == 0
    for command in ("train", "sweep", "report"):
        code, _, err = run(capsys, command, folder)
        assert (code, err) == (0, "")
    for name in ("table1_baseline.csv", "table4_offset.csv"):
        assert (folder / "tables" / name).read_bytes() == (study / "tables" / name).read_bytes()


def test_a_spec_file_and_settings_over_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    spec = tmp_path / "my.toml"
    spec.write_text('data = "digits"\nruns = 2\nunits = 8\nsteps = 10\nbatch_size = 32\n')
    code, _, err = run(
        capsys, "reproduce", "--spec", spec, "--out", tmp_path / "s", "--set", "steps=12", "--quiet"
    )
    assert (code, err) == (0, "")
    found = nz.Study.open(tmp_path / "s").spec
    assert (found.steps, found.units, found.batch_size) == (12, 8, 32)


def test_show(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    before = sorted(path.stat().st_mtime_ns for path in study.rglob("*"))
    code, out, err = run(capsys, "show", study)
    assert (code, err) == (0, "")
    assert "trained, swept" in out
    assert "Table 4." in out
    assert sorted(path.stat().st_mtime_ns for path in study.rglob("*")) == before


def test_data_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "data", "list")
    assert code == 0
    for name in ("mnist", "fashion-mnist", "kmnist", "mnist-5k", "digits"):
        assert name in out
    assert run(capsys, "data", "fetch", "digits")[0] == 0
    code, out, _ = run(capsys, "data", "verify", "digits")
    assert (code, "present" in out) == (0, True)


def test_data_verify_fails_on_a_wrong_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ):
        (tmp_path / name).write_bytes(b"not an image")
    code, out, _ = run(capsys, "data", "verify", "mnist", "--data-dir", tmp_path)
    assert code == 2
    assert "wrong hash" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["reproduce", "--set", "ofset=shift"],
            "unknown key 'ofset' in the settings: did you mean 'offset'?",
        ),
        (["reproduce", "--set", "steps"], "a setting is written key=value; got 'steps'"),
        (["reproduce", "--preset", "fast"], "unknown preset 'fast': known are paper, quick"),
        (
            ["reproduce", "--preset", "papr"],
            "unknown preset 'papr': did you mean 'paper'? known are paper, quick",
        ),
        (["reproduce", "--runs", "0"], "runs = 0 in the settings can't be used"),
        (["reproduce", "--set", "families=ofset"], "unknown family 'ofset'"),
        (
            ["reproduce", "--set", "activations=gelu", "--set", "offset=as-run"],
            "offset=as-run isn't defined for gelu",
        ),
        (["reproduce", "--set", "data=nist"], "nist"),
        (["reproduce", "--data-dir", "/nowhere"], "/nowhere"),
        (["reproduce", "--spec", "nothing.toml"], "can't read nothing.toml"),
        (["train", "nowhere"], "nowhere isn't a folder"),
        (["sweep", "."], "isn't a study"),
        (["report", "nowhere"], "nowhere isn't a folder"),
        (["show", "nowhere"], "nowhere isn't a folder"),
        (["data", "verify", "nist"], "nist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert_one_line(code, err)
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense"], "No such option"),
        (["reproduce", "--nonsense"], "No such option"),
        (["train"], "Missing argument"),
        (["reproduce", "--runs", "many"], "Invalid value for '--runs'"),
        (["reproduced"], "No such command"),
        (["reproduce", "--set", "preset=[1]"], "unknown preset [1]"),
        (["reproduce", "--set", "first_seed=99999999999999999999999"], "first_seed = "),
        (["reproduce", "--set", "steps=99999999999999999999"], "steps = "),
        (["reproduce", "--set", "units=1000000000000"], "units = "),
        (["reproduce", "--set", "units=true"], "units = True"),
    ],
)
def test_usage_errors_are_one_line_too(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, *arguments)
    assert_one_line(code, err)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version")[1].startswith("nearzero 0.")
    code, out, _ = run(capsys)
    assert (code, "reproduce" in out) == (0, True)


def test_a_bug_is_one_line_unless_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(**_: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(cli, "app", buggy)
    code, _, err = run(capsys)
    assert_one_line(code, err, exit_code=1)
    assert "a bug in nearzero (KeyError: 'oops')" in err
    monkeypatch.setenv("NEARZERO_DEBUG", "1")
    with pytest.raises(KeyError):
        run(capsys)


def test_a_bad_start_can_be_put_right_in_the_same_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    code, _, err = run(capsys, "reproduce", "--out", folder, "--device", "cuda:7", *sets(SMALL))
    assert_one_line(code, err)
    assert "use --device cpu" in err
    monkey = pytest.MonkeyPatch()
    monkey.setenv("NEARZERO_SAVE_EVERY", "soon")
    code, _, err = run(capsys, "new", folder, *sets(SMALL))
    assert code == 0
    code, _, err = run(capsys, "train", folder)
    monkey.undo()
    assert_one_line(code, err)
    assert "NEARZERO_SAVE_EVERY must be a number of seconds; got 'soon'" in err
    assert run(capsys, "train", folder)[0] == 0


def test_an_operating_system_error_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError(5, "Input/output error", "disk")

    monkeypatch.setattr(cli, "app", lambda **_: broken())
    code, _, err = run(capsys)
    assert_one_line(code, err)
    assert err == "nearzero: disk: Input/output error\n"


def test_an_interruption_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", lambda **_: interrupted())
    code, _, err = run(capsys)
    assert_one_line(code, err, exit_code=130)
    assert "the same command goes on where it was" in err


def test_an_interruption_of_a_probe_says_that_nothing_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nearzero.cli.models.opened_model", interrupted)
    code, _, err = run(
        capsys, "probe", "torch.nn:Identity", "--data", "digits", "-q", "--out", tmp_path / "out"
    )
    assert code == 130
    assert err == "nearzero: interrupted; nothing is kept, the same command begins anew\n"
    assert not (tmp_path / "out").exists()


def test_an_interruption_while_work_is_done(tmp_path: Path) -> None:
    """Typer takes the exception and returns an exit code, which the line must not depend on."""
    folder = tmp_path / "study"
    settings = {"data": "digits", "runs": 1, "units": 16, "steps": 1_000_000, "evaluate_every": 1000}
    nz.Study.create(folder, "quick", settings)
    command = [sys.executable, "-m", "nearzero", "train", "-q", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while time.monotonic() < until and "training" not in _log(folder):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "nearzero: interrupted; the same command goes on where it was\n"


def test_an_interruption_in_a_finalizer_isnt_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python drops what a finalizer raises, and goes on."""

    class Dropped:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)
            sum(range(10))  # the handler runs here at the latest

    def busy(**_: object) -> None:
        Dropped()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            time.sleep(0.01)

    monkeypatch.setattr(cli, "app", busy)
    code, _, err = run(capsys)
    assert_one_line(code, err, exit_code=130)


def test_an_interruption_leaves_no_message_of_objects_half_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class HalfMade:
        def __init__(self) -> None:
            signal.raise_signal(signal.SIGINT)
            self.handle = 1

        def __del__(self) -> None:
            del self.handle

    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    monkeypatch.setattr(cli, "app", lambda **_: HalfMade())
    code, _, err = run(capsys)
    assert_one_line(code, err, exit_code=130)
    assert dropped == []


def test_an_error_in_a_finalizer_is_shown_without_an_interruption(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty:
        def __del__(self) -> None:
            raise ValueError("a fault of its own")

    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    monkeypatch.setattr(cli, "app", lambda **_: Faulty() and None)
    assert run(capsys)[0] == 0
    assert [str(error.exc_value) for error in dropped] == ["a fault of its own"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "memory is used up"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "memory is used up"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory is used up"),
        (RuntimeError("can't start new thread"), "no thread left"),
    ],
)
def test_what_the_system_refuses_is_no_bug(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", refused)
    code, _, err = run(capsys)
    assert_one_line(code, err)
    assert words in err


def test_too_little_memory_for_the_libraries(study: Path) -> None:
    limited = (
        "import os, resource, sys; "
        "resource.setrlimit(resource.RLIMIT_AS, (5 * 10**8, 5 * 10**8)); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", limited, "-m", "nearzero", "show", str(study)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert_one_line(done.returncode, done.stderr)
    assert "limited to 500 MB" in done.stderr


def test_a_path_from_a_stranger_controls_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "show", "folder\x1b[2J")
    assert_one_line(code, err)
    assert "\x1b" not in err


def _log(folder: Path) -> str:
    return (folder / "log").read_text() if (folder / "log").exists() else ""


def test_an_interruption_during_the_imports() -> None:
    code = (
        "import builtins, runpy\n"
        "imported = builtins.__import__\n"
        "def interrupted(name, *rest, **more):\n"
        "    if name == 'typer':\n"
        "        raise KeyboardInterrupt\n"
        "    return imported(name, *rest, **more)\n"
        "builtins.__import__ = interrupted\n"
        "runpy.run_module('nearzero', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "nearzero: interrupted before anything was done\n"


@pytest.mark.parametrize("columns", ["²", "many", "0", "9" * 20, "-5"])
def test_columns_that_are_no_width(
    columns: str, study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = run(capsys, "show", study)
    assert (code, err) == (0, "")
    assert "Table 1" in out


def test_an_output_that_is_not_utf_8(study: Path) -> None:
    for encoding in ("latin-1", "ascii"):
        done = subprocess.run(
            [sys.executable, "-m", "nearzero", "show", str(study)],
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert (done.returncode, beside_progress(done.stderr.decode(encoding))) == (0, "")


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams(redirection: str, study: Path) -> None:
    command = f"'{sys.executable}' -m nearzero show '{study}' {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, beside_progress(done.stderr)) == (0, "")


def test_a_full_disk_below_the_errors() -> None:
    command = f"'{sys.executable}' -m nearzero show nowhere 2>/dev/full"
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode == 2


def test_brackets_in_a_path_are_not_markup(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("run[a]", "x[", "[bold]y"):
        code, out, err = run(capsys, "new", tmp_path / name, "--set", "data=digits")
        assert (code, err) == (0, "")
        assert f"next: nearzero train {tmp_path / name}" in " ".join(out.split())
    code, out, err = run(capsys, "new", tmp_path / "x[" / "b]", "--set", "data=digits")
    assert (code, err) == (0, "")


def test_a_working_folder_that_was_removed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for command in ("data list", "show x", "reproduce --out x"):
        code, _, err = run(capsys, *command.split())
        assert_one_line(code, err)
        assert "the working folder was removed; change to a folder that exists" in err


def test_the_home_of_an_unknown_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEARZERO_CACHE", "~nobody-of-that-name/cache")
    with pytest.raises(nz.InputError, match="names the home of an unknown user"):
        cache_root()


def test_the_preset_as_a_setting(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "new", tmp_path / "study", "--set", "preset=paper")[0] == 0
    spec = nz.Study.open(tmp_path / "study").spec
    assert (spec.preset, spec.batch_size) == ("paper", "all")
    code, _, err = run(capsys, "new", tmp_path / "other", "--set", "preset=nonsense")
    assert_one_line(code, err)
    assert "unknown preset 'nonsense'" in err
    code, _, err = run(capsys, "new", tmp_path / "other", "--preset", "quick", "--set", "preset=paper")
    assert_one_line(code, err)
    assert "but the preset 'quick' was given" in err
    assert not (tmp_path / "other").exists()


def test_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nearzero", "--help"], capture_output=True, text=True, check=True
    )
    for command in ("reproduce", "train", "sweep", "report", "show", "data"):
        assert command in done.stdout
