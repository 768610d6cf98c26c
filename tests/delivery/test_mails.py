"""Mail, to a real SMTP server: what arrives, in the clear and by TLS, and what the server's answers mean."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword
from receivers import certificate, destination, message, raw

import smtp_server
from smtp_server import Mailbox
from watchbill.delivery import Delivered, Sender, mail
from watchbill.delivery.mail import Server
from watchbill.errors import DeliveryRefused, NotDelivered
from watchbill.testing import FakeClock

TO = destination(email={"to": ["ops@example.com", "dev@example.com"]})
FROM = "crews@corp.example"
PASSWORD = "s3cr3t/p@ss"
Make = Callable[..., Sender]


@pytest.fixture
async def mailbox() -> AsyncIterator[Callable[..., Any]]:
    """`await mailbox(...)` starts a server with these options of aiosmtpd's SMTP, in this event loop."""
    async with AsyncExitStack() as stack:

        async def start(tls: ssl.SSLContext | None = None, **options: Any) -> Mailbox:
            return await stack.enter_async_context(smtp_server.mailbox(tls, **options))

        yield start


@pytest.fixture
def plain(sender: Make) -> Callable[..., Sender]:
    """A sender to a server without TLS."""

    def make(box: Mailbox, **more: Any) -> Sender:
        return sender(smtp_url=f"smtp://127.0.0.1:{box.port}?starttls=no", smtp_from=FROM, **more)

    return make


async def failure(sender: Sender, to: Any = TO, **changes: Any) -> DeliveryRefused | NotDelivered:
    with pytest.raises((DeliveryRefused, NotDelivered)) as caught:
        await sender.send(message(**changes), to)
    assert PASSWORD not in f"{caught.value!r}"
    found: Any = caught.value
    return found


async def test_a_mail_arrives_with_what_a_person_and_a_mailbox_need(mailbox: Any, plain: Any) -> None:
    box = await mailbox()
    clock = FakeClock()
    said = await plain(box, clock=clock).send(message(output="Grüße.\n.\nFrom here on: " + "x" * 2000), TO)
    assert said == Delivered(status=250, detail="queued as 4711")
    ((recipients, got),) = box.got
    assert recipients == ["ops@example.com", "dev@example.com"]
    assert (got["From"], got["To"], got["Subject"]) == (FROM, "ops@example.com, dev@example.com", "writer completed")
    assert got["Date"].datetime == clock.now()
    assert got["Auto-Submitted"] == "auto-generated"
    text = got.get_content().replace("\r\n", "\n")
    assert text.startswith("writer completed\n\nGrüße.\n.\nFrom here on: xxx")
    assert text.endswith("x\n\n-- \nTask t1, 1.2 s\n")
    assert max(map(len, box.raw[0].split(b"\r\n"))) < 998


async def test_the_id_of_a_mail_is_the_deliverys_at_every_attempt(mailbox: Any, plain: Any) -> None:
    box = await mailbox()
    sender = plain(box)
    for changes in ({}, {"attempt": 2}, {"delivery_id": "t2.ops"}):
        await sender.send(message(**changes), TO)
    first, second, other = (got["Message-ID"] for _, got in box.got)
    assert first == second != other
    assert first.startswith("<")
    assert first.endswith("@corp.example>")


async def test_nobody_can_put_a_header_into_a_mail(mailbox: Any, plain: Any) -> None:
    box = await mailbox()
    evil = "x\r\nBcc: victim@example.com\r\n\r\nbody"
    await plain(box).send(message(agent_name=evil, task_id=evil), TO)
    ((recipients, got),) = box.got
    assert (recipients, got["Bcc"]) == (["ops@example.com", "dev@example.com"], None)
    assert got["Subject"] == "x Bcc: victim@example.com body completed"


async def test_a_subject_of_ones_own_may_have_any_letters(mailbox: Any, plain: Any) -> None:
    box = await mailbox()
    await plain(box).send(message(), destination(email={"to": ["ops@example.com"], "subject": "Bericht für „Ops“"}))
    assert box.got[0][1]["Subject"] == "Bericht für „Ops“"


@pytest.mark.parametrize("command", ["MAIL", "DATA"])
@pytest.mark.parametrize(("code", "kind"), [(450, NotDelivered), (421, NotDelivered), (552, DeliveryRefused)])
async def test_4xx_may_change_and_5xx_does_not(
    code: int, kind: type[Exception], command: str, mailbox: Any, plain: Any
) -> None:
    box = await mailbox()
    box.answers[command] = f"{code} no room"
    error = await failure(plain(box))
    assert (type(error), error.status, str(error)) == (kind, code, f"the mail server answered {code}: no room")


async def test_only_those_who_have_not_got_it_are_tried_again(mailbox: Any, plain: Any) -> None:
    box = await mailbox()
    box.answers["dev@example.com"] = "451 greylisted"
    sender = plain(box)
    error = await failure(sender)
    assert isinstance(error, NotDelivered)
    assert (error.status, error.remaining) == (451, ("dev@example.com",))
    assert str(error).endswith("for some addresses yet: dev@example.com: 451 greylisted")
    assert [recipients for recipients, _ in box.got] == [["ops@example.com"]]
    box.answers.clear()
    await sender.send(message(attempt=2, remaining=error.remaining), TO)
    assert [recipients for recipients, _ in box.got] == [["ops@example.com"], ["dev@example.com"]]
    assert box.got[0][1]["Message-ID"] == box.got[1][1]["Message-ID"]
    assert box.got[1][1]["To"] == "ops@example.com, dev@example.com"


async def test_an_address_that_is_refused_for_good_does_not_hold_up_the_others(mailbox: Any, plain: Any) -> None:
    box = await mailbox()
    box.answers["dev@example.com"] = "550 no such user"
    said = await plain(box).send(message(), TO)
    assert said == Delivered(status=250, detail="refused: dev@example.com: 550 no such user")


@pytest.mark.parametrize(
    ("one", "other", "kind", "remaining"),
    [
        (550, 550, DeliveryRefused, None),
        (450, 450, NotDelivered, ()),
        (550, 450, NotDelivered, ("dev@example.com",)),
    ],
)
async def test_when_no_address_is_taken_the_hope_that_is_left_decides(
    one: int, other: int, kind: type[Exception], remaining: tuple[str, ...] | None, mailbox: Any, plain: Any
) -> None:
    box = await mailbox()
    box.answers |= {"ops@example.com": f"{one} no", "dev@example.com": f"{other} no"}
    error = await failure(plain(box))
    assert (type(error), getattr(error, "remaining", None), box.got) == (kind, remaining, [])


# ---------------------------------------------------------------- TLS and passwords


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's TLS, with a certificate that this process trusts."""
    found, key = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(found))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(found, key)
    return context


def authenticator(server: SMTP, session: Any, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
    known = isinstance(data, LoginPassword) and (data.login, data.password) == (b"crews", PASSWORD.encode())
    return AuthResult(success=known, handled=known)


@pytest.mark.filterwarnings("ignore:Requiring AUTH")  # aiosmtpd knows of STARTTLS only
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_mail_goes_by_tls_with_user_and_password(
    scheme: str, tls: ssl.SSLContext, mailbox: Any, sender: Make
) -> None:
    options = {"tls": tls} if scheme == "smtps" else {"tls_context": tls, "require_starttls": True}
    box = await mailbox(**options, authenticator=authenticator, auth_required=True, auth_require_tls=scheme == "smtp")
    url = f"{scheme}://crews:s3cr3t%2Fp%40ss@localhost:{box.port}"
    sends = sender(smtp_url=url, smtp_from=FROM)
    assert (await sends.send(message(), TO)).status == 250
    assert len(box.got) == 1
    assert box.secure == [scheme == "smtp"]  # aiosmtpd tells of STARTTLS only
    wrong = sender(smtp_url=url.replace("%40ss", "wrong"), smtp_from=FROM)
    error = await failure(wrong)
    assert (type(error), error.status) == (NotDelivered, 535)
    assert str(error).endswith("Correct user and password in WATCHBILL_SMTP_URL")
    assert "s3cr3t" not in str(error)


async def test_nothing_is_said_to_a_server_without_starttls(mailbox: Any, sender: Make) -> None:
    box = await mailbox()
    error = await failure(sender(smtp_url=f"smtp://127.0.0.1:{box.port}", smtp_from=FROM))
    assert isinstance(error, NotDelivered)
    assert "STARTTLS" in str(error)
    assert box.got == []


async def test_a_certificate_that_nobody_vouches_for_is_not_trusted(
    tls: ssl.SSLContext, mailbox: Any, sender: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    for scheme, options in (("smtp", {"tls_context": tls}), ("smtps", {"tls": tls})):
        box = await mailbox(**options)
        error = await failure(sender(smtp_url=f"{scheme}://localhost:{box.port}", smtp_from=FROM))
        assert isinstance(error, NotDelivered)
        assert "certificate" in str(error).lower()
        assert box.got == []


# ---------------------------------------------------------------- what is set, and what goes wrong


@pytest.mark.pure
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("smtp://mail.test", Server("mail.test", 587, False, True, None, None)),
        ("smtps://u%40x:p%2Fw@mail.test", Server("mail.test", 465, True, False, "u@x", "p/w")),
        ("smtp://mail.test:25?starttls=no", Server("mail.test", 25, False, False, None, None)),
        ("smtp://u:p@mail.test:26?starttls=yes", Server("mail.test", 26, False, True, "u", "p")),
    ],
)
def test_a_servers_url(url: str, expected: Server) -> None:
    assert mail.server(url) == expected


@pytest.mark.pure
@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "is not set where mail is sent"),
        ("mail.test", "can't be read"),
        ("http://u:s3cr3t@mail.test", "can't be read"),
        ("smtp://u:s3cr3t@mail.test:port", "can't be read"),
        ("smtp://u:s3cr3t@mail.test?starttls=maybe", "can't be read"),
        ("smtp://u:s3cr3t@mail.test?starttls", "can't be read"),
        ("smtp://u:s3cr3t@[mail.test", "can't be read"),
        ("smtp://u:s3cr3t@mail.test?starttls=no", "would be sent in the clear"),
    ],
)
def test_a_servers_url_that_cannot_be_used_is_not_quoted(url: str, told: str) -> None:
    with pytest.raises(NotDelivered) as caught:
        mail.server(url)
    assert str(caught.value).startswith("WATCHBILL_SMTP_URL ")
    assert told in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "Crews", "crews@corp.example\nBcc: x@example.com", "a b@example.com"])
async def test_an_address_to_send_from_that_is_none_is_named(address: str, sender: Make) -> None:
    error = await failure(sender(smtp_url="smtp://127.0.0.1:1", smtp_from=address))
    assert str(error).startswith("WATCHBILL_SMTP_FROM is no address, or not set")


@pytest.mark.parametrize("greeting", [b"", b"\x00\xff garbage\r\n", b"554 go away\r\n"])
async def test_a_server_that_says_what_it_should_not_may_do_better_later(greeting: bytes, sender: Make) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await writer.drain()

    server, port = await raw(serve)
    error = await failure(sender(smtp_url=f"smtp://127.0.0.1:{port}?starttls=no", smtp_from=FROM))
    assert isinstance(error, NotDelivered)
    assert str(error).startswith("the mail server ")
    server.close()


async def test_a_server_that_says_nothing_is_left_after_the_time(sender: Make) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server, port = await raw(serve)
    url = f"smtp://127.0.0.1:{port}?starttls=no"
    error = await failure(sender(smtp_url=url, smtp_from=FROM, delivery_timeout_seconds=0.2))
    assert isinstance(error, NotDelivered)
    server.close()


async def test_a_mail_that_was_taken_is_delivered_though_the_server_does_not_say_goodbye(
    mailbox: Any, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: SMTP, argument: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SMTP, "smtp_QUIT", nothing)
    monkeypatch.setattr(mail, "QUIT_SECONDS", 0.01)
    box = await mailbox()
    assert (await plain(box).send(message(), TO)).status == 250
