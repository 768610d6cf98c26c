"""What a crew's Secret for the store says, and which passwords are valid when. Pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest

from watchbill import cluster_names, names
from watchbill.connection.url import parse, without_user
from watchbill.errors import InvalidInput
from watchbill.plan import redis_users as plan

pytestmark = pytest.mark.pure

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
USER = names.redis_user("watchbill/watchbill@uid", "team/blog")
WANTED = plan.Wanted("blog", "team", "u1", USER, plan.Address("redis", "redis.example:6379/0"), "", None)


def sha(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def stored(step: plan.Step, version: str = "7") -> dict[str, Any]:
    """The Secret as the API server has it after the step."""
    assert step.secret is not None
    return {**step.secret, "metadata": {**step.secret["metadata"], "resourceVersion": version}}


def url(secret: dict[str, Any]) -> str:
    return base64.b64decode(secret["data"]["url"]).decode()


def test_a_new_crew_gets_a_password_of_its_own_and_the_secret_goes_with_it() -> None:
    step = plan.step(None, WANTED, "one", NOON)
    secret = stored(step)
    assert (secret["metadata"]["namespace"], secret["metadata"]["name"]) == ("team", "blog-redis")
    assert [owner["uid"] for owner in secret["metadata"]["ownerReferences"]] == ["u1"]
    options = parse(url(secret)).options
    assert (options["username"], options["password"]) == (USER, "one")
    assert step.credential == plan.Credential((sha("one"),), None)
    assert "one" not in str(secret["metadata"])
    assert plan.step(secret, WANTED, "two", NOON + 1000 * HOUR) == plan.Step(step.credential), "it stays so"


@pytest.mark.parametrize("how", ["annotation", "age"])
def test_a_former_password_is_valid_for_a_day_and_no_longer(how: str) -> None:
    secret = stored(plan.step(None, WANTED, "one", NOON))
    wanted = replace(WANTED, token="now") if how == "annotation" else replace(WANTED, rotate=30 * HOUR)
    if how == "age":
        assert plan.step(secret, wanted, "two", NOON + 29 * HOUR).secret is None
    at = NOON + 30 * HOUR
    step = plan.step(secret, wanted, "two", at)
    assert step.secret is not None
    assert step.secret["metadata"]["resourceVersion"] == "7"
    assert step.credential.hashes == (sha("two"), sha("one"))
    assert step.credential.until == at + timedelta(days=1)
    secret = stored(step)
    assert parse(url(secret)).options["password"] == "two"
    again = plan.step(secret, wanted, "three", at + 23 * HOUR)
    assert again == plan.Step(step.credential), "the same value of the annotation asks for nothing more"
    assert plan.step(secret, wanted, "three", at + 25 * HOUR).credential.hashes == (sha("two"),)


def test_another_rotation_ends_the_first_password() -> None:
    secret = stored(plan.step(None, WANTED, "one", NOON))
    secret = stored(plan.step(secret, replace(WANTED, token="a"), "two", NOON))
    step = plan.step(secret, replace(WANTED, token="b"), "three", NOON + HOUR)
    assert step.credential.hashes == (sha("three"), sha("two"))


def test_another_address_keeps_the_password_and_its_age() -> None:
    secret = stored(plan.step(None, WANTED, "one", NOON))
    moved = replace(WANTED, address=plan.Address("rediss", "other.example:6380/0"))
    step = plan.step(secret, moved, "two", NOON + HOUR)
    assert step.secret is not None
    assert urlsplit(url(step.secret)).hostname == "other.example"
    assert step.credential.hashes == (sha("one"),)
    assert step.secret["metadata"]["annotations"][cluster_names.ANNOTATION_ROTATED_AT] == "2026-11-21T12:00:00+00:00"


@pytest.mark.parametrize("data", [None, {}, {"url": "!"}, {"url": base64.b64encode(b"redis://me:x@h").decode()}])
def test_a_url_that_is_not_this_users_is_replaced_and_its_password_never_valid(data: Any) -> None:
    secret = {**stored(plan.step(None, WANTED, "one", NOON)), "data": data}
    step = plan.step(secret, WANTED, "two", NOON)
    assert step.credential.hashes == (sha("two"),)
    assert step.secret is not None


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_a_secret_that_somebody_changed_is_put_right_with_the_same_password(field: str) -> None:
    secret = stored(plan.step(None, WANTED, "one", NOON))
    changed = {**secret, "metadata": {**secret["metadata"], field: {"theirs": "1"}}}
    step = plan.step(changed, WANTED, "two", NOON)
    assert step.secret == secret
    assert step.credential.hashes == (sha("one"),)
    assert plan.step({**secret, "immutable": True}, WANTED, "two", NOON) == plan.Step(step.credential)


@pytest.mark.parametrize("owners", [[], [{"uid": "another"}]])
def test_a_secret_of_somebody_else_is_left_alone(owners: Any) -> None:
    secret = stored(plan.step(None, WANTED, "one", NOON))
    secret["metadata"]["ownerReferences"] = owners
    with pytest.raises(plan.NotOurs, match=r"'blog-redis' in namespace 'team'.*Delete it, or name another"):
        plan.step(secret, WANTED, "two", NOON)


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        ("redis://me:secret@h:1/0?client_name=x", ("redis", "h:1/0?client_name=x")),
        (
            "rediss+cluster://:secret@h:1,i:2?password=p&ssl_check_hostname=no",
            ("rediss+cluster", "h:1,i:2?ssl_check_hostname=no"),
        ),
        ("unix://me:secret@/a/b?db=1", ("unix", "/a/b?db=1")),
    ],
)
def test_workers_get_the_operators_address_without_its_credentials(url: str, rest: tuple[str, str]) -> None:
    assert without_user(url) == rest
    options = parse(plan.Address(*rest).url(USER, "p:/@w")).options
    assert (options["username"], options["password"]) == (USER, "p:/@w")


def test_what_only_the_operator_may_have_is_refused() -> None:
    with pytest.raises(InvalidInput, match="can't be given to workers: password, username") as refused:
        without_user("redis+sentinel://h/master?sentinel_username=u&sentinel_password=hidden")
    assert "hidden" not in str(refused.value)
