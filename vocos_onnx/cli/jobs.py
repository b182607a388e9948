"""The inputs and outputs of decode, encode and resynth: names, folders and standard streams."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from vocos_onnx.io.files import check_target, new_folder, temporary
from vocos_onnx.io.kinds import AUDIO, TOKENS
from vocos_onnx.messages import in_shell, listed, reading, writing
from vocos_onnx.model.bundled import find_model

from .console import (
    BAD_INPUT,
    STDIN,
    STDOUT,
    StandardOutput,
    check_terminal,
    complain,
    message_of,
    read_stdin,
    report_done,
    warn,
)
from .progress import Progress


@dataclass(frozen=True)
class Job:
    """An input and its output; ``format`` is the output's format if its name does not imply it.

    A source of None is standard input, and a target of None standard output.
    """

    source: Path | None
    target: Path | None
    format: str | None

    @property
    def source_name(self) -> str:
        return STDIN if self.source is None else str(self.source)

    @property
    def target_name(self) -> str:
        return STDOUT if self.target is None else str(self.target)

    @property
    def output(self) -> Path | BinaryIO:
        """The target as ``save_blocks`` and ``save_tokens`` take it."""
        return cast(BinaryIO, StandardOutput()) if self.target is None else self.target

    def open(self) -> AbstractContextManager[Path]:
        """Returns a context manager with the input as a file; a pipe is copied to a temporary file."""
        if self.source is None:
            target = "-" if self.target is None else str(self.target)
            command = "encode" if self.format == "npz" or target.lower().endswith(".npz") else "resynth"
            return _copied(None, STDIN, f"vocos-onnx {command} - {in_shell(target)}")
        with suppress(OSError):
            mode = self.source.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                return _copied(self.source, str(self.source))
        return nullcontext(self.source)


@contextmanager
def _copied(source: Path | None, name: str, again: str = "") -> Iterator[Path]:
    """Copies a pipe to a temporary file. Errors call it ``name``, and suggest piping to the command ``again``."""
    with temporary("stdin" if source is None else source.name) as file:
        try:
            with file.open("wb") as sink:
                if source is None:
                    for data in read_stdin():
                        sink.write(data)
                else:
                    with source.open("rb") as pipe:
                        shutil.copyfileobj(pipe, sink, 1 << 20)
                if not sink.tell():
                    raise ValueError(f"{name} is empty or closed; expected a file of audio, tokens or features")
            yield file
        except ValueError as error:  # the message names the temporary file
            if type(error) is not ValueError or str(file) not in str(error):
                raise
            text, path = str(error), re.escape(str(file))
            if source is None:  # ffmpeg and vocos-onnx call it -
                wav = f"-i - -f wav - | {again}"
                raw = f"ffmpeg {wav} (raw samples: ffmpeg -f s16le -ar 24000 -ac 1 {wav})"
                text = re.sub(rf"ffmpeg -i {path} \S+", lambda _: raw, text)
                text = re.sub(rf"(?<=code ){path}(?= )", "-", text)
                text = re.sub(rf"{path}(?=[._]\w)", "tokens", text)
                text = text.replace(f'loadtxt("{file}"', "loadtxt(sys.stdin").replace(f'"{file}"', '"FILE"')
            raise ValueError(text.replace(str(file), name)) from None


def expand(inputs: list[str], endings: tuple[str, ...], what: str) -> list[Path | None]:
    """Returns the files named by the inputs, with each folder replaced by its files that have one of these endings.

    Warns of files left out. None is standard input. ``what``: the kind of files in messages, such as "audio files".
    """
    found: list[Path | None] = []
    for text in inputs:
        path = Path(text)
        if text == "-":
            if None in found:
                raise ValueError(f"{STDIN} (-) is given twice, and can be read once")
            check_terminal(sys.stdin, f"{what} are to come from it")
            found.append(None)
        elif _is_folder(path):
            with reading(path):
                there = sorted(file for file in path.iterdir() if not file.name.startswith("."))
            taken = [file for file in there if file.suffix.lower() in endings and file.is_file()]
            if not taken:
                raise ValueError(
                    f"the folder {path} holds no {what} (files that end in {', '.join(endings)}); it holds "
                    f"{listed(map(_entry, there)) or 'nothing'}"
                )
            if left := sorted(set(there) - set(taken)):
                warn(f"left out of the folder {path}, as they are no {what}: {listed(map(_entry, left))}")
            found += taken
        else:
            found.append(path)
    return found


def _is_folder(path: Path) -> bool:
    with reading(path):
        return path.is_dir()


def _entry(path: Path) -> str:
    return f"{path.name}/" if path.is_dir() else path.name


def plan_jobs(
    args: Namespace,
    inputs: list[Path | None],
    suffix: str,
    models: list[str | None],
    check: Callable[[Path | None, str | None], str | None],
    is_input: Callable[[Path], bool],
) -> tuple[list[Job], Path | None]:
    """Returns a job for each input, and the folder of the outputs if it does not exist yet.

    Args:
        args: the command's arguments: its ``inputs``, ``output``, ``format`` and ``force``.
        inputs: what ``expand`` returned for the inputs.
        suffix: ending of the outputs in a folder, such as ".wav".
        models: models that the command reads, which must not be overwritten.
        check: called with an output and the --format; raises ValueError if it cannot be written, and returns its
            format if the name does not imply it.
        is_input: tests whether a file looks like an input of the command, which must not be overwritten.
    """
    output = Path(args.output)
    several = len(inputs) > 1 or any(Path(text).is_dir() for text in args.inputs if text != "-")
    if args.output == "-":
        if several:
            raise ValueError(f"{STDOUT} (-) can hold one output, and {len(inputs)} are to come; name a folder")
        check_terminal(sys.stdout, "the output is not text")
        return [Job(inputs[0], None, check(None, args.format))], None
    if not several and not is_folder(args.output):
        format_ = check(output, args.format)
        check_output(output, [*inputs, *models], args.force, is_input)
        return [Job(inputs[0], output, format_)], None
    is_new = _check_folder(args, output, len(inputs), is_input)
    jobs = []
    sources: dict[str, str] = {}
    for source in inputs:
        target = output / (Path(source or "stdin").stem + suffix)
        job = Job(source, target, None)
        if not is_new:
            check_output(target, [*inputs, *models], args.force, is_input)
        real = os.path.realpath(target)
        if real in sources:
            raise ValueError(
                f"{sources[real]} and {job.source_name} would both be written to {target}; rename one of them"
            )
        sources[real] = job.source_name
        jobs.append(job)
    if not is_new:
        return jobs, None
    absolute = Path(os.path.abspath(output))  # noqa: PTH100
    above = next(folder for folder in absolute.parents if folder.exists())
    check_target(above / absolute.relative_to(above).parts[0])
    return jobs, output


def is_folder(output: str) -> bool:
    """Whether an output is an existing folder, or a name that ends with a slash."""
    with writing(output):
        return output != "-" and (Path(output).is_dir() or output.endswith(("/", os.sep)))


def _check_folder(args: Namespace, output: Path, count: int, is_input: Callable[[Path], bool]) -> bool:
    """Returns whether the folder for ``count`` outputs has to be made.

    Raises ValueError or OSError if it is not a folder, or looks like an input because the output was forgotten.
    """
    named_like_a_file = not args.output.endswith(("/", os.sep)) and output.suffix.lower() in (*AUDIO, *TOKENS)
    if output.is_dir():
        if named_like_a_file:
            raise IsADirectoryError(f"{output} is a folder; expected the name of a file, or {output}/ for that folder")
        folders = [path for path in map(Path, args.inputs) if path.is_dir()]
        if folders and not any(output.samefile(path) for path in folders):
            held = next((path for path in sorted(output.iterdir()) if path.is_file() and is_input(path)), None)
            if held is not None:
                raise ValueError(
                    f"the folder {output} holds {held.name}: it looks like one more input, with the output forgotten. "
                    "Name a new folder as the output, or an empty one"
                )
        return False
    many = f"{count} files need" if count > 1 else "the output needs"
    if output.exists():
        raise NotADirectoryError(f"{many} a folder to go to, and {output} is not a folder")
    if named_like_a_file:
        if len(args.inputs) == 1:  # a folder
            raise ValueError(
                f"{output} is the name of a file, but a folder of inputs needs a folder for its outputs: write "
                f"{output}/ if you mean a folder"
            )
        raise ValueError(
            f"{many} a folder to go to, and {output} is the name of a file: was the output forgotten? Write {output}/ "
            "if you mean a folder"
        )
    return True


def check_output(
    output: Path,
    inputs: Iterable[str | os.PathLike[str] | None],
    overwrite: bool,
    is_input: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Like ``check_target``, but also raises ValueError if the output is an input or a file in a checkpoint's folder.

    It does so too if the output looks like one more input, as in ``resynth *.wav``.
    """
    if output.is_file():
        for path in (find_model(given) for given in inputs if given is not None):
            files = [file for file in path.iterdir() if file.suffix != ".onnx"] if path.is_dir() else [path]
            if any(file.exists() and output.samefile(file) for file in files):
                raise ValueError(f"{output} would be written over itself; choose another output")
        if is_input(output):
            raise ValueError(
                f"{output} is a recording that was not made by vocos-onnx: it looks like one more input, with the "
                "output forgotten. Name another output, or a new folder for several inputs"
            )
    check_target(output, overwrite=overwrite)


def check_model_target(output: str, inputs: Iterable[str | os.PathLike[str] | None], overwrite: bool) -> None:
    """Like ``check_output``, but also raises ValueError if the name does not end in .onnx, perhaps by mistake."""
    path = Path(output)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"{path.name!r} does not end in .onnx, the kind of file that a model is written to")
    check_output(path, inputs, overwrite)


def ends_in(endings: tuple[str, ...]) -> Callable[[Path], bool]:
    """Returns a test for files that have one of these endings and are not hidden."""
    return lambda path: path.suffix.lower() in endings and not path.name.startswith(".")


def run_jobs(jobs: list[Job], folder: Path | None, run_job: Callable[[Job, Path, Progress], str]) -> None:
    """Run one job after another. A bad file is reported, and the others are still done.

    ``run_job`` is called with a job, its input as a file, and the progress bar; it returns the line to print once the
    job is done. The folder is made for the outputs, and removed again if nothing was written to it. Raises what
    ``run_job`` raises if there is one job, and ValueError if some of several failed.
    """
    failed = 0
    new = nullcontext() if folder is None else new_folder(folder)
    with new, Progress([job.source_name for job in jobs]) as progress:
        for index, job in enumerate(jobs):
            progress.begin(index)
            try:
                with job.open() as path:
                    done = run_job(job, path, progress)
            except BAD_INPUT as error:
                if len(jobs) == 1:
                    raise
                named = any(name in message_of(error) for name in (job.source_name, job.target_name))
                complain(error if named else ValueError(f"{job.source_name}: {message_of(error)}"))
                failed += 1
            else:
                report_done(job.target, done)
    if failed:
        raise ValueError(f"{failed} of {len(jobs)} files failed")
