"""Webhooks, to a real receiver: signatures that the library of Standard Webhooks verifies, and what answers mean."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from email.utils import format_datetime
from typing import Any

import pytest
from receivers import Got, Receiver, destination, message, raw
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from ports import free_ports
from watchbill.delivery import Delivered, Sender
from watchbill.delivery.webhook import BODY_MAX_BYTES
from watchbill.errors import DeliveryRefused, DestinationGone, NotDelivered
from watchbill.testing import FakeClock

NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
Make = Callable[..., Sender]


def verified(got: Got, key: str) -> Any:
    """The payload, as a receiver gets it who has this key."""
    return Webhook(key).verify(got.body, dict(got.headers))


def hook(url: str, **more: Any) -> Any:
    return destination(webhook={"url": url, **more})


async def failure(sender: Sender, to: Any, **changes: Any) -> DeliveryRefused | NotDelivered:
    with pytest.raises((DeliveryRefused, NotDelivered)) as caught:
        await sender.send(message(**changes), to)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    found: Any = caught.value
    return found


async def test_a_receiver_verifies_the_seven_values_with_either_key(
    receiver: Receiver, sender: Make, secrets: dict[str, str]
) -> None:
    secrets |= {"KEY": NEW, "BEFORE": OLD}
    to = hook(receiver.url + "/hook?a=%2Fb", signingKey="env:KEY", previousSigningKey="env:BEFORE")
    assert await sender().send(message(output={"ü": [1, None]}), to) == Delivered(status=200)
    (got,) = receiver.got
    assert got.path == "/hook?a=%2Fb"
    assert got.headers["content-type"] == "application/json"
    expected = message(output={"ü": [1, None]}).payload()
    assert len(expected) == 7
    assert verified(got, NEW) == verified(got, OLD) == expected
    with pytest.raises(WebhookVerificationError):
        verified(got, "whsec_" + base64.b64encode(b"x" * 32).decode())
    changed = Got(got.path, got.headers, got.body.replace(b"t1", b"t2"))
    with pytest.raises(WebhookVerificationError):
        verified(changed, NEW)


async def test_an_id_stays_over_attempts_and_the_timestamp_is_the_attempts(
    receiver: Receiver, sender: Make, secrets: dict[str, str]
) -> None:
    secrets["KEY"] = NEW
    clock = FakeClock()
    sends, to = sender(clock=clock), hook(receiver.url, signingKey="env:KEY")
    receiver.answer(500)
    await failure(sends, to)
    clock.advance(300)
    await sends.send(message(attempt=2), to)
    first, second = receiver.got
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == "t1.ops"
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) == 300
    assert int(second.headers["webhook-timestamp"]) == int(clock.now().timestamp())
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert first.body == second.body


async def test_without_a_key_nothing_is_signed(receiver: Receiver, sender: Make) -> None:
    await sender().send(message(), hook(receiver.url))
    assert "webhook-signature" not in receiver.got[0].headers


@pytest.mark.parametrize("key", ["whsec_short", "whsec_" + base64.b64encode(b"x" * 23).decode(), "not base64 at all!"])
async def test_a_key_that_is_none_is_refused_with_the_way_to_make_one(
    key: str, receiver: Receiver, sender: Make, secrets: dict[str, str]
) -> None:
    secrets["KEY"] = key
    error = await failure(sender(), hook(receiver.url, signingKey="env:KEY"))
    assert isinstance(error, NotDelivered)
    assert str(error).startswith("variable KEY is no signing key")
    assert "openssl rand -base64 32" in str(error)
    assert key not in str(error)
    assert receiver.got == []


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_a_success(status: int, receiver: Receiver, sender: Make) -> None:
    receiver.answer(status)
    assert await sender().send(message(), hook(receiver.url)) == Delivered(status=status)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 403, 404, 409, 413, 422, 500, 501, 599])
async def test_other_statuses_may_be_better_next_time(status: int, receiver: Receiver, sender: Make) -> None:
    receiver.answer(status)
    error = await failure(sender(), hook(receiver.url))
    assert (type(error), error.status, getattr(error, "retry_after", None)) == (NotDelivered, status, None)
    assert str(error).startswith(f"the webhook at 127.0.0.1 answered {status}")


async def test_410_asks_for_no_further_message(receiver: Receiver, sender: Make) -> None:
    receiver.answer(410)
    error = await failure(sender(), hook(receiver.url))
    assert (type(error), error.status) == (DestinationGone, 410)


async def test_a_redirect_is_not_followed(receiver: Receiver, sender: Make) -> None:
    for status in (301, 302, 307, 308):
        receiver.got.clear()
        receiver.answer(status, location=receiver.url + "/elsewhere")
        error = await failure(sender(), hook(receiver.url + "/here"))
        assert (type(error), error.status) == (NotDelivered, status)
        assert "Redirects are not followed" in str(error)
        assert [got.path for got in receiver.got] == ["/here"]


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        *((status, {}, 30.0) for status in (429, 502, 503, 504)),
        (429, {"retry_after": "7"}, 7.0),
        (503, {"retry_after": "junk"}, 30.0),
        (400, {"retry_after": "9"}, 9.0),
    ],
)
async def test_a_receiver_with_too_much_to_do_is_given_a_pause(
    status: int, headers: dict[str, str], seconds: float, receiver: Receiver, sender: Make
) -> None:
    receiver.answer(status, **headers)
    error = await failure(sender(), hook(receiver.url))
    assert isinstance(error, NotDelivered)
    assert (error.status, error.retry_after) == (status, seconds)


async def test_a_pause_may_be_until_a_time(receiver: Receiver, sender: Make) -> None:
    clock = FakeClock()
    until = format_datetime(clock.now().replace(minute=2), usegmt=True)
    receiver.answer(429, retry_after=until, date=format_datetime(clock.now(), usegmt=True))
    error = await failure(sender(clock=clock), hook(receiver.url))
    assert isinstance(error, NotDelivered)
    assert error.retry_after == 120.0


async def test_a_slow_receiver_is_left_after_the_time(receiver: Receiver, sender: Make) -> None:
    receiver.hold = asyncio.Event()
    error = await failure(sender(delivery_timeout_seconds=5), hook(receiver.url))
    assert (type(error), str(error)) == (NotDelivered, "the webhook at 127.0.0.1 gave no answer within 5 s")
    assert len(receiver.got) == 1


async def test_the_status_counts_though_the_rest_of_an_answer_never_comes(sender: Make) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        status = b"200 OK" if b"/good" in request else b"400 Bad Request"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 1000\r\n\r\nhalf of")
        await reader.read()  # until the sender goes

    server, port = await raw(serve)
    assert await sender().send(message(), hook(f"http://127.0.0.1:{port}/good")) == Delivered(status=200)
    error = await failure(sender(delivery_timeout_seconds=10), hook(f"http://127.0.0.1:{port}/bad"))
    assert (error.status, str(error)) == (400, "the webhook at 127.0.0.1 answered 400 (Bad Request): half of")
    server.close()


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00\xff\xfe garbage\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99_999],
)
async def test_garbage_in_place_of_an_answer_is_no_answer(garbage: bytes, sender: Make) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(garbage)
        await writer.drain()

    server, port = await raw(serve)
    error = await failure(sender(), hook(f"http://127.0.0.1:{port}/"))
    assert isinstance(error, NotDelivered)
    assert error.status is None
    assert str(error).startswith("the webhook at 127.0.0.1 gave no answer that can be read: ")
    server.close()


async def test_a_receiver_that_is_not_there_may_be_there_later(receiver: Receiver, sender: Make) -> None:
    (port,) = free_ports(1)
    error = await failure(sender(), hook(f"http://127.0.0.1:{port}/"))
    assert isinstance(error, NotDelivered)
    assert "can't be reached: " in str(error)


async def test_what_is_too_much_is_refused_and_not_cut(receiver: Receiver, sender: Make) -> None:
    fits = BODY_MAX_BYTES - len(json.dumps(message(output="").payload(), separators=(",", ":")))
    assert (await sender().send(message(output="x" * fits), hook(receiver.url))).status == 200
    assert len(receiver.got[0].body) == BODY_MAX_BYTES
    error = await failure(sender(), hook(receiver.url), output="x" * (fits + 1))
    assert isinstance(error, DeliveryRefused)
    assert str(error).startswith(f"the result has {BODY_MAX_BYTES + 1} bytes as JSON")
    assert len(receiver.got) == 1


async def test_half_a_character_is_no_reason_to_fail(receiver: Receiver, sender: Make) -> None:
    await sender().send(message(output="a\ud800b"), hook(receiver.url))
    assert json.loads(receiver.got[0].body)["output"] == "a?b"


async def test_what_a_receiver_says_is_shown_unless_its_url_is_secret(
    receiver: Receiver, sender: Make, secrets: dict[str, str]
) -> None:
    path = "/services/T0001/B0002/verysecretpath"
    secrets["HOOK"] = receiver.url + path
    for _ in range(2):
        receiver.answer(400, f"no such\n\x1b[31mthing {path} " + "z" * 500)
    shown = str(await failure(sender(), hook(receiver.url + "/x")))
    assert shown.startswith("the webhook at 127.0.0.1 answered 400 (Bad Request): no such [31mthing /services/")
    assert len(shown) < 300
    hidden = str(await failure(sender(), hook("env:HOOK")))
    assert hidden == "the webhook of variable HOOK answered 400 (Bad Request)"
    assert receiver.got[1].path == path


async def test_no_secret_gets_into_an_error(receiver: Receiver, sender: Make, secrets: dict[str, str]) -> None:
    (port,) = free_ports(1)
    secrets["KEY"] = NEW
    for url in (
        f"http://127.0.0.1:{port}/s3cr3tp4th?token=t0k3n",
        "http://10.255.255.1/s3cr3tp4th?token=t0k3n",
        "ftp://u:s3cr3tp4th@example.com/t0k3n",
        "https://u:s3cr3tp4th@[bad/t0k3n",
        "http://127.0.0.1:99999/s3cr3tp4th/t0k3n",
    ):
        secrets["HOOK"] = url
        error = await failure(sender(), hook("env:HOOK", signingKey="env:KEY"))
        told = f"{error!r} {error} {error.args}"
        assert [part for part in ("s3cr3tp4th", "t0k3n", NEW, NEW[6:]) if part in told] == []


async def test_a_variable_that_is_missing_is_named(sender: Make) -> None:
    error = await failure(sender(), hook("env:NOT_THERE"))
    assert isinstance(error, NotDelivered)
    assert str(error).startswith("variable NOT_THERE is not set where this is delivered")
