"""``roclip-audit demo``: plant known attacks in real pairs, scan them, and compare what was found with the truth."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.cli.options import Quiet, Workers
from roclip_audit.cli.render import count, percent, print_facts
from roclip_audit.cli.scan import scan_and_ingest
from roclip_audit.cli.summary import WARNINGS, describe, next_commands, print_next
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import Reporter, make_reporter

if TYPE_CHECKING:
    from roclip_audit.core.run import RunFolder
    from roclip_audit.sanitize.scan import ScanConfig

EXAMPLES = """Examples:

\b
  roclip-audit demo
  roclip-audit demo --out /tmp/demo"""

DEMO = Path(__file__).resolve().parent.parent / "demo"
SEED = 0

TOP_SQL = """select round(suspicion, 3) as suspicion, round(fdr, 3) as fdr, caption, rival_caption
from suspicion order by risk desc, suspicion desc, uid limit 10"""

# AUROC is the chance that a planted pair stands before one that was left alone, by risk, ties counted half.
ATTACKS_SQL = """
    with scored as (
        select uid, attack, risk as score, fdr
        from suspicion join read_parquet('{truth}') as truth using (uid)
    )
    select planted.attack, count(distinct planted.uid), count(distinct planted.uid) filter (planted.fdr <= 0.1),
        avg((planted.score > other.score)::integer + 0.5 * (planted.score = other.score)::integer)::double
    from scored as planted, scored as other where planted.attack is not null and other.attack is null
    group by planted.attack order by planted.attack"""

LIST_SQL = """
    select count(*), coalesce(sum(1 - suspicion), 0)::double, count(*) filter (attack is null)
    from suspicion join read_parquet('{truth}') as truth using (uid) where fdr <= 0.1"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackResult:
    """How one planted attack came out.

    Attributes:
        n_found: planted pairs on the list cut at fdr <= 0.1.
        auroc: chance that a planted pair has more risk than one that was left alone, 0.5 to 1 if it works at all.
    """

    attack: str
    n_planted: int
    n_found: int
    auroc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ListResult:
    """The list cut at fdr <= 0.1: how many of it were promised to be sound, and how many were left alone in truth."""

    n_pairs: int
    n_promised: float
    n_measured: int


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for all that the demo writes.")] = Path("demo-run"),
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Plant attacks in a few hundred real pairs, scan, say what was found of them, and write a report.

    Everything is written to DIR; a second call does only what is missing there.
    """
    from roclip_audit.audit.findings import read_findings
    from roclip_audit.audit.report.page import write_report
    from roclip_audit.core.run import RunFolder

    reporter, run = make_reporter(quiet=quiet), RunFolder(out / "audit")
    planted = plant(out, reporter)
    report = scan_and_ingest(scan_config(planted / "shards", run, workers), reporter)
    print_facts(describe(report, read_findings(run), run.root), warnings=WARNINGS)
    attacks, flagged = measure(run, planted / "truth" / "truth.parquet")
    print_result(attacks, flagged)
    uid = print_most_suspicious(run)
    page = write_report(run, out / "report.html")
    print_facts([("report", f"{page.path} ({page.n_bytes / 1e6:.1f} MB): open it in a browser")])
    commands = next_commands([str(planted / "shards")], run.root, curated=out / "curated")
    show = f"roclip-audit show --audit {shlex.quote(str(run.root))} {uid} --image pair.png"
    print_next([*commands[1:-1], show, commands[-1], "roclip-audit scan YOUR_SHARDS/"])


def plant(out: Path, reporter: Reporter) -> Path:
    """Write the poisoned copy and its truth below ``out/planted``, unless a finished one is there.

    Raises:
        ConfigError: the demo's shards are not there.
    """
    from roclip_audit.core.staging import staged_folder
    from roclip_audit.train.attacks import read_plan
    from roclip_audit.train.planting.poison import poison

    planted = out / "planted"
    if planted.exists():
        return planted
    if not (DEMO / "shards").exists():
        raise ConfigError(f"{DEMO}: no demo shards here; run the demo from a checkout of roclip-audit")
    with staged_folder(planted) as folder:
        poison(
            [str(DEMO / "shards")],
            folder / "shards",
            plan=read_plan(DEMO / "plan.json"),
            seed=SEED,
            truth_path=folder / "truth",
            reporter=reporter,
        )
    return planted


def scan_config(shards: Path, run: RunFolder, workers: int | None) -> ScanConfig:
    """Return the settings of the demo's scan: the defaults."""
    from roclip_audit.core.parallel import default_workers
    from roclip_audit.sanitize.scan import ScanConfig

    return ScanConfig(shards=(str(shards),), out=run.root, seed=SEED, workers=workers or default_workers())


def measure(run: RunFolder, truth: Path) -> tuple[list[AttackResult], ListResult]:
    """Compare the database of a scan with the truth of what was planted."""
    from roclip_audit.audit.query import run_query

    path = str(truth).replace("'", "''")
    with run_query(run, ATTACKS_SQL.format(truth=path), allow_external=True) as result:
        attacks = [
            AttackResult(attack=attack, n_planted=n_planted, n_found=n_found, auroc=auroc)
            for attack, n_planted, n_found, auroc in result.rows()
        ]
    with run_query(run, LIST_SQL.format(truth=path), allow_external=True) as result:
        n_pairs, n_promised, n_measured = next(result.rows())
    return attacks, ListResult(n_pairs=n_pairs, n_promised=n_promised, n_measured=n_measured)


def print_result(attacks: list[AttackResult], flagged: ListResult) -> None:
    """Print a line per attack, and the promise of the list beside what became of it."""
    typer.echo(f"\n{'planted':<15} {'pairs':>6} {'found at fdr <= 0.1':>20} {'AUROC':>7}")
    for one in attacks:
        typer.echo(f"{one.attack:<15} {one.n_planted:>6} {one.n_found:>20} {one.auroc:>7.3f}")
    promised, measured = (n / max(flagged.n_pairs, 1) for n in (flagged.n_promised, flagged.n_measured))
    typer.echo(
        f"\nThe list of {count(flagged.n_pairs, 'pair')} promised {percent(promised)} pairs that were not planted, "
        f"and holds {percent(measured)}.\nSome of those may have been wrong all along: nobody has checked the library."
    )


def print_most_suspicious(run: RunFolder) -> str:
    """Print the ten most suspicious pairs by SQL; return the uid of the first."""
    from roclip_audit.audit.formats import write_table
    from roclip_audit.audit.query import run_query

    typer.echo(f"\n{TOP_SQL}\n")
    with run_query(run, TOP_SQL) as result:
        write_table(result, sys.stdout)
    with run_query(run, "select uid from suspicion order by risk desc, suspicion desc, uid limit 1") as result:
        uid, *_ = next(result.rows(), ("",))
    typer.echo()
    return str(uid)
