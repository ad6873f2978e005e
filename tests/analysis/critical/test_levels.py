"""What can be asked of critical levels, on intervals written by hand; and their file."""

import json

import numpy as np
import pytest

import nearzero as nz
from nearzero.networks import initial_stack


def by_hand(family="shift", low=-2.0, high=1.0, identity=0.0, **other):
    """Four examples: never; above only, and back; both sides, back twice below; already another at the identity."""
    starts = [[-2], [-2, 0.5, 0.75], [-2, -1.5, -1.0, -0.5, -0.25, 0.125], [-2, -0.125]]
    classes = [[3], [1, 0, 1], [2, 0, 2, 0, 2, 1], [5, 4]]
    counts = [len(each) for each in starts]
    return nz.CriticalLevels(
        family=family,
        low=low,
        high=high,
        identity=identity,
        grid=0,
        conduct=nz.Conduct(),
        seed=0,
        first=np.concatenate([[0], np.cumsum(counts)]),
        starts=np.concatenate(starts).astype(float),
        classes=np.concatenate(classes).astype(np.uint16),
        unperturbed=np.array([3, 1, 2, 5], np.uint16),
        **other,
    )


def test_critical_levels_and_what_comes_next():
    found = by_hand()
    np.testing.assert_array_equal(found.critical("above"), [np.nan, 0.5, 0.125, 0.0])
    np.testing.assert_array_equal(found.critical("below"), [np.nan, np.nan, -0.25, -0.0])
    np.testing.assert_array_equal(found.successor("above"), [3, 0, 1, 4])
    np.testing.assert_array_equal(found.successor("below"), [3, 1, 0, 4])
    np.testing.assert_array_equal(found.changes_back("above"), [0, 1, 0, 0])
    np.testing.assert_array_equal(found.changes_back("below"), [0, 0, 2, 1])
    assert (found.censored("above"), found.censored("below")) == (1, 2)
    assert found.sides == ("below", "above")
    np.testing.assert_array_equal(found.ends[-2:], [-0.125, 1])
    assert repr(found) == "CriticalLevels(shift, -2 to 1, exact: 4 examples, 12 intervals)"


def test_first_to_break():
    found = by_hand()
    np.testing.assert_array_equal(found.first_to_break(2, "above"), [3, 2])
    np.testing.assert_array_equal(found.first_to_break(10, "above"), [3, 2, 1])
    np.testing.assert_array_equal(found.first_to_break(10, "below"), [3, 2])
    with pytest.raises(nz.InputError, match="n must be a whole number, at least 1; got 0"):
        found.first_to_break(0, "above")


def test_of_equals_the_first_breaks_first():
    network = nz.TwoLayer([[1.0]], [0.0], [[1.0], [0.0]], [0.0, 0.25])
    x = [[1.0], [0.5], [1.0], [0.5], [0.0]]
    found = nz.critical_levels(network, x, family="shift")
    np.testing.assert_allclose(found.critical("below"), [-0.75, -0.25, -0.75, -0.25, np.nan])
    np.testing.assert_array_equal(found.first_to_break(3, "below"), [1, 3, 0])


def test_a_family_with_its_identity_beyond_has_one_side():
    found = by_hand("clip", identity=np.inf)
    assert found.sides == ("below",)
    np.testing.assert_array_equal(found.critical("below"), [np.nan, 0.75, 1.0, 1.0])
    assert np.isnan(found.critical("above")).all()
    assert by_hand(identity=None).sides == ()
    assert by_hand(identity=-2.0).sides == ("above",)
    assert by_hand(identity=-3.0).sides == ()


def test_accuracy_at_any_level():
    found, labels = by_hand(), np.array([3, 1, 2, 4])
    levels = np.array([-2, -1.5, -1.2, -0.25, -0.125, 0, 0.125, 0.6, 1])
    expected = [np.mean(found.predict(level) == labels) for level in levels]
    np.testing.assert_array_equal(found.accuracy(levels, labels), expected)
    assert found.accuracy(-1.2, labels) == 0.5
    begin, accuracy = found.curve(labels)
    assert begin[0] == -2
    assert (np.diff(begin) > 0).all()
    np.testing.assert_array_equal(accuracy, found.accuracy(begin, labels))
    np.testing.assert_array_equal(found.accuracy(begin[1:] - 1e-9, labels), accuracy[:-1])
    agreement = found.accuracy([0.0, 0.6], found.unperturbed)
    np.testing.assert_array_equal(agreement, [0.75, 0.25])


def test_the_dataset_holds_the_same():
    found = by_hand()
    data = found.to_dataset()
    assert data.sizes == {"interval": 12, "example": 4, "side": 2}
    np.testing.assert_array_equal(data.critical_level.sel(side="below"), found.critical("below"))
    np.testing.assert_array_equal(data.successor.sel(side="above"), found.successor("above"))
    np.testing.assert_array_equal(data.changes_back.sel(side="above"), found.changes_back("above"))
    assert data["count"].sum() == data.sizes["interval"]
    mine = data.isel(interval=slice(1, 4))
    np.testing.assert_array_equal(mine.start, [-2, 0.5, 0.75])
    np.testing.assert_array_equal(mine.end, [0.5, 0.75, 1])
    np.testing.assert_array_equal(mine.prediction, [1, 0, 1])
    assert (data.attrs["family"], data.attrs["offset"]) == ("shift", "as-run")
    assert "piecewise linear" in data.attrs["assumption"]
    assert "critical_level" not in by_hand(identity=None).to_dataset()


def test_the_dataset_can_be_written(tmp_path):
    import xarray as xr

    data = by_hand().to_dataset()
    data.to_netcdf(tmp_path / "levels.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "levels.nc", engine="h5netcdf") as back:
        xr.testing.assert_identical(back.load(), data)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("classes", [1, 2, 10, 300])
def test_the_file_loses_nothing(tmp_path, activation, classes):
    network = initial_stack([0], activation, inputs=6, units=9, classes=classes)[0]
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    for family in ("shift", "clip", "signed_shift"):
        conduct = nz.Conduct(range="pre")
        found = nz.critical_levels(network, x, family=family, conduct=conduct, seed=4)
        path = found.save(tmp_path / f"{family}.npz")
        back = nz.CriticalLevels.load(path)
        for name, value in vars(found).items():
            if name.startswith("_"):
                continue
            np.testing.assert_array_equal(getattr(back, name), value, name)
            assert np.asarray(getattr(back, name)).dtype == np.asarray(value).dtype
        assert [each.name for each in tmp_path.iterdir() if ".part" in each.name] == []


def test_the_file_is_small(tmp_path):
    """8 bytes for each change, and 4 bits for each class of ten."""
    network = initial_stack([0], "relu", inputs=20, units=40)[0]
    x = np.random.default_rng(0).normal(size=(4000, 20)).astype(np.float32)
    found = nz.critical_levels(network, x, family="shift")
    changes = len(found.starts) - len(found)
    packed = 8 * changes + (len(found.starts) + len(found)) / 2
    assert found.save(tmp_path / "levels.npz").stat().st_size < 1.05 * packed + len(found) + 2000


def test_files_that_are_refused(tmp_path):
    with pytest.raises(nz.InputError, match="there is no file"):
        nz.CriticalLevels.load(tmp_path / "none.npz")
    path = by_hand().save(tmp_path / "levels.npz")
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", header=np.zeros(3))
    others = {"short": whole[:300], "text": b"levels", "other": (tmp_path / "other.npz").read_bytes()}
    for content in others.values():
        path.write_bytes(content)
        with pytest.raises(nz.InputError, match="isn't a file of critical levels, or is damaged"):
            nz.CriticalLevels.load(path)
    later = json.dumps({"format": "nearzero critical levels 2"}).encode()
    np.savez(path, header=np.frombuffer(later, np.uint8))
    with pytest.raises(
        nz.InputError, match=r"has the format 'nearzero critical levels 2'; this nearzero reads"
    ):
        nz.CriticalLevels.load(path)
    with pytest.raises(nz.InputError, match="can't write"):
        by_hand().save(tmp_path / "no folder" / "levels.npz")


def test_refusals():
    found = by_hand()
    with pytest.raises(nz.InputError, match=r"levels must lie between -2.0 and 1.0; got 11"):
        found.predict(11)
    with pytest.raises(nz.InputError, match=r"must lie between -2.0 and 1.0; got nan"):
        found.accuracy([0.0, np.nan], found.unperturbed)
    with pytest.raises(nz.InputError, match=r"one label per example, shape \(4,\); got \(3,\)"):
        found.accuracy([0.0], [1, 2, 3])
    for ask in (found.critical, found.successor, found.changes_back, found.censored):
        with pytest.raises(nz.InputError, match="unknown side 'left': known are below, above"):
            ask("left")
        with pytest.raises(nz.InputError, match="unknown side 'abowe': did you mean 'above'"):
            ask("abowe")
    for identity in (None, 2.0, -3.0):
        with pytest.raises(nz.InputError, match=r"shift has no identity from -2\.0 to 1\.0"):
            by_hand(identity=identity).critical("above")
