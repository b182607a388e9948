"""The progress bar: one line on a terminal for all files, advancing with the frames of the current one."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vocos_onnx.messages import printable

_FORMAT = "[{{bar:{}}}] {{percentage:3.0f}}% {{desc}}"
_WIDTH, _LEAST_WIDTH, _AROUND = 30, 6, 8  # of the bar; of its brackets and the percentage
_shown: Progress | None = None  # there is one terminal


def wipe() -> None:
    """Erase the bar before something is printed; the next update draws it again."""
    if _shown is not None:
        _shown.clear()


class Progress:
    """The bar for files with these names. ``is_off``: stderr is not a terminal, or the terminal is gone.

    Example:
        >>> with Progress(["a.wav", "b.wav"]) as progress:
        ...     progress.begin(0)
        ...     progress(300, 750)  # frames or samples of a.wav that are done, and their total
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names, self._index = names, 0
        self._bar: Any = None
        self._is_drawn = False
        self.is_off = sys.stderr is None or not sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        self.clear()
        if self._bar is not None:
            self._bar.disable = True  # otherwise tqdm draws it once more when it is deleted

    def select(self, index: int) -> None:
        """Make the file with that index the current one."""
        self._index = index

    def begin(self, index: int) -> None:
        """Like ``select``, for a file that is about to start; if there are several, draws the bar at once."""
        self.select(index)
        if len(self._names) > 1:
            self(0, 1)

    def __call__(self, done: int, frames: int) -> None:
        """Draw the bar, with ``done`` of the current file's ``frames`` done."""
        if not self.is_off:
            count = len(self._names)
            text = f"{self._index + 1}/{count} {printable(self._names[self._index])}"
            self.draw(self._index + done / frames, count, text)

    def draw(self, n: float, count: float, *texts: str) -> None:
        """Draw the bar, with ``n`` of ``count`` done, followed by the first text that fits, or else the last one.

        A line that is too long is cut off on the right.
        """
        global _shown
        if self.is_off:
            return
        columns = _columns()
        rooms = [(columns - _AROUND - len(text), text) for text in texts]
        room, text = next((found for found in rooms if found[0] >= _LEAST_WIDTH), rooms[-1])
        format = _FORMAT.format(min(_WIDTH, max(_LEAST_WIDTH, room)))
        with self._terminal():
            self._is_drawn, _shown = True, self
            if self._bar is None:
                self._bar = _new_bar(n, count, text, format)
            else:
                self._bar.n, self._bar.desc, self._bar.bar_format, self._bar.ncols = n, text, format, columns
                self._bar.refresh()

    def clear(self) -> None:
        """Erase the bar, if it is drawn."""
        global _shown
        if self._is_drawn:
            self._is_drawn, _shown = False, None
            with self._terminal():
                if self._bar is not None:
                    self._bar.clear()

    @contextmanager
    def _terminal(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError:  # a file name that the terminal's encoding cannot show
            pass
        except OSError:  # the terminal is gone
            self.is_off = True


def _columns() -> int:
    return shutil.get_terminal_size().columns - 1


def _new_bar(n: float, count: float, text: str, format: str) -> Any:
    from tqdm import tqdm  # imported here because only terminals need it

    tqdm.monitor_interval = 0  # no monitor thread
    tqdm.set_lock(threading.RLock())  # instead of a multiprocessing lock, which is slow to import
    return tqdm(
        file=sys.stderr,
        total=count,
        initial=n,
        desc=text,
        bar_format=format,
        ascii=".#",
        position=0,
        leave=False,
        ncols=_columns(),  # without it tqdm shows nothing on a terminal that does not report its size
        nrows=24,
    )
