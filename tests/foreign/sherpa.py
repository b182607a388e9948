"""python -m tests.foreign.sherpa: decodes files of ``--format sherpa`` with sherpa-onnx itself.

Needs sherpa-onnx 2.0.1, torch and onnx. The checkpoints have random weights; an acoustic model that always returns the
same mels stands in for a text-to-speech system. sherpa-onnx must give VocosONNX's audio of these mels; with ``same``
padding, that audio without hop_length / 2 samples at each end. sherpa-onnx bundles its own onnxruntime, so it runs in a
separate process.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.checkpoints import random_weights, write_vocoder
from vocos_onnx import VocosONNX
from vocos_onnx.arrays import Float
from vocos_onnx.cli import main
from vocos_onnx.dsp.stft import hann_window

TOLERANCE = 1e-5  # of the peak
MIN_SNR_DB = 20.0  # for int8
LENGTHS = (2, 3, 28, 300)  # frames; a centred inverse STFT gives no samples for one
CONFIG = """\
feature_extractor:
  class_path: vocos.feature_extractors.MelSpectrogramFeatures
  init_args: {{sample_rate: {rate}, n_fft: {n_fft}, hop_length: {hop}, n_mels: {n_mels}, padding: {padding}}}
backbone:
  class_path: vocos.models.VocosBackbone
  init_args: {{input_channels: {n_mels}, dim: 512, intermediate_dim: 1536, num_layers: 8}}
head:
  class_path: vocos.heads.ISTFTHead
  init_args: {{dim: 512, n_fft: {n_fft}, hop_length: {hop}, padding: {padding}}}
"""
CENTER = {"rate": 24_000, "n_mels": 100, "n_fft": 1024, "hop": 256, "padding": "center"}
SAME = {"rate": 22_050, "n_mels": 80, "n_fft": 1024, "hop": 256, "padding": "same"}
ODD = {"rate": 22_050, "n_mels": 80, "n_fft": 1002, "hop": 300, "padding": "center"}  # no graph for it is bundled
# name, skeleton with matching weights, arguments of the config, command, options
CASES: list[tuple[str, str, dict[str, Any], str, list[str]]] = [
    ("center, convert", "vocos-mel-24khz", CENTER, "convert", []),
    ("same, convert", "vocos-mel-22khz", SAME, "convert", []),
    ("same, export", "vocos-mel-22khz", SAME, "export", []),
    ("300 of 1002, export", "vocos-mel-22khz", ODD, "export", []),
    ("same, export, int8", "vocos-mel-22khz", SAME, "export", ["--int8"]),
]


def run(*arguments: object) -> None:
    assert main([*map(str, arguments)]) == 0, arguments


def checkpoint(folder: Path, skeleton: str, arguments: dict[str, Any]) -> Path:
    """A checkpoint with the weights of a geometry; the head's, for an n_fft of 1024, are cut to the given n_fft."""
    weights, n_fft = random_weights(skeleton), arguments["n_fft"]
    head = {name: weights[name][: n_fft + 2] for name in ("head.out.weight", "head.out.bias")}
    return write_vocoder(
        folder, {**weights, **head, "head.istft.window": hann_window(n_fft)}, CONFIG.format(**arguments)
    )


def acoustic_model(mels: Float, rate: int) -> onnx.ModelProto:
    """A Matcha-TTS model that returns these mels for any text."""
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.INT64, [1, "tokens"]),
        helper.make_tensor_value_info("x_length", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("noise_scale", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("length_scale", TensorProto.FLOAT, [1]),
    ]
    output = helper.make_tensor_value_info("mel", TensorProto.FLOAT, list(mels.shape))
    node = helper.make_node("Constant", [], ["mel"], value=numpy_helper.from_array(mels))
    graph = helper.make_graph([node], "acoustic", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    entries = {"sample_rate": rate, "n_speakers": 1, "use_eos_bos": 0, "pad_id": 0, "jieba": 1}
    helper.set_model_props(model, {key: str(value) for key, value in entries.items()})
    return model


def play(vocoder: str, folder: Path) -> None:
    """Save the audio of each acoustic model in a folder as an array beside it."""
    tts: Any = importlib.import_module("sherpa_onnx")
    (folder / "tokens.txt").write_text("_ 0\na 1\nb 2\n")
    (folder / "lexicon.txt").write_text("ab a b\n")
    for acoustic in sorted(folder.glob("*.onnx")):
        matcha = tts.OfflineTtsMatchaModelConfig(
            acoustic_model=str(acoustic),
            vocoder=vocoder,
            lexicon=str(folder / "lexicon.txt"),
            tokens=str(folder / "tokens.txt"),
        )
        config = tts.OfflineTtsConfig(model=tts.OfflineTtsModelConfig(matcha=matcha), silence_scale=1.0)
        audio = tts.OfflineTts(config).generate("ab", sid=0, speed=1.0)
        np.save(acoustic.with_suffix(".npy"), np.asarray(audio.samples, np.float32))


def played(vocoder: Path, mels: list[Float], rate: int, folder: Path) -> Iterator[Float]:
    """sherpa-onnx's audio for each of the mels (1, n_mels, T)."""
    folder.mkdir()
    for one in mels:
        onnx.save(acoustic_model(one, rate), folder / f"{one.shape[2]}.onnx")
    subprocess.run([sys.executable, "-m", "tests.foreign.sherpa", str(vocoder), str(folder)], check=True)
    for one in mels:
        yield np.load(folder / f"{one.shape[2]}.npy")


def check(folder: Path) -> bool:
    rng, passed = np.random.default_rng(0), True
    for i, (name, skeleton, arguments, command, options) in enumerate(CASES):
        given = checkpoint(folder / f"{i}-checkpoint", skeleton, arguments)
        ours, theirs = folder / f"{i}-ours.onnx", folder / f"{i}-theirs.onnx"
        run(command, given, "-o", ours)
        run(command, given, "-o", theirs, "--format", "sherpa", *options)
        vocos, hop = VocosONNX(ours), arguments["hop"]
        mels = [rng.uniform(-8, 2, (1, arguments["n_mels"], frames)).astype(np.float32) for frames in LENGTHS]
        for one, audio in zip(mels, played(theirs, mels, arguments["rate"], folder / f"{i}"), strict=True):
            expected = vocos.decode(one)[0]
            if arguments["padding"] == "same":
                expected = expected[hop // 2 : -hop // 2]
            assert audio.shape == expected.shape == ((one.shape[2] - 1) * hop,), (name, audio.shape, expected.shape)
            peak, error = float(np.abs(expected).max()), audio - expected
            assert expected.std() > 0.01, (name, expected.std())
            snr = 10 * np.log10(np.square(expected).sum() / np.square(error).sum())
            relative = float(np.abs(error).max()) / peak
            ok = snr >= MIN_SNR_DB if "--int8" in options else relative <= TOLERANCE
            passed = passed and ok
            line = f"{name}, {one.shape[2]} frames: peak {peak:.2f}, largest difference {relative:.1e} of it"
            print(f"{line}, SNR {snr:.1f} dB{'' if ok else ': FAILED'}", flush=True)
    return passed


if __name__ == "__main__":
    if len(sys.argv) == 3:
        play(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            sys.exit(0 if check(Path(temporary)) else 1)
