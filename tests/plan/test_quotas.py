"""Which crews a namespace has room for, and how its workers are shared out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchbill.plan import quotas
from watchbill.plan.quotas import Hard, Tally

pytestmark = pytest.mark.pure

WISHES = st.lists(st.integers(0, 30), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("hard", "queued", "rooms"),
    [
        (Hard(), [5, 5, 5], "yyy"),
        (Hard(crews=2), [5, 5, 5], "yyn"),
        (Hard(crews=0), [5], "n"),
        (Hard(queued=10), [5, 5, 1], "yyn"),
        (Hard(queued=10), [8, 5, 2], "yny"),
        (Hard(queued=0), [1, 0], "ny"),
        (Hard(crews=2, queued=10), [8, 5, 2], "ynn"),
    ],
    ids=str,
)
def test_older_crews_have_room_first_and_one_without_leaves_its_share_to_younger_ones(
    hard: Hard, queued: list[int], rooms: str
) -> None:
    tally, found = Tally(), ""
    for number in queued:
        tally, hold = quotas.count(hard, "team", tally, number)
        found += "n" if hold else "y"
    assert found == rooms
    admitted = [number for number, room in zip(queued, rooms, strict=True) if room == "y"]
    assert tally == Tally(len(queued), len(admitted), sum(admitted))


def test_a_crew_without_room_is_told_the_figures_the_setting_and_the_remedy() -> None:
    where = "quotas.namespaces.team.hard"
    _, hold = quotas.count(Hard(crews=3, setting=where), "team", Tally(3, 3, 0), 5)
    assert hold is not None
    assert hold.why == f"the quota of namespace 'team' allows 3 crews ({where}.crews), and as many are older"
    assert f"Delete another crew, or raise {where}.crews in the values" in hold.message
    _, hold = quotas.count(Hard(queued=10, setting=where), "team", Tally(1, 1, 8), 5)
    assert hold is not None
    for part in ("allows 10 queued", "may queue 8", "tasks.maxQueued = 5", f"{where}.queued"):
        assert part in hold.message


@pytest.mark.parametrize(
    ("hard", "wishes", "shares"),
    [
        (10, [3, 4], [3, 4]),
        (10, [3, 7], [3, 7]),
        (10, [10, 10], [5, 5]),
        (10, [2, 10, 10], [2, 4, 4]),
        (10, [10, 10, 10], [4, 3, 3]),
        (11, [10, 1, 10, 10], [4, 1, 3, 3]),
        (2, [1, 1, 1], [1, 1, 0]),
        (0, [5], [0]),
        (5, [0, 9, 0], [0, 5, 0]),
    ],
    ids=str,
)
def test_workers_are_shared_by_max_min_fairness_and_the_oldest_get_what_can_not_be_divided(
    hard: int, wishes: list[int], shares: list[int]
) -> None:
    assert quotas.shares(hard, wishes) == shares


@given(st.integers(0, 60), WISHES)
def test_a_share_is_never_above_the_wish_nor_all_above_the_bound_and_nothing_is_left_over(
    hard: int, wishes: list[int]
) -> None:
    shares = quotas.shares(hard, wishes)
    assert all(0 <= share <= wish for share, wish in zip(shares, wishes, strict=True))
    assert sum(shares) == min(hard, sum(wishes))


@given(st.integers(0, 60), WISHES)
def test_a_crew_that_wants_more_has_no_less_than_any_other_but_for_what_can_not_be_divided(
    hard: int, wishes: list[int]
) -> None:
    shares = quotas.shares(hard, wishes)
    for share, wish in zip(shares, wishes, strict=True):
        if share < wish:
            assert share >= max(shares) - 1
    short = [share for share, wish in zip(shares, wishes, strict=True) if share < wish]
    assert short == sorted(short, reverse=True), "the older have what is over"


@given(st.integers(0, 60), WISHES, st.randoms(use_true_random=False))
def test_whoever_is_older_changes_a_share_by_no_more_than_one(hard: int, wishes: list[int], random: object) -> None:
    order = list(range(len(wishes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    plain, mixed = quotas.shares(hard, wishes), quotas.shares(hard, [wishes[i] for i in order])
    for place, i in enumerate(order):
        assert abs(mixed[place] - plain[i]) <= 1


@given(st.integers(0, 60), WISHES, st.data())
def test_a_crew_knows_its_share_before_it_knows_its_wish(hard: int, wishes: list[int], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(wishes) - 1))
    most = quotas.most(hard, wishes, index)
    assert quotas.shares(hard, wishes)[index] == min(wishes[index], most)
