"""All boards, by the name of their file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from monitoring.board_crew import CREW
from monitoring.board_fleet import FLEET
from monitoring.board_platform import OPERATOR, STORE
from monitoring.panels import Board

BOARDS: Final[Mapping[str, Board]] = {"fleet": FLEET, "crew": CREW, "operator": OPERATOR, "store": STORE}

NOT_SHOWN: Final[Mapping[str, str]] = {
    "watchbill_checkpoints_total": "it tells how agents are written; the attempts behind a replay are shown",
    "watchbill_watch_events_total": "few crews have watches, and the crew's feed tells each of these events",
    "watchbill_watch_gaps_total": "few crews have watches, and the crew's feed tells each of these times",
    "watchbill_tool_server_up": "few crews have tool servers, and their tasks' errors name the one that is out",
}
"""Metrics that are on no board → the reason."""
