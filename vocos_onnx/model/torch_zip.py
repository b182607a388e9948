"""Reads the archives that ``torch.save`` has written since torch 1.6: a pickle, and the raw values of each storage.

Zip archives are described in PKWARE's APPNOTE.TXT. Zip readers disagree about unusual archives, so those are rejected:
members that are compressed, duplicated or overlapping, anything but the directory immediately before the end records,
and anything after them. The contents of a member follow its local header, whose length only the header itself states,
because torch pads it to align the values.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from .stored import Place, RefusedError, Stored, WeightsFile
from .torch_pickle import MAX_PICKLE, View, unpickled

MAGIC = b"PK\3\4"
_MAX_DIRECTORY = 4 << 20  # bytes; a member takes about 60
_VERSIONS = range(1, 11)  # of torch's archives, which currently state 3
_LIGHTNING_PARTS = ("feature_extractor.", "backbone.", "head.")  # the rest are discriminators and losses

_END = struct.Struct("<4s4H2IH")
_END_64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # mean that the number is in the zip64 fields
_ENCRYPTED = 1 | 1 << 6 | 1 << 13  # flags


def read_torch(file: WeightsFile) -> dict[str, Stored]:
    """Returns the names and places of the tensors in a state dict; skips Lightning's discriminators and losses.

    Raises ValueError if the archive is damaged, RefusedError if it holds anything but a state dict.
    """
    members = _members(file)
    pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise RefusedError(f"is an archive with {len(pickles)} files FOLDER/data.pkl, expected one, as of torch.save")
    folder = pickles[0].removesuffix("data.pkl")
    order = _byte_order(file, members, folder)
    _check_version(file, members, folder)
    if members[pickles[0]].size > MAX_PICKLE:
        raise ValueError(f"its pickle has {members[pickles[0]].size} bytes, expected at most {MAX_PICKLE}")
    state = _state_dict(unpickled(file.content(members[pickles[0]])))
    return {name: _stored(view, members, folder, order) for name, view in state.items()}


def _state_dict(tree: Any) -> dict[str, View]:
    if isinstance(tree, dict) and isinstance(tree.get("state_dict"), dict):
        found = tree["state_dict"].items()
        tree = {key: value for key, value in found if isinstance(key, str) and key.startswith(_LIGHTNING_PARTS)}
    if (
        not isinstance(tree, dict)
        or not tree
        or not all(isinstance(key, str) and isinstance(value, View) for key, value in tree.items())
    ):
        raise RefusedError("is not a state dict: expected names and tensors, or both under 'state_dict'")
    return tree


def _stored(view: View, members: dict[str, Place], folder: str, order: str) -> Stored:
    storage = view.storage
    place = members.get(f"{folder}data/{storage.key}")
    if place is None:
        raise ValueError("its pickle has a storage that the archive lacks")
    if not all(type(number) is int for number in (view.offset, *view.shape, *view.strides)):
        raise ValueError("a tensor has a shape, strides or an offset that are no integers")
    stored = Stored(storage.dtype, view.shape, view.strides, view.offset, place, order)
    if storage.count * stored.itemsize != place.size:
        raise ValueError(f"a storage of {storage.count} elements of {storage.dtype} has {place.size} bytes")
    return stored


def _byte_order(file: WeightsFile, members: dict[str, Place], folder: str) -> str:
    """Returns the byte order of numbers, as numpy denotes it; torch before 2.0 did not state it."""
    place = members.get(f"{folder}byteorder")
    named = _short(file, place) if place else "little"
    if named not in ("little", "big"):
        raise ValueError("its byteorder is neither little nor big")
    return "<" if named == "little" else ">"


def _check_version(file: WeightsFile, members: dict[str, Place], folder: str) -> None:
    place = members.get(f"{folder}version") or members.get(f"{folder}.data/version")
    text = _short(file, place) if place else ""
    if not re.fullmatch("[0-9]{1,3}", text) or int(text) not in _VERSIONS:
        known = f"{_VERSIONS[0]} to {_VERSIONS[-1]}"
        raise RefusedError(f"is an archive of version {text or 'none'}, expected {known}, as torch.save writes")


def _short(file: WeightsFile, place: Place) -> str:
    if place.size > 16:
        raise ValueError(f"a member of one word has {place.size} bytes")
    return file.content(place).decode("ascii").strip()


def _members(file: WeightsFile) -> dict[str, Place]:
    """Returns where the contents of the members are, by name. Raises ValueError or RefusedError."""
    start, count, size = _directory(file)
    data, at, found = file.read(start, size), 0, []
    for _ in range(count):
        if at + _ENTRY.size > size:
            raise ValueError("its directory ends early")
        magic, _, _, flags, method, _, _, crc, packed, full, name, extra, comment, disk, _, _, local = (
            _ENTRY.unpack_from(data, at)
        )
        at += _ENTRY.size
        if magic != b"PK\1\2" or at + name + extra + comment > size:
            raise ValueError("its directory is damaged")
        raw_name, extras = data[at : at + name], data[at + name : at + name + extra]
        at += name + extra + comment
        full, packed, local, disk = _wide(extras, full, packed, local, disk)
        _check_stored(flags, method)
        if full != packed or disk:
            raise ValueError("a member has two sizes, or is in another file")
        found.append((local, raw_name, full, crc))
    if at != size:
        raise ValueError("its directory has more than its members")
    found.sort()
    members, taken, end = {}, set(), 0
    for local, raw_name, full, crc in found:
        if local < end:
            raise ValueError("two members overlap")
        end = _content(file, local, raw_name) + full
        if end > start:
            raise ValueError("a member goes beyond the beginning of the directory")
        name = raw_name.decode("utf-8")
        if name.casefold() in taken:
            raise ValueError("a member comes twice")
        taken.add(name.casefold())
        members[name] = Place(end - full, full, crc or None)  # torch can be configured to write none, which is 0
    return members


def _directory(file: WeightsFile) -> tuple[int, int, int]:
    """Returns the start of the directory, the number of its members, and its size. The end records follow it."""
    end = file.size - _END.size
    magic, *disks, here, count, size, start, comment = _END.unpack(file.read(end, _END.size))
    if magic != b"PK\5\6" or comment or any(disks):
        raise ValueError("it has no end of an archive")
    if end >= _LOCATOR_64.size:
        at = end - _LOCATOR_64.size
        magic, disk, record, total = _LOCATOR_64.unpack(file.read(at, _LOCATOR_64.size))
        if magic == b"PK\6\7":
            end = at - _END_64.size
            if disk or total != 1 or record != end:
                raise ValueError("its end is damaged")
            magic, length, _, _, *disks, here_64, count_64, size_64, start_64 = _END_64.unpack(
                file.read(end, _END_64.size)
            )
            narrow = ((here, here_64, _FULL_16), (count, count_64, _FULL_16), (size, size_64, _FULL_32))
            if (
                magic != b"PK\6\6"
                or length != _END_64.size - 12
                or any(disks)
                or any(short not in (wide, full) for short, wide, full in (*narrow, (start, start_64, _FULL_32)))
            ):
                raise ValueError("its end is damaged")
            here, count, size, start = here_64, count_64, size_64, start_64
    if here != count or start + size != end:
        raise ValueError("its directory is not where its end says")
    if size > _MAX_DIRECTORY:
        raise ValueError(f"its directory has {size} bytes, expected at most {_MAX_DIRECTORY}")
    return start, count, size


def _wide(extras: bytes, full: int, packed: int, local: int, disk: int) -> tuple[int, int, int, int]:
    """Returns the numbers of an entry; those too large for it are read from the zip64 field in its extra data."""
    numbers, at, wide = (full, packed, local, disk), 0, b""
    while at + 4 <= len(extras):
        kind, length = struct.unpack_from("<2H", extras, at)
        if kind == 1:
            wide = extras[at + 4 : at + 4 + length]
        at += 4 + length
    taken = []
    for number, most, width in zip(numbers, (_FULL_32, _FULL_32, _FULL_32, _FULL_16), (8, 8, 8, 4), strict=True):
        if number == most:
            if len(wide) < width:
                raise ValueError("a large member lacks its size")
            number, wide = int.from_bytes(wide[:width], "little"), wide[width:]
        taken.append(number)
    return taken[0], taken[1], taken[2], taken[3]


def _content(file: WeightsFile, local: int, name: bytes) -> int:
    """Returns where the contents of a member begin, after its local header, which must repeat the name."""
    header = file.read(local, _LOCAL.size + len(name))
    magic, _, flags, method, *_, length, extra = _LOCAL.unpack_from(header)
    if magic != MAGIC or length != len(name) or header[_LOCAL.size :] != name:
        raise ValueError("a member's header is damaged or another's")
    _check_stored(flags, method)
    return int(local + len(header) + extra)


def _check_stored(flags: int, method: int) -> None:
    if flags & _ENCRYPTED or method:
        raise RefusedError("has compressed or encrypted members, which torch.save does not write: save it again")
