"""Secret values of destinations, read when they are used: from the environment, or from mounted Secrets.

A value is never kept: a Secret that changes is seen by the next attempt, and nothing here holds what it no longer has.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from watchbill import cluster_names
from watchbill.api.delivery import ENV_REFERENCE, Secret
from watchbill.errors import NotDelivered

MOUNTED: Final = Path(cluster_names.DELIVERY_SECRETS)
"""The folder in a worker's pod where the Secrets of destinations are mounted: `<secret>/<key>`."""


class Secrets(Protocol):
    """The way to secret values."""

    def read(self, secret: Secret) -> str:
        """The value, without white space around it. Raises NotDelivered when there is none: somebody may add it."""
        ...


class LocalSecrets:
    """Reads `env:NAME` from an environment, and keys of Secrets from files `<folder>/<secret>/<key>`."""

    def __init__(self, environment: Mapping[str, str] | None = None, folder: Path = MOUNTED) -> None:
        """`environment` default: this process's own, changes included. A mapping of one's own may add values to it
        that must not leave this process."""
        self._environment = os.environ if environment is None else environment
        self._folder = folder

    def read(self, secret: Secret) -> str:
        if secret.key is not None:
            return self._mounted(secret, self._folder / secret.key.name / secret.key.key)
        text = secret.text or ""
        if not ENV_REFERENCE.fullmatch(text):
            return text
        value = self._environment.get(text.removeprefix("env:"), "").strip()
        if not value:
            raise NotDelivered(f"{secret} is not set where this is delivered, or is empty. Set it")
        return value

    def _mounted(self, secret: Secret, file: Path) -> str:
        try:
            value = file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = "is no text" if isinstance(error, UnicodeDecodeError) else f"can't be read ({error.strerror})"
            raise NotDelivered(f"{secret} {reason}. Add it, as text") from None
        if not value:
            raise NotDelivered(f"{secret} is empty. Give it a value")
        return value
