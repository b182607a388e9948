"""Walks the container of an audio file: finds every stream in it, and checks that each is complete.

libsndfile decodes the audio, but silently: where a header promises more than the file holds, it returns what is there;
where a header promises less, or several streams follow one another, it returns only the beginning. So the headers are
walked first, and libsndfile gets each stream on its own, with its lengths corrected.
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
import re
import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

Span = tuple[int, int] | bytes
_CHUNKS, _STREAMS = 10_000, 1000  # the most that are walked
_JUNK = 4096  # bytes after the audio that may be anything; more could be audio that the header omits


_FILL = 1 << 26  # the most bytes after the audio that are checked for being all zeros


class Incomplete(ValueError):
    """Raised if a file holds less than it promises, or more that may or may not be audio."""


@dataclass(frozen=True)
class Part:
    """One stream of a file as libsndfile sees it: spans (start, stop) of the file, or literal bytes in place of one."""

    spans: tuple[Span, ...]
    samples: int | None = None  # promised by its header, if libsndfile is not told
    counted: bool = True  # whether its header promises a number of samples
    most: int | None = None  # samples, where libsndfile would decode padding as audio
    end: int = 0  # offset in the spans at which the audio ends, if known
    walked: bool = True  # whether its headers were walked here, not left to libsndfile
    found: tuple[Span, ...] = ()  # replaces the spans for seeking: in these libsndfile seeks quickly

    def left(self, at: int) -> int:
        """Bytes of audio after the point where libsndfile stopped; 0 if too few to say that it missed any."""
        return self.end - at if self.end - at > _JUNK else 0


_Walk = Callable[[BinaryIO, int, int], Generator[Part, None, int]]  # yields the streams, returns where they end
_One = Callable[[BinaryIO, int, int], tuple[Part, int] | None]


class View(io.RawIOBase):
    """Presents spans of a file, one after another, as a file of their own.

    ``error`` keeps the first exception raised while reading, since it cannot propagate through libsndfile.
    """

    def __init__(self, file: BinaryIO, spans: tuple[Span, ...]):
        self._file, self._at = file, 0
        sizes = [len(span) if isinstance(span, bytes) else max(0, span[1] - span[0]) for span in spans]
        self._spans, self._ends = spans, list(itertools.accumulate(sizes))
        self.error: BaseException | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._at, self._ends[-1])[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        out, done = memoryview(buffer).cast("B"), 0
        while done < len(out) and (data := self._next(len(out) - done)):
            out[done : done + len(data)] = data
            done += len(data)
            self._at += len(data)
        return done

    def _next(self, most: int) -> bytes:
        index = bisect.bisect_right(self._ends, self._at)  # past the empty ones
        if index == len(self._ends):
            return b""
        span, left = self._spans[index], self._ends[index] - self._at
        if isinstance(span, bytes):
            return span[len(span) - left :][:most]
        return _read(self._file, span[1] - left, min(most, left))


class Sink:
    """An unbuffered file for writing, of at most ``most`` bytes. ``error`` is the same as for a View."""

    def __init__(self, file: io.RawIOBase, most: int | None = None):
        self._file, self._most = file, most
        self.seek, self.tell = file.seek, file.tell
        self.error: BaseException | None = None

    def readinto(self, buffer: Any) -> int:
        raise io.UnsupportedOperation("it is only written")

    def write(self, data: memoryview) -> int:
        if self._most is not None and self._file.tell() + len(data) > self._most:
            raise ValueError(
                f"audio is too long for this kind of file, which holds {self._most} bytes; write .w64 or .flac"
            )
        done = 0
        while done < len(data):
            done += self._file.write(data[done:]) or 0
        return done


def parts(file: BinaryIO) -> list[Part] | None:
    """Returns the streams of an open file in order; None for a container that is left to libsndfile.

    Raises:
        Incomplete: if some of the audio is missing or could not be read.
    """
    size = file.seek(0, os.SEEK_END)
    start = _behind_tags(file, 0, size)
    size = _before_tags(file, start, size)
    streams = list(itertools.islice(_streams(file, start, size), _STREAMS + 1))
    if len(streams) > _STREAMS:
        raise Incomplete(f"it holds more than {_STREAMS} streams")
    return streams or None


# How files begin that libsndfile does not read, and what they are. Some contain mp3, which must not be searched for.
_FOREIGN = [
    (re.compile(start, re.DOTALL | re.IGNORECASE if start.startswith(rb"\s") else re.DOTALL), what)
    for start, what in (
        (rb"....ftyp", "MPEG-4 (.m4a, .mp4, .mov, .3gp), mostly with AAC or ALAC"),
        (rb"....(moov|mdat|wide|free|skip)....", "QuickTime (.mov, .mp4)"),
        (rb"\x1aE\xdf\xa3", "Matroska or WebM (.mka, .mkv, .webm)"),
        (rb"0&\xb2u\x8ef\xcf\x11", "Windows Media (.wma, .wmv, .asf)"),
        (rb"ADIF", "AAC (.aac)"),
        (rb"#!AMR|#!EVRC|#!SILK|\x02#!SILK", "AMR or another codec of telephones (.amr)"),
        (rb"MAC ", "Monkey's Audio (.ape)"),
        (rb"wvpk", "WavPack (.wv)"),
        (rb"TTA[12]", "True Audio (.tta)"),
        (rb"DSD |FRM8....", "DSD (.dsf, .dff)"),
        (rb"MPCK|MP\+", "Musepack (.mpc)"),
        (rb"OFR |ajkg|LA0[234]|tBaK", "a lossless codec that few programs know (OptimFROG, Shorten, LA, TAK)"),
        (rb"\.RMF|\.ra\xfd", "RealAudio or RealMedia (.ra, .rm)"),
        (rb"RIFF....AVI ", "video (.avi)"),
        (rb"FLV\x01", "video (.flv)"),
        (rb"\0\0\x01[\xba\xb3]", "MPEG video (.mpg, .vob)"),
        (rb"G.{187}G.{187}G", "an MPEG transport stream (.ts)"),
        (rb"MThd", "MIDI: notes, and no audio"),
        (
            rb"PK\x03\x04",
            "a zip archive (.zip, .npz, .pt): no audio, but vocos-onnx decode makes audio of tokens in .npz",
        ),
        (
            rb"\x93NUMPY",
            "a numpy array (.npy): no audio file, but np.load reads it, and vocos-onnx decode makes audio of tokens",
        ),
        (rb"\x1f\x8b|BZh\d1AY|\xfd7zXZ\0|7z\xbc\xaf|Rar!|\x28\xb5\x2f\xfd", "compressed: unpack it first"),
        (rb"%PDF-|\x89PNG|\xff\xd8\xff|GIF8[79]a", "a document or picture: no audio"),
        (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
        (rb"\s*<(!doctype|html|\?xml|head|body)", "a web page: no audio, as of a download that has failed"),
    )
]


def foreign(file: BinaryIO) -> str | None:
    """Identifies a file that libsndfile does not read by its first bytes; None for one that it may read.

    A colon in the text means that it names the remedy, which is not conversion.
    """
    head = _read(file, 0, 600)
    for start, what in _FOREIGN:
        if start.match(head) and not _container(head):
            return what
    return None


def unreadable(file: BinaryIO) -> str | None:
    """Guesses what a file is that libsndfile failed to read; None if libsndfile's own message says more."""
    size = file.seek(0, os.SEEK_END)
    if not size:
        return "the file is empty"
    head = _read(file, _behind_tags(file, 0, size), 4096)
    if re.match(rb"\xff[\xf0\xf1\xf8\xf9]|V[\xe0-\xff]", head):
        return "it looks like AAC (.aac)"
    if head[:2] == b"\x0bw":
        return "it looks like AC-3 (.ac3)"
    if head[:4] in (b"\x7f\xfe\x80\x01", b"\xfe\x7f\x01\x80"):
        return "it looks like DTS (.dts)"
    if not head.strip(b"\0"):
        return "it holds nothing but zeros" if _zeros(file, 0, size) else "it begins with zeros"
    if not re.search(rb"[^\t-\r\x20-\x7e\x80-\xff]", head):
        with suppress(UnicodeDecodeError):
            head[: len(head) - 4].decode()
            return "it holds text"
    return None


def _streams(file: BinaryIO, start: int, size: int) -> Iterator[Part]:
    """Yields the streams of the file, and of any files that were appended to it."""
    walk = _walk(file, start, size)
    if walk is None:
        if (found := _sync(file, start, size)) is None:
            return
        start, walk = found, _mpeg_only
    while walk is not None:
        end = yield from walk(file, start, size)
        start = _behind_tags(file, end, size)
        walk = _walk(file, start, size)
        if walk is not None or start == size:
            continue
        match = _ANY.search(_read(file, start, min(_JUNK, size - start)))
        if match and (walk := _walk(file, start + match.start(), size)) is not None:
            start += match.start()
        elif (found := _sync(file, start, size)) is not None:
            start, walk = found, _mpeg_only
        elif size - start > _JUNK and not _zeros(file, start, size):
            raise Incomplete(
                f"it says that its audio ends at byte {end}, and {size - start} more follow that are neither "
                "audio nor tags for sure: it was not closed properly, is damaged, or something was joined to it"
            )


def _walk(file: BinaryIO, start: int, size: int) -> _Walk | None:
    """Returns the function that walks the container at ``start``; None if the container is unknown."""
    head = _read(file, start, 32)
    if head[:4] == b"OggS":
        return _ogg
    if head[:4] == b"fLaC":
        return _flac
    if one := _container(head):
        return _once(one)
    if _frame(head) and _sync(file, start, size) == start:
        return _mpeg_only
    if head[:19] == b"Creative Voice File":
        return _voc
    if _old(file, start, size):
        return _once(_old)
    return None


def _once(one: _One) -> _Walk:
    def walk(file: BinaryIO, start: int, size: int) -> Generator[Part, None, int]:
        found = one(file, start, size)
        assert found
        yield found[0]
        return found[1]

    return walk


def _mpeg_only(file: BinaryIO, start: int, size: int) -> Generator[Part, None, int]:
    yield _mpeg(file, start, size)  # raises Incomplete for anything else that follows
    return size


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset >= 1 << 40:  # from a bogus header: some file systems cannot even seek there
        return b""
    file.seek(offset)
    return file.read(size)


def _behind_tags(file: BinaryIO, at: int, size: int) -> int:
    """Returns where the ID3v2 and APE tags at ``at`` end."""
    while at < size:
        head = _read(file, at, 32).ljust(32, b"\0")
        if head[:3] == b"ID3":
            at += 10 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(head[6:10])) + 10 * (head[5] >> 4 & 1)
        elif head[:8] == b"APETAGEX":  # in a header this is the size of the rest
            at += 32 + (int.from_bytes(head[12:16], "little") if head[23] & 32 else 0)
        elif head[:3] == b"TAG":  # ID3v1 of a file that was joined
            at += 128
        else:
            break
    return min(at, size)


def _before_tags(file: BinaryIO, start: int, stop: int) -> int:
    """Returns where the ID3v1, ID3v2, APE and Lyrics3 tags that end at ``stop`` begin."""
    while True:
        tail = _read(file, max(start, stop - 128), min(128, stop - start)).rjust(128, b"\0")
        length, begin = 0, b""
        if tail[:3] == b"TAG":
            length = 128
        elif tail[-32:-24] == b"APETAGEX":
            length = int.from_bytes(tail[-20:-16], "little")
            if tail[-9] & 128:  # there is a header, which the size excludes
                length, begin = length + 32, b"APETAGEX"
        elif tail[-10:-7] == b"3DI":
            length, begin = 20 + sum((byte & 127) << 7 * (3 - i) for i, byte in enumerate(tail[-4:])), b"ID3"
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            length, begin = 15 + int(tail[-15:-9]), b"LYRICSBEGIN"
        if not 0 < length <= stop - start or _read(file, stop - length, len(begin)) != begin:
            return stop
        stop -= length


def _truncated(promised: int, there: int) -> Incomplete:
    return Incomplete(f"it is truncated: its header promises {promised} bytes of audio, and it holds {there}")


# Chunks (RIFF, RIFX, RF64, W64, AIFF, IFF, CAF) and AU: a single length precedes the audio.


class _Kind(NamedTuple):
    form: re.Pattern[bytes]  # how the file begins
    first: int  # offset of the first chunk
    name: int  # bytes of a chunk's name; its size follows
    size: str
    whole: bool  # whether the size includes itself and the name
    pad: int  # chunks start at multiples of this
    audio: bytes


_KINDS = (
    _Kind(re.compile(rb"RIFF....WAVE", re.DOTALL), 12, 4, "<I", False, 2, b"data"),
    _Kind(re.compile(rb"RIFX....WAVE", re.DOTALL), 12, 4, ">I", False, 2, b"data"),
    _Kind(re.compile(rb"RF64....WAVE", re.DOTALL), 12, 4, "<I", False, 2, b"data"),
    _Kind(re.compile(rb"FORM....AIF[FC]", re.DOTALL), 12, 4, ">I", False, 2, b"SSND"),
    _Kind(re.compile(rb"FORM....(8SVX|16SV)", re.DOTALL), 12, 4, ">I", False, 2, b"BODY"),
    _Kind(re.compile(rb"riff\x2e\x91\xcf\x11", re.DOTALL), 40, 16, "<Q", True, 8, b"data"),
    _Kind(re.compile(rb"caff", re.DOTALL), 8, 4, ">Q", False, 1, b"data"),
)
_GUIDS = (bytes.fromhex("f3acd3118cd100c04f8edb8a"), bytes.fromhex("2f91cf11a5d628db04c10000"))  # W64 names end in
_ANY = re.compile(
    rb"|".join(
        [
            rb"2BIT",
            rb"NIST_1A\n",
            rb"\.snd",
            rb"dns\.",
            rb"OggS\x00\x02",
            rb"fLaC[\x00\x80]\x00\x00\x22",
            *(kind.form.pattern for kind in _KINDS),
        ]
    ),
    re.DOTALL,
)


def _container(head: bytes) -> _One | None:
    if head[:4] in (b".snd", b"dns."):
        return _au
    for kind in _KINDS:
        if kind.form.match(head):
            return lambda file, start, size: _chunks(file, start, size, kind)
    return None


def _zeros(file: BinaryIO, start: int, stop: int) -> bool:
    if stop - start > _FILL:
        return False
    return not any(_read(file, at, min(1 << 20, stop - at)).strip(b"\0") for at in range(start, stop, 1 << 20))


def _length(said: int, bits: int, there: int, more: bool) -> int | None:
    """Returns the audio's length in bytes according to its header; None if the writer did not know it.

    A writer to a pipe, or one that never closed the file, leaves 0, all ones, or a round number near the maximum.
    """
    largest = (1 << bits) - 1
    near = any(top - 0x10000 < said <= top + 1 for top in (largest, largest >> 1))
    if (said == 0 and there and not more) or (near and said > there):
        return None
    if said > there:
        raise _truncated(said, there)
    return said


def _au(file: BinaryIO, start: int, size: int) -> tuple[Part, int]:
    head = _read(file, start, 12).ljust(12, b"\0")
    order = ">" if head[:1] == b"." else "<"
    offset, said = struct.unpack(order + "4xII", head)
    audio = start + offset
    there = max(0, size - audio)
    length = _length(said, 32, there, False)
    end = size if length is None else audio + length
    return Part(((start, start + 8), b"\xff" * 4, (start + 12, end))), end


def _chunks(file: BinaryIO, start: int, size: int, kind: _Kind) -> tuple[Part, int]:
    """Returns the stream of the file that begins at ``start``, and where that file ends."""
    width = struct.calcsize(kind.size)
    header = kind.name + width
    at, codec, long = start + kind.first, 0, None
    for _ in range(_CHUNKS):
        head = _read(file, at, header + 2)
        if len(head) < header:
            return Part(((start, size),)), size  # libsndfile reports this better
        name, said = head[:4], struct.unpack(kind.size, head[kind.name : header])[0]
        if kind.whole:
            said -= header
        if name == b"ds64":
            long = at + header + 8
        if name == b"fmt ":
            codec = int.from_bytes(head[header:], "little")
        if name == kind.audio:
            break
        at += header + max(0, said)
        at += -(at - start) % kind.pad
    else:
        raise Incomplete(f"it is damaged: its first {_CHUNKS} chunks hold no audio")
    audio, where, bits = at + header, at + kind.name, 8 * width
    if long is not None:
        where, width, bits = long, 8, 64
        said = int.from_bytes(_read(file, long, 8), "little")
    there = size - audio
    first, _ = _more(file, audio + max(0, said), size, start, kind)
    length = _length(said % (1 << bits), bits, there, first)
    if length is None:
        length = end = there
        if length >= 1 << 8 * width:
            raise Incomplete(f"it holds {length} bytes of audio, and its kind of header cannot say more than 4 GiB")
        end = size
    else:
        end = _more(file, audio + length, size, start, kind)[1]
    if codec in (0x50, 0x55) and _frame(_read(file, audio, 4)):  # mp3 in a WAV, whose sample count is unreliable
        return _mpeg(file, audio, audio + length), end
    patch = struct.pack(kind.size[0] + "IQ"[width > 4], length + (header if kind.whole else 0))
    most = length // 65 * 320 if codec == 0x31 else None  # GSM 6.10
    return Part(((start, where), patch, (where + width, end)), most=most, end=audio + length - start), end


def _more(file: BinaryIO, at: int, size: int, start: int, kind: _Kind) -> tuple[bool, int]:
    """Returns whether chunks follow the audio, and where the last of them ends."""
    header, found = kind.name + struct.calcsize(kind.size), False
    end = min(at, size)
    for _ in range(_CHUNKS):
        for begin in (end, end + -(end - start) % kind.pad):  # some writers omit the padding
            head = _read(file, begin, 24).ljust(24, b"\0")
            if _ANY.match(head):
                return found, end
            known = kind.name == 4 or head[4:16] in _GUIDS
            length = struct.unpack(kind.size, head[kind.name : header])[0] + (0 if kind.whole else header)
            if known and re.match(rb"[ -~\xa9][ -~]{3}", head) and header <= length <= size - begin:
                break
        else:
            break
        end, found = begin + length, True
    return found, end


def _old(file: BinaryIO, start: int, size: int) -> tuple[Part, int] | None:
    """A file in an old format whose header states its length, which libsndfile does not enforce.

    PAF, PVF, IRCAM, and XI as libsndfile writes it state none: there, truncated or appended data cannot be detected.
    """
    found = _promised(file, start)
    if found is None:
        return None
    end, certain = found
    if certain > size - start:
        raise _truncated(certain, size - start)
    end = min(start + end, size)
    return Part(((start, end),)), end


def _promised(file: BinaryIO, start: int) -> tuple[int, int] | None:
    """Returns the size in bytes that an old format's header states, at most and at least; None if it states none."""
    head = _read(file, start, 1024).ljust(1024, b"\0")
    header = length = 0
    if head[:4] == b"2BIT":  # AVR
        stereo, bits, frames = struct.unpack(">12xhh10xI", head[:30])
        header, length = 128, frames * (2 if stereo else 1) * (bits // 8)
    elif head[:15] == b"ALawSoundFile**":  # WVE
        header, length = 32, struct.unpack(">I", head[18:22])[0]
    elif head[:2] == b"\1\4" and head[20] < 128 and head[21] < 2:  # MPC 2000
        header, length = 42, struct.unpack("<I", head[30:34])[0] * 2 * (1 + head[21])
    elif head[:7] == b"NIST_1A":
        said = dict(re.findall(rb"(\w+) -(?:i|s\d+) (\d{1,12})\n", head))
        frames, channels, width = (
            int(said.get(key, b"0")) for key in (b"sample_count", b"channel_count", b"sample_n_bytes")
        )
        offset = re.match(rb"NIST_1A\n *(\d{1,9})\n", head)
        header, length = int(offset[1]) if offset else 0, frames * channels * width
    elif head[:21] == b"Extended Instrument: " and head[296:298] == b"\1\0":  # XI of one sample
        header, length = 338, struct.unpack("<I", head[298:302])[0]
    elif head[:2] == b"\xf0\x7e" and head[3] == 1:  # SDS: packets of 120 bytes
        frames = head[10] | head[11] << 7 | head[12] << 14
        packets = -(-frames * max(2, -(-head[6] // 7)) // 120)
        _check_packets(_read(file, start + 21, 127 * packets))
        header, length = 21, 127 * packets
    elif head[:10] == b"MATLAB 5.0":
        order, at = "<>"[head[126:128] == b"MI"], 128
        for _ in range(_CHUNKS):
            kind, size = struct.unpack(order + "II", _read(file, start + at, 8).ljust(8, b"\0"))
            if not 1 <= kind <= 18:
                break
            at += 8 + size
        if b"libsndfile" in head[:116]:  # libsndfile itself writes 8 too many
            at -= 8
        return at, at
    elif head[20:31] == b"samplerate\0":  # MAT 4
        order = "<>"[head[:4] == b"\0\0\3\xe8"]
        kind, rows, columns, name = struct.unpack(order + "3I4xI", head[39:59])
        header, length = 59 + name, rows * columns * (8, 4, 4, 2, 2, 1, 0, 0, 0, 0)[kind // 10 % 10]
    return (header + length, header + length) if header and length > 0 else None


def _voc(file: BinaryIO, start: int, size: int) -> Generator[Part, None, int]:
    """Merges the sound blocks of one format into one: libsndfile would decode their headers as audio."""
    first = at = start + int.from_bytes(_read(file, start + 20, 2), "little")
    extended = b""  # the block that makes a block of type 1 stereo
    form = (b"", b"")  # format of the sound, and the head of its first block
    sounds: list[tuple[int, int]] = []

    def part() -> Part:
        length = len(form[1]) - 4 + sum(stop - begin for begin, stop in sounds)
        block = form[1][:1] + length.to_bytes(3, "little") + form[1][4:]
        return Part(((start, first), form[0] + block, *sounds, b"\0"))

    while True:
        head = _read(file, at, 16)
        kind, stop = (head[0], at + 4 + int.from_bytes(head[1:4], "little")) if len(head) >= 4 else (0, at)
        if not 1 <= kind <= 9:
            break
        if kind == 9 and size - stop in (8, 9) and _read(file, stop + 8, 1) in (b"", b"\0"):
            stop += 8  # as sox counts the size
        if stop > size:
            raise _truncated(stop - at - 4, size - at - 4)
        if kind == 8:
            extended = _read(file, at, min(8, stop - at))
        elif kind in (1, 2, 9):
            own = {1: 6, 2: 4, 9: 16}[kind]
            now = form if kind == 2 else (extended, head[:1] + bytes(3) + head[4:own])
            if not now[1]:
                raise Incomplete("it is damaged: its first block of audio goes on with one that is not there")
            if sounds and (now != form or sum(b - a for a, b in sounds) + stop - at > _MOST_OF_A_BLOCK):
                yield part()
                sounds = []
            form, extended = now, b""
            sounds.append((at + own, max(stop, at + own)))
        elif kind not in (4, 5):  # markers and text
            raise Incomplete("it has blocks of silence or repetition, which libsndfile leaves out")
        at = stop
    yield part() if sounds else Part(((start, at),))
    return min(size, at + 1)


_MOST_OF_A_BLOCK = (1 << 24) - 64


def _check_packets(data: bytes) -> None:
    """Raises Incomplete for packets that would make libsndfile print to standard output; ignores truncation."""
    packets = np.frombuffer(data[: len(data) // 127 * 127], np.uint8).reshape(-1, 127)
    sums = np.bitwise_xor.reduce(packets[:, 1:125], axis=1) & 127
    bad = (packets[:, [0, 1, 3]] != (0xF0, 0x7E, 2)).any(axis=1) | (sums != packets[:, 125])
    if bad.any():
        raise Incomplete(f"it is damaged: its packet {int(bad.argmax())} is none, or has another checksum")


# Ogg: pages of one or more interleaved streams; the next link of a chain starts new streams.


def _ogg(file: BinaryIO, start: int, size: int) -> Generator[Part, None, int]:
    at, begin, opening = start, start, True
    audio: int | None = None  # the serial number of the link's audio stream
    ended, expected = False, 0
    flac: _OggFlac | None = None

    def link(end: int) -> Part:
        if audio is not None and not ended:
            raise Incomplete(
                f"it is truncated: the stream that begins at byte {begin} has no last page, so that the end is missing"
            )
        return Part(((begin, end),))

    end = start
    while at < size:
        head = _read(file, at, 27 + 255 + 8)
        if head[:4] != b"OggS":
            between = _read(file, at, min(_JUNK, size - at))
            found = re.search(rb"OggS\0|" + _ANY.pattern, between, re.DOTALL)
            if not found or found[0][:4] != b"OggS":
                break
            at += found.start()
            continue
        if len(head) < 27:
            raise Incomplete(f"it is truncated: its page at byte {at} is cut off")
        flags, serial, number, count = head[5], *struct.unpack("<8xII4xB", head[6:27])
        body = at + 27 + count
        stop = body + sum(head[27 : 27 + count])
        if stop > size or len(head) < 27 + count:
            raise Incomplete(f"it is truncated: its page at byte {at} is cut off")
        page = _read(file, at, stop - at)
        if not _page_is_whole(page):
            raise Incomplete(f"it is damaged: the checksum of its page at byte {at} is wrong")
        if flags & 2:
            if not opening:
                if flac:
                    flac.check()
                yield link(at)
                begin, audio, ended, opening, flac = at, None, False, True, None
            if re.match(rb"\x01vorbis|OpusHead|\x7fFLAC|Speex", _read(file, body, 8)):
                if audio is not None:
                    raise Incomplete("it holds several tracks of audio at a time, of which only one could be read")
                audio, expected = serial, number
                flac = _OggFlac() if page[body - at :][:5] == b"\x7fFLAC" else None
        else:
            opening = False
        if serial == audio:
            if number != expected:
                raise Incomplete(f"it is damaged: pages are missing before byte {at} (page {expected}, then {number})")
            expected, ended = (number + 1) % (1 << 32), bool(flags & 4)
            if flac:
                flac.add_page(page, at)
        at = end = stop
    if flac:
        flac.check()
    yield link(end)
    return end


class _OggFlac:
    """The FLAC frames in the pages of a stream, one packet each."""

    def __init__(self) -> None:
        self._checked = _FlacFrames()
        self._packet, self._place = b"", 0

    def add_page(self, page: bytes, place: int) -> None:
        at = 27 + page[26]
        for length in page[27:at]:
            self._place = self._place if self._packet else place + at
            self._packet += page[at : at + length]
            at += length
            if length < 255:
                if _FLAC_SYNC.match(self._packet):  # anything else is a header, and none begins like this
                    self._checked.add(self._packet, self._place)
                elif self._packet[:1] == b"\xff":
                    raise Incomplete(f"it is damaged: what begins at byte {self._place} is no FLAC frame")
                self._packet = b""

    def check(self) -> None:
        self._checked.check()


_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _page_is_whole(page: bytes) -> bool:
    """Whether a page's checksum is right: zlib's CRC-32, but with the bit order reversed and an initial value of 0."""
    mirrored = (page[:22] + bytes(4) + page[26:]).translate(_MIRRORED)
    checksum = zlib.crc32(mirrored, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return checksum.to_bytes(4, "big").translate(_MIRRORED) == page[22:26]


def _find(file: BinaryIO, what: re.Pattern[bytes], at: int, size: int) -> int | None:
    """Returns where the first match of a pattern begins; a match may be at most 16 bytes long."""
    length = 1 << 12
    while at < size:
        block = _read(file, at, min(length, size - at))
        if found := what.search(block):
            return at + found.start()
        at += max(1, len(block) - 16)
        length = min(2 * length, 1 << 20)
    return None


# FLAC: the header has the number of samples, 0 if unknown. libFLAC returns zeros for a damaged frame, and makes up a
# missing one.

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_FLAC_FRAMES = 1 << 23  # bytes of frames to compute checksums of at once


def _flac(file: BinaryIO, start: int, size: int) -> Generator[Part, None, int]:
    """Gives libsndfile the largest sample count, so it reads everything; the true count is checked afterwards."""
    audio, last = start + 4, False
    while not last and audio < size:  # metadata blocks
        head = _read(file, audio, 4)
        last = not head or head[0] & 128 > 0
        audio += 4 + int.from_bytes(head[1:], "big")
    block, frame, format = struct.unpack(">2xH3x3s8s", _read(file, start + 8, 18).ljust(18, b"\0"))
    channels, bits = format[2] >> 1 & 7, (format[2] & 1) << 4 | format[3] >> 4
    longest = max(int.from_bytes(frame, "big"), 1024 + block * (channels + 1) * (bits + 2) // 8)
    info = int.from_bytes(_read(file, start + 18, 8).ljust(8, b"\0"), "big")
    samples, unknown = info & ((1 << 36) - 1), ((1 << 36) - 1)
    end = _flac_end(file, audio, _find(file, _FLAC, audio, size) or size, longest, info >> 44, samples > 0)
    patch = (info | unknown).to_bytes(8, "big")
    spans: tuple[Span, ...] = ((start, start + 18), patch, (start + 26, end))
    yield Part(spans, samples or None, bool(samples), found=((start, end),))  # libFLAC bisects from the middle
    return end


def _flac_end(file: BinaryIO, audio: int, stop: int, longest: int, rate: int, counted: bool) -> int:
    """Returns where the FLAC frames that begin at ``audio`` end: after the last one whose number is consecutive.

    Raises Incomplete if a frame's checksum is wrong, or a frame is missing.
    """
    first: bytes | None = None  # the head of the first frame
    expected, begin, at = 0, audio, audio
    other = 0  # where after ``begin`` a frame with another number seems to start
    checked = _FlacFrames()
    while at < stop:
        block = _read(file, at, min(1 << 20, stop - at) + 16)
        for match in _FLAC_SYNC.finditer(block):
            head = block[match.start() : match.start() + 16]
            frame = _flac_frame(head) if match.start() < 1 << 20 else None
            if frame is None:
                continue
            here = at + match.start()
            if first is None:
                _check_flac_head(head, rate, here - audio, audio)
                if frame[0]:  # libFLAC would make up audio for the missing ones
                    raise Incomplete(
                        f"it is damaged or cut: its FLAC frames begin with number {frame[0]}, and not with 0"
                    )
                first = head
            elif (head[1], head[2] & 15, head[3] & 14) != (first[1], first[2] & 15, first[3] & 14):
                continue  # a chance match: within a stream these bits are constant
            if frame[0] != expected:
                other = other or here
                continue
            if here > begin:
                data = _between(file, begin, here, block, at)
                if other and not _crc_16([data[: other - begin]]).any():  # else ``other`` was a chance match
                    raise _out_of_order(other, expected)
                checked.add(data, begin)
            begin, expected, other = here, frame[1], 0
        at += 1 << 20
    if first is None:
        return stop
    checked.check()
    if other:
        raise _out_of_order(other, expected)
    # The size of the last frame is not stored: the frame ends where its checksum is right, which by chance also happens
    # elsewhere.
    ends, checksum = [], 0
    for offset, byte in enumerate(_read(file, begin, min(stop - begin, longest)), 1):
        checksum = (checksum << 8 & 0xFFFF) ^ _CRC_16[checksum >> 8 ^ byte]
        if not checksum and offset > 8:
            ends.append(begin + offset)
    if not ends:
        raise Incomplete(
            f"it is truncated or damaged: its last FLAC frame, which begins at byte {begin}, is cut off, or its "
            "checksum is wrong"
        )
    for end in ends:
        if end < stop - 2 and _zeros(file, end, stop):  # the checksum stays right over zeros
            return end
        with suppress(Incomplete):  # from bytes that only look like a header
            if end == stop or _walk(file, _behind_tags(file, end, stop), stop):
                return end
    near = [end for end in ends if stop - end <= _JUNK]
    end = (near or ends)[0]
    rest = _behind_tags(file, end, stop)
    if not counted and 0 < stop - rest <= _JUNK and not _zeros(file, rest, stop):
        raise Incomplete(f"it is damaged: what begins at byte {rest} is neither a FLAC frame nor a tag")
    return end


def _out_of_order(place: int, expected: int) -> Incomplete:
    return Incomplete(f"it is damaged: at byte {place} its FLAC frame of number {expected} is missing or damaged")


def _between(file: BinaryIO, begin: int, end: int, block: bytes, at: int) -> bytes:
    return block[begin - at : end - at] if begin >= at else _read(file, begin, end - begin)


class _FlacFrames:
    """Collects FLAC frames and verifies their checksums, many at a time."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._places: list[int] = []
        self._longest = 0

    def add(self, frame: bytes, place: int) -> None:
        longest = max(self._longest, len(frame) + len(frame) % 2)
        if self._frames and longest * (len(self._frames) + 1) > _FLAC_FRAMES:
            self.check()
            longest = len(frame) + len(frame) % 2
        self._frames.append(frame)
        self._places.append(place)
        self._longest = longest

    def check(self) -> None:
        """Raises Incomplete if the checksum of a frame is wrong."""
        wrong = _crc_16(self._frames)
        if wrong.any():
            place = self._places[int((wrong != 0).argmax())]
            raise Incomplete(f"it is damaged: the checksum of its FLAC frame at byte {place} is wrong")
        self._frames, self._places, self._longest = [], [], 0


def _crc_16(frames: list[bytes]) -> npt.NDArray[np.uint16]:
    """The CRC-16 of each whole frame: 0 if the checksum at its end is right. Leading zeros change nothing."""
    longest = max(map(len, frames), default=0)
    aligned = b"".join(frame.rjust(longest + longest % 2, b"\0") for frame in frames)
    words = np.frombuffer(aligned, ">u2").reshape(len(frames), -1 if aligned else 0).T.astype(np.uint16, order="C")
    table, checksums = _crc_16_of_words(), np.zeros(len(frames), np.uint16)
    for row in words:
        checksums = table[checksums ^ row]
    return checksums


_FLAC_RATES = (0, 88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)


def _check_flac_head(head: bytes, rate: int, before: int, audio: int) -> None:
    """Raises Incomplete if the first frame does not directly follow the header, or contradicts it."""
    if before:
        raise Incomplete(f"it is damaged: the {before} bytes from byte {audio} on are no FLAC frame, and more follow")
    said = dict(enumerate(_FLAC_RATES)).get(head[2] & 15)
    if said and said != rate:
        raise Incomplete(f"it is damaged: its header says {rate} Hz, and its FLAC frames are of {said} Hz")


def _flac_frame(head: bytes) -> tuple[int, int] | None:
    """Parses a FLAC frame header: the number (of the first sample if sizes vary) of it and of the next, or None."""
    size, rate = head[2] >> 4, head[2] & 15 if len(head) > 5 else 15
    if not size or rate == 15 or head[3] >> 4 > 10 or head[3] & 1:
        return None
    more = max(0, 8 - (head[4] ^ 255).bit_length() - 1)  # continuation bytes, as in UTF-8
    number = head[4] & (127 >> more) if more else head[4]
    for byte in head[5 : 5 + more]:
        number = number << 6 | byte & 63
    at = 5 + more
    width = {6: 1, 7: 2}.get(size, 0)
    samples = int.from_bytes(head[at : at + width], "big") + 1
    if not width:
        samples = 192 if size == 1 else 576 << size - 2 if size < 6 else 256 << size - 8
    at += width + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(head) or _crc_8(head[:at]) != head[at]:
        return None
    return number, number + (samples if head[1] & 1 else 1)


def _crc_8(data: bytes) -> int:
    checksum = 0
    for byte in data:
        checksum ^= byte
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x107 if checksum & 128 else 0)) & 0xFF
    return checksum


@cache
def _crc_16_of_words() -> npt.NDArray[Any]:
    """FLAC's CRC-16 advanced by two bytes, for every value of the CRC XORed with them."""
    table: npt.NDArray[Any] = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        table = table << 1 ^ (table >> 15) * np.uint32(0x18005)
    return table.astype(np.uint16)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        checksum = byte << 8
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x18005 if checksum & 0x8000 else 0)) & 0xFFFF
        table.append(checksum)
    return table


_CRC_16 = _crc_table()


# MPEG audio: frames, each with a header; their number, if present at all, is in a first frame without sound.


class _Frame(NamedTuple):
    version: int  # 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
    layer: int
    rate: int
    mono: bool
    samples: int
    size: int  # in bytes, 4 of them the header; 0 in the free format, which does not state it


_KBPS = {
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def _frame(head: bytes, free: int = 0) -> _Frame | None:
    """Parses a frame header (ISO 11172-3, 2.4.1.3, and ISO 13818-3); None if it is not one.

    ``free`` is the size, without padding, of frames in the free format.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    hertz = (44100, 48000, 32000)[rate] >> {3: 0, 2: 1, 0: 2}[version]
    samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
    bits = _KBPS[version == 3, layer][bitrate] * 1000
    slot = 4 if layer == 1 else 1
    size = (samples // 8 * bits // hertz // slot + padding) * slot if bits else free and free + padding * slot
    return _Frame(version, layer, hertz, head[3] >> 6 == 3, samples, size)


def _mpeg(file: BinaryIO, start: int, stop: int) -> Part:
    """The frames between two bytes, preceded by their correct number.

    libsndfile reads as many samples as the first frame states, or else as its bitrate suggests.
    """
    free = _free(file, start, stop)
    first = _frame(_read(file, start, 4), free)
    if first is None or not first.size:
        return Part(((start, stop),))
    frames, runs, cut = _frames(file, start, stop, first, free)
    body = _read(file, start, first.size)
    side = _side(first)
    info = re.match(rb"(?:.{%d}|.{%d})(?:Xing|Info)...(.)" % (side, side + 2), body, re.DOTALL)
    count = None  # offset of the number
    if first.layer == 3 and info and info[1][0] & 1:
        count = info.end()
    elif first.layer == 3 and body[36:40] == b"VBRI":
        count = 36 + 14
    if count:
        frames -= 1
        promised = int.from_bytes(body[count : count + 4], "big")
        bytes_promised = int.from_bytes(body[count + 4 : count + 8], "big") if info and info[1][0] & 2 else 0
        cut = cut or sum(stop - start for start, stop in runs) < bytes_promised
        if promised > frames + (not cut):  # some writers count the first frame too; then no bytes are missing
            raise Incomplete(f"it is truncated: its header promises {promised} mp3 frames, and it holds {frames}")
    elif cut:
        raise Incomplete(f"it is truncated: its last mp3 frame, number {frames + 1}, is cut off")
    (begin, end), *others = runs
    if first.layer < 3:  # has no such frame, but no variable bitrate either
        return Part(tuple(runs), frames * first.samples)
    if not count:
        return Part((_info(body, first, frames), *runs))
    if not info:  # VBRI, which libsndfile does not support
        return Part((_info(body, first, frames), (begin + first.size, end), *others))
    size = sum(stop - start for start, stop in runs)
    flags = info[1][0]
    said = bytearray(body)
    said[count : count + (8 if flags & 2 else 4)] = struct.pack(">II", frames, size)[: 8 if flags & 2 else 4]
    if promised < frames:  # the padding is that of the first of several recordings
        at = count + 4 + 4 * (flags >> 1 & 1) + 100 * (flags >> 2 & 1) + 4 * (flags >> 3 & 1) + 21
        said[at + 1 : at + 3] = bytes((said[at + 1] & 0xF0, 0)) if at + 3 <= len(said) else b""
    return Part((bytes(said), (begin + first.size, end), *others))


def _side(frame: _Frame) -> int:
    """Bytes of an mp3 frame before its samples: the header and the side information."""
    return 4 + ((17 if frame.mono else 32) if frame.version == 3 else (9 if frame.mono else 17))


def _info(body: bytes, first: _Frame, frames: int) -> bytes:
    """Frames that state how many follow, so libsndfile decodes all samples of that many frames, from the first one on.

    libsndfile drops the delay that the header states (LAME's "mp3 info tag") and another 529 samples: a frame of
    silence supplies these.
    """
    head = bytes((0xFF, body[1] | 1, 0x80 | body[2] & 12, body[3]))  # no checksum, a common bitrate
    frame = _frame(head)
    assert frame
    delay = ((first.samples - 529) << 12).to_bytes(3, "big")
    info = head.ljust(_side(first), b"\0") + struct.pack(">4sII9s12x3s", b"Info", 1, frames + 1, b"LAME3.100", delay)
    return info.ljust(frame.size, b"\0") + head.ljust(frame.size, b"\0")


_SYNC = re.compile(rb"\xff[\xe2-\xff]")


def _sync(file: BinaryIO, start: int, stop: int) -> int | None:
    """Returns where the first run of frames begins if near ``start``, such as after half a frame or a stray byte."""
    data = _read(file, start, min(_JUNK, stop - start) + 3)
    for found in _SYNC.finditer(data):
        begin = at = start + found.start()
        free = 0 if found.start() else _free(file, begin, stop)
        first = frame = _frame(data[found.start() : found.start() + 4], free)
        for number in range(5):
            if number > 3 and at <= stop:
                return begin
            if at == stop and number > (begin > start):
                return begin
            if not frame or not first or not frame.size or not _same(frame, first) or at > stop:
                if begin == start and number > 0 and at <= stop and (number > 1 or _behind_tags(file, at, stop) > at):
                    return begin  # what is in between is checked later
                break
            at += frame.size
            frame = _frame(_read(file, at, 4), free)
    return None


def _free(file: BinaryIO, start: int, stop: int) -> int:
    """Returns the unpadded size of the first frame if it is in the free format: the distance to the next header."""
    head = _read(file, start, 4)
    first = _frame(head)
    if first is None or first.size:
        return 0
    data = _read(file, start, min(1 << 14, stop - start))
    for found in _SYNC.finditer(data, 24):
        size = found.start() - (head[2] >> 1 & 1) * (4 if first.layer == 1 else 1)
        at = 0
        for _ in range(3):
            frame = _frame(data[at : at + 4], size)
            if not frame or not _same(frame, first) or data[at + 2] >> 4:
                break
            at += frame.size
        else:
            return size
    return 0


def _frames(file: BinaryIO, start: int, stop: int, first: _Frame, free: int) -> tuple[int, list[tuple[int, int]], bool]:
    """Returns the number of frames like the first, the runs that they form, and whether the last one is cut off."""
    sizes: dict[bytes, int] = {}
    runs: list[tuple[int, int]] = []
    buffer, base, at, begin, frames = b"", start, start, start, 0
    while at < stop:
        if at + 4 > base + len(buffer):
            buffer, base = _read(file, at, min(1 << 20, stop - at)), at
        head = buffer[at - base : at - base + 4]
        size = sizes.get(head)
        if size is None:
            frame = _frame(head, free)
            size = frame.size if frame and _same(frame, first) else 0
            if size:
                sizes[head] = size
        if size and at + size <= stop:
            frames += 1
            at += size
            continue
        if at > begin:
            runs.append((begin, at))
        if size:
            return frames, runs, True
        begin = at = _next_frame(file, at, stop, first, free)
    if at > begin:
        runs.append((begin, at))
    return frames, runs, False


def _same(one: _Frame, other: _Frame) -> bool:
    return one[:4] == other[:4]


def _next_frame(file: BinaryIO, lost: int, stop: int, first: _Frame, free: int) -> int:
    """Returns where the frames resume after tags and padding. Raises Incomplete if anything else is in between."""
    at, before = lost, -1
    while before < at < stop:
        before, at = at, _behind_tags(file, at, stop)
        found = _find(file, re.compile(rb"[^\0]"), at, stop)
        at = stop if found is None else found
    for sync in _SYNC.finditer(_read(file, at, min(_JUNK, stop - at))):
        begin = following = at + sync.start()
        frame = _frame(_read(file, begin, 4), free)
        for _ in range(3):  # a single apparent header may be anything
            there = _frame(_read(file, following, 4), free)
            if not frame or not there or not there.size or not _same(there, frame):
                break
            following += there.size
        else:
            following = stop
        if not frame or following == begin:
            continue
        if following < stop and _read(file, following, 3) not in (b"TAG", b"ID3", b"APE"):
            continue
        if not _same(frame, first):
            raise Incomplete(
                f"its audio changes from {_words(first)} to {_words(frame)} at byte {begin}: it was joined from several"
            )
        if begin > at:
            raise Incomplete(
                f"it is damaged: the {begin - at} bytes from byte {at} on are no mp3 frames, and more follow"
            )
        return begin
    if stop - at > _JUNK:
        raise Incomplete(f"it is damaged: what follows byte {at} is no mp3 frame")
    return stop


def _words(frame: _Frame) -> str:
    return f"{'one channel' if frame.mono else 'two channels'} at {frame.rate} Hz"
