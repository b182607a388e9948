"""The program: its commands, and the exit code of each run."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from vocos_onnx import __version__
from vocos_onnx.io.kinds import AUDIO, TOKENS
from vocos_onnx.messages import shown

from . import (
    batch,
    convert,
    decode,
    demo,
    encode,
    export,
    export_encodec,
    info,
    models_command,
    quantize,
    report,
    resynth,
    serve,
    stream,
    train,
)
from .console import BAD_INPUT, ReaderGoneError, abandon, complain, warnings_as_lines
from .parser import Commands, Parser

COMMANDS = (
    decode,
    encode,
    resynth,
    batch,
    stream,
    serve,
    info,
    models_command,
    demo,
    report,
    convert,
    export,
    quantize,
    export_encodec,
    train,
)
EXAMPLES = """
examples:
  vocos-onnx demo demo.wav                          decode real speech, to hear that it works
  vocos-onnx encode speech.wav tokens.npz           audio to tokens
  vocos-onnx decode tokens.npz out.wav              tokens to audio
  vocos-onnx resynth recordings/ copies/            every recording of a folder, through the codec and back
  vocos-onnx batch corpus.jsonl audio/              a corpus on all cores
  vocos-onnx serve                                  the models over HTTP, with a page at http://127.0.0.1:8000
  vocos-onnx info                                   describe the bundled codec; info MODEL.onnx: a model
  vocos-onnx models                                 list bundled, cached and known models
  vocos-onnx resynth speech.wav copy.wav --model charactr/vocos-encodec-24khz --encoder facebook/encodec_24khz
                                                    the official models; decode --model for tokens of Bark

vocos-onnx COMMAND --help explains a command; without one this help is printed. Exit codes: 0 on success, 2 on
failure (stderr has the reason), 1 if items of a batch failed or the reader of standard output has gone away, 128 + N if
signal N ended it.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    with warnings_as_lines():
        try:
            args = parse(sys.argv[1:] if argv is None else argv)
            if args is not None:
                return args.run(args) or 0
        except ReaderGoneError:  # nobody is left to read a message
            abandon(sys.stdout)
            return 1
        except BAD_INPUT as error:
            complain(error)
            return 2
        except MemoryError as error:
            complain(MemoryError(f"not enough memory: {error}; nothing was written"))
            return 2
        except KeyboardInterrupt:
            return 130  # 128 + SIGINT, as shells report it
        return 0


def build_parser() -> Parser:
    """Returns the parser of the whole program, including every command."""
    parser = Parser(
        prog="vocos-onnx",
        description="Vocos without torch: tokens to 24 kHz audio, and audio to tokens.",
        epilog=EXAMPLES.strip(),
    )
    parser.add_argument("--version", action="version", version=f"vocos-onnx {__version__}")
    commands = Commands(parser)
    for command in COMMANDS:
        command.add(commands)
    return parser


def parse(argv: Sequence[str]) -> Namespace | None:
    """Parses the arguments of a command and sets its ``run``. Without any, prints the help and returns None.

    Raises SystemExit if the arguments are wrong, and after --help and --version.
    """
    parser = build_parser()
    if not argv:
        parser.print_help(sys.stdout)
        return None
    options = argv[: argv.index("--")] if "--" in argv else argv
    for text in options:
        if text[:1] == "-" and "=" not in text and Path(text).suffix.lower() in (*AUDIO, *TOKENS):
            parser.error(f"{shown(text)} begins as an option does: a file of that name is ./{text}")
    first, command = argv[0], next((text for text in argv if text in parser.commands), None)
    if first[:1] == "-" and not parser.knows(first):
        meant = ["--version"] if first in ("-v", "-V") else parser.meant(first.lower())
        hint = f"did you mean {meant[0]}?" if meant else "vocos-onnx --help lists what there is"
        if command is not None:
            hint = f"options come after the command: vocos-onnx {command} {first}"
        parser.error(f"unknown option {first} before the command; {hint}")
    args, extra = parser.parse_known_args(argv)
    if extra:
        args.parser.unexpected(extra, parser.commands)
    return args
