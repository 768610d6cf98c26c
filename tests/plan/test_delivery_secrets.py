"""Secrets of destinations in the workers' pods."""

from __future__ import annotations

from typing import Any

import pytest

from watchbill.api import Crew
from watchbill.delivery import MOUNTED
from watchbill.plan import manifests

pytestmark = pytest.mark.pure

DEFAULTS = manifests.Defaults("watchbill:1")


def crew(delivery: list[dict[str, Any]]) -> Crew:
    spec = {"agents": [{"name": "a", "class": "EchoAgent"}], "delivery": delivery}
    return Crew.model_validate({"metadata": {"name": "blog"}, "spec": spec})


def test_keys_of_secrets_that_destinations_name_are_mounted_as_files_that_may_be_missing() -> None:
    def ref(name: str, key: str) -> dict[str, Any]:
        return {"secretKeyRef": {"name": name, "key": key}}

    delivery = [
        {"name": "ops", "webhook": {"urlFrom": ref("hooks", "url"), "signingKeyFrom": ref("hooks", "signing")}},
        {"name": "chat", "telegram": {"botTokenFrom": ref("bot", "token"), "chatId": "1"}},
        {"name": "again", "teams": {"urlFrom": ref("hooks", "url")}},
    ]
    made = manifests.pod_template(crew(delivery), "team", DEFAULTS)
    (volume,) = [v for v in made["spec"]["volumes"] if v["name"] == "delivery"]
    assert [source["secret"] for source in volume["projected"]["sources"]] == [
        {"name": "bot", "optional": True, "items": [{"key": "token", "path": "bot/token"}]},
        {
            "name": "hooks",
            "optional": True,
            "items": [{"key": "signing", "path": "hooks/signing"}, {"key": "url", "path": "hooks/url"}],
        },
    ]
    (container,) = made["spec"]["containers"]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "delivery"]
    assert (mount["mountPath"], mount["readOnly"]) == (str(MOUNTED), True)
    without = manifests.pod_template(crew([]), "team", DEFAULTS)
    assert [v["name"] for v in without["spec"]["volumes"]] == ["tmp"]
