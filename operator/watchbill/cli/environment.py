"""What the environment says: settings read once, and where log lines go. Secrets never come out of here."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from watchbill.errors import InvalidInput, Problem

if TYPE_CHECKING:
    from watchbill.settings import Settings


class _Stderr:
    """Whatever sys.stderr is at the time: while the tree of steps is shown, that puts log lines above it."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def read() -> Settings:
    """The settings; log lines go to stderr from now on, without secrets. Raises InvalidInput, naming the variable."""
    from pydantic import ValidationError

    from watchbill.settings import Settings
    from watchbill.worker.redact import RedactingFormatter, Redactor

    try:
        settings = Settings()
    except ValidationError as error:
        raise InvalidInput(
            [
                Problem(
                    f"{detail['input']!r} can't be used: {detail['msg']}",
                    "Correct it, or unset it.",
                    path="WATCHBILL_" + "_".join(str(part) for part in detail["loc"]).upper(),
                )
                for detail in error.errors(include_url=False)
            ]
        ) from None
    levels = logging.getLevelNamesMapping()
    if settings.log_level.upper() not in levels:
        reason = f"{settings.log_level!r} is not a log level"
        raise InvalidInput(Problem(reason, "Use DEBUG, INFO, WARNING or ERROR.", path="WATCHBILL_LOG_LEVEL"))
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(RedactingFormatter(Redactor(os.environ), "%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=levels[settings.log_level.upper()], handlers=[handler], force=True)
    return settings
