"""Seconds from a recording to EnCodec tokens, and on to audio: torch (encodec and vocos), 0.4.0 and this version.

All take the same noise, have the same weights (random, of official geometry), compute in float32 on the same number of
threads, and must give the same tokens, near-ties aside, and the same audio before anything is timed.

    python -m benchmarks.sections.encoder NAME TASK FOLDER THREADS

is a contender's process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.harness import Case, Contender, Decode, Turn, measure, serve
from benchmarks.results import Section, Table, timed
from benchmarks.versions import CURRENT, OLD

BANDWIDTH, RATE = 6.0, 24_000
TORCH = "torch, encodec + vocos"
TASKS = {"encode": "audio to tokens: the encoder and the residual quantiser", "resynth": "audio to tokens, and back"}
LENGTHS = (1, 10, 60)  # seconds
# A code that rounding tipped to the other of two equally near entries changes all that follow it in its frame, and
# with random weights its sound.
EQUAL_TOKENS, TOLERANCE = 0.999, 1e-3


def run(bench: Bench) -> Section:
    settings, folder = bench.settings, bench.folder / "whole"
    lengths = LENGTHS[:2] if settings.quick else LENGTHS
    bench.current.ask("benchmarks.sections.encoder", "checkpoint", folder)
    for version in (bench.current, bench.old):
        version.ask("benchmarks.sections.encoder", "export", folder, version.name)
    tables, notes = dict[str, Table](), dict[str, str]()
    for task, title in TASKS.items():
        contenders: list[Contender] = []
        try:
            for name in (TORCH, OLD, CURRENT):
                arguments = (name, task, folder, settings.threads)
                environment = bench.version(name).environment
                contenders.append(Contender(name, "benchmarks.sections.encoder", *arguments, environment=environment))
            compared = _compare(contenders, task, lengths, bench.folder / "result.npy")
            for contender in contenders:
                notes[f"{contender.name}, {task}"] = contender.note + compared.get(contender.name, "")
                print(f"- {contender.name}, {task}: {notes[f'{contender.name}, {task}']}", flush=True)
            for seconds in lengths:
                rounds = settings.rounds if seconds <= 20 else max(2, settings.rounds // 3)
                calls = 8 if seconds < 5 else 4 if seconds <= 20 else 2
                turns = [Turn(contender.name, contender, Case(seconds), calls) for contender in contenders]
                measured = measure(turns, rounds, settings.pause)
                tables[f"{task} {seconds} s"] = timed(f"{title}: {seconds} s", measured, TORCH, {CURRENT: OLD}, calls)
        finally:
            for contender in contenders:
                contender.close()
    return Section("The EnCodec encoder", "EnCodec 24 kHz at 6 kbps, float32, of noise.", tables, notes)


def _compare(contenders: list[Contender], task: str, lengths: tuple[int, ...], saved: Path) -> dict[str, str]:
    """By name, how far from the first of the contenders. Ends the program if one is too far."""
    compared: dict[str, str] = {}
    results: dict[str, list[np.ndarray]] = {}
    for contender in contenders:
        results[contender.name] = []
        for seconds in lengths:
            contender(Case(seconds), 0, saved)
            results[contender.name].append(np.load(saved))
    expected = results.pop(TORCH)
    for name, given in results.items():
        if [part.shape for part in given] != [part.shape for part in expected]:
            raise SystemExit(f"{task} of {name} gives {given[0].shape}, not {expected[0].shape}")
        if task == "encode":
            equal = min(float(np.mean(a == b)) for a, b in zip(given, expected, strict=True))
            compared[name], bad = f"; {100 * equal:.3f} % of the tokens equal", not equal >= EQUAL_TOKENS
        else:
            both = [np.abs(a - b) / np.abs(b).max() for a, b in zip(given, expected, strict=True)]
            median = max(float(np.median(part)) for part in both)
            share = max(float(np.mean(part > TOLERANCE)) for part in both)
            compared[name] = f"; median difference {median:.0e} of the peak, {100 * share:.2f} % above {TOLERANCE:g}"
            bad = not share < 0.01
        if bad:
            raise SystemExit(f"{task} of {name} differs from torch{compared[name]}")
    return compared


def make_audio(case: Case) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(case.seconds * RATE)).astype(np.float32)


def build_upstream() -> Any:
    """A vocos.Vocos with the whole EnCodec in it, whose codebooks are as large as what is left to quantise."""
    import torch

    from tests.parity.upstream import CONFIGS, build

    model = build(CONFIGS["encodec"])
    encodec = model.feature_extractor.encodec.eval()
    with torch.inference_mode():
        residual = encodec.encoder(torch.from_numpy(make_audio(Case(4)))[None, None])[0].T.clone()
        for layer in encodec.quantizer.vq.layers:
            codebook = layer._codebook  # noqa: SLF001  encodec has no other way to quantise by one of its tables
            picks = residual[torch.randint(len(residual), (1024,))]
            codebook.embed.copy_(picks + 0.5 * residual.std() * torch.randn_like(picks))
            residual = residual - codebook.embed[codebook.quantize(residual)]
        table = torch.cat([layer.codebook for layer in encodec.quantizer.vq.layers[:16]])
        model.feature_extractor.codebook_weights.data.copy_(table)
    return model


def make_checkpoint(folder: Path) -> None:
    import torch

    from tests.parity.upstream import CONFIGS, save

    model = build_upstream()
    save(model, CONFIGS["encodec"], folder)
    torch.save(model.state_dict(), folder / "whole.pt")
    torch.save(model.feature_extractor.encodec.state_dict(), folder / "encodec.th")


def export_both(folder: Path, version: str) -> None:
    from vocos_onnx_export import export, export_encodec

    (folder / version).mkdir()
    export(str(folder), folder / version / "model.onnx", report=lambda line: None)
    export_encodec(str(folder / "encodec.th"), folder / version / "encoder.onnx", report=lambda line: None)


def load_torch(task: str, folder: Path, threads: int) -> tuple[Decode[np.ndarray], Callable[[], str]]:
    import torch

    torch.set_num_threads(threads)
    model = build_upstream()
    model.load_state_dict(torch.load(folder / "whole.pt"))
    features, bandwidth_id = model.feature_extractor, torch.tensor([2])
    features.encodec.set_target_bandwidth(BANDWIDTH)

    @torch.inference_mode()
    def encode(audio: np.ndarray) -> np.ndarray:
        return features.get_encodec_codes(torch.from_numpy(audio)[None])[:, 0].numpy()

    @torch.inference_mode()
    def resynth(audio: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(audio)[None], bandwidth_id=bandwidth_id)[0].numpy()

    if task == "encode":
        return encode, lambda: "EncodecFeatures.get_encodec_codes"
    return resynth, lambda: "Vocos.__call__"


def load_ours(name: str, task: str, folder: Path, threads: int) -> tuple[Decode[np.ndarray], Callable[[], str]]:
    from vocos_onnx import EncodecONNX, VocosONNX

    options: dict[str, Any] = {"threads": threads, "providers": ["CPUExecutionProvider"]}
    encoder = EncodecONNX(folder / name / "encoder.onnx", **options)
    if task == "encode":
        return lambda audio: encoder.encode(audio, RATE, BANDWIDTH), lambda: "EncodecONNX.encode"
    vocos = VocosONNX(folder / name / "model.onnx", encoder=encoder, **options)
    return lambda audio: vocos(audio, RATE, bandwidth=BANDWIDTH), lambda: "VocosONNX.__call__"


def main() -> None:
    match sys.argv[1:]:
        case ["checkpoint", folder]:
            make_checkpoint(Path(folder))
            print(json.dumps(None))
        case ["export", folder, version]:
            export_both(Path(folder), version)
            print(json.dumps(None))
        case [name, task, folder, threads]:
            if name == TORCH:
                serve(lambda: load_torch(task, Path(folder), int(threads)), make_audio)
            else:
                serve(lambda: load_ours(name, task, Path(folder), int(threads)), make_audio)


if __name__ == "__main__":
    main()
