"""Runs each case in an empty folder, as a user would: python -I tests/run_cases.py. Exits 1 if any fails."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ARGUMENTS = {"external_data": [str(HERE / "data" / "encodec.onnx")]}
NEEDS = {"external_data": "onnx"}


def main() -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # the vocos-onnx of this Python
    env = {key: value for key, value in os.environ.items() if key != "CI"} | {"PATH": path}
    failed = 0
    for case in sorted((HERE / "cases").glob("*.py")):
        if (needed := NEEDS.get(case.stem)) and importlib.util.find_spec(needed) is None:
            print(f"{case.stem}: not run here, it needs the package {needed}")
            continue
        command = [sys.executable, str(case), *ARGUMENTS.get(case.stem, [])]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
        said = (done.stdout + done.stderr).strip().splitlines()
        print(f"{case.stem}: {'right' if not done.returncode else 'WRONG'}: {said[-1] if said else ''}")
        failed += done.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
