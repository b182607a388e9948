"""A job on segments of long recordings, as in NeMo's manifests, from the manifest to the outputs."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.helpers import DATA
from vocos_onnx.batch import Settings, Summary, run

ENCODER = DATA / "encoder.onnx"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"audio_filepath": "long.flac", **row}) + "\n" for row in rows))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 24_000)
    soundfile.write(tmp_path / "long.flac", audio, 24_000)
    return tmp_path


@pytest.mark.parametrize("shard_size", [None, 2])
def test_a_segment_that_is_another_now_is_done_again(folder: Path, shard_size: int | None) -> None:
    rows: list[dict[str, Any]] = [{"id": f"{n}", "offset": n, "duration": 1.0} for n in range(4)]
    settings = Settings.of("encode", encoder=ENCODER, bandwidth=1.5, shard_size=shard_size)
    path, out = write(folder / "m.json", rows), folder / "out"

    def again() -> Summary:
        return run(path, out, settings, workers=1, resume=True)

    def outputs() -> dict[str, bytes]:
        if shard_size is None:
            return {file.name: file.read_bytes() for file in out.glob("*.npz")}
        found = {}
        for shard in sorted(out.glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    assert file is not None
                    found[member.name] = file.read()
        return found

    first = again()
    assert (first.done, first.failed, round(first.hours * 3600, 6)) == (4, 0, 4.0)
    made = outputs()
    assert len(set(made.values())) == 4
    assert again().before == 4
    rows[1]["offset"], rows[3]["duration"] = 1.5, 2.0
    write(path, rows)
    changed = again()
    assert (changed.done, changed.before, round(changed.hours * 3600, 6)) == (4, 2, 3.0)
    assert {name for name, data in outputs().items() if data != made[name]} == {"1.npz", "3.npz"}
    assert again().before == 4
    journal = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    segments = {row["id"]: (row.get("offset"), row.get("duration")) for row in journal if "id" in row}
    assert segments == {"0": (None, 1.0), "1": (1.5, 1.0), "2": (2.0, 1.0), "3": (3.0, 2.0)}


def test_segments_that_fail_can_be_told_apart(folder: Path) -> None:
    rows: list[dict[str, Any]] = [{"offset": 1.0, "duration": 1.0}, {"offset": 7.0, "duration": 1.0}]
    settings = Settings.of("encode", encoder=ENCODER, bandwidth=1.5)
    summary = run(write(folder / "m.json", rows), folder / "out", settings, workers=1)
    assert (summary.done, summary.failed) == (1, 1)
    (error,) = [json.loads(line) for line in (folder / "out" / "errors.jsonl").read_text().splitlines()]
    assert (error["id"], error["offset"], error["duration"]) == ("long_7000_8000", 7.0, 1.0)
    assert error["error"].endswith("its segment begins at 7 s, and the file ends at 5 s")
