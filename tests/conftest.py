"""Fixtures for all tests: tiny models and their golden tensors (tests/data, made by tests/data/make.py)."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from tests.helpers import DATA
from vocos_onnx import VocosONNX

# A shell that runs the tests in the background may ignore these signals, and child processes would inherit that.
for _number, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _default)

# Tests use their own cache of converted models, not the user's.
os.environ["VOCOS_ONNX_CACHE"] = _cache = tempfile.mkdtemp(prefix="vocos-onnx-tests-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)


@cache
def _tiny(name: str) -> VocosONNX:
    return VocosONNX(DATA / f"{name}.onnx", providers=["CPUExecutionProvider"], threads=1)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], VocosONNX]:
    """tiny(name) loads a small model once: "encodec", "mel", "imdct-symexp" or "imdct-cos"."""
    return _tiny


@pytest.fixture(scope="session")
def encodec() -> VocosONNX:
    """2 codebooks, 8 channels, bandwidths of 1 and 2 codebooks, hop 320, padding same."""
    return _tiny("encodec")


@pytest.fixture(scope="session")
def mel() -> VocosONNX:
    """8 bands, hop 16, padding center."""
    return _tiny("mel")


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(DATA / f"{name}.npz") as archive:
            return dict(archive)

    return load
