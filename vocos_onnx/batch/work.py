"""What is done with one item, in whichever process: the same bytes from the same input and settings."""

from __future__ import annotations

import errno
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.messages import printable

from .job import Settings
from .journal import FileState, Row
from .manifest import Item

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # no item's fault: the job stops
PARTS = ".items"  # the folder in OUT of finished items that are not in a tar file yet
_MADE_BY = "vocos-onnx"  # the comment in audio files, as the commands write it
_LOUD = 2.0  # peak, with full scale 1, above which the codec does not keep the level
_LONGEST = 500  # characters of a reason


def items_folder(settings: Settings, out: Path) -> Path:
    """The folder to which the outputs of items are written."""
    return out if settings.shard_size is None else out / PARTS


class Worker:
    """What one process does with its items, one after another, on one thread.

    Args:
        settings: of the job.
        out: the job's output folder, which exists.

    Raises what ``VocosONNX`` and ``EncodecONNX`` raise.

    Example:
        >>> worker = Worker(settings, Path("out"))
        >>> worker.do(Item(0, "a", Path("a.npz"), 1234)).seconds
        2.5
    """

    def __init__(self, settings: Settings, out: Path):
        self._settings, self._folder = settings, items_folder(settings, out)
        self._make: Callable[[Path, Path], float]
        if settings.task == "encode":
            self._encoder = settings.open_encoder()
            self._make = self._encode
        else:
            self._vocos = settings.open_vocoder()
            self._make = self._decode if settings.task == "decode" else self._resynth

    def do(self, item: Item) -> Row:
        """Write the output of an item, whole or not at all; returns what became of it.

        What is wrong with an item is in the row. Raises OSError where no output can be written, as on a full disk.
        """
        target = self._folder / f"{item.id}.{self._settings.format}"
        with suppress(OSError):
            if item.path.samefile(target):
                return Row.failed(item, f"its output, {target}, would be written over it")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                row = self._done(item, target)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                return Row.failed(item, reason(error))
        return replace(row, warnings=row.warnings or tuple(_text(str(w.message)) for w in caught))

    def _done(self, item: Item, target: Path) -> Row:
        found = item.path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{item.path} is not a file")
        given, known = FileState.of(item.path), item.known
        if known is not None and known.input is not None and known.input.sha256 == given.sha256:
            if item.in_tar:
                return replace(known, input=given)
            with suppress(OSError):
                output = FileState.of(target)
                if known.output is not None and known.output.sha256 == output.sha256:
                    return replace(known, input=given, output=output)
        seconds = self._make(item.path, target)
        if not given.is_of(item.path):
            raise ValueError(f"{item.path} changed while it was read; run the job again")
        return Row(item.id, str(item.path), given, target.name, FileState.of(target), seconds)

    def _decode(self, path: Path, target: Path) -> float:
        """Tokens or features to audio. Returns its seconds."""
        from vocos_onnx.io.samples import cut_end
        from vocos_onnx.io.tokens import read_token_file

        vocos, settings = self._vocos, self._settings
        read = read_token_file(path, settings.key)
        if read.codes.ndim == 3:
            raise ValueError(f"it holds an array of shape {read.codes.shape}, expected one recording (K, T) or (C, T)")
        bandwidth_id = None
        encodec = vocos.config.encodec
        if settings.bandwidth is not None and encodec is not None:
            index = encodec.bandwidths.index(settings.bandwidth)
            bandwidth_id = index if vocos.config.num_bandwidth_ids else None
            if read.codes.dtype.kind != "f" and read.codes.ndim == 2:
                count = encodec.codebooks_per_bandwidth[index]
                if len(read.codes) < count:
                    raise ValueError(
                        f"it has {len(read.codes)} codebooks, and {settings.bandwidth:g} kbps are {count}: take a "
                        "lower bandwidth"
                    )
                read = replace(read, codes=read.codes[:count])
        if read.anonymous and encodec is not None:
            warnings.warn(f"it names no codec: its tokens are taken for those of {encodec.codec}", stacklevel=1)
        if vocos.delay and read.codes.ndim == 2:
            blocks = vocos.decode_stream([read], bandwidth_id, mels_from=settings.mels_from)
        else:  # which raises the error of other shapes
            blocks = iter([vocos.decode(read, bandwidth_id, mels_from=settings.mels_from)])
        hop = vocos.hop_length

        def length(decoded: int) -> int:
            if read.samples is None:
                return decoded
            if not decoded - hop < read.samples <= decoded:
                raise ValueError(
                    f"it says that it is of {read.samples} samples, but {read.codes.shape[-1]} frames are "
                    f"{decoded - hop + 1} to {decoded} of them: it is not whole"
                )
            return read.samples

        return self._save(target, cut_end(blocks, hop, length))

    def _resynth(self, path: Path, target: Path) -> float:
        """Audio to audio. Returns its seconds."""
        from vocos_onnx.io.samples import cut_end

        vocos = self._vocos
        recording = _Recording(path, vocos.sample_rate)
        blocks = vocos.resynth_stream(recording, vocos.sample_rate, bandwidth=self._settings.bandwidth)
        # whole frames are decoded: the end that is longer than the recording is cut off
        return self._save(target, cut_end(blocks, vocos.hop_length, lambda decoded: min(decoded, recording.samples)))

    def _encode(self, path: Path, target: Path) -> float:
        """Audio to tokens. Returns the seconds of the audio."""
        from vocos_onnx.io.tokens import save_tokens

        encoder, bandwidth = self._encoder, self._settings.bandwidth
        assert bandwidth is not None
        recording = _Recording(path, encoder.sample_rate)
        codes = np.concatenate(list(encoder.encode_stream(recording, encoder.sample_rate, bandwidth)), axis=1)
        save_tokens(target, codes, encoder, samples=recording.samples)
        return recording.samples / encoder.sample_rate

    def _save(self, target: Path, blocks: Iterator[Float]) -> float:
        from vocos_onnx.io.audio import save_blocks

        rate = self._vocos.sample_rate
        return save_blocks(target, blocks, rate, comment=_MADE_BY) / rate


class _Recording:
    """The blocks (n,) of a file at a sample rate. ``samples`` counts those read so far; warns of a loud file."""

    def __init__(self, path: Path, rate: int):
        self.path, self.rate, self.samples = path, rate, 0

    def __iter__(self) -> Iterator[Float]:
        from vocos_onnx.io.audio import load_blocks

        peak = 0.0
        for block in load_blocks(self.path, self.rate):
            yield block
            peak = max(peak, float(np.abs(block).max(initial=0)))
            self.samples += len(block)
        if peak > _LOUD:
            warnings.warn(f"it peaks at {peak:.1f} times full scale: the copy will not have that level", stacklevel=1)


def reason(error: BaseException) -> str:
    """Why an item failed, as one line."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        text = f"not enough memory: {text}"
    is_expected = isinstance(error, ValueError | OSError | RuntimeError | FloatingPointError | MemoryError)
    return _text(text if text and is_expected else f"{type(error).__name__}: {text}")


def _text(text: Any) -> str:
    return printable(" ".join(str(text).split()))[:_LONGEST]
