"""Destinations as a crew declares them: one channel each, and no secret written out."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from reading import CREW, problems

from watchbill import crd
from watchbill.api import delivery
from watchbill.api.delivery import Destination, SecretKeyRef
from watchbill.api.problems import Finding, explain

pytestmark = pytest.mark.pure

FROM = {"secretKeyRef": {"name": "hooks", "key": "url"}}
TOKEN = "123456:ABC-DEF1234ghIkl"


def of(**given: Any) -> Destination:
    return Destination.model_validate({"name": "ops", **given})


def found(**given: Any) -> list[Finding]:
    """What is wrong; no word of it, nor of pydantic's own, may hold TOKEN."""
    with pytest.raises(ValidationError) as caught:
        of(**given)
    findings = explain(Destination, caught.value)
    assert TOKEN not in f"{caught.value} {findings}"
    return findings


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        ({"log": {}}, []),
        ({"webhook": {"url": "https://example.com/hook?a=1"}}, []),
        ({"webhook": {"url": "env:HOOK_URL", "signingKey": "env:KEY", "previousSigningKey": "env:OLD"}}, []),
        ({"webhook": {"urlFrom": FROM, "signingKeyFrom": FROM}}, [("hooks", "url")]),
        ({"telegram": {"botToken": "env:TOKEN", "chatId": "-100987"}}, []),
        ({"telegram": {"botTokenFrom": FROM, "chatId": "@ops_channel"}}, [("hooks", "url")]),
        ({"teams": {"url": "env:TEAMS_URL"}}, []),
        ({"email": {"to": ["ops@example.com", "b.c+d@xn--e1a.example"], "subject": "Report"}}, []),
        ({"redisStream": {"stream": "results:blog"}}, []),
        ({"apprise": {"urlFrom": FROM}}, [("hooks", "url")]),
    ],
)
def test_each_channel_can_be_declared(given: dict[str, Any], keys: list[tuple[str, str]]) -> None:
    destination = of(**given)
    assert destination.channel == next(iter(given))
    assert [(key.name, key.key) for key in destination.secret_keys()] == keys
    assert Destination.model_validate_json(destination.model_dump_json(by_alias=True)) == destination


def test_a_destination_has_exactly_one_channel() -> None:
    (none,) = found()
    assert none.reason == "no channel is given"
    assert none.fix.startswith("Give exactly one of log, webhook, telegram, teams, email, redisStream and apprise.")
    (two,) = found(log={}, teams={"urlFrom": FROM})
    assert (two.path, two.reason) == ("teams", "log and teams are given")


def test_outcomes_decide_which_results_are_delivered() -> None:
    def wanted(**given: Any) -> tuple[bool, bool]:
        destination = of(log={}, **given)
        return destination.wants(success=True), destination.wants(success=False)

    assert wanted() == (True, True)
    assert wanted(outcomes=["Success"]) == (True, False)
    assert wanted(outcomes=["Failure"]) == (False, True)
    assert [f.path for f in found(log={}, outcomes=[])] == ["outcomes"]
    (unknown,) = found(log={}, outcomes=["Failed"])
    assert (unknown.path, unknown.fix) == ("outcomes[0]", "Write 'Failure', or another of: Success, Failure.")
    (twice,) = found(log={}, outcomes=["Failure", "Failure"])
    assert (twice.path, twice.fix) == ("outcomes[1]", "Remove one of the two.")
    (level,) = found(log={"level": "info"})
    assert (level.path, level.fix) == ("log.level", "Write 'INFO', or another of: DEBUG, INFO, WARNING, ERROR.")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"telegram": {"botToken": TOKEN, "chatId": "1"}}, "botToken"),
        ({"teams": {"url": f"https://prod.logic.azure.com/workflows/{TOKEN}"}}, "url"),
        ({"apprise": {"url": f"tgram://{TOKEN}/1"}}, "url"),
        ({"webhook": {"urlFrom": FROM, "signingKey": TOKEN}}, "signingKey"),
        (
            {"webhook": {"urlFrom": FROM, "signingKey": "env:A", "previousSigningKey": f"env:A {TOKEN}"}},
            "previousSigningKey",
        ),
        ({"telegram": {"botToken": f"env:A\n{TOKEN}", "chatId": "1"}}, "botToken"),
    ],
)
def test_a_secret_that_is_written_out_is_refused_with_the_way_to_do_it(given: dict[str, Any], field: str) -> None:
    (only,) = found(**given)
    assert only.path == f"{next(iter(given))}.{field}"
    assert only.reason == f"{field} is written out, where everybody who may read the crew would see it"
    assert only.fix == (
        f"Write env:NAME for a variable of the workers' environment, or {field}From: {{secretKeyRef: {{name, key}}}}."
    )


@pytest.mark.parametrize("url", [f"https://u:{TOKEN}@example.com/", "ftp://example.com", "example.com", "https://", ""])
def test_a_webhooks_url_is_http_and_has_no_password(url: str) -> None:
    (only,) = found(webhook={"url": url})
    assert (only.path, only.fix[:12]) == ("webhook.url", "Write a URL,")


def test_a_value_is_given_once_and_not_left_out() -> None:
    (both,) = found(webhook={"url": "https://example.com", "urlFrom": FROM})
    assert (both.path, both.reason) == ("webhook.urlFrom", "url and urlFrom are both given")
    (none,) = found(telegram={"chatId": "1"})
    assert (none.path, none.reason) == ("telegram.botToken", "neither botToken nor botTokenFrom is given")
    (alone,) = found(webhook={"urlFrom": FROM, "previousSigningKeyFrom": FROM})
    assert (alone.path, alone.fix) == (
        "webhook.signingKey",
        "Add signingKey or signingKeyFrom, or remove the previous one.",
    )


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"email": {"to": []}}, "email.to"),
        ({"email": {"to": ["ops@example.com", "ops@example.com"]}}, "email.to[1]"),
        ({"email": {"to": ["Ops <ops@example.com>"]}}, "email.to[0]"),
        ({"email": {"to": ["ops@example.com\nBcc: x@example.com"]}}, "email.to[0]"),
        ({"email": {"to": ["ops@example.com"], "subject": "a\r\nBcc: x@example.com"}}, "email.subject"),
        ({"telegram": {"botTokenFrom": FROM, "chatId": "987/x"}}, "telegram.chatId"),
        ({"redisStream": {"stream": ""}}, "redisStream.stream"),
        ({"redisStream": {"stream": "a{b}"}}, "redisStream.stream"),
        ({"redisStream": {"stream": "crew:list"}}, "redisStream.stream"),
        ({"redisStream": {"stream": "wb:x"}}, "redisStream.stream"),
        ({"redisStream": {"stream": "s", "maxLength": 0}}, "redisStream.maxLength"),
        ({"teams": {"urlFrom": {"secretKeyRef": {"name": "a/b", "key": "c"}}}}, "teams.urlFrom.secretKeyRef.name"),
        ({"teams": {"urlFrom": {"secretKeyRef": {"name": "a", "key": ".."}}}}, "teams.urlFrom.secretKeyRef.key"),
        ({"teams": {"urlFrom": {"secretKeyRef": {"name": "a", "key": "../b"}}}}, "teams.urlFrom.secretKeyRef.key"),
    ],
)
def test_what_no_channel_could_use_is_refused(given: dict[str, Any], path: str) -> None:
    (only,) = found(**given)
    assert only.path == path


def test_two_destinations_of_one_name_are_found() -> None:
    (only,) = delivery.repeated([of(log={}), of(teams={"urlFrom": FROM})])
    assert (only.path, only.reason) == ("[1].name", "two destinations are called 'ops': [0] and [1]")


def test_the_place_of_a_secret_is_shown_and_never_its_value() -> None:
    hook = of(webhook={"url": "https://example.com/" + TOKEN, "signingKey": "env:KEY"}).spec.secrets()
    assert {field: str(secret) for field, secret in hook.items()} == {
        "url": "the destination's own text",
        "signingKey": "variable KEY",
    }
    assert str(delivery.Secret(None, SecretKeyRef(name="hooks", key="url"))) == "key 'url' of Secret 'hooks'"


def test_the_api_server_defaults_no_channel_into_a_destination() -> None:
    """A default would make `has(self.log)` true of every destination."""
    schema = Destination.model_json_schema(by_alias=True)
    node = crd._structural(schema, schema["$defs"])
    assert [name for name in delivery.CHANNELS if "default" in node["properties"][name]] == []
    (rule,) = node["x-kubernetes-validations"]
    assert all(f"has(self.{name})" in rule["rule"] for name in delivery.CHANNELS)
    assert node["properties"]["outcomes"]["default"] == ["Success", "Failure"]


def test_a_faulty_destination_of_a_crew_is_told_once_and_hides_nothing_else() -> None:
    faulty = (
        "{name: a, telegram: {botToken: x, chatId: '1'}}, {name: b, email: {to: [a@b, a@b]}}, {name: c, log: {}, x: 1}"
    )
    text = f"{CREW}  delivery: [{faulty}]\n  flowRelations: [{{source: [researcher], target: [writer]}}]\n"
    assert {problem.path for problem in problems(text)} == {
        "spec.delivery[0].telegram.botToken",
        "spec.delivery[1].email.to[1]",
        "spec.delivery[2].x",
        "spec.flowRelations",
    }
    assert len(problems(text)) == 4
