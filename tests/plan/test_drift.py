"""Every field that the operator applies is put right when somebody changes or removes it; what others add stays."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from crew_plans import DEFAULTS, crew, planned, seen, stored

from watchbill.plan import manifests
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure

Path = tuple[str | int, ...]

OF = crew(
    minReplicas=2,
    template={
        "metadata": {"annotations": {"a": "b"}},
        "spec": {
            "nodeSelector": {"disk": "fast"},
            "tolerations": [{"key": "k", "operator": "Exists"}],
            "containers": [
                {
                    "name": "worker",
                    "env": [{"name": "MINE", "value": "1"}],
                    "resources": {"limits": {"memory": "1Gi"}},
                    "volumeMounts": [
                        {"name": "data", "mountPath": "/data"},
                        {"name": "data", "mountPath": "/more", "subPath": "more"},
                    ],
                },
                {"name": "side", "image": "side:1"},
            ],
            "volumes": [{"name": "data", "emptyDir": {"sizeLimit": "1Gi"}}],
        },
    },
)


def manifest() -> dict[str, Any]:
    template = manifests.pod_template(OF, "team", DEFAULTS)
    return manifests.deployment(OF, "team", "u1", template, 2)


def parts(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Each part of an object, with the path to it."""
    if path:
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from parts(part, (*path, key))


def at(obj: Any, path: Path) -> Any:
    for key in path:
        obj = obj[key]
    return obj


def is_acted_on(observed: dict[str, Any]) -> bool:
    plan = planned(seen(OF, children=[stored(observed)], has_service_account=True))
    return bool(plan.applies or plan.deletes)


OWNED = [
    path
    for path, _ in parts(manifest())
    if path[0] == "spec" or path[:2] in (("metadata", "labels"), ("metadata", "ownerReferences"))
]
LEAVES = [path for path in OWNED if not isinstance(at(manifest(), path), dict | list)]


def test_a_label_that_is_changed_is_put_right_at_the_present_size() -> None:
    """The size that a rollout begins with would stop workers."""
    of = crew(minReplicas=0, scaling={"up": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}})
    there = manifests.deployment(of, "team", "u1", manifests.pod_template(of, "team", DEFAULTS), 7)
    there["metadata"]["labels"]["watchbill.dev/revision"] = "other"
    observed = stored(there, version="9", readyReplicas=7, replicas=7)
    plan = planned(seen(of, children=[observed], load=Load(0, 7), has_service_account=True))
    ((_, applied),) = plan.applies
    assert (applied["spec"]["replicas"], applied["metadata"]["resourceVersion"]) == (7, "9")
    assert not plan.deletes


def test_what_is_there_as_applied_is_left_alone() -> None:
    assert not is_acted_on(manifest())
    assert len(LEAVES) > 50


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: ".".join(map(str, path)))
def test_an_owned_value_that_is_changed_is_put_right(path: Path) -> None:
    observed = manifest()
    before = at(observed, path)
    at(observed, path[:-1])[path[-1]] = (
        (not before) if isinstance(before, bool) else before + 1 if isinstance(before, int) else "other"
    )
    if path == ("spec", "replicas"):  # more than needed: they go once the crew is idle for long enough
        assert not manifests.contains(observed, manifest())
    else:
        assert is_acted_on(observed)


def test_an_owned_part_that_is_removed_is_put_right() -> None:
    for path in OWNED:
        observed = manifest()
        if at(observed, path) in ({}, [], None, ""):
            continue  # the server may leave out what is empty
        if path[:2] == ("metadata", "ownerReferences") and len(path) > 3:
            continue  # each of these fields is required
        del at(observed, path[:-1])[path[-1]]
        assert is_acted_on(observed), path


WHOLE = ("nodeSelector", "secretKeyRef")


def test_what_others_add_to_a_map_that_the_api_server_takes_as_a_whole_is_put_right() -> None:
    paths = [path for path, _ in parts(manifest()) if path[-1] in WHOLE]
    assert {path[-1] for path in paths} == set(WHOLE)
    for path in paths:
        observed = manifest()
        at(observed, path)["theirs"] = "1"
        assert is_acted_on(observed), path


def test_what_others_add_anywhere_else_is_left_alone() -> None:
    for path, value in [((), manifest()), *parts(manifest())]:
        observed = copy.deepcopy(manifest())
        if path and path[-1] in WHOLE:
            continue
        if isinstance(value, dict):
            at(observed, path)["theirs"] = "1"
        elif (
            isinstance(value, list)
            and value
            and all(isinstance(v, dict) and "name" in v for v in value)
            and path[0] == "spec"
        ):
            at(observed, path).append({"name": "theirs"})
        else:
            continue
        assert not is_acted_on(observed), path
