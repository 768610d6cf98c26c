"""Destinations of Crews and Heartbeats, good and bad, for the API server and `parse` alike."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import Refused, crew, heartbeat

_FROM: Final = {"secretKeyRef": {"name": "hooks", "key": "url"}}
_D: Final = "spec.delivery[0]"
_WRITTEN: Final = "is written out, where everybody who may read the crew would see it"

CHANNELS: Final[dict[str, dict[str, Any]]] = {
    "log": {"level": "ERROR"},
    "webhook": {
        "url": "https://hooks.example.com:8443/a?b=%2Fc#d",
        "signingKey": "env:KEY",
        "previousSigningKey": "env:K",
    },
    "telegram": {"botToken": "env:BOT_TOKEN", "chatId": "-1001234"},
    "teams": {"url": "env:_teams"},
    "email": {"to": ["ops@example.com", "a.b+c@x-y.example"], "subject": "Täglich"},
    "redisStream": {"stream": "results:blog", "maxLength": 5},
    "apprise": {"url": "env:NTFY"},
}
FROM_SECRETS: Final[dict[str, dict[str, Any]]] = {
    "webhook": {"urlFrom": _FROM, "signingKeyFrom": _FROM, "previousSigningKeyFrom": _FROM},
    "telegram": {"botTokenFrom": _FROM, "chatId": "@channel"},
    "teams": {"urlFrom": _FROM},
    "apprise": {"urlFrom": {"secretKeyRef": {"name": "a.b-c", "key": ".dot_file-1.x"}}},
}


def listed(*channels: tuple[str, Any], **more: Any) -> list[dict[str, Any]]:
    """A list of destinations, each with one channel."""
    return [{"name": f"d{i}", channel: fields, **more} for i, (channel, fields) in enumerate(channels)]


_LARGEST: Final = [
    {
        "name": f"{i:02}".ljust(52, "x"),
        "webhook": {
            "url": "https://" + f"{i}".ljust(2040, "h"),
            "signingKey": "env:".ljust(2048, "K"),
            "previousSigningKey": "env:".ljust(2048, "P"),
        },
    }
    for i in range(16)
]

ACCEPTED: Final[dict[str, dict[str, Any]]] = {
    "crew: every channel": crew({"spec.delivery": listed(*CHANNELS.items())}),
    "crew: every channel's Secrets": crew({"spec.delivery": listed(*FROM_SECRETS.items(), outcomes=["Failure"])}),
    "crew: a channel without fields": crew({"spec.delivery": listed(("log", {}))}),
    "crew: the most and longest destinations": crew({"spec.delivery": _LARGEST}),
    "heartbeat: to destinations of the crew": heartbeat({"spec.deliver": ["ops", "audit"]}),
    "heartbeat: to nobody": heartbeat({"spec.deliver": []}),
    "heartbeat: to the crew's and its own": heartbeat({"spec.deliver": ["ops"], "spec.delivery": listed(("log", {}))}),
    "heartbeat: every channel": heartbeat({"spec.delivery": listed(*CHANNELS.items())}),
    "heartbeat: the most and longest destinations": heartbeat({"spec.delivery": _LARGEST}),
}


def _bad(what: str, destination: Any, field: str, says: str = "", server: str = "") -> Refused:
    given = {"name": "d", **destination}
    where = f"{_D}.{field}" if field else _D
    return Refused(f"a destination: {what}", crew({"spec.delivery": [given]}), where, server=server, says=says)


REFUSED: Final = [
    _bad("no channel", {}, "", "give exactly one of log, webhook"),
    _bad(
        "two channels", {"log": {}, "teams": CHANNELS["teams"]}, "teams", "give exactly one of log, webhook", server=_D
    ),
    _bad("no such outcome", {"log": {}, "outcomes": ["success"]}, "outcomes[0]"),
    _bad("no outcome", {"log": {}, "outcomes": []}, "outcomes"),
    _bad("a list called on", {"log": {}, "on": ["Success"]}, "on"),
    _bad("no such level", {"log": {"level": "info"}}, "log.level"),
    _bad("a URL of another kind", {"webhook": {"url": "ftp://a"}}, "webhook.url", "neither a URL .* nor env:NAME"),
    _bad(
        "a URL with a password", {"webhook": {"url": "https://u:p@a/"}}, "webhook.url", "neither a URL .* nor env:NAME"
    ),
    _bad(
        "two keys' places",
        {"webhook": {**CHANNELS["webhook"], "signingKeyFrom": _FROM}},
        "webhook.signingKeyFrom",
        "signingKey and signingKeyFrom are both given",
    ),
    _bad(
        "two previous keys' places",
        {"webhook": {**CHANNELS["webhook"], "previousSigningKeyFrom": _FROM}},
        "webhook.previousSigningKeyFrom",
        "previousSigningKey and previousSigningKeyFrom are both given",
    ),
    _bad(
        "a previous key alone",
        {"webhook": {"urlFrom": _FROM, "previousSigningKeyFrom": _FROM}},
        "webhook.signingKey",
        "previousSigningKey means something beside signingKey only",
    ),
    _bad(
        "a key that is written out",
        {"webhook": {"urlFrom": _FROM, "signingKey": "whsec_x"}},
        "webhook.signingKey",
        f"signingKey {_WRITTEN}",
    ),
    _bad(
        "a previous key that is written out",
        {"webhook": {"urlFrom": _FROM, "signingKey": "env:A", "previousSigningKey": "env:A "}},
        "webhook.previousSigningKey",
        f"previousSigningKey {_WRITTEN}",
    ),
    *(
        _bad(
            f"{channel} without its {field}",
            {channel: {"chatId": "1"} if channel == "telegram" else {}},
            f"{channel}.{field}",
            f"neither {field} nor {field}From is given",
        )
        for channel, field in (("webhook", "url"), ("telegram", "botToken"), ("teams", "url"), ("apprise", "url"))
    ),
    *(
        _bad(
            f"{channel} with two places of its {field}",
            {channel: {**CHANNELS[channel], f"{field}From": _FROM}},
            f"{channel}.{field}From",
            f"{field} and {field}From are both given",
        )
        for channel, field in (("webhook", "url"), ("telegram", "botToken"), ("teams", "url"), ("apprise", "url"))
    ),
    *(
        _bad(
            f"{channel} with its {field} written out",
            {channel: {**CHANNELS[channel], field: "https://a.example/b"}},
            f"{channel}.{field}",
            f"{field} {_WRITTEN}",
        )
        for channel, field in (("telegram", "botToken"), ("teams", "url"), ("apprise", "url"))
    ),
    _bad("a chat that is none", {"telegram": {**CHANNELS["telegram"], "chatId": "1/2"}}, "telegram.chatId"),
    _bad("no address", {"email": {"to": []}}, "email.to"),
    _bad("an address with a name", {"email": {"to": ["Ops <ops@example.com>"]}}, "email.to[0]"),
    _bad("a header in a subject", {"email": {"to": ["a@b"], "subject": "a\r\nBcc: c@d"}}, "email.subject"),
    _bad("an address twice", {"email": {"to": ["a@b", "a@b"]}}, "email.to[1]"),
    _bad("a stream of our own", {"redisStream": {"stream": "wb:x"}}, "redisStream.stream", "are Watchbill's own"),
    _bad("a stream with a hash tag", {"redisStream": {"stream": "a{b}"}}, "redisStream.stream"),
    _bad(
        "a folder as a Secret",
        {"teams": {"urlFrom": {"secretKeyRef": {"name": "a/b", "key": "c"}}}},
        "teams.urlFrom.secretKeyRef.name",
    ),
    _bad(
        "the folder above as a key",
        {"teams": {"urlFrom": {"secretKeyRef": {"name": "a", "key": ".."}}}},
        "teams.urlFrom.secretKeyRef.key",
    ),
    Refused(
        "two destinations of one name",
        crew({"spec.delivery": [{"name": "d", "log": {}}, {"name": "d", "log": {}}]}),
        "spec.delivery[1].name",
        server="spec.delivery[1]",
    ),
    Refused(
        "a heartbeat's destination with a Secret",
        heartbeat({"spec.delivery": listed(("teams", FROM_SECRETS["teams"]))}),
        "spec.delivery[0]",
        server="spec.delivery",
        says="a heartbeat's own destination can't use a Secret's key",
    ),
    Refused(
        "a heartbeat's own destination of the name of one of the crew",
        heartbeat({"spec.deliver": ["d0"], "spec.delivery": listed(("log", {}))}),
        "spec.deliver",
        says="that delivery has, too",
    ),
    Refused(
        "a destination that a heartbeat names twice",
        heartbeat({"spec.deliver": ["ops", "ops"]}),
        "spec.deliver",
        server="spec.deliver[1]",
    ),
]
