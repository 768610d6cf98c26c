"""Hierarchies of any kind, and what must come of a run of one: worked out from what its manager delegates, alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from watchbill.api.hierarchy import Hierarchy
from watchbill.records import AgentDefinition, CrewDefinition, ExecutionMode

RUNS = ("r1", "r2")
MEMBERS = ("m0", "m1")


@dataclass(frozen=True)
class Item:
    """What is delegated, and what comes of it."""

    member: str
    rejections: int
    """Rounds after each of which the reviewer rejects it."""
    fails_in: int
    """The round in which the member fails; 0: in none."""
    mute_in: int
    """The round in which the reviewer fails."""
    below: Program


@dataclass(frozen=True)
class Program:
    """What a step delegates."""

    items: tuple[Item, ...]
    at_once: bool
    """All at once, or one after the other."""


@dataclass(frozen=True)
class Scene:
    definition: CrewDefinition
    programs: Mapping[str, Program]
    """Run → what its manager delegates."""
    parallel: int
    cancel_at: int
    """So many turns after which the last run is cancelled; 0: never."""
    seed: int

    @property
    def above(self) -> Hierarchy:
        assert self.definition.hierarchy is not None
        return self.definition.hierarchy

    def at(self, run: str, path: str) -> Item:
        """The item of this path: its place in the program, that in the program below it, and so on."""
        program, item = self.programs[run], None
        for place in path.split("."):
            item = program.items[int(place)]
            program = item.below
        assert item is not None
        return item


def program(rng: random.Random, depth: int = 1, *, sure: bool = False) -> Program:
    """One at random, with `depth` levels below it. `sure`: its first item may be delegated."""
    members = [rng.choice([*MEMBERS, *MEMBERS, "lead"]) for _ in range(rng.randint(0, 2 + depth))]
    if sure:  # not even the manager may be asked, and nobody asks himself
        members.insert(0, rng.choice(MEMBERS))
    return Program(tuple(_item(rng, member, depth) for member in members), rng.random() < 0.5)


def _item(rng: random.Random, member: str, depth: int) -> Item:
    below = program(rng, depth - 1) if depth else Program((), at_once=True)
    fails_in, mute_in = (rng.choice([0, 0, 0, 0, 0, 1, 2]) for _ in range(2))
    return Item(member, rng.choice([0, 0, 1, 2]), fails_in, mute_in, below)


def hierarchy(rng: random.Random) -> Hierarchy:
    bounds = {"maxItems": rng.randint(1, 3), "maxDepth": rng.randint(1, 2), "maxRounds": rng.randint(1, 3)}
    reviewer = rng.choice([None, "critic", "critic"])
    return Hierarchy.model_validate({"manager": "lead", "reviewer": reviewer, **bounds})


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    seed = draw(st.integers(0, 2**32))  # what is drawn piece by piece has little in it, and repeats itself
    rng = random.Random(seed)
    above = hierarchy(rng)
    names = ["lead", *MEMBERS, *([above.reviewer] if above.reviewer else [])]
    agents = [AgentDefinition(agent_id=name, max_concurrent=rng.choice([None, None, 1])) for name in names]
    definition = CrewDefinition(name="test", execution_mode=ExecutionMode.HIERARCHICAL, agents=agents, hierarchy=above)
    programs = {run: program(rng, sure=rng.random() < 0.8) for run in RUNS}
    return Scene(definition, programs, rng.choice([1, 2, 100]), rng.choice([0, 0, 0, 4, 12]), seed)


# ---------------------------------------------------------------- what must come of it


@dataclass
class Expected:
    """What must come of one run. Names of steps are made here as the docs say."""

    scene: Scene
    run: str
    states: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    approved: int = 0

    def tell(self) -> None:
        program = self.scene.programs[self.run]
        came = self._of_program("lead", "lead", "", program, level=0)
        nothing = all(one == "refused" for one in came)
        self.states["lead"] = "failed" if nothing else "completed"
        self.outputs["lead"] = None if nothing else [self.run, "", came]

    def _of_program(self, step: str, agent: str, path: str, program: Program, level: int) -> list[Any]:
        came, number = [], 0
        for place, item in enumerate(program.items):
            is_barred = item.member in (agent, "lead") or level == self.scene.above.max_depth
            if is_barred or number == self.scene.above.max_items:
                came.append("refused")
                continue
            number += 1
            came.append(self._of_item(f"{step}:{number}", item, f"{path}.{place}".strip("."), level))
        return came

    def _of_item(self, name: str, item: Item, path: str, level: int) -> Any:
        for number in range(1, self.scene.above.max_rounds + 1):
            work = name if number == 1 else f"{name}:work{number}"
            review = f"{name}:review" if number == 1 else f"{name}:review{number}"
            below = self._of_program(work, item.member, path, item.below, level + 1)
            self.states[work] = "failed" if number == item.fails_in else "completed"
            if number == item.fails_in:
                return "failed"
            self.outputs[work] = [self.run, path, below]
            if self.scene.above.reviewer is None:
                return self.outputs[work]
            self.states[review] = "failed" if number == item.mute_in else "completed"
            if number == item.mute_in:
                return "failed"
            if number > item.rejections:
                self.approved += 1
                return self.outputs[work]
        return "failed"
