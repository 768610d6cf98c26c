"""Each crew has a user of its own in the store: turned on and given another password under load, and off again."""

from __future__ import annotations

import base64
import json
from typing import Any

from e2e.cluster import machine
from e2e.kind import crews, ledger
from e2e.kind.team import NAMESPACE, SOON, Team, connected
from watchbill.cluster_names import ANNOTATION_ROTATE
from watchbill.names import CrewKeys

PROMPTS = ("0.2", "2", "1", "0.5")
"""Seconds of the tasks, which two slots share."""

# Reads all keys that it is given, by the URL that the worker has, and prints how each answer begins.
READ = """
import json, os, redis, sys
store = redis.Redis.from_url(os.environ["WATCHBILL_REDIS_URL"], decode_responses=True)
def read(key):
    try:
        return store.type(key)
    except redis.exceptions.NoPermissionError:
        return "refused"
print(json.dumps([read(key) for key in sys.argv[1:]]))
"""


def test_a_crews_user_reaches_its_keys_alone_and_another_password_loses_nothing(team: Team, name: str) -> None:
    other, secret = f"{name}-other", f"{name}-redis"
    team.apply(*crews.sample(name, "Noted", lease_seconds=60, minReplicas=1, maxReplicas=1, concurrency=2))
    team.apply(crews.crew(other))
    team.until_ready(other)
    team.until_pods(name, 1)
    try:
        with team.pod_events(name) as events:
            with ledger.busy(team, name, PROMPTS) as tasks:
                team.install(redis={"aclPerCrew": True})
                first = machine.until(lambda: url(team, secret), within=SOON, what="the crew has a user")
                machine.until(lambda: made_with(team, name) == {secret}, within=2 * SOON, what="workers are that user")
                (pod,) = team.until_pods(name, 1, within=2 * SOON)
                assert read(team, pod, name, other) == ["stream", "refused", "refused"]

                team.kubectl("annotate", "crew", name, f"{ANNOTATION_ROTATE}=1")
                machine.until(lambda: url(team, secret) not in ("", first), within=SOON, what="another password")
                # Workers that start have it. Others go on with the former one, and would be replaced within minutes.
                annotations = {"example.com/changed": "yes"}
                patch = {"spec": {"workers": {"template": {"metadata": {"annotations": annotations}}}}}
                team.kubectl("patch", "crew", name, "--type=merge", f"--patch={json.dumps(patch)}")
                was = pod["metadata"]["uid"]

                def replaced() -> bool:
                    return was not in {one["metadata"]["uid"] for one in team.pods(name)}

                machine.until(replaced, within=2 * SOON, what="no worker has the former one", every=0.5)
                (pod,) = team.until_pods(name, 1)
                assert read(team, pod, name, other) == ["stream", "refused", "refused"]
                before = len(tasks)
                machine.until(lambda: len(tasks) > before, within=SOON, what="work with the other one")
            with team.store() as store:
                given = {name: tasks}
                ledger.until_ended(store, given, within=SOON)
                ledger.check(store, given, events())
        with team.store() as store, connected(store) as client:
            of_crews = {user for user in client.acl_users() if user.startswith("watchbill:")}
            assert {user.rpartition("/")[2] for user in of_crews} == {name, other}
            team.kubectl("delete", "crew", name, other)
            machine.until(lambda: not of_crews & set(client.acl_users()), within=SOON, what="their users are gone")
    finally:
        team.kubectl("delete", "crew", name, other, "--ignore-not-found")
        team.install()


def read(team: Team, pod: dict[str, Any], crew: str, other: str) -> list[str]:
    """The answers in the crew's worker about a key of its own, one of the other crew, and one of all."""
    keys = [f"{CrewKeys(NAMESPACE, one).root}stream:ledger" for one in (crew, other)]
    words = ("python3", "-c", READ, *keys, f"crew:{{{NAMESPACE}}}:list")
    found: list[str] = json.loads(team.kubectl("exec", pod["metadata"]["name"], "--", *words))
    return found


def url(team: Team, secret: str) -> str:
    """The URL in that Secret; empty where there is none."""
    found = [one for one in team.get("secrets")["items"] if one["metadata"]["name"] == secret]
    return base64.b64decode(found[0]["data"]["url"]).decode() if found else ""


def made_with(team: Team, crew: str) -> set[str]:
    """The Secrets by whose URL the crew's workers reach the store."""
    variables: list[Any] = [one for pod in team.pods(crew) for one in pod["spec"]["containers"][0]["env"]]
    return {one["valueFrom"]["secretKeyRef"]["name"] for one in variables if one["name"] == "WATCHBILL_REDIS_URL"}
