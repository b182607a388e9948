"""Runs the same job through Ray Data, on this machine or on the nodes of a cluster that share the folder OUT.

The items to do are in OUT/.ray/items, one per line, and Ray only passes around where *chunks* of them begin: the driver
and the object store hold a few thousand chunks, however long the manifest is. Each actor has one Worker. It reads the
items of a chunk, writes their outputs to OUT like the processes of the local engine, and returns a row for each, a few
at a time; the driver receives them as they are done.

When a node or an actor dies, Ray gives its chunks to another actor, which finds the results of a chunk's items so far
in OUT/.ray: it continues with the item that was in progress, and gives that item up if it has ended two processes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import socket
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocos_onnx.messages import first_line
from vocos_onnx.model.cpus import available_cpus
from vocos_onnx.version import __version__

from .job import Settings
from .journal import Row
from .local import Replaced
from .manifest import Item
from .work import Worker
from .work import reason as reason_of

if TYPE_CHECKING:
    from .run import Engine

FOLDER = ".ray"  # in OUT while a job runs
MAX_CHUNKS = 4096  # more of them slow Ray's start and take the driver's memory
ITEMS_A_CHUNK = 32  # in jobs too small for MAX_CHUNKS of them
CHUNKS_AN_ACTOR = 16  # at least, so the others do not wait long for the last one
ROWS_AT_ONCE, BYTES_AT_ONCE = 8, 4 << 20  # limits of rows returned together, and of their input
TRIES = 2  # for an item that ends its process
_REMOVALS = 50  # attempts to delete the folder, every 0.1 s
STORE = 128 << 20  # bytes of shared memory for a Ray started here, which passes only small objects


def through_ray(address: str | None = None, *, gpus: float | None = None) -> Engine:
    """Connects this process to a cluster; returns the engine that runs a job there, ``rows`` with these arguments.

    The connection stays open for further jobs, like that of ``ray.init``, until ``ray.shutdown()`` or the end of the
    process. An unusable cluster thus raises an error here, before a job has created its folder. Without an address and
    without RAY_ADDRESS there is nothing to connect to: each job starts and stops Ray on this machine.

    Args:
        address: address of the cluster's head, as ``rows`` takes it.
        gpus: GPUs per actor, as ``rows`` takes them.

    Raises:
        ImportError: if Ray is not installed.
        ConnectionError: if there is no cluster at that address.
        ValueError: if the cluster lacks the GPUs, or has another version of Ray or Python; or if the address is
            invalid.

    Example:
        >>> summary = run("corpus.jsonl", "/shared/audio", settings, engine=through_ray("10.0.0.5:6379"))
    """
    ray = import_ray()
    _check_gpus(gpus)
    if not ray.is_initialized() and (found := _resolved(address)) != "local":
        _connect(ray, found)
    if gpus is not None and ray.is_initialized():
        _slots(ray, gpus)
    return partial(rows, address=address, gpus=gpus)


def rows(
    settings: Settings,
    out: Path,
    items: Iterable[Item],
    workers: int | None = None,
    *,
    address: str | None = None,
    gpus: float | None = None,
) -> Generator[Row | Replaced, None, None]:
    """Runs the items through Ray Data; yields each item's row exactly once, as it is done, and replaced actors.

    Closing the generator stops the work.

    Args:
        settings: what is done with the items.
        out: the output folder, which all nodes have under this path.
        items: the items to do, the longest first.
        workers: the maximum number of actors; by default as many as the cluster has CPUs or GPUs for, even as it grows.
        address: address of a cluster's head, HOST:PORT, or "auto" for the one that runs on this machine; by default
            RAY_ADDRESS. If that is not set, Ray is started on this machine for this job.
        gpus: GPUs per actor; 0.5 lets two actors share one. By default 1 with the provider "cuda", otherwise none.

    Raises:
        ImportError: if Ray is not installed.
        ConnectionError: if there is no cluster at that address.
        ValueError: if the cluster lacks the GPUs, or has another version of Ray or Python; or if workers or gpus is out
            of range.
        OSError: if a node cannot write to OUT, such as for a full disk.
        RuntimeError: if a node does not have OUT or the models, or has another version of this package; or if Ray
            fails.
    """
    gpus = _checked(settings, workers, gpus)
    ray = import_ray()
    out = out.absolute()
    folder = out / FOLDER
    with connected(ray, address, workers), _emptied(folder):
        slots = _slots(ray, gpus)
        todo = folder / "items"
        chunks = _write(items, todo, CHUNKS_AN_ACTOR * min(slots, workers or slots))
        if not chunks:
            return
        count = sum(chunk["count"] for chunk in chunks)
        dataset = _dataset(ray, chunks, settings, todo, min(slots, workers or slots, len(chunks)), workers, gpus)
        seen, ended = bytearray(count), set[Replaced]()
        try:
            for part in dataset.iter_rows():
                for found in _received(part["rows"]):
                    if isinstance(found, Replaced):
                        if found not in ended:
                            ended.add(found)
                            yield found
                        continue
                    position, row = found
                    if not seen[position]:  # a node presumed dead may have continued
                        seen[position] = 1
                        yield row
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray has failed: {first_line(error)}; run it again, and it goes on") from error
        if missing := seen.count(0):
            raise RuntimeError(f"Ray has lost {missing} of {count} items; run it again, and it goes on with these")


def import_ray() -> Any:
    """Import Ray Data. Raises ImportError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray started here sends no usage statistics
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its errors concern only how Ray Data uses it
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"--engine ray needs {error.name}: pip install 'vocos-onnx[ray]'") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it logs that its own bar is missing
    return ray


@contextmanager
def connected(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    """Connects as a driver to a cluster, or to a Ray that it starts here and stops again; reuses an open connection.

    Raises ConnectionError if there is no cluster at the address, ValueError if it has another Ray or Python.
    """
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {}
    if (found := _resolved(address)) == "local":
        cpus = workers or available_cpus()
        options = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE}
    _connect(ray, found, **options)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str, **options: Any) -> None:
    """Connect to a cluster, or start Ray with these options. Raises the same errors as ``connected``."""
    _check_address(address)
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, TimeoutError) as error:
        if address == "auto":
            raise ConnectionError(_no_cluster(address, first_line(error))) from error
        raise ConnectionError(
            f"what listens at {address} does not let this process in ({first_line(error)}): if the cluster has a "
            "token, set RAY_AUTH_MODE=token, and copy ~/.ray/auth_token from its first node"
        ) from error
    except (RuntimeError, ray.exceptions.RayError) as error:  # another version, or the wrong token
        reason = " ".join(str(error).split())
        raise ValueError(f"the Ray cluster at {address} cannot be used from here: {reason}") from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)  # Ray has replaced the handler


def _checked(settings: Settings, workers: int | None, gpus: float | None) -> float:
    """Returns the number of GPUs per actor. Raises ValueError if an argument is out of range."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}, expected 1 or more, or None for all that the cluster has room for")
    _check_gpus(gpus)
    if gpus is None:
        return 1.0 if settings.provider == "cuda" else 0.0
    if settings.provider == "cpu":
        raise ValueError(f"gpus is {gpus}, and the provider is the CPU: pass provider='cuda', or leave it out")
    return gpus


def _check_gpus(gpus: float | None) -> None:
    if gpus is not None and not 0 < gpus <= 8:
        raise ValueError(f"gpus is {gpus}, expected more than 0, and at most 8, for each actor; 0.5 lets two share one")


def _resolved(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _check_address(address: str) -> None:
    """Raises ConnectionError if nothing listens at the address; Ray itself takes long to report that."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ValueError(f"the address of Ray is {address!r}, expected HOST:PORT, as in 10.0.0.5:6379, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ConnectionError(_no_cluster(address, str(error))) from error


def _no_cluster(address: str, reason: str) -> str:
    where = "that runs on this machine" if address == "auto" else f"at {address}"
    remedy = "ray start --head" if address == "auto" else "ray start --head --port=6379 on its first node"
    return (
        f"there is no Ray cluster {where} ({reason}): start it with {remedy}, or leave the address out (RAY_ADDRESS, "
        "too), and Ray is started on this machine"
    )


def _slots(ray: Any, gpus: float) -> int:
    """Returns how many actors fit into the cluster. Raises ValueError if none fits."""
    resources = ray.cluster_resources()
    kind, each = ("GPU", gpus) if gpus else ("CPU", 1)
    found = resources.get(kind, 0)
    if found < each:
        raise ValueError(
            f"an actor needs {each:g} {kind}, and the cluster has {found:g} in all: start its nodes with "
            f"--num-{kind.lower()}s, or ask for less"
        )
    return int(found / each)


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    """Creates an empty folder, replacing one that a killed run has left, and deletes it at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield
    finally:
        for _ in range(_REMOVALS):  # an actor that is ending may still write there
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.1)


def _write(items: Iterable[Item], path: Path, chunks_wanted: int) -> list[dict[str, int]]:
    """Writes the items, and divides them in order into chunks of about equal work, that is, of input bytes."""
    places, sizes = array("q"), array("q")
    with path.open("wb") as file:
        for item in items:
            places.append(file.tell())
            sizes.append(max(item.size, 1))
            file.write(_line(item))
    wanted = min(max(chunks_wanted, len(places) // ITEMS_A_CHUNK), MAX_CHUNKS)
    share, chunks, taken = sum(sizes) / wanted, list[dict[str, int]](), 0.0
    for position, (place, size) in enumerate(zip(places, sizes, strict=True)):
        if not chunks or taken >= share * len(chunks):
            chunks.append({"first": position, "place": place, "count": 0})
        chunks[-1]["count"] += 1
        taken += size
    return chunks


def _dataset(
    ray: Any, chunks: list[dict[str, int]], settings: Settings, todo: Path, actors: int, most: int | None, gpus: float
) -> Any:
    """A dataset that maps the chunks to the rows of their items."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # passes on at once what an actor yields
    context.max_consecutive_actor_init_deaths = 10  # a node may die while an actor starts there
    context.execution_no_progress_timeout_s = -1  # an item may take hours
    with ray.data.DataContext.current(context):
        return ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
            Actor,
            fn_constructor_args=(settings, str(todo), __version__),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=actors),
            num_gpus=gpus or None,
        )


def _received(text: str) -> Iterator[tuple[int, Row] | Replaced]:
    """Parses what an actor returned: rows with their positions, and actors that died before it.

    Raises the error that stopped the actor.
    """
    given = json.loads(text)
    if (message := given.get("stopped")) is not None:
        raise RuntimeError(message) if given["errno"] is None else OSError(given["errno"], message)
    for message in given["ended"]:
        yield Replaced(1, message)
    for position, row in given["rows"]:
        yield position, _row(row)


class Actor:
    """A process of the cluster that keeps the models open and does chunk after chunk."""

    def __init__(self, settings: Settings, todo: str, version: str):
        """Keeps an error and returns it with the first chunk: Ray would hide it in its own traceback."""
        self._todo, self._stopped = Path(todo), ""
        try:
            if version != __version__:
                raise RuntimeError(f"it has vocos-onnx {__version__}, and the driver {version}: install the same one")
            if not self._todo.is_file():
                raise FileNotFoundError(f"it has no {todo}: the folder of the outputs must be one that all nodes share")
            self._worker = Worker(settings, self._todo.parent.parent)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            self._stopped = _stop(error)

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[str]]]:
        """Does the chunks of a batch, which has exactly one.

        A chunk that is done again must return the same batches of rows, since the driver may already have the first
        ones. So the batches depend only on the items, not on timing.
        """
        if self._stopped:
            yield {"rows": [self._stopped]}
            return
        for first, place, count in zip(*(batch[name].tolist() for name in ("first", "place", "count")), strict=True):
            try:
                for portion in self._portions(first, _items(self._todo, place, count)):
                    yield {"rows": [json.dumps(portion)]}
            except OSError as error:  # a full disk
                yield {"rows": [_stop(error)]}

    def _portions(self, first: int, items: Iterator[Item]) -> Iterator[dict[str, list[Any]]]:
        """Yields the rows of a chunk's items with their positions, some at a time, and messages of actors that died."""
        done, ended, size = list[tuple[int, Any]](), list[str](), 0
        with _Tried(self._todo.parent / str(first)) as tried:
            for position, item in enumerate(items, first):
                ended += tried.ended(position)
                done.append((position, self._done(item, position, tried)))
                size += item.size
                if len(done) == ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
                    yield {"rows": done, "ended": ended}
                    done, ended, size = [], [], 0
        yield {"rows": done, "ended": ended}

    def _done(self, item: Item, position: int, tried: _Tried) -> Any:
        """The row of an item, done now or earlier by another actor."""
        if position in tried.rows:
            return tried.rows[position]
        if len(processes := tried.begun[position]) >= TRIES:
            last = f"at last {processes[-1]}"
            reason = f"its process ended twice without a word: killed, out of memory, or crashed ({last})"
            row = Row.failed(item, reason).to_json()
        else:
            tried.begin(position)
            row = self._worker.do(item).to_json()
        tried.finish(position, row)
        return row


class _Tried:
    """What this actor and earlier ones have done with the items of a chunk, kept in a file.

    rows: the rows of items that are done.
    begun: which processes have started an item.
    """

    def __init__(self, path: Path):
        self.rows: dict[int, Any] = {}
        self.begun: defaultdict[int, list[str]] = defaultdict(list)
        with suppress(FileNotFoundError):
            for line in path.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # cut off when the process died
                    entry = json.loads(line)
                    if "row" in entry:
                        self.rows[entry["position"]] = entry["row"]
                    else:
                        self.begun[entry["position"]].append(f"process {entry['process']} of {entry['node']}")
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> _Tried:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def ended(self, position: int) -> list[str]:
        """Messages about the processes that died in the middle of an item."""
        if position in self.rows:
            return []
        return [
            f"a worker ended without a word ({process}): the item in work {comes}"
            for process, comes in zip(self.begun[position], ("is tried once more", "has failed"), strict=False)
        ]

    def begin(self, position: int) -> None:
        self._append({"position": position, "process": os.getpid(), "node": socket.gethostname()})

    def finish(self, position: int, row: Any) -> None:
        self._append({"position": position, "row": row})

    def _append(self, entry: dict[str, Any]) -> None:
        self._file.write(b"\n" + json.dumps(entry).encode() + b"\n")  # the previous line may be cut off


def _stop(error: Exception) -> str:
    """Why an actor cannot continue, in the form that it returns."""
    message = f"node {socket.gethostname()}: {reason_of(error)}"
    return json.dumps({"stopped": message, "errno": error.errno if isinstance(error, OSError) else None})


def _items(path: Path, place: int, count: int) -> Iterator[Item]:
    with path.open("rb") as file:
        file.seek(place)
        for _ in range(count):
            values = json.loads(file.readline())
            known = None if values["known"] is None else _row(values["known"])
            yield Item(**{**values, "path": Path(values["path"]), "known": known})


def _row(value: Any) -> Row:
    """Parses a row from ``Row.to_json``, which may be that of a failed item."""
    return Row(**value) if "error" in value else Row.from_json(value)


def _line(item: Item) -> bytes:
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    known = None if item.known is None else item.known.to_json()
    return json.dumps({**values, "path": str(item.path), "known": known}).encode() + b"\n"
