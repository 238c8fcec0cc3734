"""``roclip-audit curate``: shards without the pairs that a rule names; the removed ones lie in a quarantine."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.cli.options import Json, Quiet, Shards
from roclip_audit.cli.render import count, print_facts, print_json
from roclip_audit.core.errors import EXIT_OK, EXIT_UNREADABLE
from roclip_audit.core.progress import Reporter, make_reporter

if TYPE_CHECKING:
    from roclip_audit.audit.select import SelectionReport
    from roclip_audit.core.run import RunFolder
    from roclip_audit.core.shards import Shard
    from roclip_audit.sanitize.curate import CurateReport

EXAMPLES = """Examples:

\b
  roclip-audit curate shards/ curated/ --where "fdr <= 0.1" --dry-run
  roclip-audit curate shards/ curated/ --where "fdr <= 0.1"
  roclip-audit curate shards/ curated/ --where "suspicion > 0.9 or domain = 'evil.example'" --remove-unscored"""


def curate(
    shards: Shards,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the curated shards.")],
    where: Annotated[
        str, typer.Option("--where", metavar="SQL", help="Condition over the view suspicion; true = remove.")
    ],
    audit: Annotated[Path, typer.Option("--audit", metavar="DIR", help="Run folder of the scan.")] = Path("audit"),
    remove_unscored: Annotated[
        bool, typer.Option("--remove-unscored", help="Also remove pairs without evidence (see problems).")
    ] = False,
    pairs_per_shard: Annotated[int, typer.Option(min=1, help="Most pairs in a new shard.")] = 10_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write shards without the pairs that a condition names, every byte of the others as it was.

    The removed pairs go to OUT/quarantine with the reason. A person's decision (keep, drop) beats the condition. Pairs
    without evidence stay unless --remove-unscored.
    """
    from roclip_audit.core.run import RunFolder
    from roclip_audit.core.shards import expand_shards

    selected, curated = select_and_curate(
        RunFolder(audit),
        expand_shards(shards),
        out,
        where=where,
        remove_unscored=remove_unscored,
        pairs_per_shard=pairs_per_shard,
        dry_run=dry_run,
        reporter=make_reporter(quiet=quiet),
    )
    if as_json:
        print_json({"selection": asdict(selected), "curation": asdict(curated), "dry_run": dry_run})
    else:
        print_facts(describe(selected, curated, out, dry_run=dry_run))
    raise typer.Exit(EXIT_UNREADABLE if curated.n_unread_bytes else EXIT_OK)


def select_and_curate(
    run: RunFolder,
    shards: tuple[Shard, ...],
    out: Path,
    *,
    where: str,
    remove_unscored: bool,
    pairs_per_shard: int,
    dry_run: bool,
    reporter: Reporter,
) -> tuple[SelectionReport, CurateReport]:
    """Turn the rule into a selection and carry it out on the scanned shards."""
    from roclip_audit.audit.manifest import read_manifest
    from roclip_audit.audit.select import write_selection
    from roclip_audit.sanitize.curate import curate as carry_out

    with tempfile.TemporaryDirectory(prefix="roclip-audit-") as folder:
        selection = Path(folder) / "selection.parquet"
        selected = write_selection(run, where, selection, remove_unscored=remove_unscored)
        with reporter.stage("curate", 0 if dry_run else selected.n_pairs) as progress:
            curated = carry_out(
                shards,
                selection,
                out,
                pairs_per_shard=pairs_per_shard,
                dry_run=dry_run,
                where=where,
                fingerprints={shard.name: shard.fingerprint for shard in read_manifest(run).shards},
                progress=progress,
            )
    return selected, curated


def describe(selected: SelectionReport, curated: CurateReport, out: Path, *, dry_run: bool) -> list[tuple[str, str]]:
    """Return both reports as lines of name and value."""
    facts = [
        ("kept", f"{count(curated.n_kept, 'pair')} of {curated.n_pairs:,}"),
        ("removed", f"{count(curated.n_removed, 'pair')}, of them about {selected.expected_sound_removed:.0f} sound"),
        *(("", f"{n:,} for {reason}") for reason, n in curated.reasons.items()),
        ("left", f"about {selected.expected_mismatched_kept:.0f} mismatched among the kept"),
    ]
    if selected.n_spared_by_decision:
        facts.append(("spared", f"{count(selected.n_spared_by_decision, 'pair')} by a decision to keep"))
    if curated.n_unread_bytes:
        facts.append(("unread", f"{curated.n_unread_bytes:,} bytes after damage, neither kept nor in the quarantine"))
    facts.extend(("note", note) for note in curated.notes)
    facts.append(("nothing written", "--dry-run") if dry_run else ("written", str(out)))
    return facts
