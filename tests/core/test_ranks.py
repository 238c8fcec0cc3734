from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.ranks import count_at_least, count_less, evenly_spaced, share_at_least

_VALUES = st.lists(st.integers(0, 6), max_size=30)


@given(_VALUES, _VALUES)
def test_counts_agree_with_plain_loops(among: list[int], values: list[int]) -> None:
    among_M, value_N = torch.tensor(among).double(), torch.tensor(values).double()
    assert count_less(among_M, value_N).tolist() == [sum(one < value for one in among) for value in values]
    at_least = [sum(one >= value for one in among) for value in values]
    assert count_at_least(among_M, value_N).tolist() == at_least
    assert share_at_least(among_M, value_N).tolist() == [(1 + n) / (1 + len(among)) for n in at_least]


@given(st.integers(0, 3_000), st.integers(1, 500))
def test_places_are_distinct_and_span_everything(n: int, most: int) -> None:
    picked = evenly_spaced(n, most).tolist()
    assert len(picked) == min(n, most)
    assert picked == sorted(set(picked))
    if picked:
        assert picked[0] == 0
    if len(picked) > 1:
        assert picked[-1] == n - 1
