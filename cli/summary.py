"""What `scan` and `demo` say at the end: what was found, and the commands to go on with, ready to paste."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from roclip_audit.cli.render import count, painted, percent
from roclip_audit.core.progress import duration
from roclip_audit.core.terminal import printable

if TYPE_CHECKING:
    from roclip_audit.audit.findings import Findings
    from roclip_audit.sanitize.scan import ScanReport

WARNINGS: Final = ("unread",)
DEFAULT_RUN: Final = Path("audit")
N_CAMPAIGNS: Final = 3
N_PROBLEMS: Final = 3
SENTENCE_CHARS: Final = 240
MOST_SHARDS_CHARS: Final = 400
TOP_SQL: Final = "select uid, caption, suspicion, fdr, rival_caption from suspicion order by risk desc limit 20"


def n_unread(report: ScanReport) -> int:
    """Return how many pairs have no evidence and how many shards could not be read, together."""
    return report.n_pairs - report.n_scored + report.n_unreadable_shards


def describe(report: ScanReport, findings: Findings, out: Path) -> list[tuple[str, str]]:
    """Return what a scan found as lines of name and value."""
    share = report.contamination
    scanned = f"{count(report.n_pairs, 'pair')} in {count(report.n_shards, 'shard')}, {duration(report.seconds)}"
    flagged = f"{count(report.n_flagged, 'pair')}, of them about {report.expected_sound:.0f} sound (fdr <= 0.1)"
    facts = [("scanned", scanned)]
    if report.reused:
        facts.append(("resumed", f"{count(report.reused, 'piece')} of work finished before"))
    facts.append(("mismatched", f"about {percent(share.estimate)} ({percent(share.low)} to {percent(share.high)})"))
    facts.append(("flagged", flagged))
    facts += _campaigns(findings)
    facts.append(("problems", _problems(report.n_problems, findings)))
    if n_unread(report):
        n_pairs, n_shards = report.n_pairs - report.n_scored, report.n_unreadable_shards
        facts.append(("unread", f"{count(n_pairs, 'pair')} without evidence, {count(n_shards, 'unreadable shard')}"))
    return [*facts, ("database", str(out / "audit.duckdb"))]


def as_json_value(report: ScanReport, findings: Findings, out: Path) -> dict[str, object]:
    """Return all of it for machines: every campaign, every kind of problem."""
    found = {"campaigns": [asdict(one) for one in findings.campaigns], "problems": dict(findings.problems)}
    return asdict(report) | found | {"database": str(out / "audit.duckdb")}


def _campaigns(findings: Findings) -> list[tuple[str, str]]:
    n = len(findings.campaigns)
    largest = findings.campaigns[:N_CAMPAIGNS]
    head = f"{n}, the largest {len(largest)}:" if n > N_CAMPAIGNS else str(n)
    return [
        ("campaigns", head),
        *(("", f"{one.campaign}. {printable(one.sentence, limit=SENTENCE_CHARS)}") for one in largest),
    ]


def _problems(n: int, findings: Findings) -> str:
    kinds = [f"{reason} {k:,}" for reason, k in findings.problems[:N_PROBLEMS]]
    more = ["..."] if len(findings.problems) > N_PROBLEMS else []
    return f"{n:,} ({', '.join(kinds + more)})" if kinds else f"{n:,}"


def next_commands(shards: Sequence[str], out: Path, *, curated: Path = Path("curated")) -> list[str]:
    """Return the commands that come after a scan, quoted for a shell.

    Args:
        shards: as the scan was given them.
        out: the run folder.
        curated: where curated shards would go.
    """
    audit = [] if out == DEFAULT_RUN else ["--audit", str(out)]
    scanned = list(shards) if sum(map(len, shards)) <= MOST_SHARDS_CHARS else ["SHARDS"]
    commands = (
        ["report", *audit],
        ["review", *audit],
        ["sql", *audit, TOP_SQL],
        ["curate", *scanned, str(curated), *audit, "--where", "fdr <= 0.1"],
    )
    return [" ".join(["roclip-audit", *map(_quoted, command)]) for command in commands]


def _quoted(argument: str) -> str:
    """Quote an argument for a shell, with double quotes where these are enough: they are easier to edit."""
    quoted = shlex.quote(argument)
    return f'"{argument}"' if quoted != argument and not set(argument) & set("\"$`\\!'\n") else quoted


def print_next(commands: Sequence[str]) -> None:
    """Print the commands under a heading."""
    typer.echo(f"\n{painted('Next:', bold=True)}")
    for command in commands:
        typer.echo(f"  {printable(command)}")
