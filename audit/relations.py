"""The tables and views of ``audit.duckdb``, declared as data: columns with comments, and the SQL of the views.

Layout, and why (measured by ``benchmarks/bench_sql.py`` on 1,000,000 scored pairs, two cores):

- ``suspicion`` is a plain projection of one wide table, ``store.scored``, that holds a copy of the pair's caption and
  url, of the first rival and of the decision. DuckDB then sorts on one column and fetches only the rows that survive
  the limit: 0.03 s for an order-by-limit. As a view over joins (pairs, evidence, rivals, decisions) the same query
  takes 0.8 s, and one join with the nearly empty ``decisions`` alone costs 0.2 s, because no joined row can be fetched
  late. The price is that captions and urls lie on disk twice.
- ``evidence`` is a view over the same wide table, so that no measurement is stored twice.
- ``rivals`` and ``neighbours`` name pairs by ``pairs.pair``, an 8-byte number that compresses to about 3 bytes, and
  views turn it back into the 32-byte uid: with 20 neighbours a pair the uids would be most of the file.

Names of tables, views and columns are a promise to the people whose queries use them; tests/audit/golden holds them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from roclip_audit.audit.provenance import (
    ABOUT_DOMAIN,
    DOMAINS_TABLE,
    FETCHED_TABLE,
    INTEGRITY,
    INTEGRITY_BY_KIND,
    MANY_URLS,
    SAME_PICTURE,
    SELECT_INTEGRITY,
    SELECT_INTEGRITY_BY_KIND,
    SELECT_SAME_PICTURE,
    select_by_domain,
)
from roclip_audit.core.schema import (
    CAMPAIGN_PAIRS,
    CAMPAIGNS,
    DECISION_HISTORY,
    DECISIONS,
    EVIDENCE,
    FLAG_FDR,
    NEIGHBOURS,
    PAIRS,
    PROBLEMS,
    RIVALS,
    RUNS,
    SHARDS,
    Column,
)

SCHEMA_VERSION = 7

# The host of a url that anybody may have written: what follows '//', up to the path, without user, port and trailing
# dots. Tabs and line breaks vanish and a backslash ends the host, as in browsers. Anything else is no domain: null.
DOMAIN_SQL = r"""
    nullif(rtrim(regexp_extract(
        lower(regexp_replace(left(url, 4096), '[\t\r\n]', '', 'g')),
        '^[\x00-\x20]*(?:[a-z][a-z0-9+.-]*:)?//(?:[^/\\?#]*@)?'
        || '([^\x00-\x20\x7f"%<>^`{|}/\\?#@:\[\]]{1,253}|\[[0-9a-f:.]{2,45}\])'
        || '(?::[0-9]{0,5})?(?:[/\\?#]|$)', 1
    ), '.'), '')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table, or a view if it has a ``select``.

    Attributes:
        name: with the schema in front if it is not ``main``.
        comment: one sentence.
        columns: in order; the view's ``select`` yields exactly these.
        select: the SQL of a view, empty for a table.
    """

    name: str
    comment: str
    columns: tuple[Column, ...]
    select: str = ""

    @property
    def kind(self) -> Literal["table", "view"]:
        """What the database calls it."""
        return "view" if self.select else "table"


def _pick(source: tuple[Column, ...], *names: str) -> tuple[Column, ...]:
    by_name = {column.name: column for column in source}
    return tuple(by_name[name] for name in names)


def _names(columns: tuple[Column, ...]) -> str:
    return ", ".join(f'"{column.name}"' for column in columns)


def _select_scored(columns: tuple[Column, ...]) -> str:
    return f"select {_names(columns)} from store.scored"  # noqa: S608  # our own names


PAIR_NUMBER = Column(
    "pair", "UBIGINT", "Number of the pair in the database, from 0 in shard order; not an identity, use uid"
)
DOMAIN = Column("domain", "VARCHAR", "Host of the url, lower case, without port; null if there is none")

_RIVAL = (
    Column("rival_caption", "VARCHAR", "The caption that beats the own one by most, or comes nearest to it"),
    Column("rival_uid", "VARCHAR", "A pair that carries the rival caption"),
    Column(
        "rival_margin", "DOUBLE", "Cosine of image and rival caption minus that of the own one; above 0 the rival wins"
    ),
    Column("rival_text_similarity", "DOUBLE", "Cosine of the rival caption and the own one; near 1 they say the same"),
)
_DECISION = Column("decision", "VARCHAR", "What a person decided: keep, drop, or null")
_HEADLINE = (
    *_pick(PAIRS, "uid", "shard", "key", "ordinal", "caption", "url"),
    *_pick(EVIDENCE, "suspicion", "fdr", "risk", "risk_reason", "p_value", "anomaly", "never_wins"),
    *_pick(EVIDENCE, "q", "q_caption", "worst_view", "win_probability"),
    *_RIVAL,
    *_pick(EVIDENCE, "caption_disagreement", "image_disagreement"),
    *_pick(EVIDENCE, "n_duplicates", "n_duplicate_captions", "n_caption_repeats"),
    _DECISION,
    DOMAIN,
)
_SHOWN = {column.name for column in _HEADLINE}
SUSPICION = (
    *_HEADLINE,
    *(column for column in EVIDENCE if column.name not in _SHOWN),
    *_pick(PAIRS, "width", "height", "image_bytes"),
)

TABLES: tuple[Relation, ...] = (
    Relation(name="runs", comment="The scan that this database comes from; one row.", columns=RUNS),
    Relation(name="shards", comment="The scanned shards, in the order of the scan.", columns=SHARDS),
    Relation(
        name="pairs",
        comment="Every pair found in the shards, scored or not.",
        columns=(*PAIRS, DOMAIN, PAIR_NUMBER),
    ),
    Relation(name="problems", comment="Everything that was wrong with a pair or a shard.", columns=PROBLEMS),
    Relation(
        name="fetched",
        comment="Every URL that was tried for these shards, and rows of the list that were not, where that is known.",
        columns=FETCHED_TABLE,
    ),
    Relation(
        name="campaigns",
        comment="Groups of suspicious pairs that belong together, the most significant first.",
        columns=CAMPAIGNS,
    ),
    Relation(name="campaign_pairs", comment="Which pairs belong to which campaign.", columns=CAMPAIGN_PAIRS),
    Relation(
        name="decision_history",
        comment="Every line of the log of decisions, decisions.jsonl in the run folder, oldest first.",
        columns=DECISION_HISTORY,
    ),
    Relation(
        name="store.scored",
        comment="One wide row per scored pair, behind the views suspicion and evidence; query those.",
        columns=(*SUSPICION, PAIR_NUMBER),
    ),
    Relation(
        name="store.domains",
        comment="One row per domain, behind the view by_domain.",
        columns=DOMAINS_TABLE,
    ),
    Relation(
        name="store.rivals",
        comment="Behind the view rivals, with pairs as numbers.",
        columns=(
            PAIR_NUMBER,
            RIVALS[1],
            Column("rival_pair", "UBIGINT", "Number of a pair that carries the rival caption"),
            *RIVALS[3:],
        ),
    ),
    Relation(
        name="store.neighbours",
        comment="Behind the view neighbours, with pairs as numbers.",
        columns=(
            PAIR_NUMBER,
            *NEIGHBOURS[1:3],
            Column("neighbour_pair", "UBIGINT", "Number of the neighbouring pair"),
            NEIGHBOURS[4],
        ),
    ),
    Relation(
        name="store.decision_log",
        comment="How much of the log of decisions is in this database; one row.",
        columns=(Column("bytes", "UBIGINT", "Bytes of decisions.jsonl that decision_history holds"),),
    ),
)

_SELECT_SUSPICION = _select_scored(SUSPICION)
_FLAGGED = f"(fdr <= {FLAG_FDR} or decision is not distinct from 'drop') and decision is distinct from 'keep'"
_N_FLAGGED = Column("n_flagged", "UBIGINT", f"Scored pairs that are flagged (fdr <= {FLAG_FDR}, or decided)")
_FLAGGED_SHARE = Column("flagged_share", "DOUBLE", "n_flagged / n_scored")
_EXPECTED = Column("expected_mismatched", "DOUBLE", "Expected number of mismatched pairs: the sum of suspicion")
_MEAN = Column("mean_suspicion", "DOUBLE", "Mean suspicion of the scored pairs, 0 to 1")
_N_SCORED = Column("n_scored", "UBIGINT", "Pairs with evidence")

DECISIONS_VIEW = Relation(
    name="decisions",
    comment="What people decided about pairs, the last verdict on each; survives every new scan.",
    columns=DECISIONS,
    select="""select uid, verdict, note, decided_at, reviewer from decision_history
        qualify row_number() over (partition by uid order by line desc) = 1 and verdict <> 'clear'""",
)

VIEWS: tuple[Relation, ...] = (
    Relation(
        name="suspicion",
        comment="One row per scored pair with all that is known about it; the view to query.",
        columns=SUSPICION,
        select=_SELECT_SUSPICION,
    ),
    Relation(
        name="flagged",
        comment=f"The pairs of suspicion with fdr <= {FLAG_FDR} or decided 'drop', without those decided 'keep'.",
        columns=SUSPICION,
        select=f"{_SELECT_SUSPICION} where {_FLAGGED}",
    ),
    Relation(
        name="evidence",
        comment="The measurements of every scored pair; higher = more suspicious.",
        columns=EVIDENCE,
        select=_select_scored(EVIDENCE),
    ),
    Relation(
        name="rivals",
        comment="The captions that come nearest to beating each pair's own, or do beat it.",
        columns=RIVALS,
        select="""select p.uid, r.rank, o.uid as rival_uid, r.cosine, r.margin, r.text_similarity
            from store.rivals r join pairs p on p.pair = r.pair join pairs o on o.pair = r.rival_pair""",
    ),
    Relation(
        name="neighbours",
        comment="The nearest pairs of each pair, by picture and by caption, near-duplicates excluded.",
        columns=NEIGHBOURS,
        select="""select p.uid, n.kind, n.rank, o.uid as neighbour_uid, n.similarity
            from store.neighbours n join pairs p on p.pair = n.pair join pairs o on o.pair = n.neighbour_pair""",
    ),
    DECISIONS_VIEW,
    Relation(
        name="by_shard",
        comment="One row per shard, whether it could be read or not.",
        columns=(
            SHARDS[0],
            SHARDS[4],
            _N_SCORED,
            _N_FLAGGED,
            _FLAGGED_SHARE,
            _EXPECTED,
            _MEAN,
            Column("n_problems", "UBIGINT", "Rows in problems about the shard"),
        ),
        select=f"""
            with scores as (
                select shard, count(*) as n_scored, count(*) filter (where {_FLAGGED}) as n_flagged,
                    sum(suspicion) as expected_mismatched, avg(suspicion) as mean_suspicion
                from store.scored group by shard
            ), troubles as (select shard, count(*) as n_problems from problems group by shard)
            select shard, n_pairs, coalesce(n_scored, 0)::ubigint as n_scored,
                coalesce(n_flagged, 0)::ubigint as n_flagged, n_flagged / n_scored as flagged_share,
                coalesce(expected_mismatched, 0) as expected_mismatched, mean_suspicion,
                coalesce(n_problems, 0)::ubigint as n_problems
            from shards left join scores using (shard) left join troubles using (shard) order by shards.rowid""",  # noqa: S608
    ),
    Relation(
        name="by_domain",
        comment="One row per domain of the scored pairs' urls and of the URLs that were tried, the most expected "
        "mismatches first.",
        columns=(
            Column("domain", "VARCHAR", "Host of the url; null for pairs without a usable url"),
            _N_SCORED,
            _N_FLAGGED,
            _FLAGGED_SHARE,
            _EXPECTED,
            _MEAN,
            *ABOUT_DOMAIN,
        ),
        select=select_by_domain(_FLAGGED),
    ),
    Relation(
        name="same_picture",
        comment="One row per picture that came from several URLs, byte for byte, the most URLs first.",
        columns=SAME_PICTURE,
        select=SELECT_SAME_PICTURE,
    ),
    Relation(
        name="integrity",
        comment="What is wrong with where pictures came from, one row per URL and finding; same_picture from "
        f"{MANY_URLS} URLs on.",
        columns=INTEGRITY,
        select=SELECT_INTEGRITY,
    ),
    Relation(
        name="integrity_by_kind",
        comment="One row per kind of finding in integrity, the most frequent first.",
        columns=INTEGRITY_BY_KIND,
        select=SELECT_INTEGRITY_BY_KIND,
    ),
    Relation(
        name="problems_by_kind",
        comment="One row per kind of problem, the most frequent first.",
        columns=(
            *_pick(PROBLEMS, "stage", "reason", "fatal"),
            Column("n_problems", "UBIGINT", "Rows in problems of this kind"),
            Column("n_shards", "UBIGINT", "Shards that have it"),
            Column("example_shard", "VARCHAR", "A shard that has it"),
            Column("example_key", "VARCHAR", "The key of a pair in that shard that has it"),
            Column("example_detail", "VARCHAR", "What exactly was found there"),
        ),
        select="""
            select stage, reason, fatal, count(*)::ubigint as n_problems, count(distinct shard)::ubigint as n_shards,
                min(shard) as example_shard, arg_min_null(key, (shard, ordinal)) as example_key,
                arg_min_null(detail, (shard, ordinal)) as example_detail
            from problems group by stage, reason, fatal order by n_problems desc, stage, reason, fatal""",
    ),
    Relation(
        name="contamination",
        comment="The estimated share of mismatched pairs in the data, with its interval; one row.",
        columns=(
            Column("estimate", "DOUBLE", "Estimated share of mismatched pairs among the scored ones, 0 to 1"),
            Column("low", "DOUBLE", "Lower end of the interval"),
            Column("high", "DOUBLE", "Upper end of the interval"),
            _N_SCORED,
            Column("expected_mismatched", "DOUBLE", "estimate x n_scored"),
        ),
        select="""select contamination as estimate, contamination_low as low, contamination_high as high, n_scored,
            contamination * n_scored as expected_mismatched from runs""",
    ),
)

RELATIONS: tuple[Relation, ...] = TABLES + VIEWS


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _create(relation: Relation, temporary: str) -> str:
    if relation.select:
        return f"create {temporary} view {relation.name} as {relation.select}"
    columns = ", ".join(f'"{column.name}" {column.type}' for column in relation.columns)
    return f"create {temporary} table {relation.name} ({columns})"


def create_statements(relations: tuple[Relation, ...]) -> tuple[str, ...]:
    """Return the SQL that makes the relations and comments on them and on every column."""
    statements = []
    for relation in relations:
        statements.append(_create(relation, ""))
        statements.append(f"comment on {relation.kind} {relation.name} is {_quoted(relation.comment)}")
        statements += [
            f'comment on column {relation.name}."{column.name}" is {_quoted(column.comment)}'
            for column in relation.columns
        ]
    return tuple(statements)


def shadow_statements(scored: str) -> tuple[str, ...]:
    """Return the SQL of temporary relations that stand before those of the file that decisions change.

    Args:
        scored: what to read instead of ``store.scored``.
    """
    history = next(relation for relation in TABLES if relation.name == "decision_history")
    changed = (relation for relation in VIEWS if "decision" in relation.select)
    views = (replace(one, select=one.select.replace("store.scored", scored)) for one in changed)
    return tuple(_create(relation, "temp") for relation in (history, *views))
