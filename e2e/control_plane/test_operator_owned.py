"""Every field that the operator owns, of every child of a crew, is put right when somebody changes or removes it; what
is somebody else's stays. The API server says which fields are whose."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.control_plane import operator_team
from e2e.control_plane.crds_server import Server
from e2e.control_plane.operator_team import OPERATOR, SOON, Team, crew, may_make_users
from watchbill import cluster_names

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

Object = dict[str, Any]

TEMPLATE = {
    "metadata": {"annotations": {"a": "b"}},
    "spec": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "containers": [
            {
                "name": "worker",
                "env": [{"name": "MINE", "value": "1"}],
                "resources": {"requests": {"cpu": 1}, "limits": {"cpu": "2000m", "memory": "1024Mi"}},
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "data", "mountPath": "/more", "subPath": "more"},
                ],
            },
            {"name": "side", "image": "side:1", "command": ["sleep", "9"]},
        ],
        "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}],
    },
}
FOREIGN = {"metadata": {"labels": {"theirs": "1"}, "annotations": {"theirs": "1"}}}
THEIRS: dict[str, Object] = {
    "deployments": {
        **FOREIGN,
        "spec": {
            "minReadySeconds": 1,
            "template": {
                **FOREIGN,
                "spec": {
                    "priorityClassName": "theirs",
                    "containers": [
                        {"name": "worker", "env": [{"name": "THEIRS", "value": "1"}], "workingDir": "/theirs"},
                        {"name": "theirs", "image": "theirs:1"},
                    ],
                    "volumes": [{"name": "theirs", "emptyDir": {}}],
                },
            },
        },
    },
    "serviceaccounts": {**FOREIGN, "imagePullSecrets": [{"name": "theirs"}]},
    "secrets": {**FOREIGN, "data": {"theirs": "MQ=="}},
}
NOT_OF_THE_CREW = ("data.url", "metadata.annotations", "metadata.ownerReferences")
"""Fields of the Secret that say what has been, so that there is nothing to put them right from; and its owner, without
whom it is somebody else's."""


def test_every_owned_field_that_is_changed_or_removed_is_put_right_and_every_foreign_one_stays(
    team: Team, installed: ControlPlane, audit_writes: Callable[..., list[Write]]
) -> None:
    may_make_users(installed, team.namespace)
    team.operator(redis_acl_per_crew="true", resync_seconds="1")
    team.apply(crew(scaling={"mode": "External"}, replicas=2, template=TEMPLATE))
    team.until_ready()
    with contextlib.closing(Server(installed)) as server:
        name = team.deployments()[0]["metadata"]["name"]
        children = [
            Child(server, "/apis/apps/v1", "deployments", team.namespace, name),
            Child(server, "/api/v1", "serviceaccounts", team.namespace, "echo-worker"),
            Child(server, "/api/v1", "secrets", team.namespace, "echo-redis"),
        ]
        for child in children:
            child.add_theirs()
        for changes in (changed, removed):
            for child in children:
                print(child.kind, changes.__name__, "not:", *child.change(changes))
            for child in children:
                machine.until(child.is_right, within=SOON, what="all is put right", ignoring=(AssertionError,))
        for child in children:
            assert contained(THEIRS[child.kind], child.read()), f"what is theirs was changed: {child.read()}"
        assert len(children[0].fields) > 60
        assert len({d["metadata"]["uid"] for d in team.deployments()}) == 1

    def is_quiet() -> bool:
        """For two resyncs, once the last status is written."""
        since = installed.audit_position()
        time.sleep(2.5)
        return not audit_writes(since, user=OPERATOR)

    machine.until(is_quiet, within=SOON, what="it writes nothing, since all is right")


class Child:
    """An object of the crew, as it was when nobody had changed it."""

    def __init__(self, server: Server, group: str, kind: str, namespace: str, name: str) -> None:
        self._server = server
        self._path = f"{group}/namespaces/{namespace}/{kind}/{name}"
        self.kind = kind
        seen = self.read()
        self._owned = [
            entry["fieldsV1"]
            for entry in seen["metadata"]["managedFields"]
            if entry["manager"] == cluster_names.FIELD_MANAGER and "subresource" not in entry
        ]
        self.uid = seen["metadata"]["uid"]
        self.fields = self._read(seen)

    def read(self) -> Object:
        return self._server.send("GET", self._path).body

    def is_right(self) -> bool:
        """Its fields are as they were."""
        there = self._read(self.read())
        wrong = [name for name, (_, value) in self.fields.items() if there.get(name, ("", None))[1] != value]
        assert not wrong
        return True

    def add_theirs(self) -> None:
        """By server-side apply, so that it is known what is theirs."""
        seen = self.read()
        manifest = {**THEIRS[self.kind], "apiVersion": seen["apiVersion"], "kind": seen["kind"]}
        answer = self._server.send("PATCH", f"{self._path}?fieldManager=theirs", manifest, as_="apply-patch+yaml")
        assert answer.code == 200, answer.message

    def change(self, changes: Callable[[str, Any], Iterator[Object]]) -> list[str]:
        """Changes all owned fields at once that the API server lets one change. Returns the others."""
        there = self._read(self.read())
        done: list[Object] = []
        left = []
        # The last item of a list comes first, so that those before it stay where they are.
        for name, (pointer, value) in sorted(there.items(), key=lambda one: _place(one[1][0]), reverse=True):
            for one in changes(pointer, value):
                answer = self._server.send("PATCH", f"{self._path}?dryRun=All", [*done, one], as_="json-patch+json")
                if answer.code == 200 and self._read(answer.body).get(name, ("", None))[1] != value:
                    done.append(one)
                    break
            else:
                left.append(name)
        answer = self._server.send("PATCH", f"{self._path}?fieldManager=person", done, as_="json-patch+json")
        assert answer.code == 200, answer.message
        assert done
        return left

    def _read(self, seen: Object) -> dict[str, tuple[str, Any]]:
        """Owned field → (JSON pointer, value)."""
        return {
            name: found
            for fields in self._owned
            for name, found in leaves(fields, seen)
            if self.kind != "secrets" or not name.startswith(NOT_OF_THE_CREW)
        }


def leaves(
    fields: Mapping[str, Any], value: Any, name: str = "", pointer: str = ""
) -> Iterator[tuple[str, tuple[str, Any]]]:
    """(name, (JSON pointer, value)) of all fields of a fieldsV1 that are there. Of an item of a list, the value is what
    tells it apart from the others."""
    for key, inner in fields.items():
        what, _, text = key.partition(":")
        part: str | int | None = text
        if what == "k":
            keys = json.loads(text)
            part = next((i for i, item in enumerate(value) if keys.items() <= item.items()), None)
            inner = {field: more for field, more in inner.items() if field.removeprefix("f:") not in keys}
            if part is not None and not pointer.endswith("ontainers"):  # what is theirs would go with a container
                yield f"{name}.{text}", (f"{pointer}/{part}", tuple(keys.items()))
        if what not in ("f", "k") or part is None or (what == "f" and text not in value):
            continue
        here, at = f"{name}.{text}".lstrip("."), f"{pointer}/{str(part).replace('~', '~0').replace('/', '~1')}"
        if inner:
            yield from leaves(inner, value[part], here, at)
        else:
            yield here, (at, value[part])


def _place(pointer: str) -> list[tuple[int, str]]:
    return [(int(part) if part.isdigit() else 0, part) for part in pointer.split("/")]


def changed(pointer: str, value: Any) -> Iterator[Object]:
    """Changes of a field's value, of which the API server may refuse some."""
    others: list[Any]
    match value:
        case tuple():
            others = []
        case bool():
            others = [not value]
        case int():
            others = [value + 1]
        case str():
            others = ["other", "/other", "7", "Unconfined"]
        case list():
            others = [[*value, "OTHER"], value[:-1]]
        case _:
            others = [{**value, "optional": True}, {**value, "theirs": "1"}, {**value, "controller": False}]
    for other in others:
        yield {"op": "replace", "path": pointer, "value": other}


def removed(pointer: str, _: Any) -> Iterator[Object]:
    yield {"op": "remove", "path": pointer}


def contained(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(key in whole and contained(value, whole[key]) for key, value in part.items())
    if isinstance(part, list):
        return all(any(contained(item, other) for other in whole) for item in part)
    return bool(part == whole)
