"""Exported folders on the Hugging Face Hub: fetched by the id that the caller gives, uploaded as one commit.

Only the files of an exported folder are fetched (see ``lumen.inference.exported``), so that a repository cannot bring
code along. The token is that of ``hf auth login`` or of ``HF_TOKEN``; ``HF_ENDPOINT`` names another server.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lumen.errors import CheckpointError, ConfigError, named_faults
from lumen.inference.exported import BASE, BASE_FILES, COPIED_BASE, DECODER, MODEL, files_of, models_named, read_folder
from lumen.paths import PACKAGED, find_path, is_hub_id

_CARD = "README.md"
_FILES = {
    kind: [f"{kind}.json", f"{kind}.safetensors", _CARD, *(f"{BASE}/{pattern}" for pattern in BASE_FILES)]
    for kind in (MODEL, DECODER)
}
_LOGIN = "log in by `hf auth login`, or set HF_TOKEN"


def open_folder(folder: Path | str, kind: str, *, revision: str | None = None) -> Path:
    """Return the folder of an exported model or decoder; an id of the hub is fetched, or taken from the cache.

    Args:
        folder: Looked up by ``lumen.paths.find_path``; else, where it has the form ``org/name``, a repository.
        kind: ``model`` or ``decoder``.
        revision: Branch, tag or commit of the repository; a commit cannot change later.

    Raises:
        ConfigError: A revision of what is not a repository.
        CheckpointError: The repository does not exist, may not be read, or cannot be reached.
    """
    found = Path(find_path(folder))
    if not found.exists() and is_hub_id(folder):
        return _fetch(str(folder), kind, revision)
    if revision is not None:
        raise ConfigError(f"revision={revision!r} belongs to a repository of the hub, and {str(folder)!r} is a folder")
    return found


def _fetch(repo_id: str, kind: str, revision: str | None) -> Path:
    with _named_hub_faults(f"{repo_id!r} is not a folder here, and cannot be fetched"):
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=_FILES[kind]))


def push_to_hub(
    folder: Path | str, repo_id: str, *, private: bool | None = None, message: str = "Upload with Lumen"
) -> str:
    """Upload a folder that ``save_pretrained`` or ``save_decoder`` wrote; all of it in one commit, or nothing.

    Args:
        folder: The folder; other files in it stay here.
        repo_id: ``org/name``; made where it does not exist.
        private: Whether a new repository is private; what its owner has set when left out.
        message: Of the commit.

    Returns:
        The address of the commit.

    Raises:
        ConfigError: ``repo_id`` does not have that form, the model needs a folder of this machine, or a file is a
            link that leads out of the folder.
        CheckpointError: The folder is not complete, there is no token, or the hub refuses it or cannot be reached.
    """
    if not is_hub_id(repo_id):
        raise ConfigError(f"a repository of the hub is named as org/name, got {repo_id!r}")
    path = Path(find_path(folder))
    kind = DECODER if (path / f"{DECODER}.json").is_file() else MODEL
    content, _ = read_folder(path, kind)
    _refuse_local_models(content[kind], kind)
    if get_token() is None:
        raise CheckpointError(f"{repo_id} cannot be written: there is no token; {_LOGIN}")
    with named_faults(f"{path} cannot be uploaded", CheckpointError, remedy=f"export it again, with its {_CARD}"):
        card = (path / _CARD).read_text(encoding="utf-8").replace('"FOLDER"', f'"{repo_id}"')
    files: dict[str, Any] = {file.relative_to(path).as_posix(): file for file in files_of(path, _FILES[kind])}
    files[_CARD] = card.encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in files.items()]
    api = HfApi()
    with _named_hub_faults(f"{path} cannot be uploaded to {repo_id!r}"):
        api.create_repo(repo_id, private=private, exist_ok=True)
        return api.create_commit(repo_id, operations, commit_message=message).commit_url


def _refuse_local_models(config: Any, place: str) -> None:
    """Refuse a config that names a folder of this machine, which nobody else has."""
    for where, name in models_named(config, place):
        shared = name == COPIED_BASE or name in PACKAGED or (is_hub_id(name) and not Path(find_path(name)).exists())
        if not shared:
            raise ConfigError(
                f"{where} names {name!r}, a folder of this machine: export the model with a copy of its base model "
                "(tools/export.py --copy-base), or train it on one that the hub or Lumen has"
            )


@contextmanager
def _named_hub_faults(fault: str) -> Iterator[None]:
    """Raise what fails inside as CheckpointError, with what the user can do."""
    with named_faults(fault, CheckpointError, remedy="check the name, the connection and the room on the disk"):
        try:
            yield
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise CheckpointError(f"{fault}: {_remedy(error, constants.ENDPOINT)}") from error


def _remedy(error: Exception, server: str) -> str:
    """Return what an answer of the hub, or its absence, means."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return f"its owner admits only those who have asked at {server}; {_LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return f"{server} has no such revision of it"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return f"{server} has no such repository, or a private one: check the name; if it is private, {_LOGIN}"
    if status == 403:
        return f"your token may not do that at {server}: take one with write access to this organisation"
    if status is not None:
        return f"{server} answered with status {status}; try again later"
    return f"{server} cannot be reached, or HF_HUB_OFFLINE is set, and it was not fetched before"
