"""Compares batches on an NVIDIA GPU with upstream on the same GPU: python -m benchmarks.gpu

Decodes tokens on the host to audio on the host, with the official encodec geometry and random weights, 1 x 10 s, 16 x 1
s and 64 x 10 s: upstream Vocos in torch, eager and compiled, and this package with the inverse STFT in numpy and in the
graph, in float32 (without TF32) and in half precision. Each contender must first reproduce upstream's audio, within
1e-3 of its peak in float32; for half precision the SNR is printed. For the timing see harness.py.

    pip install torch && pip install ".[gpu,export]" && pip install --no-deps torchaudio vocos encodec

With --device cpu it runs anywhere, for a trial.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Case, Contender, Decode, Turn, difference, measure, processor, serve, versions
from benchmarks.render import table_lines
from benchmarks.results import timed

CODEBOOKS, BANDWIDTH_ID, RATE = 8, 2, 75
SHAPES = ((1, 10.0), (16, 1.0), (64, 10.0))  # items, seconds
EAGER = "torch eager float32"
CONTENDERS = (
    EAGER, "torch eager float16", "torch.compile float32", "torch.compile float16", "vocos-onnx float32",
    "vocos-onnx float16", "vocos-onnx float32, graph", "vocos-onnx float16, graph",
)  # fmt: skip
TOLERANCE = 1e-3  # of the peak
PACKAGES = ("vocos", "torch", "onnxruntime-gpu", "onnxruntime", "numpy", "vocos-onnx")


def load_torch(name: str, folder: Path, device: str) -> tuple[Decode[np.ndarray], Callable[[], str]]:
    import torch

    from tests.parity.upstream import CONFIGS, build

    torch.backends.cudnn.allow_tf32 = False  # as by default for matrix products, and in all of our code
    model: Any = build(CONFIGS["encodec"])
    model.load_state_dict(torch.load(folder / "pytorch_model.bin"), strict=False)  # the file has no encodec weights
    model.to(device)
    bandwidth_id = torch.tensor([BANDWIDTH_ID], device=device)
    half = "float16" in name

    def network(features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.float16, enabled=half):
            hidden = model.backbone(features, bandwidth_id=bandwidth_id)
        return model.head(hidden.float())

    run = torch.compile(network, dynamic=False) if "compile" in name else network

    @torch.inference_mode()
    def decode(given: np.ndarray) -> np.ndarray:
        return run(model.codes_to_features(torch.from_numpy(given).to(device))).cpu().numpy()

    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    return decode, lambda: f"on {where}{', backbone by autocast' if half else ''}"


def load_ours(name: str, folder: Path, device: str) -> tuple[Decode[np.ndarray], Callable[[], str]]:
    from vocos_onnx import VocosONNX

    vocos = VocosONNX(folder / file_of(name), providers=[device])
    return lambda given: vocos.decode(given, BANDWIDTH_ID), lambda: f"on {', '.join(vocos.providers)}"


def file_of(name: str) -> str:
    return f"{'graph' if 'graph' in name else 'numpy'}-{'float16' if 'float16' in name else 'float32'}.onnx"


def make_checkpoint(folder: Path) -> None:
    from tests.parity.upstream import CONFIGS, build, save
    from vocos_onnx_export import export

    save(build(CONFIGS["encodec"]), CONFIGS["encodec"], folder)
    for name in CONTENDERS:
        if name.startswith("vocos-onnx"):
            istft, precision = file_of(name).removesuffix(".onnx").split("-")
            export(str(folder), folder / file_of(name), istft=istft, precision=precision, report=lambda line: None)


def start(folder: Path, device: str, items: int, seconds: float) -> list[Contender]:
    """Starts the contenders, and compares each with upstream."""
    contenders: list[Contender] = []
    expected = None
    for name in CONTENDERS:
        try:
            contender = Contender(name, "benchmarks.gpu", "--worker", name, folder, device, items)
            contender(Case(seconds, streams=items), 0, folder / "audio.npy")
        except RuntimeError as error:
            if name == EAGER:
                raise SystemExit(f"{name}, which all are compared with, fails: {error}") from None
            print(f"- {name}: absent ({error})", flush=True)
            continue
        audio = np.load(folder / "audio.npy")
        expected = audio if expected is None else expected
        peak, snr = difference(audio, expected)
        if "float32" in name and not peak <= TOLERANCE:
            raise SystemExit(f"{name} differs from upstream by {peak:.1e} of the peak")
        print(f"- {name}: {contender.note}; within {peak:.0e} of the peak, SNR {snr:.0f} dB", flush=True)
        contenders.append(contender)
    return contenders


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calls", type=int, default=10, help="timed calls of a round")
    parser.add_argument("--shapes", nargs="+", metavar="ITEMSxSECONDS", default=[f"{n}x{s:g}" for n, s in SHAPES])
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, folder, device, items = args.worker
        load = load_ours if name.startswith("vocos-onnx") else load_torch

        def make_input(case: Case) -> np.ndarray:
            sizes = (CODEBOOKS, int(items), round(case.seconds * RATE))
            return np.random.default_rng(0).integers(1024, size=sizes)

        serve(lambda: load(name, Path(folder), device), make_input)
        return
    print(", ".join(f"{package} {version}" for package, version in versions(*PACKAGES).items()))
    print(processor(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        make_checkpoint(Path(temporary))
        for shape in args.shapes:
            items, seconds = shape.split("x")
            print(f"\n{items} x {seconds} s", flush=True)
            contenders = start(Path(temporary), args.device, int(items), float(seconds))
            try:
                case = Case(float(seconds), streams=int(items))
                measured = measure([Turn(c.name, c, case, args.calls) for c in contenders], args.rounds)
                print(*table_lines(timed(shape, measured, EAGER, {}, args.calls)), sep="\n", flush=True)
            finally:
                for contender in contenders:
                    contender.close()


if __name__ == "__main__":
    main()
