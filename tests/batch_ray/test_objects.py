"""Models can be sent to Ray's tasks and actors; each process opens its own session."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.sent import MODELS, Sent
from vocos_onnx.batch.ray_engine import import_ray, through_ray


@pytest.fixture(scope="module")
def actor(cluster: Any) -> Iterator[Any]:
    """An actor that is created with all the models."""
    through_ray(cluster.address)

    class Holder:
        def __init__(self, methods: dict[str, Callable[..., npt.NDArray[Any]]]):
            self._methods = methods

        def called(self, name: str, given: npt.NDArray[Any], options: dict[str, Any]) -> tuple[int, npt.NDArray[Any]]:
            return os.getpid(), self._methods[name](given, **options)

    ray = import_ray()
    actor = ray.remote(num_cpus=0)(Holder).remote({name: Sent.of(name).method for name in MODELS})
    yield actor
    ray.kill(actor)


@pytest.mark.parametrize("name", MODELS)
def test_task(connection: Any, name: str) -> None:
    sent = Sent.of(name)

    def called(method: Any, given: npt.NDArray[Any], options: dict[str, Any]) -> tuple[int, npt.NDArray[Any]]:
        return os.getpid(), method(given, **options)

    task = connection.remote(called)
    for process, found in connection.get([task.remote(sent.method, sent.given, sent.options) for _ in range(2)]):
        assert process != os.getpid()
        assert np.array_equal(found, sent.expected)
        assert found.dtype == sent.expected.dtype


@pytest.mark.parametrize("name", MODELS)
def test_actor(connection: Any, actor: Any, name: str) -> None:
    sent = Sent.of(name)
    for _ in range(2):
        process, found = connection.get(actor.called.remote(name, sent.given, sent.options))
        assert process != os.getpid()
        assert np.array_equal(found, sent.expected)
        assert found.dtype == sent.expected.dtype
