"""Each crew has a user of its own in the store, over restarts of the store and of the operator, and to its end."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable
from typing import Any

import redis

from e2e.cluster import machine
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.control_plane import operator_process, operator_team
from e2e.control_plane.operator_team import OPERATOR, SOON, Team, crew, may_make_users
from watchbill import names

team = operator_team.team
store = operator_team.store
installed = operator_team.installed

USERS = {"redis_acl_per_crew": "true", "resync_seconds": "2", "installation": "ours"}


def secret(team: Team, name: str = "echo-redis") -> dict[str, Any]:
    found = [one for one in team.items("secrets") if one["metadata"]["name"] == name]
    return found[0] if found else {}


def url(team: Team) -> str:
    return base64.b64decode(secret(team)["data"]["url"]).decode() if secret(team) else ""


def users(team: Team) -> set[str]:
    return {str(name) for name in team.store.client.execute_command("ACL USERS")} - {"default"}


def works(given: str) -> bool:
    try:
        with redis.Redis.from_url(given, socket_timeout=SOON, socket_connect_timeout=SOON) as client:
            return bool(client.ping())
    except redis.AuthenticationError:
        return False


def test_a_crew_has_its_own_user_for_as_long_as_it_is_there(
    team: Team, installed: ControlPlane, audit_writes: Callable[..., list[Write]]
) -> None:
    may_make_users(installed, team.namespace)
    team.kubectl("delete", "secret", "watchbill-redis")  # nobody needs it
    team.kubectl("create", "secret", "generic", "mine-redis", "--from-literal=url=redis://of.somebody")
    running = team.operator(**USERS)
    team.apply(crew(), crew("mine"))
    team.until_ready()
    uid = team.crew()["metadata"]["uid"]
    first = url(team)
    assert [owner["uid"] for owner in secret(team)["metadata"]["ownerReferences"]] == [uid]
    (own,) = users(team)
    assert own.endswith(f":{team.namespace}/echo")
    assert "is not of this crew" in team.until_stalled("mine", "RedisUserRefused")
    assert base64.b64decode(secret(team, "mine-redis")["data"]["url"]) == b"redis://of.somebody"
    with operator_process.worker(f"{team.namespace}/echo", first, team.folder).start() as worker:
        team.submit(agent="a")
        machine.until(lambda: len(team.results()) == 1, within=SOON, what="the worker works as that user")

        # The store restarts, without its users: the worker waits, and the operator makes them anew.
        team.store.kill()
        began = time.monotonic()
        team.store.start()
        machine.until(lambda: own in users(team), within=SOON, what="the user is back", every=0.02)
        print(f"the user was back {time.monotonic() - began:.2f} s after the start of the restart")
        team.submit(agent="a")
        machine.until(lambda: len(team.results()) == 2, within=SOON, what="the worker goes on")

        replaced(team, first)
        assert worker.exit_code() is None

    # At rest nothing is written, and a restart changes no password.
    kept = url(team)
    running.kill()
    since = installed.audit_position()
    running.start()
    team.store.client.execute_command("ACL SETUSER", names.redis_user("ours@elsewhere", "x/y"), "on")
    gone = names.redis_user(f"ours@{_cluster(installed)}", f"{team.namespace}/gone")
    team.store.client.execute_command("ACL SETUSER", gone, "on")
    team.store.client.execute_command("ACL DELUSER", own)
    machine.until(lambda: own in users(team), within=SOON, what="a user that somebody removed is back")
    machine.until(lambda: gone not in users(team), within=SOON, what="the user of a crew that is gone is removed")
    assert url(team) == kept
    assert [write for write in audit_writes(since, user=OPERATOR) if write.resource == "secrets"] == []

    team.kubectl("delete", "crew", "echo")
    machine.until(lambda: own not in users(team), within=SOON, what="its user is gone")
    assert users(team) == {names.redis_user("ours@elsewhere", "x/y")}, "that of another operator stays"
    assert not works(kept)


def replaced(team: Team, first: str) -> None:
    """The password is replaced, and then ended; a worker goes on meanwhile."""
    team.kubectl("annotate", "crew", "echo", "watchbill.dev/rotate-redis-user=1")
    machine.until(lambda: url(team) != first, within=SOON, what="the Secret has another password")
    second = url(team)
    assert works(first)
    assert works(second)
    team.kubectl("delete", "secret", "echo-redis")  # which is how one ends a password at once
    machine.until(lambda: url(team) not in ("", second), within=SOON, what="there is a Secret again")
    machine.until(lambda: not works(second), within=SOON, what="no former password is valid")
    assert works(url(team))
    assert not works(first)
    team.submit(agent="a")
    machine.until(lambda: len(team.results()) == 3, within=SOON, what="connections that stand are not cut")


def _cluster(installed: ControlPlane) -> str:
    return str(installed.kubectl.json("get", "namespace", "kube-system")["metadata"]["uid"])


def test_a_store_that_makes_no_users_is_said_to(team: Team, installed: ControlPlane) -> None:
    may_make_users(installed, team.namespace)
    digest = hashlib.sha256(b"x").hexdigest()
    command = ("ACL SETUSER", "operator", "on", f"#{digest}", "allkeys", "allchannels", "allcommands", "-acl")
    team.store.client.execute_command(*command)
    team.store.url = team.store.url.replace("unix://", "unix://operator:x@")
    team.operator(**USERS, redis_url=team.store.url)
    team.apply(crew())
    message = team.until_stalled("echo", "RedisUserRefused")
    assert "+acl|setuser" in message
    assert "redis.aclPerCrew" in message
    assert not secret(team)
    team.store.client.execute_command("ACL SETUSER", "operator", "+acl|setuser", "+acl|deluser", "+acl|users")
    team.until_ready()
