"""One bare control plane for the session. A test may restart its API server, and leaves it running."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest

import forks
from e2e.cluster import control_plane as planes
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane.crds_server import CRDS, NAMES, Server, until_served

REST_SECONDS = 180.0


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd, API server, controllers and scheduler on loopback. Nothing of ours is installed."""
    flags = ["--horizontal-pod-autoscaler-sync-period=1s"]  # instead of 15 s
    with planes.running(tmp_path_factory.mktemp("control-plane"), controller_manager_flags=flags) as plane:
        yield plane


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> ControlPlane:
    return control_plane


@pytest.fixture(scope="session", autouse=True)
def _no_process_that_forks() -> Iterator[None]:
    yield
    forks.close()


@pytest.fixture
def audit_writes(control_plane: ControlPlane) -> Callable[..., list[Write]]:
    """The writes since a `control_plane.audit_position()`, without one since the test began: `audit_writes(user=…)`.
    Events are left out: they are no part of the state, and follow a change some time later."""
    began = control_plane.audit_position()

    def writes(since: int | None = None, *, user: str | None = None) -> list[Write]:
        found = control_plane.writes(began if since is None else since, user=user)
        return [write for write in found if write.resource != "events"]

    return writes


@pytest.fixture
def until_rest(control_plane: ControlPlane, audit_writes: Callable[..., list[Write]]) -> Callable[..., int]:
    """`until_rest(user, seconds)` waits until the user has written nothing for so long, and returns the audit position
    since when. What a test caused last may still be written after the test has seen it: writes that follow it soon are
    no fault, writes that never end are."""

    def rest(user: str, seconds: float, *, ignoring: tuple[str, ...] = ()) -> int:
        deadline = time.monotonic() + REST_SECONDS
        while True:
            since, began = control_plane.audit_position(), time.monotonic()
            while not (found := [w for w in audit_writes(since, user=user) if w.resource not in ignoring]):
                if time.monotonic() - began > seconds:
                    return since
                time.sleep(0.2)
            assert time.monotonic() < deadline, f"{user} never rests for {seconds:g} s; its last writes: {found}"
            time.sleep(0.2)

    return rest


@pytest.fixture(scope="module")
def crds(control_plane: ControlPlane, kubectl: Kubectl) -> None:
    """Our CRDs are installed as a person would, and served. They stay: an API server of tests is theirs alone."""
    kubectl("apply", "--filename", CRDS)
    kubectl("wait", "--for=condition=Established", "--timeout=120s", *(f"crd/{name}" for name in NAMES))
    until_served(control_plane)


@pytest.fixture(scope="module")
def server(control_plane: ControlPlane, crds: None) -> Iterator[Server]:
    with contextlib.closing(Server(control_plane)) as server:
        yield server


@pytest.fixture
def kubectl_here(kubectl: Kubectl, namespace: str, crds: None) -> Kubectl:
    """kubectl whose cache knows what is served now."""
    return Kubectl(kubectl.program, kubectl.kubeconfig, cache=kubectl.kubeconfig.parent / "kubectl-cache-crds")
