"""The work of bench.chaos: what is submitted, made from a seed, and how each piece of it must end. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode, TaskPolicy
from watchbill.tasks import AgentTask, Priority

CREW: Final = "chaos"
AGENTS: Final = {"one": "work", "two": "work_in_thread", "three": "work_in_process"}
"""Name and function of each; a run is all of them, one after the other."""
OFTEN: Final = {"one": 55, "two": 40, "three": 5}
"""Weights with which each is asked alone: starting a process takes long."""
FAILS: Final = 0.15
"""Probability that an attempt fails, up to the FAILS_AT_MOST-th."""
FAILS_AT_MOST: Final = 5
ATTEMPTS: Final = 30
"""More than failures and deaths can use up: so whatever isn't hopeless must complete."""
WAVE_MOST: Final = 500
BLOCK: Final = 400
"""Pieces of work; those of every other block are all brief, so that workers hold a batch beside what they run."""


@dataclass(frozen=True)
class Work:
    """A task of one agent, or a run."""

    id: str
    agent: str
    """Empty: a run."""
    prompt: str
    number: int
    hopeless: str
    """The agent that fails for good."""
    priority: Priority
    due_in: float
    """Seconds from its submission; 0: at once."""
    alone: bool
    """Submitted by itself, else with others in bulk."""
    waited: bool
    """Somebody waits for its result."""

    @property
    def tasks(self) -> int:
        return 1 if self.agent else len(AGENTS)

    def task(self) -> AgentTask:
        return AgentTask(task_id=self.id, agent_name=self.agent, prompt=self.prompt, priority=self.priority)


@dataclass(frozen=True)
class End:
    """The end that a task or step must have."""

    state: str
    value: int = 0


def crew(lease_seconds: int) -> CrewDefinition:
    return CrewDefinition(
        name=CREW,
        agents=[AgentDefinition(agent_id=a, agent_class=f"bench.chaos_agents:{f}") for a, f in AGENTS.items()],
        execution_mode=ExecutionMode.SEQUENTIAL,
        concurrency=10,
        tasks=TaskPolicy(lease_seconds=lease_seconds, max_attempts=ATTEMPTS, backoff_seconds=0.05),
    )


def value_of(agent: str, number: int, before: Sequence[int]) -> int:
    """Returns the value that an agent makes of a number and of the values of the steps before."""
    return number * {"one": 3, "two": 5, "three": 7}[agent] + sum(before)


def made(tasks: int, lease: float, chance: random.Random) -> list[Work]:
    """Work of so many tasks, steps of runs counted; the last run may bring two more."""
    made: list[Work] = []
    left = tasks
    while left > 0:
        work = _piece(len(made), lease, chance)
        left -= work.tasks
        made.append(work)
    return made


def _piece(number: int, lease: float, chance: random.Random) -> Work:
    is_run = chance.random() < 0.08
    long = chance.random()
    if number // BLOCK % 2:
        seconds = 0.0
    elif long < 0.005 and not is_run:
        seconds = lease * 1.5  # longer than a lease: it must be kept all the time
    elif long < 0.1:
        seconds = chance.uniform(0.2, 0.8)
    else:
        seconds = chance.choice([0.0, chance.uniform(0.001, 0.05), chance.uniform(0.02, 0.3)])
    agent = "" if is_run else chance.choices(list(OFTEN), list(OFTEN.values()))[0]
    hopeless = chance.choice(list(AGENTS)) if chance.random() < 0.02 else ""
    prompt = {
        "number": number,
        "seconds": round(seconds, 4),
        "says": chance.random() < 0.05,
        "hopeless": hopeless,
        "bytes": chance.choice([10, 10, 10, 300, 6000]),
        "pad": "p" * chance.choice([0, 0, 0, 100, 6000]),  # above 4 KiB, neither travels with its entry or message
    }
    return Work(
        id=f"{'run' if is_run else 'task'}-{number}",
        agent=agent,
        prompt=json.dumps(prompt),
        number=number,
        hopeless=hopeless,
        priority=chance.choice(list(Priority)),
        due_in=chance.uniform(0.1, 6.0) if not is_run and chance.random() < 0.08 else 0.0,
        alone=is_run or chance.random() < 0.15,
        waited=chance.random() < 0.3,
    )


def waves(work: Sequence[Work], chance: random.Random) -> Iterator[list[Work]]:
    """Work as it is submitted: by ones, by tens, by hundreds."""
    at = 0
    while at < len(work):
        size = chance.choice([1, 10, chance.randint(20, 100), WAVE_MOST])
        yield list(work[at : at + size])
        at += size


def ends(work: Work) -> dict[str, End]:
    """Id of each task or step that must run → how it must end. Steps behind a hopeless one never run."""
    found: dict[str, End] = {}
    before: list[int] = []
    for agent in [work.agent] if work.agent else AGENTS:
        id_ = work.id if work.agent else f"{work.id}/{agent}"
        if work.hopeless == agent:
            found[id_] = End("failed")
            break
        before.append(value_of(agent, work.number, before))
        found[id_] = End("completed", before[-1])
    return found


def state(work: Work) -> str:
    """Returns the state in which the task or run must end. (A sequence has one last step, and so is never partial.)"""
    return "failed" if any(end.state == "failed" for end in ends(work).values()) else "completed"
