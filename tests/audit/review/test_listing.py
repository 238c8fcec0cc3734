"""A list of pairs survives the way through a query string, and its pages are its pairs, each once and in order."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.audit.review.desk import Desk
from roclip_audit.audit.review.listing import OPERATORS, SHOW, TYPES, Filter, Listing, parse_listing
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from tests.audit.review.reviewkit import build_run

LINE = st.text(max_size=20).map(str.strip)
FILTERS = st.builds(Filter, st.just("caption"), st.sampled_from(sorted(OPERATORS)), st.text(max_size=10))
LISTINGS = st.builds(
    Listing,
    search=LINE,
    where=LINE,
    show=st.sampled_from(sorted(SHOW)),
    filters=st.lists(FILTERS, max_size=3).map(tuple),
    sort=st.sampled_from(sorted(TYPES)),
    ascending=st.booleans(),
    campaign=st.none() | st.integers(0, 10**6),
    suspicious=st.booleans(),
    like=LINE,
)


@given(LISTINGS)
def test_the_query_string_says_it_all(listing: Listing) -> None:
    values = parse_qsl(listing.query(), keep_blank_values=True, encoding="utf-8", errors="surrogatepass")
    assert parse_listing(values) == listing


@pytest.mark.parametrize(
    "values",
    [
        {"sort": "q_by_view"}, {"sort": "uid; drop table pairs"}, {"show": "x"}, {"campaign": "1 or 1"},
        {"campaign": "²"}, {"filter": "caption"}, {"filter": "nothing\tis\t1"}, {"filter": "risk\tis\thigh"},
        {"filter": "risk\tcontains\t1"}, {"filter": "never_wins\tis\tmaybe"}, {"filter": "risk\tor 1\t1"},
        {"search": "x" * 3000}, {"kind": "x"},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        parse_listing(list(values.items()))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return build_run(tmp_path_factory.mktemp("listing"), n_pairs=70)


@pytest.mark.parametrize(
    ("sort", "ascending"),
    [("risk", False), ("risk", True), ("caption", False), ("n_duplicates", True), ("url", True), ("decision", False)],
)
def test_the_pages_are_the_list(run: RunFolder, sort: str, ascending: bool) -> None:
    listing = Listing(sort=sort, ascending=ascending)
    way = "asc" if ascending else "desc"
    also = f", suspicion {way}" if sort == "risk" else ""
    with open_readonly(run) as connection:
        sql = f"select uid from suspicion order by {sort} {way} nulls last{also}, uid"
        expected = [uid for (uid,) in connection.execute(sql).fetchall()]
    desk, found, after = Desk(run), list[str](), ""
    while True:
        page = desk.page(listing, after=after, most=9)
        assert page.has_before == bool(after)
        found += [card.uid for card in page.cards]
        if not page.has_after:
            break
        after = found[-1]
    assert found == expected
    back = desk.page(listing, before=expected[20], most=9)
    assert [card.uid for card in back.cards] == expected[11:20]
    assert desk.beside(listing, expected[5]) == (expected[4], expected[6])
    assert desk.beside(listing, expected[0])[0] is None
    desk.close()


def test_filters_are_conditions(run: RunFolder, tmp_path: Path) -> None:
    desk = Desk(run)
    cases = {
        Listing(search="RED"): "caption ilike '%red%'",
        Listing(where="q > 0.5 or fdr < 0.1"): "q > 0.5 or fdr < 0.1",
        Listing(filters=(Filter("risk", ">", "0.5"), Filter("never_wins", "is", "true"))): "risk > 0.5 and never_wins",
        Listing(filters=(Filter("url", "is empty"),)): "url is null",
        Listing(show="flagged"): "fdr <= 0.1",
        Listing(campaign=1, suspicious=True): "uid in (select uid from campaign_pairs where suspicious)",
    }
    with open_readonly(run) as connection:
        for listing, sql in cases.items():
            expected = connection.execute(f"select count(*) from suspicion where {sql}").fetchall()[0][0]
            assert desk.count(listing) == expected > 0 or "url" in sql, sql
        uid, group = connection.execute(
            "select uid, same_group from suspicion where n_same > 1 and n_duplicates > n_same order by uid limit 1"
        ).fetchall()[0]
        near = f"select neighbour_uid from neighbours where uid = '{uid}' and kind = 'image'"
        copies = f"select uid from suspicion where same_group = {group}"  # not all that the network takes for copies
        expected_uids = {row[0] for row in connection.execute(f"{near} union {copies}").fetchall()} | {uid}
    assert desk.count(Listing(like=uid)) == len(expected_uids)
    assert {card.uid for card in desk.page(Listing(like=uid)).cards} == expected_uids
    desk.close()
