"""Losses between waveforms (B, N), and of the discriminators' judgements."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocos_onnx.config import MelFeatures
from vocos_onnx.mel import filterbank

from .discriminators import Judgement

MEL_SCALES = ((256, 32), (512, 64), (1024, 80), (2048, 128))  # (n_fft, n_mels), hop n_fft / 4
STFT_SIZES = (512, 1024, 2048)
COMPRESSION = 0.3


def mel_bank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """HTK triangles (n_fft/2 + 1, n_mels), as torchaudio has them."""
    mel = MelFeatures(n_fft, n_fft // 4, n_mels, "center", f_min=0.0, f_max=sample_rate // 2)
    return torch.tensor(filterbank(sample_rate, mel)).float()


class MelLoss(nn.Module):
    """L1 between log-mels ln(max(mel, clip)) of magnitudes: upstream's loss, with one scale of 100 bands."""

    def __init__(
        self,
        sample_rate: int,
        scales: tuple[tuple[int, int], ...] = ((1024, 100),),
        clip: float = 1e-7,
    ):
        super().__init__()
        self.scales, self.clip = scales, clip
        for n_fft, n_mels in scales:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"bank{n_fft}", mel_bank(sample_rate, n_fft, n_mels), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        loss = estimate.new_zeros(())
        for n_fft, _ in self.scales:
            x, y = (self._log_mel(audio, n_fft) for audio in (estimate, target))
            loss = loss + (x - y).abs().mean() / len(self.scales)
        return loss

    def _log_mel(self, audio: Tensor, n_fft: int) -> Tensor:
        magnitude = _magnitude(_stft(audio, n_fft, getattr(self, f"window{n_fft}")), 1e-12)
        mel: Tensor = magnitude.transpose(1, 2) @ getattr(self, f"bank{n_fft}")
        return mel.clamp(min=self.clip).log()


class STFTLoss(nn.Module):
    """Three distances between STFTs X and Y of three sizes, each relative to the mean magnitude of the target.

    ``stft`` is |X - Y|. ``compressed_stft`` is |X' - Y'|, where X' has the phase of X and its magnitude to the power
    0.3, so that what is soft counts too, and ``compressed_magnitude`` is ||X'| - |Y'||: Braun & Tashev, "A consolidated
    view of loss functions for supervised deep learning-based speech enhancement" (arXiv 2009.12286). The first two tie
    the phase down: they are for features that know it, tokens and not mels.
    """

    def __init__(self) -> None:
        super().__init__()
        for n_fft in STFT_SIZES:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        distances = []
        for n_fft in STFT_SIZES:
            x, y = (_stft(audio, n_fft, getattr(self, f"window{n_fft}")) for audio in (estimate, target))
            linear, scale = _magnitude(x - y, 1e-9), _magnitude(y, 1e-9).mean((1, 2)) + 1e-3
            (x, x_level), (y, y_level) = _compress(x), _compress(y)
            compressed_scale = y_level.mean((1, 2))
            distances.append(
                torch.stack(
                    [
                        (linear.mean((1, 2)) / scale).mean(),
                        (_magnitude(x - y, 1e-6).mean((1, 2)) / compressed_scale).mean(),
                        ((x_level - y_level).abs().mean((1, 2)) / compressed_scale).mean(),
                    ]
                )
            )
        means = torch.stack(distances).mean(0)
        return dict(zip(("stft", "compressed_stft", "compressed_magnitude"), means, strict=True))


def _compress(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Spectrum (..., 2) -> the same with compressed magnitudes, and those magnitudes."""
    power = spectrum.square().sum(-1) + 1e-7
    return spectrum * (power ** ((COMPRESSION - 1) / 2))[..., None], power ** (COMPRESSION / 2)


def _stft(audio: Tensor, n_fft: int, window: Tensor) -> Tensor:
    """Audio (B, N) -> real and imaginary parts (B, n_fft/2 + 1, 1 + N // (n_fft/4), 2)."""
    return torch.view_as_real(torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True))


def _magnitude(spectrum: Tensor, floor: float) -> Tensor:
    """Root of power and a floor, without which its gradient at zero is infinite."""
    return (spectrum.square().sum(-1) + floor).sqrt()


def discriminator_loss(real: list[Judgement], fake: list[Judgement]) -> Tensor:
    """Hinge loss, the mean over the discriminators: real scores over 1 and fake ones under -1 cost nothing."""
    losses = [(1 - r).relu().mean() + (1 + f).relu().mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_loss(fake: list[Judgement]) -> Tensor:
    """Hinge loss, the mean over the discriminators: as upstream, scores over 1 cost nothing."""
    return torch.stack([(1 - scores).relu().mean() for scores, _ in fake]).mean()


def feature_matching_loss(real: list[Judgement], fake: list[Judgement]) -> Tensor:
    """L1 between feature maps, summed over the maps of a discriminator, the mean over the discriminators."""
    losses = [
        torch.stack([(r - f).abs().mean() for r, f in zip(real_maps, fake_maps, strict=True)]).sum()
        for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()
