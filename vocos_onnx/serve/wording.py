"""Rewords error messages for clients: the library's messages name Python arguments, which a client cannot pass."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from vocos_onnx.messages import close_to, of_files, printable, shown

LONGEST_REASON = 300  # characters of a reason about bad input, which may quote the input

_OBJECT = re.compile(r"\bVocosONNX\('([\w./-]+)'\)")
SEND = "send the file itself as the body, as with curl --data-binary @FILE"
_OF_REQUESTS = [
    (re.compile(pattern, re.DOTALL), new)
    for pattern, new in (
        (r"^cannot read the file\b", "cannot read the body"),
        (r"; in the program that wrote it, save the numbers alone: .*", ": send numbers alone, as .npz, .npy or JSON"),
        (r", copy or make it again", f": {SEND}"),
        (r"Bad CRC-32 for file ('[^']*')", rf"its \1 is damaged: {SEND}"),
        (r", or a MelConvention for other systems", ""),
        (r'choose one with --key NAME \(in Python key="NAME"\)', "choose one with key=NAME in the query"),
        (
            r"transpose them \((?:mels|features|tokens)\.T\) before they are saved",
            "transpose them before they are sent",
        ),
        (r"--mels-from (\w+) or (\w+) \(in Python [^()]*\)", r"mels_from=\1 or mels_from=\2 in the query"),
        (r"--mels-from (\w+) \(in Python [^()]*\)", r"mels_from=\1 in the query"),
        (r"--mels-from \(in Python mels_from=\)", "mels_from in the query"),
        (r"; features that are integers may be saved as \.astype\(numpy\.float32\)", "; mels are sent as floats"),
        (r" in the layout '\w+'", ""),
        (r"save tokens\[:(\d+)\]", r"send their first \1 rows"),
        (r"save it as \.wav, for copy-synthesis", "recordings are for /v1/resynth"),
        (r"save vocos_onnx\.MelConvention\([^()]*\)\.magnitudes\(mels\)", "send natural logarithms of magnitudes"),
        (r", as features\(\) gives", ""),
        (r"(?:pass|send|save) them as \.astype\(numpy\.int64\)", "send them as integers"),
        (r" or \(B, (\d+), T\)| or \(B, T, (\d+)\)", ""),
        (r"\(B, (\d+), T\)", r"(\1, T)"),
        (r"\bsave (?=tokens|features|mels|them|one )", "send "),
        (r"\bpass\b", "give"),
    )
]


def for_clients(text: str, models: Collection[str] = ()) -> str:
    """Rewords a message of the library for clients. ``models``: the names of the models they may request.

    Example:
        >>> for_clients("take a mel model, such as VocosONNX('vocos-mel-24khz-small')", ["vocos-mel-24khz-small"])
        'take a mel model, such as model=vocos-mel-24khz-small'
    """
    text = _OBJECT.sub(lambda found: f"model={found[1]}" if found[1] in models else found[1], text)
    text = of_files(text)
    for pattern, new in _OF_REQUESTS:
        text = pattern.sub(new, text)
    return text


def in_json(value: object) -> str:
    """Returns a parsed JSON value in JSON notation, shortened if it is long.

    Example:
        >>> in_json(None), in_json([1, 2])
        ('null', '[1, 2]')
    """
    if value is None or isinstance(value, bool | float):
        return json.dumps(value)
    return shown(value)


def with_place(reason: str, values: npt.NDArray[Any], first_frame: int = 0) -> str:
    """Adds to a message about a token where that token first occurs in these tokens (K, T), counted from 0.

    Example:
        >>> with_place("tokens hold the value 9, expected 0 to 7", np.array([[0, 1], [2, 9]]))
        'tokens hold the value 9 (in codebook 1, frame 1, counted from 0), expected 0 to 7'
    """

    def placed(found: re.Match[str]) -> str:
        places = np.argwhere(values == int(found[1]))
        if values.ndim != 2 or not len(places):
            return found[0]
        codebook, frame = places[0]
        return f"{found[0]} (in codebook {codebook}, frame {first_frame + frame}, counted from 0)"

    return re.sub(r"^tokens hold the value (-?\d+)", placed, reason)


def said(text: str, models: Collection[str] = ()) -> str:
    """Returns a reason as it is sent to clients: reworded by ``for_clients``, printable, and not too long."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", text)  # an object's address in memory, in a parser's message
    return short(printable(for_clients(text, models)))


def short(text: str) -> str:
    """Truncates a reason, which may quote the input."""
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 4] + " ..."


def unknown(name: str, known: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the name, the most similar known one, and all known ones.

    Example:
        >>> "there is no parameter " + unknown("bandwith", ["model", "bandwidth"])
        "there is no parameter 'bandwith' (did you mean bandwidth?), expected one of model, bandwidth"
    """
    known = tuple(known)
    if not known:
        return f"{shown(name)}, expected none"
    close = close_to(name.lower(), known, 1, 0.6)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"{shown(name)}{hint}, expected {'one of ' if len(known) > 1 else ''}{', '.join(known)}"


def one_of(names: Iterable[object]) -> str:
    """Joins names or numbers with commas, and "or" before the last."""
    *others, last = map(str, names)
    return f"{', '.join(others)} or {last}" if others else last
