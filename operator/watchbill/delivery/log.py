"""The channel log: a result becomes one line of this process's log."""

from __future__ import annotations

import json
from typing import Final

from watchbill.api.delivery import Log
from watchbill.delivery import texts
from watchbill.delivery.message import Delivered, Message
from watchbill.loggers import Logger

OUTPUT_MAX: Final = 4096
"""Characters of an output in a line: people read logs, and what collects logs cuts long lines."""
LOGGER: Final = "watchbill.delivery"
_logger: Final = Logger(LOGGER)
_WRITE: Final = {
    "DEBUG": _logger.debug,
    "INFO": _logger.info,
    "WARNING": _logger.warning,
    "ERROR": _logger.error,
}


def send(message: Message, channel: Log) -> Delivered:
    """Writes the line. The log's formatter takes secrets of the environment out of it."""
    write = _WRITE[channel.level or ("INFO" if message.success else "WARNING")]
    said = message.output if message.success else message.error
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    if len(text) > OUTPUT_MAX:
        text = f"{text[:OUTPUT_MAX]} … ({len(text) - OUTPUT_MAX} more characters)"
    write("%s in %.0f ms, task %s: %s", texts.title(message), message.execution_time_ms, message.task_id, text)
    return Delivered()
