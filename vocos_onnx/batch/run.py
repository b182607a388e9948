"""Runs a job from its manifest to its summary: an engine does what is left, and the journal records it."""

from __future__ import annotations

import logging
import os
import time
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vocos_onnx.io.files import remove_leftovers
from vocos_onnx.messages import refused, shown

from .job import Settings
from .journal import ERRORS, FULL, Journal, Row, Shard
from .manifest import Item, Manifest
from .shards import Member, Shards
from .work import items_folder

if TYPE_CHECKING:
    from .local import Replaced

Engine = Callable[[Settings, Path, Iterable[Item], int | None], "Generator[Row | Replaced, None, None]"]
"""Yields the row of each item, in any order: ``engine(settings, out, items, workers)``; between them, workers lost."""
_SAME_INPUT, _FILE, _IN_TAR = 1, 2, 4  # flags: the input is unchanged, the output exists as a file, or in a tar
_MOST_REASONS = 1000  # that are counted separately
_log = logging.getLogger("vocos_onnx")


@dataclass(frozen=True)
class Summary:
    """The progress of a job, in this run and earlier ones.

    Attributes:
        items: items in the manifest.
        done: items whose outputs exist and match the inputs.
        before: those of ``done`` that earlier runs did.
        others: items done in earlier runs that are not in this manifest; not counted in ``done``.
        failed: items that failed in this run, listed in errors.jsonl.
        kept: those of ``failed`` whose output from an earlier run still exists.
        reason: the most frequent error, quoted from the first such item, with its id; None if none failed.
        alike: how many items failed for that reason, ignoring the name of the input.
        warned: items done in this run with a warning, which the journal records.
        warning: the first warning, with the id of its item; None if there is none.
        replaced: workers that died in this run, killed or crashed.
        hours: hours of audio done in this run.
        elapsed: seconds since the run began.
        share: fraction of the manifest's work that is finished, from 0 to 1, by input size.
        out: the output folder.
    """

    items: int
    done: int
    before: int
    others: int
    failed: int
    kept: int
    reason: str | None
    alike: int
    warned: int
    warning: str | None
    replaced: int
    hours: float
    elapsed: float
    share: float
    out: str

    @property
    def speed(self) -> float:
        """Multiple of real time: seconds of audio per second of this run."""
        return 3600 * self.hours / self.elapsed if self.elapsed else 0.0

    @property
    def errors(self) -> str | None:
        """The file that lists the items that failed in this run, and why; None if none failed."""
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
    """Runs a job, or what is left of it.

    Args:
        manifest: a .jsonl, .csv or .tsv file, or a folder, as ``Manifest`` takes it; or a ``Manifest``.
        out: the folder for the outputs, the journal and errors.jsonl. It is created if missing; otherwise it must be
            empty or belong to the same job.
        settings: what is done with each item.
        engine: "local", "ray", or a function that does the items, such as ``through_ray`` returns.
        workers: number of processes, by default the CPUs that this process may use; at most one per remaining item.
        resume: whether to resume the job in ``out``. Items that failed are tried again.
        progress: called at the start, after each item, and after a worker has been replaced.

    Returns:
        The summary. Items that fail are listed in errors.jsonl, and raise no error here.

    Raises:
        ValueError: if ``Manifest`` rejects the manifest, the task does not take its inputs, ``out`` holds something
            else, or workers is below 1.
        OSError: if the outputs cannot be written, such as for a full disk. The journal has what is done.
        RuntimeError: if another process is working on ``out``, or the workers keep dying.

    A script that calls ``run`` needs ``if __name__ == "__main__":``, like any script that starts processes.

    Example:
        >>> summary = run("corpus.jsonl", "audio", Settings.of("decode", format="flac"))
        >>> summary.done, summary.failed
        (2, 0)
    """
    if workers is not None and not (type(workers) is int and workers >= 1):
        raise ValueError(f"workers is {shown(workers)}, expected 1 or more, or None for one a core")
    read = manifest if isinstance(manifest, Manifest) else Manifest(manifest)
    folder = Path(out).absolute()
    _check(read, folder, settings)
    do = _engine(engine)  # before the folder is created: there may be no cluster
    with Journal(folder, settings, resume) as journal:
        job = _Job(read, folder, settings, journal)
        try:
            job.begin()
            if progress is not None:
                progress(job.summary())
            if job.left:
                most = None if workers is None else min(workers, job.left)
                with closing(do(settings, folder, job.items(), most)) as rows:
                    for row in rows:
                        if isinstance(row, Row):
                            job.add(row)
                        else:
                            job.note(row)
                        if progress is not None:
                            progress(job.summary())
            job.end()
        except OSError as error:
            if error.errno not in FULL:
                raise
            done = f"{job.summary().done:,} of {len(read):,} items are done"
            reason = refused("write to the folder", folder, error).strerror
            raise OSError(error.errno, f"{reason}. {done}; make room, and go on with resume=True") from error
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
    """Raises ValueError if the manifest does not suit the settings or the output folder."""
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
    """The state of a job in an output folder: what is done, and what is left."""

    def __init__(self, manifest: Manifest, out: Path, settings: Settings, journal: Journal):
        self._manifest, self._out, self._journal, self._settings = manifest, out, journal, settings
        self._folder = items_folder(settings, out)
        self._known = bytearray(len(manifest))  # flags
        self._places = array("q", [-1]) * len(manifest)  # of the items' rows in the journal
        self._damaged: set[int] = set()  # tars that have lost some members, or have another order
        self._older: dict[int, int] = {}  # items newer than their tar -> the place of the tar's row
        self._others: set[str] = set()  # the ids in the journal that are not in the manifest
        self._shards = None if settings.shard_size is None else Shards(settings.shard_size, out, journal)
        self._order = np.zeros(0, np.int64)
        self._done = self._before = self._failed = self._kept = self._warned = self._replaced = 0
        self._reasons: dict[str, tuple[int, str]] = {}  # count, and first example
        self._alike = 0  # items that failed for the most frequent reason
        self._reason: str | None = None
        self._warning: str | None = None
        self._seconds = 0.0
        self._bytes_done = self._bytes = 0
        self._start = time.monotonic()

    @property
    def left(self) -> int:
        """The number of items to do."""
        return len(self._order)

    def begin(self) -> None:
        """Determine what is done."""
        self._folder.mkdir(exist_ok=True)
        self._remove_leftovers()
        for place, record in self._journal.records():
            if isinstance(record, Row):
                self._recall(place, record)
            elif self._shards is not None:
                self._recall_shard(self._shards, record)
        if self._shards is not None:
            self._check_tars(self._shards)
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
        waiting = (np.flatnonzero(known & _FILE) // self._shards.size).tolist()
        for number in sorted({*waiting, *self._damaged}):
            self._finish(self._shards, number)

    def items(self) -> Iterator[Item]:
        """Yields the items that are left, the longest first; with shards, one shard after another."""
        for index in self._order.tolist():
            item = self._manifest[index]
            if (place := self._places[index]) >= 0:
                in_tar = bool(self._known[index] & _IN_TAR) and index not in self._older
                item = replace(item, known=self._journal.row_at(place), in_tar=in_tar)
            yield item

    def add(self, row: Row) -> None:
        """Record the result of an item."""
        self._journal.add(row)
        index = self._manifest.find(row.id)
        assert index is not None
        self._bytes_done += max(self._manifest.sizes[index], 0) + 1
        if row.error is not None:
            self._failed += 1
            self._note_reason(row, row.error)
            self._keep(index)
        else:
            self._done += 1
            if row.verified:
                self._before += 1
            else:
                self._count(row)
            in_tar = self._known[index] & _IN_TAR
            is_file = not in_tar or self._is_there(row)  # else its output is the existing member
            self._known[index] = _SAME_INPUT | in_tar | (_FILE if is_file else 0)
        if self._shards is not None:
            self._finish(self._shards, self._shards.finished(index))
            self._shards.note_written()

    def _count(self, row: Row) -> None:
        """Count an item that was done in this run."""
        self._seconds += row.seconds
        self._warned += bool(row.warnings)
        if row.warnings and self._warning is None:
            self._warning = f"{row.id}: {row.warnings[0]}"

    def note(self, replaced: Replaced) -> None:
        """Record workers that died."""
        self._replaced += replaced.workers
        _log.warning("%s", replaced.message)

    def end(self) -> None:
        """Wait for shards that are still being written, and end the journal."""
        if self._shards is not None:
            self._shards.note_written(wait=True)
            with suppress(OSError):
                self._folder.rmdir()
        self._journal.end()

    def close(self) -> None:
        """Remove unfinished files, however the job ends; no worker is left that could write."""
        if self._shards is not None:
            self._shards.close()
        with suppress(OSError):
            self._remove_leftovers()

    def summary(self) -> Summary:
        return Summary(
            items=len(self._manifest),
            done=self._done,
            before=self._before,
            others=len(self._others),
            failed=self._failed,
            kept=self._kept,
            reason=self._reason,
            alike=self._alike,
            warned=self._warned,
            warning=self._warning,
            replaced=self._replaced,
            hours=self._seconds / 3600,
            elapsed=time.monotonic() - self._start,
            share=self._bytes_done / self._bytes,
            out=str(self._out),
        )

    def _recall(self, place: int, row: Row) -> None:
        """Take over a row of an earlier run; it overrides the ones before."""
        index = self._manifest.find(row.id)
        if index is None:
            self._others.add(row.id)
            return
        in_tar = self._known[index] & _IN_TAR
        if in_tar:
            older = self._older.pop(index, self._places[index])
            if older < 0 or _sha256(self._journal.row_at(older)) != _sha256(row):
                self._older[index] = older
        self._places[index] = place
        self._known[index] = self._same_input(index, row) | in_tar | (_FILE if self._is_there(row) else 0)

    def _same_input(self, index: int, row: Row) -> int:
        assert row.input is not None
        same = self._manifest.has_input(index, row.input.size, row.input.modified, row.offset, row.duration)
        return _SAME_INPUT if same else 0

    def _is_there(self, row: Row) -> bool:
        """Whether the file of an output exists."""
        return row.output is not None and row.output.is_of(self._folder / row.name)

    def _recall_shard(self, shards: Shards, shard: Shard) -> None:
        """Take over a shard of an earlier run: the items that it names, as the rows before describe them."""
        members = self._members(shards, shard.number)
        self._forget_tar(members)
        last = -1
        for id in shard.ids:
            index = self._manifest.find(id)
            if index is None or index not in members:
                raise ValueError(
                    f"{shards.path(shard.number)} holds the item {shown(id)}, which does not belong there by this "
                    "manifest: items may only be added at its end; else name a new folder"
                )
            self._known[index] |= _IN_TAR
            if index < last:  # the manifest has a new order, which the tar will get
                self._damaged.add(shard.number)
            last = index
        shards.recall(shard)

    def _forget_tar(self, members: range) -> None:
        for index in members:
            self._known[index] &= _SAME_INPUT | _FILE
            self._older.pop(index, None)

    def _check_tars(self, shards: Shards) -> None:
        """Update the flags to match the files that exist."""
        self._damaged |= {number for number in shards.lost() if self._forget_damaged(shards, number)}
        for index in [index for index in self._older if not self._known[index] & _FILE]:
            self._go_back(index)
        for path in list(self._folder.iterdir()):
            found = self._manifest.find(path.stem)
            if found is not None and self._known[found] & _IN_TAR and found not in self._older:
                path.unlink(missing_ok=True)  # a killed process left it behind, but it is in the tar
                self._known[found] &= ~_FILE

    def _forget_damaged(self, shards: Shards, number: int) -> bool:
        """Forget the members that a changed tar no longer holds. Returns whether it still holds any."""
        members, places = self._members(shards, number), {}
        for index in members:
            place = self._older.get(index, self._places[index])
            if self._known[index] & _IN_TAR and place >= 0:
                places[index] = place, self._journal.row_at(place)
        expected = {row.name: _sha256(row) for _, row in places.values()}
        older = {index: self._older[index] for index in members if index in self._older}
        intact = shards.intact(number, expected)
        self._forget_tar(members)
        for index, (_, row) in places.items():
            if row.name in intact:
                self._known[index] |= _IN_TAR
                if index in older:
                    self._older[index] = older[index]
        return bool(intact)

    def _keep(self, index: int) -> None:
        """Keep the output from an earlier run of an item that has failed now."""
        self._known[index] &= ~_SAME_INPUT
        if self._known[index] & _FILE and not self._is_there(self._journal.row_at(self._places[index])):
            self._known[index] &= ~_FILE
            if index in self._older:
                self._go_back(index)
        self._kept += bool(self._known[index] & (_FILE | _IN_TAR))

    def _go_back(self, index: int) -> None:
        """Return to the output in the tar, and its row, after the newer output of an item is gone."""
        place = self._older.pop(index)
        if place < 0:  # the tar has none
            self._known[index] &= ~_IN_TAR
            return
        row = self._journal.row_at(place)
        self._journal.add(row)
        self._places[index] = place
        self._known[index] = _IN_TAR | self._same_input(index, row)

    def _note_reason(self, row: Row, error: str) -> None:
        kind = error.replace(row.path, "") if row.path else error
        count, first = self._reasons.get(kind, (0, f"{row.id}: {error}"))
        if count or len(self._reasons) < _MOST_REASONS:
            self._reasons[kind] = count + 1, first
            if count + 1 > self._alike:
                self._alike, self._reason = count + 1, first

    def _members(self, shards: Shards, number: int) -> range:
        start, count = number * shards.size, len(self._manifest)
        return range(min(start, count), min(start + shards.size, count))

    def _finish(self, shards: Shards, number: int) -> None:
        """Write a shard if all its items are done or have failed, and it has changed.

        It gets all outputs that exist, including earlier ones of items that fail now.
        """
        if shards.left(number):
            return
        ids, members = [], []
        for index in self._members(shards, number):
            if known := self._known[index] & (_FILE | _IN_TAR):
                id = self._manifest[index].id
                name = f"{id}.{self._settings.format}"
                ids.append(id)
                members.append(Member(name, self._folder / name if known & _FILE else None))
        if number in self._damaged or any(member.file is not None for member in members):
            shards.write(number, ids, members)

    def _remove_leftovers(self) -> None:
        for folder in {self._out, self._folder}:
            remove_leftovers(folder)


def _sha256(row: Row) -> str:
    """The sha256 of a row's output."""
    assert row.output is not None
    return row.output.sha256
