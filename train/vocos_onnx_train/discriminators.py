"""The discriminators of Vocos, with upstream's parameter names, so its checkpoints can be loaded.

As defined by vocos 0.1.0. Multi-period: Kong et al., "HiFi-GAN" (arXiv 2010.05646). Multi-resolution: Kumar et al.,
"High-fidelity audio compression with improved RVQGAN" (arXiv 2306.06546). Conditional on a bandwidth by projection:
Miyato & Koyama (arXiv 1802.05637). ``width`` scales the number of channels; 1 is upstream's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

PERIODS = (2, 3, 5, 7, 11)
FFT_SIZES = (2048, 1024, 512)
COMPRESSION = 0.3
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # band edges, as fractions of the bins

DiscriminatorOutput = tuple[Tensor, list[Tensor]]  # scores, and feature maps, the last of which are the scores


class Discriminator(nn.Module):
    """Base class with the last convolution, whose scores may depend on a bandwidth."""

    emb: nn.Embedding
    conv_post: nn.Module

    def __init__(self, channels: int, num_embeddings: int | None) -> None:
        super().__init__()
        if num_embeddings is not None:
            self.emb = nn.Embedding(num_embeddings, channels)
            nn.init.zeros_(self.emb.weight)

    def score(self, x: Tensor, bandwidth_id: Tensor | None) -> Tensor:
        """The last feature map (B, C, H, W), and one id (1,) or one for each item (B,) -> scores (B, 1, H, W)."""
        scores: Tensor = self.conv_post(x)
        if bandwidth_id is not None:
            scores = scores + (self.emb(bandwidth_id).view(-1, x.shape[1], 1, 1) * x).sum(dim=1, keepdim=True)
        return scores


class DiscriminatorP(Discriminator):
    """Folds the audio into rows of ``period`` samples, and convolves along the columns."""

    def __init__(self, period: int, num_embeddings: int | None = None, width: float = 1) -> None:
        channels = [max(1, round(c * width)) for c in (32, 128, 512, 1024, 1024)]
        super().__init__(channels[-1], num_embeddings)
        self.period = period
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, (5, 1), (stride, 1), padding=(2, 0)))
            for i, o, stride in zip([1, *channels], channels, (3, 3, 3, 3, 1), strict=False)
        )
        self.conv_post = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), 1, padding=(1, 0)))

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None) -> DiscriminatorOutput:
        x = F.pad(audio[:, None], (0, -audio.shape[-1] % self.period), "reflect")
        x = x.view(len(x), 1, -1, self.period)
        maps = []
        for i, conv in enumerate(self.convs):
            x = F.leaky_relu(conv(x), 0.1)
            if i > 0:
                maps.append(x)
        scores = self.score(x, bandwidth_id)
        return scores.flatten(1), [*maps, scores]


class DiscriminatorR(Discriminator):
    """Sees the complex spectrogram in five bands, each with its own convolutions."""

    window: Tensor

    def __init__(self, window_length: int, num_embeddings: int | None = None, width: float = 1) -> None:
        channels = max(1, round(32 * width))
        super().__init__(channels, num_embeddings)
        self.n_fft = window_length
        bins = window_length // 2 + 1
        self.edges = [int(edge * bins) for edge in BANDS]
        self.band_convs = nn.ModuleList(self._stack(channels) for _ in self.edges[1:])
        self.conv_post = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)

    @staticmethod
    def _stack(channels: int) -> nn.ModuleList:
        shapes = ((2, (3, 9), 1), *((channels, (3, 9), 2),) * 3, (channels, (3, 3), 1))
        return nn.ModuleList(
            weight_norm(nn.Conv2d(i, channels, size, (1, stride), padding=(1, size[1] // 2)))
            for i, size, stride in shapes
        )

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None) -> DiscriminatorOutput:
        audio = audio - audio.mean(dim=-1, keepdim=True)
        audio = 0.8 * audio / (audio.abs().amax(dim=-1, keepdim=True) + 1e-9)
        spectrum = torch.stft(audio, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
        spectrum = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # (B, 2, T, F)
        maps, bands = [], []
        for low, high, stack in zip(self.edges, self.edges[1:], self.band_convs, strict=False):
            x = spectrum[..., low:high]
            for i, conv in enumerate(stack.children()):
                x = F.leaky_relu(conv(x), 0.1)
                if i > 0:
                    maps.append(x)
            bands.append(x)
        scores = self.score(torch.cat(bands, dim=-1), bandwidth_id)
        return scores, [*maps, scores]


class STFTDiscriminator(Discriminator):
    """Sees the magnitude-compressed spectrogram through a few convolutions. Ours; small enough for a CPU.

    Magnitudes are raised to the power 0.3, so one stack of weights serves loud and soft bands. Each score covers a
    patch of 11 frames and 157 bins.
    """

    window: Tensor

    def __init__(self, n_fft: int, num_embeddings: int | None = None, channels: int = 16) -> None:
        super().__init__(2 * channels, num_embeddings)
        self.n_fft = n_fft
        widths, sizes = (2, channels, *[2 * channels] * 3), ((3, 9), (3, 9), (3, 9), (3, 3))
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(i, o, size, (1, stride), padding=(1, size[1] // 2)))
            for i, o, size, stride in zip(widths, widths[1:], sizes, (4, 2, 2, 1), strict=False)
        )
        self.conv_post = weight_norm(nn.Conv2d(2 * channels, 1, 3, padding=1))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None) -> DiscriminatorOutput:
        # (B, 2, T, F) with channels last in memory, which makes convolutions on a CPU several times faster. The maps
        # are returned in that order too; otherwise their gradients would have to be reordered.
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(audio, self.n_fft, self.n_fft // 4, window=self.window, return_complex=True)
            real, imag = spectrum.real.transpose(1, 2), spectrum.imag.transpose(1, 2)
            factor = raised(real.square() + imag.square() + 1e-7, (COMPRESSION - 1) / 2)
            x = torch.stack([real * factor, imag * factor], dim=-1).permute(0, 3, 1, 2)
        maps = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1, inplace=True)
            maps.append(x.permute(0, 2, 3, 1))
        scores: Tensor = self.conv_post(x).permute(0, 2, 3, 1)
        if bandwidth_id is not None:
            scores = scores + (maps[-1].flatten(1, 2) @ self.emb(bandwidth_id)[:, :, None]).view_as(scores)
        return scores, [*maps, scores]


class DiscriminatorSet(nn.Module):
    """A set of discriminators of one kind."""

    def __init__(self, discriminators: Sequence[nn.Module]) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, audio: Tensor, bandwidth_id: Tensor | None = None) -> list[DiscriminatorOutput]:
        """Audio (B, N), and one id (1,) or one for each item (B,) -> scores and feature maps of each discriminator."""
        return [discriminator(audio, bandwidth_id) for discriminator in self.discriminators]


class MultiPeriodDiscriminator(DiscriminatorSet):
    def __init__(self, num_embeddings: int | None = None, width: float = 1) -> None:
        super().__init__([DiscriminatorP(period, num_embeddings, width) for period in PERIODS])


class MultiResolutionDiscriminator(DiscriminatorSet):
    def __init__(self, num_embeddings: int | None = None, width: float = 1) -> None:
        super().__init__([DiscriminatorR(n_fft, num_embeddings, width) for n_fft in FFT_SIZES])


class STFTDiscriminators(DiscriminatorSet):
    def __init__(self, num_embeddings: int | None = None, channels: int = 16) -> None:
        super().__init__([STFTDiscriminator(n_fft, num_embeddings, channels) for n_fft in FFT_SIZES])


def raised(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for positive numbers; on a CPU, log and exp together take a third of the time of pow."""
    return (x.log() * exponent).exp()
