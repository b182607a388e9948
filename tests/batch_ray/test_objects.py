"""Models go to the tasks and actors of Ray as they are; each process opens its own session."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.sent import MODELS, Sent


@pytest.mark.parametrize("name", MODELS)
def test_task(local_ray: Any, name: str) -> None:
    sent = Sent.of(name)

    def called(method: Any, given: npt.NDArray[Any], options: dict[str, Any]) -> tuple[int, npt.NDArray[Any]]:
        return os.getpid(), method(given, **options)

    task = local_ray.remote(called)
    for process, found in local_ray.get([task.remote(sent.method, sent.given, sent.options) for _ in range(2)]):
        assert process != os.getpid()
        assert np.array_equal(found, sent.expected)
        assert found.dtype == sent.expected.dtype


@pytest.mark.parametrize("name", MODELS)
def test_actor(local_ray: Any, name: str) -> None:
    sent = Sent.of(name)

    class Holder:
        def __init__(self, method: Any):
            self._method = method

        def called(self, given: npt.NDArray[Any], options: dict[str, Any]) -> tuple[int, npt.NDArray[Any]]:
            return os.getpid(), self._method(given, **options)

    actor = local_ray.remote(Holder).remote(sent.method)
    for _ in range(2):
        process, found = local_ray.get(actor.called.remote(sent.given, sent.options))
        assert process != os.getpid()
        assert np.array_equal(found, sent.expected)
        assert found.dtype == sent.expected.dtype
