"""Adds to the documentation site what is not in docs/: files of the repository, and the command line reference.

This is a mkdocs hook. The pages link to one another, and to files outside docs/, by their paths in the repository, so
the links work there too; here they are rewritten to lead to the pages made from those files.
"""

from __future__ import annotations

import argparse
import os
import posixpath
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # documents this checkout's command line

from vocos_onnx.cli.parser import Parser  # noqa: E402
from vocos_onnx.cli.program import build_parser  # noqa: E402

# Files of the repository that become pages of the site, or belong to one.
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "explanation/security.md",
    "benchmarks/RESULTS.md": "explanation/results.md",
    "benchmarks/RESULTS.png": "explanation/RESULTS.png",
    "models/README.md": "explanation/bundled-models.md",
}
_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_FENCED = re.compile(r"^( *)(```+).*?^\1\2 *$", re.M | re.S)
_INCLUDE = re.compile(r"^<!-- include ([\w./-]+): (.+) -->$", re.M)
_COMMANDS = "<!-- the commands -->"
_EXAMPLES = "<!-- the programs -->"
_PLAYED = re.compile(r'<a href="([^"]+\.(?:mp3|flac|wav))">.*?</a>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Takes the addresses of the site and of the repository from pyproject.toml, if they are set."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["vocos-onnx"]["site"]
    config.site_url = settings["site"] or None
    config.repo_url = settings["repository"] or None
    config.edit_uri = None
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages whose files are elsewhere in the repository."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Inserts what a page includes, and turns its links into links between pages."""
    uri = page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it would have only one line
    markdown = _with_links(markdown, _SOURCES.get(uri, f"docs/{uri}"), uri, config)

    def included(found: re.Match[str]) -> str:
        source, heading = found.groups()
        return _with_links(_section(source, heading), source, uri, config)

    markdown = _INCLUDE.sub(included, markdown)
    if _EXAMPLES in markdown:
        markdown = markdown.replace(_EXAMPLES, "\n\n".join(map(_as_code, sorted((ROOT / "examples").glob("*.py")))))
    return markdown.replace(_COMMANDS, "\n".join(_described(build_parser()))) if _COMMANDS in markdown else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Adds a player after each link to a sound; pages that docstrings mention become links."""

    def linked(found: re.Match[str]) -> str:
        file = files.get_file_from_path(found[1])
        if file is None or file.page is None:
            raise PluginError(f"{page.file.src_uri} names docs/{found[1]}, which is not there")
        return f'<a href="{get_relative_url(file.url, page.url)}">{file.page.title}</a>'

    if page.file.src_uri.startswith("reference/api/"):
        html = re.sub(r"\bdocs/([\w/-]+\.md)\b", linked, html)
    return _PLAYED.sub(r'\g<0><audio controls preload="none" src="\1"></audio>', html)


def _section(source: str, heading: str) -> str:
    """The text below a heading of a file, without the heading."""
    text = (ROOT / source).read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.M | re.S)
    if found is None:
        raise PluginError(f"{source} has no heading {heading!r}")
    return found[2].strip()


def _as_code(path: Path) -> str:
    return f"## {path.name}\n\n```python\n{path.read_text(encoding='utf-8').strip()}\n```"


def _with_links(markdown: str, source: str, page: str, config: MkDocsConfig) -> str:
    """The Markdown of a file of the repository, with its links rewritten for a page of the site."""

    def linked(found: re.Match[str]) -> str:
        image, text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = file.removeprefix("docs/") if file.startswith("docs/") else PAGES.get(file)
        if there is not None:
            relative = posixpath.relpath(there, posixpath.dirname(page) or ".")
            return f"{image}[{text}]({relative}{'#' * bool(anchor)}{anchor})"
        if not (ROOT / file).exists():
            raise PluginError(f"{source} links to {target}, which is not there")
        return f"[{text}]({config.repo_url}/blob/main/{file})" if config.repo_url else str(text)

    return _outside_code(markdown, lambda text: _LINK.sub(linked, text))


def _outside_code(markdown: str, changed: Callable[[str], str]) -> str:
    done, at = [], 0
    for code in _FENCED.finditer(markdown):
        done += [changed(markdown[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*done, changed(markdown[at:])])


# The command line


def _described(program: Parser) -> list[str]:
    lines = []
    for name, command in program.commands.items():
        lines += _command(name, command)
        for sub, subcommand in command.commands.items():
            lines += _command(f"{name} {sub}", subcommand)
    return lines


def _command(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """A command as Markdown: what it does, its usage, arguments and examples."""
    os.environ["COLUMNS"] = "80"  # argparse wraps the usage to it
    lines = [f"## {name}", "", str(parser.description), "", "```text", parser.format_usage().strip(), "```", ""]
    formatter = parser._get_formatter()  # noqa: SLF001 argparse has no public way to list its arguments
    rows = []
    for action in parser._actions:  # noqa: SLF001
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction | argparse._HelpAction):  # noqa: SLF001
            continue
        value = "" if action.nargs == 0 else str(action.metavar or (action.choices and _choices(action)) or action.dest)
        names = ", ".join(action.option_strings)
        what = f"{names} {value}".strip() if names else value
        help = formatter._expand_help(action) if action.help else ""  # noqa: SLF001
        rows.append(f"| `{what}` | {_in_cell(help)}{'; required' * bool(names and action.required)} |")
    if rows:
        lines += ["| argument | meaning |", "|---|---|", *rows, ""]
    if parser.epilog:
        examples = [line.strip() for line in parser.epilog.splitlines() if line.startswith("  ")]
        lines += ["```sh", *examples, "```", ""]
    return lines


def _choices(action: argparse.Action) -> str:
    return "{" + ",".join(str(choice) for choice in action.choices or ()) + "}"


def _in_cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("<", "&lt;")
