"""The leaderboard as Markdown: a table per metric, what the scan promised, campaigns, speed, and what was not run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from roclip_audit.audit.escape import markdown_cell
from roclip_audit.audit.leaderboard.figure import SHOWN, write_figure
from roclip_audit.audit.leaderboard.measure import LISTS
from roclip_audit.audit.leaderboard.metrics import HIGHER_IS_BETTER, METRICS
from roclip_audit.audit.leaderboard.rows import ALL, CAMPAIGNS, SCAN, Row, write_rows
from roclip_audit.audit.leaderboard.summary import Setting, Summary, settings_of, summarise
from roclip_audit.core.run import write_atomic

TITLES: Final = {
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "fpr_at_95_tpr": "FPR at 95 % TPR (lower is better)",
    "fpr_at_100_tpr": "FPR at 100 % TPR (lower is better)",
    "recall_at_1_removed": "Recall when 1 % of the pairs is removed",
}
QUOTED: Final = (
    "Quoted from its abstract, not run, on other data and so not comparable: CASCADE (arXiv 2608.04052), CC3M: AUROC "
    "0.9867, mean FPR 5.79 % at 100 % TPR."
)
_CAMPAIGN_COLUMNS: Final = (
    ("campaign_found", "found"),
    ("campaign_share", "share held"),
    ("campaign_purity", "purity"),
    ("campaign_purity_own", "of this attack"),
    ("campaign_purity_suspicious", "purity, suspicious ones"),
    ("trigger_iou", "IoU of the trigger"),
)

Summaries = Mapping[tuple[Setting, str, str, str], Summary]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """Where the leaderboard was written."""

    table: Path
    numbers: Path
    figure: Path


def write_leaderboard(
    out: Path, rows: Sequence[Row], *, peers: Sequence[str], notes: Sequence[str] = ()
) -> Leaderboard:
    """Write ``leaderboard.md``, ``.parquet`` and ``.svg`` into a folder.

    Args:
        out: the folder.
        rows: of all cells.
        peers: names of the detectors that are not ours.
        notes: lines about how it was run.
    """
    paths = Leaderboard(
        table=out / "leaderboard.md", numbers=out / "leaderboard.parquet", figure=out / "leaderboard.svg"
    )
    write_rows(paths.numbers, rows)
    write_figure(paths.figure, rows, peers=peers)
    text = "\n".join(markdown(rows, peers=peers, notes=notes, figure=paths.figure.name)) + "\n"
    write_atomic(paths.table, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return paths


def markdown(rows: Sequence[Row], *, peers: Sequence[str], notes: Sequence[str], figure: str) -> Iterator[str]:
    """Yield the lines of the page."""
    summaries = summarise(rows)
    yield "# Leaderboard"
    yield ""
    yield (
        "Planted pairs against pairs left alone; higher score = more suspicious. Mean over seeds (95 % interval); best "
        "of each column in bold. What the numbers mean: docs/benchmark.md."
    )
    yield ""
    yield from (f"- {markdown_cell(note)}" for note in notes)
    yield ""
    yield f"![AUROC by attack]({figure})"
    for setting in settings_of(rows):
        here = [row for row in rows if (row.data, row.encoder, row.rate) == setting]
        seeds = sorted({row.seed for row in here})
        n_pairs = max(row.n_planted + row.n_clean for row in here if row.attack == ALL)
        yield ""
        yield f"## {markdown_cell(setting.data)}, encoder {markdown_cell(setting.encoder)}, rate {setting.rate:g}"
        yield ""
        yield f"{n_pairs:,} pairs; seeds {', '.join(map(str, seeds))}."
        yield ""
        yield "### AUROC of what people sort by, and of the best peer of each attack (chosen with hindsight)"
        yield ""
        yield from _verdict(setting, here, summaries, peers)
        for metric in METRICS:
            yield ""
            yield from _metric_table(setting, metric, here, summaries, peers)
        yield ""
        yield from _promises(setting, summaries)
        yield ""
        yield from _campaigns(setting, here, summaries)
        yield from _speed(setting, here, summaries)
    yield ""
    yield QUOTED


def attacks_of(rows: Sequence[Row]) -> list[str]:
    """Return the attacks that rows are about, in their order."""
    return list(dict.fromkeys(row.attack for row in rows if row.attack != ALL))


def detectors_of(rows: Sequence[Row]) -> list[str]:
    """Return the detectors that rows are about, in their order."""
    return list(dict.fromkeys(row.detector for row in rows if row.detector not in (SCAN, CAMPAIGNS)))


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for cells in body:
        yield "| " + " | ".join(cells) + " |"


def _number(summary: Summary | None, *, bold: bool = False) -> str:
    if summary is None:
        return "-"
    text = f"{summary.value:.3f}"
    text = f"**{text}**" if bold else text
    if summary.low is None or summary.high is None:
        return text
    return f"{text} ({summary.low:.2f}–{summary.high:.2f})"


def _metric_table(
    setting: Setting, metric: str, rows: Sequence[Row], summaries: Summaries, peers: Sequence[str]
) -> Iterator[str]:
    attacks = attacks_of(rows)
    best = {attack: _best(setting, attack, metric, detectors_of(rows), summaries) for attack in attacks}
    yield f"### {TITLES[metric]}"
    yield ""
    body = []
    for detector in detectors_of(rows):
        found_by_attack = {attack: summaries.get((setting, detector, attack, metric)) for attack in attacks}
        cells = [
            _number(found, bold=found is not None and found.value == best[attack])
            for attack, found in found_by_attack.items()
        ]
        body.append([f"{detector} (peer)" if detector in peers else detector, *cells])
    yield from _table(["detector", *attacks], body)


def _best(setting: Setting, attack: str, metric: str, detectors: Sequence[str], summaries: Summaries) -> float | None:
    """Return the best value of a column; None if no detector is better than another."""
    found = (summaries.get((setting, detector, attack, metric)) for detector in detectors)
    values = [one.value for one in found if one is not None]
    if not values or min(values) == max(values):
        return None
    return max(values) if metric in HIGHER_IS_BETTER else min(values)


def _verdict(setting: Setting, rows: Sequence[Row], summaries: Summaries, peers: Sequence[str]) -> Iterator[str]:
    """Yield the short table: what people sort by against the best peer of each attack, chosen with hindsight."""
    body = []
    for attack in attacks_of(rows):
        found = {name: summaries.get((setting, name, attack, "auroc")) for name in (*SHOWN, *peers)}
        theirs = {name: one for name in peers if (one := found[name]) is not None}
        best = max(theirs, key=lambda name: theirs[name].value, default=None)
        lead = found[SHOWN[0]]
        ahead = "-" if lead is None or best is None else f"{lead.value - theirs[best].value:+.3f}"
        peer = "-" if best is None else f"{_number(theirs[best])} {best}"
        body.append([attack, *(_number(found[name]) for name in SHOWN), peer, ahead])
    yield from _table(["attack", *SHOWN, "best peer", f"{SHOWN[0]} ahead by"], body)


def _promises(setting: Setting, summaries: Summaries) -> Iterator[str]:
    def scan(metric: str) -> Summary | None:
        return summaries.get((setting, SCAN, ALL, metric))

    yield "### What the scan promised"
    yield ""
    body = []
    for cut in LISTS:
        n_listed = scan(f"list_pairs_at_{cut:g}")
        body.append(
            [
                f"fdr <= {cut:g}",
                f"{n_listed.value:,.0f}" if n_listed else "-",
                _number(scan(f"promised_fdr_at_{cut:g}")),
                _number(scan(f"measured_fdr_at_{cut:g}")),
            ]
        )
    yield from _table(["list", "pairs", "promised FDR", "measured FDR"], body)
    yield ""
    estimate, true = scan("contamination_estimate"), scan("contamination_true")
    error = scan("contamination_relative_error")
    yield (
        f"Contamination: estimated {_number(estimate)}, planted {_number(true)}"
        + (f", relative error {error.value:+.0%}." if error else ".")
        + " Pairs that were wrong all along count as sound, so measured rates are upper bounds."
    )


def _campaigns(setting: Setting, rows: Sequence[Row], summaries: Summaries) -> Iterator[str]:
    total = summaries.get((setting, CAMPAIGNS, ALL, "n_campaigns"))
    if total is None:
        return
    false = summaries.get((setting, CAMPAIGNS, ALL, "n_false_campaigns"))
    yield "### Campaigns"
    yield ""
    yield from _table(
        ["attack", *(title for _, title in _CAMPAIGN_COLUMNS)],
        [
            [
                attack,
                *(_number(summaries.get((setting, CAMPAIGNS, attack, metric))) for metric, _ in _CAMPAIGN_COLUMNS),
            ]
            for attack in attacks_of(rows)
        ],
    )
    yield ""
    yield (
        f"{total.value:.1f} campaigns a scan, {_number(false)} of them mostly of pairs left alone; share of attacks "
        f"found {_number(summaries.get((setting, CAMPAIGNS, ALL, 'campaign_recall')))}."
    )
    yield ""


def _speed(setting: Setting, rows: Sequence[Row], summaries: Summaries) -> Iterator[str]:
    scan = summaries.get((setting, SCAN, ALL, "pairs_per_s"))
    own = {d: summaries.get((setting, d, ALL, "pairs_per_s")) for d in detectors_of(rows)}
    parts = [f"{name} {found.value:,.0f}" for name, found in own.items() if found is not None]
    yield "### Speed"
    yield ""
    scanned = f"{scan.value:,.1f}" if scan else "not measured (resumed)"
    yield f"Pairs/s of the whole scan, encoding included: {scanned}."
    if parts:
        yield (
            "Pairs/s of the peers after encoding, the parts that they share not counted: "
            + ", ".join(parts)
            + "; of the shared parts: "
            + ", ".join(
                f"{name} {found.value:,.0f}"
                for name in ("trained space", "neighbours")
                if (found := summaries.get((setting, SCAN, ALL, f"pairs_per_s {name}"))) is not None
            )
            + "."
        )
