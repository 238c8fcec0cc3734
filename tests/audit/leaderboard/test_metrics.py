"""The metrics against scikit-learn, against counting by hand, and the bootstrap against resampling the pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from roclip_audit.audit.leaderboard.metrics import METRICS, CleanScores, Resamples, detection

levels = st.lists(st.integers(0, 6), min_size=1, max_size=25)  # few levels: many ties


def none_drawn(n: int) -> Resamples:
    return Resamples.draw(n, 0, np.random.default_rng(0))


def measured(planted: list[float], clean: list[float]) -> dict[str, float]:
    scores = CleanScores(score_N=np.array(clean, dtype=float), resamples=none_drawn(len(clean)))
    found = detection({"a": np.array(planted, dtype=float)}, scores, np.random.default_rng(0))["a"]
    assert set(found) == set(METRICS)
    return {name: one.value for name, one in found.items()}


def sklearn_says(planted: list[float], clean: list[float]) -> dict[str, float]:
    truth, score = [1] * len(planted) + [0] * len(clean), [*planted, *clean]
    fpr, tpr, _ = roc_curve(truth, score, drop_intermediate=False)
    return {
        "auroc": roc_auc_score(truth, score),
        "average_precision": average_precision_score(truth, score),
        "fpr_at_95_tpr": fpr[tpr >= 0.95 - 1e-9].min(),
        "fpr_at_100_tpr": fpr[tpr >= 1 - 1e-9].min(),
    }


@settings(max_examples=150)
@given(planted=levels, clean=levels)
def test_agrees_with_scikit_learn_on_ties(planted: list[float], clean: list[float]) -> None:
    found, expected = measured(planted, clean), sklearn_says(planted, clean)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_agrees_with_scikit_learn_on_many_pairs() -> None:
    rng = np.random.default_rng(0)
    planted, clean = rng.normal(1, 1, 41).tolist(), rng.normal(0, 1, 3_000).tolist()
    found, expected = measured(planted, clean), sklearn_says(planted, clean)
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_by_hand() -> None:
    found = measured([9, 5, 1], [8, 5, 2, 0])
    assert found["auroc"] == pytest.approx((4 + 2.5 + 1) / 12)
    assert found["average_precision"] == pytest.approx((1 / 1 + 2 / 4 + 3 / 6) / 3)
    assert found["fpr_at_95_tpr"] == found["fpr_at_100_tpr"] == 3 / 4
    assert found["recall_at_1_removed"] == pytest.approx(1 / 3)  # one of seven pairs is removed: the planted 9


def test_95_of_a_hundred_are_enough_for_95_percent() -> None:
    planted = [2.0] * 95 + [0.0] * 5
    assert measured(planted, [1.0])["fpr_at_95_tpr"] == 0.0
    assert measured(planted, [1.0])["fpr_at_100_tpr"] == 1.0


@pytest.mark.parametrize(
    ("planted", "clean", "recall"),
    [
        ([1.0] * 2, [0.0] * 298, 1.0),  # 3 of 300 removed, room for both
        ([1.0] * 6, [0.0] * 294, 0.5),
        ([1.0] * 3, [1.0] * 297, 0.01),  # all tied: a hundredth of each
        ([1.0, 0.5], [2.0, 0.5] + [0.0] * 296, 0.75),  # 3 of 300: the 2.0, the 1.0 and half of the two at 0.5
    ],
)
def test_recall_when_one_percent_is_removed(planted: list[float], clean: list[float], recall: float) -> None:
    assert measured(planted, clean)["recall_at_1_removed"] == pytest.approx(recall)


def test_a_replicate_is_the_same_metric_of_resampled_pairs() -> None:
    rng = np.random.default_rng(3)
    planted, clean = rng.integers(0, 9, 12).astype(float), rng.integers(0, 7, 30).astype(float)
    resamples = Resamples.draw(30, 1, np.random.default_rng(5))
    found = detection({"a": planted}, CleanScores(score_N=clean, resamples=resamples), np.random.default_rng(7))["a"]
    drawn = planted[np.random.default_rng(7).integers(0, 12, 12)]
    again = measured(drawn.tolist(), np.repeat(clean, resamples.count_BN[0]).tolist())
    assert {name: one.low for name, one in found.items()} == pytest.approx(again)
    assert {name: one.high for name, one in found.items()} == pytest.approx(again)


def test_resamples_draw_as_many_pairs_as_there_are() -> None:
    resamples = Resamples.draw(50, 20, np.random.default_rng(0))
    assert resamples.count_BN.sum(1).tolist() == [50] * 20
    assert Resamples.draw(0, 3, np.random.default_rng(0)).count_BN.shape == (3, 0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """AUROC of N(1, 1) against N(0, 1) is 0.7602; 60 draws, 95 % intervals: between 49 and 60 hold it."""
    covered = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        planted, clean = rng.normal(1, 1, 60), rng.normal(0, 1, 200)
        scores = CleanScores(score_N=clean, resamples=Resamples.draw(200, 200, rng))
        one = detection({"a": planted}, scores, rng)["a"]["auroc"]
        covered += one.low <= 0.7602 <= one.high
    assert 49 <= covered <= 60


def test_blocks_of_replicates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from roclip_audit.audit.leaderboard import metrics

    rng = np.random.default_rng(0)
    scores = CleanScores(score_N=rng.normal(size=40), resamples=Resamples.draw(40, 11, rng))
    whole = scores.n_above(np.array([0.5, -0.5]))
    monkeypatch.setattr(metrics, "_COUNTED", 90)
    assert all(np.array_equal(*pair) for pair in zip(whole, scores.n_above(np.array([0.5, -0.5])), strict=True))


def test_attacks_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(0)
    clean = CleanScores(score_N=rng.normal(size=50), resamples=none_drawn(50))
    attacks = {name: rng.normal(size=9) for name in "abc"}
    together = detection(attacks, clean, rng)
    for name, scores in attacks.items():
        alone = detection({name: scores}, clean, rng)[name]
        assert {m: e.value for m, e in alone.items()} == {m: e.value for m, e in together[name].items()}
