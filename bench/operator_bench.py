"""The operator: how soon a crew at zero that gets work has a worker, what it writes, and how much memory it takes.

    python -m bench.operator_bench [--crews 500] [--samples 50] [--rest 60] [--resync 300] [--json FILE]
    python -m bench.operator_bench --kind [--samples 10] [--namespace default] [--json FILE]

The first runs a control plane, a store and the operator of its own, without pods (build it: `make control-plane`):
memory without crews; --crews are created, and beside them some are changed; the operator is restarted; writes while
nobody asks for anything; then --samples of them, each at zero and each once, get a task, one after the other; then the
store goes away for half a minute. A time ends when a watch on Deployments shows replicas: 1, so it holds
the watch's own few milliseconds too; it begins with the call of `submit` or, in the second figure, at its return.

The second needs a cluster with Watchbill and its bundled Valkey, that of KUBECONFIG (`make e2e-up`), and measures there
from `submit` to the result, a pod's start included. It submits through a port-forward, and leaves nothing behind.

Quote medians with their spread and the load average beside them; p99 of 50 is the slowest. Exits with 1 if something
was not as it must be: a write at rest, a task without its one result, a crew scaled for nothing, an operator that
doesn't end well. A slow machine is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import operator_bare, operator_plane, operator_pods
from bench.operator_phases import STATUS_WRITES_GOAL
from bench.operator_watch import row
from e2e.cluster import kind
from e2e.cluster.kubectl import KubectlError
from e2e.cluster.machine import ClusterError

from watchbill.errors import WatchbillError

SCALE_GOAL_MS = 50.0  # p99, with 2,000 crews on a machine of their own
RESULT_GOAL_MS = 5000.0  # p50


def main() -> int:
    # Terminated is like interrupted: what was started is stopped.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    arguments = _arguments()
    load = os.getloadavg()[0]
    found: operator_bare.Found | operator_pods.Found
    try:
        if arguments.kind:
            samples = arguments.samples or 10
            found = asyncio.run(operator_pods.measure(kind.current().kubectl, arguments.namespace, samples))
        else:
            samples = arguments.samples or 50
            found = asyncio.run(operator_bare.measure(arguments.crews, samples, arguments.rest, arguments.resync))
    except (ClusterError, KubectlError, TimeoutError, WatchbillError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    found.environment = operator_plane.surroundings(load) | found.environment
    print("\n" + ", ".join(f"{what}: {value}" for what, value in found.environment.items()) + "\n")
    _print_pods(found) if isinstance(found, operator_pods.Found) else _print_bare(found, samples)
    if arguments.json:
        arguments.json.write_text(json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False) + "\n")
    for wrong in found.wrong:
        print(f"WRONG: {wrong}", file=sys.stderr)
    return 1 if found.wrong else 0


def _print_bare(found: operator_bare.Found, samples: int) -> None:
    print(f"0 → 1 of {samples} of {found.crews} crews (goal: p99 < {SCALE_GOAL_MS:,.0f} ms)")
    print(row("  submit begins → scale write", found.submit_begin_to_scale))
    print(row("  submit returns → scale write", found.submit_return_to_scale))
    print(row("  the call of submit", found.submit_call))
    print(f"{'  writes per 0 → 1':<44} {_each(found.writes_scaling, samples)}")
    print(f"{found.crews} crews created in {found.creating_seconds:.1f} s")
    print(row("  created → Ready, each", found.created_to_ready))
    print(f"{'  all Ready, from the first request on':<44} {found.all_ready_seconds:.1f} s")
    print(row("  one change meanwhile → Ready", found.changed_to_ready))
    rate = (sum(found.writes_creating.values()) + found.crews) / found.all_ready_seconds
    share = f"{rate / found.bare_writes_per_second:.0%} of {found.bare_writes_per_second:.0f}, of writes alone"
    print(f"{'  writes per second, of crews and for them':<44} {rate:.0f} ({share}; goal: 80%)")
    cpu = {program: 1000 * seconds / found.crews for program, seconds in found.cpu_creating.items()}
    print(f"{'  CPU time of the operator per crew':<44} {cpu['operator']:.1f} ms")
    print(f"{'  CPU time of all programs per crew':<44} {sum(cpu.values()):.1f} ms ({_shares(cpu)})")
    bounds = [_most(found, sum(cpu.values()) - less) for less in (0.0, cpu["operator"])]
    print(f"{'  at most, of writes alone, by CPU time':<44} {bounds[0]:.0%}; {bounds[1]:.0%} without the operator's")
    print(f"{'  CPU time per write alone':<44} {sum(found.cpu_writing.values()):.2f} ms ({_shares(found.cpu_writing)})")
    print(f"{'  reconciliations per crew':<44} {found.reconciles / found.crews:.2f}")
    print(f"{'  writes after a restart':<44} {sum(found.writes_after_restart.values())} (must be 0)")
    print(f"{'  writes per crew':<44} {_each(found.writes_creating, found.crews)}")
    at_rest = 60 * sum(found.writes_at_rest.values()) / found.rest_seconds
    print(f"{'  writes per minute at rest':<44} {at_rest:.3g} (over {found.rest_seconds:.0f} s; must be 0)")
    for what, memory in (("no crews", found.memory_empty), (f"{found.crews} crews", found.memory_full)):
        label = f"operator's memory, {what}"
        print(f"{label:<44} {memory['RSS']:.1f} MiB (peak {memory['peak']:.1f})")
    if (away := found.outage) is not None:
        print(f"the store away for {away.down_seconds:.0f} s: {away.told} statuses said so")
        print(f"{'  its return → all Ready':<44} {away.healed_seconds:.1f} s (goal: < 60 s)")
        most = f"{away.status_writes_in_worst_second} in the worst second (goal: {STATUS_WRITES_GOAL})"
        print(f"{'  status writes':<44} {away.status_writes}, {most}")
        print(f"{'  Deployments whose size changed':<44} {away.replicas_changed} (must be 0)")


def _print_pods(found: operator_pods.Found) -> None:
    print(f"0 → first result, pod start included (goal: p50 < {RESULT_GOAL_MS:,.0f} ms)")
    for stage in operator_pods.STAGES:
        print(row(f"  {stage}", found.stages[stage]))
    print(f"{'  the first time, not counted':<44} {found.first['0 → first result']:,.1f} ms")


def _most(found: operator_bare.Found, milliseconds: float) -> float:
    """Returns the share of writes alone that this machine allows where all programs together need that for a crew."""
    writes = sum(found.writes_creating.values()) / found.crews + 1
    return (os.cpu_count() or 1) * 1000 / milliseconds * writes / found.bare_writes_per_second


def _shares(milliseconds: Mapping[str, float]) -> str:
    return ", ".join(f"{program} {each:.1f}" for program, each in milliseconds.items())


def _each(writes: Mapping[str, int], count: int) -> str:
    kinds = ", ".join(f"{what} {number / count:g}" for what, number in writes.items())
    return f"{sum(writes.values()) / count:g}" + (f" ({kinds})" if kinds else "")


def _arguments() -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m bench.operator_bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kind", action="store_true", help="on the cluster of the current kubeconfig, with pods")
    parser.add_argument("--namespace", default="default", help="of the Helm release, with --kind (default: default)")
    parser.add_argument("--samples", type=int, help="how often 0 → 1 is measured (default: 50, with --kind 10)")
    parser.add_argument("--crews", type=int, default=500, help="how many there are (default: 500)")
    parser.add_argument("--rest", type=float, default=60, help="seconds in which no write may be (default: 60)")
    parser.add_argument("--resync", type=float, default=300, help="seconds between the operator's own (default: 300)")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    arguments = parser.parse_args()
    if not arguments.kind and arguments.crews <= (arguments.samples or 50):
        parser.error("--crews must be more than --samples: each crew is used once, and one to warm up")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
