"""The graph that flow relations describe: unknown names and cycles, found and named. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence


def edges(relations: Iterable[tuple[Sequence[str], Sequence[str]]]) -> list[tuple[str, str]]:
    """(source, target) for every pair that the relations join, each once, in the order written."""
    return list(dict.fromkeys((s, t) for sources, targets in relations for s in sources for t in targets))


def find_cycle(nodes: Iterable[str], joined: Iterable[tuple[str, str]]) -> list[str] | None:
    """One cycle as a list that ends where it began, or None. Iterative, so that long chains don't overflow.

    >>> find_cycle("abc", [("a", "b"), ("b", "c"), ("c", "a")])
    ['a', 'b', 'c', 'a']
    """
    successors: Mapping[str, list[str]] = defaultdict(list)
    for source, target in joined:
        successors[source].append(target)
    done: set[str] = set()
    for start in nodes:
        if start in done:
            continue
        path: list[str] = []
        on_path: set[str] = set()
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            node, position = stack.pop()
            if position == 0:
                path.append(node)
                on_path.add(node)
            if position < len(successors[node]):
                stack.append((node, position + 1))
                following = successors[node][position]
                if following in on_path:
                    return [*path[path.index(following) :], following]
                if following not in done:
                    stack.append((following, 0))
            else:
                path.pop()
                on_path.discard(node)
                done.add(node)
    return None
