"""Crews that can not be: each says why, disturbs no other, and heals."""

from __future__ import annotations

from collections.abc import Callable

from e2e.cluster import machine
from e2e.cluster.control_plane import Write
from e2e.control_plane import operator_team
from e2e.control_plane.operator_process import hold
from e2e.control_plane.operator_team import OPERATOR, RARELY, SOON, Team, crew, heartbeat

team = operator_team.team
store = operator_team.store
installed = operator_team.installed


def test_broken_crews_say_what_is_wrong_and_disturb_no_other(team: Team) -> None:
    cycle = {
        "executionMode": "flow",
        "flowRelations": [{"source": ["b"], "target": ["c"]}, {"source": ["c"], "target": ["b"]}],
    }
    team.operator()
    team.apply(
        crew("cycle", agents=("a", "b", "c"), spec=cycle),
        crew("secretless", redisSecretRef={"name": "later"}),
        crew("typo", template={"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}),
        crew("refused", template={"spec": {"containers": [{"name": "worker", "ports": [{"containerPort": 0}]}]}}),
        crew("good"),
    )
    team.until_ready("good")
    said = team.until_stalled("cycle", "FlowCycle")
    assert "b" in said
    assert "c" in said
    assert "later" in team.until_stalled("secretless", "RedisSecretMissing")
    assert "imagge" in team.until_stalled("typo", "TemplateInvalid")
    assert "containerPort" in team.until_stalled("refused", "TemplateInvalid")
    for name in ("cycle", "secretless", "typo", "refused"):
        assert team.conditions(name)["Ready"][0] == "False"

    team.submit("good")
    machine.until(lambda: team.replicas("good") == 1, within=SOON, what="the good crew works")

    # each heals when it is mended, and by itself where what it lacks is not in its spec
    team.kubectl("create", "secret", "generic", "later", f"--from-literal=url={team.store.url}")
    team.apply(crew("typo"), crew("refused"), crew("cycle", agents=("a", "b", "c")))
    team.until_ready("secretless", "typo", "refused", "cycle")
    for name in ("secretless", "typo", "refused", "cycle"):
        assert "Stalled" not in team.conditions(name)


def test_a_refused_template_is_not_tried_again_until_the_spec_changes(
    team: Team, until_rest: Callable[..., int]
) -> None:
    team.operator(resync_seconds="1")
    team.apply(crew("typo", template={"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}))
    team.until_stalled("typo", "TemplateInvalid")
    until_rest(OPERATOR, 5)


def test_a_template_of_the_wrong_shape_has_a_condition(team: Team) -> None:
    team.operator()
    team.apply(crew("odd", template={"spec": {"containers": "text"}}))
    team.until_stalled("odd", "TemplateInvalid")


def test_quantities_as_people_write_them_cause_no_writes_at_rest(team: Team, until_rest: Callable[..., int]) -> None:
    limits = {"cpu": 1, "memory": "1024Mi"}
    template = {"spec": {"containers": [{"name": "worker", "resources": {"limits": limits}}]}}
    team.operator(resync_seconds="1")
    team.apply(crew(template=template))
    team.until_ready()
    until_rest(OPERATOR, 4)


def test_a_restart_does_not_try_a_refused_template_again(
    team: Team, audit_writes: Callable[..., list[Write]], until_rest: Callable[..., int]
) -> None:
    first = team.operator()
    team.apply(crew("typo", template={"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}), crew())
    team.until_stalled("typo", "TemplateInvalid")
    team.until_ready()
    since = until_rest(OPERATOR, 2)
    first.kill()
    team.operator(resync_seconds="1")
    hold(6, lambda: not audit_writes(since, user=OPERATOR), "the restarted operator writes")
    team.submit()
    machine.until(lambda: team.replicas() == 1, within=SOON, what="it works")
    assert not [write for write in audit_writes(since, user=OPERATOR) if "typo" in write.name]
    # a new spec is tried
    team.apply(crew("typo"))
    team.until_ready("typo")


def test_while_a_new_template_is_refused_the_old_workers_are_scaled_up_and_down(team: Team) -> None:
    team.operator()
    team.apply(crew(idleSeconds=2))
    team.until_ready()
    (old,) = team.deployments()
    team.apply(crew(idleSeconds=2, template={"spec": {"containers": [{"name": "worker", "imagge": "x"}]}}))
    team.until_stalled("echo", "TemplateInvalid")

    team.submit(count=15)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="two workers of the old revision")
    with team.worker("echo").start():
        machine.until(lambda: team.replicas() == 0, within=SOON, what="none, once idle")
    (same,) = team.deployments()
    assert same["metadata"]["uid"] == old["metadata"]["uid"]
    assert same["spec"]["template"] == old["spec"]["template"]
    assert team.conditions()["Stalled"][1] == "TemplateInvalid"

    team.apply(crew(idleSeconds=2, image="mine:2"))
    team.until_ready()
    machine.until(
        lambda: [d["spec"]["template"]["spec"]["containers"][0]["image"] for d in team.deployments()] == ["mine:2"],
        within=SOON,
        what="only the new revision",
    )


def test_workers_that_a_quota_keeps_from_starting_are_told_in_its_words_until_there_is_room(team: Team) -> None:
    team.forbid("pods", "run", "probe", "--image=none")
    team.operator()
    team.apply(crew())
    team.until_ready()
    team.submit()
    assert "exceeded quota: none" in team.until_stalled("echo", "WorkersUnavailable")
    assert team.conditions()["Ready"][:2] == ("False", "WorkersUnavailable")
    team.kubectl("delete", "resourcequota", "none")
    team.kubectl("delete", "replicasets", "--all")  # its controller would wait for minutes before it tries again
    team.until_ready()
    assert "Stalled" not in team.conditions()


def test_a_crew_is_ready_and_says_so_until_a_worker_has_loaded_its_agents(team: Team) -> None:
    team.operator()
    team.apply(crew())
    team.until_ready()
    assert team.conditions()["Ready"][1] == "AgentsUnchecked"
    with team.worker("echo").start():
        machine.until(lambda: team.conditions()["Ready"][1] == "Available", within=SOON, what="its agents are checked")
    team.apply(crew(agents=("a", "b")))
    machine.until(lambda: team.conditions()["Ready"][1] == "AgentsUnchecked", within=SOON, what="the new ones are not")


def test_agents_that_no_worker_has_are_named(team: Team) -> None:
    team.operator()
    strange = [{"name": "a", "class": "EchoAgent"}, {"name": "lost", "class": "nowhere.at_all:Agent"}]
    team.apply(crew(spec={"agents": strange}))
    team.until_ready()
    with team.worker("echo").start():
        team.submit(agent="lost")
        said = team.until_stalled("echo", "AgentUnavailable")
    assert "'lost'" in said
    assert "'a'" not in said


def test_work_of_a_crew_at_zero_whose_agent_was_missing_is_taken_up_once_the_crew_is_mended(team: Team) -> None:
    team.operator()
    team.apply(crew(spec={"agents": [{"name": "a", "class": "nowhere.at_all:Agent"}]}, idleSeconds=1))
    team.until_ready()
    with team.worker("echo").start():
        team.submit()
        team.until_stalled("echo", "AgentUnavailable")
    machine.until(lambda: team.replicas() == 0, within=SOON, what="parked work holds no workers")
    hold(3, lambda: team.replicas() == 0, "parked work started a worker")

    team.apply(crew(idleSeconds=1))

    machine.until(lambda: team.replicas() == 1, within=SOON, what="a worker for what was parked")
    machine.until(lambda: "Stalled" not in team.conditions(), within=SOON, what="it says so no longer")


def test_a_prompt_that_cites_a_step_that_comes_later_is_told(team: Team) -> None:
    team.operator()
    agents = [
        {"name": "a", "class": "EchoAgent", "prompt": "after {steps.b}"},
        {"name": "b", "class": "EchoAgent"},
    ]
    team.apply(crew(spec={"agents": agents}), heartbeat("beat", intervalSeconds=RARELY))
    assert "{steps.b}" in team.until_stalled("echo", "InvalidPrompt")
    assert "InvalidPrompt" in team.until_stalled("beat", "CrewNotStored", kind="heartbeat")
    team.apply(crew(spec={"agents": [{**agents[0], "prompt": "first"}, agents[1]]}))
    team.until_ready()
    # an edit that breaks it doesn't undo what is there
    team.apply(crew(spec={"agents": agents}))
    team.until_stalled("echo", "InvalidPrompt")
    team.submit(count=11)
    machine.until(lambda: team.replicas() == 2, within=SOON, what="workers for the definition before")
    machine.until(
        lambda: team.conditions("beat", "heartbeat")["Ready"][0] == "True", within=SOON, what="its heartbeat fires"
    )
