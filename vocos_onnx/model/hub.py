"""Files of the Hugging Face hub, through its own client (the extra [hub]), which caches its downloads.

When the hub is asked, one request returns the commit and its files. All files are then taken from that commit, and
those that the client's cache already has need no request.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from vocos_onnx.messages import close_to, first_line, in_shell

from .registry import known_models

_OFFLINE = {"1", "ON", "YES", "TRUE"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_log = logging.getLogger("vocos_onnx")


class MissingFileError(FileNotFoundError):
    """The repository exists, but has no such file."""


def download(
    repo: str,
    *filenames: str,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    anew: bool = False,
    what: str | None = None,
) -> Path:
    """Returns the path of the first of these files that a repository on the hub has, from the cache if possible.

    The path ends with the commit and the file name. With ``anew``, a file is downloaded even if it is cached. Error
    messages call the file ``what``, by default "FILE of REPO".

    Raises MissingFileError if the repository has none of them, FileNotFoundError if there is no such repository,
    revision or network, ImportError without huggingface-hub.
    """
    client = _client(repo)
    options: dict[str, Any] = {
        "revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only, "force_download": anew
    }  # fmt: skip
    for filename in filenames:
        try:
            return Path(client.hf_hub_download(repo, filename, **options))
        except Exception as error:  # the client passes on errors of its HTTP, TLS and compression libraries
            if "EntryNotFoundError" in _kinds(error) and filename != filenames[-1]:
                continue  # it is not in the repository or, without a network, not in the cache
            _refuse(error, what or f"{filenames[0]} of {repo}", repo, revision)
    raise AssertionError("no file was asked for")


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit.

    Attributes:
        repo, revision, commit: identify it; the revision is the requested one, None for the newest.
        files: the names of its files; for a snapshot from the client's cache, only those that are cached.
        folder: where the files are; None if they have to be downloaded.
        cache_dir: of the client.
    """

    repo: str
    revision: str | None
    commit: str
    files: frozenset[str]
    folder: Path | None
    cache_dir: str | os.PathLike[str] | None

    def get(self, filename: str, anew: bool = False) -> Path:
        """Returns the path of a file; downloads it if it is missing or ``anew`` is set. Raises as ``download``."""
        if self.folder is not None and not anew:
            return self.folder / filename
        client = _client(self.repo)
        where: dict[str, Any] = {"revision": self.commit, "cache_dir": self.cache_dir}
        if anew or not isinstance(client.try_to_load_from_cache(self.repo, filename, **where), str):
            _log.info("downloading %s of %s, commit %s", filename, self.repo, self.commit)
            # Asks by the name of the branch, so that the client records its commit for use without a network.
            path = download(self.repo, filename, anew=anew, **{**where, "revision": self.revision})
            if path.parents[len(PurePosixPath(filename).parts) - 1].name == self.commit:
                return path
        return download(self.repo, filename, **where)


def ask(repo: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Snapshot:
    """Returns the snapshot of a repository at a branch, tag or commit (None: the newest), with one request.

    Raises FileNotFoundError if there is no such repository or revision, UnreachableError if the hub does not answer,
    ImportError without huggingface-hub.
    """
    client = _client(repo)
    try:
        timeout = client.constants.HF_HUB_ETAG_TIMEOUT
        info = client.HfApi().model_info(repo, revision=revision, timeout=timeout)
        files = frozenset(file.rfilename for file in info.siblings or ())
        return Snapshot(repo, revision, str(info.sha), files, None, cache_dir)
    except Exception as error:  # as in download
        _refuse(error, repo, repo, revision)


def cached(
    repo: str, revision: str | None, filenames: Iterable[str], cache_dir: str | os.PathLike[str] | None
) -> Snapshot | None:
    """Returns the client's cached snapshot of a repository at a branch, tag or commit; None if there is none.

    It must have at least one of ``filenames``. Raises ImportError without huggingface-hub.
    """
    client = _client(repo)
    for filename in filenames:
        try:
            found = client.try_to_load_from_cache(repo, filename, revision=revision, cache_dir=cache_dir)
        except ValueError:  # a name that the hub does not allow
            return None
        if isinstance(found, str) and Path(found).is_file():
            folder = Path(found).parents[len(PurePosixPath(filename).parts) - 1]
            files = frozenset(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            return Snapshot(repo, revision, folder.name, files, folder, cache_dir)
    return None


def is_damaged(path: Path, sha256: str) -> bool:
    """Whether a file in the client's cache differs from the sha256 that the hub states, if the cache records that.

    The cache stores large files under their sha256, by which the hub names them, and links to them from the snapshot.
    """
    name = path.resolve().name
    return re.fullmatch("[0-9a-f]{64}", name) is not None and name != sha256


def is_commit(revision: str | None) -> bool:
    """Whether a revision is the sha of a commit, which never changes."""
    return revision is not None and re.fullmatch("[0-9a-f]{40}", revision) is not None


def is_offline() -> bool:
    """Whether the user has told the hub's client to make no requests."""
    return any(os.environ.get(name, "").upper() in _OFFLINE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


class UnreachableError(FileNotFoundError):
    """The hub gave no answer: there is no network, it is down, or requests are forbidden."""


def _client(repo: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ModuleNotFoundError:
        raise ImportError(
            f"no folder {repo}, and downloads from the hub need huggingface-hub: pip install 'vocos-onnx[hub]'"
        ) from None
    return huggingface_hub


def _similar(repo: str) -> str:
    """The known model that may have been meant by an id that the hub does not have."""
    close = close_to(repo, [model.id for model in known_models() if "/" in model.id and model.id != repo], 1, 0.8)
    return f" (did you mean {close[0]}?)" if close else ""


def _kinds(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}  # the classes' modules depend on the client's version


def _refuse(error: Exception, what: str, repo: str, revision: str | None) -> NoReturn:
    """Raises an error whose message explains what cannot be downloaded, why, and what to do."""
    kinds, cause = _kinds(error), error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            raise OSError(
                cause.errno, f"the disk is full, and {what} cannot be downloaded: free some, or set HF_HOME to another"
            ) from error
        cause = cause.__cause__  # type: ignore[assignment]
    at = f" at revision {revision}" if revision else ""
    message = f"cannot get {what}{at} from the hub ({type(error).__name__}: {first_line(error)})"
    log_in = "log in with hf auth login (of older clients: huggingface-cli login), or set HF_TOKEN"
    if "EntryNotFoundError" in kinds and "LocalEntryNotFoundError" not in kinds:
        raise MissingFileError(f"{message}. The repository has no such file") from error
    if "GatedRepoError" in kinds:
        raise FileNotFoundError(
            f"{message}. Its owners grant access: ask for it at https://huggingface.co/{repo}, then {log_in}"
        ) from error
    if "RepositoryNotFoundError" in kinds:
        raise FileNotFoundError(
            f"{message}. There is no such repository{_similar(repo)}, or it is private: check its name, or {log_in}. "
            "If you meant a local folder, there is none of that name"
        ) from error
    if "RevisionNotFoundError" in kinds:
        raise FileNotFoundError(
            f"{message}. The repository has no such branch, tag or commit: leave revision out for the newest"
        ) from error
    if "HFValidationError" in kinds:
        raise FileNotFoundError(f"{message}. If you meant a local folder, there is none of that name") from error
    raise UnreachableError(
        f"{message}{_similar(repo)}. Check the network, or HF_ENDPOINT. Without a network, run vocos-onnx models pull "
        f"{in_shell(repo)} where there is one, and copy the cache (vocos-onnx models prints its folder). If you meant "
        "a local folder, there is none of that name"
    ) from error
