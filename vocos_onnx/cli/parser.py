"""argparse, with this project's messages about unknown arguments."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

from vocos_onnx.messages import close_to, in_shell, printable, shown

from .console import STDIN, print_line, writing_stdout


class Parser(argparse.ArgumentParser):
    """A parser without abbreviations, so an unknown option never passes for another; messages suggest what was meant.

    ``commands``: the parsers of the commands, by name; empty in those parsers themselves.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("allow_abbrev", False)
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)
        self.commands: Mapping[str, Parser] = {}

    def knows(self, option: str) -> bool:
        """Whether it is an option of this parser."""
        return option in self._option_string_actions

    def meant(self, name: str, *, only_beginning: bool = False) -> list[str]:
        """Returns the long options that an unknown one may mean; with ``only_beginning``, only those that begin so."""
        known = [text for text in self._option_string_actions if text.startswith("--")]
        begun = [text for text in known if name.startswith("--") and len(name) > 2 and text.startswith(name)]
        return begun or ([] if only_beginning else close_to(name, known, 2, 0.7))

    def unexpected(self, extra: list[str], commands: Mapping[str, Parser]) -> NoReturn:
        """Ends the process with a message about the arguments left over."""
        option = next((text for text in extra if text.startswith("-") and text != "-"), None)
        if option is None and self.prog.endswith(" stream"):
            self.error(f"unexpected {' '.join(extra)}; stream reads {STDIN}: pass it as < {in_shell(extra[0])}")
        if option is None:
            self.error(
                f"unexpected {' '.join(extra)}; this command takes {self._positionals_named()}: name all files in one "
                "row, the options before or behind them"
            )
        name = option.partition("=")[0]
        others = [command for command, parser in commands.items() if parser.knows(name)]
        meant = self.meant(name, only_beginning=bool(others))
        hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
        if others:
            command, have = self.prog.partition(" ")[2], "has one" if len(others) == 1 else "have one"
            if name == "-o" and "OUT" in self._positionals_named():
                hint = "; the output is the last argument, without an option before it"
            self.error(f"{command} has no option {name} ({', '.join(others)} {have}){hint}")
        self.error(f"unknown option {name}{hint} ({self.prog} --help lists the options)")

    def error(self, message: str) -> NoReturn:
        """As argparse does: prints the usage and the message, and ends the process with exit code 2."""
        if message.startswith("the following arguments are required: "):
            for action in self._get_positional_actions():
                if action.metavar is None and action.choices is not None:  # show choices as the usage does
                    choices = ",".join(map(str, action.choices))
                    message = re.sub(rf"\b{action.dest}\b", f"{{{choices}}}", message)
        if message.endswith("OUT.html"):
            message += ": name it before --inputs, which takes all names that follow it"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def _positionals_named(self) -> str:
        return " ".join(str(action.metavar or action.dest) for action in self._get_positional_actions()) or "none"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            close = close_to(str(value).lower(), known, 1, 0.5)
            if action.choices is self.commands:  # "version" and "help" are commands of other programs
                close = self.meant(f"--{value}".lower()) or close
            hint = f"; did you mean {close[0]}?" if close else ""
            raise argparse.ArgumentError(action, f"{shown(value)} is not one of {', '.join(known)}{hint}")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout and file is not None:
            with writing_stdout():
                for line in message.splitlines():
                    print_line(file, line)
        else:
            for line in message.splitlines():
                with suppress(OSError):
                    print_line(sys.stderr, line)


class Commands:
    """The commands of a program; each command adds itself."""

    def __init__(self, program: Parser, metavar: str = "COMMAND", required: bool = True) -> None:
        self._made = program.add_subparsers(required=required, metavar=metavar)
        program.commands = self._made.choices

    def within(self, command: Parser, metavar: str) -> Commands:
        """Adds optional subcommands to a command."""
        return Commands(command, metavar, required=False)

    def add(self, name: str, run: Callable[[argparse.Namespace], int | None], help: str, examples: str = "") -> Parser:
        """Adds a command and returns its parser, to which the caller adds the command's options.

        ``run`` is called with the arguments and returns the exit code, None for 0. ``examples``: one command line on
        each line, without the program's name.
        """
        lines = [f"  vocos-onnx {line.strip()}" for line in examples.strip().splitlines()]
        parser: Parser = self._made.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog="\n".join(["examples:", *lines]) if lines else None,
        )
        parser.set_defaults(run=run, parser=parser)
        return parser
