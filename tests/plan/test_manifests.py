"""The children of a Crew as they are applied, the template's merge, and what counts as already there."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from pods import DEFAULTS, IMAGE, UID, crew, env, patched, template, worker

from watchbill import cluster_names
from watchbill.api import Crew
from watchbill.plan import manifests

pytestmark = pytest.mark.pure

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
    assert selector == {cluster_names.LABEL_CREW: "blog", cluster_names.LABEL_REVISION: revision}
    assert selector.items() <= pods.items()
    assert pods.items() <= made["metadata"]["labels"].items()
    assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "watchbill"


def test_a_deployment_always_says_how_many() -> None:
    assert deployment(0)["spec"]["replicas"] == 0
    assert deployment(7)["spec"]["replicas"] == 7


def test_our_selectors_find_every_revisions_pods_and_deployments() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    for selector in (manifests.selector("blog"), cluster_names.WORKER_SELECTOR):
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


# ---------------------------------------------------------------- what is there already


def test_what_the_server_and_others_add_is_no_difference() -> None:
    desired = deployment(2)
    observed = copy.deepcopy(desired)
    observed["metadata"] |= {"uid": "1", "resourceVersion": "7"}
    observed["metadata"]["annotations"]["theirs"] = "1"
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
        lambda d: d["metadata"]["labels"].pop(cluster_names.LABEL_CREW),
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
