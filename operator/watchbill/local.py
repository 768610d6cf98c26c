"""A crew in one process: records, workers and heartbeats over any store. What `watchbill run` and `worker` start.

Everything is checked before anything is stored or started.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from watchbill import background, names
from watchbill.agents import AgentLoader, tool_servers
from watchbill.api import Crew, Heartbeat, parse
from watchbill.client import Client, Result
from watchbill.clock import Patience
from watchbill.connection import Store, outages
from watchbill.connection.url import Target
from watchbill.embedded import EmbeddedStore
from watchbill.errors import InvalidInput, NotFound, Problem
from watchbill.loggers import Logger
from watchbill.plan import declared, flow, submission
from watchbill.plan.models import with_model
from watchbill.records import from_crew
from watchbill.store import control, definitions, deliveries, eviction
from watchbill.store.crews import CrewRedis
from watchbill.store.queue import Queue
from watchbill.worker.delivering.options import Delivering
from watchbill.worker.worker import Worker

if TYPE_CHECKING:
    from watchbill.scheduler import Scheduler
    from watchbill.worker.health import HealthServer

logger = Logger("watchbill.local")

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True)
class Manifests:
    """The resources that files declare, and the folders of these files, whose modules may hold agents."""

    crews: tuple[Crew, ...]
    heartbeats: tuple[Heartbeat, ...]
    folders: tuple[Path, ...]


def load(paths: Sequence[Path], *, model: str | None = None, to_store: bool = False) -> Manifests:
    """Reads and checks files. Raises InvalidInput with all problems of all files, each with its place.

    `model`: the crews' default model; agents that carry a systemPrompt then run as LLMAgent, whatever their class.
    `to_store`: nothing of it is to run here, so agents needn't be loadable, and a heartbeat's crew may be elsewhere.
    """
    problems: list[Problem] = []
    parsed: list[parse.Parsed] = []
    for path in paths:
        try:
            parsed.append(parse.parse(_read(path), str(path)))
        except InvalidInput as error:
            problems += error.problems
    if problems:
        raise InvalidInput(problems)
    folders = tuple(dict.fromkeys(path.resolve().parent for path in paths))
    loader = AgentLoader(folders, chosen=_chosen(crew for file in parsed for crew in file.crews))
    crews: list[Crew] = []
    seen: dict[tuple[str, str, str], str] = {}
    for file in parsed:
        for written in file.crews:
            crew = with_model(written, model) if model else written
            definition = from_crew(crew)
            found = [*declared.problems(definition), *([] if to_store else loader.check(definition))]
            found += _twice(seen, crew, file.source)
            problems += [replace(p, source=file.where(written, _loc(p.path))) for p in found]
            crews.append(crew)
    known = {place_of(crew): crew for crew in crews}
    for file in parsed:
        for heartbeat in file.heartbeats:
            target = known.get(target_of(heartbeat))
            found = _twice(seen, heartbeat, file.source)
            if target is not None or not to_store:
                found += declared.misfits(heartbeat, from_crew(target) if target else None)
            problems += [replace(p, source=file.where(heartbeat, _loc(p.path))) for p in found]
    if problems:
        raise InvalidInput(problems)
    return Manifests(tuple(crews), tuple(h for file in parsed for h in file.heartbeats), folders)


def _twice(seen: dict[tuple[str, str, str], str], resource: Crew | Heartbeat, source: str) -> list[Problem]:
    """The problem of a resource that another file has, too. `seen`: where each was found."""
    name = (resource.kind, resource.metadata.namespace or "default", resource.name)
    before = seen.setdefault(name, source)
    if before == source:
        return []
    reason = f"{resource.kind.lower()} {resource.name!r} is in {before} already"
    return [Problem(reason, "Remove one.", path="metadata.name")]


def require_ready(manifests: Manifests, crew: Crew | None = None, agent: str | None = None) -> None:
    """Raises InvalidInput if the environment lacks what agents need, such as a model's key: those of all crews, or of
    `crew`, or `agent` alone."""
    loader = AgentLoader(manifests.folders, chosen=_chosen(manifests.crews))
    agents = None if agent is None else {agent}
    problems = [
        replace(problem, source=f"crew {one.name!r}")
        for one in ([crew] if crew else manifests.crews)
        for problem in loader.ready(from_crew(one), agents)
    ]
    if problems:
        raise InvalidInput(problems)


def unloadable(manifests: Manifests) -> list[Problem]:
    """Returns the problems of agents and tools that can't be loaded here. Imports their modules."""
    loader = AgentLoader(manifests.folders, chosen=_chosen(manifests.crews))
    return [
        replace(problem, source=f"crew {crew.name!r}")
        for crew in manifests.crews
        for problem in loader.check(from_crew(crew))
    ]


def files(paths: Sequence[Path]) -> list[Path]:
    """The paths with folders replaced by the YAML files in them, each once."""
    found: dict[Path, Path] = {}
    problems = []
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(f for f in path.iterdir() if f.suffix in (".yaml", ".yml") and f.is_file())
            if not files:
                reason, fix = "this folder has no *.yaml or *.yml", "Name a file, or another folder."
                problems.append(Problem(reason, fix, source=str(path)))
        for file in files:
            found.setdefault(file.resolve(), file)
    if problems:
        raise InvalidInput(problems)
    return list(found.values())


def _chosen(crews: Iterable[Crew]) -> Iterator[str]:
    """All that the files name: whoever runs them has chosen it, from all that is installed."""
    for crew in map(from_crew, crews):
        yield from (*crew.shared_tools, *map(tool_servers.chosen, crew.tool_servers))
        for agent in flow.members(crew):
            yield from (agent.agent_class, *agent.tools)


def place_of(crew: Crew) -> tuple[str, str]:
    """Its namespace and name, as the files say them."""
    return crew.metadata.namespace or "default", crew.name


def target_of(heartbeat: Heartbeat) -> tuple[str, str]:
    """The place of its crew."""
    return heartbeat.metadata.namespace or "default", heartbeat.spec.crew_ref.name


def _loc(path: str) -> tuple[str | int, ...]:
    """`spec.agents[1].class` as keys and positions."""
    return tuple(int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InvalidInput(Problem("there is no such file", "Check the path.", source=str(path))) from None
    except IsADirectoryError:
        raise InvalidInput(Problem("this is a folder", "Name the files in it.", source=str(path))) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(Problem(f"not UTF-8 text: {error}", "Save it as UTF-8.", source=str(path))) from None
    except OSError as error:
        raise InvalidInput(Problem(f"can't be read: {error.strerror}", "Check it.", source=str(path))) from None


class LocalCrews:
    """Crews at work in this process. An async context manager: started on entry, drained on exit."""

    def __init__(
        self,
        url: str | Target,
        manifests: Manifests | None = None,
        *,
        crews: Sequence[str] = (),
        folders: Sequence[Path] = (),
        allow_modules: Sequence[str] = (),
        namespace: str = "default",
        concurrency: int | None = None,
        grace_seconds: float = 30.0,
        watch: bool = False,
        delivering: Delivering | None = None,
    ) -> None:
        """`manifests`: crews to be stored and worked for; `crews`: those that are in the store, by `namespace/name`.

        `folders`: where modules of agents are, besides those beside the manifests' files; `allow_modules`: what else
        crews may name of what is installed, besides what the manifests name. `concurrency` default: each
        crew's own. `watch`: the manifests' heartbeats fire. Raises InvalidInput for what is no URL of a store.
        """
        self._store = Store(url)
        self._manifests = manifests or Manifests((), (), ())
        self._crews = crews
        self._folders = (*self._manifests.folders, *folders)
        self._allow_modules = allow_modules
        self._namespace = namespace
        self._concurrency = concurrency
        self._grace_seconds = grace_seconds
        self._watch = watch
        self._delivering = delivering
        self._workers: list[tuple[Worker, asyncio.Task[None]]] = []
        self._scheduler: Scheduler | None = None
        self._queues: dict[str, Queue] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> LocalCrews:
        try:
            await self._start()
        except BaseException:
            await self.stop(now=True)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        made = [(crew, declared.definition(crew)) for crew in self._manifests.crews]
        client = self._store.client
        self._stack.push_async_callback(self._store.aclose)
        self._stack.callback(background.start("eviction", lambda: eviction.warn(client)).cancel)
        chosen = _chosen(self._manifests.crews)
        loader = AgentLoader(self._folders, modules=self._allow_modules, chosen=chosen)
        if self._watch:
            from watchbill.scheduler import Scheduler  # and with it APScheduler, for those who watch

            self._scheduler = Scheduler(client)
        for crew, definition in made:
            namespace = crew.metadata.namespace or self._namespace
            keys = names.CrewKeys(namespace, crew.name)
            uid = await definitions.apply(client, keys, definition, suspended=crew.suspends)
            record = definition.model_copy(update={"crew_id": uid})
            await CrewRedis(client=client, tenant=namespace, strict=True).save_crew(record)
            await self._employ(keys, uid, loader)
            if self._scheduler:
                for heartbeat in self._manifests.heartbeats:
                    if target_of(heartbeat) == place_of(crew):
                        await self._scheduler.add(keys, uid, heartbeat)
        for name in self._crews:
            keys = names.CrewKeys(*name.split("/", 1))
            uid = (await definitions.current(client, keys)).uid
            await self._employ(keys, uid, loader)
        if self._scheduler:
            await self._scheduler.start()

    async def _employ(self, keys: names.CrewKeys, uid: str, loader: AgentLoader) -> None:
        self._queues[keys.crew] = Queue(self._store.client, keys, uid)
        await self.declare_dead()
        worker = Worker(
            self._store,
            keys,
            loader,
            concurrency=self._concurrency,
            grace_seconds=self._grace_seconds,
            delivering=self._delivering,
        )
        self._workers.append((worker, asyncio.create_task(worker.run(), name=f"worker {keys.crew}")))

    async def declare_dead(self) -> None:
        """Lets the work of this host's ended processes be taken at once, instead of when their leases end."""
        for queue in self._queues.values():
            for keys in (queue.keys, queue.keys.deliveries()):
                await outages.persist(functools.partial(control.declare_dead, queue.client, keys, queue.uid))

    async def delivered(self, seconds: float) -> bool:
        """Returns whether all that is due to be delivered has been; waits for it, but no longer than that."""
        try:
            async with Patience(seconds):
                for queue in self._queues.values():
                    while await deliveries.due(queue.client, queue.keys):  # noqa: ASYNC110 - others send it
                        await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            return False
        return True

    async def stop(self, *, now: bool = False) -> None:
        """Heartbeats first, then workers within the grace period, then connections. May be called again to hurry."""
        if self._scheduler:
            await self._scheduler.stop()
            self._scheduler = None
        for worker, _ in self._workers:
            worker.stop(now=now)
        await asyncio.gather(*(task for _, task in self._workers), return_exceptions=True)
        await self._stack.aclose()

    async def failed(self) -> None:
        """Returns when a worker ends by itself; raises what ended it."""
        done, _ = await asyncio.wait([task for _, task in self._workers], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    @property
    def is_ready(self) -> bool:
        """False once drained."""
        return not all(worker.drained for worker, _ in self._workers)

    async def serve_health(self, host: str, port: int) -> HealthServer:
        """Starts the HTTP of health and metrics; closed with the crews."""
        from watchbill.worker.health import HealthServer, observe
        from watchbill.worker.lease_keeper import STUCK_SECONDS

        def crews() -> list[names.CrewKeys]:
            return [queue.keys for queue in self._queues.values()]

        server = HealthServer(
            lambda: observe(self._store.client, crews()), lambda: self.is_ready, stuck_seconds=STUCK_SECONDS
        )
        await server.start(host, port)
        self._stack.push_async_callback(server.close)
        return server


async def run_file(
    path: Path,
    prompt: str,
    *,
    inputs: Mapping[str, str] | None = None,
    redis_url: str | None = None,
    timeout: float | None = None,
    model: str | None = None,
    **options: Any,
) -> Result:
    """Runs the one crew of a file in this process and returns how that ended. See `watchbill.client.run`."""
    manifests = load([path], model=model)
    crew = only_crew(manifests)
    submission.check(
        from_crew(crew), prompt, agent=options.get("agent"), inputs=inputs or {}, task_id=options.get("id")
    )
    require_ready(manifests, crew, options.get("agent"))
    async with AsyncExitStack() as stack:
        if redis_url is None:
            store = await EmbeddedStore.open(None)
            stack.push_async_callback(store.close)
            redis_url = store.url
        crews = await stack.enter_async_context(LocalCrews(redis_url, manifests, grace_seconds=0))
        client = await stack.enter_async_context(Client(redis_url, namespace=place_of(crew)[0]))
        waiting = asyncio.ensure_future(client.run(crew.name, prompt, inputs=inputs, timeout=timeout, **options))
        broken = asyncio.ensure_future(crews.failed())
        try:
            await asyncio.wait({waiting, broken}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                broken.result()
            return await waiting
        finally:
            for task in (waiting, broken):
                task.cancel()
            with suppress(Exception):
                await asyncio.gather(waiting, broken, return_exceptions=True)


def only_crew(manifests: Manifests, name: str | None = None) -> Crew:
    """The crew of that name, or the only one. Raises NotFound, InvalidInput."""
    if name is not None:
        for crew in manifests.crews:
            if crew.name == name:
                return crew
        raise NotFound(f"no crew {name!r} in the files; there are: {', '.join(c.name for c in manifests.crews)}")
    if len(manifests.crews) != 1:
        listed = ", ".join(c.name for c in manifests.crews) or "none"
        raise InvalidInput(
            Problem(f"the files declare {len(manifests.crews)} crews ({listed})", "Say which with --crew.")
        )
    return manifests.crews[0]
