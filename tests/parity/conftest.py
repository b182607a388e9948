"""Fixtures of the tests that need torch and the real vocos package; without those, nothing here is collected."""

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
        torch.set_num_threads(1)  # threads of torch and of onnxruntime, spinning in turn, slow each other down
