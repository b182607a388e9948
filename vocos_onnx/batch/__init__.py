"""Processes a corpus: many items with the same settings, in several processes; an interrupted job can be resumed.

Example:
    >>> from vocos_onnx.batch import Settings, run
    >>> summary = run("corpus.jsonl", "audio", Settings.of("decode", format="flac"), resume=True)
"""

from .job import Settings
from .manifest import Manifest
from .run import Summary, run

__all__ = ["Manifest", "Settings", "Summary", "run"]
