"""Limits of agents and models, and roles of agents."""

from __future__ import annotations

from typing import Any, Final

from e2e.control_plane.manifests import Refused, crew

_RATE: Final = "spec.agents[0].rateLimit"
_ROLES: Final = "spec.agents[0].roles"
_MODEL: Final = "spec.modelLimits[0]"


def _model(**fields: Any) -> dict[str, Any]:
    return crew({"spec.modelLimits": [{"model": "m", **fields}]})


def _roles(agents: int, each: int, twice: int = 0) -> dict[str, Any]:
    """A crew of agents with different roles; `twice`: so many more have the roles of the first."""
    roles = [[f"r{i}-{j}" for j in range(each)] for i in range(agents)]
    listed = [{"name": f"a{i}", "class": "EchoAgent", "roles": of} for i, of in enumerate(roles + roles[:1] * twice)]
    return crew({"spec.agents": listed})


ACCEPTED: Final = {
    "limits of an agent and of 100 models": crew(
        {
            "spec.agents[0].maxConcurrent": 2,
            _RATE: {"requests": 10, "periodSeconds": 60, "burst": 3},
            "spec.modelLimits": [
                {"model": "openai:gpt-5-mini", "requests": 500, "burst": 20, "tokens": 200000, "periodSeconds": 60},
                *({"model": f"m{i}", "tokens": 1} for i in range(99)),
            ],
        }
    ),
    "a crew of a hundred roles, some of them twice": _roles(10, 10, 10),
    "an agent of ten roles": crew({_ROLES: ["reviewer", "r" * 63, "Lead.of_all-1", *(f"r{i}" for i in range(7))]}),
}
REFUSED: Final = [
    Refused("a rate of nothing", crew({_RATE: {"periodSeconds": 5}}), f"{_RATE}.requests"),
    Refused("a rate in one number", crew({_RATE: 5}), _RATE),
    Refused("a rate with a field of another", crew({_RATE: {"requests": 1, "tokens": 5}}), f"{_RATE}.tokens"),
    Refused("a model's limit of nothing", _model(), _MODEL, says="neither requests nor tokens is given"),
    Refused("a burst of tokens", _model(tokens=5, burst=2), f"{_MODEL}.burst", says="with requests only"),
    Refused("a limit without its model", crew({"spec.modelLimits": [{"model": "", "tokens": 5}]}), f"{_MODEL}.model"),
    Refused(
        "two limits of one model",
        crew({"spec.modelLimits": [{"model": "m", "tokens": 5}, {"model": "m", "requests": 5}]}),
        "spec.modelLimits[1].model",
        server="spec.modelLimits[1]",
    ),
    Refused(
        "101 limits of models",
        crew({"spec.modelLimits": [{"model": f"m{i}", "tokens": 5} for i in range(101)]}),
        "spec.modelLimits",
    ),
    Refused("a role twice", crew({_ROLES: ["reviewer", "reviewer"]}), _ROLES, server=f"{_ROLES}[1]"),
    Refused("a role without a name", crew({_ROLES: [""]}), f"{_ROLES}[0]"),
    Refused("a role with a colon", crew({_ROLES: ["role:reviewer"]}), f"{_ROLES}[0]"),
    Refused("a role of 64 characters", crew({_ROLES: ["r" * 64]}), f"{_ROLES}[0]"),
    Refused("eleven roles", crew({_ROLES: [f"r{i}" for i in range(11)]}), _ROLES),
    Refused("a role that is no list", crew({_ROLES: "reviewer"}), _ROLES),
]
CHECKED: Final = [
    Refused("101 different roles", _roles(11, 10), "spec.agents[10].roles[0]", problem="100 different roles at most"),
]
"""The API server takes them: its rules can't count what differs."""
