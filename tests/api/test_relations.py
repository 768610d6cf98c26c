"""The graph of flow relations."""

from __future__ import annotations

import itertools

import pytest

from watchbill.api.relations import edges, find_cycle

pytestmark = pytest.mark.pure


def test_every_source_is_joined_with_every_target_once_in_the_order_written() -> None:
    relations = [(["a", "b"], ["c", "d"]), (["a"], ["c", "e"])]
    assert edges(relations) == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("a", "e")]


@pytest.mark.parametrize(
    "joined",
    [
        [],
        [("a", "b"), ("b", "c"), ("c", "d")],
        [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")],
        [("d", "c"), ("c", "b"), ("b", "a"), ("d", "a")],
    ],
)
def test_a_graph_without_a_circle_has_none(joined: list[tuple[str, str]]) -> None:
    assert find_cycle("abcd", joined) is None


@pytest.mark.parametrize(
    ("joined", "members"),
    [
        ([("a", "a")], {"a"}),
        ([("a", "b"), ("b", "a")], {"a", "b"}),
        ([("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")], {"b", "c", "d"}),
        ([("a", "b"), ("c", "d"), ("d", "c")], {"c", "d"}),
    ],
)
def test_a_circle_is_returned_closed_and_without_what_only_leads_to_it(
    joined: list[tuple[str, str]], members: set[str]
) -> None:
    cycle = find_cycle("abcd", joined)
    assert cycle is not None
    assert cycle[0] == cycle[-1]
    assert set(cycle) == members
    assert all(pair in joined for pair in itertools.pairwise(cycle))


def test_a_chain_longer_than_pythons_stack_is_no_trouble() -> None:
    chain = [str(i) for i in range(20_000)]
    joined = list(itertools.pairwise(chain))
    assert find_cycle(chain, joined) is None
    cycle = find_cycle(chain, [*joined, (chain[-1], chain[0])])
    assert cycle is not None
    assert len(cycle) == 20_001


def test_a_dense_graph_without_a_circle_is_walked_once() -> None:
    nodes = [str(i) for i in range(400)]
    joined = [(a, b) for i, a in enumerate(nodes) for b in nodes[i + 1 :]]
    assert find_cycle(nodes, joined) is None
