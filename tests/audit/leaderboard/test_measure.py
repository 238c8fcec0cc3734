"""One made-up run, measured: every number computed a second way, from the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from roclip_audit.audit.leaderboard.campaigns import box_iou
from roclip_audit.audit.leaderboard.measure import Cell, MeasureConfig, measure_run, share
from roclip_audit.audit.leaderboard.rows import COLUMNS, Row, read_rows, write_rows
from roclip_audit.audit.leaderboard.scores import NOT_RANKINGS, OF_TWO_ENCODERS, OURS, load_scores
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import EVIDENCE
from tests.audit.leaderboard.leaderkit import ATTACKS, add_peers, make_poisoned, place_trigger
from tests.audit.runkit import edit_manifest, shard_id

CELL = Cell(data="made up", encoder="embedded", rate=0.1, seed=3)
FAST = MeasureConfig(n_replicates=20)
Made = tuple[RunFolder, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    run, truth = make_poisoned(tmp_path_factory.mktemp("made"), campaigns=True)
    add_peers(run)
    place_trigger(run, (0.5, 0.5, 0.25, 0.125))  # the true one is (0.5, 0.5, 0.25, 0.25)
    return run, truth


@pytest.fixture(scope="module")
def rows(made: Made) -> list[Row]:
    return measure_run(*made, CELL, FAST, scan_seconds=4.0)


def evidence(run: RunFolder, truth: Path) -> pl.DataFrame:
    files = sorted((run.root / "evidence").glob("*.parquet"))
    return pl.concat([pl.read_parquet(path) for path in files]).join(pl.read_parquet(truth), on="uid")


def value(rows: list[Row], metric: str, *, detector: str = "scan", attack: str = "all") -> float:
    (found,) = [r for r in rows if (r.metric, r.detector, r.attack) == (metric, detector, attack)]
    return found.value


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("detector", ["risk", "suspicion", "dao"])
def test_detection_agrees_with_scikit_learn(made: Made, rows: list[Row], attack: str, detector: str) -> None:
    pairs = evidence(*made).filter(pl.col("attack").is_null() | (pl.col("attack") == attack))
    planted = pairs["attack"].is_not_null().to_numpy()
    scores = pairs[detector].to_numpy()
    assert value(rows, "auroc", detector=detector, attack=attack) == pytest.approx(roc_auc_score(planted, scores))
    expected = average_precision_score(planted, scores)
    assert value(rows, "average_precision", detector=detector, attack=attack) == pytest.approx(expected)


def test_every_row_says_what_it_is_about(rows: list[Row]) -> None:
    assert {(r.data, r.encoder, r.rate, r.seed) for r in rows} == {("made up", "embedded", 0.1, 3)}
    assert {r.n_planted for r in rows if r.attack == ATTACKS[0]} == {6}
    assert {r.n_planted for r in rows if r.attack == ATTACKS[1]} == {5}
    assert {r.n_clean for r in rows} == {49}
    keys = [(r.detector, r.attack, r.metric) for r in rows]
    assert len(set(keys)) == len(keys)


def test_all_rankings_and_peers_are_measured(rows: list[Row]) -> None:
    assert {r.detector for r in rows} == {*OURS, "seer", "mute", "scan", "campaigns"} - {*OF_TWO_ENCODERS}
    assert value(rows, "auroc", detector="seer", attack=ATTACKS[0]) == 1.0
    assert value(rows, "auroc", detector="mute", attack=ATTACKS[0]) == 0.5


def test_rankings_are_columns_that_rise_with_suspicion() -> None:
    doubles = {column.name for column in EVIDENCE if column.type == "DOUBLE"}
    assert doubles >= NOT_RANKINGS
    assert {"risk", "suspicion", "statistic", "q", "anomaly", "dao"} <= set(OURS)
    assert not {"patch_x", "patch_y"} & set(OURS)  # say where, not how much


def test_a_p_value_is_measured_with_its_sign_turned(made: Made, rows: list[Row]) -> None:
    pairs = evidence(*made).filter(pl.col("attack").is_null() | (pl.col("attack") == ATTACKS[0]))
    expected = roc_auc_score(pairs["attack"].is_not_null().to_numpy(), -pairs["trait_p"].to_numpy())
    assert value(rows, "auroc", detector="trait_p", attack=ATTACKS[0]) == pytest.approx(expected)


def test_lists_are_compared_with_what_they_hold(made: Made, rows: list[Row]) -> None:
    pairs = evidence(*made)
    for cut in (0.05, 0.1, 0.2, 0.5):
        listed = pairs.filter(pl.col("fdr") <= cut)
        assert value(rows, f"list_pairs_at_{cut:g}") == len(listed)
        assert value(rows, f"promised_fdr_at_{cut:g}") == pytest.approx(float((1 - listed["suspicion"]).mean()))  # type: ignore[arg-type]
        mismatched = (listed["attack"] == ATTACKS[0]).fill_null(value=False)  # a kept label is no mismatch
        assert value(rows, f"measured_fdr_at_{cut:g}") == pytest.approx(1 - float(mismatched.mean()))  # type: ignore[arg-type]


def test_a_kept_label_is_no_contamination(rows: list[Row]) -> None:
    assert value(rows, "contamination_true") == pytest.approx(6 / 60)
    assert value(rows, "contamination_estimate") == 0.06
    assert value(rows, "contamination_relative_error") == pytest.approx(-0.4)
    (estimate,) = [r for r in rows if r.metric == "contamination_estimate"]
    assert (estimate.low, estimate.high) == (0.05, 0.07)


def test_speed_is_pairs_by_seconds(rows: list[Row]) -> None:
    assert value(rows, "pairs_per_s") == 15.0
    assert value(rows, "pairs_per_s", detector="seer") == 30.0
    assert value(rows, "pairs_per_s trained space") == 20.0


def test_a_resumed_scan_has_no_speed(made: Made) -> None:
    again = measure_run(*made, CELL, FAST)
    assert not [r for r in again if r.metric == "pairs_per_s" and r.detector == "scan"]


def test_campaigns(rows: list[Row]) -> None:
    """One campaign holds 4 of the 6 patched pairs and a sound one, another a sound one alone."""

    def found(metric: str, attack: str) -> float:
        return value(rows, metric, detector="campaigns", attack=attack)

    assert found("n_campaigns", "all") == 2
    assert found("n_false_campaigns", "all") == 1
    assert found("campaign_recall", "all") == 0.5
    assert found("campaign_found", ATTACKS[0]) == 1
    assert found("campaign_share", ATTACKS[0]) == pytest.approx(4 / 6)
    assert found("campaign_purity", ATTACKS[0]) == pytest.approx(4 / 5)
    assert found("campaign_purity_own", ATTACKS[0]) == pytest.approx(4 / 5)
    assert found("campaign_purity_suspicious", ATTACKS[0]) == pytest.approx(4 / 5)
    assert found("trigger_iou", ATTACKS[0]) == pytest.approx(0.5)
    assert found("campaign_found", ATTACKS[1]) == 0
    assert not [r for r in rows if r.attack == ATTACKS[1] and r.metric in ("campaign_purity", "trigger_iou")]


def test_a_scan_without_campaigns_has_no_rows_about_them(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path)
    assert not [r for r in measure_run(run, truth, CELL, FAST) if r.detector == "campaigns"]


def test_a_trigger_that_was_not_recovered_has_no_overlap(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path, campaigns=True)
    assert value(measure_run(run, truth, CELL, FAST), "trigger_iou", detector="campaigns", attack=ATTACKS[0]) == 0.0


def test_a_trigger_whose_place_varies_is_measured_by_its_size(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path, campaigns=True)
    place_trigger(run, (None, None, 0.25, 0.125))
    found = value(measure_run(run, truth, CELL, FAST), "trigger_iou", detector="campaigns", attack=ATTACKS[0])
    assert found == pytest.approx(0.5)


def change_truth(truth: Path, **columns: pl.Expr) -> None:
    pl.read_parquet(truth).with_columns(**columns).write_parquet(truth)


PLANTED = pl.col("attack") == ATTACKS[0]


@pytest.mark.parametrize(
    "parts",
    [
        {"target": pl.when(PLANTED & (pl.col("image_key") >= "00020")).then(pl.lit("dog")).otherwise(pl.col("target"))},
        {
            "target": pl.when(PLANTED).then(None).otherwise(pl.col("target")),
            "image_key": pl.when(PLANTED)
            .then(pl.when(pl.col("image_key") >= "00020").then(pl.lit("gone")).otherwise(pl.lit("away")))
            .otherwise(pl.col("image_key")),
        },
    ],
)
def test_what_an_attack_plants_for_several_words_or_with_several_pictures_is_found_one_by_one(
    tmp_path: Path, parts: dict[str, pl.Expr]
) -> None:
    """The first campaign holds all four pairs of one part and neither of the two of the other."""
    run, truth = make_poisoned(tmp_path, campaigns=True)
    change_truth(truth, **parts)
    rows = measure_run(run, truth, CELL, FAST)
    assert value(rows, "campaign_found", detector="campaigns", attack=ATTACKS[0]) == 0.5
    assert value(rows, "campaign_share", detector="campaigns", attack=ATTACKS[0]) == pytest.approx(4 / 6)


def test_a_campaign_of_several_attacks_is_not_pure_of_one(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path, campaigns=True)
    change_truth(
        truth, attack=pl.when(PLANTED & (pl.col("image_key") == "00000")).then(pl.lit("sig")).otherwise("attack")
    )
    rows = measure_run(run, truth, CELL, FAST)
    assert value(rows, "campaign_purity", detector="campaigns", attack=ATTACKS[0]) == pytest.approx(4 / 5)
    assert value(rows, "campaign_purity_own", detector="campaigns", attack=ATTACKS[0]) == pytest.approx(3 / 5)


@pytest.mark.parametrize(
    ("one", "other", "iou"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0, 0, 1, 1), (0.5, 0, 1, 1), 1 / 3),
        ((0, 0, 0.5, 0.5), (0.5, 0.5, 0.5, 0.5), 0.0),
        ((0.2, 0.2, 0, 0), (0.2, 0.2, 0, 0), 0.0),
    ],
)
def test_overlap_of_boxes(one: tuple[float, ...], other: tuple[float, ...], iou: float) -> None:
    assert box_iou(np.array(one), np.array(other)) == pytest.approx(iou)
    assert box_iou(np.array(other), np.array(one)) == pytest.approx(iou)


def test_chosen_detectors_only(made: Made) -> None:
    chosen = measure_run(*made, CELL, MeasureConfig(detectors=("seer", "q"), n_replicates=0))
    detectors = {r.detector for r in chosen} - {"scan", "campaigns"}
    assert detectors == {"seer", "q"}
    assert all(r.low is None for r in chosen if r.detector == "q")


def test_an_unknown_detector_is_refused(made: Made) -> None:
    with pytest.raises(ConfigError, match="no detector nonsense"):
        measure_run(*made, CELL, MeasureConfig(detectors=("nonsense",)))


def test_pairs_without_a_score_rank_last(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path)
    path = run.root / "evidence" / f"{shard_id('00000.tar')}.parquet"
    half = pl.col("uid") < "8"
    pl.read_parquet(path).with_columns(q=pl.when(half).then(pl.col("q")).otherwise(None)).write_parquet(path)
    pairs = load_scores(run, truth).pairs
    assert pairs["q"].is_finite().all()
    silent = pairs.filter(pl.col("uid").is_in(pl.read_parquet(path).filter(pl.col("q").is_null())["uid"].to_list()))
    assert silent["q"].n_unique() == 1
    assert silent["q"][0] == pairs["q"].min()


def test_the_truth_of_another_copy_is_refused(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path)
    pl.read_parquet(truth).head(20).write_parquet(truth)
    with pytest.raises(StoreError, match="not the truth of"):
        measure_run(run, truth, CELL, FAST)


def test_an_unfinished_scan_is_refused(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path)
    run.manifest.unlink()
    with pytest.raises(StoreError, match="no finished scan"):
        measure_run(run, truth, CELL, FAST)


def test_an_estimate_that_is_missing_is_left_out(tmp_path: Path) -> None:
    run, truth = make_poisoned(tmp_path)
    edit_manifest(run, contamination=None)
    metrics = {r.metric for r in measure_run(run, truth, CELL, FAST)}
    assert "contamination_true" in metrics
    assert "contamination_estimate" not in metrics


def test_share_has_the_interval_of_a_binomial() -> None:
    one = share(np.array([True] * 30 + [False] * 70), 4_000, np.random.default_rng(0))
    assert one.value == 0.3
    assert one.low == pytest.approx(0.3 - 1.96 * (0.21 / 100) ** 0.5, abs=0.015)
    assert one.high == pytest.approx(0.3 + 1.96 * (0.21 / 100) ** 0.5, abs=0.015)


def test_rows_survive_the_file(tmp_path: Path, rows: list[Row]) -> None:
    write_rows(tmp_path / "rows.parquet", rows)
    assert read_rows([tmp_path / "rows.parquet"]) == rows
    assert pl.read_parquet(tmp_path / "rows.parquet").columns == [column.name for column in COLUMNS]
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(StoreError, match="not a table"):
        read_rows([tmp_path / "bad.parquet"])
