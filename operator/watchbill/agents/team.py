"""The team of an agent in a hierarchical crew: what it delegates, in items that are worked on and reviewed.

An agent that waits for members doesn't run: its attempt ends, and it begins anew when one of them has ended. Then each
of its calls finds what has come of it before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from watchbill.agents import approving, steps
from watchbill.agents.asking import Line, Waits, waiting
from watchbill.agents.context import Context
from watchbill.agents.tools import Tool
from watchbill.api.hierarchy import Hierarchy
from watchbill.errors import DelegationFailed, InvalidInput, Problem
from watchbill.event_types import EventType, Telling
from watchbill.plan import hierarchy
from watchbill.plan.hierarchy import Asked, Delegated
from watchbill.records import CrewDefinition
from watchbill.tasks import TaskResult


class Team:
    """The members to whom one attempt of a step may delegate."""

    def __init__(
        self, crew: CrewDefinition, above: Hierarchy, agent: str, step: str, line: Line, *, reviews: str = ""
    ) -> None:
        """`reviews`: the agent whose work the step reviews."""
        self._crew = crew
        self._above = above
        self._agent = agent
        self.step = step
        """The step of the run."""
        self._line = line
        self.items = 0
        """Items that this attempt has delegated."""
        self.reviews = reviews
        """The agent whose work this step reviews; empty: it reviews none."""

    async def delegate(self, agent: str, prompt: str, scope: str, *, in_thread: bool = False) -> Any:
        """Returns the output of a member that did the work, once the reviewer has approved of it. Raises Waits until
        then, InvalidInput, and DelegationFailed if the work failed or was rejected in each round."""
        if name := steps.within.get():  # others would get the numbers of its items when it is replayed
            reason = "delegate was called within this step, which another attempt doesn't call again"
            fix = "Call delegate outside of steps: what it returns is kept without one."
            raise InvalidInput(Problem(reason, fix, path=f"step {name}"))
        member = hierarchy.member(self._crew, self._agent, agent).agent_id
        hierarchy.check_item(self._agent, self.step, self.items + 1, self._above)
        self.items += 1
        item, asked = self.items, Asked(prompt)
        for number in range(1, self._above.max_rounds + 1):
            work = hierarchy.work_step(self.step, item, number)
            done = await self._done(Delegated(work, member, asked, scope), in_thread)
            if not done.success:
                raise DelegationFailed(f"{member} failed at item {item}: {done.error}")
            if self._above.reviewer is None:
                return done.output
            verdict = await self._review(item, number, member, prompt, in_thread)
            if verdict.approved:
                return done.output
            asked = Asked(hierarchy.again(prompt, verdict.reasons), {member: work})
        rounds = f"{self._above.max_rounds} rounds (hierarchy.maxRounds)"
        raise DelegationFailed(f"item {item} of {member} was rejected in {rounds}: {verdict.reasons}")

    async def _review(self, item: int, number: int, member: str, prompt: str, in_thread: bool) -> hierarchy.Verdict:
        reviewer = self._crew.agent_ids()[self._above.reviewer or ""]
        name = hierarchy.review_step(self.step, item, number)
        work = hierarchy.work_step(self.step, item, number)
        asked = Asked(hierarchy.review(prompt, member), {member: work}, reviews=member)
        done = await self._done(Delegated(name, reviewer, asked), in_thread)
        if not done.success:
            raise DelegationFailed(f"{reviewer} could not review item {item} of {member}: {done.error}")
        return hierarchy.verdict(done.output)

    async def _done(self, work: Delegated, in_thread: bool) -> TaskResult:
        calls = approving.under_way.get()
        if in_thread or calls is None:
            return await self._line.delegate(work, ends="at once" if in_thread else "soon")
        try:
            return await self._line.delegate(work, ends="later")
        except Waits:  # the attempt must not end while another call of the model's turn is made
            return await calls.for_members(lambda: self._line.delegate(work, ends="soon"))

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """The schema of what this step must return; None: it may be anything."""
        return hierarchy.VERDICT_SCHEMA if self.reviews else None

    def judged(self, output: Any) -> hierarchy.Verdict | None:
        """Returns the verdict that the output of a review is; None for that of another step. Raises ValueError for one
        that is none, and for a manager that has delegated nothing."""
        if self.reviews:
            return hierarchy.verdict(output)
        if not self.items and hierarchy.depth(self.step) == 0:
            named = ", ".join(hierarchy.members(self._crew))
            raise ValueError(f"manager {self._agent!r} has ended without delegating anything: its members are {named}")
        return None

    def tools(self) -> Mapping[str, Tool]:
        """The team as tools of a model: `delegate` and `escalate`."""
        named = [one for one in hierarchy.members(self._crew) if one != self._agent]

        async def delegate(member: str, work: str) -> Any:
            """Give a piece of work to a member of your team, and get its result. Say all that the member must know:
            it sees nothing else. Independent pieces may be given in one turn."""
            try:
                return await waiting(self.delegate(member, work, ""))
            except DelegationFailed as error:
                return {"failed": str(error)}

        async def escalate(message: str) -> str:
            """Ask the people who run this crew for help, when you or your team can't go on. They may not answer."""
            await self._line(Telling(EventType.CONDUCTOR_ESCALATION, message))
            return "told"

        names: Any = Literal[tuple(named)]  # the model may choose among them
        delegate.__annotations__ = {"member": names, "work": str, "return": Any}
        # A call of `delegate` whose result were a checkpoint would not be made again, and the next one would take its
        # number. The steps that it begins keep what came of it.
        given = (Tool("delegate", delegate, is_repeated=True), Tool("escalate", escalate))
        return {tool.name: tool for tool in given}


def join(context: Context, crew: CrewDefinition, step: str | None, line: Line, reviews: str) -> None:
    """Gives a step of a hierarchical crew its team. An agent that may delegate has it as tools, too. `reviews`: the
    agent whose work the step reviews."""
    above = crew.hierarchy
    if above is None or step is None:
        return
    context.team = team = Team(crew, above, context.task.agent_name, step, line, reviews=reviews)
    if not reviews and hierarchy.depth(step) < above.max_depth:
        context.tools = {**context.tools, **team.tools()}
