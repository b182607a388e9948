"""Models can be sent to workers of multiprocessing and concurrent.futures; each process opens its own session.

tests/parity/test_workers.py does so with joblib and torch's DataLoader, tests/batch_ray/ with Ray.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.pool import Pool

import numpy as np
import pytest

from tests.sent import MODELS, Sent

METHODS = [method for method in ("spawn", "forkserver") if method in multiprocessing.get_all_start_methods()]


@pytest.fixture(scope="module", params=METHODS)
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    with multiprocessing.get_context(request.param).Pool(1) as pool:
        yield pool


@pytest.fixture(scope="module", params=METHODS)
def executor(request: pytest.FixtureRequest) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context(request.param)
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        yield executor


@pytest.mark.parametrize("name", MODELS)
def test_multiprocessing(pool: Pool, name: str) -> None:
    sent = Sent.of(name)
    assert pool.apply_async(os.getpid).get(120) != os.getpid()
    assert pool.apply_async(repr, (sent.model,)).get(120) == repr(sent.model)
    found = pool.apply_async(sent.method, (sent.given,), sent.options).get(120)
    assert np.array_equal(found, sent.expected)
    assert found.dtype == sent.expected.dtype


@pytest.mark.parametrize("name", MODELS)
def test_concurrent_futures(executor: ProcessPoolExecutor, name: str) -> None:
    sent = Sent.of(name)
    assert executor.submit(os.getpid).result(120) != os.getpid()
    found = executor.submit(sent.method, sent.given, **sent.options).result(120)
    assert np.array_equal(found, sent.expected)
    assert found.dtype == sent.expected.dtype
