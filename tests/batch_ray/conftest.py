"""Fixtures for tests that need Ray, which has its own environment; without Ray, pytest collects nothing here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if find_spec("ray") is None:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests without a cluster first, and do not turn Ray's warnings into errors: it uses deprecated APIs itself."""
    items.sort(key=lambda item: "cluster" in getattr(item, "fixturenames", ()))
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A head node with one CPU that quickly notices a lost node; tests add nodes to it."""
    import ray
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 128 << 20, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def connection(cluster: Any) -> Any:
    """Ray, connected to the cluster; the connection stays open for later tests."""
    from vocos_onnx.batch.ray_engine import import_ray, through_ray

    through_ray(cluster.address)
    return import_ray()


@pytest.fixture
def no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ray.shutdown()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
