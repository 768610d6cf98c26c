"""One cluster with pods for the session: a kind cluster of its own, or with E2E_USE_CLUSTER=1 the current one."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from e2e.cluster import docker, images, kind, machine, recipe
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import KubectlError

NAME = "watchbill-test"  # not the one that `make e2e-up` makes for people


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Skips a test that would begin after E2E_UNTIL, in seconds since 1970: before a slow machine's time is over."""
    if time.time() > float(os.environ.get("E2E_UNTIL") or "inf"):
        pytest.skip("the time is over that E2E_UNTIL leaves")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failure what the cluster says: afterwards it is gone."""
    report = yield
    team: Any = item.funcargs.get("team")
    if report.when == "call" and report.failed and team is not None:
        report.sections.append(("The namespace of the release", _namespace_report(team.kubectl)))
    return report


def _namespace_report(kubectl: Callable[..., str]) -> str:
    """Returns the cluster's state of the release and its crews."""
    parts = []
    for words in (
        ("get", "crews,deployments,pods", "--output=wide"),
        ("get", "events", "--sort-by=.lastTimestamp"),
        ("logs", "deploy/watchbill", "--tail=100"),
        ("logs", "--selector=watchbill.dev/crew", "--tail=100", "--prefix"),
    ):
        try:
            parts.append(kubectl(*words))
        except (KubectlError, subprocess.TimeoutExpired) as error:
            parts.append(f"{error}\n")
    return "\n".join(parts)


@pytest.fixture(scope="session")
def kind_cluster() -> Iterator[Cluster]:
    """The cluster. One of our own is new, and gone after the session, as is a Docker engine that was started for it."""
    if os.environ.get("E2E_USE_CLUSTER"):
        yield kind.current()
        return
    with machine.lock(f"session-{NAME}", wait=False), docker.engine():
        try:
            kind.down(NAME)  # what a killed session left behind
            yield kind.up(NAME)
        finally:
            kind.down(NAME)


@pytest.fixture(scope="session")
def cluster(kind_cluster: Cluster) -> Cluster:
    return kind_cluster


@pytest.fixture(scope="session")
def load_image(kind_cluster: Cluster) -> Callable[[str], str]:
    """Puts a local image on the cluster's nodes, once a session, and gives its name."""
    loaded: set[str] = set()

    def load(image: str) -> str:
        if image not in loaded:
            kind_cluster.load(image)
            loaded.add(image)
        return image

    return load


@pytest.fixture(scope="session")
def python_image(kind_cluster: Cluster, load_image: Callable[[str], str]) -> str:
    """An image with `python3`, on the cluster's nodes: for pods that only test the cluster."""
    if not kind_cluster.kind_name:
        return recipe.PUBLIC_PYTHON_IMAGE
    image = images.base_image()
    if not docker.has_image(image):
        docker.docker("pull", image, timeout=300)
    return load_image(image)
