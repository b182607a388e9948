"""Models can be sent to workers of joblib and torch's DataLoader; a process that receives one opens its own session."""

from __future__ import annotations

import multiprocessing
import os
from functools import partial
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest
from torch.utils.data import DataLoader

from tests.sent import MODELS, Sent


@pytest.mark.parametrize("name", MODELS)
def test_loky(name: str) -> None:
    sent = Sent.of(name)
    with joblib.Parallel(n_jobs=2, backend="loky") as parallel:
        processes = parallel(joblib.delayed(os.getpid)() for _ in range(2))
        found = parallel(joblib.delayed(sent.method)(sent.given, **sent.options) for _ in range(2))
    assert os.getpid() not in processes
    for one in found:
        assert np.array_equal(one, sent.expected)
        assert one.dtype == sent.expected.dtype


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.parametrize("name", MODELS)
def test_data_loader(name: str, method: str) -> None:
    """A model works as collate_fn, which a DataLoader sends to its workers; forked ones use a copy of the session."""
    sent = Sent.of(name)
    loader = DataLoader[npt.NDArray[Any]](
        [sent.given] * 3,  # type: ignore[arg-type]  # any sequence works
        batch_size=None,
        num_workers=1,
        collate_fn=partial(sent.method, **sent.options),
        multiprocessing_context=method,
        timeout=120,
    )
    found = list(loader)
    assert len(found) == 3
    for one in found:
        assert np.array_equal(one, sent.expected)
        assert one.dtype == sent.expected.dtype
