"""Values from outside in messages of errors: readable, and never longer than a line or two."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Any

_LONGEST = 200


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 80, 120, 40
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 6

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of more than 4300 digits
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"an integer of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."


_SHORT = _Short()


def shown(value: Any) -> str:
    """The repr of a value, shortened where it is long."""
    return _cut(_SHORT.repr(value))


def listed(names: Iterable[Any]) -> str:
    """Names from outside, with commas between them: the first ten, and how many more there are."""
    each = [_cut(str(name), 80) for name in names]
    more = f" and {len(each) - 10} more" if len(each) > 10 else ""
    return ", ".join(each[:10]) + more


def first_line(error: BaseException) -> str:
    """The first line of what an error says, else its kind."""
    lines = str(error).strip()[:10_000].splitlines()
    return _cut(lines[0], 2 * _LONGEST) if lines else type(error).__name__


def _cut(text: str, longest: int = _LONGEST) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}...{text[-longest // 4 :]}"
