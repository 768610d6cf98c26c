"""The channel email: plain text by the SMTP server that the environment names.

That server is trusted, and may be inside: whoever sets the environment names it, and no destination can.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from watchbill.api.delivery import ADDRESS, Email
from watchbill.clock import Clock, Patience
from watchbill.delivery import texts
from watchbill.delivery.http import excerpt
from watchbill.delivery.message import Delivered, Message
from watchbill.errors import DeliveryRefused, NotDelivered, needed
from watchbill.loggers import Logger
from watchbill.settings import Settings

with needed("The channel email", "delivery"):
    import aiosmtplib
    from aiosmtplib import SMTPResponse

TEXT_MAX: Final = 1_000_000
"""Characters of an output in a mail."""
QUIT_SECONDS: Final = 2.0
_URL: Final = "WATCHBILL_SMTP_URL"
_FROM: Final = "WATCHBILL_SMTP_FROM"
_PORTS: Final = {"smtp": 587, "smtps": 465}
_HOST: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_logger: Final = Logger("watchbill.delivery")


@dataclass(frozen=True, slots=True, repr=False)
class Server:
    """The SMTP server that WATCHBILL_SMTP_URL names."""

    host: str
    port: int
    tls: bool
    """TLS from the beginning."""
    starttls: bool
    """TLS before anything is said; without it nothing is sent."""
    user: str | None
    password: str | None


def server(url: str) -> Server:
    """Reads the URL. Raises NotDelivered, which does not quote it."""
    if not url:
        raise NotDelivered(f"{_URL} is not set where mail is sent. Set it, as in smtp://user:password@smtp.test:587")
    try:
        parts = urlsplit(url)
        port, starttls = parts.port, parse_qs(parts.query, strict_parsing=bool(parts.query)).pop("starttls", ["yes"])
    except ValueError:
        parts, port, starttls = urlsplit(""), None, []
    if parts.scheme not in _PORTS or not parts.hostname or starttls not in (["yes"], ["no"]):
        raise NotDelivered(f"{_URL} can't be read. Write it as in smtp://user:password@smtp.test:587?starttls=yes")
    found = Server(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "smtps",
        starttls=parts.scheme == "smtp" and starttls == ["yes"],
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
    if found.password and not (found.tls or found.starttls):
        raise NotDelivered(f"{_URL} has a password, which would be sent in the clear. Remove starttls=no")
    return found


async def send(message: Message, channel: Email, settings: Settings, clock: Clock) -> Delivered:
    """Sends one mail to all addresses, or to those that earlier attempts have not reached.

    An answer of 4xx may change, one of 5xx does not. When some addresses are refused for good and others are not, the
    mail counts as delivered, and `detail` names those that were refused.
    """
    to, sender = server(settings.smtp_url), settings.smtp_from
    if not ADDRESS.fullmatch(sender):
        raise NotDelivered(f"{_FROM} is no address, or not set where mail is sent. Set it, as in crews@example.com")
    mail = compose(message, channel, sender, clock.now())
    recipients = list(message.remaining or channel.to)
    client = _client(to, settings.delivery_timeout_seconds)
    try:
        async with Patience(settings.delivery_timeout_seconds):
            refused, said = await _hand_over(client, sender, recipients, mail)
    except TimeoutError:
        raise NotDelivered(f"the mail server did not take it within {settings.delivery_timeout_seconds:g} s") from None
    except aiosmtplib.SMTPResponseException as error:
        raise _refused_whole(error) from None
    except aiosmtplib.SMTPNotSupported as error:
        raise DeliveryRefused(f"the mail server can't take it: {excerpt(error.message)}") from None
    except ssl.SSLError as error:
        raise NotDelivered(f"the mail server has no TLS that can be trusted: {error.reason}") from None
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise NotDelivered(f"the mail server gave no answer that can be read: {excerpt(str(error))}") from None
    finally:
        client.close()
    return _judge(refused, said, recipients)


def _client(to: Server, seconds: float) -> aiosmtplib.SMTP:
    name = socket.gethostname()
    return aiosmtplib.SMTP(
        hostname=to.host,
        port=to.port,
        use_tls=to.tls,
        start_tls=to.starttls,
        username=to.user,
        password=to.password,
        timeout=seconds,
        local_hostname=name if _HOST.fullmatch(name) else "localhost",  # else the library asks a name server
    )


async def _hand_over(
    client: aiosmtplib.SMTP, sender: str, recipients: Sequence[str], mail: bytes
) -> tuple[Mapping[str, SMTPResponse], str]:
    """Addresses that were refused, and the server's words about the rest; empty if there is none."""
    await client.connect()
    try:
        refused, said = await client.sendmail(sender, list(recipients), mail)
    except aiosmtplib.SMTPRecipientsRefused as error:
        refused, said = {one.recipient: SMTPResponse(one.code, one.message) for one in error.recipients}, ""
    with suppress(aiosmtplib.SMTPException, OSError, TimeoutError):  # whatever comes now, it has been taken
        await asyncio.wait_for(client.quit(), QUIT_SECONDS)
    return refused, said


def _refused_whole(error: aiosmtplib.SMTPResponseException) -> NotDelivered | DeliveryRefused:
    text = f"the mail server answered {error.code}: {excerpt(error.message)}"
    if isinstance(error, aiosmtplib.SMTPAuthenticationError):
        return NotDelivered(f"{text}. Correct user and password in {_URL}", error.code)
    of_server = isinstance(error, aiosmtplib.SMTPConnectResponseError | aiosmtplib.SMTPHeloError)
    if error.code >= 500 and not of_server:
        return DeliveryRefused(text, error.code)
    return NotDelivered(text, error.code)


def _judge(refused: Mapping[str, SMTPResponse], said: str, recipients: Sequence[str]) -> Delivered:
    later = [address for address, answer in refused.items() if answer.code < 500]
    told = "; ".join(f"{address}: {answer.code} {excerpt(answer.message)}" for address, answer in refused.items())
    if later:
        text = f"the mail server does not take it for some addresses yet: {told}"
        raise NotDelivered(text, refused[later[0]].code, remaining=later if len(later) < len(recipients) else ())
    if len(refused) == len(recipients):
        raise DeliveryRefused(f"the mail server refuses all addresses: {told}", next(iter(refused.values())).code)
    if refused:
        _logger.warning("the mail server refuses some addresses: %s", told)
        return Delivered(status=250, detail=f"refused: {told}")
    return Delivered(status=250, detail=excerpt(said))


def compose(message: Message, channel: Email, sender: str, now: datetime) -> bytes:
    """The mail. Its id comes of the delivery's, so that mailboxes and people can tell a repetition."""
    mail = EmailMessage(policy=policy.SMTP)
    mail["From"] = sender
    mail["To"] = ", ".join(channel.to)
    mail["Subject"] = " ".join((channel.subject or texts.title(message)).split())
    mail["Date"] = format_datetime(now)
    digest = hashlib.sha256(message.delivery_id.encode()).hexdigest()[:32]
    mail["Message-ID"] = f"<{digest}@{sender.rpartition('@')[2]}>"
    mail["Auto-Submitted"] = "auto-generated"  # so that nobody's out-of-office answers
    body = texts.shorten(texts.body(message), lambda part: len(part) <= TEXT_MAX)
    mail.set_content(f"{texts.title(message)}\n\n{body}\n\n-- \n{texts.footer(message)}\n", cte="quoted-printable")
    return mail.as_bytes()
