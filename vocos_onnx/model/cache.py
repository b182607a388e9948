"""The cache of converted models, which belongs to the user and is shared by all processes.

::

    <cache>/models/<key>/model.onnx     a converted model
    <cache>/models/<key>/entry.json     its size, its sha256, and what it was made from
    <cache>/sources/<digest>.json       a checkpoint as requested -> key, so that nothing is hashed at each start

The key is the sha256 of everything that determines the output of the conversion: the sha256 of the weights and of the
config, the kind, the precision, the file format and the version of the converter.

A model is written into a folder with a temporary name, which is then renamed: other processes see all of it or nothing.
If two processes convert the same checkpoint at once, the later one finds the name taken and uses what is there; no lock
is held, so none can be left behind. An entry is made anew if the size of its file is not the recorded one, or if the
file cannot be opened and its sha256 has changed. Reading never writes: the cache may be on a read-only file system.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vocos_onnx.messages import reading

from .config import FORMAT

VARIABLE = "VOCOS_ONNX_CACHE"
CONVERTER = 1  # increase it whenever the output of a conversion changes
_STAGING = ".making-"
_FORGOTTEN = 3600  # seconds after which an unfinished folder counts as left behind
_MODEL, _ENTRY = "model.onnx", "entry.json"
_log = logging.getLogger("vocos_onnx")


class NoCacheError(Exception):
    """There is no cache, or it cannot be written."""


@dataclass(frozen=True)
class Made:
    """What a model was made from: the checkpoint's name, its commit on the hub, the sha256 of its weights, and how."""

    name: str
    revision: str
    kind: str
    precision: str
    weights_sha256: str


@dataclass(frozen=True)
class Entry:
    """A converted model in the cache."""

    path: Path
    size: int
    sha256: str
    made: Made

    def is_unchanged(self) -> bool:
        """Whether the file has the sha256 that it had when it was made."""
        try:
            return file_sha256(self.path) == self.sha256
        except OSError:
            return False


def cache_folder() -> Path:
    """Returns the folder of the cache: VOCOS_ONNX_CACHE, else the user's cache folder. It may not exist yet.

    Raises NoCacheError if the variable is not set and platformdirs is not installed.
    """
    if chosen := os.environ.get(VARIABLE):
        return Path(chosen).expanduser().absolute()
    try:
        from platformdirs import user_cache_path
    except ImportError:
        raise NoCacheError(
            f"the folder for it is not known: pip install 'vocos-onnx[hub]', or name one in {VARIABLE}"
        ) from None
    folder: Path = user_cache_path("vocos-onnx", appauthor=False)
    return folder


class ModelCache:
    """The cache in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._models, self._sources = folder / "models", folder / "sources"

    def entry(self, key: str) -> Entry | None:
        """Returns the model with this key; None if there is none, or if it is incomplete."""
        folder = self._models / key
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
            entry = Entry(folder / _MODEL, found["size"], found["sha256"], Made(**found["made"]))
            if entry.path.stat().st_size == entry.size:
                return entry
        return None

    def entries(self) -> Iterator[Entry]:
        """Yields all complete models, in no particular order."""
        names: list[str] = []
        with suppress(OSError):
            names = [path.name for path in self._models.iterdir() if not path.name.startswith(_STAGING)]
        for name in names:
            if (entry := self.entry(name)) is not None:
                yield entry

    def names(self, entry: Entry) -> list[str]:
        """The hub ids from which a model was made; if there are none, the name of its checkpoint."""
        found = set()
        with suppress(OSError):
            for place in self._sources.glob("*.json"):
                with suppress(OSError, ValueError, KeyError, TypeError):
                    note = json.loads(place.read_text(encoding="utf-8"))
                    if note["key"] == entry.path.parent.name and note["source"][0] == "hub":
                        found.add(str(note["source"][1]))
        return sorted(found) or [entry.made.name]

    def make(self, key: str, convert: Callable[[Path], Made]) -> Entry:
        """Converts into the cache; returns the new entry, or that of another process that was faster.

        ``convert`` is called with the path to write, and returns what the model was made from. Raises NoCacheError if
        the folder cannot be written, and whatever ``convert`` raises; then nothing is left in the cache.
        """
        staging = self._models / f"{_STAGING}{secrets.token_hex(8)}"
        try:
            self._models.mkdir(parents=True, exist_ok=True)
            self._sweep()
            staging.mkdir()
        except OSError as error:
            raise NoCacheError(f"{self.folder} cannot be written ({error.strerror})") from error
        try:
            file = staging / _MODEL
            made = convert(file)
            entry = {"size": file.stat().st_size, "sha256": file_sha256(file), "made": asdict(made)}
            (staging / _ENTRY).write_text(json.dumps(entry), encoding="utf-8")
            self._move(staging, key)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        found = self.entry(key)
        if found is None:  # removed or damaged in the meantime
            raise NoCacheError(f"{self._models / key} was changed by another program")
        return found

    def remove(self, entry: Entry) -> None:
        """Removes a model. Raises OSError if that is not possible."""
        folder = entry.path.parent
        trash = folder.with_name(f"{_STAGING}{secrets.token_hex(8)}")
        folder.rename(trash)  # so that no other process sees a partial entry
        shutil.rmtree(trash)

    def find(self, source: Sequence[str], state: Sequence[int] = ()) -> Entry | None:
        """Returns the model that was made from this source while it was in this state; None if there is none."""
        found = self._recall(source)
        return self.entry(str(found.get("key"))) if found.get("state") == list(state) else None

    def remember(self, source: Sequence[str], entry: Entry, state: Sequence[int] = ()) -> None:
        """Records that the model was made from this source; does nothing if the cache cannot be written."""
        self._note(source, {"key": entry.path.parent.name, "state": list(state)})

    def commit(self, repo: str, revision: str) -> str | None:
        """Returns the commit that a branch or tag of a repository pointed to when the hub was last asked."""
        commit = self._recall(("revision", repo, revision)).get("commit")
        return commit if isinstance(commit, str) else None

    def remember_commit(self, repo: str, revision: str, commit: str) -> None:
        """Records the commit of a branch or tag; does nothing if the cache cannot be written."""
        if self.commit(repo, revision) != commit:
            self._note(("revision", repo, revision), {"commit": commit})

    def _move(self, staging: Path, key: str) -> None:
        target = self._models / key
        for _ in range(3):
            try:
                staging.rename(target)
                return
            except OSError:
                if self.entry(key) is not None:  # another process was faster
                    return
                with suppress(OSError):  # the existing entry is damaged
                    target.rename(target.with_name(f"{_STAGING}{secrets.token_hex(8)}"))

    def _sweep(self) -> None:
        """Removes what processes that ended early have left behind."""
        for path in self._models.glob(f"{_STAGING}*"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _FORGOTTEN:
                    shutil.rmtree(path, ignore_errors=True)

    def _recall(self, source: Sequence[str]) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            found = json.loads(self._place(source).read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.pop("source", None) == list(source):
                return found
        return {}

    def _note(self, source: Sequence[str], what: dict[str, Any]) -> None:
        place = self._place(source)
        partial = place.with_name(f"{_STAGING}{secrets.token_hex(8)}")
        try:
            self._sources.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_text(json.dumps({"source": list(source), **what}), encoding="utf-8")
                partial.replace(place)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("%s cannot be written: %s", place, error)

    def _place(self, source: Sequence[str]) -> Path:
        return self._sources / f"{_digest([str(FORMAT), str(CONVERTER), *source])}.json"


def model_key(weights_sha256: str, config_sha256: str, kind: str, precision: str) -> str:
    """Returns the key of a converted model."""
    return _digest([weights_sha256, config_sha256, kind, precision, str(FORMAT), str(CONVERTER)])


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file. Raises OSError."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
