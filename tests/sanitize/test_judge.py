"""From arrays to the files of a run: what is found in planted data, what the files hold, and tiny or odd data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
import torch

from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import EVIDENCE, NEIGHBOURS, RIVALS
from roclip_audit.sanitize.dataset import Dataset, RowArray
from roclip_audit.sanitize.detail import DIM, N_PLACES
from roclip_audit.sanitize.evidence import sight
from roclip_audit.sanitize.grouping import known_share, number_captions
from roclip_audit.sanitize.judge import align_run, judge_run
from roclip_audit.sanitize.suspicion import Calibrated
from tests.sanitize.datakit import N_VIEWS, Made, as_dataset, judging, make_pairs, run_folder

VIEWS = tuple(f"view{number}" for number in range(N_VIEWS))
SHARES = (
    "suspicion", "fdr", "p_value", "statistic", "q", "q_caption", "win_probability", "win_probability_64",
    "win_probability_1024", "never_wins_probability", "caption_disagreement", "image_disagreement", "anomaly",
)  # fmt: skip


def judge(
    dataset: Dataset, folder: Path, *, joint: bool = False, workers: int = 1, sampled: bool = False
) -> tuple[Calibrated, RunFolder]:
    run, settings = run_folder(folder), judging(workers=workers, sampled=sampled)
    aligned = align_run(dataset, run, settings, SilentReporter(), joint=joint, views=VIEWS)
    return judge_run(dataset, run, aligned, VIEWS, settings, SilentReporter()), run


def files(run: RunFolder, stage: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run.root / stage).glob("*.parquet")}


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    order = np.argsort(np.argsort(score))
    n, rest = positive.sum(), (~positive).sum()
    return float((order[positive].sum() - n * (n - 1) / 2) / (n * rest))


@pytest.fixture(scope="module")
def planted() -> Made:
    return make_pairs(600, mismatched=0.12, seed=1)


@pytest.fixture(scope="module")
def judged(planted: Made, tmp_path_factory: pytest.TempPathFactory) -> tuple[Calibrated, RunFolder]:
    return judge(planted.dataset, tmp_path_factory.mktemp("judged"))


def test_mismatched_pairs_are_found(planted: Made, judged: tuple[Calibrated, RunFolder]) -> None:
    calibrated, _ = judged
    bad = planted.mismatched_N
    assert auroc(calibrated.suspicion_N, bad) > 0.9
    listed = calibrated.fdr_N <= 0.5
    assert listed.sum() > 20
    assert bad[listed].mean() > 0.35
    assert 0.05 < calibrated.contamination.estimate < 0.24


def test_a_joint_encoder_needs_no_training(tmp_path: Path) -> None:
    made = make_pairs(1_500, mismatched=0.1, joint=True, noise=0.2)
    calibrated, run = judge(made.dataset, tmp_path, joint=True)
    assert calibrated.contamination.estimate == pytest.approx(0.1, rel=0.25)
    listed = calibrated.fdr_N <= 0.1
    assert listed.sum() > 60
    assert made.mismatched_N[listed].mean() > 0.8
    assert not list((run.root / "align").glob("*.safetensors"))


def test_what_an_encoder_asked_beside_sees_counts_and_changes_nothing_else(tmp_path: Path) -> None:
    """Pairs of which the first encoder sees little and the second much, and the other way round."""
    made, joint = (
        make_pairs(500, mismatched=0.12, seed=4, joint=joint, noise=noise)
        for joint, noise in ((False, 12), (True, 0.5))
    )
    assert np.array_equal(made.mismatched_N, joint.mismatched_N)
    noise = make_pairs(500, seed=5, joint=True, noise=50)
    found = {}
    for name, other in {"alone": None, "good": joint, "blind": noise}.items():
        beside = None if other is None else (other.dataset.image_NVF, other.dataset.text_NG)
        calibrated, run = judge(replace(made.dataset, beside=beside), tmp_path / name)
        found[name] = (auroc(calibrated.suspicion_N, made.mismatched_N), evidence_of(run))
    assert found["good"][0] > max(found["alone"][0] + 0.1, 0.85)
    assert found["blind"][0] > 0.5
    of_first = ["uid", "q", "cosine", "win_probability", "trained_cosine", "same_group", "fold", "patch"]
    assert found["alone"][1].select(of_first).equals(found["good"][1].select(of_first))
    assert not found["alone"][1]["statistic"].equals(found["good"][1]["statistic"])
    for by_second, by_first in (("q_beside", "q"), ("q_caption_beside", "q_caption")):
        assert found["alone"][1][by_second].null_count() == 500
        shares = {name: evidence[by_second].to_numpy() for name, (_, evidence) in found.items() if name != "alone"}
        assert auroc(shares["good"], made.mismatched_N) > auroc(
            found["good"][1][by_first].to_numpy(), made.mismatched_N
        )
        assert abs(auroc(shares["blind"], made.mismatched_N) - 0.5) < 0.15


@pytest.mark.parametrize("joint", [False, True])
def test_what_captions_teach_counts_where_a_space_is_learned_from_them(
    joint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.Tensor | None] = []

    def spy(*args: Any, known_N: torch.Tensor | None, **rest: Any) -> torch.Tensor:
        asked.append(known_N)
        return sight(*args, known_N=known_N, **rest)

    monkeypatch.setattr("roclip_audit.sanitize.judge.sight", spy)
    made = make_pairs(300, joint=joint)
    judge(made.dataset, tmp_path, joint=joint)
    (known_N,) = asked
    if joint:
        assert known_N is None
    else:
        expected_N = known_share(made.dataset.captions, number_captions(made.dataset.captions))
        assert known_N is not None
        assert torch.equal(known_N, expected_N)


def evidence_of(run: RunFolder) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((run.root / "evidence").glob("*.parquet"))])


def test_copies_reach_the_evidence_and_what_they_say_raises_the_risk(tmp_path: Path) -> None:
    """Rows 0 to 2 are one picture under three captions, rows 3 to 22 versions of another, the rest like no other."""
    made = make_pairs(400)
    image, detail = made.dataset.image_NVF[:], np.zeros((400, N_PLACES, DIM), np.int8)
    rng = np.random.default_rng(0)
    detail[:] = rng.integers(-90, 90, detail.shape)
    image[:3], detail[:3] = image[0].clone(), detail[0]
    image[3:23] = image[3].clone() + 0.05 * torch.from_numpy(rng.normal(size=image[3:23].shape)).float()
    detail[3:23] = np.clip(detail[3] + rng.integers(-22, 22, detail[3:23].shape), -127, 127)
    dataset = replace(made.dataset, image_NVF=RowArray.of([image.numpy()]), detail_N=RowArray.of([detail]))
    _, run = judge(dataset, tmp_path)
    found = evidence_of(run)
    assert found["n_same"].to_list()[:5] == [3, 3, 3, 1, 1]
    assert found["same_group"][:3].n_unique() == 1
    assert found["same_group"].n_unique() == 398
    assert found["n_same_captions"].to_list()[:5] == [3, 3, 3, 1, 1]
    assert found["n_versions"].to_list() == [3] * 3 + [20] * 20 + [1] * 377
    assert found["family"][3:23].n_unique() == 1
    assert (found["n_conflicts"] < found["n_same_captions"]).all()
    assert (found["n_same"] <= found["n_versions"]).all()
    assert found["trained_cosine"].is_between(-1.001, 1.001).all()
    conflicting = found.filter(pl.col("n_conflicts") > 0)
    assert len(conflicting) >= 2  # three unrelated captions
    assert conflicting["risk"].min() > found["risk"].quantile(0.9)  # type: ignore[operator]
    assert set(found["risk_reason"][3:23]) <= {"duplicates", "pairing"}


def test_a_joint_encoder_has_no_heads_that_saw_a_pair(tmp_path: Path) -> None:
    made = make_pairs(300, joint=True)
    _, run = judge(made.dataset, tmp_path, joint=True)
    found = evidence_of(run)
    assert found["trained_cosine"].null_count() == len(found)
    assert found["family"].n_unique() > 1


def test_the_files_hold_every_pair_once_and_nothing_beyond_its_range(
    planted: Made, judged: tuple[Calibrated, RunFolder]
) -> None:
    calibrated, run = judged
    dataset = planted.dataset
    seen: list[str] = []
    for number, shard in enumerate(dataset.shards):
        table = pq.read_table(run.file("evidence", f"{shard.id}.parquet"))
        assert table.column_names == [column.name for column in EVIDENCE]
        here = dataset.rows_of(number)
        assert table["uid"].to_pylist() == dataset.uids[here]
        np.testing.assert_allclose(table["suspicion"].to_numpy(), calibrated.suspicion_N[here])
        for name in SHARES:
            values = table[name].to_numpy()
            assert ((values >= 0) & (values <= 1)).all(), name
        for column in table.columns:
            if column.null_count or str(column.type).startswith("list"):
                continue
            assert all(math.isfinite(value) for value in column.to_pylist() if isinstance(value, float))
        assert set(table["worst_view"].to_pylist()) <= set(VIEWS)
        assert all(len(shares) == N_VIEWS for shares in table["q_by_view"].to_pylist())
        seen += table["uid"].to_pylist()
    assert seen == dataset.uids


def test_rivals_and_neighbours_name_other_pairs(planted: Made, judged: tuple[Calibrated, RunFolder]) -> None:
    _, run = judged
    uids = set(planted.dataset.uids)
    for shard in planted.dataset.shards:
        rivals = pq.read_table(run.file("rivals", f"{shard.id}.parquet"))
        assert rivals.column_names == [column.name for column in RIVALS]
        neighbours = pq.read_table(run.file("neighbours", f"{shard.id}.parquet"))
        assert neighbours.column_names == [column.name for column in NEIGHBOURS]
        for row in rivals.to_pylist():
            assert row["rival_uid"] in uids - {row["uid"]}
            assert -1.001 <= row["cosine"] <= 1.001
        for row in neighbours.to_pylist():
            assert row["neighbour_uid"] in uids - {row["uid"]}
        assert {row["rank"] for row in rivals.to_pylist()} == {1, 2, 3, 4, 5}
        for stage in ("image", "caption"):
            ranked = [row for row in neighbours.to_pylist() if row["kind"] == stage]
            assert {row["rank"] for row in ranked} == set(range(1, 9))


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    made = make_pairs(150, mismatched=0.1)
    results = [judge(made.dataset, tmp_path / str(workers), workers=workers) for workers in (1, 2)]
    assert results[0][0].contamination == results[1][0].contamination
    for stage in ("evidence", "rivals", "neighbours", "align"):
        assert files(results[0][1], stage) == files(results[1][1], stage)
    arrays = [{path.name: path.read_bytes() for path in (run.root / "align").iterdir()} for _, run in results]
    assert arrays[0] == arrays[1]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_handful_of_pairs_and_a_joint_encoder(n: int, sampled: bool, tmp_path: Path) -> None:
    made = make_pairs(n, joint=True)
    calibrated, run = judge(made.dataset, tmp_path, joint=True, sampled=sampled)
    assert calibrated.suspicion_N.shape == (n,)
    assert np.isfinite(calibrated.suspicion_N).all()
    rows = sum(len(pq.read_table(run.file("evidence", f"{shard.id}.parquet"))) for shard in made.dataset.shards)
    assert rows == n


@pytest.mark.parametrize("alike", ["images", "captions", "both"])
@pytest.mark.parametrize("joint", [False, True])
def test_data_in_which_everything_is_alike(alike: str, joint: bool, tmp_path: Path) -> None:
    made = make_pairs(40, joint=joint)
    image, text, captions = made.dataset.image_NVF[:].numpy(), made.dataset.text_NG[:].numpy(), made.dataset.captions
    if alike != "captions":
        image[:] = image[0]
    if alike != "images":
        text[:], captions = text[0], ["one"] * 40
    calibrated, _ = judge(as_dataset(image, text, captions), tmp_path, joint=joint)
    assert np.isfinite(calibrated.suspicion_N).all()
    if alike == "both":  # nothing can be known, so nobody is accused
        assert (calibrated.fdr_N <= 0.1).sum() == 0
    else:  # captions that say no more of their images than others do: unrelated, all of them
        assert calibrated.contamination.high > 0.9


def test_zero_vectors_do_no_harm(tmp_path: Path) -> None:
    made = make_pairs(60, joint=True)
    image, text = made.dataset.image_NVF[:].numpy(), made.dataset.text_NG[:].numpy()
    image[:5], text[3:8] = 0, 0
    calibrated, _ = judge(as_dataset(image, text, made.dataset.captions), tmp_path, joint=True)
    assert np.isfinite(calibrated.suspicion_N).all()
