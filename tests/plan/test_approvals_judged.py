"""What an approval means for the task that asked for it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from watchbill.api.approvals import needs
from watchbill.errors import ApprovalRejected, ApprovalTimedOut, InvalidInput, NotWorthRetrying
from watchbill.plan.approvals import checked, granted, is_needed, request, requests
from watchbill.records import AgentDefinition, CrewDefinition
from watchbill.tasks import Approval

pytestmark = pytest.mark.pure

NOW = datetime(2026, 11, 29, tzinfo=UTC)
WAITS = Approval("pay", "waiting", NOW, NOW + timedelta(seconds=60))


def test_only_an_approval_of_the_same_text_counts() -> None:
    approved = replace(WAITS, state="approved", decided_at=NOW)
    assert granted([], "pay", NOW) is None
    assert granted([WAITS], "pay", NOW + timedelta(seconds=59)) is None
    assert granted([approved], "pay ", NOW) is None
    assert granted([approved], "pay", NOW + timedelta(days=1)) is approved


def test_a_decision_is_about_what_was_shown() -> None:
    approved = replace(WAITS, state="approved", decided_at=NOW, details='"a"')
    rejected, late = replace(approved, state="rejected"), replace(WAITS, details='"a"')
    assert granted([approved], "pay", NOW, '"a"') is approved
    for known in (approved, rejected, late):
        assert granted([known], "pay", NOW + timedelta(days=1), '"b"') is None
    of_old = replace(approved, details="")
    assert granted([of_old], "pay", NOW, '"b"') is of_old


def test_a_rejection_and_a_time_that_is_over_end_the_task_for_good() -> None:
    with pytest.raises(ApprovalRejected, match=r"^rejected: too dear \(what it asked for: pay\)$"):
        granted([replace(WAITS, state="rejected", reason="too dear")], "pay", NOW)
    with pytest.raises(ApprovalTimedOut, match=r"^nobody approved within 60 s \(what it asked for: pay\)$") as caught:
        granted([WAITS], "pay", NOW + timedelta(seconds=60))
    assert isinstance(caught.value, NotWorthRetrying)


@pytest.mark.parametrize("what", ["", " \n", "x" * 501, "a\x07b", 7, None])
def test_what_can_not_be_shown_in_a_line_is_refused(what: object) -> None:
    with pytest.raises(InvalidInput, match="what: "):
        checked(what)


def test_what_is_asked_is_told_in_one_line_and_cut() -> None:
    assert checked(" pay\n 7 EUR ") == "pay 7 EUR"
    assert request("pay") == "waits for approval: pay"
    assert request("", "a\nb") == "waits for approval to begin: a b"
    assert len(request("", "x" * 1000)) < 350


def test_approval_may_be_required_by_each_name_of_an_agent_and_of_no_other() -> None:
    agents = [AgentDefinition(agent_id="a", name="First"), AgentDefinition(agent_id="b")]
    crew = CrewDefinition(name="c", agents=agents, requires_approval=["First"])
    assert [is_needed(crew, agent) for agent in crew.agents] == [True, False]
    with pytest.raises(ValueError, match="requires_approval cites the agent 'c', which is not in this crew"):
        CrewDefinition(name="c", agents=agents, requires_approval=["c"])


def test_a_tool_is_cited_as_agents_do_and_stands_for_no_other() -> None:
    agents = [AgentDefinition(agent_id="a", tools=["m:pay", "docs/*", "shop/price"])]
    requires = ["m:pay", "calculator", "docs/delete", "shop/*"]
    crew = CrewDefinition(name="c", agents=agents, shared_tools=["calculator"], requires_approval=requires)
    cited = ["m:pay", "pay", "calculator", "docs/delete", "docs/read", "shop/price", "shop/stock"]
    assert [needs(crew.requires_approval, tool) for tool in cited] == [True, False, True, True, False, True, True]
    for stranger in ("pay", "shop/stock", "mail/*", "other"):
        with pytest.raises(ValueError, match=f"requires_approval cites the agent '{re.escape(stranger)}'"):
            CrewDefinition(name="c", agents=agents, requires_approval=[stranger])


def test_calls_of_tools_are_told_with_the_beginning_of_their_arguments() -> None:
    told = requests({"call pay #1": '{"euros": 7}', "call mail #2": "x" * 1000})
    assert told.startswith('waits for approval: call pay #1 {"euros": 7}; waits for approval: call mail #2 xxx')
    assert len(told) < 500
