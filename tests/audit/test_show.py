"""One pair in words: found by what people type, complete, and harmless on a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from roclip_audit.audit.decisions import decide
from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.relations import SUSPICION
from roclip_audit.audit.show import PairReport, report_json, show, write_report
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import EVIDENCE
from tests.audit.runkit import fake, make_run, uid_of


def text_of(report: PairReport, width: int = 100) -> str:
    stream = io.StringIO()
    write_report(report, stream, width=width)
    return stream.getvalue()


def test_all_that_the_database_knows_is_in_the_report(shared_run: RunFolder) -> None:
    uid = uid_of("00001.tar", 0)
    report = show(shared_run, uid)
    with open_readonly(shared_run) as connection:
        (row,) = connection.sql(f"from suspicion where uid = '{uid}'").to_dicts()
        rivals = connection.sql(f"from rivals where uid = '{uid}' order by rank").to_dicts()
        neighbours = connection.sql(f"from neighbours where uid = '{uid}'").to_dicts()
    assert (report.uid, report.shard, report.key, report.caption) == (uid, row["shard"], row["key"], row["caption"])
    measured = {column.name for column in EVIDENCE} - {"uid"}
    assert {fact.name for fact in report.evidence} == measured
    assert {fact.name: fact.value for fact in report.evidence} == {name: row[name] for name in measured}
    assert [(r.uid, r.margin) for r in report.rivals] == [(r["rival_uid"], r["margin"]) for r in rivals]
    assert report.rivals[0].caption == row["rival_caption"]
    found = {(n.kind, n.rank, n.uid, n.similarity) for n in report.neighbours}
    assert found == {(n["kind"], n["rank"], n["neighbour_uid"], n["similarity"]) for n in neighbours}
    assert all(n.caption and n.suspicion is not None for n in report.neighbours)


def test_the_text_says_what_every_number_means(shared_run: RunFolder) -> None:
    text = text_of(show(shared_run, uid_of("00001.tar", 0)), width=400)
    for column in SUSPICION:
        if column in EVIDENCE and column.name != "uid":
            assert re.search(rf"^{column.name} .*{re.escape(column.comment)}$|^{column.name} ", text, re.MULTILINE)
            assert column.comment in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_text_fits(hostile_run: RunFolder, width: int) -> None:
    for i in range(13):
        text = text_of(show(hostile_run, uid_of("00000.tar", i)), width=width)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202a-\u202e\u2066-\u2069]", text)
        assert "\\x1b[31mred" in text or i > 0


def test_a_pair_without_evidence_shows_its_problem(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": [fake(None), fake("a cat")]})
    ingest(run)
    report = show(run, "a.tar/0000")
    assert (report.scored, report.evidence, report.rivals) == (False, (), ())
    assert [problem.reason for problem in report.problems] == ["missing_caption"]
    assert "could not be scored" in text_of(report)
    assert "missing_caption (index, fatal)" in text_of(report)


def test_json_is_whole_and_escaped(hostile_run: RunFolder) -> None:
    report = show(hostile_run, uid_of("00000.tar", 0))
    text = report_json(report)
    assert text.isascii()
    found = json.loads(text)
    assert found["caption"] == report.caption
    assert found["evidence"][0]["meaning"]
    assert len(found["rivals"]) == 3


def test_a_decision_is_shown(run: RunFolder) -> None:
    uid = uid_of("00000.tar", 0)
    decide(run, uid, "keep", note="a real boat")
    assert "keep (a real boat)" in text_of(show(run, uid))


def test_names_people_type(tmp_path: Path) -> None:
    shards = {"deep/a.tar": [fake("one", key="dir/0001"), fake("two", key="dir/0001"), fake("three", key="x.tar/y")]}
    run = make_run(tmp_path / "audit", shards)
    ingest(run)
    first, second, third = (uid_of("deep/a.tar", i) for i in range(3))
    assert show(run, first).uid == first
    assert show(run, first.upper()).uid == first
    assert show(run, first[:8]).uid == first
    assert show(run, "deep/a.tar/x.tar/y").uid == third
    assert show(run, "deep/a/x.tar/y").uid == third
    with pytest.raises(ConfigError, match="several pairs") as found:
        show(run, "deep/a.tar/dir/0001")
    assert first in str(found.value)
    assert second in str(found.value)


@pytest.mark.parametrize(
    "name", ["", "/", "nope", "f" * 32, "abc", "00000.tar", "00000.tar/", "'; drop table pairs", "%", "0000_"]
)
def test_names_that_mean_nothing(shared_run: RunFolder, name: str) -> None:
    with pytest.raises(ConfigError, match="no such pair"):
        show(shared_run, name)


def test_a_prefix_of_several_pairs_lists_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": [fake("first \x1b[31m"), fake("second")]})
    for stage in ("pairs", "embeddings", "uids", "evidence", "rivals", "neighbours"):
        _rename_uids(run, stage)
    ingest(run)
    with pytest.raises(ConfigError, match="several pairs") as found:
        show(run, "abcd")
    assert "a.tar/0000 first \\x1b[31m" in str(found.value)


def _rename_uids(run: RunFolder, stage: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    renamed = {uid_of("a.tar", i): f"abcd{i:028x}" for i in range(2)}
    (path,) = (run.root / stage).glob("*.parquet")
    rows = pq.read_table(path)
    columns = [
        pa.array([renamed.get(value, value) for value in rows[name].to_pylist()], rows.schema.field(name).type)
        if "uid" in name and name != "uid_given"
        else rows[name]
        for name in rows.column_names
    ]
    pq.write_table(pa.table(dict(zip(rows.column_names, columns, strict=True)), schema=rows.schema), path)
