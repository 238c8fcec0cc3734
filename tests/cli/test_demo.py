"""`roclip-audit demo`: its numbers are computed a second way, and the whole of it runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from roclip_audit.audit.ingest import ingest
from roclip_audit.cli.demo import DEMO, measure, plant, print_most_suspicious, print_result
from roclip_audit.cli.main import app
from roclip_audit.core.progress import SilentReporter
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import fake, make_run, uid_of


@pytest.fixture(scope="module")
def truth() -> pl.DataFrame:
    """Sixty pairs with suspicions and risks that repeat, every third one planted by one of two attacks."""
    rng = np.random.default_rng(0)
    attacks = ["sig" if i % 6 == 0 else "targeted" if i % 3 == 0 else None for i in range(60)]
    suspicion = [round(float(rng.random() ** (0.3 if attack else 2)), 1) for attack in attacks]
    return pl.DataFrame(
        {
            "uid": [uid_of("00000.tar", i) for i in range(60)],
            "attack": attacks,
            "suspicion": suspicion,
            "fdr": [0.5 * (1 - one) for one in suspicion],
            "risk": [round(0.7 * one + 0.3 * float(rng.random()), 1) for one in suspicion],
        }
    )


@pytest.fixture(scope="module")
def run(truth: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    pairs = [
        fake(f"a cat \x1b[2J {i}", suspicion=row["suspicion"], fdr=row["fdr"], risk=row["risk"])
        for i, row in enumerate(truth.to_dicts())
    ]
    folder = tmp_path_factory.mktemp("it's")
    run = make_run(folder / "audit", {"00000.tar": pairs})
    ingest(run)
    truth.select("uid", "attack").write_parquet(folder / "truth.parquet")
    return run


def test_the_numbers_agree_with_scikit_learn(run: RunFolder, truth: pl.DataFrame) -> None:
    attacks, flagged = measure(run, run.root.parent / "truth.parquet")
    assert [one.attack for one in attacks] == ["sig", "targeted"]
    for one in attacks:
        rows = truth.filter(pl.col("attack").is_null() | (pl.col("attack") == one.attack))
        expected = roc_auc_score(rows["attack"].is_not_null().to_numpy(), rows["risk"].to_numpy())
        assert one.auroc == pytest.approx(expected)
        planted = rows.filter(pl.col("attack").is_not_null())
        assert (one.n_planted, one.n_found) == (len(planted), int((planted["fdr"] <= 0.1).sum()))
    listed = truth.filter(pl.col("fdr") <= 0.1)
    assert flagged.n_pairs == len(listed)
    assert flagged.n_measured == listed["attack"].null_count()
    assert flagged.n_promised == pytest.approx(float((1 - listed["suspicion"]).sum()))


def test_what_is_printed_steers_no_terminal(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(*measure(run, run.root.parent / "truth.parquet"))
    uid = print_most_suspicious(run)
    out = capsys.readouterr().out
    assert "targeted" in out
    assert "\\x1b[2J" in out
    assert "\x1b" not in out
    assert len(uid) == 32


def test_planting_is_done_once(tmp_path: Path) -> None:
    planted = plant(tmp_path, SilentReporter())
    before = {path: path.stat().st_mtime_ns for path in planted.rglob("*")}
    assert plant(tmp_path, SilentReporter()) == planted
    assert {path: path.stat().st_mtime_ns for path in planted.rglob("*")} == before
    n_pairs = sum(len(pl.read_parquet(path)) for path in (DEMO / "shards").glob("*.parquet"))
    assert len(pl.read_parquet(planted / "truth" / "truth.parquet")) == n_pairs


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_finds_what_it_planted(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--quiet"])
    assert result.exit_code == 0, result.output
    attacks, flagged = measure(RunFolder(tmp_path / "audit"), tmp_path / "planted" / "truth" / "truth.parquet")
    aurocs = {one.attack: one.auroc for one in attacks}
    assert aurocs["targeted"] > 0.8
    assert aurocs["mismatch"] > 0.8
    assert flagged.n_pairs > 0
