"""Fixtures of the tests that need torch and the real vocos package; without those, nothing here is collected."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import torch  # noqa: F401
        import vocos  # noqa: F401
    except ImportError:
        collect_ignore_glob = ["test_*.py"]
