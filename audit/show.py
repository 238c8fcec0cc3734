"""One pair with all that is known about it: evidence in words, the captions that beat its own, its nearest pairs."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import duckdb

from roclip_audit.audit.escape import ellipsize
from roclip_audit.audit.formats import cell_text, json_text
from roclip_audit.audit.query import clear_errors
from roclip_audit.audit.relations import SUSPICION
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import EVIDENCE
from roclip_audit.core.terminal import printable

CANDIDATES = 10
_PREFIX = re.compile(r"[0-9a-fA-F]{4,32}")
_MEASURED = tuple(column for column in SUSPICION if column in EVIDENCE and column.name != "uid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One measurement of a pair, and what it means."""

    name: str
    value: Any
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A caption that beats the pair's own (``margin`` above 0), or comes nearest to it."""

    rank: int
    uid: str
    caption: str | None
    cosine: float
    margin: float
    text_similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A near pair: ``kind`` is image or caption."""

    kind: str
    rank: int
    uid: str
    caption: str | None
    similarity: float
    suspicion: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairProblem:
    """Something that was wrong with the pair."""

    stage: str
    reason: str
    detail: str | None
    fatal: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PairReport:
    """All that the database knows about one pair; ``evidence`` is empty if it could not be scored."""

    uid: str
    shard: str
    key: str
    ordinal: int
    caption: str | None
    url: str | None
    caption_source: str | None
    image_ext: str | None
    image_offset: int | None
    image_bytes: int | None
    image_sha256: str | None
    width: int | None
    height: int | None
    scored: bool
    decision: str | None
    note: str | None
    evidence: tuple[Fact, ...] = ()
    rivals: tuple[Rival, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    problems: tuple[PairProblem, ...] = ()

    def fact(self, name: str) -> object:
        """Return the value of one measurement, None if there is none."""
        return next((fact.value for fact in self.evidence if fact.name == name), None)


def _rows(connection: duckdb.DuckDBPyConnection, sql: str, values: object) -> Iterator[dict[str, Any]]:
    found = connection.execute(sql, values)
    names = [column[0] for column in found.description or ()]
    yield from (dict(zip(names, row, strict=True)) for row in found.fetchall())


_BY_PREFIX = "select uid, shard, key, caption from pairs where starts_with(uid, lower(?)) order by pair limit ?"
# Names of shards and keys may hold slashes: every way to cut the name is looked up.
_BY_NAME = """
    select uid, shard, key, caption from pairs
    where shard in (select unnest($shards)) and key in (select unnest($keys))
        and $name in (shard || '/' || key, regexp_replace(shard, '[.]tar$', '') || '/' || key)
    order by pair limit $most
"""


def _named(connection: duckdb.DuckDBPyConnection, name: str) -> list[dict[str, Any]]:
    cuts = [found.start() for found in re.finditer("/", name)][:64]
    shards = [name[:cut] for cut in cuts]
    values = {
        "shards": shards + [f"{shard}.tar" for shard in shards],
        "keys": [name[cut + 1 :] for cut in cuts],
        "name": name,
        "most": CANDIDATES + 1,
    }
    return list(_rows(connection, _BY_NAME, values)) if cuts else []


def find_pair(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """Return the uid of the pair that is meant by a uid, the beginning of one (four characters at least), or shard/key.

    Raises:
        ConfigError: no pair is meant, or several; then the message lists them.
    """
    found: list[dict[str, Any]] = []
    if _PREFIX.fullmatch(name):
        found = list(_rows(connection, _BY_PREFIX, [name, CANDIDATES + 1]))
    found = found or _named(connection, name)
    if len(found) == 1:
        return str(found[0]["uid"])
    if not found:
        raise ConfigError(f"{name}: no such pair; name a uid, the first characters of one, or SHARD/KEY")
    listed = "; ".join(
        f"{row['uid']} {row['shard']}/{row['key']} {ellipsize(row['caption'] or '', 40)}" for row in found[:CANDIDATES]
    )
    more = "; and more" if len(found) > CANDIDATES else ""
    raise ConfigError(f"{name}: several pairs, name one by its uid: {listed}{more}")


_PAIR = """
    select p.pair, p.uid, p.shard, p.key, p.ordinal, p.caption, p.url, p.caption_source, p.image_ext, p.image_offset,
        p.image_bytes, p.image_sha256, p.width, p.height, p.scored, d.verdict as decision, d.note
    from pairs p left join decisions d using (uid) where uid = ?
"""
# By number, not by uid through the views: the numbers are sorted, so that a few blocks are read instead of all.
_RIVALS = """
    with own as materialized (from store.rivals where pair = $1)
    select r.rank, p.uid, p.caption, r.cosine, r.margin, r.text_similarity
    from own r join pairs p on p.pair = r.rival_pair order by r.rank
"""
_NEIGHBOURS = """
    with own as materialized (from store.neighbours where pair = $1)
    select n.kind, n.rank, s.uid, s.caption, n.similarity, s.suspicion
    from own n join store.scored s on s.pair = n.neighbour_pair order by n.kind desc, n.rank
"""
_PROBLEMS = "select stage, reason, detail, fatal from problems where shard = ? and ordinal = ? order by rowid"


def show(run: RunFolder, name: str) -> PairReport:
    """Collect what is known about one pair.

    Args:
        run: the run folder.
        name: a uid, the beginning of one, or shard/key.

    Raises:
        ConfigError: no pair is meant, or several.
        StoreError: the database is missing, damaged or locked.
    """
    with open_readonly(run) as connection, clear_errors(run.database):
        return report_on(connection, find_pair(connection, name))


def report_on(connection: duckdb.DuckDBPyConnection, uid: str) -> PairReport:
    """Collect what is known about the pair with this uid, which exists."""
    row = next(_rows(connection, _PAIR, [uid]))
    number = [row.pop("pair")]
    measured = next(_rows(connection, "from store.scored where pair = ?", number), None)
    return PairReport(
        **row,
        evidence=() if measured is None else _facts(measured),
        rivals=tuple(Rival(**row) for row in _rows(connection, _RIVALS, number)),
        neighbours=tuple(Neighbour(**row) for row in _rows(connection, _NEIGHBOURS, number)),
        problems=tuple(PairProblem(**row) for row in _rows(connection, _PROBLEMS, [row["shard"], row["ordinal"]])),
    )


def _facts(measured: dict[str, Any]) -> tuple[Fact, ...]:
    return tuple(Fact(name=c.name, value=measured[c.name], meaning=c.comment) for c in _MEASURED)


def report_json(report: PairReport) -> str:
    """Return the report as indented JSON; NaN and infinities become null."""
    return json.dumps(json.loads(json_text(asdict(report))), indent=2, ensure_ascii=True)


def write_report(report: PairReport, stream: TextIO, *, width: int = 100) -> None:
    """Write the report as text for people, at most ``width`` columns wide."""
    for line in _lines(report, width):
        stream.write(line.rstrip() + "\n")


def _lines(report: PairReport, width: int) -> Iterator[str]:
    yield from _identity(report, width)
    if not report.scored:
        yield ""
        yield "This pair could not be scored."
    if report.problems:
        yield from _heading("Problems")
        for problem in report.problems:
            fatal = ", fatal" if problem.fatal else ""
            yield from _entry(f"{problem.reason} ({problem.stage}{fatal})", problem.detail or "", 36, width)
    if report.evidence:
        yield from _heading("Evidence")
        for fact in report.evidence:
            yield from _entry(f"{fact.name:<24}{cell_text(fact.value):>10}", fact.meaning, 36, width)
    yield from _table(
        "Captions against its own (margin above 0: it beats the own one)",
        (f"{r.margin:+.3f}  {r.uid}  {printable(r.caption or '', limit=400)}" for r in report.rivals),
        width,
    )
    for kind, title in (("image", "Nearest images, and their captions"), ("caption", "Nearest captions")):
        chosen = [one for one in report.neighbours if one.kind == kind]
        yield from _table(
            title, (f"{n.similarity:+.3f}  {n.uid}  {printable(n.caption or '', limit=400)}" for n in chosen), width
        )


def _identity(report: PairReport, width: int) -> Iterator[str]:
    image = "none"
    if report.image_ext is not None:
        size = f"{report.width} x {report.height} px, " if report.width and report.height else ""
        image = f"{size}{report.image_bytes:,} bytes at {report.image_offset:,}, .{report.image_ext}"
    decision = "(none)"
    if report.decision is not None:
        decision = f"{report.decision} ({report.note})" if report.note else report.decision
    entries = {
        "uid": report.uid,
        "shard": f"{report.shard}, pair {report.ordinal}",
        "key": report.key,
        "caption": "(none)" if report.caption is None else report.caption,
        "url": report.url or "(none)",
        "image": image,
        "decision": decision,
    }
    for name, value in entries.items():
        yield from _entry(name, printable(value, limit=2000), 10, width)


def _heading(title: str) -> tuple[str, str]:
    return "", title


def _entry(name: str, text: str, margin: int, width: int) -> Iterator[str]:
    """Yield a name and a text beside it, wrapped in its own column."""
    lines = textwrap.wrap(printable(text), max(20, width - margin - 2), break_on_hyphens=False) or [""]
    if len(name) > margin:
        yield printable(name)
    else:
        lines[0] = f"{printable(name):<{margin}}  {lines[0]}"
    yield from (line if line.startswith(name) else " " * (margin + 2) + line for line in lines)


def _table(title: str, lines: Iterator[str], width: int) -> Iterator[str]:
    found = [ellipsize(line, width - 2) for line in lines]
    if found:
        yield from _heading(title)
        yield from ("  " + line for line in found)
