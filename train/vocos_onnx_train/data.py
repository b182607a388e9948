"""Keeps training audio in memory, and draws random crops from it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vocos_onnx import load_audio

from .augment import LOWEST_DB, Augment, changed, drawn
from .config import Files
from .progress import Heartbeat
from .token_cache import TokenCache

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64"}
SHORTEST = 2048  # samples; shorter files would repeat so often within a crop that they teach a buzz
GAIN_DB = (-6.0, -1.0)  # upstream's range of peak levels in training
VALID_GAIN_DB = -3.0  # peak level in validation, and of audio that is encoded to tokens
EQ_BANDS, EQ_OCTAVES = 8, 0.9  # bands of the random equaliser, and their spacing: 152 Hz to 12 kHz
_MARGIN = 1024  # extra samples on both sides of an augmented crop: filters are circular, so its ends are discarded


class Batch(NamedTuple):
    """A batch of crops.

    audio: (B, N) float32 on the device.
    codes: (K, B, T) from a token cache, or None.
    level: (B, 1), the factor applied to the crops after the peak of their file was set to VALID_GAIN_DB.
    """

    audio: Tensor
    codes: Tensor | None
    level: Tensor


class Clips:
    """The audio of one section of the config, as int16, on the device or, if it does not fit there, in main memory.

    Args:
        files: the section.
        device: the device that crops are returned on.
        report: called with progress lines, one for each skipped file, and a summary.
        cache: a token cache; tokens are cropped along with the audio, once ``fill_cache`` has been called.

    Raises FileNotFoundError if there is no such list or folder, ValueError if nothing in it can be used.
    """

    def __init__(
        self,
        files: Files,
        device: torch.device,
        report: Callable[[str], None],
        cache: TokenCache | None = None,
    ) -> None:
        self.files, self.cache = files, cache
        rows = list_files(files)
        read = reader(files)
        name = ", ".join(files.paths)
        report(f"{name}: reading {len(rows)} files")
        beat = Heartbeat(report)
        found = []
        with ThreadPoolExecutor(max(1, files.num_workers)) as pool:
            for clip in pool.map(read, [row["file"] for row in rows]):
                found.append(clip)
                beat(f"{name}: read {len(found)} of {len(rows)} files")
        for error in [clip for clip in found if isinstance(clip, str)]:
            report(f"skipped {error}")
        kept = [(clip, row) for clip, row in zip(found, rows, strict=True) if not isinstance(clip, str)]
        if not kept:
            raise ValueError(f"{name} has no audio that can be used; {len(rows)} files were skipped")
        self.names = [str(row["file"]) for _, row in kept]
        hop = cache.encoder.hop_length if cache else 1  # whole frames, so repeated tokens match repeated audio
        self.lengths = np.array([len(clip) // hop * hop for clip, _ in kept])
        self.starts = np.cumsum(self.lengths) - self.lengths
        samples = np.concatenate([clip[:length] for (clip, _), length in zip(kept, self.lengths, strict=True)])
        self.clips: list[npt.NDArray[np.int16]] = np.split(samples, self.starts[1:])  # views
        self.peaks = np.array([np.abs(clip.astype(np.int32)).max() / 32768 for clip in self.clips])
        self.probability = self._probability([row["speaker"] for _, row in kept])
        report(
            f"{name}: {len(kept)} files, {self.lengths.sum() / files.sampling_rate / 3600:.2f} h"
            + (f"; {len(rows) - len(kept)} skipped" if len(rows) > len(kept) else "")
        )
        self.samples = torch.from_numpy(samples)
        if device.type == "cuda" and fits(self.samples, device):
            self.samples = self.samples.to(device)
        self.device = device

    def fill_cache(self) -> None:
        """Encodes the clips whose tokens are not in the cache."""
        if self.cache:
            self.cache.fill(self.clips, 10 ** (VALID_GAIN_DB / 20) / self.peaks / 32768)

    def _probability(self, speakers: list[str]) -> npt.NDArray[np.float64]:
        """Clips are drawn by length; with balance_speakers a speaker by the root of that, then a clip."""
        weight = self.lengths.astype(np.float64)
        if self.files.balance_speakers:
            _, speaker = np.unique(speakers, return_inverse=True)
            weight /= np.sqrt(np.bincount(speaker, weight))[speaker]
        probability: npt.NDArray[np.float64] = weight / weight.sum()
        return probability

    def batch(self, rng: np.random.Generator) -> Batch:
        """Draws batch_size random crops of num_samples each."""
        size, samples = self.files.batch_size, self.files.num_samples
        clip = self._draw(rng, size)
        if self.cache:
            # Tokens were encoded from the whole file at a fixed level.
            hop = self.cache.encoder.hop_length
            start, codes = self.cache.crop(clip, samples // hop, rng)
            level = torch.ones(size, 1, device=self.device)
            return Batch(self._crops(clip, start * hop, samples), codes.to(self.device), level)
        low, high = self.files.gain_db or GAIN_DB
        gain_db = rng.uniform(low, high, size)
        augment: Augment = self.files.augment or Augment()
        quiet = drawn(rng, augment.quiet, size)
        gain_db[quiet] = rng.uniform(LOWEST_DB, low, len(quiet))
        level = torch.from_numpy((10 ** ((gain_db - VALID_GAIN_DB) / 20)).astype(np.float32)).to(self.device)[:, None]
        speed = rng.uniform(*self.files.speed) if self.files.speed else 1.0
        if speed == 1 and not self.files.eq_db and augment == Augment(quiet=augment.quiet):
            return Batch(level * self._crops(clip, self._starts(rng, clip, samples), samples), None, level)
        wide = samples + 2 * _MARGIN

        def crops_of(clips: npt.NDArray[np.int64]) -> Tensor:
            need = round(wide * speed)
            return change_speed(self._crops(clips, self._starts(rng, clips, need), need), wide)

        def others(count: int) -> Tensor:
            return crops_of(self._draw(rng, count)).cpu()

        crops = crops_of(clip)
        if self.files.eq_db:
            crops = equalize(crops, rng.uniform(-self.files.eq_db, self.files.eq_db, (size, EQ_BANDS)))
        crops = changed(crops, self.files.sampling_rate, augment, rng, others)
        return Batch(level * crops[:, _MARGIN:-_MARGIN], None, level)

    def _draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
        return rng.choice(len(self.clips), count, p=self.probability)

    def _starts(self, rng: np.random.Generator, clip: npt.NDArray[np.int64], samples: int) -> npt.NDArray[np.int64]:
        starts: npt.NDArray[np.int64] = rng.integers(np.maximum(1, self.lengths[clip] - samples + 1))
        return starts

    def _crops(self, clip: npt.NDArray[np.int64], start: npt.NDArray[np.int64], samples: int) -> Tensor:
        """Samples of each clip from its given start, with the clip's peak at VALID_GAIN_DB.

        Clips that are too short are repeated, as upstream does.
        """
        to = self.samples.device
        index = torch.from_numpy(start).to(to)[:, None] + torch.arange(samples, device=to)
        index = (
            torch.from_numpy(self.starts[clip]).to(to)[:, None]
            + index % torch.from_numpy(self.lengths[clip]).to(to)[:, None]
        )
        scale = 10 ** (VALID_GAIN_DB / 20) / self.peaks[clip] / 32768
        crops = self.samples[index].float() * torch.from_numpy(scale.astype(np.float32)).to(to)[:, None]
        return crops.to(self.device)

    def whole(self, clip: int) -> npt.NDArray[np.float32]:
        """The first num_samples of a clip (N,), with a peak of -3 dBFS, for validation."""
        audio = self.clips[clip][: self.files.num_samples].astype(np.float32)
        audio /= 32768
        audio *= np.float32(10 ** (VALID_GAIN_DB / 20) / self.peaks[clip])
        return audio


def change_speed(audio: Tensor, samples: int) -> Tensor:
    """Audio (B, N), resampled to (B, samples) by truncating or zero-padding its spectrum; circular at the ends."""
    spectrum = torch.fft.rfft(audio)
    resampled: Tensor = torch.fft.irfft(spectrum[:, : samples // 2 + 1], samples) * (samples / audio.shape[1])
    return resampled


def equalize(audio: Tensor, gain_db: npt.NDArray[np.float64]) -> Tensor:
    """Applies gains (B, bands) to audio (B, N) at frequencies EQ_OCTAVES apart, the last at half the rate; circular."""
    bins = audio.shape[1] // 2 + 1
    position = np.log2(np.arange(1, bins + 1) / bins) / EQ_OCTAVES + gain_db.shape[1] - 1  # constant below the first
    curve = np.stack([np.interp(position, np.arange(len(row)), row) for row in gain_db])
    gain = torch.from_numpy((10 ** (curve / 20)).astype(np.float32)).to(audio.device)
    equalized: Tensor = torch.fft.irfft(torch.fft.rfft(audio) * gain, audio.shape[1])
    return equalized


def list_files(files: Files) -> list[dict[str, Any]]:
    """The files of folders, filelists or indices, each with its speaker, by default the name of its folder."""
    rows = [row for path in files.paths for row in _list(Path(path), files.split)]
    return [{"speaker": row["file"].parent.name, **row} for row in rows][:: files.every]


def _list(path: Path, split: str | None) -> list[dict[str, Any]]:
    if path.is_dir():
        rows = [{"file": p} for p in sorted(path.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES]
    elif not path.is_file():
        raise FileNotFoundError(f"no filelist or folder {path}")
    elif path.suffix.lower() == ".csv":
        rows = _index(path, split)
    else:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        # Paths are relative to the working directory, as upstream, else to the list.
        found = [Path(line) if Path(line).exists() else path.parent / line for line in lines if line]
        rows = [{"file": p} for p in found]
    if split is not None and path.suffix.lower() != ".csv":
        raise ValueError(f"split {split!r} is for a .csv with a column split; {path} is none")
    if not rows:
        of = f" of split {split!r}" if split is not None else ""
        raise ValueError(f"{path} has no audio file{of}")
    return rows


def _index(path: Path, split: str | None) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {"file", *(["split"] if split is not None else [])}
        if not needed <= set(reader.fieldnames or ()):
            raise ValueError(
                f"{path} has the columns {reader.fieldnames}, expected {', '.join(sorted(needed))} among them"
            )
        rows = [row for row in reader if split is None or row["split"] == split]
    return [
        {"file": path.parent / row["file"], **({"speaker": row["speaker"]} if row.get("speaker") else {})}
        for row in rows
    ]


def reader(files: Files) -> Callable[[Path], npt.NDArray[np.int16] | str]:
    """Returns a function that reads the samples (N,) of a file, or says why it cannot be used."""

    def read(path: Path) -> npt.NDArray[np.int16] | str:
        import soundfile

        try:
            audio = load_audio(path, files.sampling_rate)
            rate = soundfile.info(path).samplerate
        except (ValueError, OSError) as error:
            return str(error)
        if rate < files.sampling_rate:
            return (
                f"{path}: {rate} Hz is below the model's {files.sampling_rate} Hz, and would teach it that there is "
                "nothing above; resample it yourself if you want that"
            )
        if len(audio) < SHORTEST:
            return f"{path}: {len(audio)} samples are too short, expected {SHORTEST} or more"
        peak = float(np.abs(audio).max())
        if peak < 1e-3:
            return f"{path}: it is silent, its peak is {peak:.1g}"
        return np.round(audio / max(1.0, peak) * 32767).astype(np.int16)

    return read


def fits(samples: Tensor, device: torch.device) -> bool:
    """Whether samples take less than half of the CUDA device's free memory."""
    free: int = torch.cuda.mem_get_info(device)[0]
    return samples.nbytes < free / 2
