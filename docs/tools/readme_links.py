"""Rewrite the README's links for places where it stands alone, such as PyPI: python docs/tools/readme_links.py

Relative links to files become links to the repository's address under [tool.vocos-onnx.site] in pyproject.toml. The
release workflow runs this before the build, in its own checkout.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rewritten(text: str, repository: str) -> str:
    """The README with absolute links: images link to raw files, anything else to pages of the repository."""

    def absolute(found: re.Match[str]) -> str:
        image, label, target = found.groups()
        kind = "raw" if image else "blob"
        return f"{image}[{label}]({repository}/{kind}/main/{target})"

    return re.sub(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?![a-z]+:|#)([^()\s]+)\)", absolute, text)


def main() -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    repository = settings["tool"]["vocos-onnx"]["site"]["repository"]
    if not repository:
        print("repository of [tool.vocos-onnx.site] in pyproject.toml is empty: set it first", file=sys.stderr)
        return 1
    readme = ROOT / "README.md"
    readme.write_text(rewritten(readme.read_text(encoding="utf-8"), repository), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
