"""The newest of each object, in whatever order it was seen."""

from __future__ import annotations

import json
from typing import Any

import pytest

from watchbill.controller.cache import Cache, entries
from watchbill.plan.children import Child

pytestmark = pytest.mark.pure

ECHO = ("team", "echo")


def crew(version: int, name: str = "echo", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name, "resourceVersion": str(version), "uid": "u", **metadata}}


def heartbeat(version: int, of: str, name: str = "beat") -> dict[str, Any]:
    return {**crew(version, name), "spec": {"crewRef": {"name": of}}}


def deployment(version: int, of: str = "echo", replicas: int = 1, **more: Any) -> dict[str, Any]:
    labels = {"watchbill.dev/crew": of, "app.kubernetes.io/component": "worker"}
    return {**crew(version, "echo-1", labels=labels, **more), "spec": {"replicas": replicas}}


def version_of(cache: Cache) -> str | None:
    seen = cache.crews.get(ECHO)
    return seen["metadata"]["resourceVersion"] if seen else None


def test_an_older_event_does_not_replace_a_newer_one() -> None:
    cache = Cache()
    assert cache.take("crews", "ADDED", crew(9)) == {ECHO}
    assert cache.take("crews", "MODIFIED", crew(8)) == set()
    assert version_of(cache) == "9"
    assert cache.take("crews", "MODIFIED", crew(10)) == {ECHO}, "10 is newer than 9, though not as text"
    assert version_of(cache) == "10"


def test_the_event_that_tells_of_what_is_known_already_concerns_nobody() -> None:
    """The answer to a write of our own comes by itself, and once more by the watch."""
    cache = Cache()
    assert cache.take("crews", "MODIFIED", crew(9)) == {ECHO}
    assert cache.take("crews", "MODIFIED", crew(9)) == set()
    assert version_of(cache) == "9"
    cache.take("deployments", "ADDED", deployment(1))
    assert cache.take("deployments", "MODIFIED", {**deployment(1), "spec": None}) == set(), (
        "nothing is made of it again"
    )


def test_a_deployment_that_no_plan_can_tell_from_before_concerns_nobody_and_is_fenced_by_its_new_version() -> None:
    cache = Cache()
    cache.take("deployments", "ADDED", deployment(1))
    later = deployment(2, annotations={"deployment.kubernetes.io/revision": "1"})
    assert cache.take("deployments", "MODIFIED", later) == set()
    assert cache.deployments.of(ECHO)[0].resource_version == "2"
    ready = {**deployment(3), "status": {"readyReplicas": 1}}
    assert cache.take("deployments", "MODIFIED", ready) == {ECHO}
    assert cache.deployments.of(ECHO)[0].ready == 1


def test_a_listing_does_not_bring_back_what_an_event_has_replaced_since() -> None:
    cache = Cache()
    cache.expect_listing()
    cache.take("crews", "MODIFIED", crew(7))
    cache.take("deployments", "MODIFIED", deployment(7, replicas=3))
    cache.replace("crews", None, 5, entries("crews", [crew(4)]))
    cache.replace("deployments", None, 5, entries("deployments", [deployment(4, replicas=1)]))
    assert version_of(cache) == "7"
    assert cache.deployments.of(ECHO)[0].replicas == 3


def test_a_listing_does_not_bring_back_what_was_deleted_meanwhile() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", crew(4))
    cache.expect_listing()
    cache.take("crews", "DELETED", crew(6))
    cache.replace("crews", None, 5, entries("crews", [crew(4)]))
    cache.listed()
    assert ECHO not in cache.crews
    # made anew, it is taken
    cache.take("crews", "ADDED", crew(8))
    assert version_of(cache) == "8"


def test_what_came_into_being_during_a_listing_is_not_gone_because_it_is_not_in_it() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", crew(9, "new"))
    cache.take("crews", "ADDED", crew(3, "old"))
    concerned = cache.replace("crews", None, 5, entries("crews", []))
    assert concerned == {("team", "old")}
    assert ("team", "new") in cache.crews


def test_a_listing_of_one_namespace_says_nothing_of_others() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", crew(3))
    assert cache.replace("crews", "elsewhere", 5, entries("crews", [])) == set()
    assert ECHO in cache.crews
    assert cache.replace("crews", "team", 5, entries("crews", [])) == {ECHO}


def test_a_late_deletion_of_a_former_object_does_not_remove_the_new_one() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", crew(9))
    cache.take("crews", "DELETED", crew(6))
    assert ECHO in cache.crews


def test_a_deleted_crew_is_reconciled_even_if_it_was_not_known() -> None:
    assert Cache().take("crews", "DELETED", crew(6)) == {ECHO}


def test_a_heartbeat_that_changes_its_crew_concerns_both() -> None:
    cache = Cache()
    cache.take("heartbeats", "ADDED", heartbeat(1, "echo"))
    assert cache.take("heartbeats", "MODIFIED", heartbeat(2, "other")) == {ECHO, ("team", "other")}
    assert cache.heartbeats.of(ECHO) == []
    assert len(cache.heartbeats.of(("team", "other"))) == 1


def test_a_deployment_that_loses_its_label_concerns_the_crew_that_had_it() -> None:
    cache = Cache()
    cache.take("deployments", "ADDED", deployment(1))
    bare = deployment(2)
    bare["metadata"]["labels"] = {}
    assert cache.take("deployments", "MODIFIED", bare) == {ECHO}
    assert cache.deployments.of(ECHO) == []


def owner(of: str, **other: Any) -> dict[str, Any]:
    crew = {"apiVersion": "watchbill.dev/v1alpha1", "kind": "Crew", "name": of, "uid": "u", "controller": True}
    return crew | other


def test_a_deployment_is_of_the_crew_that_controls_it_whatever_its_label_says() -> None:
    cache = Cache()
    cache.take("deployments", "ADDED", deployment(1, ownerReferences=[owner("echo")]))
    relabelled = deployment(2, of="other", ownerReferences=[owner("else", controller=False), owner("echo")])
    assert cache.take("deployments", "MODIFIED", relabelled) == {ECHO}
    assert [child.resource_version for child in cache.deployments.of(ECHO)] == ["2"]
    assert cache.deployments.of(("team", "other")) == []
    del relabelled["metadata"]["labels"]["watchbill.dev/crew"]
    assert [entry[1] for entry in entries("deployments", [relabelled])] == [ECHO]


@pytest.mark.parametrize(
    "other", [{"controller": False}, {"kind": "Heartbeat"}, {"apiVersion": "elsewhere/v1alpha1"}, {"name": ""}], ids=str
)
def test_a_deployment_that_no_crew_controls_is_of_the_crew_of_its_label(other: dict[str, Any]) -> None:
    found = deployment(1, of="other", ownerReferences=[owner("echo", **other)])
    assert [entry[1] for entry in entries("deployments", [found])] == [("team", "other")]


def test_a_crew_takes_over_its_deployment_that_is_known_as_anothers_unless_a_newer_one_is() -> None:
    cache = Cache()
    found = deployment(2, of="other", ownerReferences=[owner("echo", kind="Other")])
    cache.take("deployments", "ADDED", found)
    assert not cache.adopt(ECHO, found, uid="v")
    assert cache.adopt(ECHO, found, uid="u")
    assert [child.name for child in cache.deployments.of(ECHO)] == ["echo-1"]
    assert cache.deployments.of(("team", "other")) == []
    assert cache.adopt(ECHO, found, uid="u"), "it is the crew's already"
    cache.take("deployments", "MODIFIED", {**found, "metadata": found["metadata"] | {"resourceVersion": "3"}})
    assert not cache.adopt(ECHO, found, uid="u")


def test_nothing_stays_of_what_is_gone() -> None:
    cache = Cache()
    cache.expect_listing()
    cache.listed()
    for i in range(100):
        cache.take("crews", "ADDED", crew(2 * i, f"c{i}"))
        cache.take("heartbeats", "ADDED", heartbeat(2 * i, f"c{i}", f"h{i}"))
        cache.take("crews", "DELETED", crew(2 * i + 1, f"c{i}"))
        cache.take("heartbeats", "DELETED", heartbeat(2 * i + 1, f"c{i}", f"h{i}"))
    for index in (cache.crews, cache.heartbeats):
        assert not index._known
        assert not index._of
        assert not index._gone


def test_what_is_large_and_of_no_use_is_not_kept() -> None:
    cache = Cache()
    copy = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 1000, "mine": "y"}
    cache.take("crews", "ADDED", crew(1, managedFields=[{"manager": "kubectl"}], annotations=copy))
    seen = cache.crews.get(ECHO)
    assert seen is not None
    assert "managedFields" not in seen["metadata"]
    assert seen["metadata"]["annotations"] == {"mine": "y"}


def test_a_deletion_counts_as_newer_than_the_object_of_its_version() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", crew(6))
    cache.expect_listing()
    cache.take("crews", "DELETED", crew(6))
    assert ECHO not in cache.crews
    assert cache.replace("crews", None, 6, entries("crews", [crew(6)])) == set()
    assert ECHO not in cache.crews
    assert cache.replace("crews", None, 7, entries("crews", [crew(7)])) == {ECHO}, "it was made anew"


def test_an_object_of_the_version_of_a_listing_that_lacks_it_is_gone() -> None:
    cache = Cache()
    cache.take("crews", "ADDED", crew(5))
    cache.take("crews", "ADDED", crew(6, "new"))
    assert cache.replace("crews", None, 5, entries("crews", [])) == {ECHO}
    assert ("team", "new") in cache.crews


def test_a_deletion_before_a_listing_says_nothing_of_it() -> None:
    cache = Cache()
    cache.expect_listing()
    cache.take("crews", "DELETED", crew(9))
    cache.listed()
    cache.take("crews", "DELETED", crew(9))
    cache.expect_listing()
    assert cache.replace("crews", None, 10, entries("crews", [crew(8)])) == {ECHO}


def test_each_kind_minds_its_own_deletions() -> None:
    cache = Cache()
    cache.expect_listing()
    cache.take("heartbeats", "DELETED", heartbeat(6, "echo", "echo"))
    assert cache.replace("crews", None, 7, entries("crews", [crew(4)])) == {ECHO}
    assert cache.replace("heartbeats", None, 7, entries("heartbeats", [heartbeat(4, "echo", "echo")])) == set()


def test_a_listing_concerns_the_crews_whose_objects_it_brings() -> None:
    cache = Cache()
    cache.take("heartbeats", "ADDED", heartbeat(1, "former"))
    listed = entries("heartbeats", [heartbeat(2, "echo"), heartbeat(3, "other", "another")])
    assert cache.replace("heartbeats", "team", 3, listed) == {ECHO, ("team", "former"), ("team", "other")}


def test_the_objects_of_a_crew_come_by_name_and_go_one_by_one() -> None:
    cache = Cache()
    for version, name in enumerate(["c", "a", "b"], start=1):
        cache.take("heartbeats", "ADDED", heartbeat(version, "echo", name))
    assert [beat["metadata"]["name"] for beat in cache.heartbeats.of(ECHO)] == ["a", "b", "c"]
    assert cache.heartbeats.crews() == [ECHO]
    assert [key for key, _ in cache.heartbeats.items()] == [("team", "c"), ("team", "a"), ("team", "b")]
    assert cache.take("heartbeats", "DELETED", heartbeat(9, "echo", "a")) == {ECHO}
    assert [beat["metadata"]["name"] for beat in cache.heartbeats.of(ECHO)] == ["b", "c"]


def test_a_deletion_of_what_is_not_known_concerns_nobody_unless_it_is_a_crew() -> None:
    cache = Cache()
    assert cache.take("heartbeats", "DELETED", heartbeat(6, "echo")) == set()
    assert cache.take("deployments", "DELETED", deployment(6)) == set()


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {},
        {"watchbill.dev/crew": "echo"},
        {"watchbill.dev/crew": "echo", "app.kubernetes.io/component": "operator"},
        {"watchbill.dev/crew": "", "app.kubernetes.io/component": "worker"},
    ],
)
def test_a_deployment_that_is_no_workers_is_none_of_ours(labels: dict[str, str] | None) -> None:
    cache, other = Cache(), deployment(2)
    other["metadata"]["labels"] = labels
    assert cache.take("deployments", "ADDED", other) == set()
    assert cache.replace("deployments", None, 3, entries("deployments", [other])) == set()
    assert cache.deployments.items() == []


def test_what_a_listing_brings_is_known_and_the_rest_is_not() -> None:
    cache = Cache()
    for name in ("a", "b", "gone"):
        cache.take("crews", "ADDED", crew(2, name))
    listed = entries("crews", [crew(2, "a"), crew(3, "b"), crew(4, "new")])
    assert cache.replace("crews", None, 4, listed) >= {("team", "gone")}
    assert sorted(name for (_, name), _ in cache.crews.items()) == ["a", "b", "new"]


def test_of_a_deployment_less_is_kept_than_the_api_server_sends() -> None:
    (entry,) = entries("deployments", [deployment(2, managedFields=[{"manager": "kubectl"}])])
    assert entry[:3] == (("team", "echo-1"), ECHO, 2)
    assert isinstance(entry[3], Child)
    assert "managedFields" not in entry[3].content


def test_texts_that_crews_have_in_common_are_kept_once() -> None:
    """Each event is parsed by itself, and brings texts of its own."""
    cache = Cache()
    for name in ("one", "two"):
        obj = {**crew(1, name), "spec": {"agents": [{"class": "EchoAgent"}]}}
        cache.take("crews", "ADDED", json.loads(json.dumps(obj)))
    one, two = (cache.crews.get(("team", name)) for name in ("one", "two"))
    assert one is not None
    assert two is not None

    def texts(crew: Any) -> list[str]:
        (agent,) = crew["spec"]["agents"]
        return [*crew, *crew["metadata"], *crew["spec"], *agent, *agent.values(), crew["metadata"]["namespace"]]

    assert texts(one) == texts(two)
    assert all(a is b for a, b in zip(texts(one), texts(two), strict=True))
