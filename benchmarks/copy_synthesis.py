"""Seconds from a recording to EnCodec tokens, and on to audio: torch (encodec and vocos) and this package.

    python -m benchmarks.copy_synthesis [--threads 2] [--seconds 1 10 60]

Both take the same noise, have the same weights (random, of official geometry), compute in float32 on the same number of
threads, and must give the same tokens, near-ties aside, and the same audio before anything is timed. "encode" is the
encoder and the residual quantiser at 6 kbps, "resynth" that and the vocoder. How it is timed: benchmarks/harness.py.
Needs the packages vocos, encodec and torch.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Contender, Decode, arguments, print_machine, serve, time_all

BANDWIDTH, RATE = 6.0, 24_000
TORCH, OURS = "torch, encodec + vocos", "vocos-onnx"
TASKS = ("encode", "resynth")
# A code that rounding tipped to the other of two equally near entries changes all that follow it in its frame, and
# with random weights its sound.
EQUAL_TOKENS, TOLERANCE = 0.999, 1e-3


def make_audio(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def build_upstream() -> Any:
    """A vocos.Vocos with the whole EnCodec in it, whose codebooks are as large as what is left to quantise."""
    import torch

    from tests.parity.upstream import CONFIGS, build

    model = build(CONFIGS["encodec"])
    encodec = model.feature_extractor.encodec.eval()
    with torch.inference_mode():
        residual = encodec.encoder(torch.from_numpy(make_audio(4))[None, None])[0].T.clone()
        for layer in encodec.quantizer.vq.layers:
            codebook = layer._codebook  # noqa: SLF001  encodec has no other way to quantise by one of its tables
            picks = residual[torch.randint(len(residual), (1024,))]
            codebook.embed.copy_(picks + 0.5 * residual.std() * torch.randn_like(picks))
            residual = residual - codebook.embed[codebook.quantize(residual)]
        table = torch.cat([layer.codebook for layer in encodec.quantizer.vq.layers[:16]])
        model.feature_extractor.codebook_weights.data.copy_(table)
    return model


def load_torch(folder: Path, threads: int, task: str) -> tuple[Decode, Callable[[], str]]:
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

    called = "EncodecFeatures.get_encodec_codes" if task == "encode" else "Vocos.__call__"
    return {"encode": encode, "resynth": resynth}[task], lambda: f"{called}, {torch.get_num_threads()} threads"


def load_ours(folder: Path, threads: int, task: str) -> tuple[Decode, Callable[[], str]]:
    from vocos_onnx import EncodecONNX, VocosONNX

    options: dict[str, Any] = {"threads": threads, "providers": ["CPUExecutionProvider"]}
    encoder = EncodecONNX(folder / "encoder.onnx", **options)
    if task == "encode":
        return lambda audio: encoder.encode(audio, RATE, BANDWIDTH), lambda: f"EncodecONNX.encode, {threads} threads"
    vocos = VocosONNX(folder / "model.onnx", encoder=encoder, **options)
    return lambda audio: vocos(audio, RATE, bandwidth=BANDWIDTH), lambda: f"VocosONNX.__call__, {threads} threads"


def start(folder: Path, threads: int, task: str, lengths: list[float]) -> list[Contender]:
    contenders: list[Contender] = []
    results: list[list[np.ndarray]] = []
    for name in (TORCH, OURS):
        contender = Contender(name, "benchmarks.copy_synthesis", "--worker", name, task, folder, "--threads", threads)
        results.append([])
        for seconds in lengths:
            contender(seconds, 0, folder / "result.npy")
            results[-1].append(np.load(folder / "result.npy"))
        contenders.append(contender)
        print(f"  {name:24} {contender.note}")
    for seconds, expected, given in zip(lengths, *results, strict=True):
        if given.shape != expected.shape:
            raise SystemExit(f"{task} gives {given.shape}, not {expected.shape}, at {seconds:g} s")
        if task == "encode":
            equal = float(np.mean(given == expected))
            print(f"  {seconds:g} s: {100 * equal:.3f} % of {given.size} tokens equal")
            bad = not equal >= EQUAL_TOKENS
        else:
            difference = np.abs(given - expected) / np.abs(expected).max()
            share = float(np.mean(difference > TOLERANCE))
            print(
                f"  {seconds:g} s: median difference {np.median(difference):.1e} of the peak, {100 * share:.2f} % above"
            )
            bad = not share < 0.01
        if bad:
            raise SystemExit(f"{task} differs from torch at {seconds:g} s")
    print()
    return contenders


def main() -> None:
    args = arguments(__doc__, rounds=12, worker=3)
    if args.worker:
        name, task, folder = args.worker
        load = load_torch if name == TORCH else load_ours
        return serve(lambda: load(Path(folder), args.threads, task), make_audio)

    import torch

    from tests.parity.upstream import CONFIGS, save
    from vocos_onnx_export import export, export_encodec

    print_machine("vocos", "encodec", "torch", "onnxruntime", "numpy", "vocos-onnx")
    print(f"{args.threads} threads for each, float32; ratio: seconds of torch / own seconds, by round\n")
    with tempfile.TemporaryDirectory() as name:
        model = build_upstream()
        folder = save(model, CONFIGS["encodec"], Path(name))
        torch.save(model.state_dict(), folder / "whole.pt")
        torch.save(model.feature_extractor.encodec.state_dict(), folder / "encodec.th")
        export(str(folder), folder / "model.onnx", report=lambda line: None)
        export_encodec(str(folder / "encodec.th"), folder / "encoder.onnx", report=lambda line: None)
        for task in TASKS:
            print(task)
            contenders = start(folder, args.threads, task, args.seconds)
            time_all(contenders, args.seconds, args.rounds, (8, 4, 2), args.pause)


if __name__ == "__main__":
    main()
