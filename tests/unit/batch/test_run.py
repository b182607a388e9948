"""Jobs: runs and resumed runs give the same outputs with any number of workers, whatever happens to the processes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA
from vocos_onnx import VocosONNX, save_tokens
from vocos_onnx.batch import Manifest, Settings, Summary, run
from vocos_onnx.batch.journal import Row
from vocos_onnx.batch.manifest import Item
from vocos_onnx.batch.work import Worker

MODEL, ENCODER = DATA / "encodec.onnx", DATA / "encoder.onnx"
STATE = {"journal.jsonl", "errors.jsonl", ".lock"}


@pytest.fixture(scope="module")
def decode() -> Settings:
    return Settings.of("decode", model=MODEL)


@pytest.fixture(scope="module")
def shards() -> Settings:
    return Settings.of("decode", model=MODEL, format="flac", shard_size=5)


def write_items(folder: Path, count: int, longest: int = 40) -> Path:
    folder.mkdir()
    vocos, random = VocosONNX(MODEL), np.random.default_rng(count)
    for n in range(count):
        save_tokens(folder / f"{n:04d}.npz", random.integers(1024, size=(2, random.integers(1, longest))), vocos)
    return folder


def here(settings: Settings, out: Path, items: Iterable[Item], workers: int | None) -> Generator[Row, None, None]:
    """An engine without processes."""
    worker = Worker(settings, out)
    for item in items:
        yield worker.do(item)


def outputs(out: Path) -> dict[str, str]:
    """The sha256 of each output."""
    found = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items() if name not in STATE}


def journaled(out: Path) -> list[str]:
    """The ids in the journal, in order."""
    rows = map(json.loads, (out / "journal.jsonl").read_text().splitlines()[1:])
    return [row["id"] for row in rows if "id" in row]


def errors(out: Path) -> dict[str, str]:
    lines = (out / "errors.jsonl").read_text().splitlines()
    return {row["id"]: row["error"] for row in map(json.loads, lines)}


def test_each_number_of_workers_writes_the_same(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    source = write_items(tmp_path / "in", 23)
    (source / "0011.npz").write_bytes(b"nonsense")
    for settings in (decode, shards):
        found = []
        for workers in (0, 1, 3):
            out = tmp_path / f"{settings.format}-{workers}"
            engine = {"engine": here} if not workers else {"workers": workers}
            summary = run(source, out, settings, **engine)
            assert (summary.items, summary.done, summary.before, summary.failed) == (23, 22, 0, 1)
            assert list(errors(out)) == ["0011"]
            assert sorted(journaled(out)) == [f"{n:04d}" for n in range(23) if n != 11]
            found.append(outputs(out))
        assert found[0] == found[1] == found[2]
        assert len(found[0]) == (22 if settings is decode else 5)


def test_the_longest_come_first(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    source = write_items(tmp_path / "in", 20, 200)
    sizes = {path.stem: path.stat().st_size for path in source.iterdir()}
    run(source, tmp_path / "out", decode, engine=here)
    done = [sizes[id] for id in journaled(tmp_path / "out")]
    assert done == sorted(done, reverse=True)
    run(source, tmp_path / "shards", shards, engine=here)
    ids = journaled(tmp_path / "shards")
    assert [int(id) // 5 for id in ids] == [n // 5 for n in range(20)]  # shards are processed one after another
    assert [sizes[id] for id in ids[:5]] == sorted((sizes[id] for id in ids[:5]), reverse=True)


def test_shards(tmp_path: Path, shards: Settings) -> None:
    """Shard k holds items 5k to 5k + 4 in order, under webdataset's keys, and no other files remain."""
    source = write_items(tmp_path / "in", 12)
    assert run(source, tmp_path / "out", shards, engine=here).done == 12
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "000000.tar", "000001.tar", "000002.tar", "journal.jsonl",
    ]  # fmt: skip
    names = []
    for number in range(3):
        with tarfile.open(tmp_path / "out" / f"00000{number}.tar") as tar:
            names.append(tar.getnames())
            for name in tar.getnames():
                data = tar.extractfile(name)
                assert data is not None
                assert soundfile.info(data).samplerate == 24_000
    assert names == [[f"{n:04d}.flac" for n in range(12)][5 * k : 5 * k + 5] for k in range(3)]


@pytest.mark.parametrize("name", ["decode", "shards"])
def test_resume(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    """A resumed run repeats only items whose input changed, that failed, or whose output is gone."""
    settings: Settings = request.getfixturevalue(name)
    source = write_items(tmp_path / "in", 12)
    bad = source / "0003.npz"
    good = bad.read_bytes()
    run(source, tmp_path / "expected", settings, engine=here)
    expected = outputs(tmp_path / "expected")
    bad.write_bytes(b"nonsense")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="pass resume=True"):
        run(source, tmp_path / "expected", settings, engine=here)
    run(source, out, settings, engine=here, resume=True)

    def again() -> tuple[int, int, int]:
        before = len(journaled(out))
        summary = run(source, out, settings, engine=here, resume=True)
        return summary.before, summary.failed, len(journaled(out)) - before

    assert again() == (11, 1, 0)
    assert list(errors(out)) == ["0003"]
    bad.write_bytes(good)
    assert again() == (11, 0, 1)
    assert outputs(out) == expected
    assert not (out / "errors.jsonl").exists()
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert again() == (12, 0, 0)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    shutil.copy(source / "0001.npz", source / "0002.npz")  # a different input
    assert again() == (11, 0, 1)
    assert outputs(out) != expected
    os.utime(source / "0005.npz", ns=(1, 1))  # the same input with another mtime
    changed = outputs(out)
    assert again() == (12, 0, 1)
    assert again() == (12, 0, 0)
    assert outputs(out) == changed
    (source / "0007.npz").write_bytes(b"nonsense")  # its output stays
    assert again() == (11, 1, 0)
    assert outputs(out) == changed


@pytest.mark.parametrize("name", ["decode", "shards"])
def test_what_fails_now_keeps_its_output(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    """Inputs that are missing or damaged for a while keep their outputs; once they are back, nothing is recomputed."""
    settings: Settings = request.getfixturevalue(name)
    source, away, out = write_items(tmp_path / "in", 12), tmp_path / "away", tmp_path / "out"
    rows = "".join(json.dumps({"path": f"in/{n:04d}.npz"}) + "\n" for n in range(12))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text(rows)
    run(manifest, out, settings, engine=here)
    expected = outputs(out)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.*") if path.suffix in (".wav", ".tar")}

    def again() -> tuple[int, int, int, int]:
        summary = run(manifest, out, settings, engine=here, resume=True)
        assert outputs(out) == expected
        assert {path: path.stat().st_mtime_ns for path in times} == times
        return summary.before, summary.done, summary.failed, summary.kept

    source.rename(away)  # like an unmounted disk
    assert again() == (0, 0, 12, 12)
    assert list(errors(out)) == [f"{n:04d}" for n in range(12)]
    away.rename(source)
    assert again() == (12, 12, 0, 0)
    good = (source / "0003.npz").read_bytes()
    for bad in (b"", b"nonsense", good[:-1]):
        (source / "0003.npz").write_bytes(bad)
        assert again() == (11, 11, 1, 1)
    (source / "0003.npz").write_bytes(good)  # the mtime differs, so the sha256 decides
    assert again() == (12, 12, 0, 0)
    assert again() == (12, 12, 0, 0)
    manifest.write_text(rows + json.dumps({"path": "in/none.npz"}) + "\n")
    assert again() == (12, 12, 1, 0)


def contents(out: Path) -> dict[str, bytes]:
    """All readable outputs by id, in tar files or waiting to be put into one."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with suppress(tarfile.TarError, OSError), tarfile.open(path) as tar:
            for entry in tar.getmembers():
                data = tar.extractfile(entry)
                assert data is not None
                found[Path(entry.name).stem] = data.read()
    for path in (*out.glob("*.wav"), *out.glob(".items/*.flac")):
        found[path.stem] = path.read_bytes()
    return found


@pytest.mark.parametrize("name", ["decode", "shards"])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens(tmp_path: Path, request: pytest.FixtureRequest, name: str, seed: int) -> None:
    """Inputs vanish, break, change and come back, outputs vanish, and runs are interrupted, all at random.

    After each run every finished item has the output of its current input, and a failed item keeps its earlier output.
    Once all inputs are back, the outputs equal those of an undisturbed run.
    """
    settings: Settings = request.getfixturevalue(name)
    random = np.random.default_rng(seed)
    ids = [f"{n:04d}" for n in range(12)]
    source, out = write_items(tmp_path / "in", 12), tmp_path / "out"
    first = {id: (source / f"{id}.npz").read_bytes() for id in ids}
    other = dict(zip(ids, [*first.values()][::-1], strict=True))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps({"path": f"in/{id}.npz"}) + "\n" for id in ids))
    run(manifest, tmp_path / "expected", settings, engine=here)
    expected = contents(tmp_path / "expected")
    made = {first[id]: expected[id] for id in ids}  # output by input

    def disturb(id: str) -> None:
        path = source / f"{id}.npz"
        match random.integers(5):
            case 0:
                path.unlink(missing_ok=True)
            case 1:
                path.write_bytes(b"nonsense")
            case 2:
                path.write_bytes(other[id])
            case 3:
                path.write_bytes(first[id])
            case 4:
                path.write_bytes(first[id])
                os.utime(path, ns=(5, 5))

    def disturb_output(path: Path) -> None:
        data = path.read_bytes()
        match random.integers(4):
            case 0:
                path.unlink()
            case 1:
                path.write_bytes(data[: int(random.integers(len(data)))])
            case 2:
                place = int(random.integers(len(data)))
                path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
            case 3:
                os.utime(path, ns=(7, 7))

    for step in range(12):
        for id in random.choice(ids, 3, replace=False).tolist():
            disturb(id)
        if step % 3 == 2 and (found := sorted([*out.glob("*.tar"), *out.glob("*.wav"), *out.glob(".items/*.flac")])):
            disturb_output(found[int(random.integers(len(found)))])
        before, stop = contents(out), int(random.integers(8))

        def some(job: Settings, folder: Path, items: Iterable[Item], workers: int | None, n: int = stop) -> Any:
            for index, row in enumerate(here(job, folder, items, workers)):
                if index == n:
                    raise KeyboardInterrupt
                yield row

        with suppress(KeyboardInterrupt):
            run(manifest, out, settings, engine=some, resume=True)
        halfway = contents(out)
        summary = run(manifest, out, settings, engine=here, resume=True)
        after, inputs = contents(out), {path.stem: path.read_bytes() for path in source.iterdir()}
        can = {id: made[inputs[id]] for id in ids if inputs.get(id) in made}
        assert {id: after[id] for id in can} == can
        assert (summary.done, summary.failed) == (len(can), 12 - len(can))
        for was in (before, halfway):
            good = {id: data for id, data in was.items() if data in (made[first[id]], made[other[id]])}
            kept = {id: data for id, data in good.items() if id not in can}
            assert {id: after.get(id) for id in kept} == kept
        assert summary.kept <= len(after.keys() - can.keys())
        assert not (out / ".items").exists()
    for id in ids:
        (source / f"{id}.npz").write_bytes(first[id])
    assert run(manifest, out, settings, engine=here, resume=True).done == 12
    assert outputs(out) == outputs(tmp_path / "expected")


def test_outputs_that_are_gone_or_damaged_are_made_again(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    source = write_items(tmp_path / "in", 12)
    for settings, names, counts in (
        (decode, ("0001.wav", "0002.wav", "0003.wav"), (10, 2)),
        (shards, ("000001.tar",) * 3, (7, 5)),
    ):
        out = tmp_path / settings.format
        run(source, out, settings, engine=here)
        expected, before = outputs(out), len(journaled(out))
        (out / names[0]).unlink()
        (out / names[1]).write_bytes(b"damaged")
        os.utime(out / "000000.tar" if settings is shards else out / names[2], ns=(5, 5))  # unchanged but for its mtime
        summary = run(source, out, settings, engine=here, resume=True)
        assert (summary.done, summary.before) == (12, counts[0])
        assert outputs(out) == expected
        assert len(journaled(out)) - before == counts[1] + (settings is decode)


def test_more_items_at_the_end(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    source = write_items(tmp_path / "in", 12)
    rows = [json.dumps({"path": f"in/{n:04d}.npz"}) + "\n" for n in range(12)]
    manifest = tmp_path / "m.jsonl"
    for settings in (decode, shards):
        out = tmp_path / settings.format
        manifest.write_text("".join(rows[:7]))
        run(manifest, out, settings, engine=here)
        manifest.write_text("".join(rows))
        summary = run(manifest, out, settings, engine=here, resume=True)
        assert (summary.before, summary.done) == (7, 12)
        run(source, tmp_path / f"whole-{settings.format}", settings, engine=here)
        assert outputs(out) == outputs(tmp_path / f"whole-{settings.format}")
    manifest.write_text("".join(rows[1:]))
    with pytest.raises(ValueError, match=r"000000.tar holds the item '0000', which does not belong there"):
        run(manifest, tmp_path / "flac", shards, engine=here, resume=True)
    assert run(manifest, tmp_path / "wav", decode, engine=here, resume=True).before == 11


def test_a_copied_job_is_verified_and_not_done(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    """If only mtimes differ, as after a copy, items are verified by their contents and not recomputed."""
    source = write_items(tmp_path / "in", 12)
    for settings in (decode, shards):
        out = tmp_path / settings.format
        first = run(source, out, settings, engine=here)
        os.utime(source / "0003.npz", (1, 1))
        for path in out.iterdir():
            if path.suffix == ".wav":
                os.utime(path, (2, 2))
        before = outputs(out)
        again = run(source, out, settings, engine=here, resume=True)
        assert (again.done, again.before, again.hours, again.warned) == (12, 12, 0.0, 0)
        assert first.hours > 0
        assert outputs(out) == before
        (source / "0003.npz").write_bytes((source / ("0004.npz" if settings is decode else "0005.npz")).read_bytes())
        changed = run(source, out, settings, engine=here, resume=True)
        assert (changed.done, changed.before) == (12, 11)
        assert changed.hours > 0


def test_items_of_a_shard_that_change_places(tmp_path: Path, shards: Settings) -> None:
    write_items(tmp_path / "in", 10)
    manifest = tmp_path / "m.jsonl"
    names = [f"{n:04d}" for n in range(10)]

    def write(order: list[str]) -> None:
        manifest.write_text("".join(json.dumps({"path": f"in/{name}.npz"}) + "\n" for name in order))

    write(names)
    run(manifest, tmp_path / "out", shards, engine=here)
    second = hashlib.sha256((tmp_path / "out" / "000001.tar").read_bytes()).hexdigest()
    names[0], names[3] = names[3], names[0]
    write(names)
    for _ in range(2):
        summary = run(manifest, tmp_path / "out", shards, engine=here, resume=True)
        assert (summary.done, summary.before) == (10, 10)
        with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
            assert tar.getnames() == [f"{name}.flac" for name in names[:5]]
    assert hashlib.sha256((tmp_path / "out" / "000001.tar").read_bytes()).hexdigest() == second
    run(manifest, tmp_path / "anew", shards, engine=here)
    assert outputs(tmp_path / "anew") == outputs(tmp_path / "out")


def test_an_interrupted_run_tells_what_is_done(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    """However often a run is interrupted, a later one does only the rest, and the outputs are those of a whole run."""
    source = write_items(tmp_path / "in", 12)
    for settings in (decode, shards):
        run(source, tmp_path / f"expected-{settings.format}", settings, engine=here)
        out = tmp_path / settings.format
        for count in (3, 4, 2):

            def some(job: Settings, folder: Path, items: Iterable[Item], workers: int | None, n: int = count) -> Any:
                for index, row in enumerate(here(job, folder, items, workers)):
                    if index == n:
                        raise KeyboardInterrupt
                    yield row

            with pytest.raises(KeyboardInterrupt):
                run(source, out, settings, engine=some, resume=True)
            (out / ".vocos-0123").mkdir()  # as left by a killed process
            (out / ".vocos-0123" / "0001.wav").write_bytes(b"half")
        assert run(source, out, settings, engine=here, resume=True).before == 9
        assert outputs(out) == outputs(tmp_path / f"expected-{settings.format}")
        assert sorted(journaled(out)) == [f"{n:04d}" for n in range(12)]


def test_progress(tmp_path: Path, decode: Settings) -> None:
    source = write_items(tmp_path / "in", 5)
    seen: list[Summary] = []
    last = run(source, tmp_path / "out", decode, engine=here, progress=seen.append)
    assert [summary.done for summary in seen] == [0, 1, 2, 3, 4, 5]
    assert [summary.share for summary in seen] == sorted(summary.share for summary in seen)
    assert (seen[0].share, last.share) == (0, 1)
    frames = [VocosONNX(MODEL).decode(np.load(path)["tokens"]).size for path in source.iterdir()]
    assert last.hours == pytest.approx(sum(frames) / 24_000 / 3600, abs=1e-9)
    assert last.speed == pytest.approx(3600 * last.hours / last.elapsed)
    assert (last.errors, last.out) == (None, str(tmp_path / "out"))


def test_what_is_refused(tmp_path: Path, decode: Settings, shards: Settings) -> None:
    source = write_items(tmp_path / "in", 2)
    out = tmp_path / "out"
    soundfile.write(tmp_path / "a.wav", np.zeros(2400), 24_000)
    (tmp_path / "audio.jsonl").write_text('{"path": "a.wav"}\n')
    (tmp_path / "dots.jsonl").write_text('{"id": "a.b", "path": "in/0000.npz"}\n')
    with pytest.raises(ValueError, match="names audio, which decode does not take: the task is encode or resynth"):
        run(tmp_path / "audio.jsonl", out, decode, engine=here)
    with pytest.raises(ValueError, match="names tokens or mels, which encode does not take: the task is decode"):
        run(source, out, Settings.of("encode", encoder=ENCODER, bandwidth=1.5), engine=here)
    with pytest.raises(ValueError, match=r"the id 'a\.b' holds a dot"):
        run(tmp_path / "dots.jsonl", out, shards, engine=here)
    with pytest.raises(ValueError, match="lies in the folder of the inputs"):
        run(source, source / "out", decode, engine=here)
    with pytest.raises(ValueError, match="workers is 0, expected 1 or more"):
        run(source, out, decode, workers=0)
    with pytest.raises(ValueError, match="engine is 'spark', expected local or ray"):
        run(source, out, decode, engine="spark")
    assert not out.exists()
    assert not (source / "out").exists()


@pytest.mark.skipif(os.name == "nt", reason="no limit on the size of files")
@pytest.mark.parametrize("name", ["decode", "shards"])
def test_a_disk_that_fills(tmp_path: Path, request: pytest.FixtureRequest, name: str) -> None:
    """The run stops and reports how many items are done; once there is room, it can be resumed."""
    settings: Settings = request.getfixturevalue(name)
    source = write_items(tmp_path / "in", 12)
    run(source, tmp_path / "expected", settings, engine=here)
    code = f"""
import resource
from pathlib import Path
from vocos_onnx.batch import Settings, run
if __name__ == "__main__":
    settings = Settings.of("decode", model={str(MODEL)!r}, format={settings.format!r}, shard_size={settings.shard_size})
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    try:
        run({str(source)!r}, {str(tmp_path / "out")!r}, settings, workers=2)
    except OSError as error:
        print(error.errno, error.strerror)
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    assert done.stdout.startswith(f"{errno.EFBIG} cannot write "), done.stdout
    assert f"{tmp_path / 'out'}" in done.stdout and ": file too large. " in done.stdout, done.stdout
    assert "of 12 items are done; make room, and go on with resume=True" in done.stdout
    assert not [path for path in (tmp_path / "out").rglob(".vocos-*")]
    before = len(journaled(tmp_path / "out"))
    summary = run(source, tmp_path / "out", settings, workers=2, resume=True)
    assert (summary.before, summary.done) == (before, 12)
    assert outputs(tmp_path / "out") == outputs(tmp_path / "expected")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_real_disk_that_fills(tmp_path: Path, small_disk: Path, decode: Settings) -> None:
    source = write_items(tmp_path / "in", 30)
    run(source, tmp_path / "expected", decode, engine=here)
    with pytest.raises(OSError, match=r"cannot write .*: no space left on device\. .*items are done;") as caught:
        run(source, small_disk / "out", decode, workers=2)
    assert caught.value.errno == errno.ENOSPC
    assert 0 < len(outputs(small_disk / "out")) < 30
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    assert run(source, small_disk / "out", decode, workers=2, resume=True).done == 30
    assert outputs(small_disk / "out") == outputs(tmp_path / "expected")
    assert not list((small_disk / "out").glob(".vocos-*"))


def test_a_disk_that_is_full_from_the_start(tmp_path: Path, small_disk: Path, decode: Settings) -> None:
    """The error names the folder and the remedy."""
    source = write_items(tmp_path / "in", 3)
    with pytest.raises(OSError, match="No space left"), (small_disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError, match=r"^\[Errno 28\] cannot write to the folder ") as caught:
        run(source, small_disk / "out", decode, workers=1)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.strerror == (
        f"cannot write to the folder {small_disk / 'out'}: no space left on device. Nothing was done in this run; make "
        "room, and go on with resume=True"
    )
    (small_disk / "full").unlink()
    assert run(source, small_disk / "out", decode, workers=1, resume=True).done == 3


def of_script(script: Path, code: str) -> subprocess.CompletedProcess[str]:
    script.write_text(code)
    return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)


@pytest.mark.skipif(os.name == "nt", reason="no limit on the number of files")
def test_too_few_open_files(tmp_path: Path) -> None:
    source, out = write_items(tmp_path / "in", 3), tmp_path / "out"
    code = f"""
import resource
from vocos_onnx.batch import Settings, run
if __name__ == "__main__":
    settings = Settings.of("decode", model={str(MODEL)!r})
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))
    try:
        run({str(source)!r}, {str(out)!r}, settings, workers=2, resume=True)
    except OSError as error:
        print(error.strerror)
"""
    for limit in (10, 16, 20):
        done = of_script(tmp_path / "script.py", code.replace("MOST", str(limit)))
        assert done.stdout == (
            "Too many open files for 2 workers: raise the limit, as with ulimit -n 1024, or take fewer of them with "
            "--workers (in Python workers=)\n"
        ), done


# -- processes that die --


def children(process: int) -> list[int]:
    """The workers of a run, recognised by the executor's main program."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            command = path.with_name("cmdline").read_bytes()
        except (OSError, IndexError, ValueError):
            continue
        if parent == process and b"spawn_main" in command:
            found.append(int(path.parent.name))
    return found


def start(source: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vocos_onnx", "batch", str(source), str(out), "--model", str(MODEL), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    for _ in range(round(seconds / 0.005)):
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError("it takes too long")


def lines(out: Path) -> int:
    path = out / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


LOST_ONE = (
    r"vocos-onnx: warning: a worker ended without a word \(killed by signal 9\): "
    r"(the item in work is|the \d items in work are) tried once more\n"
)
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")


@needs_proc
@pytest.mark.parametrize("options", [(), ("--format", "flac", "--shard-size", "40")], ids=["files", "shards"])
def test_three_kills(tmp_path: Path, options: tuple[str, ...]) -> None:
    """After killing a worker, the parent, and a worker again, every output exists with the same bytes."""
    source = write_items(tmp_path / "in", 200, 300)
    whole = start(source, tmp_path / "expected", *options)
    assert whole.communicate(timeout=100)[1] == ""
    assert whole.returncode == 0
    out = tmp_path / "out"
    first = start(source, out, "--workers", "2", *options)
    until(lambda: lines(out) > 20 and len(children(first.pid)) == 2)
    os.kill(children(first.pid)[0], signal.SIGKILL)
    until(lambda: lines(out) > 60)
    workers = children(first.pid)
    first.kill()
    stdout, stderr = first.communicate()
    assert (stdout, bool(re.fullmatch(LOST_ONE, stderr))) == ("", True), stderr
    assert lines(out) < 200
    until(lambda: not any(is_running(worker) for worker in workers))  # orphaned workers exit
    second = start(source, out, "--workers", "2", "--resume", *options)
    until(lambda: lines(out) > 110 and len(children(second.pid)) == 2)
    os.kill(children(second.pid)[1], signal.SIGKILL)
    stdout, stderr = second.communicate(timeout=100)
    assert second.returncode == 0
    assert re.fullmatch(LOST_ONE, stderr), stderr
    assert "200 of 200 items are done, " in stdout
    assert outputs(out) == outputs(tmp_path / "expected")
    assert sorted(set(journaled(out))) == [f"{n:04d}" for n in range(200)]
    assert not list(out.rglob(".vocos-*"))


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True])
def test_signals_end_it_at_once(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    """A signal stops the run at once, without partial files or a traceback, and it reports how many items are done.

    The workers may get the signal too, as from a terminal, or not.
    """
    source = write_items(tmp_path / "in", 200, 300)
    out = tmp_path / "out"
    process = start(source, out, "--workers", "2", *(["--json"] if group else []))
    until(lambda: lines(out) > 10)
    workers = children(process.pid)
    assert len(workers) == 2
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stdout, stderr = process.communicate(timeout=5)
    assert process.returncode == 128 + number
    told = re.fullmatch(
        r"vocos-onnx: interrupted: (\d+) of 200 items are done; go on with the same command and --resume\n", stderr
    )
    assert told is not None, stderr
    if group:
        summary = json.loads(stdout)
        assert (summary["items"], summary["done"], summary["failed"]) == (200, int(told[1]), 0)
    else:
        assert stdout == ""
    until(lambda: not any(is_running(worker) for worker in workers), 5)
    assert not list(out.rglob(".vocos-*"))
    done = lines(out) - 1
    assert int(told[1]) <= done <= int(told[1]) + 1  # an item is journaled before it is counted
    assert run(source, out, Settings.of("decode", model=MODEL), workers=2, resume=True).before == done


@needs_proc
def test_ctrl_c_in_a_program(tmp_path: Path) -> None:
    """Ctrl-C raises KeyboardInterrupt in the program, and the workers exit."""
    source = write_items(tmp_path / "in", 200, 300)
    out, script = tmp_path / "out", tmp_path / "script.py"
    script.write_text(f"""
from vocos_onnx.batch import Settings, run
if __name__ == "__main__":
    try:
        run({str(source)!r}, {str(out)!r}, Settings.of("decode", model={str(MODEL)!r}), workers=2)
    except KeyboardInterrupt:
        print("interrupted")
""")
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: lines(out) > 10)
        workers = children(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10) == (b"interrupted\n", b"")
        assert not any(is_running(worker) for worker in workers)
    assert not list(out.rglob(".vocos-*"))


@needs_proc
def test_an_item_that_kills_its_process_fails_alone(tmp_path: Path, decode: Settings) -> None:
    """An item that kills its worker, for example by using all memory, fails alone; all others are done."""
    source = write_items(tmp_path / "in", 30)
    script = tmp_path / "script.py"
    script.write_text(f"""
import os
from pathlib import Path
from vocos_onnx.batch import Settings, run, work

class Deadly(work.Worker):
    def do(self, item):
        if item.id in ("0007", "0021"):
            os._exit(9)
        return super().do(item)

from vocos_onnx.batch import local
local.Worker = Deadly  # in the workers too, which import this file

if __name__ == "__main__":
    summary = run({str(source)!r}, {str(tmp_path / "out")!r}, Settings.of("decode", model={str(MODEL)!r}), workers=2)
    print(summary.done, summary.failed, summary.replaced)
""")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=100)
    told = done.stderr.splitlines()
    assert done.stdout == f"28 2 {len(told)}\n"
    assert told.count("a worker ended without a word (exit code 9): the item in work has failed") == 2
    assert 3 <= len(told) <= 4  # both may have been in progress together
    reasons = errors(tmp_path / "out")
    assert sorted(reasons) == ["0007", "0021"]
    assert set(reasons.values()) == {"its process ended twice without a word: killed, out of memory, or crashed"}
    assert len(outputs(tmp_path / "out")) == 28
    assert run(source, tmp_path / "out", decode, workers=1, resume=True).done == 30


def test_items_that_all_kill_their_processes_end_the_job(tmp_path: Path) -> None:
    source = write_items(tmp_path / "in", 30)
    done = of_script(
        tmp_path / "script.py",
        f"""
import os
from vocos_onnx.batch import Settings, local, run, work

class Deadly(work.Worker):
    def do(self, item):
        os._exit(3)

local.Worker = Deadly  # in the workers too, which import this file

if __name__ == "__main__":
    try:
        run({str(source)!r}, {str(tmp_path / "out")!r}, Settings.of("decode", model={str(MODEL)!r}), workers=2)
    except RuntimeError as error:
        print(error)
""",
    )
    assert "5 items in a row have ended theirs twice" in done.stdout, done
    assert len(re.findall(r"^a worker ended without a word|^2 workers ended", done.stderr, re.M)) == 6, done.stderr
    assert outputs(tmp_path / "out") == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_script_without_a_guard(tmp_path: Path, workers: int) -> None:
    """A script without a __main__ guard gets the error at once, and no item is marked as failed."""
    source, out = write_items(tmp_path / "in", 3), tmp_path / "out"
    done = of_script(
        tmp_path / "script.py",
        f"""
from vocos_onnx.batch import Settings, run
run({str(source)!r}, {str(out)!r}, Settings.of("decode", model={str(MODEL)!r}), workers={workers})
print("it has come to its end")
""",
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == (
        "RuntimeError: the workers end while they start (exit code 1): a script that calls run needs "
        "if __name__ == '__main__': before that, as each worker imports the script; if it has that, what they have "
        "printed says why"
    )
    assert not (out / "errors.jsonl").exists()
    assert journaled(out) == []


def test_a_daemonic_process(tmp_path: Path) -> None:
    """A worker of multiprocessing.Pool cannot start processes and gets an error; one of concurrent.futures works."""
    source = write_items(tmp_path / "in", 3)
    done = of_script(
        tmp_path / "script.py",
        f"""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from vocos_onnx.batch import Settings, run

def job(out):
    return run({str(source)!r}, out, Settings.of("decode", model={str(MODEL)!r}), workers=1).done

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        try:
            pool.map(job, [{str(tmp_path / "a")!r}])
        except RuntimeError as error:
            print(error)
    with ProcessPoolExecutor(1, context) as pool:
        print(*pool.map(job, [{str(tmp_path / "b")!r}]))
""",
    )
    assert done.stdout == (
        "run was called in a daemonic process, such as a worker of multiprocessing.Pool, which cannot start processes: "
        "call it outside of the pool, which needs none (run has workers of its own), or in a process of "
        "concurrent.futures.ProcessPoolExecutor\n3\n"
    ), done


@needs_proc
def test_a_worker_that_is_told_to_end(tmp_path: Path) -> None:
    """If something else kills a worker with SIGTERM, the warning names the signal."""
    source, out = write_items(tmp_path / "in", 150, 400), tmp_path / "out"
    process = start(source, out, "--workers", "2")
    until(lambda: lines(out) > 10)
    os.kill(children(process.pid)[0], signal.SIGTERM)
    told = process.communicate(timeout=100)[1]
    assert process.returncode == 0, told
    assert re.search(
        r"^vocos-onnx: warning: a worker ended without a word \(killed by signal 15\): the ", told, re.M
    ), told
    assert len(journaled(out)) == 150


def test_a_model_that_is_gone_ends_the_job(tmp_path: Path) -> None:
    source = write_items(tmp_path / "in", 5)
    model = tmp_path / "model.onnx"
    shutil.copy(MODEL, model)
    settings = Settings.of("decode", model=model)
    model.unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        run(source, tmp_path / "out", settings, workers=2)
    assert outputs(tmp_path / "out") == {}


def test_ten_thousand_done_items_are_known_at_once(tmp_path: Path, decode: Settings) -> None:
    """Finished items are recognised without reading their files, and the engine is not started."""
    source = tmp_path / "in"
    source.mkdir()
    for n in range(10_000):
        (source / f"{n:05d}.npy").touch()

    def pretend(job: Settings, out: Path, items: Iterable[Item], workers: int | None) -> Generator[Row, None, None]:
        from vocos_onnx.batch.journal import FileState

        for item in items:
            (out / f"{item.id}.wav").touch()
            yield Row(item.id, "", FileState.of(item.path), f"{item.id}.wav", FileState.of(out / f"{item.id}.wav"), 1.0)

    assert run(source, tmp_path / "out", decode, engine=pretend).done == 10_000

    def never(job: Settings, out: Path, items: Iterable[Item], workers: int | None) -> Generator[Row, None, None]:
        raise AssertionError
        yield

    summary = run(Manifest(source), tmp_path / "out", decode, engine=never, resume=True)
    assert (summary.before, summary.done, summary.failed) == (10_000, 10_000, 0)
    assert len(journaled(tmp_path / "out")) == 10_000
