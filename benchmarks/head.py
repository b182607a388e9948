"""Where exp, cos and sin of the ISTFT head should be: in the graph, as they are, or in numpy after it.

    python benchmarks/head.py [--threads 1 2] [--seconds 1 10 60]

Measures features -> complex spectrum of the official encodec geometry with random weights. The workers, the rounds and
the dropping of disturbed rounds are those of decode.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from decode import BANDWIDTH_ID, FRAMES_PER_SECOND, Contender, measure, print_machine, serve, table

N_FFT = 1280
GRAPH, NUMPY = "in the graph", "in numpy"


def export_graphs(folder: Path) -> None:
    import onnx
    import torch

    from vocos_onnx.config import EncodecFeatures, ModelConfig, Source
    from vocos_onnx_export.graph import fold_layer_scale, trace
    from vocos_onnx_export.modules import ISTFTHead, Vocos, VocosBackbone

    torch.manual_seed(0)
    model = Vocos(VocosBackbone(128, 384, 1152, 8, adanorm_num_embeddings=4), ISTFTHead(384, N_FFT, 320)).eval()
    model.head.out.weight.data *= 3  # magnitudes over several octaves, phases of several radians
    fold_layer_scale(model)
    raw = Vocos(model.backbone, model.head.out).eval()
    encodec = EncodecFeatures("encodec_24khz", 16, 1024, (1.5, 3.0, 6.0, 12.0), (2, 4, 8, 16), "")
    config = ModelConfig(24000, "istft", N_FFT, 320, "same", False, 128, 4, encodec, None, Source("", "", "", ""))
    for name, variant in ((GRAPH, model), (NUMPY, raw)):
        onnx.save(trace(variant, config, None), folder / f"{name}.onnx")


def load(name: str, folder: Path, threads: int) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[], str]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, threads
    session = ort.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])

    def spectrum(features: np.ndarray) -> np.ndarray:
        inputs = {
            "features": features,
            "past_features": np.zeros((1, 128, 3), np.float32),
            "past": np.zeros((8, 1, 384, 3), np.float32),
            "mask": np.ones((8, 1, features.shape[2]), np.float32),
            "bandwidth_id": np.array(BANDWIDTH_ID),
        }
        (out,) = session.run(["spectrum"], inputs)
        if name == GRAPH:
            return out.view(np.complex64)[..., 0]
        magnitude, phase = np.minimum(np.exp(out[..., : N_FFT // 2 + 1]), 100), out[..., N_FFT // 2 + 1 :]
        result = np.empty(phase.shape, np.complex64)
        np.multiply(magnitude, np.cos(phase), out=result.real)
        np.multiply(magnitude, np.sin(phase), out=result.imag)
        return result

    return spectrum, lambda: ""


def make_features(seconds: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, 128, round(seconds * FRAMES_PER_SECOND)), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1, 10, 60], help="lengths of audio")
    parser.add_argument("--rounds", type=int, default=15, help="rounds for each length; a third above 20 s")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        name, folder = args.worker
        return serve(lambda: load(name, Path(folder), args.threads[0]), make_features)
    print_machine("onnxruntime", "numpy")
    print("ratio: seconds with exp, cos and sin in the graph / own seconds, by round")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export_graphs(folder)
        print("timing", file=sys.stderr, flush=True)
        for threads in args.threads:
            print(f"\n{threads} thread{'s' * (threads > 1)}")
            pair = [Contender(n, __file__, "--worker", n, folder, "--threads", threads) for n in (GRAPH, NUMPY)]
            for seconds in args.seconds:
                for contender in pair:
                    contender(seconds, 0, folder / f"{contender.name}.npy")
                one, other = (np.load(folder / f"{contender.name}.npy") for contender in pair)
                assert np.abs(one - other).max() <= 1e-5 * np.abs(one).max()
                rounds = args.rounds if seconds <= 20 else max(1, args.rounds // 3)
                table(measure(pair, seconds, rounds, 10 if seconds < 5 else 2), GRAPH, seconds)
            for contender in pair:
                contender.close()


if __name__ == "__main__":
    main()
