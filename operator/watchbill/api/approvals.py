"""Parts of a Crew that say which of its work waits for somebody's approval, and for how long. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import Field

from watchbill.api.meta import SET, UniqueNames
from watchbill.api.problems import Finding
from watchbill.api.tool_sources import ALL, REFERENCE

APPROVAL_SECONDS: Final = 86_400
APPROVAL_SECONDS_MAX: Final = 2_592_000
_LISTED_MAX: Final = 100

RULE: Final[dict[str, Any]] = {
    "rule": "!has(self.requiresApproval) || [self.agents.map(a, a.name)].all(names, "
    "self.requiresApproval.all(n, n in names || (has(self.sharedTools) && n in self.sharedTools) || "
    f"n.matches('^{REFERENCE.pattern}$') || self.agents.exists(a, has(a.tools) && n in a.tools)))",
    "message": "requiresApproval cites what is no agent of this crew, and no tool of one. Correct it, or add it",
    "fieldPath": ".requiresApproval",
}
"""CEL: the same as `strangers`. `unknown_tools` is the rest of it, which costs too much at the API server."""

RequiresApproval = Annotated[
    UniqueNames,
    Field(
        max_length=_LISTED_MAX,
        description="Names of agents, each of whose tasks begins only when somebody has approved of it (watchbill "
        "approve); and tools, as agents cite them, each of whose calls is made only then. Until then the task waits "
        "without a slot.",
        json_schema_extra=SET,
    ),
]
ApprovalTimeout = Annotated[
    int,
    Field(
        ge=1,
        le=APPROVAL_SECONDS_MAX,
        description="Seconds for which a task waits for an approval: of its beginning, or of what its agent asks. Then "
        "it has failed.",
    ),
]


def strangers(requires: Sequence[str], agents: Mapping[str, Sequence[str]], shared: Sequence[str]) -> Iterator[Finding]:
    """Findings about entries of `requires` that are no agent, and no tool as an agent cites it. `agents`: the tools of
    each by its name. `shared`: those of all."""
    tools = _all(agents, shared)
    for i, name in enumerate(requires):
        if name not in agents and name not in tools and not REFERENCE.fullmatch(name):
            reason = f"{name!r} is no agent of this crew, and no tool that one of them cites"
            yield Finding(("requiresApproval", i), reason, f"Name one of these: {', '.join([*agents, *tools])}.")


def unknown_tools(
    requires: Sequence[str], agents: Mapping[str, Sequence[str]], shared: Sequence[str]
) -> Iterator[Finding]:
    """Findings about tools of servers in `requires` that no agent has. Takes what `strangers` takes."""
    tools = _all(agents, shared)
    for i, name in enumerate(requires):
        if REFERENCE.fullmatch(name) and not is_tool(name, tools):
            fix = f"Cite one as agents do: {', '.join(tools)}." if tools else "Add it to the tools of an agent."
            yield Finding(("requiresApproval", i), f"no agent of this crew has the tool {name!r}", fix)


def is_tool(name: str, tools: Collection[str]) -> bool:
    """Returns whether the name is that of a tool among `tools`, as agents cite them: `docs/search` is in `docs/*`."""
    if name in tools:
        return True
    match = REFERENCE.fullmatch(name)
    if match is None:
        return False
    return f"{match[1]}/{ALL}" in tools or (match[2] == ALL and any(one.startswith(f"{match[1]}/") for one in tools))


def needs(requires: Collection[str], tool: str) -> bool:
    """Returns whether somebody must approve of each call of this tool, named as agents cite it."""
    match = REFERENCE.fullmatch(tool)
    return tool in requires or (match is not None and f"{match[1]}/{ALL}" in requires)


def _all(agents: Mapping[str, Sequence[str]], shared: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*shared, *(tool for tools in agents.values() for tool in tools)]))
