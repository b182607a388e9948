"""Opens the model that a user names: a bundled one, a file, a checkpoint, or a repository on the hub.

All take the same path: ``model.names`` interprets the name, ``model.hub`` downloads, ``model.cache`` keeps the models
that ``convert`` makes from checkpoints, and in the end an .onnx file is opened.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from .messages import reading, shown
from .model import hub
from .model.bundled import BUNDLED, CODEC_ENCODER, find_model
from .model.cache import VARIABLE, Entry, Made, ModelCache, NoCacheError, cache_folder, file_sha256, model_key
from .model.config import ENCODER_KEY, METADATA_KEY, PRECISIONS, EncoderConfig, ModelConfig
from .model.mistaken import (
    checked_path,
    folder_message,
    not_in_folder_message,
    not_in_repository_message,
    other_kind_message,
    quantize,
)
from .model.names import CHECKPOINTS, is_hub_id
from .model.onnx_file import PinnedFile
from .model.origin import Origin, Wanted
from .model.registry import KINDS, find_known
from .model.sources import CONFIGS, ONNX, WEIGHTS, Files, beside, choose, in_folder, source_name
from .once import first_time

T = TypeVar("T")
_NEWEST = "main"  # the branch that the hub uses if none is named
_OPTIONS = {"float32": "", "int8": " --int8", "float16": " --fp16"}  # of models pull and serve
_RECENT = 2_000_000_000  # ns; the timestamps of some file systems are no finer
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_log = logging.getLogger("vocos_onnx")
_conversions = logging.getLogger("vocos_onnx.conversions")  # separate, because the command line prints its messages


def opened(wanted: Wanted, make: Callable[[str | os.PathLike[str]], T]) -> tuple[T, Origin]:
    """Returns what ``make`` returns for the .onnx file of a model, and where the model was found.

    ``make`` is called with the path, and must read the file at once: a file that is not cached is deleted afterwards.

    Raises what VocosONNX raises.
    """
    wanted = _checked(wanted)
    with _located(wanted) as located:
        try:
            return make(located.path), located.origin(wanted.key)
        except ValueError:
            if located.entry is None or located.entry.is_unchanged() or not _removed(located.entry):
                raise
    _log.warning("%s was damaged: it is converted again", located.entry.path)
    with _located(wanted) as located:
        return make(located.path), located.origin(wanted.key)


def _removed(entry: Entry) -> bool:
    """Removes a model from the cache; returns whether that was possible."""
    try:
        ModelCache(cache_folder()).remove(entry)
    except (NoCacheError, OSError):
        return False
    return True


@dataclass(frozen=True)
class _Located:
    """An .onnx file; what reopens it, unless it is the user's own file; and its cache entry if it has one."""

    path: str | os.PathLike[str]
    again: Wanted | None = None
    entry: Entry | None = None

    def origin(self, key: str) -> Origin:
        return Origin.of(self.path, key, self.again)


def _checked(wanted: Wanted) -> Wanted:
    """Returns ``wanted`` with its sha256 in lower case. Raises ValueError if the sha256 or the precision is invalid."""
    sha256, precision = wanted.sha256, wanted.precision
    if sha256 is not None and (len(sha256) != 64 or set(sha256.lower()) - set("0123456789abcdef")):
        raise ValueError(f"sha256 is {shown(sha256)}, expected 64 hexadecimal digits")
    known = PRECISIONS if wanted.key == METADATA_KEY else PRECISIONS[:1]
    if precision is not None and precision not in known:
        raise ValueError(
            f"precision is {shown(precision)}, expected {'one of ' if known[1:] else ''}{', '.join(known)}"
            + ("" if wanted.key == METADATA_KEY else ": encoders have no other")
        )
    return replace(wanted, sha256=None if sha256 is None else sha256.lower())


@contextmanager
def _located(wanted: Wanted) -> Iterator[_Located]:
    """A context in which the .onnx file of the model exists."""
    given = checked_path(wanted.name, wanted.key)
    if isinstance(given, PinnedFile):
        yield _Located(given)
    elif is_hub_id(given):
        with _from_hub(str(given), wanted) as located:
            yield located
    else:
        with _from_path(given, wanted) as located:
            yield located


# A path


@contextmanager
def _from_path(given: str | os.PathLike[str], wanted: Wanted) -> Iterator[_Located]:
    path, key = find_model(given), wanted.key
    if isinstance(given, str) and given in BUNDLED and not wanted.is_path:
        if wanted.filename is not None or wanted.revision is not None:
            option = "revision" if wanted.filename is None else "filename"
            raise ValueError(f"{option} is {getattr(wanted, option)!r}, and {given} is bundled, one file: leave it out")
        yield _Located(given if wanted.sha256 is None else PinnedFile(path, wanted.sha256, "leave sha256 out"))
        return
    if wanted.revision is not None and path.exists():
        kind = "folder" if path.is_dir() else "file"
        raise ValueError(f"revision is {wanted.revision!r}, but {path} is a local {kind}, which has none: leave it out")
    files, onnx = None, wanted.filename or ONNX[key]
    with reading(path):
        is_folder = path.is_dir()
        has_onnx = is_folder and (path / onnx).is_file()
    if is_folder:
        if has_onnx:
            file = path / onnx
            yield _Located(file if wanted.sha256 is None else PinnedFile(file, wanted.sha256, "copy it again"))
            return
        files = in_folder(path, key) if wanted.filename is None else None
        if files is None:
            if wanted.is_path:
                raise ValueError(folder_message(path, key))
            raise FileNotFoundError(not_in_folder_message(path, onnx, key))
    elif path.is_file():
        files = beside(path, key) if wanted.filename is None else None
        if files is None and not wanted.is_path:
            raise FileNotFoundError(_one_file_message(path, wanted))
    if files is None:
        yield _Located(given)
        return
    _check_kind(files, key, str(path))
    paths = [file.absolute() for file in (files.weights, files.config) if file is not None]
    name, state = ("local", key, _precision(wanted), *map(str, paths)), _state(files)
    again = replace(wanted, name=str(path.absolute()), precision=_precision(wanted), is_path=False)
    cache = _cache()
    entry = None if cache is None else cache.find(name, state)
    if entry is not None and wanted.sha256 in (None, entry.made.weights_sha256):
        yield _Located(entry.path, replace(again, sha256=entry.made.weights_sha256), entry)
        return
    sha256 = file_sha256(files.weights)
    _check_sha256(files, sha256, wanted, "copy it again")
    with _converted(files, sha256, wanted) as (file, entry):
        # A file written a moment ago may be rewritten without a change of its timestamp.
        if cache is not None and entry is not None and time.time_ns() - max(state) > _RECENT:
            cache.remember(name, entry, state)
        yield _Located(file, replace(again, sha256=sha256), entry)


def _one_file_message(path: Path, wanted: Wanted) -> str:
    """The message for a file that was given where a folder, a repository or weights with a config are expected."""
    if path.suffix.lower() == ".th":
        return other_kind_message(str(path), wanted.key)
    if path.suffix.lower() in CHECKPOINTS:
        return f"{path} is a file without a config: put config.yaml or config.json beside it"
    name = "EncodecONNX" if wanted.key == ENCODER_KEY else "VocosONNX"
    remedy = f"pass it to the class itself, {name}({shown(str(path))})"
    if wanted.precision is not None:
        remedy += f", which opens it as it is; {quantize(str(path))} makes another precision of it"
    return f"{path} is a file, not a folder or a repository: {remedy}"


def _state(files: Files) -> tuple[int, ...]:
    """Returns the sizes and modification times of a checkpoint's files."""
    found = [file.stat() for file in (files.weights, files.config) if file is not None]
    return tuple(number for status in found for number in (status.st_size, status.st_mtime_ns))


def _check_kind(files: Files, key: str, name: str) -> None:
    """Raises ValueError if a vocoder is wanted but the config is that of an encoder."""
    if key == METADATA_KEY and _is_encodec(files.config):
        raise ValueError(other_kind_message(name, key))


def _is_encodec(config: Path | None) -> bool:
    """Whether this is the config of an EnCodec."""
    if config is None or config.name != "config.json":
        return False
    content = None
    with suppress(OSError, ValueError), config.open(encoding="utf-8") as file:
        content = json.loads(file.read(1 << 20))
    return isinstance(content, dict) and content.get("model_type") == "encodec"


def _check_sha256(files: Files, found: str, wanted: Wanted, remedy: str) -> None:
    """Raises ValueError if the sha256 of the weights, ``found``, is not the requested one."""
    if wanted.sha256 is not None and found != wanted.sha256:
        raise ValueError(
            f"{files.weights} has the sha256 {found}, expected {wanted.sha256}: it is not converted; {remedy}"
        )


# The hub


@contextmanager
def _from_hub(repo: str, wanted: Wanted) -> Iterator[_Located]:
    key, known = wanted.key, find_known(repo)
    if known is not None and known.kind != KINDS[key]:
        raise ValueError(other_kind_message(repo, key))
    if wanted.filename is not None:
        yield _hub_file(repo, wanted, wanted.filename)
        return
    wanted = _pinned(repo, wanted)
    found = _found(repo, wanted)
    again = replace(wanted, name=repo, revision=found.commit, is_path=False)
    if found.entry is None and ONNX[key] in found.snapshot.files:
        file: Path | PinnedFile = found.snapshot.get(ONNX[key])
        if wanted.sha256 is not None:
            file = PinnedFile(Path(file), wanted.sha256, "pass the revision that it belongs to")
        yield _Located(file, replace(again, filename=ONNX[key]))
        return
    again = replace(again, precision=_precision(wanted))
    if found.entry is not None:
        yield _Located(found.entry.path, replace(again, sha256=found.entry.made.weights_sha256), found.entry)
        return
    files, sha256 = _downloaded(found.snapshot, wanted)
    with _converted(files, sha256, wanted) as (path, entry):
        cache = _cache()
        if cache is not None and entry is not None:
            cache.remember(_hub_name(repo, found.commit, wanted), entry)
        yield _Located(path, replace(again, sha256=sha256), entry)


def _pinned(repo: str, wanted: Wanted) -> Wanted:
    """Returns ``wanted`` with the registry's commit and sha256 if no revision is named."""
    known = find_known(repo)
    if known is None or not known.revision or wanted.revision is not None:
        return wanted
    return replace(wanted, revision=known.revision, sha256=wanted.sha256 or known.sha256 or None)


@dataclass(frozen=True)
class _Found:
    """A repository at a commit: the model converted from it if our cache has one, else its files."""

    commit: str
    entry: Entry | None
    files: hub.Snapshot | None

    @property
    def snapshot(self) -> hub.Snapshot:
        assert self.files is not None
        return self.files


def _found(repo: str, wanted: Wanted, *, converted: bool = True) -> _Found:
    """Returns the local copy of a repository if it is certainly the right one or the only one, else asks the hub.

    A commit never changes, and a file with the requested sha256 is right, so neither needs a request to the hub.
    ``converted``: whether a model converted from the repository will do as well.
    """
    is_certain = hub.is_commit(wanted.revision) or wanted.sha256 is not None
    if (is_certain or _forbidden(wanted)) and (here := _here(repo, wanted, converted)) is not None:
        return here
    if _forbidden(wanted):
        at = f" at revision {wanted.revision}" if wanted.revision else ""
        raise hub.UnreachableError(
            f"cannot get {repo}{at} from the hub: it is not in the cache{_in_other_precisions(repo, wanted)}, and "
            "downloads are forbidden (by HF_HUB_OFFLINE or local_files_only); download it once with: vocos-onnx models "
            f"pull {repo}{_OPTIONS[_precision(wanted)]}"
        )
    try:
        snapshot = hub.ask(repo, wanted.revision, wanted.cache_dir)
    except hub.UnreachableError as error:
        if (here := _here(repo, wanted, converted)) is None:
            raise
        _log.info("%s is used as it was when the hub was last asked: %s", repo, error)
        return here
    if (cache := _cache()) is None:
        return _Found(snapshot.commit, None, snapshot)
    cache.remember_commit(repo, wanted.revision or _NEWEST, snapshot.commit)
    return _Found(snapshot.commit, _kept(cache, repo, snapshot.commit, wanted) if converted else None, snapshot)


def _in_other_precisions(repo: str, wanted: Wanted) -> str:
    """What of a repository is in the cache in place of the precision that is wanted, and how that is opened."""
    others = [name for name in PRECISIONS if name != _precision(wanted)]
    for name in others if wanted.filename is None else ():
        here = _here(repo, replace(wanted, precision=name), converted=True)
        if here is not None and here.entry is not None:
            remedy = f"precision={name!r} of from_pretrained"
            if _OPTIONS[name]:
                remedy += f", or{_OPTIONS[name]} of vocos-onnx serve,"
            return f" in {_precision(wanted)}, but in {name}, which {remedy} opens"
    return ""


def _here(repo: str, wanted: Wanted, converted: bool) -> _Found | None:
    """Returns a repository from our cache or from that of the hub's client; None if neither has it."""
    key, revision = wanted.key, wanted.revision or _NEWEST
    if converted and (cache := _cache()) is not None:
        commit = revision if hub.is_commit(revision) else cache.commit(repo, revision)
        if commit is not None and (entry := _kept(cache, repo, commit, wanted)) is not None:
            return _Found(commit, entry, None)
    snapshot = hub.cached(repo, wanted.revision, (ONNX[key], *WEIGHTS[key], *CONFIGS[key]), wanted.cache_dir)
    if snapshot is None:
        return None
    chosen = choose(snapshot.files, key)
    weights = ONNX[key] if ONNX[key] in snapshot.files else chosen[1] if chosen is not None else None
    if weights is None:  # the download was interrupted
        return None
    if wanted.sha256 is not None and file_sha256(snapshot.get(weights)) != wanted.sha256:
        return None
    return _Found(snapshot.commit, None, snapshot)


def _kept(cache: ModelCache, repo: str, commit: str, wanted: Wanted) -> Entry | None:
    entry = cache.find(_hub_name(repo, commit, wanted))
    return entry if entry is not None and wanted.sha256 in (None, entry.made.weights_sha256) else None


def _hub_name(repo: str, commit: str, wanted: Wanted) -> Sequence[str]:
    return "hub", repo, commit, wanted.key, _precision(wanted)


def _hub_file(repo: str, wanted: Wanted, filename: str) -> _Located:
    """Locates the file of that name in a repository, and downloads it if need be."""
    where: dict[str, Any] = {"revision": wanted.revision, "cache_dir": wanted.cache_dir}
    found = None
    if wanted.sha256 is not None:  # a cached file with this sha256 needs no network
        with suppress(FileNotFoundError):
            cached = hub.download(repo, filename, local_files_only=True, **where)
            found = cached if file_sha256(cached) == wanted.sha256 else None
    try:
        path = found or hub.download(repo, filename, local_files_only=wanted.local_files_only, **where)
    except hub.MissingFileError as error:
        files: frozenset[str] = frozenset()
        with suppress(FileNotFoundError):  # the list is only for the message
            files = hub.ask(repo, wanted.revision, wanted.cache_dir).files
        raise _missing(repo, filename, files, wanted) from error
    commit = path.parents[len(Path(filename).parts) - 1].name
    again = replace(wanted, name=repo, revision=commit, is_path=False)
    if wanted.key == METADATA_KEY and not _is_ours(path):  # these say how to read another exporter's file
        for name in (*CONFIGS[METADATA_KEY], f"{path.name}.json"):
            with suppress(FileNotFoundError):
                beside = str(PurePosixPath(filename).with_name(name))
                hub.download(repo, beside, local_files_only=wanted.local_files_only, **{**where, "revision": commit})
    if wanted.sha256 is None:
        return _Located(path, again)
    return _Located(PinnedFile(path, wanted.sha256, "pass the revision that it belongs to"), again)


def _is_ours(path: Path) -> bool:
    """Whether an .onnx file has our metadata, judging by its end, where exporters put them."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 20)))
        return METADATA_KEY.encode() in file.read()


def _downloaded(snapshot: hub.Snapshot, wanted: Wanted) -> tuple[Files, str]:
    """Returns the files of the checkpoint in a repository, and the sha256 of the weights.

    Downloads only what is missing, and downloads a damaged file again. Raises ValueError if the weights do not have
    the wanted sha256.
    """
    chosen = choose(snapshot.files, wanted.key)
    if chosen is None:
        raise _missing(snapshot.repo, ONNX[wanted.key], snapshot.files, wanted)
    config, weights = chosen
    files = Files(snapshot.get(config) if config else None, Path(), snapshot.repo, snapshot.commit)
    _check_kind(files, wanted.key, snapshot.repo)
    files = replace(files, weights=snapshot.get(weights))
    sha256 = file_sha256(files.weights)
    if hub.is_damaged(files.weights, sha256) and not _forbidden(wanted):
        files = replace(files, weights=snapshot.get(weights, anew=True))
        sha256 = file_sha256(files.weights)
    _check_sha256(files, sha256, wanted, "pass the revision that it belongs to")
    return files, sha256


def _missing(repo: str, filename: str, files: frozenset[str], wanted: Wanted) -> FileNotFoundError:
    at = f" at revision {wanted.revision}" if wanted.revision else ""
    return FileNotFoundError(
        f"cannot get {filename} of {repo}{at} from the hub: the repository has no such file; "
        + not_in_repository_message(repo, set(files), wanted.key)
    )


def _forbidden(wanted: Wanted) -> bool:
    return wanted.local_files_only or hub.is_offline()


# Conversion


def find_checkpoint(name: str, revision: str | None = None, config: Path | None = None) -> tuple[Files, str]:
    """Returns the files of a checkpoint, downloaded if need be, and the metadata key of its kind.

    Args:
        name: a folder, a weight file, or a hub id.
        revision: branch, tag or commit on the hub.
        config: a vocoder's config, if it is not beside the weights.

    Raises FileNotFoundError if there is no such checkpoint. Raises ValueError for a bundled model, a file that is not
    a weight file, a local path with a revision, and a hub id with a config.
    """
    if is_hub_id(name):
        if config is not None:
            raise ValueError(f"{config} is given, but {name} on the hub brings its own config: leave it out")
        return _find_on_hub(name, revision)
    if revision is not None:
        raise ValueError(f"revision is {revision!r}, but {name} is not a hub id: leave it out")
    if name in BUNDLED:
        raise ValueError(
            f"{name} is a bundled model, not a checkpoint: {quantize(name)} makes int8 or float16 of it"
            if name != CODEC_ENCODER
            else f"{name} is a bundled model, not a checkpoint: EncodecONNX() is this encoder"
        )
    path = Path(name)
    if not path.exists():
        raise FileNotFoundError(
            f"no checkpoint {name}: expected a folder, a weight file, or a hub id such as charactr/vocos-encodec-24khz"
        )
    if path.is_file() and path.suffix.lower() not in CHECKPOINTS:
        raise ValueError(f"{name} is no weight file, expected one of {', '.join(CHECKPOINTS)}, or a folder")
    for key in METADATA_KEY, ENCODER_KEY:
        files = in_folder(path, key) if path.is_dir() else beside(path, key)
        if files is not None and not (key == METADATA_KEY and config is None and _is_encodec(files.config)):
            return replace(files, config=config or files.config), key
    if config is not None and path.is_file():
        return Files(config, path, source_name(path)), METADATA_KEY
    raise FileNotFoundError(
        f"{path} holds no checkpoint: expected {' or '.join(CONFIGS[METADATA_KEY])}, and "
        f"{' or '.join(WEIGHTS[METADATA_KEY])}"
        if path.is_dir()
        else f"no config.yaml or config.json beside {path}: put it there, or pass --config"
    )


def _find_on_hub(repo: str, revision: str | None) -> tuple[Files, str]:
    known = find_known(repo)
    for key in METADATA_KEY, ENCODER_KEY:
        if known is not None and known.kind != KINDS[key]:
            continue
        wanted = _pinned(repo, Wanted(repo, key, revision=revision))
        try:
            files, _ = _downloaded(_found(repo, wanted, converted=False).snapshot, wanted)
            return files, key
        except hub.UnreachableError:
            raise
        except (ValueError, FileNotFoundError):
            if key == ENCODER_KEY or known is not None:
                raise
    raise AssertionError(repo)


def _precision(wanted: Wanted) -> str:
    return wanted.precision or "float32"


def _cache() -> ModelCache | None:
    """Returns the cache of converted models; None if its folder is not known."""
    try:
        return ModelCache(cache_folder())
    except NoCacheError:
        return None


@contextmanager
def _converted(files: Files, sha256: str, wanted: Wanted) -> Iterator[tuple[Path, Entry | None]]:
    """A context in which the converted model exists; yields its path, and its entry if the cache could keep it.

    ``sha256``: of the weights.
    """
    key, precision, before = wanted.key, _precision(wanted), _state(files)

    def write(path: Path) -> Made:
        _conversions.info("converting %s to %s, which may take some seconds", files.name, precision)
        description = _convert(files, path, key, precision)
        if description.source.sha256 != sha256 or _state(files) != before:
            raise ValueError(f"{files.weights} changed while it was converted: wait until it is complete")
        return Made(files.name, files.revision, KINDS[key], precision, sha256)

    reason: Exception | None = None
    entry = None
    try:
        cache = ModelCache(cache_folder())
        config_sha256 = "" if files.config is None else file_sha256(files.config)
        model = model_key(sha256, config_sha256, KINDS[key], precision)
        entry = cache.entry(model) or cache.make(model, write)
    except NoCacheError as error:
        reason = error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        reason = error
    if entry is not None:
        yield entry.path, entry
        return
    with tempfile.TemporaryDirectory(prefix="vocos-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            write(path)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OSError(
                error.errno,
                f"the disk is full: there is no room for the converted model, in the cache or in {folder}; free some, "
                f"or name another folder in {VARIABLE}",
            ) from error
        if first_time("no cache"):
            _log.warning("%s is converted at each start, and not kept: %s", files.name, reason)
        yield path, None


def _convert(files: Files, output: Path, key: str, precision: str) -> ModelConfig | EncoderConfig:
    """Converts a checkpoint; returns the description stored in the file. Imports the converters only when called."""
    made: ModelConfig | EncoderConfig
    if key == ENCODER_KEY:
        from .convert.encoder import convert_encoder

        made = convert_encoder(files, output)
    else:
        from .convert.vocoder import convert_vocoder

        made = convert_vocoder(files, output, precision=precision)
    return made
