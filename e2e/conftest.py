"""Fixtures of tests on clusters: `kubectl` and a fresh `namespace`, over the `cluster` of each folder's own
conftest."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.cluster.kubectl import Kubectl

TEST_SECONDS = 2400  # the first test of a session waits for the cluster, whose creation may be tried twice


def pytest_configure(config: pytest.Config) -> None:
    # Terminated is like interrupted: fixtures tear down, and no cluster stays.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def kubectl(cluster: Any) -> Kubectl:
    """kubectl as a function, with every right on the cluster."""
    found: Kubectl = cluster.kubectl
    return found


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    """A new namespace, in which pods could run at once. It goes after the test, without waiting for it."""
    name = f"e2e-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    try:
        kubectl("wait", "serviceaccount/default", f"--namespace={name}", "--for=create", "--timeout=120s")
        yield name
    finally:
        kubectl("delete", "namespace", name, "--wait=false")
