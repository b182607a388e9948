"""The networks of Vocos, with the names used in a checkpoint's state dict.

Architecture: Siuzdak, "Vocos" (arXiv 2306.00814), as defined by the reference implementation vocos 0.1.0. A backbone
maps features ``(B, C, T)`` to hidden states ``(B, T, dim)``; a head maps those to the *spectrum*, the output of the
exported graph. What follows (inverse transform, overlap-add) has no weights: it is done in numpy in ``dsp.stft``;
``to_waveform`` here is its torch counterpart, for training and for verifying an export.

There is no weight normalisation here: ``state_dict.fold_weight_norm`` folds it into plain weights on loading.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_MAGNITUDE = 1e2  # upstream's clip of exp(m), and of symexp on either side


class AdaLayerNorm(nn.Module):
    """Layer norm whose scale and shift are looked up by bandwidth id: a scalar, or one id for each item (B,)."""

    def __init__(self, num_embeddings: int, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.shape, self.eps = (dim,), eps
        self.scale = nn.Embedding(num_embeddings, dim)
        self.shift = nn.Embedding(num_embeddings, dim)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, bandwidth_id: Tensor) -> Tensor:
        scale, shift = self.scale(bandwidth_id), self.shift(bandwidth_id)
        if bandwidth_id.ndim == 0:
            return F.layer_norm(x, self.shape, scale, shift, self.eps)
        normalised: Tensor = F.layer_norm(x, self.shape, eps=self.eps) * scale[:, None] + shift[:, None]
        return normalised


class LayerNorm(nn.LayerNorm):
    """Layer norm that accepts and ignores a bandwidth id, so both norms have the same interface."""

    def forward(self, x: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        normalised: Tensor = super().forward(x)
        return normalised


def _norm(dim: int, num_embeddings: int | None) -> nn.Module:
    return AdaLayerNorm(num_embeddings, dim) if num_embeddings else LayerNorm(dim, eps=1e-6)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int, intermediate_dim: int, layer_scale: float, num_embeddings: int | None) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(dim, dim, kernel_size=7, padding=3, groups=dim)
        self.norm = _norm(dim, num_embeddings)
        self.pwconv1 = nn.Linear(dim, intermediate_dim)
        self.pwconv2 = nn.Linear(intermediate_dim, dim)
        # As upstream: no layer scale if its initial value is not positive.
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale)) if layer_scale > 0 else None

    def forward(self, x: Tensor, bandwidth_id: Tensor | None) -> Tensor:
        y: Tensor = self.norm(self.dwconv(x).transpose(1, 2), bandwidth_id)
        y = self.pwconv2(F.gelu(self.pwconv1(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + y.transpose(1, 2)


class VocosBackbone(nn.Module):
    """ConvNeXt backbone, with adaptive layer norms if ``adanorm_num_embeddings`` is given."""

    def __init__(
        self,
        input_channels: int,
        dim: int,
        intermediate_dim: int,
        num_layers: int,
        layer_scale_init_value: float | None = None,
        adanorm_num_embeddings: int | None = None,
    ) -> None:
        super().__init__()
        self.input_channels, self.dim = input_channels, dim
        self.num_bandwidths = adanorm_num_embeddings or 0
        scale = layer_scale_init_value or 1 / num_layers
        self.embed = nn.Conv1d(input_channels, dim, kernel_size=7, padding=3)
        self.norm = _norm(dim, adanorm_num_embeddings)
        self.convnext = nn.ModuleList(
            ConvNeXtBlock(dim, intermediate_dim, scale, adanorm_num_embeddings) for _ in range(num_layers)
        )
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(_init_weights)

    def forward(self, x: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        x = self.norm(self.embed(x).transpose(1, 2), bandwidth_id).transpose(1, 2)
        for block in self.blocks:
            x = block(x, bandwidth_id)
        hidden: Tensor = self.final_layer_norm(x.transpose(1, 2))
        return hidden

    @property
    def reach(self) -> int:
        """Frames of context on either side of a frame: 3 for each convolution, whose kernels have 7 taps."""
        return 3 * (1 + len(self.convnext))

    @property
    def blocks(self) -> list[ConvNeXtBlock]:
        """The blocks of ``convnext``, typed."""
        return [block for block in self.convnext if isinstance(block, ConvNeXtBlock)]


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


class ResBlock1(nn.Module):
    """HiFi-GAN V1's residual block with kernel size 3, dilations 1, 3, 5, and layer scale."""

    def __init__(self, dim: int, layer_scale: float) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(nn.Conv1d(dim, dim, 3, dilation=d, padding=d) for d in (1, 3, 5))
        self.convs2 = nn.ModuleList(nn.Conv1d(dim, dim, 3, padding=1) for _ in range(3))
        self.gamma = nn.ParameterList(nn.Parameter(torch.full((dim, 1), layer_scale)) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for conv1, conv2, gamma in zip(self.convs1, self.convs2, self.gamma, strict=True):
            y = conv2(F.leaky_relu(conv1(F.leaky_relu(x, 0.1)), 0.1))
            x = x + gamma * y
        return x


class VocosResNetBackbone(nn.Module):
    """HiFi-GAN-like residual backbone without upsampling."""

    def __init__(
        self, input_channels: int, dim: int, num_blocks: int, layer_scale_init_value: float | None = None
    ) -> None:
        super().__init__()
        self.input_channels, self.dim, self.num_bandwidths = input_channels, dim, 0
        self.embed = nn.Conv1d(input_channels, dim, kernel_size=3, padding=1)
        scale = layer_scale_init_value or 1 / num_blocks / 3
        self.resnet = nn.Sequential(*(ResBlock1(dim, scale) for _ in range(num_blocks)))

    def forward(self, x: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.resnet(self.embed(x)).transpose(1, 2)
        return hidden

    @property
    def reach(self) -> int:
        """Frames of context on either side of a frame: 1 + 3 + 5 + 3 per block, and 1 for the first convolution."""
        return 1 + 12 * len(self.resnet)

    @property
    def blocks(self) -> list[ResBlock1]:
        """The blocks of ``resnet``, typed."""
        return [block for block in self.resnet if isinstance(block, ResBlock1)]


class ISTFTHead(nn.Module):
    """Hidden states (B, T, dim) -> spectrum (B, T, n_fft/2 + 1, 2), real and imaginary parts.

    The linear layer outputs log-magnitudes m and phases p; the spectrum is min(exp(m), 100) · (cos p + j sin p).
    """

    kind = "istft"

    def __init__(self, dim: int, n_fft: int, hop_length: int, padding: str = "same") -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.padding, self.clip_audio = n_fft, hop_length, padding, False
        self.out = nn.Linear(dim, n_fft + 2)
        self.istft = nn.Module()
        self.istft.register_buffer("window", torch.hann_window(n_fft))

    def forward(self, x: Tensor) -> Tensor:
        magnitude, cos, sin = self.polar(x)
        return torch.stack([magnitude * cos, magnitude * sin], dim=-1)

    def polar(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states (B, T, dim) -> magnitudes, and cosines and sines of the phases, each (B, T, n_fft/2 + 1)."""
        m, p = self.out(x).chunk(2, dim=-1)
        return m.exp().clip(max=MAX_MAGNITUDE), p.cos(), p.sin()

    def to_waveform(self, spectrum: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(spectrum).transpose(1, 2)
        window = self.istft.get_buffer("window")
        frames = torch.fft.irfft(spectrum, self.n_fft, dim=1) * window[None, :, None]
        envelope = window.square()[None, :, None].expand(1, -1, frames.shape[-1])
        trim = self.n_fft // 2 if self.padding == "center" else (self.n_fft - self.hop_length) // 2
        return overlap_add(frames, self.hop_length, trim) / overlap_add(envelope, self.hop_length, trim)


class _IMDCTHead(nn.Module):
    """The base of both MDCT heads. The MDCT's hop is half its frame; its window is the cosine (sine) window."""

    def __init__(self, dim: int, out_dim: int, mdct_frame_len: int, padding: str, clip_audio: bool) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.padding = mdct_frame_len, mdct_frame_len // 2, padding
        self.clip_audio = clip_audio
        self.out = nn.Linear(dim, out_dim)
        self.imdct = nn.Module()  # holds the constants that upstream stores in a state dict
        n, bins = torch.arange(mdct_frame_len, dtype=torch.float64), mdct_frame_len // 2
        n0 = (bins + 1) / 2
        constants = {
            "window": torch.sin(math.pi / mdct_frame_len * (n + 0.5)).float(),
            "pre_twiddle": torch.view_as_real(torch.exp(1j * math.pi * n0 * n / bins)).float(),
            "post_twiddle": torch.view_as_real(torch.exp(1j * math.pi * (n + n0) / mdct_frame_len)).float(),
        }
        for name, value in constants.items():
            self.imdct.register_buffer(name, value)

    def to_waveform(self, spectrum: Tensor) -> Tensor:
        """Inverse MDCT by definition, as one matrix product: y[n] = w[n] √(2/N) Σ X[k] cos(π/N (n + n0)(k + ½))."""
        bins = self.hop_length
        n = torch.arange(self.n_fft, dtype=torch.float64, device=spectrum.device)
        k = torch.arange(bins, dtype=torch.float64, device=spectrum.device)
        basis = torch.cos(math.pi / bins * (n[None] + (bins + 1) / 2) * (k[:, None] + 0.5)) * math.sqrt(2 / bins)
        window = self.imdct.get_buffer("window")
        frames = (spectrum @ basis.float()) * window
        trim = self.n_fft // 2 if self.padding == "center" else self.n_fft // 4
        audio = overlap_add(frames.transpose(1, 2), self.hop_length, trim)
        return audio.clip(-1, 1) if self.clip_audio else audio


class IMDCTSymExpHead(_IMDCTHead):
    """Hidden states (B, T, dim) -> spectrum (B, T, mdct_frame_len/2), MDCT values: symexp of the layer's output."""

    kind = "imdct_symexp"

    def __init__(
        self,
        dim: int,
        mdct_frame_len: int,
        padding: str = "same",
        sample_rate: int | None = None,
        clip_audio: bool = False,
    ) -> None:
        super().__init__(dim, mdct_frame_len // 2, mdct_frame_len, padding, clip_audio)
        if sample_rate is not None:  # initial weights: the higher the frequency on the mel scale, the smaller
            top = 2595 * math.log10(1 + sample_rate // 2 / 700)
            edges = 700 * (10 ** (torch.linspace(0, top, mdct_frame_len // 2) / 2595) - 1)
            with torch.no_grad():
                self.out.weight.mul_((1 - edges / edges.max())[:, None])

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(x)
        value: Tensor = x.sign() * (x.abs().exp() - 1)
        return value.clip(-MAX_MAGNITUDE, MAX_MAGNITUDE)


class IMDCTCosHead(_IMDCTHead):
    """Hidden states (B, T, dim) -> spectrum (B, T, mdct_frame_len/2), MDCT values exp(m) cos(p) from the layer."""

    kind = "imdct_cos"

    def __init__(self, dim: int, mdct_frame_len: int, padding: str = "same", clip_audio: bool = False) -> None:
        super().__init__(dim, mdct_frame_len, mdct_frame_len, padding, clip_audio)

    def forward(self, x: Tensor) -> Tensor:
        m, p = self.out(x).chunk(2, dim=-1)
        value: Tensor = m.exp().clip(max=MAX_MAGNITUDE) * p.cos()
        return value


class WaveNextHead(nn.Module):
    """Hidden states (B, T, dim) -> "spectrum" (B, T, hop_length), the samples of each frame, by two linear layers.

    Okamoto et al., "WaveNeXt: ConvNeXt-based fast neural vocoder without iSTFT layer" (ASRU 2023), as in the class of
    this name in wetdog/wavenext_pytorch, where ``padding`` has no effect.
    """

    kind = "wavenext"

    def __init__(self, dim: int, n_fft: int, hop_length: int, padding: str = "same") -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.padding, self.clip_audio = n_fft, hop_length, padding, True
        self.linear_1 = nn.Linear(dim, n_fft + 2)
        self.linear_2: nn.Linear | None = nn.Linear(n_fft + 2, hop_length, bias=False)  # None once it is folded
        for linear in (self.linear_1, self.linear_2):
            nn.init.trunc_normal_(linear.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        samples: Tensor = self.linear_1(x)
        return samples if self.linear_2 is None else self.linear_2(samples)

    def to_waveform(self, samples: Tensor) -> Tensor:
        return samples.flatten(1).clip(-1, 1)


def overlap_add(frames: Tensor, hop_length: int, trim: int) -> Tensor:
    """Frames (B, n_fft, T), placed ``hop_length`` apart and summed, with ``trim`` samples cut off both ends."""
    length = (frames.shape[-1] - 1) * hop_length + frames.shape[1]
    folded = F.fold(frames, (1, length), kernel_size=(1, frames.shape[1]), stride=(1, hop_length))
    return folded[:, 0, 0, trim : length - trim]


Backbone = VocosBackbone | VocosResNetBackbone
Head = ISTFTHead | IMDCTSymExpHead | IMDCTCosHead | WaveNextHead


class Vocos(nn.Module):
    """Backbone and head in one graph: features (B, C, T) and a scalar bandwidth id -> spectrum."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, features: Tensor, bandwidth_id: Tensor | None = None) -> Tensor:
        spectrum: Tensor = self.head(self.backbone(features, bandwidth_id))
        return spectrum

    def to_waveform(self, spectrum: Tensor) -> Tensor:
        return self.head.to_waveform(spectrum)


class STFTEncoder(nn.Module):
    """The encoder of the bundled codec: audio (B, N) -> latents (B, code_dim, ceil(N / hop_length)).

    The STFT's log-magnitude and unit phase go into ConvNeXt blocks. Frame t is computed from the n_fft samples that
    begin at t·hop_length - (n_fft - hop_length)/2: "same" padding, with zeros outside; zeros also complete the last
    frame.
    """

    n_fft, hop_length, code_dim = 1280, 320, 64
    window: Tensor

    def __init__(self, dim: int = 192, num_layers: int = 4) -> None:
        super().__init__()
        self.backbone = VocosBackbone(3 * (self.n_fft // 2 + 1), dim, 3 * dim, num_layers)
        self.out = nn.Linear(dim, self.code_dim)
        # Unit variance in every dimension: without it, the commitment loss shrinks the latents to a single point.
        self.norm = nn.BatchNorm1d(self.code_dim, affine=False, momentum=0.01)
        self.register_buffer("window", torch.hann_window(self.n_fft))

    @property
    def context(self) -> int:
        """Frames of context on either side of a frame, from convolutions with 7 taps each."""
        return self.backbone.reach

    def forward(self, audio: Tensor) -> Tensor:
        pad = (self.n_fft - self.hop_length) // 2
        audio = F.pad(audio.float(), (pad, pad - audio.shape[-1] % -self.hop_length))
        frames = audio.unfold(-1, self.n_fft, self.hop_length)
        return self.encode(torch.view_as_real(torch.fft.rfft(frames * self.window)))

    def encode(self, spectrum: Tensor) -> Tensor:
        """Spectrum (B, T, n_fft/2 + 1, 2) -> latents (B, code_dim, T)."""
        magnitude = spectrum.square().sum(-1).sqrt()
        unit = spectrum / (magnitude + 1e-4)[..., None]
        features = torch.cat([(magnitude + 1e-3).log() / 2, unit[..., 0], unit[..., 1]], dim=-1)
        latents: Tensor = self.out(self.backbone(features.transpose(1, 2))).float()
        latents = self.norm(latents.transpose(1, 2))
        return latents
