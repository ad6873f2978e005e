"""Studies on disk: their contents, and problems with their folders."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from filelock import FileLock

import nearzero as nz
import nearzero.support.files
from nearzero.study.provenance import record_session
from nearzero.support.netcdf import load_netcdf, netcdf_content

SETTINGS = {
    "data": "digits",
    "runs": 2,
    "units": 16,
    "steps": 60,
    "batch_size": 64,
    "evaluate_every": 20,
    "learning_rate": 0.01,
}


def make(folder: Path, **settings: object) -> nz.Study:
    return nz.Study.create(folder, "quick", SETTINGS | settings)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> nz.Study:
    return make(tmp_path_factory.mktemp("studies") / "small", test=True).train().sweep()


def test_responses_are_those_of_the_networks_swept_one_by_one(
    study: nz.Study, digits: nz.datasets.Dataset
) -> None:
    for network in ("abs", "relu"):
        for run in (0, 1):
            one = study.network(network, run)
            ranges = nz.unit_ranges(one, digits.train.pixels)
            for split, data in (("train", digits.train), ("test", digits.test)):
                expected = nz.sweep(one, data.pixels, data.labels, ranges=ranges)
                found = study.response.sel(network=network, run=run, split=split)
                xr.testing.assert_equal(
                    found.accuracy.drop_vars(("network", "run", "seed", "split")), expected.accuracy
                )
                assert float(found.unperturbed_accuracy) == float(expected.unperturbed_accuracy)


def test_final_accuracy_of_training_is_the_unperturbed_accuracy_of_the_sweep(study: nz.Study) -> None:
    final = study.history.isel(step=-1)
    for split in ("train", "test"):
        unperturbed = study.response.unperturbed_accuracy.sel(split=split)
        np.testing.assert_array_equal(final[f"{split}_accuracy"], unperturbed)


def test_checkpoints_have_the_weights_of_their_step(study: nz.Study, digits: nz.datasets.Dataset) -> None:
    history = study.history
    checked = 0
    for network in ("abs", "relu"):
        for threshold in history.threshold.values:
            step = int(history.checkpoint_step.sel(network=network, run=1, threshold=threshold))
            accuracies = history.train_accuracy.sel(network=network, run=1)
            reached = accuracies.step[accuracies >= threshold / 100]
            assert step == (int(reached[0]) if len(reached) else -1)
            if step >= 0:
                one = nz.sweep(
                    study.network(network, 1, step=step),
                    digits.train.pixels,
                    digits.train.labels,
                    family=["scale"],
                )
                assert float(one.unperturbed_accuracy) == float(accuracies.sel(step=step))
                checked += 1
    assert checked > 6


def test_a_run_alone_is_the_run_among_others(study: nz.Study, tmp_path: Path) -> None:
    alone = make(tmp_path / "alone", runs=1, first_seed=1, activations="relu").train()
    for name in ("w1", "b1", "w2", "b2"):
        assert np.array_equal(
            getattr(alone.network("relu", 0), name), getattr(study.network("relu", 1), name)
        )


def test_what_a_study_says_of_itself(study: nz.Study) -> None:
    opened = nz.Study.open(study.folder)
    assert repr(opened).startswith(
        f"Study({str(study.folder)!r}: digits, abs and relu, 2 runs each, 60 steps"
    )
    assert opened.conduct == {
        "pixels": "raw",
        "offset": "as-run",
        "clip": "pre",
        "clip_threshold": "min+pr",
        "range": "post",
        "ttest_baseline": "identity",
    }
    assert opened.notices == ()
    assert opened.summary()["done"] == "trained, swept"
    assert opened.curve("abs", "offset").sizes == {"run": 2, "level": 125}
    record = json.loads((study.folder / "provenance.json").read_text())
    assert record["data"]["source"] == "scikit-learn"
    assert set(record["sittings"][0]["versions"]) >= {"nearzero", "torch", "numpy"}
    root = xr.open_dataset(study.folder / "results.nc", engine="h5netcdf")
    assert root.accuracy.dims == ("network", "run", "family", "level", "split")
    root.close()


@pytest.mark.parametrize("run", [-1, 2])
def test_no_such_network(study: nz.Study, run: int) -> None:
    with pytest.raises(nz.InputError, match=f"there is no run {run}: the study has the runs 0 to 1"):
        study.network("abs", run)
    with pytest.raises(
        nz.InputError, match="activation must be one of abs, relu; got 'rleu'; did you mean 'relu'"
    ):
        study.network("rleu", 0)
    with pytest.raises(nz.InputError, match=r"abs-00-step000003\.safetensors isn't there"):
        study.network("abs", 0, step=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "rleu"}, "network must be one of abs, relu; got 'rleu'; did you mean 'relu'"),
        (
            {"family": "ofset"},
            "family must be one of offset, scale, clip; got 'ofset'; did you mean 'offset'",
        ),
        ({"metric": "acuracy"}, "metric must be one of .*; got 'acuracy'; did you mean 'accuracy'"),
        ({"metric": "dead_units"}, "metric must be one of accuracy, agreement; got 'dead_units'"),
        ({"split": "tset"}, "split must be one of train, test; got 'tset'; did you mean 'test'"),
    ],
)
def test_no_such_curve(study: nz.Study, change: dict[str, str], message: str) -> None:
    with pytest.raises(nz.InputError, match=message):
        study.curve(**{"network": "abs", "family": "offset"} | change)


def test_a_run_that_diverges_is_reported_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nearzero.study.data as data

    def one_hot_start(seeds: object, name: str, **shape: int) -> nz.Stack:
        stack = nz.networks.initial_stack(seeds, name, **shape)
        stack.w2[1] *= 1e30
        return stack

    monkeypatch.setattr(data, "initial_stack", one_hot_start)
    found = make(tmp_path / "hot", activations="relu", runs=3).train().sweep()
    monkeypatch.undo()
    calm = make(tmp_path / "calm", activations="relu", runs=3).train().sweep()
    step = int(found.history.diverged_at.sel(network="relu", run=1))
    assert step >= 0
    assert found.history.diverged_at.values.tolist() == [[-1, step, -1]]
    assert found.notices == (
        f"ReLU run 1 diverged: its loss was no longer a finite number at step {step}; it's left out of every mean",
    )
    assert found.response.accuracy.sel(run=1).isnull().all()
    for run in (0, 2):
        xr.testing.assert_equal(found.response.sel(run=run), calm.response.sel(run=run))
    found.report()
    assert "diverged" in (found.folder / "tables" / "table1_baseline.md").read_text()


def test_another_activation_and_conduct(tmp_path: Path) -> None:
    found = (
        make(tmp_path / "gelu", activations="gelu", runs=1, pixels="normalized", clip="post").train().sweep()
    )
    assert found.conduct["offset"] == "shift"
    assert not found.response.accuracy.sel(family="clip").isnull().all()


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(nz.InputError, match=r"cuda:7.*(CUDA|not available|isn't available)"):
        make(tmp_path / "gpu", device="cuda:7").train()


# --- folders ------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_a_study(tmp_path: Path) -> None:
    with pytest.raises(nz.InputError, match=r"isn't a study: it has no spec\.toml"):
        nz.Study.open(tmp_path)
    with pytest.raises(nz.InputError, match="isn't a folder; give the folder of a study"):
        nz.Study.open(tmp_path / "nothing")
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(
        nz.InputError, match=r"holds other files and no spec.toml; choose an empty or a new folder"
    ):
        make(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("key", "value"), [("offset", '"shift"'), ("steps", "61"), ("runs", "1"), ("first_seed", "7")]
)
def test_a_spec_that_was_edited_after_the_fact(key: str, value: str, tmp_path: Path) -> None:
    study = make(tmp_path / "study").train().sweep()
    path = study.folder / "spec.toml"
    lines = [
        f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    edited = nz.Study.open(study.folder)
    for work in (edited.train, edited.sweep, edited.report):
        with pytest.raises(nz.InputError, match=rf"results.nc was made with {key} = .*, but spec.toml says"):
            work()


def test_results_and_networks_of_others_are_refused(study: nz.Study, tmp_path: Path) -> None:
    other = make(tmp_path / "other", activations="relu").train()
    (other.folder / "results.nc").write_bytes((study.folder / "results.nc").read_bytes())
    (other.folder / "checksums").unlink()
    with pytest.raises(nz.InputError, match=r"results.nc was made with activations = .*but spec.toml says"):
        _ = other.response
    mixed = make(tmp_path / "mixed").train()
    networks = mixed.folder / "networks"
    (networks / "abs-00.safetensors").write_bytes((networks / "relu-01.safetensors").read_bytes())
    (mixed.folder / "checksums").unlink()
    with pytest.raises(nz.InputError, match=r"abs-00.safetensors holds another network, .*'relu', 'seed': 1"):
        mixed.sweep()


def test_results_of_more_runs_than_the_spec_has(study: nz.Study, tmp_path: Path) -> None:
    copy = make(tmp_path / "study", test=True)
    tree = load_netcdf((study.folder / "results.nc").read_bytes(), "", "")
    response = tree.to_dataset().isel(run=[0, 1, 1]).assign_coords(run=[0, 1, 2])
    (copy.folder / "results.nc").write_bytes(netcdf_content(response))
    why = r"results\.nc has 3 runs of abs, relu, and spec\.toml says 2 runs of abs, relu; delete it"
    with pytest.raises(nz.InputError, match=why):
        _ = copy.response


def test_results_with_other_labels_are_refused_in_a_line(study: nz.Study, tmp_path: Path) -> None:
    copy = make(tmp_path / "study", test=True)
    response = load_netcdf((study.folder / "results.nc").read_bytes(), "", "").to_dataset()
    changed = response.rename(family="fam")
    (copy.folder / "results.nc").write_bytes(netcdf_content(changed))
    why = r"a result of .* can't be read \(KeyError.*\); `nearzero verify .*` names files that were changed"
    with pytest.raises(nz.InputError, match=why):
        copy.tables()
    with pytest.raises(nz.InputError, match=why):
        copy.report()


def test_results_without_notices_are_refused_in_a_line(study: nz.Study, tmp_path: Path) -> None:
    copy = make(tmp_path / "study", test=True)
    response = load_netcdf((study.folder / "results.nc").read_bytes(), "", "").to_dataset()
    del response.attrs["notices"]
    (copy.folder / "results.nc").write_bytes(netcdf_content(response))
    with pytest.raises(nz.InputError, match=r"a result of .* can't be read \(KeyError: 'notices'\)"):
        _ = copy.notices


def test_the_leading_t_test_may_be_changed_in_a_finished_study(tmp_path: Path) -> None:
    make(tmp_path / "study").train().sweep()
    again = make(tmp_path / "study", ttest_baseline="published").report()
    assert again.conduct["ttest_baseline"] == "published"
    header = (again.folder / "tables" / "table4_offset.csv").read_text().splitlines()[0]
    assert header.index("entry50_t") < header.index("identity_t")


def test_an_incomplete_spec(study: nz.Study, tmp_path: Path) -> None:
    make(tmp_path / "study")
    (tmp_path / "study" / "spec.toml").write_text('preset = "quick"')
    with pytest.raises(
        nz.InputError, match=r"spec.toml lacks the keys data, pixels, .*: a study's spec must be complete"
    ):
        nz.Study.open(tmp_path / "study")


def test_history_has_its_own_labels(study: nz.Study) -> None:
    with xr.open_dataset(study.folder / "results.nc", group="history", engine="h5netcdf") as history:
        assert history.loss.sel(network="abs", run=1).sizes == {"step": len(history.step)}


def test_a_study_of_another_spec(study: nz.Study) -> None:
    with pytest.raises(
        nz.InputError, match="holds a study with steps = 60, but 61 was given; choose another folder"
    ):
        make(study.folder, steps=61, test=True)


def test_an_unknown_key_in_a_studys_spec(tmp_path: Path) -> None:
    make(tmp_path / "study")
    path = tmp_path / "study" / "spec.toml"
    path.write_text(path.read_text() + "colour = 3\n")
    with pytest.raises(nz.InputError, match=r"unknown key 'colour' in .*spec.toml"):
        nz.Study.open(tmp_path / "study")


def test_other_data_than_it_was_begun_with(tmp_path: Path) -> None:
    begun = make(tmp_path / "study").train()
    record = begun.provenance
    record["data"]["sha256"] = {"images": "0" * 64}
    (begun.folder / "provenance.json").write_text(json.dumps(record))
    (begun.folder / "checksums").unlink()
    with pytest.raises(
        nz.InputError, match=r"was begun with digits from scikit-learn, and now digits .* other contents"
    ):
        begun.sweep()


def test_sweep_before_train_and_report_before_sweep(tmp_path: Path) -> None:
    fresh = make(tmp_path / "study")
    with pytest.raises(nz.InputError, match="has no trained networks yet; run `nearzero train"):
        fresh.sweep()
    with pytest.raises(nz.InputError, match="has no results of that kind yet; run `nearzero sweep"):
        fresh.report()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x89HDF\r\n\x1a\n truncated"])
def test_damaged_results(content: bytes, tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    (study.folder / "results.nc").write_bytes(content)
    with pytest.raises(
        nz.InputError, match=r"results.nc can't be read .*; delete it, and run `nearzero train"
    ):
        _ = study.response


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100])
def test_a_damaged_network(content: bytes, tmp_path: Path) -> None:
    study = make(tmp_path / "study", runs=1).train()
    (study.folder / "networks" / "abs-00.safetensors").write_bytes(content)
    with pytest.raises(nz.InputError, match=r"abs-00.safetensors is damaged, .*; run `nearzero train"):
        study.sweep()
    (study.folder / "checksums").unlink()
    with pytest.raises(nz.InputError, match=r"abs-00.safetensors can't be read .*; run `nearzero train"):
        study.sweep()


def test_damaged_provenance(tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    (study.folder / "provenance.json").write_text("[1")
    with pytest.raises(nz.InputError, match=r"provenance.json can't be read .*; restore it, or delete it"):
        study.train()


def test_two_processes_at_once(tmp_path: Path) -> None:
    study = make(tmp_path / "study")
    with (
        FileLock(study.folder / ".lock"),
        pytest.raises(nz.InputError, match="another process is working on"),
    ):
        study.train()


# --- the disk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space is left on the device; free some and run the same command again"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_no_space_left(
    number: int, message: str, study: nz.Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = make(tmp_path / "study", test=True)

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(nearzero.support.files.os, "fsync", full)
        with pytest.raises(nz.InputError, match=f"can't write .*: {message}"):
            fresh.train()
    assert not list(fresh.folder.rglob("*.part"))
    fresh.train().sweep()
    xr.testing.assert_identical(fresh.response, study.response)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """The attempts are made as an unprivileged user; root becomes one first."""
    closed = tmp_path / "closed"
    closed.mkdir()
    make(tmp_path / "study", runs=1, activations="relu")
    for folder in (closed, tmp_path / "study"):
        folder.chmod(0o555)
    os.chmod(tmp_path, 0o755)
    for parent in tmp_path.parents:
        if (
            parent.owner() == tmp_path.owner()
            and parent != Path("/")
            and os.access(parent, os.W_OK)
            and "pytest" in str(parent)
        ):
            parent.chmod(0o755)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # no test machinery in here: it reports through the pipe and is gone
        lines = []
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            for attempt in (
                lambda: make(closed / "new"),
                lambda: record_session(tmp_path / "study", {}, "cpu"),
                lambda: nz.Study.open(tmp_path / "study").train(),
            ):
                try:
                    attempt()
                    lines.append("went through")
                except nz.InputError as error:
                    lines.append(str(error))
        except BaseException as error:
            lines.append(repr(error))
        os.write(write, json.dumps(lines).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    lines = json.loads(os.read(read, 65536))
    os.close(read)
    assert len(lines) == 3, lines
    for line in lines:
        assert line.startswith("can't write ")
        assert "permission denied; choose a folder that you can write" in line
