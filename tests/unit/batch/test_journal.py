"""The journal: reading it back, torn lines, other jobs, other processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import DATA
from vocos_onnx.batch.job import Settings
from vocos_onnx.batch.journal import FileState, Journal, Row, Shard
from vocos_onnx.batch.manifest import Item

STATE = FileState("ab" * 32, 5, 17)
ROW = Row("a", "", STATE, "a.wav", STATE, 1.5, ("loud",))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.of("decode", model=DATA / "encodec.onnx")


def records(out: Path, settings: Settings) -> list[Row | Shard]:
    with Journal(out, settings, True) as journal:
        return [record for _, record in journal.records()]


def test_what_is_written_is_read(tmp_path: Path, settings: Settings) -> None:
    shard = Shard(3, STATE, ("a", "b"))
    failed = Row.failed(Item(0, "c", Path("/data/c.npz"), 5), "no good")
    with Journal(tmp_path / "new" / "out", settings, False) as journal:
        for record in (ROW, shard, failed):
            journal.add(record)
    out = tmp_path / "new" / "out"
    assert json.loads((out / "errors.jsonl").read_text()) == {"id": "c", "path": "/data/c.npz", "error": "no good"}
    with Journal(out, settings, True) as journal:
        assert [record for _, record in journal.records()] == [ROW, shard]
        assert journal.row_at(next(place for place, _ in journal.records())) == ROW

    assert records(out, settings) == [ROW, shard]


def test_errors_of_earlier_runs_stay_until_the_end(tmp_path: Path, settings: Settings) -> None:
    """Errors of earlier runs stay listed until a run ends, since an interrupted run has not retried all of them."""

    def failed() -> list[str]:
        return [json.loads(line)["id"] for line in (tmp_path / "errors.jsonl").read_text().splitlines()]

    path = tmp_path / "errors.jsonl"
    with Journal(tmp_path, settings, False) as journal:
        journal.add(ROW)
        for id in "ab":
            journal.add(Row.failed(Item(0, id, Path("/x.npz"), 5), "no good"))
        journal.end()
    with path.open("ab") as file:
        file.write(b'{"id": "c", "pa')  # torn
    with Journal(tmp_path, settings, True) as journal:
        journal.add(Row.failed(Item(0, "b", Path("/x.npz"), 5), "no good"))
    assert failed() == ["a", "b", "b"]
    with Journal(tmp_path, settings, True) as journal:
        journal.add(Row.failed(Item(0, "a", Path("/x.npz"), 5), "no good"))
        journal.end()
        assert failed() == ["a"]
    with Journal(tmp_path, settings, True) as journal:
        assert failed() == ["a"]
        journal.end()
    assert not path.exists()


def test_a_journal_that_is_deleted_meanwhile(tmp_path: Path, settings: Settings) -> None:
    with Journal(tmp_path, settings, False) as journal:
        (tmp_path / "journal.jsonl").unlink()
        with pytest.raises(RuntimeError, match="deleted while the job ran"):
            journal.end()


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_torn_line_is_cut(tmp_path: Path, settings: Settings, cut: int) -> None:
    with Journal(tmp_path, settings, False) as journal:
        journal.add(ROW)
        journal.add(ROW)
    path = tmp_path / "journal.jsonl"
    data = path.read_bytes()
    path.write_bytes(data[:-cut])
    assert records(tmp_path, settings) == [ROW]
    with Journal(tmp_path, settings, True) as journal:
        journal.add(ROW)
    assert path.read_bytes() == data


def test_a_disk_that_fills(tmp_path: Path, settings: Settings) -> None:
    """A full disk raises one OSError, and no complete line is lost."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = 0
    with Journal(tmp_path, settings, False) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                while True:
                    journal.add(ROW)
                    written += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "journal.jsonl").stat().st_size == 2000
    assert written > 2
    assert records(tmp_path, settings) == [ROW] * written


def test_a_torn_first_line(tmp_path: Path, settings: Settings) -> None:
    Journal(tmp_path, settings, False).close()
    path = tmp_path / "journal.jsonl"
    data = path.read_bytes()
    for length in (0, 1, len(data) - 1):
        path.write_bytes(data[:length])
        assert records(tmp_path, settings) == []
        assert path.read_bytes() == data


def test_a_damaged_line_says_nothing(tmp_path: Path, settings: Settings) -> None:
    with Journal(tmp_path, settings, False) as journal:
        journal.add(ROW)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'nonsense\n{}\n[]\n7\n{"id": "b"}\n{"shard": "x"}\n\xff\n')
    with Journal(tmp_path, settings, True) as journal:
        journal.add(ROW)
    assert records(tmp_path, settings) == [ROW, ROW]


def test_another_job_is_refused(tmp_path: Path, settings: Settings) -> None:
    with Journal(tmp_path, settings, False) as journal:
        journal.add(ROW)
    before = (tmp_path / "journal.jsonl").read_bytes()
    flac = Settings.of("decode", model=DATA / "encodec.onnx", format="flac")
    int8 = Settings.of("decode", model=DATA / "encodec-int8.onnx")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds another job.*format is 'flac' here and 'wav' there; name a new"):
            Journal(tmp_path, flac, resume)
        with pytest.raises(ValueError, match=r"model is encodec-int8\.onnx \(.*\) here and encodec\.onnx \("):
            Journal(tmp_path, int8, resume)
    with pytest.raises(ValueError, match="holds a job of these settings: pass resume=True to go on with it"):
        Journal(tmp_path, settings, False)
    assert (tmp_path / "journal.jsonl").read_bytes() == before
    assert records(tmp_path, settings) == [ROW]


def test_models_of_a_journal_without_names(tmp_path: Path, settings: Settings) -> None:
    """For a journal of an older version, without model names, errors show the model's sha256."""
    with Journal(tmp_path, settings, False) as journal:
        journal.add(ROW)
    path = tmp_path / "journal.jsonl"
    first, *rows = path.read_text().splitlines()
    header = json.loads(first)
    assert header.pop("names") == {"model": "encodec.onnx"}
    path.write_text("".join(line + "\n" for line in (json.dumps(header), *rows)))
    int8 = Settings.of("decode", model=DATA / "encodec-int8.onnx")
    with pytest.raises(
        ValueError, match=r"model is encodec-int8\.onnx \(.*\) here and the file of sha256 \w{12}\.\.\. th"
    ):
        Journal(tmp_path, int8, True)
    assert records(tmp_path, settings) == [ROW]


def test_a_job_in_which_nothing_is_done_is_begun_anew(tmp_path: Path, settings: Settings) -> None:
    """After a job with no finished item, other settings may use the folder; outputs of two jobs are never mixed."""
    failed = Row.failed(Item(0, "c", Path("/data/c.npz"), 5), "no good")
    flac = Settings.of("decode", model=DATA / "encodec.onnx", format="flac")
    with Journal(tmp_path, settings, False) as journal:
        journal.add(failed)
    path = tmp_path / "journal.jsonl"
    (tmp_path / ".items").mkdir()
    (tmp_path / ".vocos-0123").mkdir()  # as left by a killed process
    (tmp_path / ".vocos-0123" / "a.wav").touch()
    for resume, torn in ((True, ""), (False, '{"id": "a", "input": {"sha')):
        for each in (flac, settings):
            with path.open("a") as file:
                file.write(torn)
            Journal(tmp_path, each, resume).close()
            assert json.loads(path.read_text())["settings"] == each.described()
            assert not (tmp_path / "errors.jsonl").exists()
    for name in ("a.wav", ".items/a.flac"):
        (tmp_path / name).touch()
        with pytest.raises(ValueError, match=r"holds another job.*format is 'flac' here and 'wav' there"):
            Journal(tmp_path, flac, True)
        (tmp_path / name).unlink()
    with Journal(tmp_path, flac, True) as journal:
        journal.add(ROW)
    with pytest.raises(ValueError, match="holds another job"):
        Journal(tmp_path, settings, True)


def test_folders_that_are_none_of_a_job(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file"):
        Journal(tmp_path / "file", settings, True)
    for resume in (False, True):
        with pytest.raises(ValueError, match="holds file, and no journal of a job: name a new or an empty folder"):
            Journal(tmp_path, settings, resume)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "journal.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match="is no journal of vocos-onnx batch"):
        Journal(tmp_path / "other", settings, True)
    (tmp_path / "other" / "journal.jsonl").write_text('{"vocos-onnx batch": 99, "settings": {}}\n')
    with pytest.raises(ValueError, match="has version 99 of the journal, and this vocos-onnx reads version 1"):
        Journal(tmp_path / "other", settings, True)


def test_one_process_at_a_time(tmp_path: Path, settings: Settings) -> None:
    code = f"""
import sys
from pathlib import Path
from vocos_onnx.batch.job import Settings
from vocos_onnx.batch.journal import Journal
journal = Journal(Path({str(tmp_path)!r}), Settings.of("decode", model={str(DATA / "encodec.onnx")!r}), True)
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RuntimeError, match="another process works on"):
            Journal(tmp_path, settings, True)
        other.kill()
        other.wait()
    assert records(tmp_path, settings) == []
