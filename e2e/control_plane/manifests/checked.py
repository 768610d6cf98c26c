"""Manifests that the API server takes and `parse` refuses: no schema and no rule of CEL can say what is wrong."""

from __future__ import annotations

from typing import Final

from e2e.control_plane.manifests import Refused, flow, limits, models, scheduled

_CRON: Final = "spec.schedule"

CHECKED: Final = [
    *(
        Refused(what, flow(*relations), "spec.flowRelations", problem=circle)
        for what, relations, circle in (
            ("an agent that waits for itself", [(["a"], ["a"])], "a -> a"),
            ("two that wait for each other", [(["a"], ["b"]), (["b"], ["a"])], "a -> b -> a"),
            ("a circle of three", [(["a"], ["b"]), (["b"], ["c"]), (["c"], ["a"])], "a -> b -> c -> a"),
            ("a circle within shared ends", [(["a"], ["b", "c"]), (["c", "b"], ["b"])], "b -> b"),
        )
    ),
    *(
        Refused(f"schedule {expression!r}", scheduled(expression), _CRON, problem=problem)
        for expression, problem in (
            ("0 9 * *", "has 4"),
            ("0 0 9 * * *", "has 6"),
            ("@every 5m", "is not the name of a schedule"),
            (" ", "has 0"),
            ("60 * * * *", "is not a cron expression"),
            ("* 24 * * *", "is not a cron expression"),
            ("* * 0 * *", "is not a cron expression"),
            ("* * * 13 *", "is not a cron expression"),
            ("* * * * 8", "is not a cron expression"),
            ("5-1 * * * *", "is not a cron expression"),
            ("*/0 * * * *", "is not a cron expression"),
            ("a b c d e", "is not a cron expression"),
            ("0 0 30 2 *", "is not a cron expression"),
        )
    ),
    *models.CHECKED,
    *limits.CHECKED,
    # the API server's own zone, whichever that is
    Refused("time zone Local", scheduled("0 9 * * *", "Local"), "spec.timeZone", problem="not a known time zone"),
]
