"""`watchbill doctor` on real stores: a sound one has no fault, and each fault is provoked once."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import servers
from bench.clock import MISSING, Clock, library
from test_tls_and_acl import documented_rights

import watchbill
from waiting import until
from watchbill import connection
from watchbill.connection.url import parse
from watchbill.doctor import crews, store
from watchbill.doctor.findings import Finding, Severity
from watchbill.store import rights

Fresh = Callable[..., servers.Store]
CrewIn = Callable[..., Any]


async def found(url: str) -> dict[str, list[Finding]]:
    """The findings of each check."""
    by_check: dict[str, list[Finding]] = {}
    for finding in await store.examine(parse(url), "the store"):
        assert not finding.is_bad or finding.fix
        by_check.setdefault(finding.check, []).append(finding)
    return by_check


def bad(findings: dict[str, list[Finding]]) -> list[tuple[str, Severity]]:
    return [(finding.check, finding.severity) for some in findings.values() for finding in some if finding.is_bad]


@pytest.mark.parametrize("name", ["valkey-standalone", "redis7-standalone", "valkey-cluster"])
async def test_a_store_as_the_docs_ask_for_has_no_fault(fresh_store: Fresh, name: str) -> None:
    fresh = fresh_store(name)
    for server in fresh.servers:
        server.ask("ACL", "SETUSER", "watchbill", "on", ">hunter2", *documented_rights()["watchbill"].split())
        server.ask("CONFIG", "SET", "appendonly", "yes")
    seen = await found(fresh.url.replace("://", "://watchbill:hunter2@"))
    assert bad(seen) == []
    assert set(seen) == {"store", "persistence", "clock", "acl"}
    assert len({finding.message for finding in seen["acl"]}) == (3 if name == "valkey-cluster" else 1)
    assert ("Valkey 9" if "valkey" in name else "Redis 7.0") in seen["store"][0].message
    assert not [key for server in fresh.servers for key in server.client().keys("*")]


async def test_each_fault_of_a_store_is_named_with_its_fix(fresh_store: Fresh) -> None:
    fresh = fresh_store("valkey-standalone")
    ask = fresh.master.ask
    ask("CONFIG", "SET", "appendonly", "no")
    (finding,) = (await found(fresh.url))["persistence"]
    assert finding.severity is Severity.WARNING
    assert finding.fix.endswith("CONFIG SET appendonly yes")
    ask("CONFIG", "SET", "appendonly", "yes")

    ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    seen = await found(fresh.url)
    assert bad(seen) == [("store", Severity.ERROR)]
    assert "'allkeys-lru'" in seen["store"][-1].message
    assert seen["store"][-1].fix.endswith("CONFIG SET maxmemory-policy noeviction")
    ask("CONFIG", "SET", "maxmemory-policy", "noeviction")

    rights = documented_rights()["watchbill"].split()
    ask("ACL", "SETUSER", "less", "on", ">x", *rights, "-xclaim", "-zadd", "-evalsha")
    ask("ACL", "SETUSER", "single", "on", ">x", *documented_rights()["blog-team"].split())
    ask("ACL", "SETUSER", "blind", "on", ">x", *rights, "-info")
    ask("ACL", "SETUSER", "loose", "on", ">x", *rights, "-multi")
    (finding,) = (await found(fresh.url.replace("://", "://less:x@")))["acl"]
    assert finding.severity is Severity.ERROR
    assert finding.message.endswith("may not call ZADD, XCLAIM, EVALSHA")
    (finding,) = (await found(fresh.url.replace("://", "://single:x@")))["acl"]
    assert finding.severity is Severity.WARNING
    assert "reaches only some keys" in finding.message
    assert ("store", Severity.ERROR) in bad(await found(fresh.url.replace("://", "://blind:x@")))
    (finding,) = (await found(fresh.url.replace("://", "://loose:x@")))["acl"]
    assert finding.message.endswith("may not call MULTI, DISCARD")
    assert not fresh.master.client().keys("*"), "without a transaction, commands were carried out"

    fresh.master.kill()
    (finding,) = (await found(fresh.url))["store"]
    assert finding.severity is Severity.ERROR
    assert "doesn't answer" in finding.message


@pytest.mark.skipif(library() is None, reason=MISSING)
async def test_another_clock_and_work_without_a_worker_are_told(
    fresh_store: Fresh, crew_in: CrewIn, tmp_path: Path
) -> None:
    clock = Clock(tmp_path, 0)
    fresh = fresh_store("valkey-standalone", environment=clock.environment)
    crew = await crew_in(fresh, {"a": "Gate"})
    await crew.submit("t", "a")
    async with connection.connected(fresh.url) as client:
        (finding,) = await crews.examine(client, [crew.name], in_cluster=False)
        assert finding.severity is Severity.OK
        clock.move(3600)
        await until(lambda: _moved(fresh), what="the other time")
        (finding,) = await crews.examine(client, [crew.name], in_cluster=False)
    assert finding.severity is Severity.ERROR
    assert re.search(r"has 1 waiting tasks and no worker, the oldest for 36\d\d s", finding.message)
    assert finding.fix == f"watchbill worker {crew.name}"
    (finding,) = (await found(fresh.url))["clock"]
    assert finding.severity is Severity.WARNING
    assert re.search(r"is 36\d\d s ahead of", finding.message)


def _moved(fresh: servers.Store) -> bool:
    return bool(fresh.master.ask("TIME")[0] - time.time() > 1800)


def test_the_rights_of_every_command_of_the_scripts_are_tried() -> None:
    scripts = (Path(watchbill.__file__).parent).rglob("*.lua")
    used = {name for script in scripts for name in re.findall(r"redis\.p?call\('(\w+)'", script.read_text())}
    assert used - {line.split()[0] for line in rights.COMMANDS} == set()
