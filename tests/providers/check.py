"""Compare models, streams and encoders on one execution provider with stored results of another, such as the CPU.

    python tests/providers/check.py CPUExecutionProvider --write expected.npz         # with the package onnxruntime
    python tests/providers/check.py OpenVINOExecutionProvider --against expected.npz  # with onnxruntime-openvino

It needs only the dependencies of vocos-onnx and an onnxruntime with the provider.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vocos_onnx import EncodecONNX, VocosONNX
from vocos_onnx.__main__ import main as command_line

DATA = Path(__file__).resolve().parents[1] / "data"
TOLERANCE = 1e-5  # of the peak
LENGTHS = (1, 2, 7, 60, 750)
MODELS = ("encodec", "mel", "imdct-symexp", "imdct-cos", "mel-istft", "imdct-cos-istft")
ENCODERS = ("encoder", "encoder-spectrum")
INT8 = ("encodec-int8", "mel-int8")
Outputs = Iterator[tuple[str, np.ndarray]]


def model(path: str | Path, provider: str) -> Outputs:
    vocos, rng = VocosONNX(path, providers=[provider]), np.random.default_rng(0)
    assert vocos.providers[0] == provider, vocos.providers

    def given(*shape: int) -> np.ndarray:
        if vocos.config.encodec is not None:
            return rng.integers(vocos.config.encodec.codebook_size, size=(vocos.num_codebooks, *shape))
        return (rng.normal(size=(*shape[:-1], vocos.config.feature_channels, shape[-1])) - 1).astype(np.float32)

    items = [given(length) for length in LENGTHS]
    for item in items:
        yield f"decode {item.shape[-1]}", vocos.decode(item)
    yield "list", np.concatenate(vocos.decode(items))
    yield "batch", vocos.decode(given(3, 50))
    yield "long", vocos.decode(given(4000))
    with ThreadPoolExecutor(4) as pool:
        yield "threads", np.concatenate(list(pool.map(vocos.decode, items * 3)))
    if vocos.delay:
        stream = vocos.stream()
        for chunk in (1, 8, 25):
            audio = [stream.push(items[-1][:, start : start + chunk]) for start in range(0, LENGTHS[-1], chunk)]
            yield f"stream {chunk}", np.concatenate([*audio, stream.flush()])
            stream.reset()


def encoder(path: str | Path, provider: str) -> Outputs:
    encoder, rng = EncodecONNX(path, providers=[provider]), np.random.default_rng(0)
    assert encoder.providers[0] == provider, encoder.providers
    rate, most = encoder.sample_rate, encoder.bandwidths[-1]
    for samples in (1, 319, 320, 321, 5000, 500 * encoder.hop_length + 7):
        audio = rng.normal(0, 0.1, samples).astype(np.float32)
        yield f"embed {samples}", encoder.embed(audio, rate)
        yield f"encode {samples}", encoder.encode(audio, rate, most)
        blocks = encoder.encode_stream([audio[:1000], audio[1000:]], rate, most, chunk=50)
        yield f"stream {samples}", np.concatenate(list(blocks), axis=1)


def outputs(provider: str, folder: Path) -> Outputs:
    """All outputs by name. Models of format 4 use the names of today's and so must give the same outputs."""
    sources: list[tuple[Callable[[str | Path, str], Outputs], str, str | Path]] = [
        (model, stem, unclipped(DATA / f"{stem}.onnx", folder)) for stem in MODELS
    ]
    sources += [(model, stem, unclipped(DATA / "format-4" / f"{stem}.onnx", folder)) for stem in MODELS]
    sources += [(encoder, stem, data / f"{stem}.onnx") for data in (DATA, DATA / "format-4") for stem in ENCODERS]
    sources += [(model, name, name) for name in ("vocos-codec-24khz", "vocos-mel-24khz-small")]
    sources += [(encoder, "vocos-codec-24khz-encoder", "vocos-codec-24khz-encoder")]
    for kind, name, path in sources:
        for what, array in kind(path, provider):
            yield f"{name}: {what}", array


def unclipped(path: Path, folder: Path) -> Path:
    """A copy of a model that does not clip; audio clipped to 1 would have the rounding errors of larger values."""
    copy = folder / f"{path.parent.name}-{path.name}"
    copy.write_bytes(path.read_bytes().replace(b'"clip_audio": true', b'"clip_audio":false'))
    return copy


def difference(given: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference relative to the peak; for tokens, the fraction that differs."""
    assert (given.dtype, given.shape) == (expected.dtype, expected.shape), (given.shape, expected.shape)
    if given.dtype == np.int64:
        return float((given != expected).mean())
    return float(np.abs(given - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30))


def check_int8(provider: str) -> None:
    """int8 models run on the CPU and raise an error on any other provider."""
    for path in (data / f"{stem}.onnx" for data in (DATA, DATA / "format-4") for stem in INT8):
        assert VocosONNX(path).providers == ["CPUExecutionProvider"]
        try:
            VocosONNX(path, providers=[provider])
        except ValueError as error:
            assert "is in int8, for the CPU, and providers is" in str(error), error
        else:
            raise AssertionError(f"{path} was opened on {provider}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("provider")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--write", type=Path)
    way.add_argument("--against", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # about features that are not mels
    with tempfile.TemporaryDirectory() as folder:
        if args.write:
            np.savez(args.write, **dict(outputs(args.provider, Path(folder))))  # type: ignore[arg-type]
            return 0
        worst: dict[str, float] = {}
        with np.load(args.against) as expected:
            names = set()
            for name, array in outputs(args.provider, Path(folder)):
                names.add(name)
                stem = name.partition(":")[0]
                worst[stem] = max(worst.get(stem, 0), difference(array, expected[name]))
            assert names == set(expected), names ^ set(expected)
    check_int8(args.provider)
    for stem, value in worst.items():
        print(f"{stem}: {value:.1e}")
    sys.argv = ["vocos-onnx", "info", "vocos-codec-24khz", "--provider", args.provider]
    assert not command_line()
    return 1 if max(worst.values()) > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())
