"""Reconstruction losses between waveforms (B, N)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MEL_SCALES = ((256, 32), (512, 64), (1024, 80), (2048, 128))  # (n_fft, n_mels), hop n_fft / 4
STFT_SIZES = (512, 1024, 2048)


class ReconstructionLoss(nn.Module):
    """Log-mel L1 over four scales, and complex-STFT L1 over three, relative to the target's mean magnitude.

    The mel term hears magnitude only; the complex term is what ties the phase down without a discriminator.
    """

    def __init__(self, sample_rate: int):
        super().__init__()
        self.sizes = sorted({n for n, _ in MEL_SCALES} | set(STFT_SIZES))
        for n_fft in self.sizes:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft))
        for n_fft, n_mels in MEL_SCALES:
            self.register_buffer(f"mel{n_fft}", mel_filterbank(sample_rate, n_fft, n_mels))

    def forward(self, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        mel_loss = estimate.new_zeros(())
        stft_loss = estimate.new_zeros(())
        for n_fft in self.sizes:
            x, y = (self._stft(audio, n_fft) for audio in (estimate, target))
            x_abs, y_abs = (x.square().sum(-1) + 1e-9).sqrt(), (y.square().sum(-1) + 1e-9).sqrt()
            mel = getattr(self, f"mel{n_fft}", None)
            if mel is not None:
                x_mel, y_mel = ((mel @ magnitude).clamp(min=1e-4).log() for magnitude in (x_abs, y_abs))
                mel_loss = mel_loss + (x_mel - y_mel).abs().mean() / len(MEL_SCALES)
            if n_fft in STFT_SIZES:
                distance = ((x - y).square().sum(-1) + 1e-9).sqrt().mean((1, 2))
                stft_loss = stft_loss + (distance / (y_abs.mean((1, 2)) + 1e-3)).mean() / len(STFT_SIZES)
        return mel_loss, stft_loss

    def _stft(self, audio: Tensor, n_fft: int) -> Tensor:
        window = getattr(self, f"window{n_fft}")
        return torch.view_as_real(torch.stft(audio, n_fft, n_fft // 4, window=window, return_complex=True))


def mel_filterbank(sample_rate: int, n_fft: int, n_mels: int) -> Tensor:
    """Triangular filters (n_mels, n_fft/2 + 1) evenly spaced on the HTK mel scale, each of peak 1."""
    top = 2595 * torch.log10(torch.tensor(1 + sample_rate / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), n_mels + 2) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)
