"""Keeps secrets of the environment out of what leaves the process: errors, messages, log lines.

An agent's own exception may quote a key; the store, the feed and the log must not.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote

_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|DSN|AUTH", re.IGNORECASE)
_PASSWORD_IN_URL: Final = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
_SHORTEST: Final = 8
"""Shorter values would blot out ordinary words."""


class Redactor:
    """Replaces the values of secret-looking environment variables, wherever they stand in a text."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        secrets: dict[str, str] = {}
        for name, value in environment.items():
            if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
                secrets[value] = name
                # a key file: also each of its lines, for whoever prints it line by line
                secrets.update((line, name) for line in value.splitlines() if len(line) >= 2 * _SHORTEST)
            for password in _PASSWORD_IN_URL.findall(value):
                secrets[password] = secrets[unquote(password)] = name
        self._names = {form: name for secret, name in secrets.items() for form in _forms(secret)}
        values = sorted(self._names, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, values))) if values else None

    def __call__(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda match: f"[redacted {self._names[match.group()]}]", text)


def _forms(secret: str) -> set[str]:
    """As it is, and as it looks when quoted: by repr (KeyError and many libraries), twice so, by JSON, in a URL."""
    quoted = repr(secret)[1:-1]
    return {secret, quoted, repr(quoted)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe=""), quote(secret)}


class RedactingFormatter(logging.Formatter):
    """A log formatter whose lines, tracebacks included, carry no secret."""

    def __init__(self, redact: Redactor, fmt: str) -> None:
        super().__init__(fmt)
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))
