"""One word for one thing: pages, docstrings, messages and help avoid the listed synonyms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.helpers import ROOT

PACKAGES = ("vocos_onnx", "vocos_onnx_export", "vocos_onnx_train")  # wherever they are installed
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "models/README.md", "docs/**/*.md")


class Word(NamedTuple):
    """A pattern to avoid, with its exceptions: ordinary phrases, and files where the word means something else."""

    pattern: str
    allowed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


WORDS = {
    "bundled": Word(r"\bbox(es)?\b"),
    "frame": Word(r"\b(time|token|mel)[ -]steps?\b"),
    "span or block, not stretch": Word(r"\bstretch(es)?\b"),
    "span or block, not piece": Word(
        r"\bpieces?\b",
        # the bytes of a file or a response, and a file that is not split
        (
            "piece by piece",
            "pieces one after another",
            "piece of 64 kB",
            "in pieces, while",
            "(are|not|model) in one piece",
        ),
    ),
    "span or block, not part": Word(
        r"\bparts?\b",
        # parts of something other than audio: a network, a file, a sum, a job, a name
        (
            r"(as|is|are|be|no|not|a) part of",
            r"(real|imaginary|affine|whole|fractional) (and \w+ )?part",
            r"takes? part",
            r"(larger|largest|every|several|same) parts?",
            r"parts? of (this|the|a|its|their|names|an|it|both|all|CODE)",
            r"(path|key|name|generator)'s parts?",
            r"(first part|as its parts|The parts: what)",  # parts of a response, and of a text
            r"parts? that (no|both)",
            r"(have|has|split has) parts",
            r"parts are the contents",
            r"fewest parts",
            "part j of",  # part of a frame, one hop long
            r"in parts \(n,\)",
            r"^Parts \(n,\)",
            r"\| part \|",
        ),
        # an encoder takes the audio of a span in parts: docs/reference/format.md
        (
            "docs/architecture.md",
            "docs/reference/format.md",
            "vocos_onnx_export/seanet_graph.py",
            "vocos_onnx/encoder_network.py",
        ),
    ),
    "chunk": Word(r"\bportions?\b"),
    "state": Word(r"\b(what is carried|held state|state that is held|histor(y|ies))\b", ("hidden, history",)),
    "look-ahead": Word(r"\bwhat comes after\b", (r"what comes after it\.$",)),
    "emitted": Word(r"\b(comes?|came|coming) out\b", ("comes? out of a pipe", "has come out of")),
}


def without_code(text: str) -> str:
    """The text without its code, where names may use any word."""
    text = re.sub(r"^( *)(```+).*?^\1\2 *$", "", text, flags=re.M | re.S)
    return re.sub(r"``[^`]+``|`[^`\n]+`", "CODE", text)


def prose() -> Iterator[tuple[str, str]]:
    """Pairs of file and text: the lines of pages, and the docstrings, messages and help in code."""
    for pattern in PAGES:
        for path in sorted(ROOT.glob(pattern)):
            for line in without_code(path.read_text(encoding="utf-8")).splitlines():
                yield path.relative_to(ROOT).as_posix(), line
    for folder in (*map(folder_of, PACKAGES), ROOT / "examples"):
        for path in sorted(folder.rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                    yield path.relative_to(folder.parent).as_posix(), re.sub(r"\s+", " ", without_code(node.value))


def folder_of(package: str) -> Path:
    """The folder of a package, found without importing it, since that may need torch."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None, package
    return Path(spec.origin).parent


@pytest.fixture(scope="module")
def texts() -> list[tuple[str, str]]:
    return list(prose())


@pytest.mark.parametrize("word", WORDS)
def test_words(word: str, texts: list[tuple[str, str]]) -> None:
    pattern, allowed, files = WORDS[word]
    found = []
    for file, text in texts:
        rest = re.sub("|".join(allowed) or "$.", "", text, flags=re.I)
        if file not in files:
            found += [
                (file, rest[max(0, hit.start() - 60) : hit.end() + 60]) for hit in re.finditer(pattern, rest, re.I)
            ]
    assert not found, f"write {word}: {found}"


def test_what_is_looked_at(texts: list[tuple[str, str]]) -> None:
    """Pages, docstrings, messages and help are all scanned, and a word to avoid is found."""
    every = "\n".join(text for _, text in texts)
    for text in (
        "What do you have?",  # a page
        "A Vocos model on onnxruntime.",  # a docstring
        "there is not enough",  # inside a docstring
        "the stream has ended with flush",  # a message
        "matrix products in int8, for CPUs",  # help
    ):
        assert text in every, text
    assert re.search(WORDS["span or block, not stretch"].pattern, "in stretches of 4 s")
