"""Weights as people have them: `nz.load_weights` on files of many kinds."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

import nearzero as nz


class Net(nn.Module):
    """Embedding and readout share a weight; positions and a scale are buffers."""

    def __init__(self, *, tied: bool = True) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 5, bias=False)
        if tied:
            self.head.weight = self.words.weight
        self.register_buffer("positions", torch.arange(6))
        self.register_buffer("angles", torch.ones(2), persistent=False)


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.fixture
def saved() -> Net:
    """Return the network whose weights are in the files."""
    torch.manual_seed(1)
    net = Net()
    net.norm.running_mean += 3
    return net


@pytest.fixture
def net() -> Net:
    """Return the network that they are loaded into."""
    torch.manual_seed(2)
    return Net()


def assert_same(left: nn.Module, right: nn.Module) -> None:
    for name, value in right.state_dict().items():
        assert torch.equal(left.state_dict()[name], value), name


def refusal(net: nn.Module, path: Path) -> str:
    """Return the refusal without its path, and hold that the model is as it was."""
    before = state_of(net)
    with pytest.raises(nz.InputError) as error:
        nz.load_weights(net, path)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    text = str(error.value)
    assert "\n" not in text
    return text.replace(str(path), "FILE").replace(str(path.parent), "FOLDER")


# --- what is loaded -------------------------------------------------------------------------------------------------


def test_tied_weights_saved_once(saved: Net, net: Net, tmp_path: Path) -> None:
    save_model(saved, str(tmp_path / "net.safetensors"))
    loaded = nz.load_weights(net, tmp_path / "net.safetensors")
    assert_same(net, saved)
    assert len(loaded.tied) == 1
    assert {"words.weight", "head.weight"} == {*loaded.tied, *loaded.loaded} & {"words.weight", "head.weight"}
    assert (loaded.unused, loaded.kept) == ((), ())


def test_a_weight_saved_once_isnt_enough_for_two(saved: Net, tmp_path: Path) -> None:
    save_model(saved, str(tmp_path / "net.safetensors"))
    text = refusal(Net(tied=False), tmp_path / "net.safetensors")
    assert text.startswith("the weights in FILE don't fit the model: the file lacks ")


def test_one_weight_with_two_values_is_refused(net: Net, tmp_path: Path) -> None:
    torch.save(Net(tied=False).state_dict(), tmp_path / "net.pt")
    text = refusal(net, tmp_path / "net.pt")
    assert "words.weight and head.weight are one tensor in the model and differ in the file" in text


def test_tied_by_a_view(tmp_path: Path) -> None:
    def build(value: float) -> nn.Module:
        net = nn.ModuleList([nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False)])
        net[1].weight = nn.Parameter(net[0].weight.detach().t())
        net[0].weight.data.fill_(value)
        return net

    torch.save({"0.weight": build(2.0).state_dict()["0.weight"]}, tmp_path / "net.pt")
    net = build(1.0)
    assert nz.load_weights(net, tmp_path / "net.pt").tied == ("1.weight",)
    assert bool((net[1].weight == 2).all())


def test_a_part_of_the_memory_isnt_all_of_it(tmp_path: Path) -> None:
    net = nn.ModuleList([nn.Linear(4, 3, bias=False), nn.Linear(4, 2, bias=False)])
    net[1].weight = nn.Parameter(net[0].weight.detach()[:2])
    torch.save({"1.weight": torch.ones(2, 4)}, tmp_path / "net.pt")
    assert "the file lacks 0.weight" in refusal(net, tmp_path / "net.pt")


@pytest.mark.parametrize("suffix", ["pt", "pth", "pth.tar", "th", "bin", "ckpt", "pkl"])
@pytest.mark.parametrize("key", ["model_state_dict", "model_state", "state_dict", "model", "net"])
def test_checkpoints(saved: Net, net: Net, key: str, suffix: str, tmp_path: Path) -> None:
    torch.save({"epoch": 3, key: saved.state_dict(), "optimizer": {"lr": 0.1}}, tmp_path / f"net.{suffix}")
    loaded = nz.load_weights(net, str(tmp_path / f"net.{suffix}"))
    assert_same(net, saved)
    assert (loaded.inside, loaded.unused) == (key, ("epoch", "optimizer"))


def test_a_checkpoint_inside_of_another(saved: Net, net: Net, tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": saved.state_dict(), "step": 1}}, tmp_path / "net.pt")
    loaded = nz.load_weights(net, tmp_path / "net.pt")
    assert_same(net, saved)
    assert (loaded.inside, loaded.unused) == ("model.state_dict", ("step",))


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "module._orig_mod.", "model._orig_mod.", "net.", "backbone."),
        *("_forward_module.", "_fsdp_wrapped_module.", "student.", "a.b.c."),
    ],
)
def test_prefixes(saved: Net, net: Net, prefix: str, tmp_path: Path) -> None:
    state = {prefix + name: value for name, value in saved.state_dict().items()}
    torch.save({**state, "loss.weight": torch.ones(3)}, tmp_path / "net.pt")
    loaded = nz.load_weights(net, tmp_path / "net.pt")
    assert_same(net, saved)
    assert (loaded.prefix, loaded.unused) == (prefix, ("loss.weight",))


def test_a_prefix_is_told_with_the_name_in_the_file(saved: Net, net: Net, tmp_path: Path) -> None:
    torch.save(
        {f"model.{k}": v for k, v in {**saved.state_dict(), "z": torch.ones(1)}.items()}, tmp_path / "n.pt"
    )
    assert nz.load_weights(net, tmp_path / "n.pt").unused == ("model.z",)


@pytest.mark.parametrize("prefix", ["model.", "a.b."])
def test_a_prefix_that_the_file_lacks_is_added(saved: Net, prefix: str, tmp_path: Path) -> None:
    def wrapped(net: nn.Module) -> nn.Module:
        for name in reversed(prefix.rstrip(".").split(".")):
            net = nn.ModuleDict({name: net})
        return net

    torch.save({**saved.state_dict(), "loss": torch.ones(1)}, tmp_path / "net.pt")
    whole = wrapped(Net())
    loaded = nz.load_weights(whole, tmp_path / "net.pt")
    assert_same(whole, wrapped(saved))
    assert (loaded.prefix, loaded.added, loaded.unused) == ("", prefix, ("loss",))
    assert str(loaded).splitlines()[0].endswith(f", with the prefix {prefix}")
    more = nn.ModuleDict({"model": Net(), "head": nn.Linear(2, 2)})  # it has other weights too
    assert "the file lacks " in refusal(more, tmp_path / "net.pt")


def test_prefixes_that_fit_equally_are_refused(tmp_path: Path) -> None:
    two = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "ab"})
    two["b"].weight = two["a"].weight
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "net.pt")
    assert "their names fit in several ways, with a. or with b.; save them under" in refusal(
        two, tmp_path / "net.pt"
    )


def test_a_prefix_with_other_shapes_isnt_taken(tmp_path: Path) -> None:
    torch.save({"net.weight": torch.ones(3, 2), "net.bias": torch.ones(3)}, tmp_path / "net.pt")
    assert "size mismatch for weight" in refusal(nn.Linear(2, 2), tmp_path / "net.pt")


def test_several_state_dicts(saved: Net, net: Net, tmp_path: Path) -> None:
    states = {"generator": saved.state_dict(), "discriminator": saved.state_dict(), "epoch": 3}
    torch.save(states, tmp_path / "net.pt")
    assert refusal(net, tmp_path / "net.pt") == (
        "FILE holds several state dicts, generator, discriminator; save the model's alone: "
        "torch.save(torch.load(path)['generator'], ...)"
    )


# the end of an archive on two disks, which Python's zipfile refuses where it only has to tell whether it is one
TWO_DISKS = struct.pack("<4sLQL", b"PK\x06\x07", 0, 0, 2) + b"PK\x05\x06" + bytes(18)


@pytest.mark.parametrize(
    "content", [b"garbage", b"", b"PK\x03\x04 cut off", b"\x00" * 20, b"garbage" + TWO_DISKS]
)
def test_what_pytorch_didnt_save(net: Net, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    text = refusal(net, tmp_path / "net.pt")
    assert text.startswith("FILE can't be read as weights")
    assert "more than tensors" not in text
    torch.save({"weight": object()}, tmp_path / "net.pt")
    assert refusal(net, tmp_path / "net.pt").startswith("FILE holds more than tensors")


def test_a_name_of_the_models_own_isnt_a_prefix(saved: Net, tmp_path: Path) -> None:
    whole, empty = nn.ModuleDict({"model": saved}), nn.ModuleDict({"model": Net()})
    torch.save(whole.state_dict(), tmp_path / "net.pt")
    assert nz.load_weights(empty, tmp_path / "net.pt").prefix == ""
    assert_same(empty, whole)


def test_a_prefix_of_some_names_stays(saved: Net, net: Net, tmp_path: Path) -> None:
    state = saved.state_dict()
    others = {f"other.{name}": value for name, value in state.items()}
    torch.save({**others, **{f"model.{name}": value for name, value in state.items()}}, tmp_path / "net.pt")
    assert "the file lacks words.weight" in refusal(net, tmp_path / "net.pt")


def test_wrapped_models(saved: Net, net: Net, tmp_path: Path) -> None:
    torch.save(saved.state_dict(), tmp_path / "net.pt")
    nz.load_weights(nn.DataParallel(net), tmp_path / "net.pt")
    assert_same(net, saved)


def test_buffers_that_old_files_have_or_lack(saved: Net, net: Net, tmp_path: Path) -> None:
    state = saved.state_dict()
    del state["positions"], state["norm.num_batches_tracked"]
    state["angles"], state["words.position_ids"] = torch.zeros(2), torch.arange(3)
    torch.save(state, tmp_path / "net.pt")
    loaded = nz.load_weights(net, tmp_path / "net.pt")
    assert_same(net, saved)
    assert bool((net.angles == 1).all())  # not persistent: as the model's code sets it
    assert set(loaded.unused) == {"angles", "words.position_ids"}
    assert "positions" in loaded.kept
    assert str(loaded).splitlines()[-2:] == [
        "in the file and not used: angles, words.position_ids",
        f"not in the file and left as built: {', '.join(loaded.kept)}",
    ]


def test_statistics_are_needed(saved: Net, net: Net, tmp_path: Path) -> None:
    state = saved.state_dict()
    del state["norm.running_mean"]
    torch.save(state, tmp_path / "net.pt")
    assert "the file lacks norm.running_mean" in refusal(net, tmp_path / "net.pt")


def test_names_that_the_models_own_hooks_change(tmp_path: Path) -> None:
    class Renamed(nn.Linear):
        def _load_from_state_dict(self, state, prefix, *others):
            for old, new in (("gamma", "weight"), ("beta", "bias")):
                if prefix + old in state:
                    state[prefix + new] = state.pop(prefix + old)
            super()._load_from_state_dict(state, prefix, *others)

    net = Renamed(2, 2)
    torch.save({"gamma": torch.ones(2, 2), "beta": torch.ones(2)}, tmp_path / "net.pt")
    assert nz.load_weights(net, tmp_path / "net.pt").loaded == ("weight", "bias")
    assert bool((net.weight == 1).all())


# --- several files --------------------------------------------------------------------------------------------------


def save_parts(state: dict[str, Tensor], folder: Path) -> Path:
    """Write a state dict as two files with an index, and return the index."""
    state = {name: value.clone() for name, value in state.items()}
    names = sorted(state)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: state[name] for name in names if files[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


@pytest.mark.parametrize("by_folder", [False, True])
def test_parts_with_an_index(saved: Net, net: Net, by_folder: bool, tmp_path: Path) -> None:
    index = save_parts(saved.state_dict(), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    nz.load_weights(net, tmp_path if by_folder else index)
    assert_same(net, saved)


@pytest.mark.parametrize("name", ["model.safetensors", "anything.pt"])
def test_a_folder_with_one_file(saved: Net, net: Net, name: str, tmp_path: Path) -> None:
    if name.endswith("pt"):
        torch.save(saved.state_dict(), tmp_path / name)
    else:
        save_model(saved, str(tmp_path / name))
        torch.save(Net().state_dict(), tmp_path / "pytorch_model.bin")
    nz.load_weights(net, tmp_path)
    assert_same(net, saved)


def test_folders_and_indices_that_are_refused(saved: Net, net: Net, tmp_path: Path) -> None:
    assert refusal(net, tmp_path).startswith("FILE holds no weights; they are read from .safetensors, .pt,")
    for name in ("a.pt", "b.pt"):
        torch.save(saved.state_dict(), tmp_path / name)
    assert refusal(net, tmp_path) == "FILE holds several files of weights (a.pt, b.pt); name one of them"
    index = save_parts(saved.state_dict(), tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert refusal(net, index) == (
        "there is no file FOLDER/model-00002-of-00002.safetensors, which model.safetensors.index.json names"
    )
    index.write_text(json.dumps({"weight_map": {"words.weight": "../a.pt"}}))
    assert "names '../a.pt', which isn't a file of weights beside it" in refusal(net, index)
    for text in ("not json", "[]", "{}", '{"weight_map": {"a": 3}}', 100_000 * "["):
        index.write_text(text)
        assert "FILE" in refusal(net, index)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_shapes_that_differ(net: Net, tmp_path: Path) -> None:
    state = net.state_dict() | {"norm.weight": torch.ones(7), "norm.bias": torch.ones(7)}
    torch.save(state, tmp_path / "net.pt")
    assert refusal(net, tmp_path / "net.pt") == (
        "the weights in FILE don't fit the model: size mismatch for norm.weight: (7,) in the file, (4,) in the "
        "model; and 1 more"
    )


def test_whole_numbers_arent_weights(net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict() | {"norm.weight": torch.ones(4).to(torch.int8)}, tmp_path / "net.pt")
    assert "norm.weight holds int8 in the file, float32 in the model" in refusal(net, tmp_path / "net.pt")


def test_something_else_under_a_name(net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict() | {"norm.weight": [1.0]}, tmp_path / "net.pt")
    assert "norm.weight is list in the file, not a tensor" in refusal(net, tmp_path / "net.pt")


def test_no_module(tmp_path: Path) -> None:
    with pytest.raises(nz.InputError, match=r"model must be a torch\.nn\.Module; got dict"):
        nz.load_weights({}, tmp_path)  # type: ignore[arg-type]
