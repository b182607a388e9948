"""The network to train, audio -> features -> backbone -> head -> audio, with the names of upstream's state dict."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from vocos_onnx import EncodecONNX
from vocos_onnx.dsp.mel import MelFeatures, filterbank
from vocos_onnx.model.bundled import BUNDLED_CODEC
from vocos_onnx.model.checkpoint_config import CODEBOOKS
from vocos_onnx.model.config import EncodecFeatures, Source
from vocos_onnx_export.modules import STFTEncoder, VocosResNetBackbone
from vocos_onnx_export.vocos_config import build_modules

from .codec import ResidualQuantizer, nearest
from .config import TrainConfig


class MelSpectrogram(nn.Module):
    """Log-mels of upstream's MelSpectrogramFeatures, see ``vocos_onnx.dsp.mel.log_mel``."""

    window: Tensor
    bank: Tensor

    def __init__(self, mel: MelFeatures, sample_rate: int) -> None:
        super().__init__()
        self.mel = mel
        self.register_buffer("window", torch.hann_window(mel.n_fft), persistent=False)
        self.register_buffer("bank", torch.tensor(filterbank(sample_rate, mel)).float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Audio (B, N) -> log-mels (B, n_mels, T), T = 1 + N // hop with "center", N // hop with "same" padding."""
        mel = self.mel
        pad = mel.n_fft // 2 if mel.padding == "center" else (mel.n_fft - mel.hop_length) // 2
        audio = F.pad(audio[:, None], (pad, pad), "reflect")[:, 0]
        spectrum = torch.stft(audio, mel.n_fft, mel.hop_length, window=self.window, center=False, return_complex=True)
        magnitude = (
            (spectrum.real.square() + spectrum.imag.square() + mel.power_offset).sqrt()
            if mel.power_offset
            else spectrum.abs()
        )
        return (magnitude.transpose(1, 2) @ self.bank).clamp(min=mel.clip).log().transpose(1, 2)


class FrozenCodec(nn.Module):
    """The codebooks of a codec that is not trained: the features are sums of the entries that the tokens select.

    With the bundled codec's encoder, audio may be passed instead of tokens.
    """

    codebook_weights: Tensor

    def __init__(self, codebooks: Tensor, encoder: STFTEncoder | None = None) -> None:
        super().__init__()
        self.shape = codebooks.shape
        self.register_buffer("codebook_weights", codebooks.flatten(0, 1).clone())
        self.encoder = encoder.requires_grad_(False) if encoder is not None else None

    def forward(self, codes: Tensor, num_codebooks: Tensor) -> Tensor:
        """Codes (K, B, T), and how many of the K codebooks each item uses (B,) -> features (B, C, T)."""
        return embed(codes, self.codebook_weights.view(self.shape), num_codebooks)

    @torch.no_grad()
    def quantised(self, audio: Tensor, num_codebooks: Tensor, dense: bool | None = None) -> Tensor:
        """Audio (B, N), and how many codebooks each item uses (B,) -> features (B, C, ceil(N / hop)).

        ``dense`` quantises every item at every level, so no shape depends on the numbers: by default on CUDA, where
        waiting for them would take longer than the work.
        """
        assert self.encoder is not None
        latents = self.encoder.eval()(audio).float().transpose(1, 2)
        residual = latents.clone()
        codebooks = self.codebook_weights.view(self.shape)
        if dense if dense is not None else audio.is_cuda:
            for level, codebook in enumerate(codebooks):
                value = codebook[nearest(residual.flatten(0, 1), codebook)].view_as(residual)
                residual = residual - value * (num_codebooks > level)[:, None, None]
        else:
            for level, codebook in enumerate(codebooks[: int(num_codebooks.max())]):
                items = (num_codebooks > level).nonzero()[:, 0]
                left = residual[items]
                codes = nearest(left.flatten(0, 1), codebook)
                residual[items] = left - codebook[codes].view_as(left)
        features: Tensor = (latents - residual).transpose(1, 2)
        return features


def embed(codes: Tensor, codebooks: Tensor, num_codebooks: Tensor) -> Tensor:
    """Codes (K, B, T), codebooks (K or more, size, C), how many each item uses (B,) -> sums of entries (B, C, T)."""
    values = torch.stack([F.embedding(c, book) for c, book in zip(codes, codebooks, strict=False)])
    used = torch.arange(len(codes), device=codes.device)[:, None] < num_codebooks
    return (values * used[:, :, None, None]).sum(0).transpose(1, 2)


class TrainableCodec(nn.Module):
    """The encoder and the quantiser of the bundled codec, trained together with the network that decodes its tokens."""

    def __init__(self, num_codebooks: int) -> None:
        super().__init__()
        self.encoder = STFTEncoder()
        self.quantizer = ResidualQuantizer(num_codebooks, STFTEncoder.code_dim)

    def forward(self, audio: Tensor, num_codebooks: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, N), how many codebooks each item uses (B,) -> features (B, C, ceil(N / hop)), commitment loss."""
        latents = self.encoder(audio)
        with torch.autocast(audio.device.type, enabled=False):
            if self.training:
                features, commitment = self.quantizer(latents.float(), num_codebooks)
                return features, commitment
            codes = self.quantizer.encode(latents.float())
            return embed(codes, self.quantizer.codebooks, num_codebooks), latents.new_zeros(())


class Reconstruction(NamedTuple):
    """Audio (B, N), the commitment loss (0 unless the codec is trained), and the head's spectrum (B, T, ...)."""

    audio: Tensor
    commitment: Tensor
    spectrum: Tensor


class Generator(nn.Module):
    """A Vocos and its feature extractor.

    Args:
        config: the training config; its sections feature_extractor, backbone and head define the network.
        encoder: the encoder of the tokens, for features of a codec that is not trained. The bundled codec is trained
            unless its encoder is given.
        frozen: the same encoder as a module, for the bundled codec only; then codes need not be passed.

    Raises ValueError if the sections are invalid or contradict one another, or if the encoder does not fit.
    """

    counts_of: Tensor  # the number of codebooks of each bandwidth

    def __init__(
        self, config: TrainConfig, encoder: EncodecONNX | None = None, frozen: STFTEncoder | None = None
    ) -> None:
        super().__init__()
        vocos, parsed = build_modules(config.model)
        features, sample_rate = parsed.features, parsed.sample_rate
        described = parsed.described(features, Source("", "", "", ""))
        self.backbone, self.head, self.features = vocos.backbone, vocos.head, features
        hop = self.hop_length = vocos.head.hop_length
        expected = config.experiment.sample_rate
        if sample_rate != expected:
            raise ValueError(f"feature_extractor: sample_rate is {sample_rate}, expected the model's, {expected}")
        if described.n_fft % hop:
            raise ValueError(f"head: hop_length is {hop}, expected a divisor of n_fft = {described.n_fft}")
        for files in (config.train, config.valid):
            shortest = 2 * vocos.head.n_fft
            if files.num_samples % hop or files.num_samples < shortest:
                near = max(round(files.num_samples / hop) * hop, shortest)
                raise ValueError(
                    f"num_samples is {files.num_samples}, expected a multiple of the hop of {hop} from {shortest} on, "
                    f"such as {near}"
                )
        most = (config.train.num_samples - 2 * vocos.head.n_fft) // (2 * hop)
        if not 0 <= config.experiment.context_frames <= most:
            raise ValueError(
                f"context_frames is {config.experiment.context_frames}, expected 0 to {most}, so that of the crops of "
                f"{config.train.num_samples} samples {2 * vocos.head.n_fft} are heard"
            )
        if features is None:
            raise ValueError("feature_extractor: the config does not say how the mels are made")
        if isinstance(features, MelFeatures):
            if encoder is not None:
                raise ValueError("an encoder is given, and the features are mels; leave it out")
            self.counts: tuple[int, ...] = ()
            self.feature_extractor: Any = MelSpectrogram(features, sample_rate)
        else:
            if config.model["feature_extractor"].get("init_args", {}).get("train_codebooks"):
                raise ValueError("feature_extractor: train_codebooks is true, which is not supported; expected false")
            if self.backbone.num_bandwidths != len(features.bandwidths):
                raise ValueError(
                    f"backbone: adanorm_num_embeddings is {self.backbone.num_bandwidths or None}, expected "
                    f"{len(features.bandwidths)}, one for each of the bandwidths"
                )
            self.counts = features.codebooks_per_bandwidth
            if features.codec == BUNDLED_CODEC and encoder is None:
                self._check_trainable()
                self.feature_extractor = TrainableCodec(features.num_codebooks)
            else:
                codebooks = self._read_codebooks(encoder, features, sample_rate)
                self.feature_extractor = FrozenCodec(codebooks, frozen)
        self.register_buffer("counts_of", torch.tensor(self.counts, dtype=torch.int64), persistent=False)
        if isinstance(self.backbone, VocosResNetBackbone):  # as in upstream's training
            for module in self.backbone.modules():
                if isinstance(module, nn.Conv1d):
                    weight_norm(module)

    def _check_trainable(self) -> None:
        expected = (STFTEncoder.code_dim, STFTEncoder.hop_length)
        if (self.backbone.input_channels, self.hop_length) != expected:
            raise ValueError(
                f"{BUNDLED_CODEC} has {expected[0]} channels and a hop of {expected[1]}, but the backbone's "
                f"input_channels are {self.backbone.input_channels} and the head's hop_length is {self.hop_length}"
            )

    def _read_codebooks(self, encoder: EncodecONNX | None, features: EncodecFeatures, sample_rate: int) -> Tensor:
        if encoder is None:
            raise ValueError(
                f"the tokens of {features.codec} need its encoder: make it with 'vocos-onnx export-encodec' and pass "
                "--encoder ENCODER.onnx"
            )
        given = (encoder.config.codec, encoder.sample_rate, encoder.hop_length, encoder.config.channels)
        expected = (features.codec, sample_rate, self.hop_length, self.backbone.input_channels)
        if given != expected or encoder.num_codebooks < features.num_codebooks:
            raise ValueError(
                f"the encoder's codec, rate, hop and channels are {given}, with {encoder.num_codebooks} codebooks; "
                f"expected {expected}, with {features.num_codebooks} or more"
            )
        return torch.from_numpy(encoder.codebooks[: features.num_codebooks].copy())

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None, codes: Tensor | None = None) -> Reconstruction:
        """Reconstructs audio.

        Args:
            audio: (B, N), N a multiple of the hop.
            bandwidth_id: (B,), for a model with bandwidths.
            codes: (K, B, N / hop), for a model of tokens that does not include the encoder.

        """
        commitment = audio.new_zeros(())
        if bandwidth_id is None:
            with torch.autocast(audio.device.type, enabled=False):
                features = self.feature_extractor(audio)
        else:
            counts = self.counts_of[bandwidth_id]
            if codes is not None:
                features = self.feature_extractor(codes, counts)
            elif isinstance(self.feature_extractor, FrozenCodec):
                features = self.feature_extractor.quantised(audio, counts)
            else:
                features, commitment = self.feature_extractor(audio, counts)
        hidden = self.backbone(features, bandwidth_id)
        with torch.autocast(audio.device.type, enabled=False):  # a phase of several radians does not fit bfloat16
            spectrum = self.head(hidden.float())
            return Reconstruction(self.head.to_waveform(spectrum), commitment, spectrum)

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """State dicts of the network, as in official checkpoints, and of the codec's encoder (empty unless trained)."""
        encoder: dict[str, Tensor] = {}
        state = {k: v for k, v in self.state_dict().items() if k.startswith(("backbone.", "head."))}
        if isinstance(self.feature_extractor, FrozenCodec):
            state[CODEBOOKS] = self.feature_extractor.codebook_weights
        elif isinstance(self.feature_extractor, TrainableCodec):
            state[CODEBOOKS] = self.feature_extractor.quantizer.codebooks.flatten(0, 1)
            encoder = self.feature_extractor.encoder.state_dict()
        return _on_cpu(state), _on_cpu(encoder)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in state.items()}
