"""Identifies a file or stream by its extension or first bytes, to name it in messages and tell it from raw audio."""

from __future__ import annotations

from dataclasses import dataclass

UNREAD = (".wv", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka")  # audio that libsndfile does not read
# In a folder, files with these extensions are inputs; a file with any other extension can be passed by name.
AUDIO = (
    ".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".voc", ".sph", *UNREAD,
)  # fmt: skip
ARRAYS = (".npz", ".npy")
TOKENS = (*ARRAYS, ".json", ".safetensors")

_ENOUGH, _VARIED = 64, 8  # bytes of text, and distinct values among them: a constant level may look like text
_FRAMES = 4096  # bytes within which two frames of mp3 or ADTS begin


@dataclass(frozen=True)
class Kind:
    """``name`` with its article; ``group`` is "audio", "array" (numpy's), "text" or "other"."""

    name: str
    group: str


_NPY, _ZIP = Kind("an .npy file", "array"), Kind("a zip archive, such as .npz", "array")
TEXT = Kind("text", "text")
# Each has four bytes or more, or needs further checks: raw audio begins like one by chance at most once in 2**32 times.
# Where one is a prefix of another, the longer one comes first.
_STARTS: dict[bytes, Kind] = {
    b"RIFF": Kind("a RIFF file, such as .wav", "audio"),
    b"RIFX": Kind("a RIFX file (.wav)", "audio"),
    b"RF64": Kind("an RF64 file (.wav)", "audio"),
    b"BW64": Kind("a BW64 file (.wav)", "audio"),
    b"riff\x2e\x91\xcf\x11": Kind("a .w64 file", "audio"),
    b"FORM": Kind("an IFF file, such as .aiff", "audio"),
    b"fLaC": Kind("a .flac file", "audio"),
    b"OggS": Kind("an Ogg file (.ogg, .opus)", "audio"),
    b"caff": Kind("a .caf file", "audio"),
    b".snd": Kind("an .au file", "audio"),
    b"wvpk": Kind("a WavPack file (.wv)", "audio"),
    b"MAC ": Kind("a Monkey's Audio file (.ape)", "audio"),
    b"TTA1": Kind("a True Audio file (.tta)", "audio"),
    b"MPCK": Kind("a Musepack file (.mpc)", "audio"),
    b"DSD ": Kind("a .dsf file", "audio"),
    b"FRM8": Kind("a .dff file", "audio"),
    b"MThd": Kind("a MIDI file, which holds notes and no audio", "other"),
    b"#!AMR": Kind("an .amr file", "audio"),
    b"NIST_1A": Kind("a NIST SPHERE file (.sph)", "audio"),
    b"Creative Voice File": Kind("a .voc file", "audio"),
    b"ajkg": Kind("a Shorten file (.shn)", "audio"),
    b"2BIT": Kind("an .avr file", "audio"),
    b"\x1aE\xdf\xa3": Kind("a Matroska file (.webm, .mka, .mkv)", "audio"),
    b"0&\xb2u\x8ef\xcf\x11": Kind("an ASF file (.wma)", "audio"),
    b"FLV\x01": Kind("an .flv file", "audio"),
    b"\x00\x00\x01\xba": Kind("an MPEG file (.mpg)", "audio"),
    b"\x93NUMPY": _NPY,
    b"PK\x03\x04": _ZIP,
    b"PK\x05\x06": _ZIP,
    b"\xfd7zXZ\x00": Kind("an .xz archive", "other"),
    b"(\xb5/\xfd": Kind("a .zst archive", "other"),
    b"7z\xbc\xaf'\x1c": Kind("a .7z archive", "other"),
    b"Rar!": Kind("a .rar archive", "other"),
    b"%PDF": Kind("a .pdf file", "other"),
    b"\x7fELF": Kind("a program", "other"),
    b"\x89PNG": Kind("a picture (.png)", "other"),
    b"ECDC": Kind("an .ecdc file, of EnCodec's compressor", "other"),
    **{b"ID3" + bytes([version, 0]): Kind("an .mp3 file", "audio") for version in (2, 3, 4)},
    **{b"\x1f\x8b\x08" + bytes([flags]): Kind("a gzip archive", "other") for flags in range(32)},
    **{b"BZh" + bytes([size]) + b"1AY&SY": Kind("a .bz2 archive", "other") for size in b"123456789"},
}
_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"wide", b"free")  # of ISO media and QuickTime, after a length
_MEDIA = Kind("an MPEG-4 file (.m4a, .mp4, .mov)", "audio")
_PRINTED = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\r\n")
_MP3_KBPS = (
    (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),  # layer I
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),  # II
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # III
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),  # I of lower rates
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # II and III of lower rates
)


def kind_of(head: bytes, ended: bool) -> tuple[Kind | None, bool]:
    """Returns the kind of data that begins so, if known, and whether more bytes may tell (not if ``ended``)."""
    for start, kind in _STARTS.items():
        if head.startswith(start):
            return kind, False
    more = len(head) < 20 and any(start.startswith(head) for start in _STARTS)
    if head[:1] == b"\xff" and head[1:2] >= b"\xe0":  # mp3 and ADTS
        more = more or len(head) < 8
    if head[:2] == b"\0\0":
        box = head[4:8]
        if box in _BOXES:
            return _MEDIA, False
        more = more or len(head) < 8
    for length, name in ((_mp3_frame, "an .mp3 file"), (_adts_frame, "an AAC file (.aac)")):
        at = length(head, 0)
        for _ in range(2):  # a single match may well be raw audio
            if not at:
                break
            if at + 8 > len(head):
                more = more or at < _FRAMES
                break
            again = length(head, at)
            at = at + again if again and _same_stream(head, at) else 0
        else:
            if at:
                return Kind(name, "audio"), False
    if head and _PRINTED.issuperset(head[:_ENOUGH]):
        if len(head) >= (16 if ended else _ENOUGH):
            return (TEXT if len(set(head[:_ENOUGH])) >= _VARIED else None), False
        more = True
    return None, more and not ended


def _same_stream(head: bytes, at: int) -> bool:
    """Whether the frame at ``at`` has the same version, layer and sample rate as the first."""
    return head[at + 1] == head[1] and head[at + 2] & 0x0C == head[2] & 0x0C


def _mp3_frame(head: bytes, at: int) -> int:
    """The length of the MPEG audio frame that begins at ``at``, or 0."""
    if len(head) < at + 4 or head[at] != 0xFF or head[at + 1] & 0xE0 != 0xE0:
        return 0
    version, layer = head[at + 1] >> 3 & 3, 4 - (head[at + 1] >> 1 & 3)  # versions: 2.5, none, 2, 1
    rate_index, kbps_index = head[at + 2] >> 2 & 3, head[at + 2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or kbps_index in (0, 15) or head[at + 3] & 3 == 2:
        return 0
    row = layer - 1 if version == 3 else 3 if layer == 1 else 4
    rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[at + 2] >> 1 & 1
    if layer == 1:
        return (12_000 * _MP3_KBPS[row][kbps_index] // rate + padding) * 4
    samples = 72_000 if layer == 3 and version != 3 else 144_000
    return samples * _MP3_KBPS[row][kbps_index] // rate + padding


def _adts_frame(head: bytes, at: int) -> int:
    """The length of the AAC frame (ADTS) that begins at ``at``, or 0."""
    if len(head) < at + 7 or head[at] != 0xFF or head[at + 1] & 0xF6 != 0xF0 or head[at + 2] >> 2 & 15 > 12:
        return 0
    length = (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
    return length if length > 7 else 0
