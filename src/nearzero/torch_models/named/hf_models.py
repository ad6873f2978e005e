"""Models of `transformers` by name: a repository on the hub, or a folder that `save_pretrained` has written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nearzero.errors import InputError, did_you_mean
from nearzero.support.files import parsing
from nearzero.torch_models.assumptions import Assumption
from nearzero.torch_models.named.hub import INDEX, PICKLED, SAFE, Repository, find_repository
from nearzero.torch_models.named.options import AUTO_CLASSES, NEW_WEIGHTS, Loading
from nearzero.torch_models.named.packages import imported, only_tensors
from nearzero.torch_models.named.sources import NamedModel, Origin, Preparation, Rows, file_hashes
from nearzero.torch_models.named.texts import pad_token

__all__ = ["open_model"]

CAUSAL, MASKED, TEXT_CLASSES, IMAGE_CLASSES = AUTO_CLASSES
# the tables of transformers that say which architectures a class of it loads
MAPPINGS = {
    CAUSAL: "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    MASKED: "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    TEXT_CLASSES: "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    IMAGE_CLASSES: "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
}
LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
NO_LIMIT = 10**9  # tokenizers without a limit give a number beyond this one
UNNAMED = "LABEL_"  # how transformers calls classes without a name
# by the `problem_type` of a configuration: models whose outputs aren't classes, of which one is right
OTHER_TASKS = {"regression": "a regression", "multi_label_classification": "several labels for an example"}
TRIAL = 4  # tokens on which a language model is tried
ROUNDING = {2: 1e-2, 4: 1e-4, 8: 1e-8}  # of logits that should be equal, as a share, by their bytes


def open_model(name: str, loading: Loading) -> NamedModel:
    """Return a model of `transformers`, with its tokenizer or image processor.

    Args:
        name: `org/name`, `org/name@revision`, or the path of a folder.
        loading: the user's settings.

    Raises:
        InputError: there is no such model, it is of another class, its weights aren't complete, or it needs code of its
            own.
    """
    transformers = imported("transformers")
    repository = find_repository(name)
    with repository.reading(), only_tensors(), _quiet(transformers):
        common: dict[str, Any] = {"trust_remote_code": False, "local_files_only": not repository.is_online}
        if repository.commit:
            common["revision"] = repository.commit
        config = _loaded(repository, "configuration", transformers.AutoConfig, common)
        auto_class, source = _auto_class(repository.name, config, loading.auto_class)
        if auto_class in (TEXT_CLASSES, IMAGE_CLASSES):
            _check_task(repository.name, config)
        module = _module(repository, auto_class, config, loading, common)
        module.eval()
        if auto_class == CAUSAL and getattr(module, "loss_type", "") is None:
            module.loss_type = "ForCausalLM"  # which it falls back to, with a remark
        if auto_class == CAUSAL and _reads_ahead(module):
            raise InputError(
                f"{type(module).__name__} of {repository.name} reads later tokens, so it doesn't predict the next one; "
                f"choose {MASKED} by auto_class if it fills in tokens, or set is_decoder in its configuration"
            )
        files = {} if loading.untrained else file_hashes(_weight_files(repository))
        origin = Origin(f"hf:{repository.name}", repository.commit, files)
        rows = [
            Assumption(
                "class of the model", f"{auto_class}, {type(module).__name__}", source, "Loading(auto_class=)"
            ),
            Assumption(
                "precision of the weights",
                str(module.dtype).removeprefix("torch."),
                "as saved" if loading.dtype is None else "given",
                "Loading(dtype=)",
            ),
            *([NEW_WEIGHTS] if loading.untrained else []),
        ]
        classes = _class_names(module.config) if auto_class in (TEXT_CLASSES, IMAGE_CLASSES) else ()
        count = module.config.num_labels if auto_class in (TEXT_CLASSES, IMAGE_CLASSES) else None
        prepare = _images if auto_class == IMAGE_CLASSES else partial(_texts, auto_class=auto_class)
        preparation = None if loading.preprocess is not None else prepare(repository, module, common, rows)
    return NamedModel(module, origin, preparation, classes, count, rows)


def _module(
    repository: Repository, auto_class: str, config: Any, loading: Loading, common: Mapping[str, Any]
) -> Any:
    """Return the model with all of its weights, or with new ones.

    Raises:
        InputError: some weights are missing or have another shape, or can't be loaded.
    """
    options = dict(common)
    if loading.dtype is not None:
        options["dtype"] = _dtype(loading.dtype)
    owner = getattr(imported("transformers"), auto_class)
    if loading.untrained:
        return owner.from_config(
            config, trust_remote_code=False, **{k: options[k] for k in options.keys() & {"dtype"}}
        )
    options |= {"config": config, "output_loading_info": True, "weights_only": True}
    options["ignore_mismatched_sizes"] = True  # they are refused below, by their names
    try:
        module, info = _loaded(repository, "weights", owner, {**options, "use_safetensors": True})
    except _NoWeightsError:
        # not None, by which transformers looks for a converted file in other revisions
        module, info = _loaded(repository, "weights", owner, {**options, "use_safetensors": False})
    lacking = sorted(info["missing_keys"])
    unfit = sorted(str(each[0] if isinstance(each, tuple) else each) for each in info["mismatched_keys"])
    if lacking or unfit:
        names = [*lacking, *unfit]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        what = "lack" if lacking else "have other shapes for"
        raise InputError(
            f"the weights of {repository.name} {what} {', '.join(names[:3])}{more}, which "
            f"{type(module).__name__} needs; choose another class with auto_class"
        )
    return module


class _NoWeightsError(InputError):
    """A repository has no weights in the format that was asked for."""


def _loaded(repository: Repository, part: str, owner: Any, options: Mapping[str, Any]) -> Any:
    """Return what a class of `transformers` loads from a repository, with its errors in one line.

    Raises:
        InputError: it can't be loaded.
    """
    try:
        return owner.from_pretrained(
            str(repository.folder) if repository.is_folder else repository.name, **options
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises errors of many types
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        if "trust_remote_code" in str(error) or "custom code" in str(error):
            raise InputError(
                f"{repository.name} needs code of its own, which isn't run; models of transformers itself can be loaded"
            ) from error
        if options.get("use_safetensors") and not _has_safetensors(repository):
            raise _NoWeightsError(lines[0]) from error
        if repository.folder is not None and not (repository.folder / "config.json").is_file():
            raise InputError(
                f"{repository.name} holds no model of transformers: there is no config.json"
            ) from error
        if part == "weights" and not repository.is_online and not _weight_files(repository):
            raise InputError(f"{repository.name} holds no weights: neither {SAFE} nor {PICKLED}") from error
        if part == "weights" and "Weights only load failed" in str(error):
            raise InputError(
                f"the weights of {repository.name} hold more than tensors, and nothing is unpickled; save them as "
                "safetensors"
            ) from error
        if part == "tokenizer" and not any(repository.snapshot().glob("tokenizer*")):
            raise _without_tokenizer(repository) from error
        raise InputError(f"the {part} of {repository.name} can't be loaded: {lines[0]}") from error


def _has_safetensors(repository: Repository) -> bool:
    folder = repository.snapshot()
    return any((folder / name).is_file() for name in (SAFE, SAFE + INDEX))


def _without_tokenizer(repository: Repository) -> InputError:
    return InputError(f"{repository.name} holds no tokenizer; name a model with one by preprocess")


def _weight_files(repository: Repository) -> list[Path]:
    """Return the files of weights that `transformers` reads: one, or those that an index names."""
    folder = repository.snapshot()
    for name in (SAFE, SAFE + INDEX, PICKLED, PICKLED + INDEX):
        path = folder / name
        if path.is_file():
            if not name.endswith(INDEX):
                return [path]
            with parsing(path, "fetch the model again"):
                names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
                return [folder / each for each in sorted(set(names))]
    return []


def _auto_class(name: str, config: Any, given: str | None) -> tuple[str, str]:
    """Return the class that loads a model, and how it is known.

    Raises:
        InputError: no class, or several, load the architecture.
    """
    if given is not None:
        known = getattr(getattr(imported("transformers"), given), "_model_mapping", None)
        if known is not None and type(config) not in known:
            raise InputError(
                f"{given} has no class for {name}, a model of the type {config.model_type!r}; leave auto_class out, or "
                f"choose another: {', '.join(AUTO_CLASSES)}"
            )
        return given, "given"
    tables = imported("transformers.models.auto.modeling_auto")
    architectures = list(getattr(config, "architectures", None) or [])
    fitting = [
        auto_class
        for auto_class, table in MAPPINGS.items()
        if architectures and architectures[0] in _architectures(getattr(tables, table))
    ]
    if len(fitting) == 1:
        return fitting[0], f"the configuration's architectures, {architectures[0]}"
    seen = f"architectures {', '.join(architectures)}" if architectures else "no architectures"
    problem = f"fits {' and '.join(fitting)}" if fitting else "is none of these classes"
    raise InputError(
        f"the configuration of {name} has {seen}, which {problem}; choose one by auto_class: "
        f"{', '.join(AUTO_CLASSES)}"
    )


def _check_task(name: str, config: Any) -> None:
    """Refuse a model whose outputs aren't classes, of which one is right.

    Raises:
        InputError: as described.
    """
    task = getattr(config, "problem_type", None) or ("regression" if config.num_labels == 1 else "")
    if task in OTHER_TASKS:
        raise InputError(
            f"{name} is a model of {OTHER_TASKS[task]} (problem_type {getattr(config, 'problem_type', None)}, "
            f"{config.num_labels} outputs), and what is measured is one class for each example; build it by a function "
            "of your own, with metrics of your own"
        )


def _reads_ahead(module: Any) -> bool:
    """Return whether the logits of a language model at a token depend on later tokens."""
    size = _vocabulary(module)
    if size is None or size <= TRIAL:
        return False
    tokens = torch.arange(size - TRIAL - 1, size, device=module.device)
    with torch.no_grad():
        first, second = (
            module(input_ids=each[None], use_cache=False).logits[0, : TRIAL - 1]
            for each in (tokens[:TRIAL], tokens[[*range(TRIAL - 1), TRIAL]])
        )
    slack = ROUNDING[first.dtype.itemsize] * float(first.abs().max())
    return float((first - second).abs().max()) > slack


def _vocabulary(module: Any) -> int | None:
    """Return the number of tokens that a model knows; None if it has no table of them."""
    try:
        return getattr(module.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):  # by which transformers says that there is none
        return None


def _architectures(table: Mapping[str, Any]) -> set[str]:
    return {
        name for names in table.values() for name in ((names,) if isinstance(names, str) else names) if name
    }


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        hint = did_you_mean(name, ("float32", "float64", "bfloat16", "float16"))
        raise InputError(f"dtype must be a floating-point type of PyTorch: {hint}got {name!r}")
    return found


def _class_names(config: Any) -> tuple[tuple[str, ...], ...]:
    """Return the names of the classes in a configuration; () if they are numbers."""
    labels = getattr(config, "id2label", None) or {}
    names = [str(labels[number]) for number in sorted(labels)]
    return () if any(name.startswith(UNNAMED) for name in names) else tuple((name,) for name in names)


def _texts(
    repository: Repository, module: Any, common: Mapping[str, Any], rows: Rows, *, auto_class: str
) -> Preparation:
    """Return how texts become tokens."""
    tokenizer = _loaded(repository, "tokenizer", imported("transformers").AutoTokenizer, common)
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # which transformers makes where there are no files
        raise _without_tokenizer(repository)
    tokenizer.padding_side = "right"  # positions count from the first token
    pad, source = _padding(tokenizer, module, ends=auto_class != TEXT_CLASSES)
    if auto_class == TEXT_CLASSES:
        module.config.pad_token_id = pad  # by which some models find a text's last token
    if pad != tokenizer.pad_token_id:
        rows.append(Assumption("token of padding", str(pad), source, "model="))
    limits = [getattr(module.config, name, None) for name in LENGTHS]
    limits += [
        table.num_embeddings - table.padding_idx - 1  # positions count from the one after it
        for name, table in module.named_modules()
        if isinstance(table, nn.Embedding) and table.padding_idx is not None and "position" in name
    ]
    if tokenizer.model_max_length < NO_LIMIT:
        limits.append(tokenizer.model_max_length)
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return Preparation(
        "text",
        type(tokenizer).__name__,
        "the tokenizer of the model",
        tokenizer,
        longest=min(known) if known else None,
        pad=pad,
        known=_vocabulary(module),
        rows=auto_class != CAUSAL,
        predicts=auto_class == CAUSAL,
        fills=auto_class == MASKED,
    )


def _padding(tokenizer: Any, module: Any, *, ends: bool) -> tuple[int, str]:
    """Return the token that fills up a row, and how it is known.

    Some models find the last token of a text by that of their configuration, so it is taken if there is one.

    Args:
        tokenizer, module: of the model.
        ends: whether it may be the token with which the tokenizer ends a text, if the configuration has none.
    """
    own, size = getattr(module.config, "pad_token_id", None), _vocabulary(module)
    if isinstance(own, int) and own >= 0 and (size is None or own < size):
        return own, "the configuration of the model"
    pad = pad_token(tokenizer, ends=ends)
    used = tokenizer.pad_token_id is not None and pad != tokenizer.pad_token_id
    return pad, "the tokenizer's ends each text" if used else "the tokenizer has none; it is masked"


def _images(repository: Repository, module: Any, common: Mapping[str, Any], rows: Rows) -> Preparation:
    """Return how images become tensors."""
    processor = _loaded(repository, "image processor", imported("transformers").AutoImageProcessor, common)

    def prepared(image: Any) -> Tensor:
        values: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return values

    return Preparation(
        "image",
        type(processor).__name__,
        "the image processor of the model",
        prepared,
        channels=getattr(module.config, "num_channels", 3),
        keyword="pixel_values",
    )


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep `transformers` from showing bars and remarks within the block; errors are said in one line anyway."""
    settings = transformers.utils.logging
    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity(logging.CRITICAL)
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()
