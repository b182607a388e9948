"""What int8 and float16 cost on the bundled models: against float32, and against recordings."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.bench import Bench
from benchmarks.results import Row, Section, Table, rounded

if TYPE_CHECKING:
    from vocos_onnx import EncodecONNX, VocosONNX


def run(bench: Bench) -> Section:
    files = sorted(bench.settings.clips.glob("speech_*")) if bench.settings.clips else []
    files = files[:1] if bench.settings.quick else files
    rows = bench.current.ask("benchmarks.sections.quality", bench.settings.threads, *files)
    text = (
        "SNR and PESQ-WB against float32 as the file carries them, on the bundled speech; the loss of PESQ-WB against "
        f"{len(files)} recordings, among which is that speech, with tokens of each bandwidth of the bundled codec."
    )
    return Section("int8 and half precision", text, {"bundled": Table("the bundled models", rows)})


def score(threads: int, files: list[Path]) -> dict[str, Row]:
    from vocos_onnx import EncodecONNX, VocosONNX, load_audio
    from vocos_onnx.evaluate.metrics import pesq_wb
    from vocos_onnx.model.bundled import CODEC, MEL
    from vocos_onnx_export import quantize

    encoder = EncodecONNX(threads=threads)
    rows: dict[str, Row] = {}
    for name in (CODEC, MEL):
        original = VocosONNX(name)
        for precision in ("int8", "float16"):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                quality = quantize(name, path, precision=precision, report=lambda line: None).quality
                variant, size = VocosONNX(path), path.stat().st_size / 1e6
            assert quality is not None and quality.pesq_wb is not None
            row: Row = {
                "MB": rounded(size),
                "SNR, dB": rounded(quality.snr_db),
                "PESQ-WB to float32": rounded(quality.pesq_wb),
            }
            before, after = [], []
            for file in files:
                audio = load_audio(file, 24_000)
                for given in _given(original, encoder, audio):
                    scores = [pesq_wb(*_same_length(audio, v.decode(given)), 24_000) for v in (original, variant)]
                    before.append(scores[0])
                    after.append(scores[1])
            if files:
                loss = np.subtract(before, after)
                row["float32's PESQ-WB"] = rounded(float(np.mean(before)))
                row["loss, mean"] = rounded(float(loss.mean()))
                row["loss, worst clip"] = rounded(float(loss.max()))
            rows[f"{name}, {precision}"] = row
    return rows


def _given(vocos: VocosONNX, encoder: EncodecONNX, audio: np.ndarray) -> Iterator[np.ndarray]:
    if vocos.config.encodec is None:
        yield vocos.features(audio, 24_000)
    else:
        tokens = encoder.encode(audio, 24_000, 12.0)
        yield from (tokens[:count] for count in vocos.config.encodec.codebooks_per_bandwidth)


def _same_length(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    length = min(len(one), len(other))
    return one[:length], other[:length]


if __name__ == "__main__":
    print(json.dumps(score(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]])))
