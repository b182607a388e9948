"""Clients of the local hub (tests/hub/server.py), each in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_PRETRAINED = """
import json, sys
from vocos_onnx import VocosONNX
for arguments in json.load(sys.stdin):
    try:
        result = ["ok", VocosONNX.from_pretrained(**arguments).config.source.name]
    except Exception as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else type(error)
        result = [kind.__name__, str(error)]
    print(json.dumps(result))
"""

_IN_A_PROCESS = """
import json, sys
import vocos_onnx_export
from vocos_onnx_export.checkpoint import load

export = getattr(vocos_onnx_export, sys.argv[1])
for arguments in json.load(sys.stdin):
    try:
        if "output" in arguments:
            source = export(**arguments, report=lambda line: None).source
        else:
            source = load(**arguments)
        result = [source.name, source.revision, source.sha256]
    except Exception as error:
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else type(error)
        result = [kind.__name__, str(error)]
    print(json.dumps(result))
"""


def in_a_process(export: str, cases: list[dict[str, str]], home: Path, **variables: str) -> list[list[str]]:
    """Export each case with the named function, or just load the vocoder if the case has no output.

    Returns name, revision and sha256 of each source, or the kind and message of the error.
    """
    return _run([_IN_A_PROCESS, export], cases, home, variables)


def pretrained(cases: Sequence[Mapping[str, object]], home: Path, **variables: str) -> list[list[str]]:
    """Run VocosONNX.from_pretrained on each case: "ok" and the source's name, or the kind and message of the error."""
    return _run([_PRETRAINED], cases, home, variables)


def _run(code: list[str], cases: object, home: Path, variables: dict[str, str]) -> list[list[str]]:
    """Run in a new process, since huggingface_hub reads its environment on import."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", *code],
        input=json.dumps(cases),
        env={**kept, "HF_HOME": str(home), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
