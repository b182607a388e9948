"""Reads the pickle in a file that ``torch.save`` wrote, without executing any of it.

A pickle is a program for a stack machine. Python's own machine imports what the program names, and calls it. This one
knows only the opcodes that ``torch.save`` writes, and the names in state dicts and Lightning checkpoints; from those it
makes dictionaries, lists, tuples, numbers, texts and the inert objects below. Anything else raises an error that names
it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vocos_onnx.messages import shown

from .stored import RefusedError

MAX_PICKLE = 8 << 20  # bytes; a tensor takes about 200
_MAX_OPCODES = 500_000  # a tensor takes about 20
_MAX_INTEGER = 9  # bytes: 64 bits with or without a sign
_MAX_NAME = 4096  # bytes of a global

_STORAGES = {
    "torch FloatStorage": "float32", "torch HalfStorage": "float16", "torch BFloat16Storage": "bfloat16",
    "torch DoubleStorage": "float64", "torch LongStorage": "int64", "torch IntStorage": "int32",
    "torch ShortStorage": "int16", "torch CharStorage": "int8", "torch ByteStorage": "uint8",
    "torch BoolStorage": "bool",
}  # fmt: skip
# Names that are called; _Machine._call makes what stands for their results.
_CALLED = {
    "collections OrderedDict", "collections Counter", "collections defaultdict", "builtins set", "__builtin__ set",
    "torch Size", "torch device", "torch.serialization _get_layout",
    "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
}  # fmt: skip
_TYPES = {f"torch {name}" for name in (
    "float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool",
)}  # fmt: skip
_GLOBALS = {*_STORAGES, *_CALLED, *_TYPES}


@dataclass(frozen=True)
class Storage:
    """The values that tensors are views of: their type and count, in the member data/KEY of the archive."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, eq=False)
class View:
    """A tensor. Offset and strides count elements of its storage; so far, only the types of the fields are checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class Inert:
    """Stands for a name, or for an object that weights do not need: a type, a device, a set."""

    name: str


def unpickled(data: bytes) -> Any:
    """Returns the contents of a pickle, with a View for each tensor.

    Raises RefusedError if the pickle has a call or an opcode that no state dict needs, naming it; ValueError if it is
    damaged or has too many opcodes.
    """
    machine = _Machine()
    for number, (opcode, argument) in enumerate(_instructions(data)):
        if number >= _MAX_OPCODES:
            raise ValueError(f"its pickle has more than {_MAX_OPCODES} opcodes")
        machine.step(opcode, argument)
    return machine.result()


# The opcodes of protocol 2 that torch.save writes: their names in pickletools, and their arguments; for texts and long
# integers, only the length.
_OPCODES = {code: (name, struct.Struct(argument)) for code, name, argument in (
    (b"\x80", "PROTO", "B"), (b".", "STOP", ""), (b"q", "BINPUT", "B"), (b"r", "LONG_BINPUT", "<I"),
    (b"h", "BINGET", "B"), (b"j", "LONG_BINGET", "<I"), (b"J", "BININT", "<i"), (b"K", "BININT1", "B"),
    (b"M", "BININT2", "<H"), (b"G", "BINFLOAT", ">d"), (b"\x8a", "LONG1", "B"), (b"X", "BINUNICODE", "<I"),
    (b"c", "GLOBAL", ""), (b"N", "NONE", ""), (b"\x88", "NEWTRUE", ""), (b"\x89", "NEWFALSE", ""), (b"(", "MARK", ""),
    (b")", "EMPTY_TUPLE", ""), (b"\x85", "TUPLE1", ""), (b"\x86", "TUPLE2", ""), (b"\x87", "TUPLE3", ""),
    (b"t", "TUPLE", ""), (b"]", "EMPTY_LIST", ""), (b"a", "APPEND", ""), (b"e", "APPENDS", ""),
    (b"}", "EMPTY_DICT", ""), (b"s", "SETITEM", ""), (b"u", "SETITEMS", ""), (b"R", "REDUCE", ""), (b"b", "BUILD", ""),
    (b"Q", "BINPERSID", ""),
)}  # fmt: skip


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Yields the opcodes by name, each with its argument or None. Raises ValueError or RefusedError."""
    at, opcode = 0, ""
    while opcode != "STOP":
        known = _OPCODES.get(data[at : at + 1])
        if known is None:
            raise _unknown(data[at : at + 1])
        opcode, layout = known
        end = at + 1 + layout.size
        if end > len(data):
            raise ValueError("its pickle ends early")
        argument: Any = layout.unpack_from(data, at + 1)[0] if layout.size else None
        if opcode in ("BINUNICODE", "LONG1"):
            content = data[end : end + argument]
            if len(content) < argument:
                raise ValueError("its pickle ends early")
            end += argument
            if opcode == "LONG1":
                if argument > _MAX_INTEGER:
                    raise ValueError(f"its pickle has an integer of {argument} bytes")
                argument = int.from_bytes(content, "little", signed=True)
            else:
                argument = content.decode("utf-8", "surrogatepass")
        elif opcode == "GLOBAL":
            module, name, *rest = [*data[end : end + _MAX_NAME].split(b"\n", 2), b"", b""]
            if len(rest) < 3:
                raise ValueError("its pickle has a name without an end")
            end += len(module) + len(name) + 2
            argument = f"{module.decode()} {name.decode()}"
        yield opcode, argument
        at = end
    if at != len(data):
        raise ValueError(f"its pickle ends at byte {at} of {len(data)}")


def _unknown(code: bytes) -> ValueError:
    """The error for an unsupported opcode, or for the end of the data if there is no opcode."""
    import pickletools  # only errors need it

    names = [opcode.name for opcode in pickletools.opcodes if opcode.code == code.decode("latin1")]
    if not names:
        return ValueError(f"its pickle has the opcode 0x{code.hex()}" if code else "its pickle ends early")
    return _refused(f"has the opcode {names[0]}")


class _Machine:
    """A stack, its marks, and the memo. Containers are filled in place, since the memo may already refer to them."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}

    def result(self) -> Any:
        """Returns the only value left on the stack at the end. Raises ValueError if there are more."""
        value = self._pop()
        if self._stack or self._marks:
            raise ValueError("its pickle leaves more than one value")
        return value

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode. The cases are sorted by frequency."""
        match opcode:
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(f"its pickle takes {argument} from the memo, which is not there")
                self._push(self._memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                self._push(argument)
            case "MARK":
                self._marks.append(len(self._stack))
            case "TUPLE":
                self._push(tuple(self._from_mark()))
            case "EMPTY_TUPLE":
                self._push(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                last = [self._pop() for _ in range(int(opcode[-1]))]
                self._push(tuple(reversed(last)))
            case "REDUCE":
                arguments, called = self._pop(), self._pop()
                self._push(self._call(called, arguments))
            case "BINPERSID":
                self._push(self._storage(self._pop()))
            case "NEWTRUE" | "NEWFALSE" | "NONE":
                self._push({"NEWTRUE": True, "NEWFALSE": False}.get(opcode))
            case "EMPTY_DICT":
                self._push({})
            case "EMPTY_LIST":
                self._push([])
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._from_mark())
            case "APPEND":
                self._append([self._pop()])
            case "APPENDS":
                self._append(self._from_mark())
            case "GLOBAL":
                if argument not in _GLOBALS:
                    raise _refused(f"calls {_dotted(argument)}")
                self._push(Inert(argument))
            case "BUILD":
                # attributes that modules set on their OrderedDict (_metadata), which are not needed here
                if not isinstance(self._pop(), dict) or type(self._top()) is not dict:
                    raise _refused("sets attributes of an object")
            case "PROTO":
                if argument != 2:
                    raise RefusedError(f"has a pickle of protocol {argument}: save it with torch's default, 2")
            case "STOP":
                pass

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _top(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("its pickle takes a value that is not there")
        return self._stack[-1]

    def _pop(self) -> Any:
        value = self._top()
        self._stack.pop()
        return value

    def _from_mark(self) -> list[Any]:
        """Pops all values after the last mark."""
        if not self._marks:
            raise ValueError("its pickle takes a mark that is not there")
        mark = self._marks.pop()
        values = self._stack[mark:]
        del self._stack[mark:]
        return values

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            raise ValueError("its pickle sets items of what is no dictionary, or keys without values")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # nested tuples could take years to hash
            if key is not None and type(key) not in (str, int, float, bool):
                raise ValueError(f"its pickle has the key {shown(key)}")
            target[key] = value

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            raise ValueError("its pickle appends to what is no list")
        target.extend(items)

    def _storage(self, given: Any) -> Storage:
        """Returns the storage of a persistent id, which torch writes as ('storage', type, key, location, number)."""
        match given:
            case ("storage", Inert(name), str(key), str(), int(count)) if name in _STORAGES:
                if type(count) is bool or count < 0:
                    raise ValueError(f"a storage has {shown(count)} elements")
                storage = Storage(_STORAGES[name], key, count)
                if self._storages.setdefault(key, storage) != storage:
                    raise ValueError(f"the storage {shown(key)} has two sizes or types")
                return storage
        raise ValueError("its pickle has a persistent id that is no storage's")

    def _call(self, called: Any, arguments: Any) -> Any:
        """Returns what stands for the result of a call. Raises RefusedError if no state dict has such a call."""
        if not isinstance(called, Inert) or called.name not in _GLOBALS:
            raise ValueError("its pickle calls what is no function")
        match called.name, arguments:
            case "collections OrderedDict", ():
                return {}
            case "collections Counter", (dict(counts),):
                return counts
            case "collections defaultdict", () | (None,):
                return {}
            case "builtins set" | "__builtin__ set", (list(),):
                return Inert("a set")
            case "torch Size", (tuple(sizes),):
                return sizes
            case "torch device" | "torch.serialization _get_layout", (str(), *_):
                return Inert(f"the result of {called.name}")
            case "torch._utils _rebuild_parameter", (View() as view, bool(), dict()):
                return view
            case "torch._utils _rebuild_tensor_v2", (Storage(), int(), tuple(), tuple(), bool(), dict(), *more):
                if len(more) > 1 or any(more):
                    raise RefusedError("has a tensor that is a negated or conjugated view: save it with .clone()")
                storage, offset, shape, strides, *_ = arguments
                return View(storage, offset, shape, strides)
        raise _refused(f"calls {_dotted(called.name)} with arguments that torch.save does not write")


def _dotted(name: str) -> str:
    return shown(name.replace(" ", "."))


def _refused(what: str) -> RefusedError:
    return RefusedError(
        f"{what} in its pickle, which no weights need, and nothing of a checkpoint is executed. If you trust it, load "
        "it with torch and save its state dict"
    )
