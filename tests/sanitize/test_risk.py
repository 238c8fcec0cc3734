from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from roclip_audit.core.schema import LEAST_VERSIONS
from roclip_audit.sanitize.copies import MOST_OF_DATA, CountedCopies
from roclip_audit.sanitize.risk import (
    AS_RARE,
    LEARNED,
    ORDINARY_P,
    Risk,
    as_rare,
    combine,
    log_factor,
)
from roclip_audit.sanitize.stamps.search import Stamps
from roclip_audit.sanitize.suspicion import Calibrated, Interval
from roclip_audit.sanitize.traits import Traits


def risk_of(
    suspicion: list[float],
    p: list[float] | None = None,
    *,
    patch: list[float] | None = None,
    conflicts: list[int] | None = None,
    versions: list[int] | None = None,
    trained: list[float] | None = None,
    stamped: list[float] | None = None,
) -> Risk:
    n = len(suspicion)
    s = np.array(suspicion)
    calibrated = Calibrated(s, s, s, Interval(0.05, 0.04, 0.06))
    nothing, alone = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.int64)
    patch_N = nothing if patch is None else torch.tensor(patch, dtype=torch.float64)
    p_N = torch.ones(n, dtype=torch.float64) if p is None else torch.tensor(p, dtype=torch.float64)
    traits = Traits(texture_N=nothing, patch_N=patch_N, patch_x_N=nothing, patch_y_N=nothing, p_N=p_N)
    copies = CountedCopies(
        same_N=torch.arange(n),
        version_N=torch.arange(n),
        n_same_N=alone,
        n_same_captions_N=alone,
        n_conflicts_N=torch.zeros(n, dtype=torch.int64) if conflicts is None else torch.tensor(conflicts),
        n_versions_N=alone if versions is None else torch.tensor(versions),
        family_N=torch.arange(n),
    )
    trained_N = nothing.float() if trained is None else torch.tensor(trained)
    return combine(calibrated, trained_N, traits, stamps_of([0.0] * n if stamped is None else stamped), copies)


def stamps_of(strength: list[float]) -> Stamps:
    strength_N = torch.tensor(strength, dtype=torch.float64)
    return Stamps(number_N=(strength_N > 0).long(), strength_N=strength_N, found=())


def falling(n: int) -> list[float]:
    return [0.9 - 0.8 * x / n for x in range(n)]


def test_factor_is_the_bound_of_sellke_bayarri_berger() -> None:
    """Their table: p = 0.01 gives odds of 1 to 8.13, p = 0.001 of 1 to 53.3; here relative to p = 0.01."""
    found = log_factor(torch.tensor([0.001], dtype=torch.float64)).exp()
    assert float(found) == pytest.approx(53.25 / 7.988, rel=1e-3)
    assert ORDINARY_P == 0.01


def test_ordinary_p_values_change_nothing() -> None:
    assert log_factor(torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)).tolist() == [0, 0, 0]


def test_without_other_reasons_risk_is_suspicion() -> None:
    found = risk_of([0.001, 0.2, 0.9], [1.0, 0.5, 0.02])
    assert found.risk_N.tolist() == pytest.approx([0.001, 0.2, 0.9])
    assert found.reasons == ["pairing"] * 3


def test_a_trait_lifts_a_doubtful_pairing_to_the_top_and_one_that_fits_not() -> None:
    found = risk_of([0.3, 0.3, 0.0001, 0.9], [1e-4, 1.0, 1e-4, 1.0])
    risk = found.risk_N.tolist()
    assert risk[0] > risk[3] > risk[1] > risk[2] > 0.0001
    assert found.reasons == ["trait", "pairing", "trait", "pairing"]


def test_odds_multiply() -> None:
    s, p = 0.2, 1e-3
    factor = (1 / (-math.e * p * math.log(p))) / (1 / (-math.e * 0.01 * math.log(0.01)))
    odds = s / (1 - s) * factor
    assert float(risk_of([s], [p]).risk_N[0]) == pytest.approx(odds / (1 + odds))


def test_a_sure_pairing_stays_finite() -> None:
    found = risk_of([0.0, 1.0], [1e-4, 1e-4], trained=[0.9, -0.9]).risk_N
    assert bool(found.isfinite().all())
    assert found[1] > found[0]


def test_a_rare_patch_ranks_with_pairings_that_are_more_frequent() -> None:
    n = 1_000
    suspicion = falling(n)  # the first are the oddest
    patch = [0.0] * n
    patch[900], patch[950], patch[10] = 9.0, 8.0, 7.0
    p = [0.01 if value else 1.0 for value in patch]
    found = risk_of(suspicion, p, patch=patch)
    times = int(AS_RARE["patch"])
    assert found.risk_N[900] == pytest.approx(suspicion[times - 1])  # the rarest of all
    assert found.risk_N[950] == pytest.approx(suspicion[2 * times - 1])
    assert found.risk_N[10] == pytest.approx(suspicion[10])  # odd enough by itself
    assert [found.reasons[row] for row in (900, 950, 10)] == ["trait", "trait", "pairing"]
    others = [row for row in range(n) if row not in (900, 950)]
    assert found.risk_N[others].tolist() == pytest.approx([suspicion[row] for row in others])


def test_a_patch_that_chance_explains_is_no_trait() -> None:
    suspicion = falling(1_000)
    found = risk_of(suspicion, [0.06] * 1_000, patch=np.random.default_rng(0).normal(size=1_000).tolist())
    assert found.reasons == ["pairing"] * 1_000
    assert found.risk_N.tolist() == pytest.approx(suspicion)


def test_what_training_cannot_fit_raises_the_odds_and_what_it_fits_lowers_them() -> None:
    found = risk_of([0.3] * 4, trained=[0.9, 0.5, 0.5, 0.1]).risk_N
    odds = found / (1 - found) / (0.3 / 0.7)
    assert odds.tolist() == pytest.approx([LEARNED**-0.75, 1.0, 1.0, LEARNED**0.75])


def test_without_heads_that_were_trained_on_the_pairs_the_pairing_is_left_alone() -> None:
    suspicion = np.array([0.1, 0.6])
    calibrated = Calibrated(suspicion, suspicion, suspicion, Interval(0.05, 0.04, 0.06))
    nothing, alone = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)
    traits = Traits(texture_N=nothing, patch_N=nothing, patch_x_N=nothing, patch_y_N=nothing, p_N=alone.double())
    copies = CountedCopies(
        same_N=alone,
        version_N=alone,
        n_same_N=alone,
        n_same_captions_N=alone,
        n_conflicts_N=0 * alone,
        n_versions_N=alone,
        family_N=alone,
    )
    assert combine(calibrated, None, traits, stamps_of([0.0, 0.0]), copies).risk_N.tolist() == pytest.approx([0.1, 0.6])


def test_what_carries_a_stamp_ranks_four_beside_each_oddest_pairing_the_clearest_first() -> None:
    suspicion = falling(1_000)
    found = risk_of(suspicion, stamped=[0.0] * 994 + [6.0, 9.0, 7.0, 5.0, 8.0, 0.0])
    assert found.risk_N[[995, 998, 996, 994]].tolist() == pytest.approx([suspicion[0]] * 4)
    assert found.risk_N[997] == pytest.approx(suspicion[1])
    assert found.reasons[994:] == ["trait"] * 5 + ["pairing"]
    assert found.risk_N[-1] == pytest.approx(suspicion[-1])


def test_one_picture_under_two_captions_ranks_by_how_rare_that_is() -> None:
    n = 1_000
    suspicion = falling(n)
    found = risk_of(suspicion, conflicts=[0] * (n - 5) + [1, 1, 2, 2, 2])
    assert found.reasons[-5:] == ["duplicates"] * 5
    assert found.risk_N[-3:].tolist() == pytest.approx([suspicion[3 * int(AS_RARE["conflicts"]) - 1]] * 3)
    assert found.risk_N[-5] == pytest.approx(suspicion[5 * int(AS_RARE["conflicts"]) - 1])
    assert found.risk_N[:-5].tolist() == pytest.approx(suspicion[:-5])


def test_a_crowd_of_versions_counts_though_its_captions_fit() -> None:
    n = 1_000
    suspicion = falling(n)
    found = risk_of(suspicion, versions=[1] * (n - 20) + [20] * 20)
    assert found.reasons[-20:] == ["duplicates"] * 20
    assert found.risk_N[-1] == pytest.approx(suspicion[20 * int(AS_RARE["versions"]) - 1])


def test_a_few_versions_and_what_the_data_is_about_count_for_nothing() -> None:
    n = 1_000
    suspicion = falling(n)
    most = int(MOST_OF_DATA * n) + 1
    found = risk_of(suspicion, versions=[1] * (n - most - 7) + [most] * most + [LEAST_VERSIONS - 1] * 7)
    assert found.risk_N.tolist() == pytest.approx(suspicion)


def test_where_copies_are_common_they_move_nothing() -> None:
    suspicion = falling(1_000)
    assert risk_of(suspicion, conflicts=[3] * 1_000).risk_N.tolist() == pytest.approx(suspicion)


def test_as_rare_agrees_with_a_plain_search() -> None:
    rng = torch.Generator().manual_seed(0)
    value, odds = torch.randint(0, 40, (200,), generator=rng).double(), torch.randn(200, generator=rng).double()
    found = as_rare(value, odds, 2.5)
    for row in range(200):
        rank = math.ceil(2.5 * int((value >= value[row]).sum()))
        assert found[row] == sorted(odds.tolist(), reverse=True)[min(rank, 200) - 1]
