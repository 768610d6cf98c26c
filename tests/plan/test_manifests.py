"""The children of a Crew as they are applied, the template's merge, and what counts as already there."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from watchbill import names
from watchbill.api import Crew
from watchbill.plan import manifests

pytestmark = pytest.mark.pure

IMAGE = "watchbill:1"
DEFAULTS = manifests.Defaults(IMAGE)
UID = "0b6f2f5e-0000-0000-0000-000000000001"


def crew(**workers: Any) -> Crew:
    return Crew.model_validate(
        {
            "metadata": {"name": "blog"},
            "spec": {"agents": [{"name": "a", "class": "EchoAgent"}], "workers": workers},
        }
    )


def template(defaults: manifests.Defaults = DEFAULTS, **workers: Any) -> dict[str, Any]:
    return manifests.pod_template(crew(**workers), "team", defaults)


def worker(of: dict[str, Any]) -> dict[str, Any]:
    return next(c for c in of["spec"]["containers"] if c["name"] == "worker")


def env(of: dict[str, Any]) -> dict[str, Any]:
    return {e["name"]: e for e in worker(of)["env"]}


def patched(pod: dict[str, Any], container: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = {**pod, **({"containers": [{"name": "worker", **container}]} if container else {})}
    return template(template={"spec": spec})


# ---------------------------------------------------------------- the worker's pod


def test_the_worker_knows_its_crew_and_finds_the_store_in_the_named_secret() -> None:
    variables = env(template(redisSecretRef={"name": "other"}))
    assert variables["WATCHBILL_CREW"]["value"] == "team/blog"
    assert variables["WATCHBILL_REDIS_URL"]["valueFrom"]["secretKeyRef"] == {"name": "other", "key": "url"}


def test_the_image_is_the_crews_own_or_the_operators() -> None:
    assert worker(template())["image"] == IMAGE
    assert worker(template(image="mine:2"))["image"] == "mine:2"


def test_the_pod_passes_the_restricted_standard_and_has_no_token() -> None:
    pod = template()["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == "blog-worker"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"].get("runAsUser") != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    own = worker(template())["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}


def test_the_worker_hands_back_before_the_pods_grace_is_over() -> None:
    pod = template()
    grace = int(env(pod)["WATCHBILL_GRACE_SECONDS"]["value"])
    assert 0 < grace < pod["spec"]["terminationGracePeriodSeconds"]


def test_the_probes_ask_the_port_that_the_worker_is_told() -> None:
    pod = template()
    container = worker(pod)
    ports = {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")}
    assert ports == {int(env(pod)["WATCHBILL_HEALTH_PORT"]["value"])} == {container["ports"][0]["containerPort"]}
    assert env(pod)["WATCHBILL_HEALTH_HOST"]["value"] == "0.0.0.0"


def test_env_from_is_passed_on_as_kubernetes_spells_it() -> None:
    sources = [{"prefix": "A_", "secretRef": {"name": "keys"}}, {"configMapRef": {"name": "conf"}}]
    assert worker(template(envFrom=sources))["envFrom"] == sources


def test_the_service_account_is_owned_and_mounts_no_token() -> None:
    account = manifests.service_account(crew(), "team", UID)
    assert (account["apiVersion"], account["kind"]) == ("v1", "ServiceAccount")
    assert account["metadata"]["name"] == template()["spec"]["serviceAccountName"]
    assert account["metadata"]["namespace"] == "team"
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["ownerReferences"] == manifests.owner(crew(), UID)


def test_a_child_names_its_owner_exactly() -> None:
    (owner,) = manifests.owner(crew(), UID)
    assert owner == {
        "apiVersion": "watchbill.dev/v1alpha1",
        "kind": "Crew",
        "name": "blog",
        "uid": UID,
        "controller": True,
        "blockOwnerDeletion": True,
    }


# ---------------------------------------------------------------- the Deployment of a revision


def deployment(replicas: int = 0, **workers: Any) -> dict[str, Any]:
    return manifests.deployment(crew(**workers), "team", UID, template(**workers), replicas)


def test_a_deployment_is_named_labelled_and_selects_by_its_revision() -> None:
    made = deployment()
    revision = manifests.revision(template())
    assert re.fullmatch("[0-9a-f]{8}", revision)
    assert made["metadata"]["name"] == f"blog-{revision}"
    assert made["metadata"]["namespace"] == "team"
    assert made["metadata"]["ownerReferences"] == manifests.owner(crew(), UID)
    pods, selector = made["spec"]["template"]["metadata"]["labels"], made["spec"]["selector"]["matchLabels"]
    assert selector == {names.LABEL_CREW: "blog", names.LABEL_REVISION: revision}
    assert selector.items() <= pods.items()
    assert pods.items() <= made["metadata"]["labels"].items()
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "watchbill"


def test_a_deployment_always_says_how_many() -> None:
    assert deployment(0)["spec"]["replicas"] == 0
    assert deployment(7)["spec"]["replicas"] == 7


def test_our_selectors_find_every_revisions_pods_and_deployments() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    for selector in (manifests.selector("blog"), names.WORKER_SELECTOR):
        assert all(labels[key] == value for key, value in (part.split("=") for part in selector.split(",")))


def test_the_longest_crew_name_makes_a_valid_deployment_name() -> None:
    long = crew().model_copy(update={"metadata": crew().metadata.model_copy(update={"name": "x" * 52})})
    name = manifests.deployment(long, "team", UID, manifests.pod_template(long, "team", DEFAULTS), 1)["metadata"][
        "name"
    ]
    assert len(name) <= 63


@pytest.mark.parametrize(
    "scale", [{"minReplicas": 3}, {"maxReplicas": 3}, {"idleSeconds": 3}, {"concurrency": 3}, {"replicas": 9}]
)
def test_the_revision_stays_when_only_the_scale_changes(scale: dict[str, Any]) -> None:
    assert manifests.revision(template(**scale)) == manifests.revision(template())


def test_the_revision_stays_when_only_the_agents_change() -> None:
    other = Crew.model_validate(
        {"metadata": {"name": "blog"}, "spec": {"agents": [{"name": "b", "class": "EchoAgent"}]}}
    )
    assert manifests.revision(manifests.pod_template(other, "team", DEFAULTS)) == manifests.revision(template())


@pytest.mark.parametrize(
    "change",
    [
        {"image": "mine:2"},
        {"redisSecretRef": {"name": "other"}},
        {"envFrom": [{"secretRef": {"name": "keys"}}]},
        {"template": {"metadata": {"annotations": {"a": "b"}}}},
        {"template": {"spec": {"nodeSelector": {"a": "b"}}}},
    ],
)
def test_the_revision_changes_with_the_template(change: dict[str, Any]) -> None:
    assert manifests.revision(template(**change)) != manifests.revision(template())


def test_the_revision_does_not_depend_on_the_order_of_keys() -> None:
    one = {"spec": {"nodeSelector": {"a": "1", "b": "2"}}}
    other = {"spec": {"nodeSelector": {"b": "2", "a": "1"}}}
    assert manifests.revision(template(template=one)) == manifests.revision(template(template=other))


def test_the_builders_keep_nothing_of_what_they_were_given() -> None:
    spec = {"spec": {"containers": [{"name": "worker", "env": [{"name": "A", "value": "1"}]}], "tolerations": [{}]}}
    before = copy.deepcopy(spec)
    pod = template(template=spec)
    kept = copy.deepcopy(pod)
    made = manifests.deployment(crew(), "team", UID, pod, 1)
    made["spec"]["template"]["spec"]["containers"][0]["env"].clear()
    made["spec"]["template"]["spec"]["tolerations"].clear()
    assert pod == kept
    assert spec == before


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
    "name", ["WATCHBILL_CREW", "WATCHBILL_REDIS_URL", "WATCHBILL_HEALTH_HOST", "WATCHBILL_HEALTH_PORT"]
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
    stolen = {names.LABEL_CREW: "other", names.LABEL_MANAGED_BY: "me", names.LABEL_REVISION: "x", "team": "red"}
    changed = template(template={"metadata": {"labels": stolen}})
    pods = manifests.deployment(crew(), "team", UID, changed, 1)["spec"]["template"]["metadata"]["labels"]
    assert pods[names.LABEL_CREW] == "blog"
    assert pods[names.LABEL_MANAGED_BY] == "watchbill"
    assert pods[names.LABEL_REVISION] == manifests.revision(changed)
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


# ---------------------------------------------------------------- what is there already


def test_what_the_server_and_others_add_is_no_difference() -> None:
    desired = deployment(2)
    observed = copy.deepcopy(desired)
    observed["metadata"] |= {"uid": "1", "resourceVersion": "7", "annotations": {"theirs": "1"}}
    observed["metadata"]["labels"]["theirs"] = "1"
    observed["spec"]["paused"] = False
    pod = observed["spec"]["template"]["spec"]
    pod["dnsPolicy"] = "ClusterFirst"
    pod["containers"].insert(0, {"name": "injected"})
    worker(observed["spec"]["template"])["imagePullPolicy"] = "IfNotPresent"
    worker(observed["spec"]["template"])["env"].insert(0, {"name": "THEIRS"})
    assert manifests.contains(observed, desired)


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["spec"].update(replicas=9),
        lambda d: d["spec"].pop("replicas"),
        lambda d: d["metadata"]["labels"].pop(names.LABEL_CREW),
        lambda d: d["metadata"].update(ownerReferences=[]),
        lambda d: d["metadata"]["ownerReferences"][0].update(uid="other"),
        lambda d: worker(d["spec"]["template"]).update(image="hacked"),
        lambda d: worker(d["spec"]["template"])["ports"][0].update(containerPort=1),
        lambda d: worker(d["spec"]["template"])["env"].pop(),
        lambda d: worker(d["spec"]["template"])["env"][1].update(value="other/crew"),
        lambda d: d["spec"]["template"]["spec"].update(containers=[]),
        lambda d: d["spec"]["template"]["spec"].update(automountServiceAccountToken=True),
    ],
)
def test_every_edit_of_what_is_ours_is_a_difference(edit: Callable[[dict[str, Any]], object]) -> None:
    observed = deployment(2)
    assert manifests.contains(observed, deployment(2))
    edit(observed)
    assert not manifests.contains(observed, deployment(2))


def test_nothing_desired_is_contained_in_nothing() -> None:
    assert manifests.contains({"a": []}, {"a": []})
    assert not manifests.contains({}, {"a": 1})
    assert not manifests.contains({"a": [1]}, {"a": []})


@pytest.mark.parametrize(
    ("written", "stored"),
    [("2", "2"), ("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), (1, "1"), (0.5, "500m"), ("1e3", "1k")],
)
def test_a_quantity_is_the_same_however_it_is_written(written: str | float, stored: str) -> None:
    """The API server stores the canonical form; a difference here would be an apply at every look."""
    desired = patched({}, {"resources": {"limits": {"cpu": written, "memory": written}}})
    observed = patched({}, {"resources": {"limits": {"cpu": stored, "memory": stored}}})
    assert manifests.contains(observed, desired)
    other = patched({}, {"resources": {"limits": {"cpu": "7", "memory": stored}}})
    assert not manifests.contains(other, desired)
