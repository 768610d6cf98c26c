"""Fixtures and objects for tests of the operator: a namespace, a store, and operators with the rights of the chart.

A test module takes what it needs: `team = operator_team.team`. Nothing that an operator asks for may be forbidden,
unless the test says that it is.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import machine, programs, recipe
from e2e.cluster.control_plane import ControlPlane
from e2e.cluster.kubectl import Kubectl, KubectlError
from e2e.control_plane import access, operator_process
from e2e.control_plane.crds_server import until_served
from e2e.control_plane.operator_process import Process, Store
from watchbill import client

ROOT = recipe.HERE.parent.parent
RELEASE = "watchbill"
EVERYWHERE, NARROW = "watchbill-system", "watchbill-narrow"
"""Namespaces of two releases: one that watches all of the cluster, and one that watches the namespaces of tests."""
OPERATOR = f"system:serviceaccount:{NARROW}:{RELEASE}"

SOON = 120.0
"""Seconds: for what should take one, on a machine with a fortieth of the usual speed."""
RARELY = 31_622_400
"""intervalSeconds of a heartbeat that is not to fire while a test runs: the most that a Heartbeat may have. Intervals
are counted from 1970, so one of 3600 fires at each full hour."""


def rendered(where: str, *namespaces: str, **given: Any) -> list[dict[str, Any]]:
    """The chart's ServiceAccount, roles and bindings, for a release that watches these namespaces (none: all).
    `given`: more of its values."""
    stand_ins = [f"namespace-number-{number}" for number in range(len(namespaces))]
    text = _template(where, json.dumps({"watchNamespaces": stand_ins, "rbac": {"aggregate": False}, **given}))
    for stand_in, namespace in zip(stand_ins, namespaces, strict=True):
        text = text.replace(stand_in, namespace)
    kinds = {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    return [document for document in yaml.safe_load_all(text) if document and document["kind"] in kinds]


@cache
def _template(where: str, values: str) -> str:
    """Helm renders the chart once for all tests that want the same."""
    chart = ROOT / "charts" / "watchbill"
    command: list[str | Path] = [programs.path("helm"), "template", RELEASE, chart, f"--namespace={where}"]
    with tempfile.TemporaryDirectory() as home:
        environment = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        return machine.run([*command, "--values=-"], stdin=values, env=environment)


def may_make_users(plane: ControlPlane, namespace: str) -> None:
    """Gives the operator the rights for a user of the store for each crew."""
    roles = rendered(NARROW, namespace, redis={"aclPerCrew": True})
    plane.kubectl.apply(*(r for r in roles if r["kind"] == "Role" and r["metadata"]["namespace"] == namespace))
    access.until_allowed(plane, OPERATOR, namespace, "", "secrets", "create")


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """With our CRDs, and the ServiceAccounts of the two releases."""
    kubectl = control_plane.kubectl
    for crd in sorted((ROOT / "crds").glob("*.yaml")):
        kubectl("apply", "--server-side", "--filename", crd)
    for kind in ("crews", "heartbeats"):
        kubectl("wait", "--for=condition=Established", "--timeout=120s", f"crd/{kind}.watchbill.dev")
    until_served(control_plane)
    for where, namespaces in ((EVERYWHERE, ()), (NARROW, (NARROW,))):
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": where}})
        kubectl.apply(*rendered(where, *namespaces))
    everywhere = f"system:serviceaccount:{EVERYWHERE}:{RELEASE}"
    access.until_allowed(control_plane, everywhere, NARROW, "watchbill.dev", "crews", "list")
    return control_plane


@pytest.fixture
def store() -> Iterator[Store]:
    with tempfile.TemporaryDirectory(prefix="wb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Store(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.client.close()
            made.kill()


class Team:
    """One namespace with its crews, the operator that keeps them, and the store."""

    def __init__(
        self, kubectl: Kubectl, namespace: str, store: Store, folder: Path, new_operator: Callable[..., Process]
    ) -> None:
        self._kubectl = kubectl
        self.namespace = namespace
        self.store = store
        self.folder = folder
        self.operator = new_operator
        """Starts one that watches this namespace only; `everywhere=True`: the whole cluster. `settings` as given.
        `forked=False`: from nothing, as a pod does."""
        self.may_be_forbidden = False

    def kubectl(self, *words: str | Path, **more: Any) -> str:
        return self._kubectl(*words, f"--namespace={self.namespace}", **more)

    def worker(self, crew: str, **settings: str) -> Process:
        of = f"{self.namespace}/{crew}"
        return operator_process.worker(of, self.store.url, self.folder, **settings).forked()

    def apply(self, *objects: dict[str, Any]) -> None:
        self._kubectl.apply(*objects, namespace=self.namespace)

    def forbid(self, resource: str, *creating: str) -> None:
        """A quota `none` of 0 of this resource, once the API server enforces it: it does some time after it has taken
        the quota. `creating`: the words of kubectl that create one of them, which are only tried."""
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}}
        self.apply({**quota, "spec": {"hard": {resource: "0"}}})

        def refused() -> bool:
            try:
                self.kubectl(*creating, "--dry-run=server")
            except KubectlError as error:
                return "exceeded quota: none" in error.stderr
            return False

        machine.until(refused, within=SOON, what=f"the quota on {resource} is enforced")

    def crew(self, name: str = "echo") -> dict[str, Any]:
        return self._kubectl.json("get", "crew", name, f"--namespace={self.namespace}")

    def heartbeat(self, name: str = "beat") -> dict[str, Any]:
        return self._kubectl.json("get", "heartbeat", name, f"--namespace={self.namespace}")

    def conditions(self, name: str = "echo", kind: str = "crew") -> dict[str, tuple[str, str, str]]:
        seen = self._kubectl.json("get", kind, name, f"--namespace={self.namespace}")
        found = seen.get("status", {}).get("conditions", [])
        return {c["type"]: (c["status"], c["reason"], c["message"]) for c in found}

    def until_ready(self, *names: str, within: float = SOON) -> None:
        for name in names or ("echo",):
            machine.until(
                lambda name=name: self.conditions(name).get("Ready", ("",))[0] == "True",  # type: ignore[misc]
                within=within,
                what=f"{name} is ready",
            )

    def until_stalled(self, name: str, reason: str, *, kind: str = "crew", within: float = SOON) -> str:
        """The message."""

        def said() -> str:
            status, why, message = self.conditions(name, kind).get("Stalled", ("", "", ""))
            return message if (status, why) == ("True", reason) else ""

        return machine.until(said, within=within, what=f"{name} is stalled for {reason}")

    def items(self, kind: str, *words: str) -> list[dict[str, Any]]:
        return self._kubectl.items(kind, *words, f"--namespace={self.namespace}")

    def deployments(self, crew: str = "echo") -> list[dict[str, Any]]:
        return self.items("deployments", f"--selector=watchbill.dev/crew={crew}")

    def replicas(self, crew: str = "echo") -> int:
        return sum(d["spec"]["replicas"] for d in self.deployments(crew))

    def submit(
        self,
        crew: str = "echo",
        prompt: str = "hi",
        count: int = 1,
        agent: str | None = None,
        scheduled_at: datetime | None = None,
    ) -> None:
        async def work() -> None:
            async with client.Client(self.store.url) as own:
                for _ in range(count):
                    await own.submit(f"{self.namespace}/{crew}", prompt, agent=agent, scheduled_at=scheduled_at)

        asyncio.run(work())

    def results(self, crew: str = "echo") -> list[str]:
        """The results on the crew's stream."""
        return [str(f.get("result")) for _, f in self.store.client.xrange(f"wb:{{{self.namespace}/{crew}}}:results")]  # type: ignore[union-attr]

    def stored(self, crew: str = "echo") -> set[str]:
        return self.store.keys_of(self.namespace, crew)

    def meta(self, crew: str = "echo") -> dict[str, str]:
        return self.store.client.hgetall(f"wb:{{{self.namespace}/{crew}}}:meta")  # type: ignore[return-value]


@pytest.fixture
def team(kubectl: Kubectl, installed: ControlPlane, namespace: str, store: Store, tmp_path: Path) -> Iterator[Team]:
    """Its operators are killed when the test ends."""
    started: list[Process] = []

    def new_operator(
        *, everywhere: bool = False, kubeconfig: Path | None = None, forked: bool = True, **settings: str
    ) -> Process:
        own = installed.service_account_kubeconfig(EVERYWHERE if everywhere else NARROW, RELEASE)
        account = kubeconfig or own
        mine = {"watch_namespaces": "" if everywhere else namespace, "resync_seconds": "300", **settings}
        made = operator_process.operator(account, store.url, tmp_path, **mine)
        started.append(made)
        return (made.forked() if forked else made).start()

    kubectl.apply(*(one for one in rendered(NARROW, namespace) if one["kind"] in ("Role", "RoleBinding")))
    access.until_allowed(installed, OPERATOR, namespace, "watchbill.dev", "crews", "list")
    kubectl("create", "secret", "generic", "watchbill-redis", f"--from-literal=url={store.url}", f"-n={namespace}")
    made = Team(kubectl, namespace, store, tmp_path, new_operator)
    try:
        yield made
    finally:
        said = []
        for one in started:
            one.kill()
            said = one.said()
        print("--- the operator said:", *said[-60:], sep="\n")
    if not made.may_be_forbidden:
        assert not [line for line in said if "orbidden" in line], "the operator lacks a right"


def crew(name: str = "echo", *, agents: tuple[str, ...] = ("a",), spec: Any = None, **workers: Any) -> dict[str, Any]:
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Crew",
        "metadata": {"name": name},
        "spec": {
            "agents": [{"name": a, "class": "EchoAgent"} for a in agents],
            "workers": workers,
            **(spec or {}),
        },
    }


def heartbeat(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Heartbeat",
        "metadata": {"name": name},
        "spec": {"crewRef": {"name": "echo"}, **spec},
    }
