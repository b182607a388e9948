"""A job from its manifest to its summary: what is left to do, done by an engine, and noted in the journal."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vocos_onnx.io.files import remove_leftovers
from vocos_onnx.messages import shown

from .job import Settings
from .journal import ERRORS, Journal, Row, Shard
from .manifest import Item, Manifest
from .shards import Member, Shards
from .work import FULL, items_folder

Engine = Callable[[Settings, Path, Iterable[Item], int | None], Generator[Row, None, None]]
"""Yields the row of each item, in any order: ``engine(settings, out, items, workers)``."""
_SAME_INPUT, _FILE, _IN_TAR = 1, 2, 4  # what is known of an item: its output is a file, or a member of its tar


@dataclass(frozen=True)
class Summary:
    """How far a job has come, in this run and the ones before.

    items: in the manifest. done: whose outputs are there, ``before`` of them from earlier runs. failed: in
    errors.jsonl. warned: done in this run with something to say, which the journal has. warning: the first of these.
    hours: of audio, of what was done in this run. elapsed: seconds since it began.
    share: of the work, from 0 to 1, by the size of the inputs.
    """

    items: int
    done: int
    before: int
    failed: int
    warned: int
    warning: str | None
    hours: float
    elapsed: float
    share: float
    out: str

    @property
    def speed(self) -> float:
        """Times real time: seconds of audio in a second of this run."""
        return 3600 * self.hours / self.elapsed if self.elapsed else 0.0

    @property
    def errors(self) -> str | None:
        """The file with the items that have failed, and why; None if there are none."""
        return os.path.join(self.out, ERRORS) if self.failed else None  # noqa: PTH118


def run(
    manifest: str | os.PathLike[str] | Manifest,
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    engine: str | Engine = "local",
    workers: int | None = None,
    resume: bool = False,
    progress: Callable[[Summary], None] | None = None,
) -> Summary:
    """Do a job, or what is left of it.

    Args:
        manifest: a .jsonl, .csv or .tsv file, or a folder, as ``Manifest`` takes it; or a ``Manifest``.
        out: the folder for the outputs, the journal and errors.jsonl. It is made; it must be new or empty, or that of
            the same job.
        settings: what is done with each item.
        engine: "local", "ray", or a function that does the items.
        workers: processes, by default the CPUs that this process may use.
        resume: whether to go on with the job that ``out`` holds. What has failed is tried again.
        progress: called after each item.

    Returns:
        The summary. Items that fail are in errors.jsonl, and are no error here.

    Raises:
        ValueError: a manifest as ``Manifest`` refuses it, or of inputs that the task does not take; an ``out`` that
            holds something else; workers below 1.
        OSError: the outputs cannot be written, as where the disk is full. What is done is in the journal.
        RuntimeError: another process works on ``out``, or the workers die whatever they do.

    A script that calls it needs ``if __name__ == "__main__":``, as all that starts processes.

    Example:
        >>> summary = run("corpus.jsonl", "audio", Settings.of("decode", format="flac"))
        >>> summary.done, summary.failed
        (9998, 2)
    """
    if workers is not None and not (type(workers) is int and workers >= 1):
        raise ValueError(f"workers is {shown(workers)}, expected 1 or more, or None for one a core")
    read = manifest if isinstance(manifest, Manifest) else Manifest(manifest)
    folder = Path(out).absolute()
    _check(read, folder, settings)
    do = _engine(engine)  # before the folder is made: there may be no cluster
    with Journal(folder, settings, resume) as journal:
        job = _Job(read, folder, settings, journal)
        try:
            job.begin()
            if progress is not None:
                progress(job.summary())
            if job.left:
                with closing(do(settings, folder, job.items(), workers)) as rows:
                    for row in rows:
                        job.add(row)
                        if progress is not None:
                            progress(job.summary())
            job.end()
        except OSError as error:
            if error.errno not in FULL:
                raise
            done = f"{job.summary().done:,} of {len(read):,} items are done"
            raise OSError(
                error.errno,
                f"{error.strerror}: {folder}. {done}; make room, and go on with the same command and --resume",
            ) from error
        finally:
            job.close()
        return job.summary()


def _engine(engine: str | Engine) -> Engine:
    if callable(engine):
        return engine
    if engine == "ray":
        from .ray_engine import through_ray

        return through_ray()
    if engine == "local":
        from .local import rows

        return rows
    raise ValueError(f"engine is {shown(engine)}, expected local or ray")


def _check(manifest: Manifest, out: Path, settings: Settings) -> None:
    """Raises ValueError if the items cannot be those of the job."""
    kind = "tokens" if settings.task == "decode" else "audio"
    if manifest.kind != kind:
        there = "audio" if manifest.kind == "audio" else "tokens or mels"
        task = "encode or resynth" if manifest.kind == "audio" else "decode"
        raise ValueError(f"{manifest.path} names {there}, which {settings.task} does not take: the task is {task}")
    if settings.shard_size is not None and manifest.dotted is not None:
        raise ValueError(
            f"the id {shown(manifest.dotted)} holds a dot, at which webdataset ends a key: give other ids, or write no "
            "shards"
        )
    if manifest.path.is_dir() and out.resolve().is_relative_to(manifest.path.resolve()):
        raise ValueError(f"{out} lies in the folder of the inputs, {manifest.path}: name a folder outside")


class _Job:
    """A job of an output folder: what is done, and what is left."""

    def __init__(self, manifest: Manifest, out: Path, settings: Settings, journal: Journal):
        self._manifest, self._out, self._journal, self._settings = manifest, out, journal, settings
        self._folder = items_folder(settings, out)
        self._known = bytearray(len(manifest))  # bits
        self._places = array("q", [-1]) * len(manifest)  # of their rows in the journal
        self._shards = None if settings.shard_size is None else Shards(settings.shard_size, out, journal)
        self._order = np.zeros(0, np.int64)
        self._done = self._before = self._failed = self._warned = 0
        self._warning: str | None = None
        self._seconds = 0.0
        self._bytes_done = self._bytes = 0
        self._start = time.monotonic()

    @property
    def left(self) -> int:
        """How many items there are to do."""
        return len(self._order)

    def begin(self) -> None:
        """Find out what is done."""
        self._folder.mkdir(exist_ok=True)
        self._remove_leftovers()
        for place, record in self._journal.records():
            if isinstance(record, Row):
                self._recall(place, record)
            elif self._shards is not None:
                self._recall_shard(self._shards, record)
        if self._shards is not None:
            for number in self._shards.lost():
                self._forget_tar(self._members(self._shards, number))
        known = np.frombuffer(self._known, np.uint8)
        done = (known & _SAME_INPUT > 0) & (known & (_FILE | _IN_TAR) > 0)
        self._done = self._before = int(done.sum())
        sizes = np.frombuffer(self._manifest.sizes, np.int64)
        work = np.maximum(sizes, 0) + 1
        self._bytes, self._bytes_done = int(work.sum()), int(work[done].sum())
        left = np.flatnonzero(~done)
        if self._shards is None:
            self._order = left[np.argsort(-sizes[left], kind="stable")]
            return
        self._order = left[np.lexsort((-sizes[left], left // self._shards.size))]  # one shard after another
        self._shards.expect(left)
        self._remove_files_in_tars()
        changed = np.flatnonzero(done != (known & _IN_TAR > 0))
        for number in np.unique(changed // self._shards.size).tolist():
            self._finish(self._shards, number)

    def items(self) -> Iterator[Item]:
        """What is left, the longest first."""
        for index in self._order.tolist():
            item = self._manifest[index]
            if (place := self._places[index]) >= 0:
                item = replace(item, known=self._journal.row_at(place))
            yield item

    def add(self, row: Row) -> None:
        """Note what became of an item."""
        self._journal.add(row)
        index = self._manifest.find(row.id)
        assert index is not None
        self._bytes_done += max(self._manifest.sizes[index], 0) + 1
        if row.error is not None:
            self._failed += 1
            self._known[index] &= _IN_TAR
        else:
            self._done += 1
            self._seconds += row.seconds
            self._warned += bool(row.warnings)
            if row.warnings and self._warning is None:
                self._warning = f"{row.id}: {row.warnings[0]}"
            self._known[index] = _SAME_INPUT | _FILE
        if self._shards is not None:
            self._finish(self._shards, self._shards.finished(index))
            self._shards.note_written()

    def end(self) -> None:
        """Wait for what is still being written."""
        if self._shards is not None:
            self._shards.note_written(wait=True)
            with suppress(OSError):
                self._folder.rmdir()
        self._remove_leftovers()

    def close(self) -> None:
        if self._shards is not None:
            self._shards.close()

    def summary(self) -> Summary:
        return Summary(
            items=len(self._manifest),
            done=self._done,
            before=self._before,
            failed=self._failed,
            warned=self._warned,
            warning=self._warning,
            hours=self._seconds / 3600,
            elapsed=time.monotonic() - self._start,
            share=self._bytes_done / self._bytes,
            out=str(self._out),
        )

    def _recall(self, place: int, row: Row) -> None:
        """A row of an earlier run, in place of those before it."""
        index = self._manifest.find(row.id)
        if index is None or row.input is None or row.output is None:
            return
        self._places[index] = place
        same = self._manifest.has_input(index, row.input.size, row.input.modified)
        there = row.output.is_of(self._folder / row.name)
        self._known[index] = (_SAME_INPUT if same else 0) | (_FILE if there else 0)

    def _recall_shard(self, shards: Shards, shard: Shard) -> None:
        """A shard of an earlier run: it holds what the rows before say, of the items that it names."""
        members = self._members(shards, shard.number)
        self._forget_tar(members)
        for id in shard.ids:
            index = self._manifest.find(id)
            if index is None or index not in members:
                raise ValueError(
                    f"{shards.path(shard.number)} holds the item {shown(id)}, which does not belong there by this "
                    "manifest: items may only be added at its end; else name a new folder"
                )
            self._known[index] |= _IN_TAR
        shards.recall(shard)

    def _forget_tar(self, members: range) -> None:
        for index in members:
            self._known[index] &= _SAME_INPUT | _FILE

    def _members(self, shards: Shards, number: int) -> range:
        start, count = number * shards.size, len(self._manifest)
        return range(min(start, count), min(start + shards.size, count))

    def _finish(self, shards: Shards, number: int) -> None:
        """Write a shard if all its items are done or have failed, and it is not what it was."""
        if shards.left(number):
            return
        ids, members, changed = [], [], False
        for index in self._members(shards, number):
            known = self._known[index]
            is_done = bool(known & _SAME_INPUT and known & (_FILE | _IN_TAR))
            changed |= is_done != bool(known & _IN_TAR)
            if is_done:
                id = self._manifest[index].id
                name = f"{id}.{self._settings.format}"
                ids.append(id)
                members.append(Member(name, None if known & _IN_TAR else self._folder / name))
        if changed:
            shards.write(number, ids, members)

    def _remove_files_in_tars(self) -> None:
        """Delete the files that a process that was killed has left though they are in a tar."""
        for path in list(self._folder.iterdir()):
            index = self._manifest.find(path.stem)
            if index is None or self._known[index] & _IN_TAR:
                path.unlink(missing_ok=True)

    def _remove_leftovers(self) -> None:
        for folder in {self._out, self._folder}:
            remove_leftovers(folder)
