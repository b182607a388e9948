"""Damaged, mutated and malicious checkpoints for the reader without torch.

Each gives its tensors or CheckpointError, runs nothing, and takes memory in proportion to the file.
"""

from __future__ import annotations

import io
import json
import pickle
import pickletools
import struct
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.common import Rng, Target, damaged
from tests.torch_bytes import (
    HOOKS,
    STORAGES,
    Call,
    Name,
    Persistent,
    Raw,
    archive,
    entry,
    opcodes,
    pickled,
    safetensors,
    saved,
    storage,
    tensor,
    view,
)
from vocos_onnx.model.checkpoint import CheckpointError, open_weights

CANARY = "canary"  # a successful attack creates this file in the working directory
COMMAND = f"touch {CANARY}"
NAMES = ["posix system", "os system", "builtins eval", "__builtin__ eval", "builtins exec", "builtins getattr",
         "builtins __import__", "subprocess Popen", "torch.hub load", "torch load", "torch.jit load", "codecs encode",
         "_codecs encode", "builtins bytearray", "numpy.core.multiarray _reconstruct", "functools partial",
         "torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v3", "torch._tensor _rebuild_from_type_v2",
         "torch._utils _rebuild_sparse_tensor", "collections OrderedDict.__init__", "torch\x00 Size",
         "copyreg _reconstructor",
         "torch.storage _load_from_bytes", "pickle loads", "torch.serialization load", "webbrowser open"]  # fmt: skip
ONES = np.ones((2, 3), np.float32)
ONE = {"0": ONES.tobytes()}
ALLOWED = ["collections OrderedDict", "collections Counter", "collections defaultdict", "builtins set", "torch Size",
           "torch device", "torch.serialization _get_layout", "torch._utils _rebuild_tensor_v2",
           "torch._utils _rebuild_parameter", "torch float32", "torch FloatStorage"]  # fmt: skip


def _tensors(value: Any, **kwargs: Any) -> bytes:
    """A state dict of one value, with the storage "0" of six floats."""
    return archive(pickled({"a": value}), ONE, **kwargs)


def _laughs(depth: int) -> bytes:
    """A tuple that expands to 2**depth lists: each level holds the previous one twice."""
    return b"]" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(depth))


def _nested(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def _directory(data: bytes) -> dict[bytes, int]:
    """The offsets of the directory's entries, by member name."""
    at, found = data.index(b"PK\1\2"), {}
    while data[at : at + 4] == b"PK\1\2":
        name, extra, comment = struct.unpack_from("<3H", data, at + 28)
        found[data[at + 46 : at + 46 + name]] = at
        at += 46 + name + extra + comment
    return found


def _overlapping() -> bytes:
    """Two directory entries for the same bytes, as in zip bombs."""
    data = bytearray(saved({"a": ONES, "b": ONES}))
    entries = _directory(bytes(data))
    one, other = entries[b"archive/data/0"], entries[b"archive/data/1"]
    data[other + 42 : other + 46] = data[one + 42 : one + 46]
    return bytes(data)


def _nested_members() -> bytes:
    """A member, with its own header, that lies entirely within another."""
    sound = saved({"a": ONES, "b": ONES})
    (local,) = struct.unpack_from("<I", sound, _directory(sound)[b"archive/data/1"] + 42)
    member = sound[local : local + 30 + len("archive/data/1") + ONES.nbytes]
    outer = np.frombuffer(member + bytes(-len(member) % 4), np.float32)
    data = bytearray(saved({"a": outer, "b": ONES}))
    entry_at = _directory(bytes(data))[b"archive/data/1"]
    data[entry_at + 42 : entry_at + 46] = struct.pack("<I", data.index(member))
    return bytes(data)


def _patched(find: bytes, field: int, value: bytes, count: int = 1) -> Callable[[], bytes]:
    """A valid archive with one field of its records overwritten."""

    def make() -> bytes:
        data, at = bytearray(saved({"a": ONES, "b": ONES})), -1
        for _ in range(count):
            at = data.index(find, at + 1)
            data[at + field : at + field + len(value)] = value
        return bytes(data)

    return make


def _appended(name: str) -> bytes:
    """A valid archive with another pickle in an extra member at the end."""
    buffer = io.BytesIO(_tensors(tensor("0", ONES)))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as out:
        warnings.simplefilter("ignore")  # about a duplicate name
        out.writestr(name, pickled({"a": Call(Name("posix system"), (COMMAND,))}))
    return buffer.getvalue()


def _two_archives() -> bytes:
    inner = _tensors(Call(Name("posix system"), (COMMAND,)))
    return inner + _tensors(tensor("0", ONES))


def _view(shape: Any, strides: Any, offset: Any = 0, count: Any = 6, kind: str = "f4") -> bytes:
    return _tensors(view(storage("0", kind, count), shape, strides, offset))


BIG = 1 << 40
# Each must raise CheckpointError.
ATTACKS: dict[str, Callable[[], bytes]] = {
    **{f"the name {name!r}": (lambda name=name: _tensors(Call(Name(name), (COMMAND,)))) for name in NAMES},  # type: ignore[misc]
    "a name that is not called": lambda: _tensors(Name("posix system")),
    "a call beside the weights": lambda: archive(
        pickled({"state_dict": {"head.a": tensor("0", ONES)}, "x": [Call(Name("posix system"), (COMMAND,))]}), ONE
    ),
    "a call in the attributes": lambda: archive(
        pickled(Call(Name("collections OrderedDict"), (), {"_metadata": Call(Name("posix system"), (COMMAND,))}))
    ),
    "a call as an argument": lambda: _tensors(Call(Name("torch device"), (Call(Name("posix system"), (COMMAND,)),))),
    "a call of a result": lambda: _tensors(Call(Call(Name("torch device"), ("cpu",)), (COMMAND,))),
    "a call of a text": lambda: _tensors(Call("posix.system", (COMMAND,))),
    "a name from the stack": lambda: _tensors(Raw(opcodes("posix") + opcodes("system") + b"\x93")),
    "INST": lambda: _tensors(Raw(b"(" + opcodes(COMMAND) + b"iposix\nsystem\n")),
    "OBJ": lambda: _tensors(Raw(b"(cposix\nsystem\n" + opcodes(COMMAND) + b"o")),
    "NEWOBJ": lambda: _tensors(Raw(b"csubprocess\nPopen\n" + opcodes(([COMMAND],)) + b"\x81")),
    "NEWOBJ of what is allowed": lambda: _tensors(Raw(b"ctorch\nSize\n)\x81")),
    "NEWOBJ_EX": lambda: _tensors(Raw(b"csubprocess\nPopen\n" + opcodes(([COMMAND],)) + b"}\x92")),
    "EXT1": lambda: _tensors(Raw(b"\x82\x01")),
    "PERSID": lambda: _tensors(Raw(b"P0\n")),
    "BUILD of a call": lambda: _tensors(Call(Name("torch Size"), ((1,),), {"__setstate__": 1})),
    "BUILD of a type": lambda: _tensors(Raw(b"ctorch\nfloat32\n" + opcodes({"__call__": 1}) + b"b")),
    "hooks that are called": lambda: _tensors(
        Call(
            Name("torch._utils _rebuild_tensor_v2"),
            (storage("0", "f4", 6), 0, (6,), (1,), False, Call(Name("posix system"), (COMMAND,))),
        )
    ),
    "a storage of another type": lambda: _tensors(
        view(Persistent(("storage", Name("posix system"), "0", "cpu", 6)), (6,), (1,))
    ),
    "a storage of an allowed name": lambda: _tensors(
        view(Persistent(("storage", Name("torch Size"), "0", "cpu", 6)), (6,), (1,))
    ),
    "a persistent id that is a text": lambda: _tensors(view(Persistent("0"), (6,), (1,))),
    "a persistent id of a module": lambda: _tensors(
        view(Persistent(("module", Name("torch FloatStorage"), "0", "cpu", 6)), (6,), (1,))
    ),
    "a storage that climbs": lambda: _tensors(view(storage("../../../../etc/passwd", "f4", 6), (6,), (1,))),
    "a storage that is the pickle": lambda: _tensors(view(storage("../data.pkl", "u1", 6), (6,), (1,))),
    "bytes": lambda: _tensors(Call(Name("builtins bytearray"), (1 << 40,))),
    "sets of lists": lambda: _tensors(Call(Name("builtins set"), ([[1]],))),
    "more sizes": lambda: _tensors(Call(Name("torch Size"), ((BIG, BIG),))),
    "a huge count": lambda: _view((BIG,), (1,), count=BIG),
    "a huge shape": lambda: _view((BIG,), (1,)),
    "shapes beyond 64 bits": lambda: _view((1 << 62, 1 << 62), (0, 0)),
    "shapes whose product is 0 modulo 2**64": lambda: _view((1 << 32, 1 << 32), (0, 0)),
    "an expansion": lambda: _view((1 << 20, 10_000), (0, 0)),
    "many dimensions": lambda: _view((1,) * 70, (1,) * 70),
    "a hundred thousand dimensions": lambda: _view((1,) * 100_000, (1,) * 100_000),
    "a negative stride": lambda: _view((2, 3), (-3, 1), 3),
    "a negative offset": lambda: _view((2, 3), (3, 1), -1),
    "a negative size": lambda: _view((-2, -3), (3, 1)),
    "a negative count": lambda: _view((2, 3), (3, 1), count=-6),
    "an offset beyond": lambda: _view((6,), (1,), 1),
    "a huge offset": lambda: _view((1,), (1,), (1 << 62)),
    "strides beyond": lambda: _view((2, 3), (4, 1)),
    "huge strides": lambda: _view((2, 3), (1 << 62, 1)),
    "fewer strides": lambda: _view((2, 3), (1,)),
    "sizes that are no integers": lambda: _view((2.0, 3), (3, 1)),
    "sizes that are truth values": lambda: _view((True, 3), (3, 1)),
    "sizes that are texts": lambda: _view(("2", 3), (3, 1)),
    "an offset that is a truth value": lambda: _view((5,), (1,), True),
    "a count that is a truth value": lambda: _view((1,), (1,), count=True),
    "a shape that is a list": lambda: _view([2, 3], [3, 1]),
    "an integer of 2000 bits": lambda: _view((2, 3), (3, 1), 1 << 2000),
    "an integer of 80 kilobits": lambda: _view((2, 3), (3, 1), 1 << 80_000),
    "a storage of two sizes": lambda: archive(
        pickled({"a": tensor("0", ONES), "b": view(storage("0", "f4", 5), (5,), (1,))}), ONE
    ),
    "a storage of two types": lambda: archive(
        pickled({"a": tensor("0", ONES), "b": view(storage("0", "i4", 6), (6,), (1,))}), ONE
    ),
    "a storage that is missing": lambda: _tensors(tensor("1", ONES)),
    "a storage that is shorter": lambda: archive(pickled({"a": tensor("0", ONES)}), {"0": bytes(23)}),
    "a storage that is longer": lambda: archive(pickled({"a": tensor("0", ONES)}), {"0": bytes(25)}),
    "the same numbers a thousand times": lambda: archive(
        pickled({f"a{i}": tensor("0", np.ones(5000, np.float32)) for i in range(1000)}), {"0": bytes(20_000)}
    ),
    "a negated view": lambda: _tensors(view(storage("0", "f4", 6), (2, 3), (3, 1), more=({"neg": True},))),
    "no tensors": lambda: archive(pickled({})),
    "a list": lambda: archive(pickled([tensor("0", ONES)]), ONE),
    "a key that is no text": lambda: archive(pickled({1: tensor("0", ONES)}), ONE),
    "a name with control characters": lambda: archive(pickled({"\x1b[2J": tensor("0", ONES)}), ONE),
    "a name of half a character": lambda: archive(pickled({"\ud800": tensor("0", ONES)}), ONE),
    "a key that takes years to hash": lambda: _tensors(Raw(b"}" + _laughs(60) + b"Ns")),
    "billions of laughs": lambda: _tensors(Raw(_laughs(200))),
    "lists within themselves": lambda: _tensors(Raw(b"]q\0h\0a")),
    "dictionaries within themselves": lambda: archive(b"\x80\x02}q\0" + opcodes("state_dict") + b"h\0s."),
    "a text of a wide letter and millions of others": lambda: _tensors("\U0001f3b5" + "a" * 8_000_000),
    "deep lists": lambda: _tensors(Raw(_nested(100_000))),
    "deep tuples": lambda: _tensors(Raw(b")" + b"\x85" * 100_000)),
    "deep calls": lambda: _tensors(Raw(b"ctorch\nSize\n" * 20_000 + b")" + b"\x85R" * 20_000)),
    "marks alone": lambda: _tensors(Raw(b"(" * 100_000)),
    "millions of opcodes": lambda: archive(b"\x80\x02" + b"}" * 2_000_000 + b"."),
    "millions of memos": lambda: archive(
        b"\x80\x02N" + b"".join(b"r" + struct.pack("<I", i) for i in range(1_200_000)) + b"."
    ),
    "the last memo": lambda: _tensors(Raw(b"Nr\xff\xff\xff\xff")),
    "a memo that is not there": lambda: _tensors(Raw(b"j\xff\xff\xff\xff")),
    "a text that claims 4 GB": lambda: archive(b"\x80\x02X\xff\xff\xff\xffabc."),
    "a text that claims 2**63 bytes": lambda: archive(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc."),
    "a number of 5000 digits": lambda: archive(b"\x80\x02I" + b"9" * 5000 + b"\n."),
    "a number of a million digits": lambda: archive(b"\x80\x02L" + b"9" * 1_000_000 + b"L\n."),
    "a frame that claims 2**60 bytes": lambda: archive(b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N."),
    "another protocol": lambda: archive(pickle.dumps({"a": [1]}, 5)),
    "a pickle without an end": lambda: archive(pickled({"a": 1})[:-1]),
    "a pickle and more": lambda: archive(pickled({"a": tensor("0", ONES)}) + pickled({}), ONE),
    "a pickle of 20 MB": lambda: archive(b"\x80\x02X" + struct.pack("<I", 20 << 20) + bytes(20 << 20) + b"."),
    "no opcode": lambda: archive(b"\xff" * 10),
    "an empty pickle": lambda: archive(b""),
    "an empty stack": lambda: archive(b"\x80\x02R."),
    "values that are left": lambda: archive(b"\x80\x02NN."),
    "calls across a mark": lambda: _tensors(Raw(b"ctorch\nSize\n()R")),
    "deflated": lambda: _tensors(tensor("0", ONES), method=zipfile.ZIP_DEFLATED),
    "a bomb": lambda: archive(
        pickled({"a": tensor("0", np.empty(10 << 20, np.float32))}), {"0": bytes(40 << 20)}, method=zipfile.ZIP_DEFLATED
    ),
    "bzip2": lambda: _tensors(tensor("0", ONES), method=zipfile.ZIP_BZIP2),
    "the pickle twice": lambda: _appended("archive/data.pkl"),
    "the pickle in capitals": lambda: _appended("archive/Data.PKL"),
    "two folders": lambda: _appended("other/data.pkl"),
    "no folder": lambda: saved({"a": ONES}).replace(b"archive/data.pkl", b"archive_data.pkl"),
    "an archive in another's place": lambda: archive(saved({"a": ONES})),
    "an archive behind another": _two_archives,
    "an archive in the comment": lambda: saved({"a": ONES})[:-2] + struct.pack("<H", 3) + b"PK\5",
    "bytes after the end": lambda: saved({"a": ONES}) + b"\n",
    "members that overlap": _overlapping,
    "a member within another": _nested_members,
    "a directory that is elsewhere": _patched(b"PK\5\6", 16, struct.pack("<I", 0)),
    "a directory of 4 GB": _patched(b"PK\5\6", 12, b"\xff" * 4),
    "fewer members": _patched(b"PK\5\6", 8, struct.pack("<2H", 1, 1)),
    "more members": _patched(b"PK\5\6", 8, struct.pack("<2H", 60_000, 60_000)),
    "a member of 4 GB": _patched(b"PK\1\2", 20, struct.pack("<2I", 0xFFFFFFFE, 0xFFFFFFFE)),
    "a member of zip64 without it": _patched(b"PK\1\2", 20, b"\xff" * 8),
    "a member at the end": _patched(b"PK\1\2", 42, b"\xfe\xff\xff\xff"),
    "a member of another disk": _patched(b"PK\1\2", 34, b"\1\0"),
    "an encrypted member": _patched(b"PK\1\2", 8, b"\1\0"),
    "a member that is encrypted by its own header": _patched(b"PK\3\4", 6, b"\1\0"),
    "a member that is deflated by its own header": _patched(b"PK\3\4", 8, b"\x08\0"),
    "a member of another name": _patched(b"PK\3\4", 30, b"other"),
    "a header that is far too long": _patched(b"PK\3\4", 28, b"\xff\xff", count=4),
    "a wrong checksum of the pickle": _patched(b"PK\1\2", 16, b"\1\2\3\4"),
    "a wrong checksum of a storage": _patched(b"PK\1\2", 16, b"\1\2\3\4", count=4),
    "another byteorder": lambda: _tensors(tensor("0", ONES), others={"byteorder": b"middle"}),
    "a long byteorder": lambda: _tensors(tensor("0", ONES), others={"byteorder": b"little" * 100_000}),
    "a newer version": lambda: _tensors(tensor("0", ONES), others={"version": b"11"}),
    "a version that is none": lambda: _tensors(tensor("0", ONES), others={"version": b"\xff"}),
    "the legacy format": lambda: pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2),
    "a pickle alone": lambda: pickled(Call(Name("posix system"), (COMMAND,))),
    "a pointer of Git LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "an empty file": lambda: b"",
    "a few zeros": lambda: bytes(30),
    "safetensors: a header of 2**63 bytes": lambda: safetensors(b"{}", claimed=1 << 63),
    "safetensors: a header beyond the end": lambda: safetensors(b"{}", claimed=1000),
    "safetensors: a header of 2 MB": lambda: safetensors(b"{" + b" " * (2 << 20) + b"}"),
    "safetensors: a list": lambda: safetensors(b"[]"),
    "safetensors: deep": lambda: safetensors(b'{"a":' * 100_000),
    "safetensors: deep lists": lambda: safetensors(b'{"a":' + b"[" * 500_000),
    "safetensors: not UTF-8": lambda: safetensors(b'{"\xff": 1}'),
    "safetensors: no tensors": lambda: safetensors({}) + b"",
    "safetensors: metadata alone": lambda: safetensors({"__metadata__": {"format": "pt"}}),
    "safetensors: a name twice": lambda: safetensors(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "safetensors: metadata that is no text": lambda: safetensors(
        {"__metadata__": {"a": 1}, "a": entry("U8", [1], 0, 1)}, b"1"
    ),
    "safetensors: a hole": lambda: safetensors({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, b"123"),
    "safetensors: a hole before": lambda: safetensors({"a": entry("U8", [1], 1, 2)}, b"12"),
    "safetensors: a hole behind": lambda: safetensors({"a": entry("U8", [1], 0, 1)}, b"12"),
    "safetensors: an overlap": lambda: safetensors({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, b"123"),
    "safetensors: the same bytes": lambda: safetensors(
        {"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, b"12"
    ),
    "safetensors: offsets that run back": lambda: safetensors({"a": entry("U8", [2], 2, 0)}, b"12"),
    "safetensors: beyond the end": lambda: safetensors({"a": entry("U8", [BIG], 0, BIG)}, b"12"),
    "safetensors: an overlap of the right size": lambda: safetensors(
        {"a": entry("U8", [1], 0, 1), "b": entry("U8", [2], 0, 2)}, b"123"
    ),
    "safetensors: more bytes than the shape": lambda: safetensors({"a": entry("F32", [1], 0, 8)}, bytes(8)),
    "safetensors: another size": lambda: safetensors({"a": entry("F32", [2], 0, 4)}, bytes(4)),
    "safetensors: negative sizes": lambda: safetensors({"a": entry("U8", [-1, -2], 0, 2)}, b"12"),
    "safetensors: negative offsets": lambda: safetensors({"a": entry("U8", [2], -2, 0)}, b"12"),
    "safetensors: a product of 2**64": lambda: safetensors({"a": entry("U8", [1 << 32, 1 << 32], 0, 0)}),
    "safetensors: huge sizes of nothing": lambda: safetensors({"a": entry("U8", [1 << 63, 0], 0, 0)}),
    "safetensors: many dimensions": lambda: safetensors({"a": entry("U8", [1] * 100_000, 0, 1)}, b"1"),
    "safetensors: sizes that are floats": lambda: safetensors({"a": entry("U8", [2.0], 0, 2)}, b"12"),  # type: ignore[list-item]
    "safetensors: sizes that are truth values": lambda: safetensors({"a": entry("U8", [True], 0, 1)}, b"1"),
    "safetensors: digits": lambda: safetensors(
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'
    ),
    "safetensors: NaN": lambda: safetensors(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,0]}}'),
    "safetensors: float8": lambda: safetensors({"a": entry("F8_E4M3", [2], 0, 2)}, b"12"),
    "safetensors: a type that is a number": lambda: safetensors({"a": {**entry("U8", [2], 0, 2), "dtype": 3}}, b"12"),
    "safetensors: a field more": lambda: safetensors({"a": {**entry("U8", [2], 0, 2), "x": 3}}, b"12"),
    "safetensors: no fields": lambda: safetensors({"a": {}}),
    "safetensors: a name that cannot be printed": lambda: safetensors({"a\n": entry("U8", [1], 0, 1)}, b"1"),
    "safetensors: half a character": lambda: safetensors(
        b'{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
}


def read_all(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a file. Whatever its content, they take at most twice its size, for their wider types."""
    with open_weights(path) as weights:
        assert len(weights.sha256) == 64
        arrays = {name: weights[name].read() for name in weights}
        assert all(arrays[name].shape == weights[name].shape for name in weights)
    assert sum(array.nbytes for array in arrays.values()) <= 2 * path.stat().st_size
    return arrays


@cache
def watch() -> Counter[str]:
    """Starts counting what reading a checkpoint must never do: start programs, look up names for a pickle, ..."""
    seen: Counter[str] = Counter()
    watched = {"pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen",
               "os.remove", "socket.connect", "webbrowser.open"}  # fmt: skip
    sys.addaudithook(lambda event, _: seen.update([event]) if event in watched else None)
    return seen


@cache
def _sound() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "backbone.embed.weight": rng.standard_normal((4, 3, 7), np.float32),
        "backbone.gamma": rng.standard_normal(4).astype(np.float16),
        "head.out.weight": rng.integers(1 << 16, size=(5, 4), dtype=np.uint16),
        "head.out.bias": rng.standard_normal(5),
        "steps": np.array(3),
        "mask": np.array([True, False]),
    }
    header, body = {}, b""
    for name, array in arrays.items():
        kind = {"f4": "F32", "f2": "F16", "u2": "BF16", "f8": "F64", "i8": "I64", "b1": "BOOL"}[array.dtype.str[1:]]
        header[name] = entry(kind, array.shape, len(body), len(body) + array.nbytes)
        body += array.tobytes()
    return {"zip": saved(arrays), "safetensors": safetensors(header, body)}


def _repacked(pickle_of: Callable[[bytes], bytes]) -> bytes:
    """The archive with another pickle and correct checksums."""
    with zipfile.ZipFile(io.BytesIO(_sound()["zip"])) as stored:
        members = {name.removeprefix("archive/"): stored.read(name) for name in stored.namelist()}
    storages = {name.removeprefix("data/"): data for name, data in members.items() if name.startswith("data/")}
    return archive(pickle_of(members["data.pkl"]), storages)


def _number(rng: Rng) -> Any:
    return [0, 1, 2, 3, 6, -1, 5, 1 << 20, 1 << 31, 1 << 40, 1 << 62, 1 << 63, -(1 << 63), True, 1.5, "2", None][
        rng.integers(17)
    ]


def _value(rng: Rng, depth: int = 0) -> Any:
    """A random value that a pickle may hold, sometimes one that is valid in a state dict."""
    kind = rng.integers(14 if depth < 4 else 6)
    numbers = tuple(_number(rng) for _ in range(rng.integers(4)))
    kinds = list(STORAGES)
    match kind:
        case 0:
            return _number(rng)
        case 1:
            return numbers
        case 2:
            return Name(str(rng.choice(NAMES if rng.random() < 0.3 else ALLOWED)))
        case 3:
            return str(rng.choice(["", "a", "0", "cpu", "storage", "state_dict", "head.a", "\x1b", "x" * 300]))
        case 4:
            return storage("0", kinds[rng.integers(len(kinds))], int(rng.choice([6, 0, 3, 12, 24, 1 << 40])))
        case 5 | 6 | 7:
            few = tuple(int(n) for n in rng.integers(0, 4, rng.integers(4)))
            strides = tuple(int(n) for n in rng.integers(-1, 4, len(few)))
            size = {"f8": 3, "i8": 3, "f2": 12, "u2": 12, "i2": 12, "i1": 24, "u1": 24, "?": 24}
            name = kinds[rng.integers(len(kinds))]
            return view(storage("0", name, size.get(name, 6)), few, strides, int(rng.integers(3)))
        case 8:
            return Call(_value(rng, depth + 1), tuple(_value(rng, depth + 1) for _ in range(rng.integers(4))))
        case 9:
            return [_value(rng, depth + 1) for _ in range(rng.integers(4))]
        case 10:
            return {f"head.{i}": _value(rng, depth + 1) for i in range(rng.integers(4))}
        case 11:
            return view(_value(rng, depth + 1), numbers, tuple(_number(rng) for _ in numbers), _number(rng))
        case 12:
            return Call(Name("torch._utils _rebuild_parameter"), (_value(rng, depth + 1), True, HOOKS))
    return Persistent(("storage", _value(rng, 5), _value(rng, 5), "cpu", _number(rng)))


def _program(rng: Rng) -> bytes:
    """Opcodes in random order with well-formed arguments, mostly those that torch.save writes."""
    known = [code for code in pickletools.opcodes if code.proto <= 2]
    usual = [code for code in known if code.name in
             ("BINPUT", "BINGET", "MARK", "TUPLE", "TUPLE2", "REDUCE", "EMPTY_DICT", "SETITEMS", "EMPTY_LIST",
              "APPENDS", "BINUNICODE", "BININT1", "GLOBAL", "BINPERSID", "BUILD", "SETITEM")]  # fmt: skip
    out = b"\x80\x02"
    for _ in range(rng.integers(1, 60)):
        codes = usual if rng.random() < 0.95 else pickletools.opcodes
        code = codes[rng.integers(len(codes))]
        out += code.code.encode("latin1")
        name = code.arg.name if code.arg else ""
        match name:
            case "":
                pass
            case "stringnl_noescape_pair":
                names = ALLOWED if rng.random() < 0.8 else NAMES
                out += names[rng.integers(len(names))].replace(" ", "\n", 1).encode() + b"\n"
            case "uint1":
                out += bytes([rng.integers(4)])
            case "unicodestring4":
                out += opcodes(str(rng.choice(["a", "storage", "0", "cpu"])))[1:]
            case _:
                out += rng.bytes(int(rng.integers(12))) + (b"\n" if name.endswith("nl") else b"")
    return out + b"."


def pickles(rng: Rng, folder: Path) -> None:
    """Archives with another pickle and correct checksums."""
    kind = rng.integers(10)
    if kind < 4:
        data = _repacked(lambda good: damaged(rng, good))
    elif kind < 6:
        data = _repacked(lambda _: _program(rng))
    else:
        state = {f"head.{i}": _value(rng) for i in range(rng.integers(1, 3))}
        tree = state if kind < 9 else {"state_dict": state, "other": _value(rng)}
        data = archive(pickled(tree), {"0": rng.bytes(24)})
    _read(data, folder)


def archives(rng: Rng, folder: Path) -> None:
    """Archives with damage, mostly in their records."""
    data = bytearray(_sound()["zip"])
    if rng.random() < 0.3:
        data = bytearray(damaged(rng, bytes(data)))
    else:
        marks = [b"PK\1\2", b"PK\3\4", b"PK\5\6"]
        for _ in range(rng.integers(1, 4)):
            places = [at for mark in marks[rng.integers(3) :] for at in _all(bytes(data), mark)] or [0]
            at = places[rng.integers(len(places))] + int(rng.integers(46))
            value = [rng.bytes(2), b"\xff" * 4, bytes(4), b"\xff" * 8, data[at + 1 : at + 3], b"\1", b"\x08"][
                rng.integers(7)
            ]
            data[at : at + len(value)] = value
    _read(bytes(data), folder)


def _all(data: bytes, mark: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(mark, at)]


def headers(rng: Rng, folder: Path) -> None:
    """Damaged safetensors, or with a changed header."""
    good = _sound()["safetensors"]
    if rng.random() < 0.4:
        _read(damaged(rng, good), folder)
        return
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    for _ in range(rng.integers(1, 3)):
        name = list(header)[rng.integers(len(header))]
        field = str(rng.choice(["dtype", "shape", "data_offsets", "other"]))
        match rng.integers(5):
            case 0:
                header[name][field] = [_number(rng) for _ in range(rng.integers(4))]
            case 1:
                header[name][field] = str(rng.choice(["F32", "BF16", "U8", "F8_E5M2", "C64", ""]))
            case 2:
                header[name].pop(field, None)
            case 3:
                header[str(rng.choice(["__metadata__", "new", "\n"]))] = header[name]
            case 4:
                header[name] = dict(header[list(header)[rng.integers(len(header))]])
    body = good[8 + size :]
    _read(safetensors(header, body if rng.random() < 0.8 else damaged(rng, body)), folder)


def attacks(rng: Rng, folder: Path) -> None:
    """The attacks above, unchanged or damaged."""
    names = list(ATTACKS)
    data = ATTACKS[names[rng.integers(len(names))]]()
    _read(damaged(rng, data) if len(data) < 100_000 and rng.random() < 0.5 else data, folder)


def _read(data: bytes, folder: Path) -> None:
    """Read the file; raises AssertionError if anything was run, or if a CheckpointError is long or unprintable."""
    path, seen = folder / "pytorch_model.bin", watch()
    path.write_bytes(data)
    before = seen.total()
    try:
        read_all(path)
    except CheckpointError as error:
        assert len(str(error)) < 3000, f"a message of {len(str(error))} characters"
        assert str(error).isprintable(), str(error)
        raise
    finally:
        assert seen.total() == before, seen
        assert not Path(CANARY).exists()


_ALLOWED_MEMORY = 1 << 30  # address space, most of it for numpy's libraries
TARGETS = {
    "pickles, without torch": Target(pickles, 1, (CheckpointError,), memory=_ALLOWED_MEMORY),
    "archives, without torch": Target(archives, 0.5, (CheckpointError,), memory=_ALLOWED_MEMORY),
    "headers of safetensors": Target(headers, 0.5, (CheckpointError,), memory=_ALLOWED_MEMORY),
    "attacks of checkpoints": Target(attacks, 0.3, (CheckpointError,), memory=_ALLOWED_MEMORY),
}
