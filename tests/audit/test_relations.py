"""Names and meaning of tables, views and columns: what people's queries rely on."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roclip_audit.audit.decisions import decide
from roclip_audit.audit.relations import DOMAIN_SQL, RELATIONS, TABLES, VIEWS
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import uid_of

GOLDEN = Path(__file__).parent / "golden" / "relations.txt"
PUBLIC = [relation for relation in RELATIONS if "." not in relation.name]


def fetch(run: RunFolder, sql: str) -> list[tuple[Any, ...]]:
    with open_readonly(run) as connection:
        return connection.execute(sql).fetchall()


def test_names_and_types_are_a_promise(shared_run: RunFolder) -> None:
    """Columns may be added at will; then write the new list: see the assertion."""
    with open_readonly(shared_run) as connection:
        found = "".join(
            f"{relation.name}.{name} {kind}\n"
            for relation in PUBLIC
            for name, kind, *_ in connection.execute(f"describe {relation.name}").fetchall()
        )
    assert found == GOLDEN.read_text(encoding="utf-8"), f"if this is meant: put the new text into {GOLDEN.name}"


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_the_declaration_is_what_the_database_has(shared_run: RunFolder, relation: Any) -> None:
    found = fetch(shared_run, f"describe {relation.name}")
    assert [(row[0], row[1]) for row in found] == [(column.name, column.type) for column in relation.columns]


def test_everything_has_a_comment(shared_run: RunFolder) -> None:
    columns = fetch(shared_run, "select table_name, column_name, comment from duckdb_columns() where not internal")
    declared = {(r.name.split(".")[-1], c.name) for r in RELATIONS for c in r.columns}
    assert {(table, column) for table, column, comment in columns if comment} == declared
    tables = fetch(shared_run, "select table_name, comment from duckdb_tables() where not internal")
    views = fetch(shared_run, "select view_name, comment from duckdb_views() where not internal")
    assert {name for name, comment in tables if comment} == {relation.name.split(".")[-1] for relation in TABLES}
    assert {name for name, comment in views if comment} == {relation.name for relation in VIEWS}


def test_flagged_is_the_rule_with_the_decisions(run: RunFolder) -> None:
    rows = fetch(run, "select uid, fdr from suspicion order by fdr")
    kept, dropped = rows[0][0], rows[-1][0]
    decide(run, kept, "keep")
    decide(run, dropped, "drop")
    expected = {uid for uid, fdr in rows if fdr <= 0.1} - {kept} | {dropped}
    assert {uid for (uid,) in fetch(run, "select uid from flagged")} == expected
    assert fetch(run, "select sum(n_flagged) from by_shard") == [(len(expected),)]


@pytest.mark.parametrize(("view", "key"), [("by_shard", "shard"), ("by_domain", "domain")])
def test_groups_are_counted_right(shared_run: RunFolder, view: str, key: str) -> None:
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for name, suspicion, fdr in fetch(shared_run, f"select {key}, suspicion, fdr from suspicion"):
        groups[name].append((suspicion, fdr))
    columns = f"{key}, n_scored, n_flagged, flagged_share, expected_mismatched, mean_suspicion"
    found = {row[0]: row[1:] for row in fetch(shared_run, f"select {columns} from {view}")}
    assert found.keys() == groups.keys()
    for name, members in groups.items():
        flagged = sum(fdr <= 0.1 for _, fdr in members)
        total = sum(suspicion for suspicion, _ in members)
        expected = (len(members), flagged, flagged / len(members), total, total / len(members))
        assert found[name] == pytest.approx(expected)


def test_by_shard_counts_problems_and_keeps_the_order_of_the_scan(shared_run: RunFolder) -> None:
    assert [row[0] for row in fetch(shared_run, "select shard from by_shard")] == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
    ]
    n_problems = fetch(shared_run, "select count(*)::int from problems")
    assert fetch(shared_run, "select sum(n_problems)::int from by_shard") == n_problems


def test_problems_by_kind_gives_an_example(shared_run: RunFolder) -> None:
    found = fetch(
        shared_run, "select stage, reason, fatal, n_problems, example_shard, example_key from problems_by_kind"
    )
    n = fetch(shared_run, "select count(*) from problems")[0][0]
    first = fetch(shared_run, "select shard, key from problems order by shard, ordinal limit 1")[0]
    assert found == [("index", "missing_caption", True, n, *first)]


def test_rivals_and_neighbours_of_one_pair(shared_run: RunFolder) -> None:
    uid = uid_of("00000.tar", 0)
    assert len(fetch(shared_run, f"select * from rivals where uid = '{uid}'")) == 3
    assert len(fetch(shared_run, f"select * from neighbours where uid = '{uid}'")) == 4


def domain(url: str) -> str | None:
    found = duckdb.execute(f"select {DOMAIN_SQL} from (select $url as url)", {"url": url}).fetchall()[0][0]
    return found if found is None else str(found)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.COM/a.jpg", "example.com"),
        ("http://a.example:8080?x", "a.example"),
        ("//cdn.example/x", "cdn.example"),
        ("openclipart://office/x", "office"),
        ("https://user:pw@real.example/x", "real.example"),
        ("https://good.example@evil.example/", "evil.example"),
        ("https://good.example\\@evil.example/", "good.example"),
        ("https://evil.example#@good.example/", "evil.example"),
        ("https://evil.example?@good.example/", "evil.example"),
        ("ht\ntps://ev\til.example/", "evil.example"),
        (" \x00https://evil.example.../", "evil.example"),
        ("https://[2001:DB8::1]:443/x", "[2001:db8::1]"),
        ("https://bücher.example/", "bücher.example"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://ex%61mple.com/", None),
        ("https://a b/", None),
        ("https://", None),
        ("https://.../", None),
        ("https:///path", None),
        ("https://a:b:c/", None),
        ("data:image/png;base64,AAAA", None),
        ("C:\\images\\x.jpg", None),
        ("just text", None),
        ("", None),
        ("https://" + "a" * 300 + "/", None),
        ("https://';drop--/", "';drop--"),
    ],
)
def test_domains_of_hostile_urls(url: str, expected: str | None) -> None:
    assert domain(url) == expected


_HOST = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,5}){1,2}", fullmatch=True)


@given(
    scheme=st.sampled_from(["http", "https", "s3"]),
    user=st.sampled_from(["", "u@", "u:p@"]),
    host=_HOST,
    port=st.sampled_from(["", ":1", ":65535"]),
    rest=st.sampled_from(["", "/", "/a/b.jpg?x=//y", "?q", "#f"]),
)
@settings(max_examples=50, deadline=None)
def test_domains_of_proper_urls_are_what_urllib_says(scheme: str, user: str, host: str, port: str, rest: str) -> None:
    url = f"{scheme}://{user}{host}{port}{rest}"
    assert domain(url) == urlsplit(url).hostname == host
