"""An operator over CRDs that are older or newer than it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from e2e.cluster import machine
from e2e.cluster.kubectl import Kubectl
from e2e.control_plane import operator_team
from e2e.control_plane.operator_team import SOON, Team, crew
from watchbill import crd

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_over_older_crds_the_operator_does_nothing_and_says_so_and_over_newer_ones_it_works(
    team: Team, kubectl: Kubectl, request: pytest.FixtureRequest
) -> None:
    def install(change: Any) -> None:
        definition = copy.deepcopy(crd.definitions()[0])
        change(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"])
        kubectl("apply", "--server-side", "--force-conflicts", "--filename=-", stdin=json.dumps(definition))

    request.addfinalizer(lambda: install(lambda _: None))  # the API server is the session's
    path = "/openapi/v3/apis/watchbill.dev/v1alpha1"

    def older(schema: Any) -> None:
        schema["spec"]["properties"].pop("suspend")
        schema["status"]["properties"].pop("dead")

    install(older)
    machine.until(lambda: '"dead"' not in kubectl("get", "--raw", path), within=SOON, what="it is served")
    running = team.operator()
    team.apply(crew())
    machine.until(lambda: "older than this operator" in running.log.read_text(), within=SOON, what="it says so")
    said = running.log.read_text()
    assert "they lack Crew spec.suspend, Crew status.dead. Upgrade them: watchbill crds |" in said
    assert team.stored() == set()
    assert team.crew()["status"] == {"observedGeneration": -1}

    def newer(schema: Any) -> None:
        schema["spec"]["properties"].update(later={"type": "string"})

    install(newer)
    team.until_ready()

    def refusals() -> int:
        return running.log.read_text().count("nothing is done until the CRDs are upgraded")

    before = refusals()
    install(older)  # as a rollback does, under an operator that runs
    machine.until(lambda: refusals() > before, within=SOON, what="it has stopped, and says why")
    team.apply(crew("later"))
    stored, again = team.stored(), refusals()
    machine.until(lambda: refusals() > again, within=SOON, what="it asks again")
    assert team.stored("later") == set()
    assert team.crew("later")["status"] == {"observedGeneration": -1}
    assert team.stored() == stored
    install(newer)
    team.until_ready("echo", "later")
    assert running.exit_code() is None
