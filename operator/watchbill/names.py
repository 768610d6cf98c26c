"""The names of crews, tasks and their keys in the store, and the bounds of identifiers.

One function or attribute per name, so that no key is ever spelled twice. Pure: no I/O. The key table is explained in
docs/design/queue.md. Names of messages are in message_names, those in Kubernetes in cluster_names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

WORKERS_GROUP: Final = "workers"
"""The consumer group of the task streams."""
RETURNED: Final = "returned"
"""The consumer of what was handed back (lib.lua): it is always dead, so anyone may take from it."""
LIMITED: Final = "limited:"
"""Before the name of an agent: the consumer of its tasks that wait for the agent's limits (lib_limits.lua)."""

WAKE_PATTERN: Final = "wb:{*}:wake"
"""The channels of all crews on which whatever scales workers hears of work. The channel says whose work it is."""

CLASSES: Final = (1, 3, 5, 7, 9)
"""Priority classes, most urgent first; one task stream each."""

GLOBAL_TENANT: Final = "global"
RESERVED_CREW_NAMES: Final = frozenset({"list", "id", "tenants"})
"""Names that would collide with the indexes beside the crew records."""

TASK_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""The ids that a caller may give to a task or run."""

AGENT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
ANY_AGENT: Final = "*"
"""The agent_id that stands for an agent of any name. No Crew can declare it: it is no AGENT_NAME."""
INPUT_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
DNS_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
CREW_NAME_MAX: Final = 52
"""A child's name adds a dash and a hash of eight, and must fit a DNS label of 63 with room for a suffix."""

STEP_SEPARATOR: Final = "/"
"""Between a run's id and a step's name. No caller's id may contain it, so the two can never meet."""

STEP_MARK: Final = "@"
"""Stands before the number of an iteration or of an item in a step's name: `critic@2`, `reader@17`. No agent of a
resource has it in its name."""
EACH: Final = "each"
"""Stands for the number in the name of the step that makes the steps of a list's items: `reader@each`."""
UNTIL: Final = "until"
"""The name of a loop's condition, in place of an agent's: the steps `until@1`, `until@2` judge the iterations."""
DELEGATED: Final = ":"
"""Stands before the number of an item in the name of a step that an agent has delegated: `lead:2`, `lead:2:review`."""
SYNTHESIS: Final = "synthesis"
"""The agent that sums up a run, and its step."""

RECEIVER: Final = "to:"
"""Before a destination's name, where the delivery queue has the name of an agent. No agent of a resource has a colon in
its name, so that the two are never taken for each other."""

ROLE: Final = "role:"
"""Before a role's name, where a task that waits for one of the role's agents has the name of an agent."""


def split_step_id(task_id: str) -> tuple[str, str] | None:
    """(run id, step) of a step's task id; None for a task that belongs to no run."""
    run_id, separator, step = task_id.partition(STEP_SEPARATOR)
    return (run_id, step) if separator else None


class BatchKeys(NamedTuple):
    """The keys of a crew's requests that go by batches of their providers."""

    lane: str
    """The place of each request: gathered, or in a batch."""
    requests: str
    batches: str
    """The batches, and what the requests that are gathered together have in common."""
    sender: str
    """The worker that sends them, for some seconds."""
    reserved: str
    """The reservations of their cost: as `CrewKeys.reserved`, but they are under way for longer than a day."""


class CrewRoot:
    """The beginning of the Redis keys of one crew, for whoever needs no more: all of them take much longer to make."""

    __slots__ = ("crew", "meta", "root")

    def __init__(self, namespace: str, name: str) -> None:
        self.crew = f"{namespace}/{name}"
        self.root = f"wb:{{{self.crew}}}:"
        self.meta = self.root + "meta"


class CrewKeys(CrewRoot):
    """The Redis keys of one crew, all under one hash tag, so that any set of them fits one script.

    >>> CrewKeys("team", "blog").task("t1")
    'wb:{team/blog}:task:t1'
    """

    __slots__ = (
        "agents",
        "bell",
        "circuits",
        "claims",
        "control",
        "crew_feed",
        "dead",
        "delayed",
        "events",
        "fenced",
        "fixed",
        "holders",
        "ids",
        "leases",
        "mover",
        "outbox",
        "parked_agent",
        "parked_concurrency",
        "parked_interrupt",
        "prefix",
        "results",
        "shared_streams",
        "spending",
        "streams",
        "wake",
        "wishes",
        "workers",
    )

    def __init__(self, namespace: str, name: str, queue: str = "") -> None:
        """`queue`: what stands before the keys of another queue of the crew. All of a crew's queues have its identity
        and its definitions in common, and what is said to its workers."""
        super().__init__(namespace, name)
        root = self.root
        self.prefix = prefix = root + queue
        self.ids = prefix + "ids"
        self.holders = prefix + "holders"
        self.leases = prefix + "leases"
        self.fenced = prefix + "fenced"
        self.claims = prefix + "claims"
        self.bell = prefix + "bell"
        self.results = prefix + "results"
        self.dead = prefix + "dead"
        self.events = prefix + "events"
        self.workers = prefix + "workers"
        self.agents = prefix + "agents"
        self.delayed = prefix + "delayed"
        self.parked_concurrency = prefix + "parked:concurrency"
        self.parked_agent = prefix + "parked:agent"
        self.parked_interrupt = prefix + "parked:interrupt"
        self.wishes = prefix + "wishes"
        self.control = root + "control"
        """Pub/sub: what the crew's workers are asked for (to cancel, to interrupt, to read the drain flag)."""
        self.wake = root + "wake"
        """Pub/sub: this crew has work."""
        self.crew_feed = (root + "events",) if queue else ()  # which hears of what dies on another queue of the crew
        self.outbox = prefix + "deliveries"
        """The outbox: ended work that is to be delivered, until it is on the delivery queue."""
        self.mover = root + "delivery:mover"
        """The worker that moves it there, for some seconds."""
        self.circuits = root + "delivery:circuits"
        """Destinations that failed, and since when they are left in peace."""
        self.shared_streams = root + "streams"
        """The set of the streams of messages that the crew's agents have made."""
        self.spending = root + "spending"
        """The counters of the crew's budgets."""
        self.streams = tuple(f"{prefix}tasks:{c}" for c in CLASSES)
        self.fixed = (
            self.meta,
            self.holders,
            self.leases,
            self.fenced,
            self.claims,
            self.bell,
            self.dead,
            self.events,
            self.agents,
            self.ids,
            self.results,
            self.workers,
            self.parked_concurrency,
            self.parked_agent,
            *self.streams,
            self.delayed,
            self.parked_interrupt,
            self.wishes,
            self.outbox,
        )
        """The first KEYS of every queue script, in the order that store/scripts/lib.lua unpacks them."""

    def deliveries(self) -> CrewKeys:
        """The keys of the crew's delivery queue, whose tasks are deliveries and whose agents are destinations."""
        namespace, _, name = self.crew.partition("/")
        return CrewKeys(namespace, name, "delivery:")

    @property
    def batch(self) -> BatchKeys:
        parts = ("lane", "requests", "batches", "sender", "reserved")
        return BatchKeys(*(f"{self.root}batch:{part}" for part in parts))

    def definition(self, digest: str) -> str:
        return f"{self.root}def:{digest}"

    def reserved(self, day: int) -> str:
        """Requests to models that began on this day (since 1970) and have not ended. A key expires a day after its last
        request, so that it is free for the day after the next."""
        return f"{self.root}reserved:{day % 2}"

    def task(self, task_id: str) -> str:
        return f"{self.prefix}task:{task_id}"

    def run(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}"

    def run_steps(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}:steps"

    def run_results(self, run_id: str) -> str:
        return f"{self.prefix}run:{run_id}:results"

    def record(self, task_id: str) -> str:
        """The record of a task; of a step (`run/step`) that of its run."""
        run_id, separator, _ = task_id.partition(STEP_SEPARATOR)
        return self.run(run_id) if separator else self.task(task_id)

    def agent_events(self, agent: str) -> str:
        return f"{self.prefix}events:agent:{agent}"

    def run_events(self, run_id: str) -> str:
        return f"{self.prefix}events:run:{run_id}"

    def of_id(self, task_id: str) -> tuple[str, ...]:
        """Every key that a task or run of this id may have."""
        run = (self.run(task_id), self.run_steps(task_id), self.run_results(task_id), self.run_events(task_id))
        return (self.task(task_id), *run)

    def of_item(self, task_id: str, agent: str) -> tuple[str, ...]:
        """The KEYS of a task or step (`run/step`), in the order of next_item in store/scripts/lib_items.lua."""
        run_id, separator, _ = task_id.partition(STEP_SEPARATOR)
        if not separator:
            return self.task(task_id), self.agent_events(agent)
        return self.run(run_id), self.run_steps(run_id), self.agent_events(agent), self.run_events(run_id)

    def of_agents(self, agents: Iterable[str]) -> list[str]:
        """The KEYS of scripts that tell of these agents."""
        return [*self.fixed, *map(self.agent_events, agents)]

    def of_ending(self, task_id: str, agent: str, digest: str) -> tuple[str, ...]:
        """The KEYS of a task or step that may end; `digest` names the definition of a step's run."""
        run_id, separator, _ = task_id.partition(STEP_SEPARATOR)
        if not separator:
            return self.task(task_id), self.agent_events(agent)
        of_run = self.run(run_id), self.run_steps(run_id), self.run_results(run_id), self.definition(digest)
        return *of_run, self.agent_events(agent), self.run_events(run_id)

    def sent_event(self, nonce: str) -> str:
        """Returns the key of the answer to one call that emits an event, for a repeat of that call."""
        return f"{self.events}:sent:{nonce}"

    def dedupe(self, key: str) -> str:
        return f"{self.prefix}dedupe:{key}"

    def refused(self, entry: str) -> str:
        """Remembers that an entry of another stream was made a dead letter."""
        return f"{self.prefix}refused:{entry}"

    def heartbeat(self, name: str) -> str:
        return f"{self.prefix}heartbeat:{name}"

    def fired(self, heartbeat: str) -> str:
        """The ids of what a heartbeat has fired, the newest first."""
        return f"{self.prefix}fired:{heartbeat}"

    def fire(self, heartbeat: str, slot: str) -> str:
        return f"{self.prefix}fire:{heartbeat}:{slot}"

    @property
    def history(self) -> str:
        """The prefix of the cache of what the crew's agents answered."""
        return f"{self.prefix}history:"

    def session(self, name: str) -> str:
        """The turns of a session; the name is of packed.session_name."""
        return f"{self.prefix}session:{name}"

    @property
    def sessions(self) -> str:
        """The names of the crew's sessions, by the time at which each expires."""
        return f"{self.prefix}sessions"

    def reply(self, client: str) -> str:
        """Pub/sub channel on which one client hears that its tasks are done."""
        return f"{self.prefix}reply:{client}"


class TownKeys:
    """The keys of a town's event streams (seed 004). The town's name isn't put into braces: on a Redis Cluster it needs
    some of its own, as in `{town}`.

    >>> TownKeys("town").agent_events("a1")
    'tt:town:events:agent:a1'
    """

    __slots__ = ("events",)

    def __init__(self, town: str) -> None:
        self.events = f"tt:{town}:events"

    def agent_events(self, agent: str) -> str:
        return f"{self.events}:agent:{agent}"

    def run_events(self, run_id: str) -> str:
        return f"{self.events}:mission:{run_id}"

    def sent_event(self, nonce: str) -> str:
        """Returns the key of the answer to one call that emits an event, for a repeat of that call."""
        return f"{self.events}:sent:{nonce}"


def delivered(stream: str) -> str:
    """The ids of the deliveries that were written to a stream, in the stream's slot of a Redis Cluster."""
    return f"wb:delivered:{{{stream}}}"


def published(stream: str, crew: str) -> str:
    """Returns the key that tells which result of a crew was last put on this stream. It is in the slot of the
    stream."""
    return f"wb:published:{{{stream}}}:{crew}"


def crew_record(tenant: str, name: str, prefix: str = "crew") -> str:
    """Returns the key of a crew's record. The tenant's braces keep all of its records in one slot of a Redis
    Cluster."""
    return f"{_records(tenant, prefix)}:{name}"


def crew_index(tenant: str, prefix: str = "crew") -> str:
    """The set of a tenant's crew names."""
    return f"{_records(tenant, prefix)}:list"


def crew_by_id(tenant: str, crew_id: str, prefix: str = "crew") -> str:
    """Returns the key that holds the name of the crew with this id."""
    return f"{_records(tenant, prefix)}:id:{crew_id}"


def crew_tenants(prefix: str = "crew") -> str:
    """The set of tenants that have records; an index that can be rebuilt."""
    return f"{prefix}:tenants"


def _records(tenant: str, prefix: str) -> str:
    return prefix if tenant == GLOBAL_TENANT else f"{prefix}:{{{tenant}}}"


def crew_of_prefix(prefix: str) -> CrewKeys | None:
    """The crew whose keys begin with this prefix; None if it is no crew's."""
    found = _CREW_PREFIX.fullmatch(prefix)
    return CrewKeys(*found.groups()) if found else None


def redis_user(owner: str, crew: str = "") -> str:
    """The store's user for the workers of a crew (`namespace/name`), made by the operator `owner`. Without a crew: what
    the names of all users begin with that this operator makes."""
    return f"watchbill:{hashlib.sha256(owner.encode()).hexdigest()[:16]}:{crew}"


_CREW_PREFIX: Final = re.compile(r"wb:\{([^{}/]+)/([^{}/]+)\}:")
