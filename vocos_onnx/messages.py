"""Text from outside, made fit for messages: readable, short, and without terminal control characters."""

from __future__ import annotations

import os
import re
import reprlib
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import PurePath
from typing import Any

_LONGEST, _LONGEST_NAME = 200, 400
_JOINERS = "\u200c\u200d"  # they join letters and emoji, and are part of names


class SeveralLines(ValueError):
    """An error whose message has one line per fault; other errors are printed as one line."""


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 80, 120, 40
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 6

    def repr_int(self, x: int, level: int) -> str:
        # Python does not convert integers of more than 4300 digits to text
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"an integer of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."


_SHORT = _Short()


def shown(value: Any) -> str:
    """The repr of a value, shortened if it is long."""
    return _cut(_SHORT.repr(value))


def listed(names: Iterable[Any]) -> str:
    """Names from outside, made printable and joined with commas: the first ten, and how many more there are."""
    each = [_cut(printable(str(name)), 80) for name in names]
    more = f" and {len(each) - 10} more" if len(each) > 10 else ""
    return ", ".join(each[:10]) + more


def first_line(error: BaseException) -> str:
    """The first line of an error's message, else the name of its type."""
    lines = str(error).strip()[:10_000].splitlines()
    return _cut(lines[0], 2 * _LONGEST) if lines else type(error).__name__


def reading(path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Inside it a file or folder is opened or read: an error of the system's becomes "cannot read PATH: why"."""
    return _worded("read", path)


def writing(path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Inside it a file is made or written: an error of the system's becomes "cannot write PATH: why"."""
    return _worded("write", path)


@contextmanager
def _worded(verb: str, path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(verb, path, error) from error


def refused(verb: str, path: str | os.PathLike[str], error: OSError) -> OSError:
    """The error of the system's as what cannot be done with a path, of the same kind and number.

    One that is worded already is returned as it is: it has no path, and another text than the system's.
    """
    if error.errno is None or not error.strerror:
        return error
    if error.filename is None and error.strerror != os.strerror(error.errno):
        return error
    reason = error.strerror[:1].lower() + error.strerror[1:]
    return type(error)(error.errno, f"cannot {verb} {os.fspath(path)}: {reason}")


def printable(text: str) -> str:
    """Makes text safe for a terminal: escapes characters that would control it, end the line, or reorder the text.

    A byte of a file name that is not UTF-8 becomes, for example, ``\\xff``.
    """
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python decodes such a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-longest // 4 :]}"


_BEFORE_SAVED = r"transpose them (\1.T) before they are saved"
_SYSTEM = "--mels-from (in Python mels_from=)"
_OF_FILES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r" \(check=False silences this\)", ""),
        (
            r"pass mels_from= and the name of their system, or MelConvention\(axes='btc'\); .*",
            f"transpose them (mels.T) before they are saved, or name their system with {_SYSTEM}",
        ),
        (r"\bpass (mels|features|tokens)(?:\.T|\.transpose\(0, 2, 1\))(?! /)", _BEFORE_SAVED),
        (r"\ba mels_from with axes='btc'", f"name a system of such axes with {_SYSTEM}"),
        (r"\bleave mels_from out", f"leave {_SYSTEM} out"),
        (r"\bwith mels_from=(?:MelConvention\([^()]*\)|'\w+')", "as mels of the system that is named"),
        (r"\bmels_from=(MelConvention\([^()]*\))", r"vocos_onnx.\1.magnitudes(mels)"),
        (
            r'(?:\bpass )?\bmels_from="(\w+)" or "(\w+)"',
            r'name their system: --mels-from \1 or \2 (in Python mels_from="\1")',
        ),
        (
            r'(?<!in Python )(?:\bpass )?\bmels_from="(\w+)"',
            r'name their system: --mels-from \1 (in Python mels_from="\1")',
        ),
        (r"\bpass (?=(?:tokens|features|mels)\b|np\.|vocos_onnx\.|one frame as |them as \.)", "save "),
        (r"\bmay be passed as (?=\.)", "may be saved as "),
        (
            r"(to decode the first ones of them), or bandwidth_id .* of 0 to \d+",
            r"\1, or take the bandwidth of as many",
        ),
        (r"; pass bandwidth_id \d+, or another of 0 to \d+", ""),
        (r"\bcopy-synthesis is vocos\(audio, sample_rate\), .*", "save it as .wav, for copy-synthesis"),
        (r"\bVocosONNX\('([\w./-]+)'\)", r"\1"),
    )
]


def of_files(text: str) -> str:
    """Rewords a message for arrays that came from a file: what to save, rather than what to pass in Python.

    It suits users of the command line and of Python alike.

    Example:
        >>> of_files("they look like (T, C): pass mels.T")
        'they look like (T, C): transpose them (mels.T) before they are saved'
    """
    for pattern, new in _OF_FILES:
        text = pattern.sub(new, text)
    return text


def in_shell(name: str, ending: str | None = None) -> str:
    """A file name quoted for a shell command, with another suffix if ``ending`` is given.

    It is FILE if the name cannot be shown.

    Example:
        >>> in_shell("-a b.wav", ".npz")
        "'./-a b.npz'"
    """
    import shlex  # only errors need it

    name = _file_name(name)
    if ending is not None:
        name = f"{PurePath(name).with_suffix('')}{ending}"
    return shlex.quote(f"./{name}" if name.startswith("-") and name != "-" else name)


def in_python(name: str) -> str:
    """A file name as a Python string in double quotes; "FILE" if it cannot be shown."""
    escaped = _file_name(name).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def python_command(code: str) -> str:
    """The shell command that runs a line of Python."""
    import shlex  # only errors need it

    return f"python -c {shlex.quote(code)}"


def _file_name(name: str) -> str:
    return name if name.isprintable() and len(name) < _LONGEST_NAME else "FILE"


def close_to(name: str, known: Iterable[str], count: int, least: float) -> list[str]:
    """The known names that may have been meant."""
    import difflib  # only errors need it

    return difflib.get_close_matches(name, list(known), count, least)
