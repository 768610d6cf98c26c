"""Tools that a Crew declares: what is said of mistakes, by their places."""

from __future__ import annotations

import pytest
from reading import CREW, only, problems, read

pytestmark = pytest.mark.pure

SERVERS = """\
  toolServers:
    - name: docs
      url: https://docs.example.com/mcp
      headers: {Authorization: "Bearer env:DOCS_TOKEN"}
    - name: git
      command: [mcp-server-git, --read-only]
      env: [GIT_TOKEN]
  sharedTools: [docs/search, git/*]
"""
TOOL = """\
  httpTools:
    - name: price
      description: The price of an item.
      url: "https://shop.example.com/items/{item}"
      parameters:
        type: object
        properties: {item: {type: string}}
        required: [item]
  sharedTools: [price]
"""


def test_servers_and_requests_are_read() -> None:
    [crew] = read(CREW + SERVERS).crews
    docs, git = crew.spec.tool_servers
    assert (docs.url, docs.timeout_seconds, git.command) == (
        "https://docs.example.com/mcp",
        30,
        ["mcp-server-git", "--read-only"],
    )
    [crew] = read(CREW + TOOL).crews
    assert crew.spec.http_tools[0].method == "GET"


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ("name: git", "name: docs", "spec.toolServers[1].name", "two entries are called 'docs'"),
        ("docs/search", "dokcs/search", "spec.sharedTools[0]", "no tool server of this crew is called 'dokcs'"),
        ("url: https://docs.example.com/mcp", "command: [x]", "spec.toolServers[0].headers", "without a url"),
        ("command: [mcp-server-git, --read-only]", "url: https://h/", "spec.toolServers[1].env", "without a command"),
        ("Bearer env:DOCS_TOKEN", "Bearer abc", "spec.toolServers[0].headers", "is written out"),
        ("https://docs", "https://me:pw@docs", "spec.toolServers[0].url", "user or password"),
        ("https://docs", "ftp://docs", "spec.toolServers[0].url", "right form"),
        ("env: [GIT_TOKEN]", "env: [GIT-TOKEN]", "spec.toolServers[1].env[0]", "right form"),
        ("name: git", "name: g/t", "spec.toolServers[1].name", "right form"),
    ],
)
def test_a_mistake_about_a_server_is_told_by_its_place(old: str, new: str, path: str, reason: str) -> None:
    text = CREW + SERVERS.replace(old, new, 1)
    found = [problem for problem in problems(text) if problem.path == path]
    assert found, problems(text)
    assert reason in found[0].reason
    assert "pw" not in str(found[0])


def test_a_server_has_one_way_to_it() -> None:
    text = CREW + "  toolServers: [{name: docs}]\n"
    assert only(text).path == "spec.toolServers[0].url"


@pytest.mark.parametrize(
    ("old", "new", "path", "reason"),
    [
        ('{item}"', '{itme}"', "spec.httpTools[0].url", "cites {itme}, which is no parameter"),
        ("shop.example.com", "{item}.example.com", "spec.httpTools[0].url", "in the host"),
        ("required: [item]", "minProperties: 0", "spec.httpTools[0].parameters.required", "may be left out"),
        ("type: string", "type: text", "spec.httpTools[0].parameters.properties.item.type", "'text'"),
        ("description: The price of an item.", "description: ''", "spec.httpTools[0].description", "empty"),
        (
            "      parameters:\n",
            "      headers: {Host: env:A}\n      parameters:\n",
            "spec.httpTools[0].headers",
            "Host",
        ),
    ],
)
def test_a_mistake_about_a_request_is_told_by_its_place(old: str, new: str, path: str, reason: str) -> None:
    problem = only(CREW + TOOL.replace(old, new, 1))
    assert problem.path == path
    assert reason in problem.reason


def test_a_tool_that_needs_approval_and_that_no_agent_has_is_told() -> None:
    requires = SERVERS + "  requiresApproval: [docs/search, git/push, docs/*, docs/delete, mail/send]\n"
    found = problems(CREW + requires)
    assert [problem.path for problem in found] == ["spec.requiresApproval[3]", "spec.requiresApproval[4]"]
    assert found[0].reason == "no agent of this crew has the tool 'docs/delete'"
    assert found[0].fix == "Cite one as agents do: docs/search, git/*."
