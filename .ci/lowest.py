"""Prints the lowest version that pyproject.toml allows for every dependency of [cpu], as requirements."""

import re
from pathlib import Path

text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
lines = [line for line in text.splitlines() if line.startswith(("dependencies = ", "cpu = "))]
for name, version in re.findall(r'"([\w-]+)>=([\d.]+)"', " ".join(lines)):
    print(f"{name}=={version}")
