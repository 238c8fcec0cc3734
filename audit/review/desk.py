"""What the review page asks of a run, and the decisions that it writes: no HTTP here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import duckdb

from roclip_audit.audit.decision_log import new_decisions, open_log
from roclip_audit.audit.decisions import undo
from roclip_audit.audit.pictures import locate_pictures, read_pictures
from roclip_audit.audit.review.connections import LIMIT_S, Connections
from roclip_audit.audit.review.listing import Listing, beyond, condition, order_by
from roclip_audit.audit.review.thumbnails import EDGES, Cache, encoded
from roclip_audit.audit.select import check_predicate
from roclip_audit.audit.show import PairReport, report_on
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.images import ImageProblem, decode_image
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import FLAG_FDR

PAGE_PAIRS: Final = 60
CAPTION_CHARACTERS: Final = 400
MAX_AT_ONCE: Final = 100_000
"""Most pairs of one action."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A pair as the grid shows it; captions are cut."""

    uid: str
    shard: str
    key: str
    caption: str | None
    rival_caption: str | None
    rival_margin: float | None
    suspicion: float
    fdr: float
    risk: float | None
    risk_reason: str | None
    sorted_by: Any
    decision: str | None
    reviewer: str | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some pairs of a list, and whether there are more on either side."""

    cards: tuple[Card, ...]
    has_before: bool
    has_after: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the review is; ``flagged`` counts pairs with fdr <= 0.1, decided or not."""

    flagged: int
    flagged_decided: int
    kept: int
    dropped: int
    n_pairs: int


def _dicts(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[Any] = ()) -> Iterator[dict[str, Any]]:
    found = connection.execute(sql, list(values))
    names = [column[0] for column in found.description or ()]
    rows = found.fetchall()
    return (dict(zip(names, row, strict=True)) for row in rows)


_SAME = {"image": ("same_group", "n_same"), "caption": ("caption", "n_caption_repeats")}


def _near(connection: duckdb.DuckDBPyConnection, listing: Listing) -> tuple[str, dict[str, Any]]:
    """Return the condition for a pair, its neighbours of one kind, and its copies.

    Looked up first, and written as constants: as subqueries in one condition it takes a hundred times as long.
    """
    column, number = _SAME[listing.kind]
    sql = f"select pair, {column}, {number} from store.scored where uid = ?"  # noqa: S608  # our own names
    own = connection.execute(sql, [listing.like]).fetchall()
    if not own:
        raise ConfigError(f"{listing.like[:60]}: no such pair")
    pair, shared, n = own[0]
    sql = "select neighbour_pair from store.neighbours where pair = ? and kind = ?"
    near = [pair, *(row[0] for row in connection.execute(sql, [pair, listing.kind]).fetchall())]
    either = f"pair in ({', '.join(str(int(one)) for one in near)})"
    return (f"{either} or {column} = $shared", {"shared": shared}) if n > 1 else (either, {})


class Desk:
    """One run under review."""

    def __init__(self, run: RunFolder, *, limit_s: float = LIMIT_S) -> None:
        self._run = run
        self._connections = Connections(run, limit_s=limit_s)
        self._cache = Cache()
        self._totals: tuple[tuple[int, int], tuple[int, int]] | None = None

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self._run.root.resolve().name

    def close(self) -> None:
        """Close the connections, so that others may write."""
        self._connections.close()

    def page(self, listing: Listing, *, after: str = "", before: str = "", most: int = PAGE_PAIRS) -> Page:
        """Return the pairs of a list that come after (or before) a pair, or the first ones.

        Raises:
            ConfigError: the condition is wrong or takes too long, or there is no such pair.
        """
        with self._connections.use() as connection:
            numbers = self._numbers(connection, listing, after or before, backwards=bool(before), most=most + 1)
            more = len(numbers) > most
            chosen = numbers[:most][::-1] if before else numbers[:most]
            cards = self._cards(connection, listing, chosen)
        return Page(cards=cards, has_before=more if before else bool(after), has_after=bool(before) or more)

    def _numbers(
        self, connection: duckdb.DuckDBPyConnection, listing: Listing, at: str, *, backwards: bool, most: int
    ) -> list[int]:
        where, values = self._condition(connection, listing)
        if at:
            columns = ", ".join(f'"{name}"' for name, _ in listing.order)
            found = connection.execute(f"select {columns} from scored_now where uid = ?", [at]).fetchall()  # noqa: S608
            if not found:
                raise ConfigError(f"{at[:60]}: no such pair")
            further, bounds = beyond(listing, found[0], backwards=backwards)
            where, values = f"({where}) and ({further})", values | bounds
        order = order_by(listing, backwards=backwards)
        sql = f"select pair from scored_now where {where} order by {order} limit {most:d}"  # noqa: S608
        return [row[0] for row in connection.execute(sql, values).fetchall()]

    def _condition(self, connection: duckdb.DuckDBPyConnection, listing: Listing) -> tuple[str, dict[str, Any]]:
        if listing.where:
            check_predicate(connection, listing.where)
        where, values = condition(listing)
        if listing.like:
            near, its = _near(connection, listing)
            where, values = f"({where}) and ({near})", values | its
        return where, values

    def _cards(
        self, connection: duckdb.DuckDBPyConnection, listing: Listing, numbers: Sequence[int]
    ) -> tuple[Card, ...]:
        if not numbers:
            return ()
        listed = ", ".join(str(int(number)) for number in numbers)
        sql = f"""
            select s.pair, s.uid, s.shard, s.key, left(s.caption, {CAPTION_CHARACTERS}) as caption,
                left(s.rival_caption, {CAPTION_CHARACTERS}) as rival_caption, s.rival_margin, s.suspicion, s.fdr,
                s.risk, s.risk_reason, s."{listing.sort}" as sorted_by, d.verdict as decision, d.reviewer, d.note
            from store.scored s left join decisions d on d.uid = s.uid where s.pair in ({listed})
        """  # noqa: S608  # numbers, and a column's name out of TYPES
        if listing.sort == "decision":
            sql = sql.replace('s."decision"', "d.verdict")
        found = {row.pop("pair"): Card(**row) for row in _dicts(connection, sql)}
        return tuple(found[number] for number in numbers)

    def count(self, listing: Listing) -> int:
        """Return how many pairs a list has.

        Raises:
            ConfigError: the condition is wrong or takes too long.
        """
        with self._connections.use() as connection:
            where, values = self._condition(connection, listing)
            sql = f"select count(*) from scored_now where {where}"  # noqa: S608
            return int(connection.execute(sql, values).fetchall()[0][0])

    def beside(self, listing: Listing, uid: str) -> tuple[str | None, str | None]:
        """Return the uids before and after a pair in a list."""
        found = []
        with self._connections.use() as connection:
            for backwards in (True, False):
                numbers = self._numbers(connection, listing, uid, backwards=backwards, most=1)
                rows = connection.execute("select uid from pairs where pair = ?", numbers).fetchall() if numbers else []
                found.append(rows[0][0] if rows else None)
        return found[0], found[1]

    def pair(self, uid: str) -> tuple[PairReport, list[dict[str, Any]], list[dict[str, Any]]]:
        """Return all about one pair, what was decided about it, oldest first, and its campaigns.

        Raises:
            ConfigError: no such pair.
        """
        with self._connections.use() as connection:
            if not connection.execute("select 1 from pairs where uid = ?", [uid]).fetchall():
                raise ConfigError(f"{uid[:60]}: no such pair")
            report = report_on(connection, uid)
            history = list(_dicts(connection, "from decision_history where uid = ? order by line", [uid]))
            sql = """select campaign, kind, label, sentence from campaigns
                where campaign in (select campaign from campaign_pairs where uid = ?) order by campaign"""
            return report, history, list(_dicts(connection, sql, [uid]))

    def campaigns(self) -> list[dict[str, Any]]:
        """Return the campaigns, each with what was decided of it and the uids of some examples."""
        sql = """
            with parts as (
                select c.campaign, count(*) filter (where d.verdict = 'keep') as n_kept,
                    count(*) filter (where d.verdict = 'drop') as n_dropped,
                    array_agg(c.uid order by c.suspicious desc, s.risk desc, c.uid)[1:6] as examples
                from campaign_pairs c left join decisions d on d.uid = c.uid left join store.scored s on s.uid = c.uid
                group by c.campaign
            )
            from campaigns left join parts using (campaign) order by campaign
        """
        with self._connections.use() as connection:
            return list(_dicts(connection, sql))

    def progress(self) -> Progress:
        """Count what is flagged and what is decided."""
        with self._connections.use() as connection:
            stamp = self._connections.stamp
            if self._totals is None or self._totals[0] != stamp:
                sql = f"select count(*) filter (where fdr <= {FLAG_FDR}), count(*) from store.scored"  # noqa: S608
                self._totals = stamp, connection.execute(sql).fetchall()[0]
            sql = f"""select count(*) filter (where fdr <= {FLAG_FDR}), count(*) filter (where decision = 'keep'),
                count(*) filter (where decision = 'drop') from scored_now where decision is not null"""  # noqa: S608
            decided, kept, dropped = connection.execute(sql).fetchall()[0]
        flagged, n_pairs = self._totals[1]
        return Progress(flagged=flagged, flagged_decided=decided, kept=kept, dropped=dropped, n_pairs=n_pairs)

    def decide(self, uids: Sequence[str], verdict: str, *, reviewer: str, note: str | None = None) -> int:
        """Write one decision about some pairs; return how many they are.

        Raises:
            ConfigError: no such pair, an unknown verdict, or too many pairs.
        """
        chosen = list(dict.fromkeys(uids))
        if not 0 < len(chosen) <= MAX_AT_ONCE:
            raise ConfigError(f"an action is about 1 to {MAX_AT_ONCE:,} pairs, not {len(chosen):,}")
        lines = new_decisions(chosen, verdict, reviewer=reviewer, note=note)
        with self._connections.use() as connection:
            sql = "select count(*) from pairs where uid in (select unnest($uids))"
            if connection.execute(sql, {"uids": chosen}).fetchall()[0][0] != len(chosen):
                raise ConfigError("no such pair; load the page again")
        with open_log(self._run) as log:
            log.append(lines)
        return len(lines)

    def decide_campaign(self, campaign: int, verdict: str, *, suspicious: bool, reviewer: str, note: str | None) -> int:
        """Write one decision about all pairs of a campaign, or its suspicious ones; return how many they are.

        Raises:
            ConfigError: no such campaign, or an unknown verdict.
        """
        only = " and suspicious" if suspicious else ""
        with self._connections.use() as connection:
            sql = f"select uid from campaign_pairs where campaign = ?{only} order by uid"  # noqa: S608
            uids = [row[0] for row in connection.execute(sql, [campaign]).fetchall()]
        return self.decide(uids, verdict, reviewer=reviewer, note=note)

    def undo(self, reviewer: str) -> tuple[int, int] | None:
        """Take back a reviewer's last action; see ``audit.decisions.undo``."""
        return undo(self._run, reviewer=reviewer)

    def picture(self, uid: str, size: str) -> tuple[bytes | None, str]:
        """Return a pair's picture as JPEG, or None and why there is none."""
        notes = ["no image"]

        def make() -> bytes | None:
            with self._connections.use() as connection:
                places = locate_pictures(connection, [uid])
            for _, picture in read_pictures(places, edge_px=EDGES[size]):
                notes[0] = picture.note
                return None if picture.image is None else encoded(picture.image)
            return None

        return self._cache.get((uid, size), make), notes[0]

    def trigger(self, campaign: int) -> bytes | None:
        """Return the picture of a campaign's trigger as JPEG, None if there is none."""
        with self._connections.use() as connection:
            sql = "select trigger_png from campaigns where campaign = ?"
            found = connection.execute(sql, [campaign]).fetchall()
        name = found[0][0] if found else None
        if not name or PurePosixPath(name).parts[:-1] != ("campaigns",):
            return None
        try:
            return encoded(decode_image((self._run.root / name).read_bytes(), 4_000_000))
        except (OSError, ImageProblem):
            return None
