"""The pod template of a crew, merged into the worker's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pods import IMAGE, UID, crew, env, patched, template, worker

from watchbill import cluster_names
from watchbill.plan import manifests

pytestmark = pytest.mark.pure

# ---------------------------------------------------------------- the merge


def test_maps_merge_deeply() -> None:
    merged = template(template={"spec": {"securityContext": {"fsGroup": 7}, "nodeSelector": {"disk": "ssd"}}})
    assert merged["spec"]["securityContext"]["fsGroup"] == 7
    assert merged["spec"]["securityContext"]["runAsNonRoot"] is True
    assert merged["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_the_worker_container_is_merged_by_name_and_others_stand_beside_it() -> None:
    merged = template(
        template={
            "spec": {
                "containers": [
                    {"name": "side", "image": "side:1"},
                    {"name": "worker", "resources": {"limits": {"cpu": "1"}}},
                ]
            }
        }
    )
    assert {c["name"] for c in merged["spec"]["containers"]} == {"worker", "side"}
    assert worker(merged)["resources"] == {"limits": {"cpu": "1"}}
    assert worker(merged)["image"] == IMAGE


def test_env_merges_by_name_and_a_value_stands_in_place_of_a_reference() -> None:
    merged = patched({}, {"env": [{"name": "MINE", "value": "1"}, {"name": "WATCHBILL_GRACE_SECONDS", "value": "5"}]})
    assert env(merged)["MINE"]["value"] == "1"
    assert env(merged)["WATCHBILL_GRACE_SECONDS"]["value"] == "5"
    replaced = manifests.merge(
        {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}, {"env": [{"name": "A", "value": "v"}]}
    )
    assert replaced == {"env": [{"name": "A", "value": "v"}]}


@pytest.mark.parametrize(
    "stolen", [{"value": "other/crew"}, {"valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}]
)
@pytest.mark.parametrize(
    "name",
    ["WATCHBILL_CREW", "WATCHBILL_REDIS_URL", "WATCHBILL_REVISION", "WATCHBILL_HEALTH_HOST", "WATCHBILL_HEALTH_PORT"],
)
def test_the_template_cannot_change_what_tells_a_worker_who_it_is(name: str, stolen: dict[str, Any]) -> None:
    merged = patched({}, {"env": [{"name": name, **stolen}]})
    assert env(merged)[name] == env(template())[name]
    assert len([e for e in worker(merged)["env"] if e["name"] == name]) == 1


@pytest.mark.parametrize(
    "stolen", [{"value": "subprocess"}, {"valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}]
)
def test_the_template_cannot_change_which_modules_a_worker_trusts(stolen: dict[str, Any]) -> None:
    own = {"containers": [{"name": "worker", "env": [{"name": "MINE"}, {"name": "WATCHBILL_ALLOW_MODULES", **stolen}]}]}
    assert "WATCHBILL_ALLOW_MODULES" not in env(template(template={"spec": own}))
    given = template(manifests.Defaults(IMAGE, allow_modules="acme,lib"), template={"spec": own})
    assert env(given)["WATCHBILL_ALLOW_MODULES"] == {"name": "WATCHBILL_ALLOW_MODULES", "value": "acme,lib"}
    assert "MINE" in env(given)


def test_a_variable_of_ours_stands_before_those_that_cite_it() -> None:
    """Kubernetes expands $(NAME) only of what comes before."""
    mine = {"name": "GREETING", "value": "from $(WATCHBILL_CREW)"}
    defaults = manifests.Defaults(IMAGE, allow_modules="acme")
    ours = list(env(template(defaults)))
    merged = template(defaults, template={"spec": {"containers": [{"name": "worker", "env": [mine]}]}})
    assert list(env(merged)) == [*ours, "GREETING"]


def test_workers_log_as_the_operator_does_and_a_template_may_say_otherwise() -> None:
    name = "WATCHBILL_LOG_FORMAT"
    as_json = manifests.Defaults(IMAGE, log_format="json")
    assert env(template(as_json))[name] == {"name": name, "value": "json"}
    assert name not in env(template())  # workers of before are not replaced for the default
    mine = {"containers": [{"name": "worker", "env": [{"name": name, "value": "text"}]}]}
    assert env(template(as_json, template={"spec": mine}))[name] == {"name": name, "value": "text"}


def test_workers_trace_as_the_operator_is_told_and_a_template_may_say_otherwise() -> None:
    name = "OTEL_EXPORTER_OTLP_ENDPOINT"
    traced = manifests.Defaults(IMAGE, tracing={name: "http://collector:4318", "OTEL_TRACES_SAMPLER": "always_on"})
    assert list(env(template(traced)))[-2:] == [name, "OTEL_TRACES_SAMPLER"]
    assert env(template(traced))[name]["value"] == "http://collector:4318"
    assert name not in env(template())
    mine = {"containers": [{"name": "worker", "env": [{"name": name, "value": ""}]}]}
    assert env(template(traced, template={"spec": mine}))[name]["value"] == ""


BOUNDS = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}


def test_workers_have_the_operators_resources_unless_their_template_names_some() -> None:
    bounded = manifests.Defaults(IMAGE, BOUNDS)

    def resources(own: dict[str, Any]) -> Any:
        return worker(template(bounded, template={"spec": {"containers": [{"name": "worker", **own}]}}))["resources"]

    assert worker(template(bounded))["resources"] == BOUNDS
    assert resources({"image": "mine"}) == BOUNDS
    for own in ({"limits": {"memory": "64Mi"}}, {}):
        assert resources({"resources": own}) == own  # a limit beside the default request would be refused
    assert "resources" not in worker(template())
    side = template(bounded, template={"spec": {"containers": [{"name": "side", "image": "side:1"}]}})
    assert [c.get("resources") for c in side["spec"]["containers"]] == [BOUNDS, None]


def test_the_temporary_folder_has_a_size() -> None:
    assert template()["spec"]["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]
    larger = patched({"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}}]})
    assert larger["spec"]["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "20Gi"}}]


def test_the_template_cannot_change_the_labels_by_which_we_find_pods() -> None:
    stolen = {
        cluster_names.LABEL_CREW: "other",
        cluster_names.LABEL_MANAGED_BY: "me",
        cluster_names.LABEL_REVISION: "x",
        "team": "red",
    }
    changed = template(template={"metadata": {"labels": stolen}})
    pods = manifests.deployment(crew(), "team", UID, changed, 1)["spec"]["template"]["metadata"]["labels"]
    assert pods[cluster_names.LABEL_CREW] == "blog"
    assert pods[cluster_names.LABEL_MANAGED_BY] == "watchbill"
    assert pods[cluster_names.LABEL_REVISION] == manifests.revision(changed)
    assert pods["team"] == "red"


def test_volumes_merge_by_name_and_mounts_by_path() -> None:
    merged = patched(
        {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "code", "configMap": {"name": "c"}}]},
        {"volumeMounts": [{"name": "code", "mountPath": "/code"}, {"name": "code", "mountPath": "/tmp"}]},
    )
    assert merged["spec"]["volumes"] == [
        {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        {"name": "code", "configMap": {"name": "c"}},
    ]
    assert {m["mountPath"]: m["name"] for m in worker(merged)["volumeMounts"]} == {"/tmp": "code", "/code": "code"}


def test_other_lists_are_replaced() -> None:
    merged = patched({}, {"command": ["mine"], "securityContext": {"capabilities": {"drop": ["NET_RAW"]}}})
    assert worker(merged)["command"] == ["mine"]
    assert worker(merged)["securityContext"]["capabilities"] == {"drop": ["NET_RAW"]}
    assert worker(merged)["securityContext"]["readOnlyRootFilesystem"] is True


def test_init_containers_are_added() -> None:
    merged = template(template={"spec": {"initContainers": [{"name": "get", "image": "get:1"}]}})
    assert merged["spec"]["initContainers"] == [{"name": "get", "image": "get:1"}]


def test_an_item_without_a_name_is_left_to_the_api_server() -> None:
    merged = template(template={"spec": {"containers": [{"image": "nameless"}, "text"]}})
    assert merged["spec"]["containers"][1:] == [{"image": "nameless"}, "text"]


@pytest.mark.parametrize("odd", ["text", 5, {"A": "b"}, True])
def test_variables_that_are_no_list_are_left_to_the_api_server(odd: Any) -> None:
    assert worker(patched({}, {"env": odd}))["env"] == odd
    assert "WATCHBILL_CREW" in env(patched({}, {"env": None})), "which is none of them"


@pytest.mark.parametrize(
    "odd",
    [
        {"spec": {"containers": []}},
        {"spec": {"containers": [{"name": "worker", "env": None}]}},
        {"spec": {"containers": [{"name": "worker", "env": {"A": "b"}}]}},
        {"spec": {"volumes": None}},
        {"metadata": {"annotations": None}},
    ],
    ids=json.dumps,
)
def test_an_odd_template_still_makes_a_manifest_for_the_api_server_to_judge(odd: dict[str, Any]) -> None:
    assert manifests.deployment(crew(), "team", UID, template(template=odd), 1)["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"metadata": "text"},
        {"metadata": None},
        {"metadata": {"labels": None}},
        {"metadata": {"labels": ["a"]}},
        {"spec": None},
        {"spec": {"containers": None}},
        {"spec": {"containers": "text"}},
        {"spec": {"containers": [{"name": "worker", "env": [{"value": "nameless"}]}]}},
        {"spec": {"containers": [{"name": ["worker"], "env": {}}]}},
    ],
    ids=json.dumps,
)
def test_whatever_a_template_says_there_is_a_manifest_for_the_api_server_to_judge(odd: dict[str, Any]) -> None:
    pod = template(template=odd)
    assert manifests.deployment(crew(), "team", UID, pod, 1)["spec"]["replicas"] == 1
