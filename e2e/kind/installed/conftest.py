"""One release for all tests of this folder, whose store is not the release's own: it outlives an uninstall."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from e2e.cluster import install
from e2e.cluster.kind import Cluster
from e2e.cluster.kubectl import Kubectl
from e2e.kind.team import Team, released


@pytest.fixture(scope="package")
def team(kubectl: Kubectl, kind_cluster: Cluster) -> Iterator[Team]:
    with released(kubectl, kind_cluster, install.prepared(kind_cluster), own_store=True) as made:
        yield made


@pytest.fixture
def name(team: Team) -> Iterator[str]:
    """A crew's name; the crew is gone after the test."""
    made = f"crew-{secrets.token_hex(3)}"
    yield made
    team.kubectl("delete", "crew", made, "--ignore-not-found")
    team.kubectl("delete", "configmap", made, "--ignore-not-found")
