"""Fixtures for tests that need torch and the real vocos package; without both, pytest collects nothing here."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        import torch
        import vocos  # noqa: F401
    except ImportError:
        collect_ignore_glob = ["test_*.py"]
    else:
        torch.set_num_threads(1)  # the spinning threads of torch and onnxruntime slow each other down
