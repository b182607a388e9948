"""The contenders. Each runs in a process of its own: benchmarks/worker.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.bench import Bench
from benchmarks.harness import Case, Contender, difference

GEOMETRIES = {"encodec": 75, "mel-center": 93.75}  # frames per second
BANDWIDTH_ID, CODEBOOKS = 2, 8  # 6 kbps
CHUNK = 8  # frames pushed into a stream at a time
TOLERANCE = 1e-3  # of the peak
EAGER, EAGER_BFLOAT16 = "torch eager", "torch eager, bfloat16 autocast"
COMPILED, COMPILED_BFLOAT16 = "torch.compile", "torch.compile, bfloat16 autocast"
DYNAMIC = "torch dynamic int8"
OPENVINO, OPENVINO_DEFAULT = "OpenVINO float32", "OpenVINO, default precision"
OPENVINO_INT8, OPENVINO_INT8_DEFAULT = "OpenVINO int8 (NNCF)", "OpenVINO int8 (NNCF), default precision"
STREAMING_VOCOS = "streaming-vocos"
OURS, INT8 = "vocos-onnx float32", "vocos-onnx int8"
OLD, OLD_INT8 = "0.4.0 float32", "0.4.0 int8"
FLOAT32_PEERS = (EAGER, COMPILED, OPENVINO)
PEERS = (
    EAGER, EAGER_BFLOAT16, COMPILED, COMPILED_BFLOAT16, DYNAMIC, OPENVINO, OPENVINO_DEFAULT, OPENVINO_INT8,
    OPENVINO_INT8_DEFAULT,
)  # fmt: skip
VERSIONS = (OLD, OLD_INT8, OURS, INT8)
AGAINST = {OURS: OLD, INT8: OLD_INT8}
EXACT = (*FLOAT32_PEERS, OLD, OURS)  # these must reproduce upstream's audio; for the others the SNR is reported


@dataclass(frozen=True)
class Field:
    """The contenders that have started, and for each a note, or the reason why it did not start."""

    contenders: dict[str, Contender]
    notes: dict[str, str]


@contextmanager
def started(bench: Bench, geometry: str, wanted: Mapping[str, Sequence[Case]]) -> Iterator[Field]:
    """Starts contenders, warms them up in each of their cases, and compares their audio with upstream's.

    A contender that fails in any case is left out. Ends the program if one that computes in float32 differs. Closes all
    of them afterwards.
    """
    field = Field({}, {})
    saved = bench.folder / "audio.npy"
    expected: dict[Case, np.ndarray] = {}
    try:
        upstream = field.contenders[EAGER] = _start(bench, geometry, EAGER)
        for case in {_of_upstream(case): None for cases in wanted.values() for case in cases}:
            upstream(case, 0, saved)
            expected[case] = np.load(saved)
        field.notes[EAGER] = upstream.note
        for name, cases in wanted.items():
            if name == EAGER:
                continue
            try:
                contender = field.contenders[name] = _start(bench, geometry, name)
                differences = []
                for case in cases:
                    contender(case, 0, saved)
                    if name != STREAMING_VOCOS:  # it differs at the chunk edges
                        differences.append(difference(np.load(saved), expected[_of_upstream(case)]))
                field.notes[name] = contender.note + _compared(name, differences)
            except RuntimeError as error:
                field.contenders.pop(name, None)
                field.notes[name] = f"absent ({error})"
            print(f"- {name}: {field.notes[name]}", flush=True)
        yield field
    finally:
        for contender in field.contenders.values():
            contender.close()


def _start(bench: Bench, geometry: str, name: str) -> Contender:
    folder = bench.models(geometry)
    arguments = (name, geometry, folder, "--threads", bench.settings.threads)
    return Contender(name, "benchmarks.worker", *arguments, environment=bench.version(name).environment)


def _of_upstream(case: Case) -> Case:
    """The corresponding case for upstream, which has no streams: it returns the same audio."""
    return replace(case, cut="whole", streams=1) if case.cut in ("chunks", "pool") else case


def _compared(name: str, differences: list[tuple[float, float]]) -> str:
    if not differences:
        return ""
    peak, ratio = max(peak for peak, _ in differences), min(snr for _, snr in differences)
    if name not in EXACT:
        return f"; SNR {ratio:.0f} dB"
    if not peak <= TOLERANCE:
        raise SystemExit(f"{name} differs from upstream by {peak:.1e} of the peak")
    return f"; within {peak:.0e} of the peak"
