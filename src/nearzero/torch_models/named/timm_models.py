"""Models of `timm` by name, with the preprocessing that belongs to their weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.named.hub import Repository, find_repository, is_local, split_revision
from nearzero.torch_models.named.options import NEW_WEIGHTS, Loading
from nearzero.torch_models.named.packages import first_line, imported, only_tensors
from nearzero.torch_models.named.sources import NamedModel, Origin, Preparation, file_hashes

__all__ = ["open_model"]


def open_model(name: str, loading: Loading) -> NamedModel:
    """Return a model of `timm`.

    Args:
        name: the name of an architecture and its weights (`resnet18.a1_in1k`), a repository on the hub
            (`timm/resnet18.a1_in1k`), each perhaps with `@revision`, or the path of a folder with `config.json`.
        loading: the user's settings.

    Raises:
        InputError: there is no such model, or it can't be loaded.
    """
    timm = imported("timm")
    plain, revision = split_revision(name)
    if is_local(plain) or "/" in plain:
        repository: Repository | None = find_repository(name)
        assert repository is not None
        arguments = {
            "model_name": f"local-dir:{repository.name}"
            if repository.is_folder
            else f"hf-hub:{repository.name}@{repository.commit}"
        }
    else:
        arguments, repository = _registered(timm, plain, revision, loading.untrained)
    reading = nullcontext() if repository is None else repository.reading()
    with reading, only_tensors() as files:
        try:
            module = timm.create_model(**arguments, pretrained=not loading.untrained).eval()
        except Exception as error:  # timm raises errors of many types
            raise InputError(f"the model {plain} of timm can't be loaded: {first_line(error)}") from error
    commit = "" if repository is None else repository.commit
    origin = Origin(f"timm:{plain}", commit, file_hashes(files))
    weights = module.pretrained_cfg.get("tag") or "those of this name"
    source = "the name" if "." in plain else "the first of this architecture"
    rows = [NEW_WEIGHTS if loading.untrained else Assumption("weights", str(weights), source, "model=")]
    preparation = None if loading.preprocess is not None else _preparation(module)
    return NamedModel(module, origin, preparation, _classes(module), int(module.num_classes) or None, rows)


def _registered(
    timm: Any, name: str, revision: str | None, untrained: bool
) -> tuple[dict[str, Any], Repository | None]:
    """Return the arguments by which `timm` builds a model of its registry, and the repository with its weights.

    An untrained model has no repository.

    Raises:
        InputError: there is no such model, or it has no weights, or not this revision.
    """
    known = timm.list_models(pretrained=True)
    architectures = timm.list_models()
    if name not in known and name not in architectures:
        hint = did_you_mean(name, [*known, *architectures])
        raise InputError(
            f"timm has no model {name!r}: {hint}timm.list_models(pretrained=True) lists them all"
        )
    if untrained:
        if revision is not None:
            raise InputError(f"untrained weights have no revision; got @{revision}")
        return {"model_name": name}, None
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        weights = [each for each in known if each.partition(".")[0] == name.partition(".")[0]]
        raise InputError(
            f"timm has no weights for {name!r}; {'there are ' if weights else ''}"
            f"{', '.join(weights) or 'build it in a function'}"
        )
    repository = (
        find_repository(f"{config.hf_hub_id}{'@' + revision if revision else ''}")
        if config.hf_hub_id
        else None
    )
    if repository is None:
        if revision is not None:
            raise InputError(
                f"the weights of {name} aren't on the hub, and have no revision; got @{revision}"
            )
        return {"model_name": name}, None
    pinned = f"{repository.name}@{repository.commit}"
    custom = {"custom_load": config.custom_load}  # which timm resets if another source is given
    return {"model_name": name, "pretrained_cfg_overlay": {"hf_hub_id": pinned, **custom}}, repository


def _preparation(module: Any) -> Preparation:
    """Return the preprocessing for evaluation that belongs to a model's weights."""
    data = imported("timm.data")
    settings = data.resolve_model_data_config(module)
    size = "x".join(map(str, settings["input_size"][1:]))
    return Preparation(
        "image",
        f"{settings['interpolation']} to {size}, crop {settings['crop_pct']:g} ({settings['crop_mode']}), mean "
        f"{_numbers(settings['mean'])}, standard deviation {_numbers(settings['std'])}",
        "timm's create_transform for these weights",
        data.create_transform(**settings, is_training=False),
        channels=settings["input_size"][0],
    )


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _classes(module: Any) -> tuple[tuple[str, ...], ...]:
    """Return the names of the classes: those that the weights come with, or those of ImageNet by their number."""
    config = module.pretrained_cfg
    names, described = config.get("label_names"), config.get("label_descriptions") or {}
    if not names:
        data = imported("timm.data")
        subset = data.infer_imagenet_subset(module)
        if subset is None:
            return ()
        info = data.ImageNetInfo(subset)
        names, described = info.label_names(), info.label_descriptions(as_dict=True)
    return tuple((described[name], name) if name in described else (name,) for name in names)
