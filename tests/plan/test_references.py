"""Which Secrets and ConfigMaps a pod template refers to, and which workers are replaced when one changes."""

from __future__ import annotations

from typing import Any

import pytest
from crew_plans import DEFAULTS, applied, conditions, crew, planned, seen, settled, stored

from watchbill.api import Crew
from watchbill.plan import children, events, manifests, references
from watchbill.plan import crew as plan
from watchbill.plan.drain import Fleet, Worker
from watchbill.plan.replicas import Load

pytestmark = pytest.mark.pure

REDIS = "Secret/watchbill-redis"
KEYS = "Secret/keys"
WITH_KEYS: dict[str, Any] = {"envFrom": [{"secretRef": {"name": "keys"}}]}
THEN = {REDIS: "1", KEYS: "1"}


def of(pod: dict[str, Any], **workers: Any) -> dict[str, bool]:
    template = manifests.pod_template(crew(template={"spec": pod}, **workers), "team", DEFAULTS)
    return {key: optional for key, optional in references.of_template(template).items() if key != REDIS}


def test_the_store_is_referred_to_and_may_not_be_missing() -> None:
    template = manifests.pod_template(crew(redisSecretRef={"name": "store"}), "team", DEFAULTS)
    assert references.of_template(template) == {"Secret/store": False}


def test_environment_and_volumes_of_all_containers_count_and_what_is_optional_may_be_missing() -> None:
    env = [
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "k"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "b", "key": "k", "optional": True}}},
        {"name": "C", "value": "c"},
    ]
    pod = {
        "containers": [
            {"name": "worker", "env": env},
            {"name": "beside", "envFrom": [{"configMapRef": {"name": "c", "optional": True}}]},
        ],
        "initContainers": [{"name": "first", "envFrom": [{"secretRef": {"name": "b"}}, {"secretRef": {"name": "d"}}]}],
        "volumes": [
            {"name": "e", "secret": {"secretName": "e", "optional": True}},
            {"name": "f", "configMap": {"name": "f"}},
            {
                "name": "g",
                "projected": {
                    "sources": [
                        {"secret": {"name": "g"}},
                        {"configMap": {"name": "h", "optional": True}},
                        {"downwardAPI": {}},
                    ]
                },
            },
            {"name": "i", "emptyDir": {}},
        ],
        "imagePullSecrets": [{"name": "registry"}],
    }
    assert of(pod, envFrom=[{"secretRef": {"name": "j"}}]) == {
        "ConfigMap/b": True,
        "ConfigMap/c": True,
        "ConfigMap/f": False,
        "ConfigMap/h": True,
        "Secret/a": False,
        "Secret/b": False,
        "Secret/d": False,
        "Secret/e": True,
        "Secret/g": False,
        "Secret/j": False,
    }


def test_what_one_place_needs_is_needed_wherever_else_it_is_optional() -> None:
    sources = [{"secretRef": {"name": "a", "optional": True}}, {"secretRef": {"name": "a"}}]
    for order in (sources, sources[::-1]):
        assert of({"containers": [{"name": "worker", "envFrom": order}]}) == {"Secret/a": False}


def test_secrets_of_destinations_are_read_for_each_delivery_and_replace_nobody() -> None:
    hook = {"name": "team", "teams": {"urlFrom": {"secretKeyRef": {"name": "hooks", "key": "url"}}}}
    agents = [{"name": "a", "class": "EchoAgent"}]
    made = Crew.model_validate({"metadata": {"name": "blog"}, "spec": {"agents": agents, "delivery": [hook]}})
    template = manifests.pod_template(made, "team", DEFAULTS)
    assert "hooks" in str(template)
    assert list(references.of_template(template)) == [REDIS]
    mount = {"name": "delivery", "mountPath": "/elsewhere"}  # read there by whoever mounts it
    template["spec"]["containers"][0]["volumeMounts"].append(mount)
    assert references.of_template(template) == {REDIS: False, "Secret/hooks": True}


@pytest.mark.parametrize("name", ["", "..", "a/b", "../../pods", "A", "a b", 5, None, "-a", "a" * 254])
def test_what_is_no_name_is_left_for_the_api_server_to_refuse(name: Any) -> None:
    assert of({"volumes": [{"name": "a", "secret": {"secretName": name}}]}) == {}


@pytest.mark.parametrize(
    "pod", [{"volumes": "x"}, {"containers": [5, {"name": "x", "env": {"a": 1}, "envFrom": [None]}]}]
)
def test_a_template_that_makes_no_sense_refers_to_nothing(pod: dict[str, Any]) -> None:
    assert of(pod) == {}


def test_only_so_many_references_of_one_crew_are_looked_at() -> None:
    volumes = [{"name": f"v{n}", "secret": {"secretName": f"s{n}"}} for n in range(references.MOST)]
    assert len(of({"volumes": volumes})) in (references.MOST - 1, references.MOST)


def test_a_state_is_that_of_one_version_of_one_object() -> None:
    states = {
        references.state({"uid": uid, "resourceVersion": version}) for uid in ("u1", "u2") for version in ("1", "2")
    }
    assert len(states) == 4
    assert references.MISSING not in states


# ---------------------------------------------------------------- changes


def made_with(config: dict[str, str], replicas: int = 1, **workers: Any) -> children.Child:
    there = crew(minReplicas=1, **WITH_KEYS, **workers)
    template = manifests.pod_template(there, "team", DEFAULTS)
    made = manifests.Revision(manifests.revision(template), config)
    manifest = manifests.deployment(there, "team", "u1", template, replicas, made)
    return stored(manifest, readyReplicas=replicas, replicas=replicas)


def observed(config: dict[str, str] | None, *there: children.Child, **workers: Any) -> plan.Observed:
    spec = crew(minReplicas=workers.pop("minReplicas", 1), **WITH_KEYS, **workers)
    busy = [Worker(f"w-{c.revision}", c.revision, holds=1, age_seconds=60) for c in there if c.replicas]
    fleet = Fleet(busy)
    return settled(spec, 1, children=list(there), config=config, load=Load(0, len(busy)), fleet=fleet)


def test_a_new_crews_deployment_says_what_it_is_made_with() -> None:
    made = planned(seen(crew(**WITH_KEYS), config=THEN))
    there = stored(applied(made))
    assert references.read(there.config) == THEN
    assert there.revision == manifests.revision(manifests.pod_template(crew(**WITH_KEYS), "team", DEFAULTS))
    assert planned(observed(THEN, there, minReplicas=0)).applies == ()


@pytest.mark.parametrize("now", [{**THEN, KEYS: "2"}, {**THEN, REDIS: "2"}])
def test_a_changed_secret_starts_other_workers_and_stops_no_busy_one(now: dict[str, str]) -> None:
    there = made_with(THEN)
    made = planned(observed(now, there))
    new = applied(made)
    assert new["metadata"]["name"] == f"blog-{made.revision}" != there.name
    assert new["spec"]["selector"]["matchLabels"]["watchbill.dev/revision"] == made.revision
    assert new["spec"]["template"]["metadata"]["labels"]["watchbill.dev/revision"] == made.revision
    assert (made.sizes, made.deletes, made.drain) == ((), (), ()), "not before a new worker claims"
    (key,) = (key for key in now if now[key] != THEN[key])
    assert made.replaced == (key,)
    (told,) = [t for t in events.of_plan(observed(now, there), made) if t.reason == "RolloutStarted"]
    assert key.partition("/")[2] in told.note

    # Once it is there, it is the one that stays, and the change after that is another.
    after = stored(new, readyReplicas=1, replicas=1)
    again = planned(observed(now, there, after))
    assert (again.revision, again.applies, again.drain) == (after.revision, (), (f"w-{there.revision}",))
    third = planned(observed({REDIS: "3", KEYS: "3"}, there, after))
    assert third.revision not in (there.revision, after.revision)


def test_nothing_is_written_while_nothing_changes_or_nothing_can_be_read() -> None:
    there = made_with(THEN)
    for now in (THEN, {}, {REDIS: "1"}, None):
        made = planned(observed(now, there))
        assert (made.applies, made.revision) == ((), there.revision), now


def test_workers_that_may_not_be_replaced_stay_and_the_status_says_how_to_replace_them() -> None:
    there = made_with(THEN, rolloutOnChange=False)
    made = planned(observed({**THEN, KEYS: "2"}, there, rolloutOnChange=False))
    assert (made.applies, made.revision) == ((), there.revision)
    assert conditions(made.status) == {"Ready": ("True", "ConfigOutdated")}
    assert made.status is not None
    message = made.status["conditions"][0]["message"]
    assert "Secret 'keys'" in message
    assert "workers.template.metadata" in message
    # What is changed in the template is new workers, and nothing is outdated any more.
    restarted = {"rolloutOnChange": False, "template": {"metadata": {"annotations": {"restarted": "today"}}}}
    new = planned(observed({**THEN, KEYS: "2"}, there, **restarted))
    assert references.read(stored(applied(new)).config) == {**THEN, KEYS: "2"}
    assert conditions(new.status)["Ready"] != ("True", "ConfigOutdated")


@pytest.mark.parametrize("rollout", [True, False])
def test_without_pods_a_change_is_noted_and_that_is_all(rollout: bool) -> None:
    there = made_with(THEN, replicas=0, rolloutOnChange=rollout)
    now = {**THEN, KEYS: "2"}
    made = planned(observed(now, there, minReplicas=0, rolloutOnChange=rollout))
    assert applied(made)["metadata"]["name"] == there.name
    assert references.read(stored(applied(made)).config) == now
    assert made.deletes == ()
    # With work that has just come, the first worker is made with what is there now, in one write.
    busy = planned(observed(now, there, minReplicas=3, rolloutOnChange=rollout))
    assert applied(busy)["metadata"]["name"] == there.name
    assert (applied(busy)["spec"]["replicas"], references.read(stored(applied(busy)).config)) == (3, now)


def test_a_secret_that_goes_replaces_nobody_and_one_that_comes_back_does() -> None:
    there = made_with(THEN)
    gone = planned(observed({**THEN, KEYS: references.MISSING}, there))
    assert (gone.applies, gone.revision) == ((), there.revision)
    assert conditions(gone.status)["Stalled"] == ("True", "ReferenceMissing")
    assert gone.again_seconds is not None
    assert planned(observed({**THEN, KEYS: "2"}, there)).revision != there.revision


def test_no_worker_is_started_for_a_new_crew_that_lacks_something() -> None:
    spec = crew(minReplicas=1, **WITH_KEYS)
    lacking = {REDIS: "1", KEYS: references.MISSING}
    made = planned(seen(spec, config=lacking))
    assert applied(made)["spec"]["replicas"] == 0
    assert conditions(made.status)["Stalled"] == ("True", "ReferenceMissing")
    assert "Secret 'keys'" in str(made.status)
    there = stored(applied(made))
    assert planned(seen(spec, config=lacking, children=[there], has_service_account=True)).applies == ()
    whole = planned(seen(spec, config=THEN, children=[there], has_service_account=True))
    assert applied(whole)["metadata"]["name"] == there.name, "no worker was made without it"
    assert applied(whole)["spec"]["replicas"] == 1


def test_what_is_optional_may_be_missing_and_counts_once_it_is_there() -> None:
    source = {
        "spec": {"containers": [{"name": "worker", "envFrom": [{"configMapRef": {"name": "c", "optional": True}}]}]}
    }
    spec = crew(minReplicas=1, template=source)
    without = {REDIS: "1", "ConfigMap/c": references.MISSING}
    made = planned(seen(spec, config=without))
    assert applied(made)["spec"]["replicas"] == 1
    assert "Stalled" not in conditions(made.status)
    there = stored(applied(made), readyReplicas=1, replicas=1)
    assert planned(settled(spec, 1, children=[there], config=without)).applies == ()
    assert (
        planned(settled(spec, 1, children=[there], config={REDIS: "1", "ConfigMap/c": "1"})).revision != there.revision
    )


def test_what_the_operator_may_not_read_replaces_nobody_and_the_status_says_so() -> None:
    there = made_with({REDIS: "1"})
    made = planned(observed({REDIS: "1"}, there))
    assert (made.applies, made.revision) == ((), there.revision)
    assert made.status is not None
    assert "Secret 'keys'" in made.status["conditions"][0]["message"]
    assert conditions(made.status) == {"Ready": ("True", "Available")}
    # Once it may, what is there is what the workers are taken to have.
    noted = applied(planned(observed(THEN, there)))
    assert noted["metadata"]["name"] == there.name
    assert references.read(stored(noted).config) == THEN
