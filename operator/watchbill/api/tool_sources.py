"""Tools that a Crew declares itself: servers that speak MCP, and HTTP requests. Pure.

Neither holds a secret. A header's value comes from a variable of the workers' environment, as `env:NAME`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from watchbill.api import output_schema
from watchbill.api.meta import Strict, by_key
from watchbill.api.problems import Finding, Hint, nearest, quote, raise_findings, refuse

SERVERS_MAX: Final = 16
HTTP_TOOLS_MAX: Final = 50
HEADERS_MAX: Final = 16

REFERENCE: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]*)/(.+)")
"""A tool of a server, or all of them: `docs/search`, `docs/*`."""
ALL: Final = "*"
PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")

_SECRET_FORM: Final = re.compile("((Bearer|Basic|Token) )?env:[A-Za-z_][A-Za-z0-9_]*")
_HEADER: Final = re.compile("[A-Za-z0-9][A-Za-z0-9-]{0,126}")
_RESERVED: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_USER: Final = re.compile("[^/]*//[^/?#]*@")
_HEADER_FIX: Final = "Write env:NAME, or Bearer env:NAME, for a variable of the workers' environment"
_URL_REASON: Final = "the URL has a user or password in it"
_URL_FIX: Final = "Remove it, and use a header with env:NAME"
_NO_SECRETS: Final[list[Any]] = [
    {
        "rule": f"!has(self.url) || !self.url.matches('^{_USER.pattern}')",
        "message": f"{_URL_REASON}. {_URL_FIX}",
        "fieldPath": ".url",
    },
    {
        "rule": f"!has(self.headers) || self.headers.all(h, self.headers[h].matches('^({_SECRET_FORM.pattern})$'))",
        "message": f"the value of a header is written out, where all who may read the crew see it. {_HEADER_FIX}",
        "fieldPath": ".headers",
    },
]
"""CEL: the same as `_url` and `_headers`. No patterns, because the API server quotes what fails one."""
_URL: Final = "^https?://[!-z|~{}]+$"


def _headers(value: dict[str, str]) -> dict[str, str]:
    for name, text in value.items():
        if not _HEADER.fullmatch(name) or name.lower() in _RESERVED:
            refuse(f"{quote(name)} can't be the name of a header here", "Remove it, or correct it.")
        if not _SECRET_FORM.fullmatch(text):
            reason = f"the value of header {name!r} is written out, where all who may read the crew see it"
            refuse(reason, f"{_HEADER_FIX}.")
    return value


def _url(value: str) -> str:
    if _USER.match(value):
        refuse(_URL_REASON, f"{_URL_FIX}.")
    return value


Headers = Annotated[dict[str, Annotated[str, Field(max_length=256)]], AfterValidator(_headers)]
Url = Annotated[
    str, Field(max_length=2048, pattern=_URL), Hint("Begin it with http:// or https://."), AfterValidator(_url)
]
Variable = Annotated[
    str,
    Field(min_length=1, max_length=128, pattern="^[A-Za-z_][A-Za-z0-9_]*$"),
    Hint("Write the name of a variable, as in GITHUB_TOKEN."),
]


class ToolServer(Strict):
    """A server of tools that speaks MCP (Model Context Protocol)."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.url) != has(self.command)",
                    "message": "a tool server has a url or a command. Give one of the two",
                    "fieldPath": ".url",
                },
                *_NO_SECRETS,
            ]
        },
    )

    name: Annotated[str, Hint("Use letters, digits and dashes, at most 31, beginning with a letter.")] = Field(
        max_length=31,
        pattern="^[A-Za-z][A-Za-z0-9-]*$",
        description="Name of the server. Agents cite its tools as NAME/TOOL, or all of them as NAME/*.",
    )
    url: Url | None = Field(
        default=None, description="URL of the server, by streamable HTTP. Workers must be able to reach it."
    )
    headers: Headers = Field(
        default_factory=dict,
        max_length=HEADERS_MAX,
        description="Headers of each request to url: env:NAME, or Bearer env:NAME, of the workers' environment.",
    )
    command: list[Annotated[str, Field(max_length=1024)]] | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="Command line of a server that speaks by standard input and output. Workers start only what "
        "WATCHBILL_ALLOW_COMMANDS allows.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    env: list[Variable] = Field(
        default_factory=list,
        max_length=64,
        description="Names of variables of the workers' environment that the command gets, besides PATH and HOME.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    timeout_seconds: int = Field(
        default=30, ge=1, le=600, description="Seconds that the server may take to start, and to answer a call."
    )

    @model_validator(mode="after")
    def _one_way(self) -> ToolServer:
        raise_findings(type(self), self._contradictions())
        return self

    def _contradictions(self) -> Iterator[Finding]:
        if (self.url is None) == (self.command is None):
            yield Finding(("url",), f"tool server {self.name!r} has not one of url and command", "Give one of the two.")
        if self.url is None and self.headers:
            yield Finding(("headers",), "headers mean nothing without a url", "Remove them.")
        if self.command is None and self.env:
            yield Finding(("env",), "env means nothing without a command", "Remove it.")


class HttpTool(Strict):
    """An HTTP request that models may make, with arguments that they give."""

    model_config = ConfigDict(hide_input_in_errors=True, json_schema_extra={"x-kubernetes-validations": [*_NO_SECRETS]})

    name: Annotated[str, Hint("Use letters, digits, dashes and underscores, at most 64, beginning with a letter.")] = (
        Field(
            max_length=64,
            pattern="^[A-Za-z][A-Za-z0-9_-]*$",
            description="Name of the tool. Agents cite it in tools, and models call it by this name.",
        )
    )
    description: str = Field(
        min_length=1, max_length=4096, description="What the tool is for, in words for the model, which decides by it."
    )
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"] = Field(
        default="GET", description="Method of the request."
    )
    url: Url = Field(
        description="URL with arguments in braces: https://shop.example.com/items/{item}. Arguments that it "
        "doesn't cite go into the query, or with POST, PUT and PATCH into a JSON body.",
    )
    headers: Headers = Field(
        default_factory=dict,
        max_length=HEADERS_MAX,
        description="Headers of the request: env:NAME, or Bearer env:NAME, of the workers' environment.",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        max_length=64,
        description="JSON Schema of the arguments: an object. Default: there are none.",
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    timeout_seconds: int = Field(default=30, ge=1, le=600, description="Seconds that the whole answer may take.")


ToolServers = Annotated[
    list[ToolServer],
    Field(
        max_length=SERVERS_MAX,
        description="Servers of tools that speak MCP. Agents cite their tools as NAME/TOOL or NAME/*.",
        json_schema_extra=by_key("name"),
    ),
]
HttpTools = Annotated[
    list[HttpTool],
    Field(
        max_length=HTTP_TOOLS_MAX,
        description="Tools that are HTTP requests. Agents cite them by name.",
        json_schema_extra=by_key("name"),
    ),
]


def findings(
    servers: list[ToolServer], http_tools: list[HttpTool], cited: Mapping[tuple[str | int, ...], str]
) -> Iterator[Finding]:
    """Yields what is wrong with the declared tools of a crew, and with the citations of servers. `cited`: each
    reference to a tool by its place. Places are those within the spec."""
    for field, listed in (("toolServers", servers), ("httpTools", http_tools)):
        names = [each.name for each in listed]
        for i, name in enumerate(names):
            if name in names[:i]:
                reason = f"two entries are called {name!r}: {field}[{names.index(name)}] and {field}[{i}]"
                yield Finding((field, i, "name"), reason, "Give each a name of its own.")
    for i, tool in enumerate(http_tools):
        for found in _of_request(tool):
            yield found._replace(loc=("httpTools", i, *found.loc))
    known = [server.name for server in servers]
    for place, reference in cited.items():
        match = REFERENCE.fullmatch(reference)
        if match and match[1] not in known:
            meant = nearest(match[1], known)
            fix = f"Write {meant + '/' + match[2]!r}." if meant else "Add it to spec.toolServers."
            yield Finding(place, f"no tool server of this crew is called {match[1]!r}", fix)


def _of_request(tool: HttpTool) -> Iterator[Finding]:
    wrong = output_schema.findings(tool.parameters) if tool.parameters else []
    for found in wrong:
        yield found._replace(loc=("parameters", *found.loc))
    authority = tool.url.partition("://")[2].partition("/")[0].partition("?")[0]
    if PLACEHOLDER.search(authority):
        fix = "Write the host out: else a model chooses who is asked."
        yield Finding(("url",), "an argument stands in the host of the URL", fix)
    properties = tool.parameters.get("properties", {})
    if wrong or not isinstance(properties, Mapping):
        return
    for name in dict.fromkeys(PLACEHOLDER.findall(tool.url)):
        if name not in properties:
            meant = nearest(name, properties)
            fix = f"Write {{{meant}}}." if meant else "Add it to parameters.properties."
            yield Finding(("url",), f"the URL cites {{{name}}}, which is no parameter", fix)
        elif name not in tool.parameters.get("required", ()):
            fix = "Add it to parameters.required."
            yield Finding(("parameters", "required"), f"the URL needs {name!r}, which may be left out", fix)
