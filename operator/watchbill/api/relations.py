"""The graph that flow relations describe: unknown names and cycles, found and named. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from graphlib import CycleError, TopologicalSorter


def edges(relations: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[tuple[str, str]]:
    """(source, target) for every pair that the relations join, each once, in the order written."""
    return list(dict.fromkeys((s, t) for sources, targets in relations for s in sources for t in targets))


def find_cycle(nodes: Iterable[str], joined: Iterable[tuple[str, str]]) -> list[str] | None:
    """One cycle as a list that ends where it began, or None. It is the same one whenever the order is the same.

    >>> find_cycle("abc", [("a", "b"), ("b", "c"), ("c", "a")])
    ['a', 'b', 'c', 'a']
    """
    sorter = TopologicalSorter(dict.fromkeys(nodes, ()))
    for source, target in joined:
        sorter.add(target, source)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return None
