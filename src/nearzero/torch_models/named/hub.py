"""Repositories of the Hugging Face hub, and folders in their place: which commit, which files, and whether it's there.

The hub is asked once for the commit of a repository. All files are then taken from this commit, by the libraries'
own functions. Where the hub can't be reached, or is switched off (`HF_HUB_OFFLINE`), the commit is read from the
local cache, and nothing waits for a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from nearzero.errors import InputError, did_you_mean
from nearzero.torch_models.named.packages import imported

__all__ = ["Repository", "cached_names", "find_repository", "is_local", "split_revision", "without_network"]

RepoType = Literal["model", "dataset"]
SECONDS = 10.0  # for the hub to answer
SAFE = "model.safetensors"
PICKLED = "pytorch_model.bin"
INDEX = ".index.json"


@dataclass(frozen=True)
class Repository:
    """A repository at one commit, or a folder in its place.

    Attributes:
        name: of the repository, or the path of the folder.
        commit: the hash of the commit; "" for a folder.
        folder: the folder with the files; None if they are still to be downloaded.
        is_online: whether the hub has answered.
    """

    name: str
    commit: str
    folder: Path | None
    is_online: bool

    @property
    def is_folder(self) -> bool:
        """Return whether it is a folder in the place of a repository."""
        return not self.commit

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let libraries look for files within the block: on the hub if it has answered, else in the cache alone."""
        with ExitStack() as stack:
            if not self.is_online:
                stack.enter_context(without_network())
            yield

    def snapshot(self) -> Path:
        """Return the folder with the files of the commit that were downloaded."""
        return self.folder or _cache(self.name, "model") / "snapshots" / self.commit


def is_local(name: str) -> bool:
    """Return whether a name is a path: one that exists, or one that can't be a repository's name."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()


def split_revision(name: str) -> tuple[str, str | None]:
    """Return a name and its revision, which follows the last "@"; None if there is none.

    Example:
        >>> from nearzero.torch_models.named.hub import split_revision
        >>> split_revision("org/name@v1.0"), split_revision("org/name")
        (('org/name', 'v1.0'), ('org/name', None))
    """
    if "@" not in name or Path(name).expanduser().exists():
        return name, None
    plain, _, revision = name.rpartition("@")
    if not plain or not revision:
        raise InputError(f"a revision follows the name and an @, as in org/name@v1.0; got {name!r}")
    return plain, revision


@contextmanager
def without_network() -> Iterator[None]:
    """Switch the hub off within the block, as `HF_HUB_OFFLINE=1` does for a process."""
    with ExitStack() as stack:
        constants = imported("huggingface_hub.constants")
        stack.enter_context(patch.object(constants, "HF_HUB_OFFLINE", True))
        try:
            config = imported("datasets.config")
        except InputError:  # isn't installed
            pass
        else:
            stack.enter_context(patch.object(config, "HF_HUB_OFFLINE", True))
        yield


def find_repository(name: str, kind: RepoType = "model") -> Repository:
    """Return the repository or the folder that a name with or without a revision names.

    Args:
        name: `org/name`, `org/name@revision` or a path.
        kind: "model" or "dataset".

    Raises:
        InputError: there is no such folder, repository or revision; or the hub can't be reached, and there is no copy
            in the cache.
    """
    plain, revision = split_revision(name)
    if is_local(plain):
        return _folder(plain, revision)
    hub, errors = imported("huggingface_hub"), imported("huggingface_hub.errors")
    api = hub.HfApi()
    try:
        found = api.repo_info(plain, repo_type=kind, revision=revision, timeout=SECONDS)
        return Repository(plain, found.sha, None, is_online=True)
    except errors.HFValidationError as error:
        raise InputError(
            f"{plain!r} isn't the name of a {kind}, org/name, nor is there such a folder"
        ) from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"the hub asks for permission for {plain}: request it on its page, and log in by hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        hint = did_you_mean(plain, _similar(api, plain, kind)).rstrip()
        raise InputError(
            f"the hub has no {kind} {plain!r}, or it is private{f'; {hint}' if hint else ''}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(_no_revision(plain, revision, _revisions(api, plain, kind))) from error
    except Exception as error:  # there is no connection, it is switched off, or the hub is out of order
        return _cached(plain, revision, kind, error)


def cached_names(kind: RepoType = "model") -> list[str]:
    """Return the names of the repositories in the local cache."""
    prefix = f"{kind}s--"
    cache = Path(imported("huggingface_hub.constants").HF_HUB_CACHE)
    folders = sorted(cache.glob(f"{prefix}*")) if cache.is_dir() else []
    return [folder.name.removeprefix(prefix).replace("--", "/") for folder in folders]


def _cache(name: str, kind: RepoType) -> Path:
    """Return the folder of a repository in the local cache."""
    constants, download = imported("huggingface_hub.constants"), imported("huggingface_hub.file_download")
    return Path(constants.HF_HUB_CACHE, download.repo_folder_name(repo_id=name, repo_type=kind))


def _folder(name: str, revision: str | None) -> Repository:
    path = Path(name).expanduser()
    if not path.exists():
        place, parent = name.rpartition("/")[:2], path.parent
        others = ["".join((*place, each.name)) for each in parent.iterdir()] if parent.is_dir() else []
        hint = did_you_mean(name, others).rstrip()
        raise InputError(f"there is no file or folder {name}{f'; {hint}' if hint else ''}")
    if revision is not None:
        raise InputError(f"a folder has no revisions; got {name}@{revision}")
    return Repository(str(path), "", path, is_online=False)


def _cached(name: str, revision: str | None, kind: RepoType, problem: Exception) -> Repository:
    """Return a repository in the local cache.

    Args:
        name, revision, kind: of the repository.
        problem: why the hub doesn't answer.

    Raises:
        InputError: it isn't there.
    """
    errors = imported("huggingface_hub.errors")
    off = isinstance(problem, errors.OfflineModeIsEnabled)
    cause = "the hub is switched off (HF_HUB_OFFLINE)" if off else "the hub can't be reached"
    folder = _cache(name, kind)
    snapshots, refs = folder / "snapshots", folder / "refs"
    commits = sorted(path.name for path in snapshots.iterdir()) if snapshots.is_dir() else []
    heads = {
        str(path.relative_to(refs)): path.read_text(encoding="utf-8").strip()
        for path in sorted(refs.rglob("*"))
        if path.is_file()
    }
    if not commits:
        hint = did_you_mean(name, cached_names(kind)).rstrip()
        raise InputError(
            f"{cause}, and the cache has no {kind} {name!r}{f'; {hint}' if hint else ''}"
        ) from problem
    commit = heads.get(revision or "main", revision)
    if commit not in commits:
        kept = _no_revision(name, revision or "main", [*heads, *commits])
        raise InputError(f"{cause}, and in the cache {kept}") from problem
    return Repository(name, str(commit), snapshots / str(commit), is_online=False)


def _no_revision(name: str, revision: str | None, known: list[str]) -> str:
    hint = did_you_mean(revision, known)
    return f"{name} has no revision {revision!r}: {hint}known are {', '.join(known) or 'none'}"


def _revisions(api: Any, name: str, kind: RepoType) -> list[str]:
    """Return the branches and tags of a repository on the hub; none if it doesn't say."""
    try:
        refs = api.list_repo_refs(name, repo_type=kind)
    except Exception:  # the message is complete without them
        return []
    return [ref.name for ref in (*refs.branches, *refs.tags)]


def _similar(api: Any, name: str, kind: RepoType) -> list[str]:
    """Return names of repositories that a misspelt name may mean: those in the cache, and those that the hub finds."""
    search = api.list_models if kind == "model" else api.list_datasets
    try:
        found = [each.id for each in search(search=name.rpartition("/")[2], limit=20)]
    except Exception:  # the message is complete without them
        found = []
    return [*cached_names(kind), *found]
