"""Failover of the operator: how soon the other replica leads and acts, and what becomes of heartbeats meanwhile.

    python -m bench.failover [--rounds 5] [--faults sigterm kill frozen partition] [--crews 100] [--beats 5]
                             [--json FILE]

Two replicas on a control plane without pods, with the Lease as it is shipped. In each round the one that leads gets a
fault, and the other takes over; then the first is started, or goes on, as the other's standby:

    sigterm     it is terminated, and releases the Lease
    kill        kill -9
    frozen      SIGSTOP, and SIGCONT once the other has acted
    partition   nothing passes any longer between it and the API server, until the other has acted

Times are from the fault on. The other leads when a watch shows its name in the Lease, and acts when a watch shows
the status of a crew that was changed after the fault. Each heartbeat is due each second, and makes up for slots that
nobody could fire in time (`missed: All`). Each slot from the first to the last must have been fired once. After
the takeover the former leader must write nothing that the API server takes (each replica has an account of its own,
and the audit log names it), and must change nothing of the crew in the store.

Exits with 1 if a slot was missed or doubled, or if the former leader wrote something. A slow machine is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import operator_phases, operator_plane
from bench.operator_plane import ACCOUNT_NAMESPACE, NAMESPACE
from bench.operator_watch import Object, Watch, row, spread
from e2e.cluster import control_plane as planes
from e2e.cluster import machine, recipe
from e2e.cluster.control_plane import ControlPlane, Write
from e2e.cluster.machine import ClusterError
from e2e.control_plane import operator_process
from e2e.control_plane.operator_process import Store
from e2e.control_plane.tcp_proxy import before_api_server

from watchbill import cluster_names
from watchbill.names import CrewKeys

GOALS: Final = {"sigterm": 5.0, "kill": 20.0, "frozen": 20.0, "partition": 20.0}
"""Fault → seconds within which the other replica must act."""
LEASE = f"{ACCOUNT_NAMESPACE}/watchbill"
BEATING: Final = "beats"
LEADS_SECONDS = 120.0
READY_SECONDS = 600.0
AFTERWARDS_SECONDS = 5.0
"""Seconds for which a former leader that goes on is looked at."""


@dataclass
class Found:
    """The measurements. Times in s by fault, lateness of heartbeats in ms."""

    environment: dict[str, Any] = field(default_factory=dict)
    leads: dict[str, list[float]] = field(default_factory=dict)
    acts: dict[str, list[float]] = field(default_factory=dict)
    slots: int = 0
    missed: int = 0
    doubled: int = 0
    lateness: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Findings that must not be."""


class Replica:
    """An operator with an account of its own, behind a proxy of its own."""

    def __init__(self, account: str, kubeconfig: Path, url: str, folder: Path, stack: ExitStack) -> None:
        own = folder / f"kubeconfig-{account}"
        self.proxy = stack.enter_context(before_api_server(kubeconfig, own))
        self.user = operator_plane.user(account)
        self.port = operator_plane.free_port()
        settings = {"lease": LEASE, "health_port": str(self.port)}
        self.process = stack.enter_context(operator_process.operator(own, url, folder, name=account, **settings))

    def does_lead(self) -> bool:
        return "watchbill_operator_leader 1.0" in operator_plane.get(self.port, "/metrics")

    async def until_ready(self) -> None:
        await asyncio.to_thread(operator_plane.until_ready, self.process, self.port)


class Bench:
    """One control plane with two replicas. Its rounds follow one upon the other."""

    def __init__(
        self, plane: ControlPlane, store: Store, replicas: Sequence[Replica], crews: Watch, leases: Watch, found: Found
    ) -> None:
        self._plane = plane
        self._store = store
        self._replicas = replicas
        self._crews = crews
        self._leases = leases
        self._found = found
        self._number = 100

    async def leader(self) -> tuple[Replica, Replica]:
        """Returns the replica that leads, and the other, once both are ready."""
        for replica in self._replicas:
            await replica.until_ready()
        deadline = time.monotonic() + LEADS_SECONDS
        while time.monotonic() < deadline:
            first, second = self._replicas
            leads = [await asyncio.to_thread(one.does_lead) for one in (first, second)]
            if leads.count(True) == 1:
                return (first, second) if leads[0] else (second, first)
            await asyncio.sleep(0.1)
        raise TimeoutError("not one replica leads, but none or both")

    async def round(self, fault: str) -> None:
        old, new = await self.leader()
        holder, since, position = self._holder(), len(self._leases.events), self._plane.audit_position()
        began = time.perf_counter()
        if fault == "sigterm":
            if code := await asyncio.to_thread(old.process.terminate):
                self._found.wrong.append(f"an operator that was terminated ended with exit code {code}")
        else:
            {"kill": old.process.kill, "frozen": old.process.stop, "partition": old.proxy.drop}[fault]()
        taking = asyncio.create_task(
            self._leases.first(
                lambda lease: lease["spec"].get("holderIdentity") not in (None, "", holder),
                since=since,
                within=LEADS_SECONDS,
                what="the other replica holds the Lease",
            )
        )
        acted = await self._change()
        led = await taking
        self._found.leads[fault].append(led.at - began)
        self._found.acts[fault].append(acted - began)
        machine.say(f"{fault}: the other leads after {led.at - began:.2f} s, and acts after {acted - began:.2f} s")
        stored = self._stored()
        if fault in ("sigterm", "kill"):
            old.process.start()
        elif fault == "frozen":
            old.process.go_on()
        else:
            old.proxy.heal()
        await old.until_ready()
        await asyncio.sleep(AFTERWARDS_SECONDS)
        late = after_takeover(self._plane.writes(position), old=old.user, new=new.user)
        if late:
            self._found.wrong.append(f"{fault}: the former leader wrote {operator_plane.counted(late)}")
        if self._stored() != stored:
            self._found.wrong.append(f"{fault}: the crew in the store is not the one that the other replica stored")
        if await asyncio.to_thread(old.does_lead):
            self._found.wrong.append(f"{fault}: the former leader takes itself for the leader")

    def _holder(self) -> str:
        (lease,) = self._leases.objects.values()
        return str(lease["spec"]["holderIdentity"])

    async def _change(self) -> float:
        """Changes the crew, and returns when its status was seen to be of the change."""
        self._number += 1
        number, since = self._number, len(self._crews.events)
        await asyncio.to_thread(operator_phases.patch_idle_seconds, self._plane, NAMESPACE, BEATING, number)

        def is_taken_up(crew: Object) -> bool:
            # not Ready: without pods it ceases to be after five minutes
            is_it = crew["metadata"]["name"] == BEATING and operator_phases.idle_seconds(crew) == number
            return is_it and crew.get("status", {}).get("observedGeneration") == crew["metadata"]["generation"]

        seen = await self._crews.first(is_taken_up, since=since, within=LEADS_SECONDS, what="the change is taken up")
        return seen.at

    def _stored(self) -> list[Any]:
        return list(self._store.client.hmget(CrewKeys(NAMESPACE, BEATING).meta, ["uid", "def", "generation"]))


def after_takeover(writes: Iterable[Write], *, old: str, new: str) -> list[Write]:
    """Returns what the API server took from the user `old` after `new` had taken the Lease, in the log's order."""
    found: list[Write] = []
    is_taken = False
    for write in writes:
        if write.code >= 400:
            continue
        is_taken = is_taken or (write.user == new and write.resource == "leases")
        if is_taken and write.user == old:
            found.append(write)
    return found


def gaps(slots: Iterable[int]) -> tuple[int, int]:
    """Returns how many of the seconds from the first to the last slot are missing, and how many slots are there more
    than once."""
    counts = Counter(slots)
    if not counts:
        return 0, 0
    return max(counts) - min(counts) + 1 - len(counts), sum(count - 1 for count in counts.values())


async def measure(arguments: argparse.Namespace) -> Found:
    found = Found(leads={fault: [] for fault in arguments.faults}, acts={fault: [] for fault in arguments.faults})
    with tempfile.TemporaryDirectory(prefix="wb-", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "store").mkdir()
        store = Store(folder / "store")
        machine.say("starting a control plane and a store")
        store.start()
        stack.callback(store.kill)
        stack.callback(store.client.close)
        flags = operator_plane.CONTROLLER_FLAGS
        plane = stack.enter_context(planes.running(folder / "plane", controller_manager_flags=flags))
        found.environment = {"Kubernetes": recipe.KUBERNETES, "crews": arguments.crews, "heartbeats": arguments.beats}
        accounts = ("first", "second")
        kubeconfigs = operator_plane.prepare(plane, store, *accounts)
        replicas = [
            Replica(account, kubeconfig, store.url, folder, stack)
            for account, kubeconfig in zip(accounts, kubeconfigs, strict=True)
        ]
        crews = [operator_plane.crew(f"crew-{number:04d}") for number in range(arguments.crews - 1)]
        plane.kubectl.apply(*crews, operator_plane.crew(BEATING), namespace=NAMESPACE)
        plane.kubectl.apply(*map(_beat, range(arguments.beats)), namespace=NAMESPACE)
        for replica in replicas:
            replica.process.start()
            await replica.until_ready()
        await _rounds(found, arguments, plane, store, replicas)
    return found


async def _rounds(
    found: Found, arguments: argparse.Namespace, plane: ControlPlane, store: Store, replicas: Sequence[Replica]
) -> None:
    leases_path = f"/apis/coordination.k8s.io/v1/namespaces/{ACCOUNT_NAMESPACE}/leases"
    async with (
        Watch(plane.kubectl, operator_plane.path("crews")) as crews,
        Watch(plane.kubectl, leases_path) as leases,
    ):
        await crews.until(
            lambda: (
                len(crews.objects) == arguments.crews and all(map(operator_phases.is_ready, crews.objects.values()))
            ),
            within=READY_SECONDS,
            what="every crew is Ready",
        )
        await leases.until(lambda: leases.objects, within=LEADS_SECONDS, what="the Lease is seen")
        bench = Bench(plane, store, replicas, crews, leases, found)
        for _ in range(arguments.rounds):
            for fault in arguments.faults:
                await bench.round(fault)
        await bench.leader()
    for replica in replicas:
        if code := await asyncio.to_thread(replica.process.terminate):
            found.wrong.append(f"an operator that was terminated ended with exit code {code}")
    _count_slots(found, store, arguments.beats)


def _count_slots(found: Found, store: Store, beats: int) -> None:
    keys = CrewKeys(NAMESPACE, BEATING)
    slots: dict[str, list[int]] = {f"beat{number}": [] for number in range(beats)}
    for stream in keys.streams:
        entries: Any = store.client.xrange(stream)
        for at, fields in entries:
            name, _, slot = str(fields["id"]).removeprefix("hb-").rpartition("-")
            slots[name].append(int(slot))
            found.lateness.append(float(at.partition("-")[0]) - 1000 * int(slot))
    for name, of in slots.items():
        missed, doubled = gaps(of)
        found.slots += len(of)
        found.missed += missed + int(store.client.hget(keys.heartbeat(name), "missed") or 0)
        found.doubled += doubled
        if not of:
            found.wrong.append(f"{name} has never fired")
    if found.missed or found.doubled:
        found.wrong.append(f"{found.missed} slots were missed, and {found.doubled} doubled")


def _beat(number: int) -> Object:
    spec = {"crewRef": {"name": BEATING}, "agent": "echo", "prompt": "look", "intervalSeconds": 1, "missed": "All"}
    return {
        "apiVersion": f"{cluster_names.API_GROUP}/{cluster_names.API_VERSION}",
        "kind": "Heartbeat",
        "metadata": {"name": f"beat{number}"},
        "spec": spec,
    }


def main() -> int:
    arguments = _arguments()
    load = os.getloadavg()[0]
    try:
        found = asyncio.run(measure(arguments))
    except (ClusterError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    found.environment |= operator_plane.surroundings(load)
    print("\n" + ", ".join(f"{what}: {value}" for what, value in found.environment.items()) + "\n")
    for fault in arguments.faults:
        met = "met" if max(found.acts[fault]) < GOALS[fault] else "not met"
        print(row(f"{fault}: the other leads", found.leads[fault], "s"))
        print(row(f"{fault}: the other acts", found.acts[fault], "s") + f" (goal: < {GOALS[fault]:g} s, {met})")
    print(f"{'slots of one second: fired, missed, doubled':<44} {found.slots}, {found.missed}, {found.doubled}")
    if found.lateness:
        print(row("  from the slot to its entry on the queue", found.lateness))
    print(f"{'the former leader wrote, afterwards':<44} {'see below' if found.wrong else 'nothing'}")
    if arguments.json:
        figures = {**asdict(found), "lateness": spread(found.lateness) if found.lateness else None}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    for wrong in found.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    return 1 if found.wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.failover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    faults = list(GOALS)
    parser.add_argument("--rounds", type=int, default=5, help="how often each fault comes (default: 5)")
    parser.add_argument("--faults", nargs="+", choices=faults, default=faults, help="which (default: all)")
    parser.add_argument("--crews", type=int, default=100, help="how many there are (default: 100)")
    parser.add_argument("--beats", type=int, default=5, help="heartbeats that are due each second (default: 5)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
