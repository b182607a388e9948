"""The command line.

Exit codes: 0 where all was done; 2 where something was not, with one line on stderr for each reason and no traceback; 1
where who reads standard output has gone away; 128 + N where signal N ended it. Without arguments it prints its help.

Standard streams may be closed, full, or of any encoding: work whose result is a file is done all the same.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import re
import shlex
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NoReturn, TextIO

import numpy as np
import numpy.typing as npt

from . import __version__
from .analysis import bandwidth_index
from .arrays import Float
from .encoder import DEFAULT_BANDWIDTH, EncodecONNX
from .frames import LAYOUTS
from .io.audio import audio_format, expected_samples, load_audio, load_blocks, save_blocks
from .io.files import check_target, is_stdout, new_folder, temporary, whole_file
from .io.kinds import kind_of
from .io.tokens import Tokens, demo_tokens, read_token_file, save_tokens
from .messages import close_to, listed, printable, shown
from .model.bundled import BUNDLED, BUNDLED_CODEC, CODEC, DEMO_TOKENS, find_model
from .model.config import ENCODER_KEY, METADATA_KEY, ModelConfig
from .model.session import open_file
from .network import placement
from .vocoder import VocosONNX

PCM = {"s16le": "<i2", "f32le": "<f4"}
ENCODEC = "encodec_24khz"
MADE_BY = "vocos-onnx"  # a comment in the audio files that are made here: they may be replaced, recordings may not
BAD_INPUT = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)
LOUD = 2.0  # peak, of full scale 1, from which on the codec does not keep the level
MAX_CHUNK = 100_000  # frames, for which a stream waits: 22 minutes of the bundled codec
STDIN, STDOUT = "standard input", "standard output"
# What of a folder is taken; what has another ending can be named on its own.
AUDIO = (
    ".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64",
    ".rf64", ".voc", ".sph", ".wv", ".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka",
)  # fmt: skip
ARRAYS = (".npz", ".npy")
TOKENS = (*ARRAYS, ".json", ".safetensors")
Progress = Callable[[int, int], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with warnings.catch_warnings(), _logged():
        warnings.showwarning = _show_warning
        try:
            args = _parse(sys.argv[1:] if argv is None else argv)
            if args is not None:
                args.run(args)
        except _ReaderGoneError:  # nobody is there to be told
            _give_up(sys.stdout)
            return 1
        except BAD_INPUT as error:
            _complain(error)
            return 2
        except MemoryError as error:
            _complain(MemoryError(f"not enough memory: {error}; nothing was written"))
            return 2
        except KeyboardInterrupt:
            return 130  # 128 + SIGINT, as a shell says it
        return 0


# What is printed


class _ReaderGoneError(Exception):
    """Of standard output."""


def _print(stream: TextIO | None, text: str) -> None:
    """One line, in which nothing controls a terminal, and which the stream's encoding can hold. Raises OSError."""
    if stream is None or stream.closed:
        raise OSError("it is closed")
    line = printable(text) + "\n"
    try:
        stream.write(line)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(line.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _tell(text: str) -> None:
    """One line on stderr, if there is one: a terminal may be gone, and print(file=None) would be standard output."""
    with suppress(OSError):
        _print(sys.stderr, f"vocos-onnx: {text}")


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None and error.strerror:  # without Python's [Errno 28]
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def _complain(error: Exception) -> None:
    text = re.sub(r"\s*[\r\n]\s*", " ", _message(error).strip())
    text = re.sub(r"\b(bandwidth|bandwidth_id|encoder|layout)=(?=(['\w]?))", _option, text)
    text = re.sub(r", or overwrite=True|, or None for all that this process may use", "", text)
    text = re.sub(r"\bVocosONNX\('([\w.-]+)'\)", r"--model \1", text)
    _tell(f"error: {text}")


def _option(argument: re.Match[str]) -> str:
    """What Python takes as encoder='e.onnx' is --encoder 'e.onnx' here."""
    return f"--{argument[1].replace('_', '-')}{' ' if argument[2] else ''}"


def _say(output: Path | None, text: str) -> None:
    """One line of what was done, but not into the output itself. The work is done, whether it can be printed or not."""
    stream = sys.stderr if output is None or is_stdout(output) else sys.stdout
    try:
        _print(stream, text)
    except OSError:
        _give_up(stream)


@contextmanager
def _stdout() -> Iterator[None]:
    """In it standard output is written, where that is what the command is for. Raises OSError."""
    try:
        yield
    except BrokenPipeError:
        raise _ReaderGoneError from None
    except OSError as error:
        _give_up(sys.stdout)
        raise OSError(f"{STDOUT} cannot be written: {error.strerror or error}") from None


def _give_up(stream: TextIO | None) -> None:
    """What is left in its buffer leads nowhere, else Python complains when it flushes it at the end."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    _tell(f"warning: {' '.join(str(message).split())}")


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _tell(f"warning: {record.getMessage()}")


@contextmanager
def _logged() -> Iterator[None]:
    """Warnings of the logger are printed as everything is."""
    handler, log = _Handler(logging.WARNING), logging.getLogger("vocos_onnx")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


# Options


class _Parser(argparse.ArgumentParser):
    """No abbreviations, since what is not known must not pass for something else; and the names that may be meant."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    commands: Mapping[str, _Parser]

    def unexpected(self, extra: list[str], commands: Mapping[str, _Parser]) -> NoReturn:
        """Ends the process, because of arguments that are left over."""
        option = next((text for text in extra if text.startswith("-") and text != "-"), None)
        if option is None and self.prog.endswith(" stream"):
            self.error(f"unexpected {' '.join(extra)}; stream reads {STDIN}: pass it as < {shlex.quote(extra[0])}")
        if option is None:
            self.error(
                f"unexpected {' '.join(extra)}; this command takes {self._positionals_named()}: name all files in one "
                "row, the options before or behind them"
            )
        name = option.partition("=")[0]
        known = [text for text in self._option_string_actions if text.startswith("--")]
        others = [command for command, parser in commands.items() if name in parser._option_string_actions]
        meant = [text for text in known if name.startswith("--") and len(name) > 2 and text.startswith(name)]
        if not others:
            meant = meant or close_to(name, known, 2, 0.7)
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
        if others:
            hint = f", which is one of {', '.join(others)}{hint}"
        self.error(f"unknown option {name}{hint} ({self.prog} --help lists the options)")

    def _positionals_named(self) -> str:
        return " ".join(str(action.metavar or action.dest) for action in self._get_positional_actions()) or "none"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            close = close_to(str(value), known, 1, 0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise argparse.ArgumentError(action, f"{shown(value)} is not one of {', '.join(known)}{hint}")

    def error(self, message: str) -> NoReturn:
        if message.endswith("OUT.html"):
            message += ": name it before --inputs, which takes all names that follow it"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout and file is not None:
            with _stdout():
                for line in message.splitlines():
                    _print(file, line)
        else:
            for line in message.splitlines():
                with suppress(OSError):
                    _print(sys.stderr, line)


def _parse(argv: Sequence[str]) -> argparse.Namespace | None:
    parser = _parser()
    if not argv:
        parser.print_help(sys.stdout)
        return None
    options = argv[: argv.index("--")] if "--" in argv else argv
    for text in options:
        if text[:1] == "-" and "=" not in text and Path(text).suffix.lower() in (*AUDIO, *TOKENS):
            parser.error(f"{shown(text)} begins as an option does: a file of that name is ./{text}")
    first, command = argv[0], next((text for text in argv if text in parser.commands), None)
    if first[:1] == "-" and first not in parser._option_string_actions:
        hint = (
            "did you mean --version?"
            if first.lower() in ("-v", "-version")
            else "vocos-onnx --help lists what there is"
        )
        if command is not None:
            hint = f"options come after the command: vocos-onnx {command} {first}"
        parser.error(f"unknown option {first} before the command; {hint}")
    args, extra = parser.parse_known_args(argv)
    if extra:
        args.parser.unexpected(extra, parser.commands)
    return args


def _path(text: str) -> Path:
    if not text:  # which Path takes for the working directory
        raise argparse.ArgumentTypeError("an empty name, expected that of a file or folder")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)} holds a null character, which no name can")
    return Path(text)


def _name(text: str) -> str:
    _path(text)
    return text


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number of up to 18 digits")
    return int(text)


def _provider(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("an empty name, expected cpu, cuda, or another execution provider")
    if text.lower() == "gpu":
        raise argparse.ArgumentTypeError(f"{shown(text)} is not an execution provider; did you mean cuda?")
    return text.lower() if text.lower() in ("cpu", "cuda") else text


def _kbps(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a bandwidth in kbps, such as 1.5 or 6")
    return value


def _format(text: str) -> str:
    ending = text.lower().lstrip(".")
    try:
        audio_format(Path(tempfile.gettempdir()) / f"audio.{ending}")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{shown(text)} is not a kind of audio to write, such as wav, flac or ogg"
        ) from None
    return ending


EXAMPLES = """
examples:
  vocos-onnx demo demo.wav                          decode real speech, to hear that it works
  vocos-onnx encode speech.wav tokens.npz           audio to tokens
  vocos-onnx decode tokens.npz out.wav              tokens to audio
  vocos-onnx resynth recordings/ copies/            every recording of a folder, through the codec and back
  vocos-onnx info                                   what the bundled codec is; info MODEL.onnx: a model
  vocos-onnx export charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx
                                                    the official model, for tokens of EnCodec and Bark

vocos-onnx COMMAND --help explains a command; without one this help is printed. Exit codes: 0 done, 2 not
(stderr says why), 1 if the reader of standard output has gone away, 128 + N if signal N ended it.
"""
MODEL = ".onnx model, or the name of a bundled one (default: the bundled codec)"
ENCODER = "encoder .onnx (default: that of the bundled codec)"
INPUTS = "- is standard input, and a folder all of its {} files (but not those of its own folders)"
OUTPUTS = "for several inputs a folder, which is made where it does not exist; - is standard output"


def _parser() -> _Parser:
    parser = _Parser(
        prog="vocos-onnx",
        description="Vocos without torch: tokens to 24 kHz audio, and audio to tokens.",
        epilog=EXAMPLES.strip(),
    )
    parser.add_argument("--version", action="version", version=f"vocos-onnx {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parser.commands = commands.choices

    def command(name: str, run: Callable[[argparse.Namespace], None], *examples: str, **options: Any) -> _Parser:
        lines = "\n".join(f"  vocos-onnx {line}" for line in examples)
        help_ = options["help"]
        made: _Parser = commands.add_parser(
            name,
            description=f"{help_[0].upper()}{help_[1:]}.",
            epilog=f"examples:\n{lines}" if examples else None,
            **options,
        )
        made.set_defaults(run=run, parser=made)
        return made

    session = argparse.ArgumentParser(add_help=False)
    session.add_argument(
        "--provider", type=_provider, metavar="P", help="cpu, cuda, or another execution provider of onnxruntime"
    )
    session.add_argument(
        "--threads", type=_integer, metavar="N", help="threads on the CPU (default: the CPUs that it may use)"
    )

    writes = argparse.ArgumentParser(add_help=False)
    writes.add_argument("-y", "--force", action="store_true", help="replace an output that exists")

    audio_out = argparse.ArgumentParser(add_help=False)
    audio_out.add_argument(
        "--format",
        type=_format,
        metavar="F",
        help="wav, flac, ogg, ...: where the name of the output does not say it (default: wav)",
    )

    decode = command(
        "decode",
        _decode,
        "decode tokens.npz out.wav",
        "decode tokens/ audio/                  # every token file of a folder",
        "decode - - --format flac < t.npz > a.flac",
        "decode bark.npz out.wav --model vocos-encodec-24khz.onnx --key fine_prompt",
        parents=[session, audio_out, writes],
        help="decode tokens or features to audio files",
    )
    decode.add_argument(
        "inputs", type=_name, nargs="+", metavar="TOKENS", help=f"token files; {INPUTS.format(', '.join(TOKENS))}"
    )
    decode.add_argument("output", type=_name, metavar="OUT", help=f"audio file to write, e.g. out.wav; {OUTPUTS}")
    decode.add_argument("--model", metavar="M", help=MODEL)
    decode.add_argument(
        "--bandwidth",
        type=_kbps,
        metavar="KBPS",
        help="of the tokens, as encode takes it; where they have more codebooks than it, the first ones are decoded "
        "(default: that of all codebooks)",
    )
    decode.add_argument(
        "--bandwidth-id",
        type=_integer,
        metavar="N",
        help="decode all codebooks that there are, as tokens of bandwidth N of the model's list, from 0: the "
        "bandwidth_id of upstream Vocos",
    )
    decode.add_argument("--layout", default="kbt", help="axes of 3-D tokens: kbt (codebooks, batch, frames) or bkt")
    decode.add_argument("--key", metavar="NAME", help="of the array in a file that holds several")

    files = argparse.ArgumentParser(add_help=False)
    files.add_argument(
        "inputs",
        type=_name,
        nargs="+",
        metavar="IN",
        help=f"audio files of any kind, rate and channels; {INPUTS.format('audio')}",
    )
    files.add_argument("--bandwidth", type=_kbps, metavar="KBPS", help=f"default: {DEFAULT_BANDWIDTH:g}")
    files.add_argument("--encoder", metavar="E", help=ENCODER)

    encode = command(
        "encode",
        _encode,
        "encode speech.wav tokens.npz --bandwidth 3",
        "encode recordings/ tokens/             # every audio file of a folder",
        "encode - - < speech.mp3 > tokens.npz",
        parents=[session, files, writes],
        help="encode audio files to tokens",
    )
    encode.add_argument("output", type=_name, metavar="OUT", help=f".npz file to write; {OUTPUTS}")
    encode.add_argument("--format", choices=["npz"], help="where the name of the output does not say it")

    resynth = command(
        "resynth",
        _resynth,
        "resynth speech.flac copy.wav",
        "resynth *.wav copies/                  # several files, each under its own name",
        "resynth - - --format flac < speech.mp3 | ffplay -",
        parents=[session, files, audio_out, writes],
        help="copy-synthesis: audio files through tokens or mels, and back",
    )
    resynth.add_argument("output", type=_name, metavar="OUT", help=f"audio file to write; {OUTPUTS}")
    resynth.add_argument("--model", metavar="M", help=MODEL)
    resynth.add_argument("--plot", type=_path, metavar="P.png", help="draw the two spectrograms, of one file")

    stream = command(
        "stream",
        _stream,
        "stream tokens --bandwidth 6 < tokens.raw > audio.raw",
        "stream audio < audio.raw > copy.raw    # 16 bits, mono, 24000 Hz; ffmpeg makes it: -f s16le -ac 1 -ar 24000 -",
        parents=[session],
        help="raw tokens, features or audio on stdin to raw audio on stdout, as it comes",
    )
    stream.add_argument(
        "kind",
        choices=("tokens", "features", "audio"),
        help="tokens as 16-bit integers, frame after frame, in each those of all codebooks of the --bandwidth "
        "(numpy: tokens.T.astype('<i2').tobytes()); features in the same way as 32-bit floats; or mono audio",
    )
    stream.add_argument("--model", metavar="M", help=MODEL)
    stream.add_argument("--encoder", metavar="E", help=ENCODER)
    stream.add_argument("--bandwidth", type=_kbps, metavar="KBPS", help=f"default: {DEFAULT_BANDWIDTH:g}")
    stream.add_argument("--rate", type=_integer, metavar="HZ", help="of the audio on stdin (default: the model's)")
    stream.add_argument("--format", choices=list(PCM), default="s16le", help="of the audio, in and out")
    stream.add_argument(
        "--lookahead", type=_integer, metavar="N", help="frames to wait for; fewer are sooner, not exact"
    )
    stream.add_argument(
        "--chunk", type=_integer, metavar="N", default=8, help="frames of audio encoded at once (default: 8)"
    )

    info = command(
        "info", _info, "info", "info model.onnx --json", "info model.onnx --provider cuda", help="print what a model is"
    )
    info.add_argument("model", nargs="?", metavar="MODEL", help="model or encoder (default: the bundled codec)")
    info.add_argument(
        "--provider", type=_provider, metavar="P", help="run it there, and list which operators are left on the CPU"
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")

    demo = command(
        "demo",
        _demo,
        "demo demo.wav",
        parents=[session, audio_out, writes],
        help="decode the bundled tokens, real recorded speech",
    )
    demo.add_argument("output", type=_name, nargs="?", default="demo.wav", metavar="OUT")

    report = command(
        "report",
        _report,
        "report page.html --inputs recordings/",
        parents=[session, writes],
        help="one HTML page to compare models by ear and figures (needs [report])",
    )
    report.add_argument("output", type=_path, metavar="OUT.html", help="page to write; it needs no other file")
    report.add_argument(
        "--inputs", type=_name, nargs="+", required=True, metavar="IN", help="audio files of any kind, or folders"
    )
    report.add_argument(
        "--model",
        nargs="+",
        action="extend",
        metavar="M",
        help=".onnx models, or names of bundled ones (default: all of those)",
    )
    report.add_argument("--encoder", metavar="E", help="encoder .onnx of the models with its codebooks")
    report.add_argument("--bandwidths", type=_kbps, nargs="+", metavar="KBPS", help="default: all of each model")

    variant = argparse.ArgumentParser(add_help=False)
    precision = variant.add_mutually_exclusive_group()
    precision.add_argument("--int8", action="store_true", help="matrix products in int8, for CPUs")
    precision.add_argument("--fp16", action="store_true", help="half precision, for GPUs")
    variant.add_argument(
        "--calibrate", type=_path, nargs="+", metavar="F", help=".npy or .npz of tokens or features (default: speech)"
    )
    export = command(
        "export",
        _export,
        "export charactr/vocos-encodec-24khz -o vocos-encodec-24khz.onnx",
        "export charactr/vocos-mel-24khz -o vocos-mel-24khz.onnx",
        parents=[variant, writes],
        help="convert a Vocos checkpoint to .onnx (needs the extra [export])",
    )
    export.add_argument(
        "checkpoint", type=_name, metavar="CHECKPOINT", help="folder, .ckpt file, or hub id (owner/name)"
    )
    export.add_argument("-o", "--output", type=_name, required=True, metavar="MODEL.onnx")
    export.add_argument("--config", type=_name, help="config.yaml, where it is not beside the weights")
    export.add_argument("--revision", help="branch, tag or commit of a hub id")
    export.add_argument(
        "--istft",
        choices=("numpy", "graph"),
        default="numpy",
        help="graph: the inverse STFT on the device too, for GPUs",
    )

    quantize = command(
        "quantize",
        _quantize,
        "quantize model.onnx -o model-int8.onnx --int8",
        parents=[variant, writes],
        help="a float32 .onnx to int8 or half precision (needs [export])",
    )
    quantize.add_argument("model", type=_name, metavar="MODEL", help=".onnx model, or the name of a bundled one")
    quantize.add_argument("-o", "--output", type=_name, required=True, metavar="OUT.onnx")

    encoder = command(
        "export-encodec",
        _export_encodec,
        "export-encodec facebook/encodec_24khz -o encodec_24khz.onnx",
        parents=[writes],
        help="convert an EnCodec checkpoint's encoder to .onnx (needs [export])",
    )
    encoder.add_argument(
        "checkpoint", type=_name, metavar="CHECKPOINT", help="Meta's .th file, folder, or facebook/encodec_24khz"
    )
    encoder.add_argument("-o", "--output", type=_name, required=True, metavar="ENCODER.onnx")
    encoder.add_argument("--revision", help="branch, tag or commit of a hub id")

    train = command(
        "train",
        _train,
        parents=[writes],
        help="train a Vocos as a config of upstream's layout says (needs the extra [train])",
    )
    train.add_argument("config", type=_path, metavar="CONFIG.yaml")
    train.add_argument("--out", type=_path, required=True, metavar="DIR", help="the run; one that was stopped goes on")
    train.add_argument("--train", metavar="PATH", help="folder, filelist or index.csv, instead of the config's")
    train.add_argument("--valid", metavar="PATH", help="the same, of files to validate with")
    train.add_argument(
        "--steps", type=_integer, metavar="N", help="steps of the generator, half the config's max_steps"
    )
    train.add_argument("--encoder", metavar="E.onnx", help="of the tokens, for a model of EnCodec's")
    train.add_argument("--token-cache", type=_path, metavar="DIR", help="encode whole files, once, and crop the tokens")
    train.add_argument("--init-from", metavar="CHECKPOINT", help="begin with its weights: folder, .ckpt or hub id")
    train.add_argument("--revision", help="branch, tag or commit of a hub id")
    train.add_argument("--device", help="auto, cpu or cuda, instead of the config's accelerator")
    train.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=None, help="torch.compile (default: on CUDA)"
    )
    train.add_argument("--export", metavar="MODEL.onnx", help="export the best weights at the end")
    return parser


# Inputs and outputs of decode, encode and resynth: None is standard input, or standard output


@dataclass(frozen=True)
class _Job:
    """An input and the output that is made of it; ``format`` is the output's where its name does not end in that."""

    source: Path | None
    target: Path | None
    format: str | None

    @property
    def source_name(self) -> str:
        return STDIN if self.source is None else str(self.source)

    @property
    def target_name(self) -> str:
        return STDOUT if self.target is None else str(self.target)

    def open(self) -> AbstractContextManager[Path]:
        """The input as a file, copied to a temporary one where it is a pipe."""
        if self.source is None:
            target = "-" if self.target is None else shlex.quote(str(self.target))
            command = "encode" if "npz" in (self.format, target[-3:].lower()) else "resynth"
            return _copied(None, STDIN, f"vocos-onnx {command} - {target}")
        with suppress(OSError):
            mode = self.source.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                return _copied(self.source, str(self.source))
        return nullcontext(self.source)

    def write(self, write: Callable[[Path, bool], int], overwrite: bool) -> int:
        """Call ``write`` with a path of the right ending, and whether to replace it, and let that be the output."""
        if self.target is not None and self.format is None:
            return write(self.target, overwrite)
        if self.target is not None:
            with whole_file(self.target, overwrite=overwrite) as partial:
                staged = partial.with_name(f"audio.{self.format}")
                written = write(staged, True)
                staged.replace(partial)
            return written
        with temporary(f"audio.{self.format}") as staged:
            written = write(staged, True)
            with staged.open("rb") as file, _stdout():
                shutil.copyfileobj(file, _binary(sys.stdout), 1 << 20)
                sys.stdout.flush()
        return written


@contextmanager
def _copied(source: Path | None, name: str, again: str = "") -> Iterator[Path]:
    """What comes in as a file; messages on it have its ``name``, and ``again`` is the command that takes it."""
    with temporary("stdin" if source is None else source.name) as file:
        try:
            with file.open("wb") as sink:
                if source is None:
                    for data in _read_stdin():
                        sink.write(data)
                else:
                    with source.open("rb") as pipe:
                        shutil.copyfileobj(pipe, sink, 1 << 20)
                if not sink.tell():
                    raise ValueError(f"{name} is empty or closed; expected a file of audio, tokens or features")
            yield file
        except ValueError as error:  # which names the file that was read
            if type(error) is not ValueError or str(file) not in str(error):
                raise
            text, path = str(error), re.escape(str(file))
            if source is None:  # ffmpeg and the commands here know it as -
                wav = f"-i - -f wav - | {again}"
                raw = f"ffmpeg {wav} (raw samples: ffmpeg -f s16le -ar 24000 -ac 1 {wav})"
                text = re.sub(rf"ffmpeg -i {path} \S+", lambda _: raw, text)
                text = re.sub(rf"(?<=code ){path}(?= )", "-", text)
                text = re.sub(rf"{path}(?=[._]\w)", "tokens", text)
                text = text.replace(f'loadtxt("{file}"', "loadtxt(sys.stdin").replace(f'"{file}"', '"FILE"')
            raise ValueError(text.replace(str(file), name)) from None


def _binary(stream: TextIO | None) -> IO[bytes]:
    binary: IO[bytes] | None = getattr(stream, "buffer", None)
    if binary is None or getattr(stream, "closed", False):
        raise OSError("it is closed")
    return binary


def _read_stdin() -> Iterator[bytes]:
    """What comes in on standard input, as it comes. Raises OSError."""
    while True:
        try:
            data: bytes = _binary(sys.stdin).read1(1 << 16)  # type: ignore[attr-defined]
        except OSError as error:
            raise OSError(f"{STDIN} cannot be read: {error.strerror or error}") from None
        if not data:
            return
        yield data


def _check_terminal(stream: TextIO | None, what: str) -> None:
    is_terminal = False
    with suppress(AttributeError, OSError, ValueError):
        is_terminal = stream is not None and os.isatty(stream.fileno())
    if is_terminal:
        name, sign = (STDIN, "<") if stream is sys.stdin else (STDOUT, ">")
        raise ValueError(f"{name} is a terminal, and {what}: use a pipe, or {sign} FILE")


def _expand(inputs: list[str], endings: tuple[str, ...], what: str) -> list[Path | None]:
    """The files of these names; of folders the files with these endings, and a line on what is not taken."""
    found: list[Path | None] = []
    for text in inputs:
        path = Path(text)
        if text == "-":
            if None in found:
                raise ValueError(f"{STDIN} (-) is given twice, and can be read once")
            _check_terminal(sys.stdin, f"{what} are to come from it")
            found.append(None)
        elif path.is_dir():
            there = sorted(file for file in path.iterdir() if not file.name.startswith("."))
            taken = [file for file in there if file.suffix.lower() in endings and file.is_file()]
            if not taken:
                raise ValueError(
                    f"the folder {path} holds no {what} (files that end in {', '.join(endings)}); it holds "
                    f"{listed(map(_entry, there)) or 'nothing'}"
                )
            if left := sorted(set(there) - set(taken)):
                _tell(f"warning: left out of the folder {path}, as they are no {what}: {listed(map(_entry, left))}")
            found += taken
        else:
            found.append(path)
    return found


def _entry(path: Path) -> str:
    return f"{path.name}/" if path.is_dir() else path.name


def _jobs(
    args: argparse.Namespace,
    inputs: list[Path | None],
    suffix: str,
    models: list[str | None],
    check: Callable[[Path | None, str | None], str | None],
    is_input: Callable[[Path], bool],
) -> tuple[list[_Job], Path | None]:
    """Each input with the output that it goes to, and the folder of those where that is yet to be made.

    ``check`` raises where an output cannot be written, and says its format where the name does not. ``is_input`` says
    of a file whether it is one that the command reads, and does not write.
    """
    output = Path(args.output)
    several = len(inputs) > 1 or any(Path(text).is_dir() for text in args.inputs if text != "-")
    is_folder = args.output != "-" and (output.is_dir() or args.output.endswith(("/", os.sep)))
    if args.output == "-":
        if several:
            raise ValueError(f"{STDOUT} (-) can hold one output, and {len(inputs)} are to come; name a folder")
        _check_terminal(sys.stdout, "the output is not text")
        return [_Job(inputs[0], None, check(None, args.format))], None
    if not several and not is_folder:
        format_ = check(output, args.format)
        _check_output(output, [*inputs, *models], args.force, is_input)
        return [_Job(inputs[0], output, format_)], None
    new = None
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
    else:
        many = f"{len(inputs)} files need" if len(inputs) > 1 else "the output needs"
        if output.exists():
            raise NotADirectoryError(f"{many} a folder to go to, and {output} is not a folder")
        if named_like_a_file:
            raise ValueError(
                f"{many} a folder to go to, and {output} is named like a file: was the output "
                f"forgotten? A folder of that name is {output}/"
            )
        new = output
    jobs = [_Job(source, output / (Path(source or "stdin").stem + suffix), None) for source in inputs]
    sources: dict[str, str] = {}
    for job in jobs:
        assert job.target is not None
        if new is None:
            _check_output(job.target, [*inputs, *models], args.force, is_input)
        real = os.path.realpath(job.target)
        if real in sources:
            raise ValueError(
                f"{sources[real]} and {job.source_name} would both be written to {job.target}; rename one of them"
            )
        sources[real] = job.source_name
    if new is not None:
        above = next(folder for folder in Path(os.path.abspath(new)).parents if folder.exists())  # noqa: PTH100
        check_target(above / Path(os.path.abspath(new)).relative_to(above).parts[0])  # noqa: PTH100
    return jobs, new


def _check_audio(target: Path | None, format_: str | None) -> str | None:
    """Raises where the audio cannot be written there; the format that its name does not say."""
    if target is None:
        return format_ or "wav"
    if format_ is None:
        if not target.suffix:
            others = "" if target.exists() else f"name a file such as {target}.wav, a folder as {target}/, or "
            raise ValueError(
                f"the name {target.name!r} has no ending that says what to write: {others}add --format wav"
            )
        audio_format(target)
        return None
    try:
        kind = audio_format(target)
    except ValueError:  # its ending says nothing
        check_target(target)
        return format_
    if kind != audio_format(target, format_):
        raise ValueError(f"{target.name!r} ends in {target.suffix}, and --format is {format_}: give one of the two")
    return None


def _check_tokens(target: Path | None, format_: str | None) -> str | None:
    if target is None or (target.exists() and not target.is_file() and not target.is_dir()):
        return "npz"
    if target.suffix.lower() == ".npz":
        return None
    if format_ is not None and not target.suffix:
        return format_
    folder = "" if target.suffix else f"; a folder is {target}/"
    raise ValueError(f"{target.name!r} does not end in .npz, the kind of file that tokens are written to{folder}")


def _decode(args: argparse.Namespace) -> None:
    if args.bandwidth is not None and args.bandwidth_id is not None:
        raise ValueError(
            f"--bandwidth {args.bandwidth:g} decodes the first codebooks, those of {args.bandwidth:g} kbps, and "
            f"--bandwidth-id {args.bandwidth_id} decodes all, as tokens of that bandwidth: give one of the two"
        )
    inputs = _expand(args.inputs, TOKENS, "token files")
    suffix = f".{args.format or 'wav'}"
    jobs, folder = _jobs(args, inputs, suffix, [args.model], _check_audio, _ends_in(ARRAYS))
    vocos = _open(args, args.model)
    chosen = _bandwidth(args, vocos.config)
    warned = False

    def one(job: _Job, path: Path, progress: Progress) -> str:
        nonlocal warned
        read = read_token_file(path, args.key)
        given = _one_clip(job, read, args, vocos.config, None if chosen is None else chosen[1])
        index = args.bandwidth_id if chosen is None or not vocos.config.num_bandwidth_ids else chosen[0]
        frames, hop = given.codes.shape[-1] if given.codes.ndim else 0, vocos.hop_length
        if vocos.delay and given.codes.ndim == 2 and args.layout in LAYOUTS:
            blocks = vocos.decode_stream([given], index)
        else:
            blocks = iter([vocos.decode(given, index, layout=args.layout)])

        def end(decoded: int) -> int:
            if read.samples is None:
                return decoded
            if not decoded - hop < read.samples <= decoded:
                raise ValueError(
                    f"{job.source_name} says that it is of {read.samples} samples, but {frames} frames are "
                    f"{decoded - hop + 1} to {decoded} of them: it is not whole"
                )
            return read.samples

        def counted() -> Iterator[Float]:
            done = 0
            for block in blocks:
                yield block
                done += len(block)
                progress(min(done, frames * hop), frames * hop)

        rate = vocos.sample_rate
        written = job.write(lambda file, force: _save(file, _cut(counted(), hop, end), rate, force), args.force)
        if not warned and read.anonymous and vocos.config.encodec is not None:
            warned = True
            _warn_of_no_codec(vocos)
        return f"wrote {job.target_name}: {written / rate:.2f} s at {rate} Hz"

    _each(jobs, folder, one)


def _bandwidth(args: argparse.Namespace, config: ModelConfig) -> tuple[int, int] | None:
    """Bandwidth id and number of codebooks of the bandwidth that was asked for."""
    if args.bandwidth is None:
        return None
    if config.encodec is None:
        raise ValueError("--bandwidth is given, but this is a mel model, without tokens: leave it out")
    index = bandwidth_index(args.bandwidth, config.encodec.bandwidths)
    return index, config.encodec.codebooks_per_bandwidth[index]


def _one_clip(job: _Job, read: Tokens, args: argparse.Namespace, config: ModelConfig, most: int | None) -> Tokens:
    """Tokens (K, T), of the first ``most`` codebooks, or features (C, T), with the codec, which is checked then."""
    codes, is_tokens = read.codes, not np.issubdtype(read.codes.dtype, np.floating)
    if codes.ndim == 3:
        batch = 1 if args.layout == "kbt" and is_tokens else 0
        if codes.shape[batch] > 1:
            items = f"vocos_onnx.load_tokens({json.dumps(str(job.source or 'FILE'))}"
            items += f", key={json.dumps(args.key)}).codes" if args.key else ").codes"
            items += ".swapaxes(0, 1)" if batch else ""
            code = f'import numpy, vocos_onnx; [numpy.save(f"item{{i}}.npy", item) for i, item in enumerate({items})]'
            hint = "; if its axes are (batch, codebooks, frames), pass --layout bkt" if batch else ""
            raise ValueError(
                f"{job.source_name} holds a batch of {codes.shape[batch]}, and {job.target_name} can hold one "
                f"clip{hint}; each item is saved to a file of its own with: python -c {shlex.quote(code)}"
            )
        if codes.shape[batch]:
            codes = codes.squeeze(batch)
    encodec = config.encodec
    if is_tokens and codes.ndim == 2 and encodec is not None:
        counts, found = encodec.codebooks_per_bandwidth, len(codes)
        fitting = [(kbps, n) for kbps, n in zip(encodec.bandwidths, counts, strict=True) if n <= found]
        remedy = "leave --bandwidth out"
        if fitting:
            kbps, n = fitting[-1]
            remedy = f"pass --bandwidth {kbps:g} to decode {'all' if n == found else f'the first {n}'} of them"
        elif config.num_bandwidth_ids:
            remedy = f"pass --bandwidth-id 0 to decode them as those of {encodec.bandwidths[0]:g} kbps"
        if most is not None:
            if found < most:
                raise ValueError(
                    f"{job.source_name} has {found} codebooks, and {args.bandwidth:g} kbps are {most}: {remedy}"
                )
            return replace(read, codes=codes[:most])
        possible = 0 < found <= encodec.num_codebooks <= codes.shape[1]  # else the axes may be swapped
        if possible and args.bandwidth_id is None and config.num_bandwidth_ids and found not in counts:
            known = ", ".join(f"{k:g} kbps {n}" for k, n in zip(encodec.bandwidths, counts, strict=True))
            raise ValueError(
                f"{job.source_name} has {found} codebooks, and no bandwidth has as many ({known}): {remedy}"
            )
    return replace(read, codes=codes)


def _save(file: Path, blocks: Iterable[Float], rate: int, overwrite: bool) -> int:
    return save_blocks(file, blocks, rate, overwrite=overwrite, comment=MADE_BY)


def _cut(blocks: Iterable[Float], most: int, end: Callable[[int], int]) -> Iterator[Float]:
    """The blocks (n,) without up to ``most`` samples at their end: ``end`` says of how many samples how many stay."""
    held, done = np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, block])
        out = max(0, len(held) - most)
        yield held[:out]
        held, done = held[out:], done + out
    yield held[: end(done + len(held)) - done]


def _encode(args: argparse.Namespace) -> None:
    inputs = _expand(args.inputs, AUDIO, "audio files")
    jobs, folder = _jobs(args, inputs, ".npz", [args.encoder], _check_tokens, _ends_in(AUDIO))
    with _explained(("encode", args.encoder)):
        encoder = EncodecONNX(args.encoder, **_options(args))
    bandwidth = DEFAULT_BANDWIDTH if args.bandwidth is None else args.bandwidth
    bandwidth_index(bandwidth, encoder.bandwidths)  # said once, not for each file

    def one(job: _Job, path: Path, progress: Progress) -> str:
        rate = encoder.sample_rate
        audio = _Counted(path, job.source_name, rate, progress)
        smallest = np.min_scalar_type(encoder.config.codebook_size - 1)
        codes = [block.astype(smallest) for block in encoder.encode_stream(audio, rate, bandwidth)]
        tokens = np.concatenate(codes, axis=1)

        def save(file: Path, force: bool) -> int:
            save_tokens(file, tokens, encoder, samples=audio.samples, overwrite=force)
            return audio.samples

        written = job.write(save, args.force)
        shape = " x ".join(map(str, tokens.shape))
        return f"wrote {job.target_name}: {shape} tokens, {written / rate:.2f} s at {bandwidth:g} kbps"

    _each(jobs, folder, one)


def _resynth(args: argparse.Namespace) -> None:
    inputs = _expand(args.inputs, AUDIO, "audio files")
    vocos = _open(args, args.model, args.encoder)
    jobs, folder = _jobs(
        args,
        inputs,
        f".{args.format or 'wav'}",
        [args.model, args.encoder],
        _check_audio,
        lambda path: _is_recording(path, vocos.sample_rate),
    )
    if args.plot:
        from .io.plot import check_plot, save_plot

        if len(jobs) > 1:
            raise ValueError(f"--plot draws one recording, and {len(jobs)} are given; leave it out")
        check_plot(args.plot)
        target = jobs[0].target
        _check_output(args.plot, [*inputs, args.model, args.encoder, target], args.force)
        if target is None or jobs[0].format or (target.exists() and not target.is_file()):
            raise ValueError(f"--plot reads the copy again, and {jobs[0].target_name} is not a file; leave it out")
    _check_encoder(args, vocos)
    if len(jobs) > 1:  # what fails here fails each file
        vocos(np.zeros(vocos.sample_rate), vocos.sample_rate, bandwidth=args.bandwidth)

    def one(job: _Job, path: Path, progress: Progress) -> str:
        rate = vocos.sample_rate
        audio = _Counted(path, job.source_name, rate, progress)
        blocks = vocos.resynth_stream(audio, rate, bandwidth=args.bandwidth)
        # whole frames are decoded: what is longer than the recording is cut off
        cut = _cut(blocks, vocos.hop_length, lambda n: min(n, audio.samples))
        written = job.write(lambda file, force: _save(file, cut, rate, force), args.force)
        if args.plot:
            assert job.target is not None
            titled = {job.source_name: path, job.target_name: job.target}
            # a $ would begin a formula
            audio_of = {printable(title).replace("$", r"\$"): load_audio(file, rate) for title, file in titled.items()}
            save_plot(args.plot, audio_of, rate, overwrite=args.force)
        return f"wrote {job.target_name}: {written / rate:.2f} s at {rate} Hz"

    _each(jobs, folder, one)


def _check_output(
    output: Path,
    inputs: Iterable[str | os.PathLike[str] | None],
    overwrite: bool,
    is_input: Callable[[Path], bool] = lambda path: False,
) -> None:
    """As ``check_target``; and raises ValueError where the output is an input, or a file of a checkpoint's folder.

    So it does where the output looks like one more input, as in ``resynth *.wav``.
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


def _ends_in(endings: tuple[str, ...]) -> Callable[[Path], bool]:
    return lambda path: path.suffix.lower() in endings and not path.name.startswith(".")


def _is_recording(path: Path, rate: int) -> bool:
    """Whether it is audio that was not made here, at that rate; of copies the comment says that they were."""
    import soundfile

    if not path.is_file():
        return False
    try:
        with path.open("rb") as data, soundfile.SoundFile(data) as file:  # soundfile opens no name that is not UTF-8
            comment, kind, subtype = file.comment, file.format, file.subtype
            if comment or (file.channels, file.samplerate) != (1, rate):
                return not comment.startswith(MADE_BY)
    except (soundfile.LibsndfileError, OSError, RuntimeError, TypeError):
        with suppress(OSError), path.open("rb") as data:
            found, _ = kind_of(data.read(_HEAD), True)
            return found is not None and found.group == "audio"
        return False
    with tempfile.TemporaryFile() as empty, soundfile.SoundFile(empty, "w", rate, 1, subtype, None, kind) as file:
        try:
            file.comment = MADE_BY
        except soundfile.LibsndfileError:  # formats such as .au have no room for it
            return False
    return True


def _each(jobs: list[_Job], folder: Path | None, one: Callable[[_Job, Path, Progress], str]) -> None:
    """Do one after another. A bad file is reported and does not keep the others from being done.

    The folder is made for them, and removed again where nothing was written to it.
    """
    failed = 0
    with nullcontext() if folder is None else new_folder(folder):
        for i, job in enumerate(jobs):
            bar = _Bar(sys.stderr, job.source_name, i, len(jobs))
            try:
                with job.open() as path:
                    done = one(job, path, bar)
            except BAD_INPUT as error:
                bar.clear()
                if len(jobs) == 1:
                    raise
                named = any(name in _message(error) for name in (job.source_name, job.target_name))
                _complain(error if named else ValueError(f"{job.source_name}: {_message(error)}"))
                failed += 1
            except BaseException:
                bar.clear()
                raise
            else:
                bar.clear()
                _say(job.target, done)
    if failed:
        raise ValueError(f"{failed} of {len(jobs)} files failed")


class _Counted:
    """The blocks of a file, counted as they are read: ``samples`` of ``rate`` so far."""

    def __init__(self, path: Path, name: str, rate: int, progress: Callable[[int, int], None]):
        self.path, self.name, self.rate, self.progress, self.samples = path, name, rate, progress, 0

    def __iter__(self) -> Iterator[Float]:
        peak = 0.0
        for block in load_blocks(self.path, self.rate):
            yield block
            peak = max(peak, float(np.abs(block).max(initial=0)))
            self.samples += len(block)
            self.progress(self.samples, max(self.samples, self._expected))
        if peak > LOUD:
            _warn_of_level(self.name, peak)

    @cached_property
    def _expected(self) -> int:
        return expected_samples(self.path, self.rate)


def _warn_of_level(name: str, peak: float) -> None:
    decibels = math.ceil(20 * math.log10(peak))
    _tell(
        f"warning: {name} peaks at {peak:.1f}, {decibels} dB above full scale: the copy will not have that level; "
        f"lower it, e.g. ffmpeg -i in.wav -af volume=-{decibels}dB out.wav"
    )


class _Bar:
    """A line of progress on a terminal: over all files, the one at hand by the frames that it has done."""

    WIDTH = 30

    def __init__(self, stream: TextIO | None, name: str, index: int, count: int):
        self.stream, self.name, self.index, self.count = stream, name, index, count
        self.quiet = stream is None or not stream.isatty()
        self.length = 0
        if count > 1:
            self(0, 1)

    def __call__(self, done: int, frames: int) -> None:
        if self.quiet:
            return
        share = (self.index + done / frames) / self.count
        full = round(share * self.WIDTH)
        bar = "#" * full + "." * (self.WIDTH - full)
        line = f"[{bar}] {share:4.0%} {self.index + 1}/{self.count} {printable(self.name)}"
        line = line[: shutil.get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self.length))
        self.length = len(line)

    def clear(self) -> None:
        if self.length:
            self._write("\r" + " " * self.length + "\r")

    def _write(self, text: str) -> None:
        assert self.stream is not None
        try:
            with suppress(UnicodeEncodeError):
                self.stream.write(text)
            self.stream.flush()
        except OSError:  # the terminal is gone
            self.quiet = True


def _stream(args: argparse.Namespace) -> None:
    _check_terminal(sys.stdin, "raw numbers are to come from it")
    _check_terminal(sys.stdout, "the output is raw audio")
    if args.kind != "audio":
        given = {"--rate": args.rate, "--encoder": args.encoder, "--chunk": None if args.chunk == 8 else args.chunk}
        for option in (name for name, value in given.items() if value is not None):
            raise ValueError(f"{option} is for stream audio, and nothing that stream {args.kind} uses: leave it out")
    vocos = _open(args, args.model, args.encoder)
    config = vocos.config
    if args.chunk > MAX_CHUNK:
        raise ValueError(f"--chunk is {args.chunk}, expected 1 to {MAX_CHUNK} frames")
    audio: Iterator[Float]
    errors: list[Exception] = []
    if args.kind == "audio":
        _check_encoder(args, vocos)
        rate = vocos.sample_rate if args.rate is None else args.rate
        audio = vocos.resynth_stream(
            (block[:, 0] for block in _before_errors(_raw(args, PCM[args.format], 1, rate), None, errors)),
            rate,
            bandwidth=args.bandwidth,
            lookahead=args.lookahead,
            chunk=args.chunk,
        )
    else:
        index = None
        if config.encodec is not None:
            index = bandwidth_index(DEFAULT_BANDWIDTH if args.bandwidth is None else args.bandwidth, vocos.bandwidths)
        elif args.bandwidth is not None:
            raise ValueError("--bandwidth is given, but this is a mel model, without tokens: leave it out")
        if args.kind == "features":
            frames = _raw(args, "<f4", config.feature_channels, vocos.sample_rate)
        elif config.encodec is None or index is None:
            raise ValueError("this is a mel model: it decodes features, not tokens")
        else:
            frames = _raw(args, "<i2", config.encodec.codebooks_per_bandwidth[index], vocos.sample_rate)
        audio = vocos.decode_stream(
            (block.T for block in _before_errors(frames, config, errors)),
            index if config.num_bandwidth_ids else None,
            lookahead=args.lookahead,
        )
    try:
        for block in audio:
            if args.format == "s16le":
                block = np.round(block * 32768).clip(-32768, 32767)
            with _stdout():
                out = _binary(sys.stdout)
                out.write(block.astype(PCM[args.format]).tobytes())
                out.flush()
    except BAD_INPUT as error:
        errors.append(error)
    if errors:  # the first one made the end
        raise errors[0]


def _before_errors(
    rows: Iterator[npt.NDArray[Any]], config: ModelConfig | None, errors: list[Exception]
) -> Iterator[npt.NDArray[Any]]:
    """The rows up to one that is wrong, of audio or for a model: what is good comes out before that is said."""
    done, loud = 0, False
    try:
        for block in rows:
            numbers, size = block.dtype.kind == "f", 0
            if numbers or config is None or config.encodec is None:
                bad = ~np.isfinite(block).all(1)
            else:
                size = config.encodec.codebook_size
                bad = ((block < 0) | (block >= size)).any(1)
            good = int(bad.argmax()) if bad.any() else len(block)
            if config is None and numbers and not loud and (peak := float(np.abs(block[:good]).max(initial=0))) > LOUD:
                loud = True
                _warn_of_level(STDIN, peak)
            if good:
                yield block[:good]
            done += good
            if good < len(block):
                if config is None:
                    raise ValueError(f"audio holds NaN or infinity, first at sample {done}")
                what = "NaN or infinite values"
                if not numbers:
                    wrong = block[good]
                    what = f"the token {wrong[(wrong < 0) | (wrong >= size)][0]}, expected 0 to {size - 1}"
                raise ValueError(f"frame {done} holds {what}")
    except BAD_INPUT as error:
        if not done:
            raise
        errors.append(error)


def _raw(args: argparse.Namespace, kind: str, width: int, rate: int) -> Iterator[npt.NDArray[Any]]:
    """What has come in on stdin, as rows (n, width) of a dtype. Raises ValueError where it is a file of some kind."""
    held, size = b"", np.dtype(kind).itemsize * width
    undecided = empty = True
    for data in _read_stdin():
        held, empty = held + data, False
        if undecided:
            undecided = _check_raw(args, held, rate, False)
        whole = 0 if undecided else len(held) // size * size
        if whole:
            yield np.frombuffer(held[:whole], kind).reshape(-1, width)
            held = held[whole:]
    if undecided:
        _check_raw(args, held, rate, True)
        if whole := len(held) // size * size:
            yield np.frombuffer(held[:whole], kind).reshape(-1, width)
            held = held[whole:]
    if empty:
        raise ValueError(f"{STDIN} is empty or closed; expected raw {args.kind}")
    if held:
        raise ValueError(f"stdin ended with {len(held)} bytes of a frame of {size}; expected whole frames")


def _check_raw(args: argparse.Namespace, head: bytes, rate: int, ended: bool) -> bool:
    """Raises ValueError where stdin begins like a file of some kind; whether more of it must come to decide that."""
    kind, more = kind_of(head, ended)
    if kind is None:
        return more or (args.kind == "tokens" and _check_width(head, ended))
    what = f"stdin is {kind.name}, and stream {args.kind} takes "
    pcm = f"ffmpeg -v error -i in.wav -f {args.format} -ac 1 -ar {rate} - | vocos-onnx stream audio"
    pcm += "" if args.format == "s16le" else f" --format {args.format}"
    pcm += "" if args.rate is None else f" --rate {args.rate}"
    if args.kind == "audio":
        what += f"raw samples ({args.format}, mono, {rate} Hz)"
        if kind.group == "array":
            raise ValueError(
                f'{what}: write the array (samples,) with full scale 1 as raw numbers: python -c "import numpy, sys; '
                "sys.stdout.buffer.write(numpy.load('audio.npy').astype('<f4').tobytes())\" | vocos-onnx stream audio "
                "--format f32le"
            )
        if kind.group == "audio":
            raise ValueError(
                f"{what}: convert it with: {pcm}; or copy a whole file with: vocos-onnx resynth in.wav out.wav"
            )
        raise ValueError(f"{what}, as this makes of audio: {pcm}")
    numbers, form = ("16-bit integers", "<i2") if args.kind == "tokens" else ("32-bit floats", "<f4")
    what += f"raw little-endian {numbers}, frame after frame"
    if kind.group == "audio":
        raise ValueError(f"{what}; raw audio goes through the codec with: {pcm}")
    ending, array = ("npz", f'["{args.kind}"]') if kind.name.startswith("a zip") else ("npy", "")
    file = _stdin_file() or f"FILE.{ending}"
    code = f'sys.stdout.buffer.write(numpy.load({json.dumps(file)}){array}.T.astype("{form}").tobytes())'
    again = f"vocos-onnx stream {args.kind}"
    again += "" if args.model is None else f" --model {shlex.quote(args.model)}"
    again += "" if args.bandwidth is None else f" --bandwidth {args.bandwidth:g}"
    raise ValueError(
        f"{what}: decode a file with: vocos-onnx decode {shlex.quote(file)} out.wav; or send its array (rows, frames) "
        f"as raw numbers: python -c {shlex.quote(f'import numpy, sys; {code}')} | {again}"
    )


def _stdin_file() -> str | None:
    """The name of the file on standard input, where that is one."""
    with suppress(OSError, AttributeError, ValueError):
        path = os.path.realpath("/dev/stdin")
        if os.path.samestat(os.stat(path), os.fstat(sys.stdin.fileno())) and Path(path).is_file():  # noqa: PTH116
            return path
    return None


def _check_width(head: bytes, ended: bool) -> bool:
    """Raises ValueError where tokens look like wider integers, such as numpy's; whether more must come to decide."""
    values = np.frombuffer(head[: len(head) // 2 * 2], "<i2")
    if values[1::2].any() or not values[::2].any():
        return False
    if len(values) < 64:
        return not ended
    raise ValueError(
        "every second one of the 16-bit integers on stdin is 0, as of integers of 32 or 64 bits, and stream tokens "
        "takes 16 bits: write tokens (codebooks, frames) with tokens.T.astype(numpy.int16).tobytes()"
    )


def _info(args: argparse.Namespace) -> None:
    given = args.model or CODEC
    with _explained(("info", args.model)):
        path = find_model(given)
        is_encoder = ENCODER_KEY in open_file(path, METADATA_KEY).metadata
        found = (EncodecONNX if is_encoder else VocosONNX)(path, providers=["CPUExecutionProvider"])
    if is_encoder and args.provider:
        raise ValueError("--provider is for models, and this is an encoder; leave it out")
    values = asdict(found.config)
    in_graph = isinstance(found, VocosONNX) and found._backbone.has_istft
    placed = placement(path, [args.provider]) if args.provider else {}
    size, kind = path.stat().st_size, "encoder" if is_encoder else "model"
    if args.json:
        facts = {"kind": kind, "path": str(path), "bytes": size, **values}
        if not is_encoder:
            facts["istft_in_graph"] = in_graph
        if args.provider:
            facts["placement"] = placed
        lines = [json.dumps(facts)]
    else:
        lines = [f"{kind}: {path} ({size / 1e6:.1f} MB)"]
        for name, value in values.items():
            if isinstance(value, dict):
                lines.append(f"{name}:")
                lines += [f"  {inner}: {_text(inner_value)}" for inner, inner_value in value.items()]
            elif value is not None:
                lines.append(f"{name}: {_text(value)}")
        if in_graph:
            lines.append("inverse STFT: in the graph")
        for provider, operators in placed.items():
            lines.append(f"{provider}: {len(operators)} nodes ({', '.join(sorted(set(operators)))})")
    with _stdout():
        for line in lines:
            _print(sys.stdout, line)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _demo(args: argparse.Namespace) -> None:
    output = Path(args.output)
    if args.output != "-" and (output.is_dir() or args.output.endswith(("/", os.sep))):
        with new_folder(output):
            _write_demo(args, output / f"demo.{args.format or 'wav'}")
    else:
        _write_demo(args, None if args.output == "-" else output)


def _write_demo(args: argparse.Namespace, output: Path | None) -> None:
    if output is None:
        _check_terminal(sys.stdout, "the output is not text")
    job = _Job(None, output, _check_audio(output, args.format))
    if output is not None:
        check_target(output, overwrite=args.force)
    tokens = demo_tokens()
    began = time.perf_counter()
    vocos = _open(args, None)
    loaded = time.perf_counter()
    audio = vocos.decode(tokens)
    took = time.perf_counter() - loaded
    job.write(lambda file, force: _save(file, [audio], vocos.sample_rate, force), args.force)
    seconds = len(audio) / vocos.sample_rate
    _say(
        output,
        f"wrote {job.target_name}: {seconds:.2f} s of speech at {vocos.sample_rate} Hz, decoded from "
        f"{tokens.codes.shape[0]} x {tokens.codes.shape[1]} tokens of a real recording ({Path(DEMO_TOKENS).stem})",
    )
    _say(
        output,
        f"loaded the model in {loaded - began:.2f} s and decoded in {took:.3f} s, {seconds / took:.0f} times faster "
        f"than real time, on {vocos.providers[0]}",
    )


def _report(args: argparse.Namespace) -> None:
    from vocos_onnx.evaluate.report import report  # it says itself what the extra [report] lacks

    if "-" in args.inputs:
        raise ValueError(f"report reads its inputs more than once: name files, not {STDIN} (-)")
    inputs = [path for path in _expand(args.inputs, AUDIO, "audio files") if path is not None]
    _check_output(args.output, [*inputs, *(args.model or []), args.encoder], True)
    bar = _Bar(sys.stderr, str(inputs[0]), 0, len(inputs))
    errors: list[Exception] = []

    def progress(index: int, done: int, copies: int) -> None:
        bar.index, bar.name = index, str(inputs[index])
        bar(done, copies)

    def on_error(error: Exception) -> None:
        bar.clear()
        _complain(error)
        errors.append(error)

    try:
        with _explained(*(("--model", model) for model in args.model or []), ("--encoder", args.encoder)):
            report(
                args.output,
                inputs,
                args.model,
                args.encoder,
                args.bandwidths,
                progress,
                on_error if len(inputs) > 1 else None,
                overwrite=args.force,
                **_options(args),
            )
    finally:
        bar.clear()
    count = len(inputs)
    size = f", {args.output.stat().st_size / 1e6:.1f} MB" if args.output.is_file() else ""
    _say(args.output, f"wrote {args.output}: {count - len(errors)} of {count} files{size}")
    if errors:
        raise ValueError(f"{len(errors)} of {count} files failed")


def _check_model_target(args: argparse.Namespace, output: str, *inputs: str | os.PathLike[str] | None) -> None:
    """Raises ValueError where an output is named like something else, which it may be that it would replace."""
    path = Path(output)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"{path.name!r} does not end in .onnx, the kind of file that a model is written to")
    _check_output(path, inputs, args.force)


def _export(args: argparse.Namespace) -> None:
    _check_model_target(args, args.output, args.checkpoint, args.config, *(args.calibrate or []))
    calibration = _calibration(args)
    _load_export().export(
        args.checkpoint,
        args.output,
        config=args.config,
        revision=args.revision,
        precision="int8" if args.int8 else "float16" if args.fp16 else "float32",
        istft=args.istft,
        calibration=calibration,
        overwrite=args.force,
    )


def _quantize(args: argparse.Namespace) -> None:
    output = Path(args.output)
    _check_model_target(args, args.output, args.model, *(args.calibrate or []))
    precision = "float16" if args.fp16 else "int8"
    calibration = _calibration(args)
    export = _load_export()
    with _explained(("--model", args.model)):
        export.quantize(args.model, output, precision=precision, calibration=calibration, overwrite=args.force)
    _say(output, f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB)")


def _calibration(args: argparse.Namespace) -> list[npt.NDArray[Any]] | None:
    return None if args.calibrate is None else [read_token_file(path).codes for path in args.calibrate]


def _export_encodec(args: argparse.Namespace) -> None:
    _check_model_target(args, args.output, args.checkpoint)
    _load_export().export_encodec(args.checkpoint, args.output, revision=args.revision, overwrite=args.force)


def _load_export() -> Any:
    try:
        import vocos_onnx_export
    except ModuleNotFoundError as error:
        raise ImportError(f"export needs {error.name}: pip install 'vocos-onnx[export]'") from error
    return vocos_onnx_export


def _train(args: argparse.Namespace) -> None:
    try:
        from vocos_onnx_train.trainer import train
    except ModuleNotFoundError as error:
        raise ImportError(f"train needs {error.name}: pip install 'vocos-onnx[train]'") from error
    if args.export is not None:
        _check_model_target(args, args.export, args.config, args.init_from, args.encoder)
    train(
        args.config,
        args.out,
        train=args.train,
        valid=args.valid,
        steps=args.steps,
        encoder=args.encoder,
        token_cache=args.token_cache,
        checkpoint=args.init_from,
        revision=args.revision,
        device=args.device,
        compile=args.compile,
        model=args.export,
        report=lambda line: _say(Path(args.out), line),
    )


# What is given in place of a model


def _open(args: argparse.Namespace, model: str | None, encoder: str | None = None) -> VocosONNX:
    with _explained(("--model", model), ("--encoder", encoder)):
        return VocosONNX(model, encoder=encoder, **_options(args))


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {"providers": [args.provider] if args.provider else None, "threads": args.threads}


def _check_encoder(args: argparse.Namespace, vocos: VocosONNX) -> None:
    """Raises ValueError where the model decodes tokens of a codec whose encoder must be given, and is not."""
    encodec = vocos.config.encodec
    if encodec is not None and args.encoder is None and encodec.codec != BUNDLED_CODEC:
        checkpoint = "facebook/encodec_24khz" if encodec.codec == ENCODEC else "CHECKPOINT"
        raise ValueError(
            f"audio to tokens of {encodec.codec} needs its encoder: make it with vocos-onnx export-encodec "
            f"{checkpoint} -o {encodec.codec}.onnx, and pass --encoder {encodec.codec}.onnx"
        )


@contextmanager
def _explained(*given: tuple[str, str | None]) -> Iterator[None]:
    """Where a model cannot be opened: say what was given instead, by option (or command) and name, if that shows."""
    try:
        yield
    except (ValueError, OSError) as error:
        for option, name in given:
            if name is not None and (better := _mistaken(option, name)):
                raise ValueError(better) from error
        raise


def _mistaken(option: str, name: str) -> str | None:
    """What a name given as a model or an encoder is, where the command line has another remedy than Python has."""
    path, wanted = find_model(name), "an encoder" if option in ("--encoder", "encode") else "a model"
    if not os.path.lexists(path):
        close = close_to(name, BUNDLED, 1, 0.7) if "/" not in name else []
        return f"no model file {name}, and no bundled model of that name; did you mean {close[0]}?" if close else None
    if not path.is_file():
        return None
    with path.open("rb") as file:
        kind, _ = kind_of(file.read(_HEAD), True)
    quoted = shlex.quote(str(path))
    if kind is not None and kind.group == "audio":
        return f"{path} is {kind.name}, not {wanted}: make tokens of it with: vocos-onnx encode {quoted} tokens.npz"
    if path.suffix.lower() in ARRAYS:
        shape = ""
        with suppress(ValueError, OSError):
            codes = read_token_file(path).codes
            shape = f" ({codes.dtype}, {' x '.join(map(str, codes.shape))})"
        return (
            f"{path} is a file of tokens or features{shape}, not {wanted}: decode it with: vocos-onnx decode "
            f"{quoted} out.wav"
        )
    return None if kind is not None or option == "info" else _other_role(path, option)


_HEAD = 1 << 13


def _other_role(path: Path, option: str) -> str | None:
    """Of a model given as an encoder, or an encoder given as a model."""
    try:
        metadata = open_file(path, METADATA_KEY).metadata
    except Exception:  # the error that there was explains it
        return None
    if option == "--model" and ENCODER_KEY in metadata and METADATA_KEY not in metadata:
        return (
            f"{path} is an encoder, audio to tokens, and --model takes a model that decodes them: pass it as --encoder"
        )
    if METADATA_KEY in metadata and ENCODER_KEY not in metadata and option != "--model":
        remedy = "pass it as --model" if option == "--encoder" else "leave --encoder out for the bundled one"
        return (
            f"{path} is a vocoder, not an encoder: {remedy}; encoders of EnCodec's tokens are made with: vocos-onnx "
            "export-encodec facebook/encodec_24khz -o encodec_24khz.onnx"
        )
    return None


def _warn_of_no_codec(vocos: VocosONNX) -> None:
    """One line on stderr where nothing says whose tokens have been decoded."""
    encodec = vocos.config.encodec
    assert encodec is not None
    others = "" if encodec.codec == ENCODEC else " (Bark, VALL-E and the like have EnCodec's)"
    _tell(
        f"warning: the file names no codec: its tokens are taken for those of {encodec.codec}, which this model "
        f"decodes; those of another codec{others} come out as noise"
    )


if __name__ == "__main__":
    from .__main__ import main as program

    sys.exit(program())
