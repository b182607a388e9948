"""Exported models from a folder or from the Hugging Face hub, whose client is the extra [hub]."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from vocos_onnx.messages import first_line, shown

from .bundled import BUNDLED
from .config import METADATA_KEY
from .mistaken import checked_path, not_in_folder_message, not_in_repository_message
from .onnx_file import PinnedFile


def fetch(
    repo_or_folder: str | os.PathLike[str],
    filename: str,
    revision: str | None,
    sha256: str | None,
    local_files_only: bool,
    cache_dir: str | os.PathLike[str] | None,
    key: str = METADATA_KEY,
) -> Path | PinnedFile:
    """Returns the path of an exported model, which is downloaded if necessary; a PinnedFile if ``sha256`` is given.

    The arguments are those of ``VocosONNX.from_pretrained``, and the metadata key of the model. Only ``read_model``
    checks that the bytes which it reads have the sha256.
    """
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise ValueError(f"sha256 is {shown(sha256)}, expected 64 hexadecimal digits")
    folder = Path(checked_path(repo_or_folder, key))
    if repo_or_folder in BUNDLED and not folder.exists():
        raise FileNotFoundError(f"{repo_or_folder} is bundled, not on the hub: pass the name to the class itself")
    if folder.is_file():
        raise FileNotFoundError(f"{folder} is a file, not a folder or a repository: pass its path to the class itself")
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"revision is {revision!r}, but {folder} is a local folder, which has none: leave it out")
        path = folder / filename
        if not path.is_file():
            raise FileNotFoundError(not_in_folder_message(folder, filename, key))
        return path if sha256 is None else PinnedFile(path, sha256, "copy it again")
    repo = str(repo_or_folder)
    where: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir}
    if sha256 is not None:  # a cached file with this sha256 needs no network
        with suppress(FileNotFoundError):
            cached = download(repo, filename, local_files_only=True, **where)
            if _digest(cached) == sha256.lower():
                return PinnedFile(cached, sha256, "download it again")
    try:
        found = download(repo, filename, local_files_only=local_files_only, **where)
    except MissingFileError as error:
        at = f" at revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"cannot get {filename} of {repo}{at} from the hub: the repository has no such file; "
            + not_in_repository_message(repo, _listed_files(repo, revision), key)
        ) from error
    return found if sha256 is None else PinnedFile(found, sha256, "pass the revision that it belongs to")


class MissingFileError(FileNotFoundError):
    """The repository exists but has no such file."""


def download(
    repo: str,
    *filenames: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    what: str | None = None,
) -> Path:
    """Returns the path of the first of these files that a repository of the hub has, from the cache if it is there.

    The path ends with the commit and the file name. Error messages call the file ``what``, by default "FILE of REPO".

    Raises MissingFileError if the repository has none of them, FileNotFoundError if there is no such repository,
    revision or network, ImportError without huggingface-hub.
    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise ImportError(
            f"no folder {repo}, and downloads from the hub need huggingface-hub: pip install 'vocos-onnx[hub]'"
        ) from error
    options: dict[str, Any] = {
        "revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only
    }  # fmt: skip
    for filename in filenames:
        try:
            return Path(hf_hub_download(repo, filename, **options))
        except Exception as error:  # the client lets errors of its HTTP, TLS and compression libraries through
            names = {cls.__name__ for cls in type(error).__mro__}  # the classes' modules depend on the client's version
            if "EntryNotFoundError" in names and filename != filenames[-1]:
                continue  # it is not in the repository, or not in the cache if there is no network
            is_missing = "EntryNotFoundError" in names and "LocalEntryNotFoundError" not in names
            at = f" at revision {revision}" if revision else ""
            raise (MissingFileError if is_missing else FileNotFoundError)(
                f"cannot get {what or f'{filenames[0]} of {repo}'}{at} from the hub ({type(error).__name__}: "
                f"{first_line(error)}). If you meant a local folder, there is none of that name; without a network, "
                "pass a folder, or what was downloaded before"
            ) from error
    raise AssertionError("no file was asked for")


def _listed_files(repo: str, revision: str | None) -> set[str]:
    from huggingface_hub import list_repo_files

    with suppress(Exception):  # an error message is all that it is for
        return set(list_repo_files(repo, revision=revision))
    return set()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
