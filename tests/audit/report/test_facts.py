"""The numbers of the report, each computed a second way."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from roclip_audit.audit.decisions import decide
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.report import facts
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import fake, make_run, uid_of

N = 300


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    rng = np.random.default_rng(0)
    suspicion = np.sort(rng.beta(0.4, 1.5, N))[::-1]
    fdr = np.cumsum(1 - suspicion) / np.arange(1, N + 1)
    pairs = [
        fake(f"caption {i}", suspicion=float(s), fdr=float(f), url=f"https://site{i % 40}.example/{i}.jpg")
        for i, (s, f) in enumerate(zip(suspicion, fdr, strict=True))
    ]
    shards = {f"{k:05d}.tar": pairs[k::20] for k in range(20)} | {"last.tar": [fake(None)]}
    made = make_run(tmp_path_factory.mktemp("facts") / "audit", shards)
    ingest(made)
    decide(made, uid_of("00000.tar", 0), "keep", note="looked at it")
    decide(made, uid_of("00001.tar", 0), "drop")
    decide(made, uid_of("00002.tar", 0), "drop")
    return made


@pytest.fixture
def connection(run: RunFolder) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_readonly(run) as opened:
        yield opened


def test_scores_are_those_of_the_view(connection: duckdb.DuckDBPyConnection) -> None:
    scores = facts.read_scores(connection)
    rows = sorted(connection.execute("select suspicion, fdr from suspicion").fetchall(), reverse=True)
    bins = Counter(min(int(s * facts.N_BINS), facts.N_BINS - 1) for s, _ in rows)
    assert sum(scores.histogram) == len(rows) == N
    assert scores.histogram == tuple(bins[i] for i in range(facts.N_BINS))
    for cut in scores.cuts:
        listed = [s for s, fdr in rows if fdr <= cut.fdr]
        assert cut.n_pairs == len(listed)
        assert cut.expected_sound == pytest.approx(sum(1 - s for s in listed))
        assert cut.lowest_suspicion == (min(listed) if listed else None)
    for n, m in scores.curve:
        assert m == pytest.approx(sum(1 - s for s, _ in rows[:n]))
    assert scores.curve[-1][0] == scores.cuts[-1].n_pairs
    assert len(scores.curve) <= facts.CURVE_POINTS + 1
    assert scores.expected_mismatched == pytest.approx(sum(s for s, _ in rows))


@pytest.mark.parametrize("what", ["shard", "domain"])
def test_groups_are_the_worst_ones(connection: duckdb.DuckDBPyConnection, what: str) -> None:
    sums: dict[str, list[float]] = defaultdict(list)
    for name, suspicion in connection.execute(f"select {what}, suspicion from suspicion").fetchall():
        sums[name].append(suspicion)
    groups = facts.read_shards(connection) if what == "shard" else facts.read_domains(connection)
    assert groups.n_all == (21 if what == "shard" else 40)
    worst = sorted(sums, key=lambda name: (-sum(sums[name]), name))[: facts.TOP_ROWS]
    assert [group.name for group in groups.rows] == worst
    for group in groups.rows:
        assert group.n_scored == len(sums[str(group.name)])
        assert group.expected_mismatched == pytest.approx(sum(sums[str(group.name)]))


def test_the_run_is_that_of_the_manifest(connection: duckdb.DuckDBPyConnection, run: RunFolder) -> None:
    about = facts.read_run(connection)
    assert (about.encoder, about.seed, about.pool_size, about.rounds) == ("embedded", 0, 256, 32)
    assert (about.n_pairs, about.n_scored, about.n_shards, about.n_problems) == (N + 1, N, 21, 1)
    assert about.contamination == (0.06, 0.05, 0.07)
    assert about.parameters == (("folds", "5"),)
    assert about.folder == str(run.root.parent / "shards")


def test_decisions_are_counted_and_the_latest_come_first(connection: duckdb.DuckDBPyConnection) -> None:
    found = facts.read_decisions(connection)
    assert (found.n_keep, found.n_drop) == (1, 2)
    assert {one.uid for one in found.latest} == {uid_of(f"0000{k}.tar", 0) for k in range(3)}
    assert [one.decided_at for one in found.latest] == sorted((one.decided_at for one in found.latest), reverse=True)
    assert next(one.note for one in found.latest if one.verdict == "keep") == "looked at it"


def test_repeated_pictures_are_groups_of_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    found = facts.read_duplicates(connection)
    groups: dict[int, list[str]] = defaultdict(list)
    rows = connection.execute("select same_group, caption from suspicion where n_same > 1").fetchall()
    for group, caption in rows:
        groups[group].append(caption)
    repeated = [captions for captions in groups.values() if len(captions) > 1]
    assert (found.n_groups, found.n_pairs) == (len(repeated), sum(map(len, repeated)))
    assert {row.n_pairs for row in found.rows} <= {len(captions) for captions in repeated}


def test_settings_are_flattened_in_order() -> None:
    nested = {"contest": {"pool_size": 256, "sampled": False}, "views": ["a"], "empty": {}, "name": "x"}
    assert facts.flatten(nested) == [
        ("contest.pool_size", "256"), ("contest.sampled", "false"), ("views", '["a"]'), ("empty", "{}"), ("name", "x"),
    ]  # fmt: skip
    assert facts.flatten({}) == []


def test_a_run_without_pairs_of_a_kind(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "audit", {"a.tar": [fake("a cat", suspicion=0.1, fdr=0.9), fake("b", suspicion=0, fdr=1)]}
    )
    ingest(run)
    with open_readonly(run) as connection:
        scores = facts.read_scores(connection)
        assert [cut.n_pairs for cut in scores.cuts] == [0, 0, 0, 0]
        assert scores.curve[-1][0] == 2
        assert facts.read_domains(connection).rows == ()
