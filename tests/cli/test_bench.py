"""`roclip-audit bench`: the whole loop on drawn shapes with a tiny encoder, resumed, extended and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from roclip_audit.audit.leaderboard.rows import read_rows
from roclip_audit.cli.bench import attack_of, auroc_lines, data_name, digest
from roclip_audit.cli.main import app
from roclip_audit.cli.sweep import DEFAULT_RATE
from tests.audit.leaderboard.leaderkit import row
from tests.encoderkit import save_tiny_clip
from tests.shardkit import make_dataset

ATTACKS = ["-a", "badnets_fixed:circle:0.04", "-a", "label_consistent:ring:0.03", "-a", "mismatch::0.05"]


class Bench:
    """A folder of shards, an encoder, and the command."""

    def __init__(self, root: Path) -> None:
        self.shards = root / "shapes" / "shards"
        make_dataset(self.shards, n_pairs=240, n_shards=2, px=32)
        self.encoder = f"local-dir:{save_tiny_clip(root / 'clip')}"
        self.out = root / "bench"

    def run(self, *arguments: str, plan: list[str] = ATTACKS, exit_code: int = 0) -> str:
        common = ["bench", str(self.shards), "--out", str(self.out), "--encoder", self.encoder, "--quiet"]
        found = CliRunner().invoke(app, [*common, "--replicates", "20", *plan, *arguments])
        assert found.exit_code == exit_code, found.output
        return found.output

    def cells(self) -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in self.out.glob("cells/*/rows.parquet")}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def output(bench: Bench) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bench.run("--json"))
    return found


def test_writes_the_leaderboard_of_what_it_planted(bench: Bench, output: dict[str, Any]) -> None:
    rows = read_rows([bench.out / "leaderboard.parquet"])
    assert {r.attack for r in rows} == {"badnets_fixed", "label_consistent", "mismatch", "all"}
    assert {"risk", "suspicion", "clipscore", "gmm", "dao_batch", "isolation_forest", "scan"} <= {
        r.detector for r in rows
    }
    assert {(r.data, r.rate, r.seed) for r in rows} == {("shapes", 0.04, 0)}
    (truth,) = bench.out.glob("cells/*/planted/truth/truth.parquet")
    planted = pl.read_parquet(truth)["attack"].drop_nulls().value_counts()
    found = {r.attack: r.n_planted for r in rows if (r.detector, r.metric) == ("risk", "auroc")}
    assert found == dict(planted.rows())
    (true,) = [r.value for r in rows if r.metric == "contamination_true"]
    assert true == pytest.approx((found["badnets_fixed"] + found["mismatch"]) / 240)
    (speed,) = [r.value for r in rows if r.detector == "scan" and r.metric == "pairs_per_s"]
    assert speed > 1
    assert (bench.out / "leaderboard.svg").read_text().startswith("<svg")
    assert "## shapes, encoder" in (bench.out / "leaderboard.md").read_text()
    assert output["rows"] == json.loads(json.dumps(digest(rows)))


def test_the_joint_encoders_own_cosine_is_clipscore(bench: Bench, output: dict[str, Any]) -> None:
    (folder,) = bench.out.glob("cells/*/run")
    for path in folder.glob("evidence/*.parquet"):
        both = pl.read_parquet(path).join(pl.read_parquet(folder / "peers" / path.name), on="uid")
        assert both["clipscore"].to_list() == pytest.approx([-cosine for cosine in both["cosine"]], abs=1e-4)


def test_the_copy_is_gone_and_the_evidence_stays(bench: Bench, output: dict[str, Any]) -> None:
    (cell,) = bench.out.glob("cells/*")
    assert not (cell / "planted" / "shards").exists()
    assert not list(cell.glob("run/embeddings/*.npy"))
    assert list(cell.glob("run/evidence/*.parquet"))
    assert list(cell.glob("planted/truth/truth.parquet"))


def test_a_finished_cell_is_not_done_again_and_others_join_it(bench: Bench, output: dict[str, Any]) -> None:
    before = bench.cells()
    bench.run()
    assert bench.cells() == before
    bench.run("--seed", "1", "--keep")
    after = bench.cells()
    assert len(after) == 2
    assert before.items() < after.items()
    (new,) = [bench.out / "cells" / name for name in after.keys() - before.keys()]
    assert list((new / "planted" / "shards").glob("*.tar"))
    assert {r.seed for r in read_rows([bench.out / "leaderboard.parquet"])} == {0, 1}


def test_a_killed_cell_goes_on_with_what_is_there(bench: Bench, output: dict[str, Any]) -> None:
    bench.run("--seed", "2", "--keep")
    (cell,) = bench.out.glob("cells/*-2")
    rows = read_rows([cell / "rows.parquet"])
    evidence = {path: path.stat().st_mtime_ns for path in cell.glob("run/evidence/*.parquet")}
    (cell / "rows.parquet").unlink()
    bench.run("--seed", "2")
    assert {path: path.stat().st_mtime_ns for path in evidence} == evidence
    assert read_rows([cell / "rows.parquet"]) == rows


def test_another_plan_is_another_cell(bench: Bench, output: dict[str, Any]) -> None:
    bench.run("--seed", "3", plan=["-a", "mismatch::0.05"])
    (cell,) = bench.out.glob("cells/*-3")
    assert {r.attack for r in read_rows([cell / "rows.parquet"])} == {"mismatch", "all"}
    bench.run("--seed", "3", "--detector", "risk", "--detector", "clipscore", plan=["-a", "mismatch::0.1"])
    rows = read_rows([cell / "rows.parquet"])
    assert {r.n_planted for r in rows} == {24}
    assert {r.detector for r in rows} - {"scan", "campaigns"} == {"risk", "clipscore"}


def test_other_data_of_the_same_name_is_refused_before_any_work(bench: Bench, output: dict[str, Any]) -> None:
    before, settings = bench.cells(), (bench.out / "bench.json").read_text()
    other = bench.shards.parents[1] / "more" / "shapes" / "shards"
    make_dataset(other, n_pairs=240, n_shards=2, px=32, seed=1)
    asked = ["bench", str(other), "--out", str(bench.out), "--encoder", bench.encoder, "--quiet", *ATTACKS]
    found = CliRunner().invoke(app, [*asked, "--seed", "7", "--seed", "0"])
    assert found.exit_code == 2, found.output
    assert "of other shards" in found.output
    assert bench.cells() == before
    assert not list(bench.out.glob("cells/*-7"))
    assert (bench.out / "bench.json").read_text() == settings


def test_an_attack_that_names_no_rate_takes_that_of_the_sweep() -> None:
    assert attack_of("sig:cat", [0.02, 0.03], 0.05).rate == 0.02
    assert attack_of("sig:cat", None, 0.05).rate == DEFAULT_RATE
    assert attack_of("sig:cat:0.1", [0.02], 0.05).rate == 0.1
    assert attack_of("mismatch", [0.02], 0.05).rate == 0.05


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detector", "nonsense"], "no detector nonsense"),
        (["--detector", "q_beside"], "detector q_beside needs a second encoder"),
        (["-a", "nonsense:bird:0.1"], "unknown attack"),
        (["--plan", "no-such-file.json"], "not a list of attacks"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    tmp_path: Path, bench: Bench, arguments: list[str], message: str
) -> None:
    asked = ["bench", str(bench.shards), "--out", str(tmp_path / "out"), *arguments]
    found = CliRunner().invoke(app, asked)
    assert found.exit_code == 2
    assert message in found.output
    assert not list((tmp_path / "out").glob("cells/*/run"))


def test_a_folder_of_something_else_is_refused(tmp_path: Path, bench: Bench) -> None:
    (tmp_path / "diary.txt").write_text("dear diary")
    found = CliRunner().invoke(app, ["bench", str(bench.shards), "--out", str(tmp_path)])
    assert found.exit_code == 2
    assert "holds something else" in found.output


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("icons/shards", "icons"),
        ("icons", "icons"),
        ("icons/shards/00000.tar", "icons"),
        ("icons/{000..009}.tar", "icons"),
        ("icons/*.tar::more/", "icons"),
    ],
)
def test_the_data_set_is_called_as_its_folder(spec: str, name: str) -> None:
    assert data_name([spec]) == name


def test_the_short_output_names_the_best_peer() -> None:
    rows = [row(value=0.9), row(detector="gmm", value=0.7), row(detector="lid_batch", value=0.8)]
    assert auroc_lines(rows) == [("clip, embedded, rate 0.005, sig", "AUROC risk 0.900, best peer 0.800 (lid_batch)")]
