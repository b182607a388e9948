"""Each kind of job on Ray gives the outputs, journal rows and errors of the local engine."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.batch_ray.progress import begun, journal, wait_until
from tests.helpers import DATA, tone
from vocos_onnx import VocosONNX, save_tokens
from vocos_onnx.batch import Settings, Summary, run
from vocos_onnx.batch.journal import Row
from vocos_onnx.batch.manifest import Manifest
from vocos_onnx.batch.ray_engine import rows, through_ray
from vocos_onnx.io.files import STAGED

MODEL, ENCODER = DATA / "encodec.onnx", DATA / "encoder.onnx"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files of tokens; the third names no codec, and the fifth is damaged."""
    folder = tmp_path_factory.mktemp("tokens")
    rng, vocos = np.random.default_rng(0), VocosONNX(MODEL)
    for index in range(10):
        path, codes = folder / f"{index}.npz", rng.integers(1024, size=(2, 20 + 7 * index))
        if index == 2:
            np.save(path.with_suffix(".npy"), codes)
        elif index == 4:
            path.write_bytes(b"PK" + bytes(100))
        else:
            save_tokens(path, codes, vocos)
    return folder


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings; the second's channels cancel each other, the third is loud, and the fourth is damaged."""
    folder = tmp_path_factory.mktemp("recordings")
    for index in range(6):
        audio = tone(220 + 50 * index, 24_000)[: 4000 + 3001 * index]
        if index == 1:
            audio = np.stack([audio, -audio], axis=1)
        if index == 2:
            audio = 3 * audio
        soundfile.write(folder / f"{index}.wav", audio, 24_000, "FLOAT")
    (folder / "3.wav").write_bytes(b"RIFF" + bytes(100))
    return folder


@pytest.fixture(scope="module")
def segments(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of segments of those recordings, one of them from the damaged file."""
    manifest = tmp_path_factory.mktemp("segments") / "segments.jsonl"
    rows = [("a", 5, 0.1, 0.2), ("b", 5, 0.35, 0.25), ("c", 4, 0, 0.3), ("d", 1, 0.05, 0.3), ("e", 3, 0.1, 0.2)]
    manifest.write_text(
        "".join(
            json.dumps({"id": id, "audio_filepath": f"{recordings}/{n}.wav", "offset": offset, "duration": duration})
            + "\n"
            for id, n, offset, duration in rows
        )
    )
    return manifest


PAIR: dict[str, Any] = {"encoder": ENCODER, "bandwidth": 1.5}
JOBS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "tokens to audio": ("tokens", "decode", {"model": MODEL, "format": "flac"}),
    "tokens to tar files": ("tokens", "decode", {"model": MODEL, "shard_size": 4}),
    "audio to tokens": ("recordings", "encode", PAIR),
    "segments to tokens": ("segments", "encode", PAIR),
    "audio to audio in tar files": ("recordings", "resynth", {"model": MODEL, **PAIR, "shard_size": 4}),
}


def state(out: Path) -> tuple[dict[str, bytes], list[Any], list[Any]]:
    """The outputs, the sorted journal without the outputs' mtimes, and the sorted errors."""
    outputs = {
        path.name: path.read_bytes() for path in out.iterdir() if path.suffix in (".flac", ".wav", ".npz", ".tar")
    }
    lines = journal(out)
    for line in lines:
        del line["output"]["mtime_ns"]
    errors = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    return outputs, sorted(lines, key=json.dumps), sorted(errors, key=json.dumps)


def counts(summary: Summary) -> tuple[int, ...]:
    return summary.items, summary.done, summary.before, summary.failed, summary.warned


@pytest.mark.parametrize("name", list(JOBS))
def test_all_is_as_the_local_engine_makes_it(
    connection: Any, request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    kind, task, options = JOBS[name]
    source, settings = request.getfixturevalue(kind), Settings.of(task, **options)
    local = run(source, tmp_path / "local", settings, workers=1)
    found = run(source, tmp_path / "ray", settings, engine=through_ray())
    assert counts(found) == counts(local)
    assert found.failed == 1
    assert found.warned >= 1
    assert found.hours == pytest.approx(local.hours, rel=1e-12)
    assert state(tmp_path / "ray") == state(tmp_path / "local")
    names = {path.name for path in (tmp_path / "ray").iterdir()}
    assert names == {path.name for path in (tmp_path / "local").iterdir()}


def test_closing_ends_the_work(connection: Any, tmp_path: Path) -> None:
    """The actors exit while the connection stays open; the next run deletes their partial files."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for index in range(40):
        save_tokens(tmp_path / "in" / f"{index}.npz", np.zeros((8, 750), int), VocosONNX())
    items = iter(Manifest(tmp_path / "in"))
    with closing(rows(Settings.of("decode"), tmp_path / "out", items)) as found:
        assert isinstance(next(found), Row)
        processes = {entry["process"] for entry in begun(tmp_path / "out")}
    assert processes
    assert wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes), 30)
    left = [path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(STAGED)]
    assert {Path(name).suffix for name in left} == {".wav"}
    assert connection.is_initialized()


@pytest.mark.parametrize("name", ["tokens to audio", "tokens to tar files"])
def test_an_input_that_is_gone_deletes_nothing(connection: Any, tokens: Path, tmp_path: Path, name: str) -> None:
    """Outputs of an earlier run stay, and are not recomputed once the inputs are back."""
    _, task, options = JOBS[name]
    source, out, settings = tmp_path / "in", tmp_path / "out", Settings.of(task, **options)
    source.mkdir()
    with (tmp_path / "corpus.jsonl").open("w") as manifest:
        for path in sorted(tokens.glob("[5-9].npz")):
            (source / path.name).write_bytes(path.read_bytes())
            manifest.write(json.dumps({"path": f"in/{path.name}"}) + "\n")
    assert run(tmp_path / "corpus.jsonl", out, settings, workers=1).done == 5

    def outputs() -> dict[str, tuple[bytes, int]]:
        paths = [path for path in out.iterdir() if path.suffix in (".flac", ".tar")]
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    before = outputs()
    (source / "6.npz").rename(tmp_path / "6.npz")
    (source / "8.npz").write_bytes(b"")
    found = run(tmp_path / "corpus.jsonl", out, settings, engine=through_ray(), resume=True)
    assert (found.done, found.failed) == (3, 2)
    errors = {row["id"]: row["error"] for row in map(json.loads, (out / "errors.jsonl").read_text().splitlines())}
    assert sorted(errors) == ["6", "8"]
    assert errors["6"] == f"no file {source / '6.npz'}"
    assert outputs() == before

    for number in "68":
        (source / f"{number}.npz").write_bytes((tokens / f"{number}.npz").read_bytes())
    found = run(tmp_path / "corpus.jsonl", out, settings, engine=through_ray(), resume=True)
    assert (found.done, found.failed) == (5, 0)
    assert outputs() == before
    assert not (out / "errors.jsonl").exists()
