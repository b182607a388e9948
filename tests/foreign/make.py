"""Make .onnx files in the layouts of other projects' exporters, from real vocos modules with random weights.

Run in an environment with the extras [export] and the packages vocos, encodec and torchaudio:
    python -m tests.foreign.make FOLDER            in the geometry of the real files, about 50 MB each
    python -m tests.foreign.make tests/data/foreign --tiny

Beside each PATH.onnx is PATH.npz with mels of several lengths and torch's audio for them: mels_N is (B, n_mels, N)
whatever the graph's axes, and audio_N is the result of the layout's own inverse transform, one item at a time. For a
graph of one static length, audio_N of a shorter N is the trimmed audio of zero-padded mels. The files in the folder
"refused" have no .npz: the package does not read those layouts.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
import yaml
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from tests.parity.upstream import Vocos, build, head, mel, strengthen


class Geometry(NamedTuple):
    sample_rate: int
    n_mels: int
    dim: int = 512
    intermediate_dim: int = 1536
    num_layers: int = 8
    n_fft: int = 1024
    hop_length: int = 256


BSC = Geometry(22050, 80)
STOCK = Geometry(24000, 100)
TINY = Geometry(8000, 8, 16, 24, 2, 64, 16)
STATIC, TINY_STATIC = 2048, 64  # frames


class Spectrum(nn.Module):
    """The common layout: (B, n_mels, T) -> mag, x, y."""

    def __init__(self, vocos: Vocos) -> None:
        super().__init__()
        self.backbone, self.out = vocos.backbone, vocos.head.out

    def forward(self, mels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mag, phase = self.out(self.backbone(mels)).transpose(1, 2).chunk(2, dim=1)
        return torch.clip(torch.exp(mag), max=1e2), torch.cos(phase), torch.sin(phase)


class Transposed(Spectrum):
    """(B, T, n_mels) -> mag, x, y."""

    def forward(self, mels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return super().forward(mels.transpose(1, 2))


class Convolved(Spectrum):
    """The inverse STFT as one transposed convolution: T frames give (T-1)*hop samples, as in torch.istft."""

    basis: Tensor
    square: Tensor

    def __init__(self, vocos: Vocos) -> None:
        super().__init__(vocos)
        inverse = vocos.head.istft
        self.n_fft, self.hop = inverse.n_fft, inverse.hop_length
        bins = torch.eye(self.n_fft // 2 + 1, dtype=torch.complex64)
        basis = torch.fft.irfft(torch.cat([bins, 1j * bins]), self.n_fft)  # a real and an imaginary row per bin
        self.register_buffer("basis", (basis * inverse.window)[:, None])
        self.register_buffer("square", inverse.window.square()[None, None])

    def added(self, mels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the overlap-added frames (B, 1, N) and the overlap-added squared window (1, 1, N)."""
        mag, x, y = super().forward(mels)
        audio = nn.functional.conv_transpose1d(torch.cat([mag * x, mag * y], 1), self.basis, stride=self.hop)
        ones = mag.new_ones(1, 1, mag.size(-1))
        return audio, nn.functional.conv_transpose1d(ones, self.square, stride=self.hop)

    def forward(self, mels: Tensor) -> Tensor:  # type: ignore[override]
        audio, square = self.added(mels)
        return (audio / square.clamp(min=1e-8))[:, 0, self.n_fft // 2 : -(self.n_fft // 2)]


class ConvSTFT(Convolved):
    """The export of F5-TTS for Triton, with conv_stft's inverse: T frames give T*hop samples, one hop more than istft.

    The audio is divided by the squared window where that is not zero. Upstream finds those places for a batch of one,
    and so divides only the first item of a batch.
    """

    identity: Tensor

    def __init__(self, vocos: Vocos) -> None:
        super().__init__(vocos)
        self.register_buffer("identity", torch.eye(self.n_fft)[:, None])

    def forward(self, mels: Tensor) -> Tensor:  # type: ignore[override]
        audio, _ = self.added(mels)
        repeated = self.square.transpose(1, 2).repeat(1, 1, mels.size(-1))
        square = nn.functional.conv_transpose1d(repeated, self.identity, stride=self.hop)
        start, end = self.n_fft // 2, self.n_fft // 2 + mels.size(-1) * self.hop
        audio, square = audio[..., start:end], square[..., start:end]
        places = torch.where(square > 1e-8)
        audio[places] = audio[places] / square[places]
        return audio.squeeze(dim=1)


class WaveNext(nn.Module):
    """The WaveNext head: two linear layers to hop samples per frame, clipped; (B, n_mels, T) -> (B, T*hop)."""

    def __init__(self, vocos: Vocos) -> None:
        super().__init__()
        self.backbone, inverse = vocos.backbone, vocos.head.istft
        self.linear_1 = nn.Linear(vocos.head.out.in_features, inverse.n_fft + 2)
        self.linear_2 = nn.Linear(inverse.n_fft + 2, inverse.hop_length, bias=False)
        self.linear_2.weight.data *= 0.3  # otherwise most samples would be clipped

    def forward(self, mels: Tensor) -> Tensor:
        x = self.linear_2(self.linear_1(self.backbone(mels)))
        return torch.clip(x.view(x.size(0), -1), min=-1.0, max=1.0)


class F5Decode(Convolved):
    """The decode graph of F5-TTS-ONNX: (1, T, n_mels) and the length of the prompt -> audio in int16."""

    def forward(self, denoised: Tensor, ref_signal_len: Tensor) -> Tensor:  # type: ignore[override]
        audio = super().forward(denoised[:, ref_signal_len:].transpose(1, 2))
        return (audio.clamp(-1, 1) * 32767).to(torch.int16)


class Codes(Convolved):
    """Stands in for the decoders of WavTokenizer and NeuCodec: codes (1, T) -> (1, N), or (B, 1, T) -> (B, 1, N).

    Both have attention over all frames before the backbone, the only one of their extra layers that this has.
    """

    def __init__(self, vocos: Vocos) -> None:
        super().__init__(vocos)
        self.codebook = nn.Embedding(64, vocos.backbone.input_channels)

    def forward(self, codes: Tensor) -> Tensor:  # type: ignore[override]
        x = self.codebook(codes[:, 0] if codes.ndim == 3 else codes)
        x = torch.softmax(x @ x.transpose(1, 2), -1) @ x
        audio = super().forward(x.transpose(1, 2))
        return audio[:, None] if codes.ndim == 3 else audio


@dataclass(frozen=True)
class Layout:
    """One file. ``inputs`` and ``outputs`` are names for the exporter, which makes up its own if there are none."""

    path: str
    geometry: Geometry = STOCK
    padding: str = "center"
    network: Callable[[Vocos], nn.Module] = Spectrum
    opset: int = 17
    inputs: str | None = "mels"
    outputs: tuple[str, ...] = ("mag", "x", "y")
    dynamo: bool = False
    static: bool = False  # one item, one length
    dynamic_outputs: bool = True  # whether the outputs are exported with dynamic axes
    metadata: Mapping[str, str] = field(default_factory=dict)
    beside: str = ""  # a file with the settings: config.yaml, or the model's name with .json appended


SHERPA = {
    "model_type": "vocos", "sample_rate": "22050", "version": "1", "n_fft": "1024", "hop_length": "256",
    "win_length": "1024", "window_type": "hann", "center": "1", "pad_mode": "reflect", "normalized": "0",
}  # fmt: skip
WAVE = ("waveform",)
LAYOUTS = [
    Layout("bsc/mel_spec_22khz_univ.onnx", BSC, "same", opset=15, beside="config.yaml"),
    Layout("vocos-22khz-univ.onnx", BSC, "same", opset=15, metadata=SHERPA),
    Layout(
        "vocos-16khz-univ.onnx",
        BSC._replace(sample_rate=16000),
        opset=13,
        metadata={"model_type": "matcha-tts vocos", "sample_rate": "16000"},
    ),
    Layout("vocos_24khz.onnx", metadata={**SHERPA, "sample_rate": "24000"}),
    Layout("wetdog/mel_spec_24khz.onnx", opset=18, beside="config.yaml"),
    Layout(
        "three-keys.onnx",
        opset=18,
        metadata={"version": "1", "sample_rate": "24000", "n_fft": "1024", "hop_length": "256"},
    ),
    Layout("phoonnx.onnx", BSC, beside="phoonnx.onnx.json"),
    Layout("chattts.onnx", inputs=None, outputs=(), static=True),
    Layout("f5-triton.onnx", network=ConvSTFT, inputs="mel", outputs=WAVE),
    Layout("istft.onnx", network=Convolved, inputs="mel", outputs=WAVE),
    Layout(
        "wavenext/mel_spec_22khz_wavenext.onnx",
        BSC,
        "same",
        network=WaveNext,
        opset=16,
        outputs=WAVE,
        dynamic_outputs=False,
        beside="config.yaml",
    ),
    Layout("transposed.onnx", network=Transposed),
    Layout("transposed-static.onnx", network=Transposed, static=True),
    Layout("opset-20.onnx", opset=20),
    Layout("dynamo-18.onnx", opset=18, dynamo=True),
    Layout("dynamo-20.onnx", opset=20, dynamo=True),
    Layout("dynamo-static.onnx", opset=18, dynamo=True, static=True),
    Layout("dynamo-wavenext.onnx", BSC, "same", network=WaveNext, opset=18, dynamo=True, outputs=WAVE),
    Layout("dynamo-istft.onnx", network=Convolved, opset=20, dynamo=True, outputs=WAVE),
]


def config_of(geometry: Geometry, padding: str) -> dict[str, Any]:
    """Returns the config of the checkpoint that the file is made from."""
    rate, n_mels, dim, intermediate, layers, n_fft, hop = geometry
    backbone = {"input_channels": n_mels, "dim": dim, "intermediate_dim": intermediate, "num_layers": layers}
    return {
        "feature_extractor": mel(hop, n_fft, n_mels, padding, rate),
        "backbone": {"class_path": "vocos.models.VocosBackbone", "init_args": backbone},
        "head": head("ISTFTHead", dim=dim, n_fft=n_fft, hop_length=hop, padding=padding),
    }


@cache
def vocos(geometry: Geometry, padding: str) -> Vocos:
    model = build(config_of(geometry, padding))
    strengthen(model)
    return model


def settings(layout: Layout, geometry: Geometry) -> str:
    """Returns the text of the file beside the model."""
    f_max = min(8000, geometry.sample_rate // 2)
    if layout.beside.endswith(".json"):
        return json.dumps({
            "vocoder_type": "vocos", "n_fft": geometry.n_fft, "hop_length": geometry.hop_length,
            "sample_rate": geometry.sample_rate, "num_mels": geometry.n_mels, "fmin": 0, "fmax": f_max,
        })  # fmt: skip
    config = config_of(geometry, layout.padding)
    if geometry.sample_rate == BSC.sample_rate:
        config["feature_extractor"]["init_args"] |= {
            "f_min": 0,
            "f_max": f_max,
            "norm": "slaney",
            "mel_scale": "slaney",
        }
    if layout.network is WaveNext:
        config["head"]["class_path"] = "vocos.heads.WaveNextHead"
    return str(yaml.safe_dump(config))


def export(network: nn.Module, given: tuple[Tensor, ...], path: Path, layout: Layout) -> None:
    names: dict[str, Any] = {"output_names": list(layout.outputs)} if layout.outputs else {}
    names |= {"input_names": [layout.inputs]} if layout.inputs else {}
    frames = 1 if isinstance(network, Transposed) else 2
    axes: dict[str, Any] = {}
    if layout.dynamo and not layout.static:
        axes = {"dynamic_shapes": {"mels": {0: torch.export.Dim("batch"), frames: torch.export.Dim("time", min=2)}}}
    elif layout.inputs and not layout.static:
        axes = {"dynamic_axes": {layout.inputs: {0: "batch", frames: "time"}}}
        if layout.dynamic_outputs:
            last = {1: "samples"} if layout.outputs == WAVE else {2: "time"}
            axes["dynamic_axes"] |= {name: {0: "batch", **last} for name in layout.outputs}
    export_as(network, given, path, opset_version=layout.opset, dynamo=layout.dynamo, **names, **axes)
    if layout.metadata:
        proto = onnx.load(path)
        onnx.helper.set_model_props(proto, dict(layout.metadata))
        onnx.save(proto, path)


def export_as(network: nn.Module, given: tuple[Tensor, ...], path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if options["dynamo"]:  # one file, as people publish it
        options |= {"external_data": False, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), given, str(path), **options)


def golden(layout: Layout, model: Vocos, network: nn.Module, static: int) -> dict[str, np.ndarray]:
    """Returns mels of several lengths and torch's audio for them."""
    lengths = (static, 50 if static > 64 else 20) if layout.static else (2, 31, 130) if static > 64 else (2, 31)
    hop, generator = model.head.istft.hop_length, torch.Generator().manual_seed(1)
    tensors: dict[str, Tensor] = {}
    for frames in lengths:
        batch = 2 if frames == 31 else 1
        mels = torch.randn((batch, model.backbone.input_channels, frames), generator=generator) * 2 - 1
        longer = nn.functional.pad(mels, (0, static - frames if layout.static else 0))
        has_audio = not isinstance(network, Spectrum) or isinstance(network, Convolved)
        audio = torch.cat([network(item) if has_audio else model.decode(item) for item in longer[:, None]])
        if isinstance(network, Convolved):  # its transform must equal upstream's
            expected = model.decode(longer)
            error = (audio[:, : expected.shape[1]] - expected).abs().max() / expected.abs().max()
            assert error < 1e-5, error
        samples = audio.shape[1] - (static - frames) * hop if layout.static else audio.shape[1]
        tensors |= {f"mels_{frames}": mels, f"audio_{frames}": audio[:, :samples]}
        assert audio.abs().mean() > 0.01
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def sized(layout: Layout, is_tiny: bool) -> Layout:
    """Returns the layout, in the tiny geometry if ``is_tiny``."""
    if not is_tiny:
        return layout
    given = {"n_fft": TINY.n_fft, "hop_length": TINY.hop_length, "win_length": TINY.n_fft}
    metadata = {name: str(given.get(name, value)) for name, value in layout.metadata.items()}
    return replace(layout, geometry=TINY._replace(sample_rate=layout.geometry.sample_rate), metadata=metadata)


@torch.no_grad()
def make(folder: Path, layout: Layout, static: int) -> None:
    model = vocos(layout.geometry, layout.padding)
    torch.manual_seed(0)
    network, path = layout.network(model).eval(), folder / layout.path
    frames = static if layout.static else 40
    shape = (
        (1, frames, layout.geometry.n_mels) if isinstance(network, Transposed) else (1, layout.geometry.n_mels, frames)
    )
    export(network, (torch.rand(shape),), path, layout)
    np.savez_compressed(path.with_suffix(".npz"), **golden(layout, model, network, static))  # type: ignore[arg-type]
    if layout.beside:
        (path.parent / layout.beside).write_text(settings(layout, layout.geometry), encoding="utf-8")


@torch.no_grad()
def make_refused(folder: Path, geometry: Geometry) -> None:
    """Make files in layouts that the package does not read."""
    model = vocos(geometry, "center")
    torch.manual_seed(0)
    options = {"opset_version": 17, "dynamo": False}
    mels, length = torch.rand(1, 40, geometry.n_mels), torch.tensor([5])
    export_as(
        F5Decode(model),
        (mels, length),
        folder / "f5-decode.onnx",
        input_names=["denoised", "ref_signal_len"],
        output_names=["output_audio"],
        dynamic_axes={"denoised": {1: "frames"}, "output_audio": {1: "samples"}},
        **options,
    )
    for name, codes in (
        ("wavtokenizer", torch.randint(64, (1, 40))),
        ("neucodec", torch.randint(64, (1, 1, 40), dtype=torch.int32)),
    ):
        export_as(
            Codes(model),
            (codes,),
            folder / f"{name}-decode.onnx",
            input_names=["codes"],
            output_names=["waveform"],
            dynamic_axes={"codes": {codes.ndim - 1: "frames"}, "waveform": {codes.ndim - 1: "samples"}},
            **options,
        )
    layout = Layout("plain.onnx", geometry)
    plain = folder / layout.path
    export(Spectrum(model), (torch.rand(1, geometry.n_mels, 40),), plain, layout)
    quantize_dynamic(plain, folder / "quantized.onnx", weight_type=QuantType.QUInt8)
    onnx.save(
        onnx.load(plain),
        folder / "external.onnx",
        save_as_external_data=True,
        location="external.data",
        size_threshold=0,
    )
    plain.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="networks of a few kilobytes")
    args = parser.parse_args()
    for layout in LAYOUTS:
        make(args.folder, sized(layout, args.tiny), TINY_STATIC if args.tiny else STATIC)
        print(args.folder / layout.path, flush=True)
    make_refused(args.folder / "refused", TINY if args.tiny else STOCK)


if __name__ == "__main__":
    main()
