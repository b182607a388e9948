"""Training audio, kept in memory on the device, and random crops of it."""

from __future__ import annotations

import csv
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vocos_onnx import EncodecONNX, load_audio
from vocos_onnx.io.files import whole_file

from .config import Files

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64"}
SHORTEST = 2048  # samples; shorter files are repeated so often in a crop that they teach a buzz
GAIN_DB = (-6.0, -1.0)  # upstream's levels of the peak, in training and in validation
VALID_GAIN_DB = -3.0
EQ_BANDS, EQ_OCTAVES = 8, 0.9  # of the random equaliser, and from one to the next: 152 Hz to 12 kHz
_MARGIN = 1024  # samples beside a crop whose speed is changed: the transform is periodic, its ends are thrown away


class Heartbeat:
    """Lines of progress, one in half a minute at most, so that nothing goes on for long without a word."""

    SECONDS = 30.0

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report, self.last = report, time.perf_counter()

    def due(self) -> bool:
        return time.perf_counter() - self.last >= self.SECONDS

    def __call__(self, line: str) -> None:
        if self.due():
            self.report(line)
            self.last = time.perf_counter()


class Clips:
    """The audio of one section of the config: int16, one after another, on the device or, where it is too much, off it.

    Args:
        files: the section.
        device: where crops are made.
        report: called with a line for each file that is skipped, and one on the whole.
        cache: of tokens, which then are cropped along with the audio.

    Raises FileNotFoundError where there is no such list or folder, ValueError where nothing in it can be used.
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
        report(f"{files.filelist_path}: reading {len(rows)} files")
        beat = Heartbeat(report)
        found = []
        with ThreadPoolExecutor(max(1, files.num_workers)) as pool:
            for clip in pool.map(read, [row["file"] for row in rows]):
                found.append(clip)
                beat(f"{files.filelist_path}: read {len(found)} of {len(rows)} files")
        for error in [clip for clip in found if isinstance(clip, str)]:
            report(f"skipped {error}")
        kept = [(clip, row) for clip, row in zip(found, rows, strict=True) if not isinstance(clip, str)]
        if not kept:
            raise ValueError(f"{files.filelist_path} has no audio that can be used; {len(rows)} files were skipped")
        self.names = [str(row["file"]) for _, row in kept]
        hop = cache.encoder.hop_length if cache else 1  # whole frames, so that repeated tokens fit repeated audio
        self.lengths = np.array([len(clip) // hop * hop for clip, _ in kept])
        self.starts = np.cumsum(self.lengths) - self.lengths
        samples = np.concatenate([clip[:length] for (clip, _), length in zip(kept, self.lengths, strict=True)])
        self.clips: list[npt.NDArray[np.int16]] = np.split(samples, self.starts[1:])  # views
        self.peaks = np.array([np.abs(clip.astype(np.int32)).max() / 32768 for clip in self.clips])
        self.probability = self._probability([row["speaker"] for _, row in kept])
        report(
            f"{files.filelist_path}: {len(kept)} files, {self.lengths.sum() / files.sampling_rate / 3600:.2f} h"
            + (f"; {len(rows) - len(kept)} skipped" if len(rows) > len(kept) else "")
        )
        self.samples = torch.from_numpy(samples)
        if device.type == "cuda" and _fits(self.samples, device):
            self.samples = self.samples.to(device)
        self.device = device

    def _probability(self, speakers: list[str]) -> npt.NDArray[np.float64]:
        """A clip is drawn by its length; with balance_speakers a speaker by the root of theirs, then a clip."""
        weight = self.lengths.astype(np.float64)
        if self.files.balance_speakers:
            _, speaker = np.unique(speakers, return_inverse=True)
            weight /= np.sqrt(np.bincount(speaker, weight))[speaker]
        return weight / weight.sum()

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor | None]:
        """Random crops (batch_size, num_samples) float32 on the device, and with a cache their codes (K, B, T)."""
        size, samples = self.files.batch_size, self.files.num_samples
        clip = rng.choice(len(self.clips), size, p=self.probability)
        low, high = self.files.gain_db or GAIN_DB
        if self.cache:
            # the tokens are those of the file at one level
            gain_db = np.full(size, VALID_GAIN_DB)
            start, codes = self.cache.crop(self, clip, rng)
            return self._crops(clip, start, samples, gain_db), codes.to(self.device)
        gain_db = rng.uniform(low, high, size)
        speed = rng.uniform(*self.files.speed) if self.files.speed else 1.0
        if speed == 1 and not self.files.eq_db:
            return self._crops(clip, self._starts(rng, clip, samples), samples, gain_db), None
        wide = samples + 2 * _MARGIN
        need = round(wide * speed)
        crops = change_speed(self._crops(clip, self._starts(rng, clip, need), need, gain_db), wide)
        if self.files.eq_db:
            crops = equalize(crops, rng.uniform(-self.files.eq_db, self.files.eq_db, (size, EQ_BANDS)))
        return crops[:, _MARGIN:-_MARGIN], None

    def _starts(self, rng: np.random.Generator, clip: npt.NDArray[Any], samples: int) -> npt.NDArray[Any]:
        return rng.integers(np.maximum(1, self.lengths[clip] - samples + 1))

    def _crops(
        self, clip: npt.NDArray[Any], start: npt.NDArray[Any], samples: int, gain_db: npt.NDArray[Any]
    ) -> Tensor:
        """Samples of each clip from its start on; clips that are too short are repeated, as upstream does it."""
        to = self.samples.device
        index = torch.from_numpy(start).to(to)[:, None] + torch.arange(samples, device=to)
        index = (
            torch.from_numpy(self.starts[clip]).to(to)[:, None]
            + index % torch.from_numpy(self.lengths[clip]).to(to)[:, None]
        )
        scale = 10 ** (gain_db / 20) / self.peaks[clip] / 32768
        crops = self.samples[index].float() * torch.from_numpy(scale.astype(np.float32)).to(to)[:, None]
        return crops.to(self.device)

    def whole(self, clip: int) -> npt.NDArray[np.float32]:
        """The first num_samples of a clip (N,), its peak at -3 dBFS: what is validated with."""
        audio = self.clips[clip][: self.files.num_samples].astype(np.float32) / 32768
        return audio * np.float32(10 ** (VALID_GAIN_DB / 20) / self.peaks[clip])


def change_speed(audio: Tensor, samples: int) -> Tensor:
    """Audio (B, N), resampled to (B, samples) by cutting off or padding its spectrum; circular at the ends."""
    spectrum = torch.fft.rfft(audio)
    return torch.fft.irfft(spectrum[:, : samples // 2 + 1], samples) * (samples / audio.shape[1])


def equalize(audio: Tensor, gain_db: npt.NDArray[np.float64]) -> Tensor:
    """Audio (B, N) with gains (B, bands), whose frequencies are a factor apart up to half the rate; circular."""
    bins = audio.shape[1] // 2 + 1
    position = np.log2(np.arange(1, bins + 1) / bins) / EQ_OCTAVES + gain_db.shape[1] - 1  # below the first: it
    curve = np.stack([np.interp(position, np.arange(len(row)), row) for row in gain_db])
    gain = torch.from_numpy((10 ** (curve / 20)).astype(np.float32)).to(audio.device)
    return torch.fft.irfft(torch.fft.rfft(audio) * gain, audio.shape[1])


def list_files(files: Files) -> list[dict[str, Any]]:
    """The files of a folder, a filelist or an index, each with its speaker, which by default is its folder's name."""
    path = Path(files.filelist_path)
    if path.is_dir():
        rows = [{"file": p} for p in sorted(path.rglob("*")) if p.suffix.lower() in AUDIO_SUFFIXES]
    elif not path.is_file():
        raise FileNotFoundError(f"no filelist or folder {path}")
    elif path.suffix.lower() == ".csv":
        rows = _index(path, files.split)
    else:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        # as upstream from the working directory, else from where the list is
        found = [Path(line) if Path(line).exists() else path.parent / line for line in lines if line]
        rows = [{"file": p} for p in found]
    if files.split is not None and path.suffix.lower() != ".csv":
        raise ValueError(f"split {files.split!r} is for a .csv with a column split; {path} is none")
    if not rows:
        of = f" of split {files.split!r}" if files.split is not None else ""
        raise ValueError(f"{path} has no audio file{of}")
    return [{"speaker": row["file"].parent.name, **row} for row in rows][:: files.every]


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
    """A function that reads a file as int16, or says why it cannot be used."""

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


def _fits(samples: Tensor, device: torch.device) -> bool:
    free, _ = torch.cuda.mem_get_info(device)
    return samples.nbytes < free / 2


class TokenCache:
    """Tokens of whole files in a folder, so that each is encoded once.

    The file's name is the sha256 of the audio and of the encoder's codebooks. Crops start at frames.
    """

    def __init__(self, folder: Path, encoder: EncodecONNX, num_codebooks: int, report: Callable[[str], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.encoder, self.num_codebooks, self.report = folder, encoder, num_codebooks, report
        self.codes: list[npt.NDArray[np.integer[Any]]] = []

    def fill(self, clips: Clips) -> None:
        """Encode what is not in the cache."""
        new = 0
        beat = Heartbeat(self.report)
        for i, clip in enumerate(clips.clips):
            beat(f"tokens: {i} of {len(clips.clips)} files")
            digest = hashlib.sha256(self.encoder.config.codebooks_sha256[self.num_codebooks - 1].encode())
            digest.update(clip.tobytes())
            path = self.folder / f"{digest.hexdigest()[:32]}.npz"
            codes = self._read(path)
            if codes is None:
                level = np.float32(10 ** (VALID_GAIN_DB / 20) / clips.peaks[i] / 32768)
                codes = encode(self.encoder, clip[None] * level, self.num_codebooks)[:, 0]
                codes = codes.astype(np.int16 if self.encoder.config.codebook_size <= 1 << 15 else np.int32)
                with whole_file(path) as partial:
                    np.savez_compressed(partial, tokens=codes)
                new += 1
            self.codes.append(codes)
        self.report(f"tokens: {new} files encoded, {len(self.codes) - new} from {self.folder}")

    def crop(self, clips: Clips, clip: npt.NDArray[Any], rng: np.random.Generator) -> tuple[npt.NDArray[Any], Tensor]:
        """Random starts, in samples, on frames, and the codes (K, B, T) from there on."""
        hop = self.encoder.hop_length
        frames = clips.files.num_samples // hop
        starts, codes = [], []
        for i in clip:
            whole = clips.lengths[i] // hop  # full frames
            start = int(rng.integers(max(1, whole - frames + 1)))
            starts.append(start * hop)
            codes.append(np.take(self.codes[i], np.arange(start, start + frames), axis=1, mode="wrap"))
        return np.array(starts), torch.from_numpy(np.stack(codes, axis=1)).long()

    @staticmethod
    def _read(path: Path) -> npt.NDArray[np.integer[Any]] | None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                tokens: npt.NDArray[np.integer[Any]] = archive["tokens"]
                return tokens
        except Exception:  # whatever numpy's parsers raise of damaged files
            return None  # none, or a damaged one: it is made anew


def encode(encoder: EncodecONNX, audio: npt.NDArray[np.floating[Any]], num_codebooks: int) -> npt.NDArray[np.int64]:
    """Audio (B, N) at the encoder's rate -> codes (num_codebooks, B, ceil(N / hop))."""
    counts = encoder.config.codebooks_per_bandwidth
    bandwidth = next(kbps for kbps, count in zip(encoder.bandwidths, counts, strict=True) if count >= num_codebooks)
    return encoder.encode(audio, encoder.sample_rate, bandwidth)[:num_codebooks]
