"""The versions of the package that are compared, each in its own folder, laid out as when installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CURRENT, OLD = "vocos-onnx", "0.4.0"
FOLDERS = {CURRENT: "current", OLD: "old"}
OLD_COMMIT = "67b83d6e52d378ccef341e52fb4735daa704657f"


@dataclass(frozen=True)
class Version:
    """A version of the package; processes with its environment import it."""

    name: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Its folder precedes installed packages; the benchmarks and tests/parity are those of the checkout."""
        return self._environment(f"{self.folder}{os.pathsep}{ROOT}")

    @property
    def alone(self) -> dict[str, str]:
        """The same without the checkout, as users have it."""
        return self._environment(str(self.folder))

    def ask(self, module: str, *arguments: object) -> Any:
        """Runs a module in its own process; returns the JSON on the last line that it prints.

        Raises RuntimeError with the last line of its error output if it fails.
        """
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment)
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return json.loads(done.stdout.splitlines()[-1])

    @staticmethod
    def _environment(path: str) -> dict[str, str]:
        # Without PYTHONSAFEPATH, -m and -c would put the working folder, the checkout, first.
        return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def current(folder: Path) -> Version:
    return _installed(CURRENT, ROOT, folder / FOLDERS[CURRENT])


def old(folder: Path) -> Version:
    """Version 0.4.0, from the git history. Raises CalledProcessError if its commit is missing."""
    with tempfile.TemporaryDirectory() as name:
        archive = subprocess.run(["git", "-C", ROOT, "archive", OLD_COMMIT], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", name], input=archive, check=True)
        return _installed(OLD, Path(name), folder / FOLDERS[OLD])


def _installed(name: str, checkout: Path, folder: Path) -> Version:
    """Copies the packages to where pyproject.toml puts them and compiles the bytecode, as pip does."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    for package, source in project["tool"]["setuptools"]["package-dir"].items():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(checkout / source, folder / package.replace(".", "/"), ignore=ignored, dirs_exist_ok=True)
    subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
    return Version(name, folder)
