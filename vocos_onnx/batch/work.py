"""Processes a single item; in any process, the same input and settings give the same bytes."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vocos_onnx.arrays import Float
from vocos_onnx.messages import of_files, printable, reading
from vocos_onnx.once import watched

from .job import Settings
from .journal import FULL, FileState, Row
from .manifest import Item

if TYPE_CHECKING:
    from vocos_onnx import Tokens, VocosONNX
    from vocos_onnx.mels import MelsFrom

PARTS = ".items"  # the folder in OUT for finished items that are not in a tar file yet
_OTHER_LENGTH = 0.5  # s by which decoded audio may differ from its row's duration
_LONGEST = 500  # most characters of a reason


def items_folder(settings: Settings, out: Path) -> Path:
    """The folder that item outputs are written to."""
    return out if settings.shard_size is None else out / PARTS


class Worker:
    """Does the items of one process, one after another, on one thread.

    Args:
        settings: the settings of the job.
        out: the job's output folder, which must exist.

    Raises what ``VocosONNX`` and ``EncodecONNX`` raise.

    Example:
        >>> worker = Worker(settings, Path("out"))
        >>> worker.do(Item(0, "a", Path("a.npz"), 1234)).seconds
        2.0
    """

    def __init__(self, settings: Settings, out: Path):
        self._settings, self._folder = settings, items_folder(settings, out)
        self._make: Callable[[Item, Path], float]
        self._last: tuple[Path, FileState] | None = None  # segments of a file follow one another
        if settings.task == "encode":
            self._encoder = settings.open_encoder()
            self._make = self._encode
        else:
            self._vocos = settings.open_vocoder()
            self._make = self._decode if settings.task == "decode" else self._resynth

    def do(self, item: Item) -> Row:
        """Writes the output of an item atomically; returns the result.

        The row has the error if an item fails. Raises OSError if no output can be written, such as for a full disk.
        """
        target = self._folder / f"{item.id}.{self._settings.format}"
        with suppress(OSError):
            if item.path.samefile(target):
                return Row.failed(item, f"its output, {target}, would be written over it")
        with watched() as said:
            try:
                row = self._done(item, target)
            except Exception as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise
                return Row.failed(item, reason(error))
        return replace(row, warnings=row.warnings or tuple(map(_text, said)))

    def _done(self, item: Item, target: Path) -> Row:
        try:
            with reading(item.path):
                found = item.path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"no file {item.path}") from None
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{item.path} is not a file")
        given, known = self._state(item.path), item.known
        segment = item.offset, item.duration
        if (
            known is not None
            and known.input is not None
            and known.input.sha256 == given.sha256
            and (known.offset, known.duration) == segment
        ):
            if item.in_tar:
                return replace(known, input=given, verified=True)
            with suppress(OSError):
                output = FileState.of(target)
                if known.output is not None and known.output.sha256 == output.sha256:
                    return replace(known, input=given, output=output, verified=True)
        seconds = self._make(item, target)
        if not given.is_of(item.path):
            raise ValueError(f"{item.path} changed while it was read; run the job again")
        row = Row(item.id, str(item.path), given, target.name, FileState.of(target), seconds)
        return replace(row, offset=item.offset, duration=item.duration)

    def _state(self, path: Path) -> FileState:
        if self._last is None or self._last[0] != path or not self._last[1].is_of(path):
            self._last = path, FileState.of(path)
        return self._last[1]

    def _decode(self, item: Item, target: Path) -> float:
        """Decodes tokens or features to audio. Returns its seconds."""
        from vocos_onnx.bandwidths import may_be_swapped
        from vocos_onnx.io.tokens import check_not_empty, cut_codebooks, of_no_codec, read_token_file

        vocos, settings = self._vocos, self._settings
        read = read_token_file(item.path, settings.key)
        if read.codes.ndim == 3:
            raise ValueError(f"it holds an array of shape {read.codes.shape}, expected one recording (K, T) or (C, T)")
        check_not_empty(read, str(item.path))
        bandwidth_id = None
        encodec = vocos.config.encodec
        if settings.bandwidth is not None and encodec is not None:
            index = encodec.bandwidths.index(settings.bandwidth)
            bandwidth_id = index if vocos.config.num_bandwidth_ids else None
            shape = read.codes.shape
            # decoding reports one axis, and axes that are swapped
            if read.codes.dtype.kind != "f" and len(shape) == 2 and not may_be_swapped(shape, encodec.num_codebooks):
                count = encodec.codebooks_per_bandwidth[index]
                if len(read.codes) < count:
                    raise ValueError(
                        f"it has {len(read.codes)} codebooks, but {settings.bandwidth:g} kbps needs {count}: take a "
                        "lower bandwidth"
                    )
                read = cut_codebooks(read, count, encodec.num_codebooks)
        blocks = decoded(vocos, read, "it", bandwidth_id, mels_from=settings.mels_from)
        if read.anonymous and encodec is not None:
            warnings.warn(of_no_codec("it", encodec.codec), stacklevel=1)
        return self._save(target, self._of_duration(blocks, item))

    def _of_duration(self, blocks: Iterator[Float], item: Item) -> Iterator[Float]:
        """Passes on the blocks of an item. Raises ValueError if they are empty, or their length contradicts the row."""
        samples = 0
        for block in blocks:
            yield block
            samples += len(block)
        if not samples:
            raise ValueError(f"{item.path}: it is of 0 samples; expected at least one")
        seconds = samples / self._vocos.sample_rate
        if item.duration is not None and abs(seconds - item.duration) > _OTHER_LENGTH:
            raise ValueError(
                f"its duration is {item.duration:.10g} s, and it is decoded to {seconds:.10g} s: only audio has "
                "segments; leave it out if it is of something else"
            )

    def _resynth(self, item: Item, target: Path) -> float:
        """Resynthesizes audio. Returns its seconds."""
        from vocos_onnx.io.samples import cut_end

        vocos = self._vocos
        recording = _Recording(item, vocos.sample_rate)
        blocks = vocos.resynth_stream(recording, vocos.sample_rate, bandwidth=self._settings.bandwidth)
        # Whole frames are decoded: the end that extends past the recording is cut off.
        return self._save(target, cut_end(blocks, vocos.hop_length, lambda decoded: min(decoded, recording.samples)))

    def _encode(self, item: Item, target: Path) -> float:
        """Encodes audio to tokens. Returns the seconds of the audio."""
        from vocos_onnx.io.tokens import save_tokens

        encoder, bandwidth = self._encoder, self._settings.bandwidth
        assert bandwidth is not None
        recording = _Recording(item, encoder.sample_rate)
        codes = np.concatenate(list(encoder.encode_stream(recording, encoder.sample_rate, bandwidth)), axis=1)
        save_tokens(target, codes, encoder, samples=recording.samples)
        return recording.samples / encoder.sample_rate

    def _save(self, target: Path, blocks: Iterator[Float]) -> float:
        from vocos_onnx.io.audio import MADE_BY, save_blocks

        rate = self._vocos.sample_rate
        return save_blocks(target, blocks, rate, comment=MADE_BY) / rate


def decoded(
    vocos: VocosONNX,
    tokens: Tokens,
    name: str,
    bandwidth_id: int | None = None,
    *,
    layout: Any = "kbt",
    mels_from: MelsFrom | None = None,
) -> Iterator[Float]:
    """Decodes a file of tokens or features to blocks (n,), streamed if the model can; cut to the length in the file.

    Raises what ``VocosONNX.decode`` raises, and ValueError, with the name, if the file's number of samples does not
    match its frames; the last frame may extend past the recording.
    """
    from vocos_onnx.frames import LAYOUTS
    from vocos_onnx.io.samples import cut_end

    if vocos.delay and tokens.codes.ndim == 2 and layout in LAYOUTS:
        blocks = vocos.decode_stream([tokens], bandwidth_id, mels_from=mels_from)
    else:  # raises the error for other shapes
        blocks = iter([vocos.decode(tokens, bandwidth_id, layout=layout, mels_from=mels_from)])
    hop = vocos.hop_length

    def length(done: int) -> int:
        if tokens.samples is None:
            return done
        if not done - hop < tokens.samples <= done:
            raise ValueError(
                f"{name} says that it is of {tokens.samples} samples, but {tokens.codes.shape[-1]} frames are "
                f"{done - hop + 1} to {done} of them: it is not whole"
            )
        return tokens.samples

    return cut_end(blocks, hop, length)


class _Recording:
    """The blocks (n,) of an item at a sample rate. ``samples`` counts those read so far; warns of a loud file."""

    def __init__(self, item: Item, rate: int):
        self.item, self.rate, self.samples = item, rate, 0

    def __iter__(self) -> Iterator[Float]:
        from vocos_onnx.io.audio import LOUD, load_blocks

        item = self.item
        peak = 0.0
        for block in load_blocks(item.path, self.rate, offset=item.offset, duration=item.duration):
            yield block
            peak = max(peak, float(np.abs(block).max(initial=0)))
            self.samples += len(block)
        if peak > LOUD:
            warnings.warn(f"it peaks at {peak:.1f} times full scale: the copy will not have that level", stacklevel=1)


def reason(error: BaseException) -> str:
    """Why an item failed, on one line."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError):
        text = f"not enough memory: {text}"
    is_expected = isinstance(error, ValueError | OSError | RuntimeError | FloatingPointError | MemoryError)
    return _text(text if text and is_expected else f"{type(error).__name__}: {text}")


def _text(text: Any) -> str:
    return printable(of_files(" ".join(str(text).split())))[:_LONGEST]
