"""Crews whose hierarchy can't work."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import Refused, crew

_NEED_EACH_OTHER: Final = "executionMode hierarchical and hierarchy need each other"


def _hierarchy(**fields: str) -> dict[str, Any]:
    return crew({"spec.executionMode": "hierarchical", "spec.hierarchy": fields})


HIERARCHIES: Final = [
    Refused("no hierarchy", crew({"spec.executionMode": "hierarchical"}), "spec.hierarchy", says=_NEED_EACH_OTHER),
    Refused(
        "a hierarchy in another mode",
        crew({"spec.hierarchy": {"manager": "writer"}}),
        "spec.hierarchy",
        says=_NEED_EACH_OTHER,
    ),
    Refused("a strange manager", _hierarchy(manager="x"), "spec.hierarchy.manager", says="the manager is no agent"),
    Refused(
        "a strange reviewer",
        _hierarchy(manager="writer", reviewer="x"),
        "spec.hierarchy.reviewer",
        says="the reviewer is no agent",
    ),
    Refused(
        "a hierarchy without members",
        _hierarchy(manager="writer", reviewer="researcher"),
        "spec.agents",
        says="the manager has nobody to delegate to",
    ),
]
