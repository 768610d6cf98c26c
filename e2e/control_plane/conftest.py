"""One bare control plane for the session. A test may restart its API server, and leaves it running."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from e2e.cluster import control_plane as planes
from e2e.cluster.control_plane import ControlPlane, Write


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server, controllers and scheduler on loopback. Nothing of ours is installed."""
    with planes.running(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    return control_plane


@pytest.fixture
def audit_writes(control_plane: ControlPlane) -> Callable[..., list[Write]]:
    """The writes since a `control_plane.audit_position()`, without one since the test began: `audit_writes(user=…)`."""
    began = control_plane.audit_position()

    def writes(since: int | None = None, *, user: str | None = None) -> list[Write]:
        return control_plane.writes(began if since is None else since, user=user)

    return writes
