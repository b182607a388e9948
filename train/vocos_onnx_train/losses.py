"""Losses between waveforms (B, N), and on the discriminators' scores and feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vocos_onnx.dsp.mel import MelFeatures, filterbank

from .discriminators import COMPRESSION, DiscriminatorOutput, raised

STFT_SIZES = (512, 1024, 2048)
Parts = tuple[Tensor, Tensor]  # the real and the imaginary part of a spectrum
MEL_BANDS = {64: 8, 128: 16, 256: 32, 512: 64, 1024: 80, 2048: 128}  # n_fft of a scale -> its n_mels
MEL_SIZES = (256, 512, 1024, 2048)
AMPLITUDE_FLOOR = 1e-3  # for log_amplitude: about the magnitude of noise at -90 dBFS


def mel_scales(sample_rate: int, sizes: Sequence[int] | None = None) -> tuple[MelFeatures, ...]:
    """The scales of multi_scale_mel. Sizes 64 and 128 resolve levels 1 to 2 ms apart, so they detect a buzz."""
    return tuple(_htk(sample_rate, n_fft, MEL_BANDS[n_fft], 1e-4) for n_fft in sizes or MEL_SIZES)


def _htk(sample_rate: int, n_fft: int, n_mels: int, clip: float) -> MelFeatures:
    """HTK triangles of height 1, torchaudio's default."""
    return MelFeatures(n_fft, n_fft // 4, n_mels, "center", f_min=0.0, f_max=sample_rate // 2, clip=clip)


class MelLoss(nn.Module):
    """L1 between log-mels ln(max(mel, clip)) of magnitudes, averaged over several kinds of mels.

    The default is upstream's loss, with one kind of 100 bands. Waveforms are padded as for "center".
    """

    def __init__(self, sample_rate: int, *mels: MelFeatures) -> None:
        super().__init__()
        self.mels = mels or (_htk(sample_rate, 1024, 100, 1e-7),)
        for i, mel in enumerate(self.mels):
            bank = torch.tensor(filterbank(sample_rate, mel)).float()
            self.register_buffer(f"window{i}", torch.hann_window(mel.n_fft), persistent=False)
            self.register_buffer(f"bank{i}", bank, persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        loss = estimate.new_zeros(())
        for i in range(len(self.mels)):
            x, y = (self._log_mel(audio, i) for audio in (estimate, target))
            loss = loss + (x - y).abs().mean() / len(self.mels)
        return loss

    def _log_mel(self, audio: Tensor, i: int) -> Tensor:
        mel = self.mels[i]
        magnitude = _magnitude(*_stft(audio, mel.n_fft, mel.hop_length, self.get_buffer(f"window{i}")), 1e-12)
        bands: Tensor = magnitude.transpose(1, 2) @ self.get_buffer(f"bank{i}")
        return bands.clamp(min=mel.clip).log()


class STFTLoss(nn.Module):
    """Three distances between STFTs X and Y, averaged over three sizes, each relative to the target's mean magnitude.

    ``stft`` is |X - Y|. ``compressed_stft`` is |X' - Y'|, where X' has the phase of X and its magnitude to the power
    0.3, so that soft sounds count too, and ``compressed_magnitude`` is ||X'| - |Y'||: Braun & Tashev, "A consolidated
    view of loss functions for supervised deep learning-based speech enhancement" (arXiv 2009.12286). The first two
    constrain the phase: they are for features that contain it, tokens but not mels. They apply only up to
    ``phase_below`` Hz: what a codec of few bits cannot represent, such as the phase above that, they would only blur.
    """

    def __init__(self, sample_rate: int, phase_below: float | None = None) -> None:
        super().__init__()
        self.phase_share = 1.0 if phase_below is None else 2 * phase_below / sample_rate
        for n_fft in STFT_SIZES:
            self.register_buffer(f"window{n_fft}", torch.hann_window(n_fft), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor, phase: Tensor | float = 1.0) -> dict[str, Tensor]:
        """Returns the three distances; ``phase`` (B,) is the weight of the first two for each item."""
        distances = []
        for n_fft in STFT_SIZES:
            x, y = (_stft(audio, n_fft, n_fft // 4, getattr(self, f"window{n_fft}")) for audio in (estimate, target))
            x_power, y_power = (_power(*spectrum) for spectrum in (x, y))
            x_level, y_level = (raised(power, COMPRESSION / 2) for power in (x_power, y_power))
            bins = 1 + int(self.phase_share * (n_fft // 2))
            x, y = ((real[:, :bins], imag[:, :bins]) for real, imag in (x, y))
            linear, scale = _distance(x, y, 1e-9), _magnitude(*y, 1e-9).mean((1, 2)) + 1e-3
            compressed = _distance(_compress(*x), _compress(*y), 1e-6)
            distances.append(
                torch.stack(
                    [
                        (phase * linear.mean((1, 2)) / scale).mean(),
                        (phase * compressed.mean((1, 2)) / y_level[:, :bins].mean((1, 2))).mean(),
                        ((x_level - y_level).abs().mean((1, 2)) / y_level.mean((1, 2))).mean(),
                    ]
                )
            )
        means = torch.stack(distances).mean(0)
        return dict(zip(("stft", "compressed_stft", "compressed_magnitude"), means, strict=True))


class HeadLoss(nn.Module):
    """Two losses on the spectrum of an ISTFTHead, which the audio alone does not determine.

    ``log_amplitude`` is the L1 between its log-magnitudes and those of the recording's STFT in the same frames.
    ``consistency`` is the distance between the spectrum and the STFT of the audio made from it, relative to the
    recording's magnitudes, all with magnitudes to the power 0.3: neighbouring frames that contradict one another cancel
    out between their centres, which is heard as a buzz at the frame rate. Both are as in Du et al., "APNet2" (arXiv
    2311.11545), except that it squares them.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int, padding: str) -> None:
        super().__init__()
        self.n_fft, self.hop_length, self.padding = n_fft, hop_length, padding
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, spectrum: Tensor, estimate: Tensor, target: Tensor, context: int = 0) -> dict[str, Tensor]:
        """Spectrum (B, T, n_fft/2 + 1, 2), the audio (B, N) made from it and the recording (B, N) -> the two losses.

        The first and last ``context`` frames are ignored.
        """
        frames = slice(context, spectrum.shape[1] - context)
        x = spectrum[:, frames, :, 0], spectrum[:, frames, :, 1]
        again, y = (self._frames(audio, frames) for audio in (estimate, target))
        log_x, log_y = ((_power(*s) + AMPLITUDE_FLOOR**2).log() / 2 for s in (x, y))
        inconsistent = _distance(_compress(*x), _compress(*again), 1e-6)
        scale = raised(_power(*y), COMPRESSION / 2).mean((1, 2))
        return {
            "log_amplitude": (log_x - log_y).abs().mean(),
            "consistency": (inconsistent.mean((1, 2)) / scale).mean(),
        }

    def _frames(self, audio: Tensor, frames: slice) -> Parts:
        """Audio (B, N) -> the given frames of its STFT (B, T, n_fft/2 + 1), framed like the head."""
        pad = self.n_fft // 2 if self.padding == "center" else (self.n_fft - self.hop_length) // 2
        audio = F.pad(audio[:, None], (pad, pad), "reflect")[:, 0]
        spectrum = torch.stft(audio, self.n_fft, self.hop_length, window=self.window, center=False, return_complex=True)
        spectrum = spectrum.transpose(1, 2)[:, frames]
        return spectrum.real, spectrum.imag


def _stft(audio: Tensor, n_fft: int, hop_length: int, window: Tensor) -> Parts:
    """Audio (B, N) -> its spectrum (B, n_fft/2 + 1, 1 + N // hop_length)."""
    spectrum = torch.stft(audio, n_fft, hop_length, window=window, return_complex=True)
    return spectrum.real, spectrum.imag


def _power(real: Tensor, imag: Tensor) -> Tensor:
    return real.square() + imag.square() + 1e-7


def _magnitude(real: Tensor, imag: Tensor, floor: float) -> Tensor:
    """Root of the power plus a floor; without the floor, the gradient at zero is infinite."""
    return (real.square() + imag.square() + floor).sqrt()


def _distance(x: Parts, y: Parts, floor: float) -> Tensor:
    return _magnitude(x[0] - y[0], x[1] - y[1], floor)


def _compress(real: Tensor, imag: Tensor) -> Parts:
    """Compresses the magnitudes of a spectrum."""
    factor = raised(_power(real, imag), (COMPRESSION - 1) / 2)
    return real * factor, imag * factor


# The 49 bands of ITU-T P.862.2 at 16 kHz: bins of 31.25 Hz, density correction, width in Bark, threshold of hearing.
# fmt: off
_BINS = (
    1, 1, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 4, 3, 4, 5, 4, 5, 6, 6, 7,
    8, 9, 9, 12, 12, 15, 16, 18, 21, 25, 20,
)
_DENSITY = (
    100, 100, 100, 100, 100, 100, 100, 100, 50, 100, 100, 100, 100, 100, 53.047, 110, 117.99, 65, 68.76, 70, 71.429,
    75, 76.843, 80.969, 88.646, 63.864, 68.155, 72.548, 75.585, 58.379, 80.951, 64.136, 54.385, 73.822, 64.437,
    59.176, 65.521, 61.4, 58.144, 57.005, 64.126, 54.311, 61.115, 55.078, 56.849, 55.629, 53.137, 54.986, 79.547,
)
_WIDTH = (
    0.15734, 0.31799, 0.32244, 0.32693, 0.33147, 0.33606, 0.3407, 0.34538, 0.35011, 0.3549, 0.35973, 0.36461, 0.36954,
    0.37453, 0.37956, 0.38465, 0.38979, 0.39499, 0.40024, 0.40554, 0.41089, 0.41631, 0.42177, 0.4273, 0.43288,
    0.43851, 0.44421, 0.44996, 0.45577, 0.46165, 0.46758, 0.47357, 0.47962, 0.48574, 0.49191, 0.49815, 0.50445,
    0.51082, 0.51725, 0.52375, 0.53031, 0.53693, 0.54363, 0.55039, 0.55722, 0.56412, 0.57108, 0.57812, 0.58523,
)
_THRESHOLD = (
    5.12862e+07, 2.45471e+06, 70794.6, 4897.79, 1174.9, 389.045, 104.713, 45.7088, 17.7828, 9.77237, 4.89779, 3.0903,
    1.90546, 1.25893, 0.977237, 0.724436, 0.562341, 0.457088, 0.389045, 0.331131, 0.295121, 0.269153, 0.25704,
    0.251189, 0.251189, 0.251189, 0.251189, 0.263027, 0.288403, 0.30903, 0.338844, 0.371535, 0.398107, 0.436516,
    0.467735, 0.489779, 0.501187, 0.501187, 0.512861, 0.524807, 0.524807, 0.524807, 0.512861, 0.47863, 0.42658,
    0.371535, 0.363078, 0.416869, 0.537032,
)
# fmt: on
_POWER, _LOUDNESS = 6.910853e-6, 0.1866055  # Sp and Sl in P.862


class LoudnessLoss(nn.Module):
    """The disturbance measured by PESQ, between loudnesses in 49 bands: added sound counts more than missing sound.

    The loss is 0.1 · symmetric + 0.0309 · asymmetric disturbance; the score of ITU-T P.862.2 is 4.5 minus that. Time
    alignment and the search for bad intervals are omitted, as in Martín-Doñas et al., "A deep learning loss function
    based on the perceptual evaluation of the speech quality" (IEEE Signal Processing Letters 25, 2018). Frames are 32
    ms long at the model's sample rate; level and pre-emphasis are applied to the power spectrum. The resulting score
    has a correlation of 0.94 with that of the package pesq, over copies of 10 clips at three bandwidths.

    One metric is not quality: with a large weight PESQ-WB rises by 0.4, but STOI, mel distance and DNSMOS get worse.
    """

    window: Tensor
    speech_band: Tensor
    bands: Tensor
    threshold: Tensor
    width: Tensor
    exponent: Tensor

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        bins = 256  # 31.25 Hz wide, up to 8 kHz
        self.n_fft = sample_rate * 32 // 1000
        frequency = torch.arange(bins, dtype=torch.float64) * 31.25
        z = torch.exp(-2j * torch.pi * frequency / 16_000)
        emphasis = (2.740826 - 5.4816519 * z + 2.740826 * z**2) / (1 - 1.9444777 * z + 0.94597794 * z**2)
        bands = torch.zeros(bins, len(_BINS), dtype=torch.float64)
        start = 0
        for band, (count, density) in enumerate(zip(_BINS, _DENSITY, strict=True)):
            bands[start : start + count, band] = density * _POWER
            start += count
        bands[0] = 0
        centre = torch.tensor(_WIDTH).cumsum(0) - torch.tensor(_WIDTH) / 2
        exponent = 0.23 * (6 / (centre + 2)).clamp(1, 2) ** 0.15
        for name, value in {
            "window": torch.hann_window(self.n_fft),
            "speech_band": ((frequency >= 325) & (frequency <= 3250)).float(),
            "bands": (emphasis.abs().square()[:, None] * bands).float(),
            "threshold": torch.tensor(_THRESHOLD),
            "width": torch.tensor(_WIDTH),
            "exponent": exponent,
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        degraded, reference = self._power(estimate), self._power(target)
        heard = (self._audible(reference, 100).sum(2, keepdim=True) >= 1e7).float()
        means = [(self._audible(power, 100) * heard).mean(1, keepdim=True) for power in (degraded, reference)]
        reference = reference * ((means[0] + 1000) / (means[1] + 1000)).clamp(0.01, 100)
        gain = (self._audible(reference).sum(2) + 5e3) / (self._audible(degraded).sum(2) + 5e3)
        gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], 1).clamp(3e-4, 5)
        degraded = gain[:, :, None] * degraded
        loud, expected = self._loudness(degraded), self._loudness(reference)
        difference = loud - expected
        disturbance = difference.sign() * (difference.abs() - 0.25 * torch.minimum(loud, expected)).clamp(min=0)
        added = ((degraded + 50) / (reference + 50)) ** 1.2
        added = torch.where(added < 3, 0.0, added.clamp(max=12))
        level = ((self._audible(reference).sum(2) + 1e5) / 1e7) ** 0.04
        symmetric = self._pool((self._norm(disturbance, 2) / level).clamp(max=45))
        asymmetric = self._pool((self._norm(disturbance * added, 1) / level).clamp(max=45))
        return (0.1 * symmetric + 0.0309 * asymmetric).mean()

    def _power(self, audio: Tensor) -> Tensor:
        """Audio (B, N) -> power (B, T, 49), at P.862's listening level."""
        spectrum = torch.stft(audio, self.n_fft, self.n_fft // 2, window=self.window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)[:, : len(self.bands)].transpose(1, 2)
        # Parseval; the Hann window's power is 3/8.
        speech = 2 * (power * self.speech_band).sum(2).mean(1) / (0.375 * self.n_fft**2)
        power = power * (1e7 / (speech + 1e-9))[:, None, None] * (512 / self.n_fft)  # as with 512 points at 16 kHz
        return power @ self.bands

    def _audible(self, power: Tensor, times: float = 1.0) -> Tensor:
        return power * (power > times * self.threshold)

    def _loudness(self, power: Tensor) -> Tensor:
        """Zwicker's loudness, in sone per Bark."""
        scale = _LOUDNESS * (self.threshold / 0.5) ** self.exponent
        loudness = scale * ((0.5 + 0.5 * power / self.threshold) ** self.exponent - 1)
        return torch.where(power > self.threshold, loudness, 0.0)

    def _norm(self, disturbance: Tensor, p: int) -> Tensor:
        """(B, T, 49) -> (B, T), weighted by the bands' widths."""
        total = self.width[1:].sum()
        powers = ((self.width * disturbance).abs()[:, :, 1:] ** p).sum(2) / total
        return total * (powers + 1e-12) ** (1 / p)

    @staticmethod
    def _pool(disturbance: Tensor) -> Tensor:
        """(B, T) -> (B,): an L6 norm over 20 frames, so the worst frames dominate, then an L2 norm."""
        intervals = disturbance.unfold(1, 20, 10) if disturbance.shape[1] >= 20 else disturbance[:, None]
        return ((intervals + 1e-6) ** 6).mean(2).pow(1 / 3).mean(1).sqrt()


def discriminator_loss(real: list[DiscriminatorOutput], fake: list[DiscriminatorOutput]) -> Tensor:
    """Hinge loss, averaged over the discriminators: real scores above 1 and fake ones below -1 cost nothing."""
    losses = [(1 - r).relu().mean() + (1 + f).relu().mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def generator_loss(fake: list[DiscriminatorOutput]) -> Tensor:
    """Hinge loss, averaged over the discriminators: as upstream, scores above 1 cost nothing."""
    return torch.stack([(1 - scores).relu().mean() for scores, _ in fake]).mean()


def feature_matching_loss(
    real: list[DiscriminatorOutput], fake: list[DiscriminatorOutput], relative: bool = False
) -> Tensor:
    """L1 between feature maps, summed over the maps of a discriminator and averaged over the discriminators.

    With ``relative``, each is divided by the mean magnitude of the recording's map, which a discriminator could
    otherwise scale at will, and they are averaged over the maps.
    """
    losses = []
    for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True):
        maps = [(r, (r - f).abs().mean()) for r, f in zip(real_maps, fake_maps, strict=True)]
        if relative:
            losses.append(torch.stack([distance / (r.abs().mean() + 1e-3) for r, distance in maps]).mean())
        else:
            losses.append(torch.stack([distance for _, distance in maps]).sum())
    return torch.stack(losses).mean()
