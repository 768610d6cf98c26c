"""The one rule for secrets: what of the environment is one, and how texts that leave the process are freed of it.

Errors, events, dead letters and log lines pass through here. What an agent returns does not: that is its own to judge.
A secret is the value of a variable whose name has a word that says so (PASSWORD, TOKEN, KEY, …; WATCHBILL_SECRET_NAMES
names more, and fewer), and a credential inside any value: of a URL, of a query, of a connection string. In the text
itself, credentials in URLs are taken out whether they are known or not.
"""

from __future__ import annotations

import base64
import binascii
import functools
import html
import json
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote

SHORTEST: Final = 4
"""Shorter values say nothing, and would blot out half of a text."""
_SHORTEST_ANYWHERE: Final = 8
"""Shorter ones are taken out where they are whole words only, so that other words keep their letters."""
_SHORTEST_LINE: Final = 16
_FORGET_AFTER: Final = 2000
"""So many forms of secrets are remembered that the environment no longer has: a module may delete what it has read."""
_MORE_NAMES: Final = "WATCHBILL_SECRET_NAMES"
_NO_SECRETS: Final = frozenset({"PWD", "OLDPWD", _MORE_NAMES})

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET: Final = re.compile(
    r"_(?:PASS|PASSCODE|PASSKEY|PW|PWD|PAT|KEY|CRED|DSN|O?AUTH|AUTHORIZATION|COOKIE|JWT|BEARER|PEM|PSK|OTP|PRIVATE"
    r"|SIG|SIGNATURE|CONN(?:ECTION)?_?STR(?:ING)?"
    r"|[A-Z]*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|WEBHOOK)"
    r"|(?:SSH|PG|MYSQL|DB|SMTP|FTP|MAIL|LDAP|REDIS|ROOT|USER|ADMIN)(?:PASS|PWD|PW)"
    r"|(?:API|APP|ACCESS|ACCOUNT|AUTH|SECRET|PRIVATE|MASTER|SIGNING|ENCRYPTION|LICENSE|SERVICE)KEY)S?_"
)
_ABOUT: Final = re.compile(
    r"_(?:PUBLIC|PUBLISHABLE|MAX|MIN)_|_(?:FILES?|PATH|DIR|FOLDER|SOCK|SOCKET|NAMES?|TYPE|MODE|METHOD|ENABLED|DISABLED"
    r"|REQUIRED|HOST|IP|PORT|UR[LI]|ENDPOINT|ISSUER|AUDIENCE|USER|USERNAME|DOMAIN|REGION|PROVIDER|VERSION|ALG|ALGORITHM"
    r"|TTL|TIMEOUT|SECONDS|MINUTES|HOURS|DAYS|LENGTH|SIZE|COUNT|LIMIT|PREFIX|FORMAT|BACKEND|PLUGIN)_$"
)
"""Names that tell of a secret without being one: SSL_KEY_FILE, TOKEN_LIMIT."""
_WEBHOOK: Final = re.compile(r"WEBHOOKS?_UR[LI]_$")
_NO_VALUE: Final = re.compile(
    r"true|false|none|null|basic|bearer|default|enabled|disabled|required|optional"
    r"|[-+]?[0-9][0-9.,_]{0,4}"
    r"|(?:~|\.{0,2})/[\w./-]+\.[a-z]{2,5}",  # a file
    re.IGNORECASE,
)
_SCHEME: Final = re.compile(r"(?:Bearer|Basic|Token)(?:\s+|%20)", re.IGNORECASE)
_PAIR: Final = re.compile(
    r"""(?<![\w.-])([\w.-]++)\s*+=\s*+("[^"]*"|'[^']*'|[^;&\s]+)|"([\w.-]++)"\s*+:\s*+"([^"]+)\""""
)
"""Possessive, and from a name's beginning only: a value of 100,000 letters takes minutes otherwise."""
_URL_OF_LIST: Final = re.compile(r"://(\S*?)(?=://|\s|\Z)")
_URL: Final = re.compile(r"://([^\s\"'<>]+)")
_HOST_AND_PORT: Final = re.compile(r"(?:[\w-]+\.[\w.-]+|localhost):[0-9]{1,5}/")
_QUERY: Final = re.compile(r"(?<=[?&;])([\w.%-]+)=([^&;#\s\"'<>]+)")
_BASIC: Final = re.compile(r"\b(Basic(?:\s+|%20))([A-Za-z0-9+/_-]{6,}={0,2})", re.IGNORECASE)


def is_secret(name: str, more: str = "") -> bool:
    """Returns whether a variable or an option of this name holds a secret. `more`: as in WATCHBILL_SECRET_NAMES."""
    for pattern in (part.strip().upper() for part in more.split(",")):
        if pattern and fnmatchcase(name.upper(), pattern.removeprefix("-")):
            return not pattern.startswith("-")
    words = f"_{'_'.join(_WORD.findall(name)).upper()}_"
    return bool(_SECRET.search(words)) and (not _ABOUT.search(words) or bool(_WEBHOOK.search(words)))


class Redactor:
    """Takes secrets out of texts. Looks at the environment as it is when it is called, and knows what it was told
    besides. For any thread."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` default: this process's own, changes included."""
        self._environment = os.environ if environment is None else environment
        self._learned: Mapping[str, str] = {}
        """Secret that the environment doesn't hold → its name."""
        self._known: tuple[dict[Any, Any], Mapping[str, str], dict[str, str]] = ({}, self._learned, {})

    def learn(self, name: str, secret: str) -> None:
        """From now on also takes out this secret, which a file holds, say. `name` is shown in its place."""
        if secret not in self._learned and _matters(secret):
            self._learned = {**self._learned, secret: name}  # another dict: threads may be reading the last

    def __call__(self, text: str) -> str:
        """The text with `[redacted NAME]` in place of secrets."""
        names = self._forms()
        if found := [form for form in names if form in text]:
            found.sort(key=len, reverse=True)
            text = re.sub("|".join(map(_where, found)), lambda match: _mark(match, names), text)
        if "://" in text:
            text = _URL.sub(lambda match: "://" + _without_password(match[1]), text)
        if "=" in text:
            text = _QUERY.sub(_without_value, text)
        if "asic" in text or "ASIC" in text:
            text = _BASIC.sub(lambda match: f"{match[1]}[redacted]" if ":" in _decoded(match[2]) else match[0], text)
        return text

    def _forms(self) -> Mapping[str, str]:
        """Each form of a secret in a text → the variable that holds the secret."""
        seen, seen_learned, names = self._known
        learned = self._learned
        # what os.environ wraps: two dicts are compared in microseconds, where os.environ itself decodes each entry
        now: Mapping[Any, Any] = getattr(self._environment, "_data", self._environment)
        if now != seen or learned is not seen_learned:
            seen = dict(now)
            more = self._environment.get(_MORE_NAMES, "")
            # one look at each, as others may change it meanwhile
            held = ((name, self._environment.get(name)) for name in list(self._environment))
            fresh = {form: name for name, value in held if value for form in _forms_of(name, value, more)}
            fresh |= {form: name for secret, name in learned.items() for form in _forms(secret)}
            gone = [form for form in names if form not in fresh][-_FORGET_AFTER:]
            names = {form: names[form] for form in gone} | fresh
            self._known = (seen, learned, names)
        return names


redact: Final = Redactor()
"""For this process: its environment at the time."""


@functools.lru_cache(maxsize=2048)
def _forms_of(name: str, value: str, more: str) -> tuple[str, ...]:
    """All that must not be seen of one variable."""
    if name.upper() in _NO_SECRETS:
        return ()
    secrets = list(_credentials(value))
    if is_secret(name, more):
        secrets += [value, value.strip(), _SCHEME.sub("", value.strip(), count=1)]
        # a key file: also each of its lines, for whoever prints it line by line
        lines = map(str.strip, value.splitlines())
        secrets += [line for line in lines if len(line) >= _SHORTEST_LINE and not line.startswith("-----")]
    return tuple(dict.fromkeys(form for secret in secrets if _matters(secret) for form in _forms(secret)))


def _matters(secret: str) -> bool:
    return len(secret) >= SHORTEST and not _NO_VALUE.fullmatch(secret)


def _credentials(value: str) -> Iterator[str]:
    """Yields passwords, tokens and keys inside a value that is none."""
    for match in _URL_OF_LIST.finditer(value):
        place = _userinfo(match[1])
        user, colon, password = place.partition(":")
        if colon:
            yield from (password, unquote(password), unquote(password.partition("@")[0]), password.partition("@")[0])
        elif len(user) >= _SHORTEST_LINE:  # https://TOKEN@github.com
            yield user
    for name, text, key, told in _PAIR.findall(value):
        text = text.strip("\"'") if name else told
        yield from _of_pair(name or key, text)
        for part in text.split(",")[1:] if "," in text else ():  # some lists are separated by it
            inner, _, rest = part.partition("=")
            yield from _of_pair(inner.strip(), rest.strip(" \"'"))


def _of_pair(name: str, told: str) -> Iterator[str]:
    """Yields the value of `name=value`, where it is a secret."""
    if is_secret(name):
        for secret in (told, told.partition(",")[0]):
            yield from (_SCHEME.sub("", secret, count=1), unquote(_SCHEME.sub("", secret, count=1)))


def _userinfo(rest: str) -> str:
    """`user:password` of what follows `://`. Passwords may hold an @, a / and a ? that nobody has encoded."""
    if _HOST_AND_PORT.match(rest):
        return ""
    place = rest.partition("?")[0]
    return (place if "@" in place else rest).rpartition("@")[0]


def _without_password(rest: str) -> str:
    place = _userinfo(rest)
    user, colon, password = place.partition(":")
    return f"{user}:[redacted]{rest[len(place) :]}" if colon and password else rest


def _without_value(match: re.Match[str]) -> str:
    return f"{match[1]}=[redacted]" if is_secret(unquote(match[1])) and match[2] != "[redacted" else match[0]


def _forms(secret: str) -> Iterator[str]:
    """Yields the forms of a secret: as it is, and quoted by repr (KeyError and many libraries), twice so, as bytes, by
    JSON, in a URL or in HTML; and in base64, as the header of Basic has it beside a user."""
    quoted, encoded = repr(secret)[1:-1], secret.encode("utf-8", "surrogatepass")
    yield from (secret, quoted, repr(quoted)[1:-1], repr(encoded)[2:-1], json.dumps(secret)[1:-1])
    for url in (quote(encoded, safe=""), quote(encoded), quote_plus(encoded)):
        yield from (url, re.sub("%..", lambda match: match[0].lower(), url))
    yield html.escape(secret)
    if len(encoded) < _SHORTEST_ANYWHERE:
        return
    for before in range(3):  # what precedes it decides how its bits are cut
        whole = base64.b64encode(b"\0" * before + encoded).decode().rstrip("=")
        inner = whole[(0, 2, 3)[before] :]
        inner = inner if (before + len(encoded)) % 3 == 0 else inner[:-1]
        yield from (inner, inner.replace("+", "-").replace("/", "_"))


def _where(form: str) -> str:
    """The pattern of a form: a short one as a word of its own, also after an escape sequence."""
    pattern = re.escape(form)
    if len(form) >= _SHORTEST_ANYWHERE:
        return pattern
    if re.match(r"\w", form):
        pattern = r"(?:(?<!\w)|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2}))" + pattern
    return pattern + r"(?!\w)" if re.search(r"\w\Z", form) else pattern


def _mark(match: re.Match[str], names: Mapping[str, str]) -> str:
    return f"[redacted {names[match[0]]}]"


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), "-_" if "-" in text or "_" in text else None).decode()
    except (binascii.Error, ValueError):
        return ""
