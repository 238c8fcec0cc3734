"""``roclip-audit scan``: give every pair a suspicion, and every list that is cut from it an error rate."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.cli.options import Json, Quiet, Seed, Shards, Workers
from roclip_audit.cli.render import print_facts, print_json
from roclip_audit.cli.summary import WARNINGS, as_json_value, describe, n_unread, next_commands, print_next
from roclip_audit.core.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREADABLE
from roclip_audit.core.progress import Reporter, make_reporter

if TYPE_CHECKING:
    from roclip_audit.sanitize.scan import ScanConfig, ScanReport

EXAMPLES = """Examples:

\b
  roclip-audit scan shards/
  roclip-audit scan 'crawl/{00000..00099}.tar' --out audit-crawl
  roclip-audit scan shards/ --encoder ViT-B-32/laion2b_s34b_b79k
  roclip-audit scan shards/ --fail-on 0.05 --json > scan.json

Interrupted? The same command resumes.

Exit codes: 0 ok; 1 more mismatched than --fail-on; 2 usage or configuration; 3 finished, but some shards or pairs
could not be read; 4 run folder locked or damaged; 130 interrupted."""


class Contest(StrEnum):
    """How wins are found."""

    CLOSED = "closed"
    SAMPLED = "sampled"


def scan(
    shards: Shards,
    out: Annotated[Path, typer.Option("--out", "--audit", metavar="DIR", help="Run folder, made or resumed.")] = Path(
        "audit"
    ),
    encoder: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="embedded (pretrained, from pip, no network), or an open_clip model: ARCH/TAG, hf-hub:ORG/NAME, "
            "local-dir:PATH, ARCH@FILE or a checkpoint; embedded+ before one of these asks both.",
        ),
    ] = "embedded",
    contest: Annotated[
        Contest,
        typer.Option(help="closed: exact win probabilities from the rank; sampled: draw the pools, as the paper does."),
    ] = Contest.CLOSED,
    pool_size: Annotated[int, typer.Option(metavar="N", min=1, help="Captions that the own one has to beat.")] = 256,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="Pools.")] = 32,
    folds: Annotated[
        int, typer.Option(metavar="N", min=2, help="A pair is judged by heads that never saw its fold.")
    ] = 5,
    caption_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            show_default=False,
            help="Key of the caption in the json; default: txt, then caption or text.",
        ),
    ] = None,
    max_pixels: Annotated[int, typer.Option(metavar="N", min=1, help="Larger images are not decoded.")] = 50_000_000,
    seed: Seed = 0,
    workers: Workers = None,
    fail_on: Annotated[
        float | None,
        typer.Option(metavar="SHARE", min=0, max=1, help="End with 1 if a larger share of the pairs is mismatched."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Scan shards: how suspicious is every pair, and how sure is that?

    Needs no labels, no GPU and no network. Writes DIR/audit.duckdb, which `roclip-audit sql` queries. Finished work is
    kept: the same command goes on where it stopped, and only what a changed shard or setting concerns is done again.
    """
    from roclip_audit.audit.findings import read_findings
    from roclip_audit.core.parallel import default_workers
    from roclip_audit.core.run import RunFolder
    from roclip_audit.sanitize.scan import ScanConfig

    config = ScanConfig(
        shards=tuple(shards),
        out=out,
        encoder=encoder,
        seed=seed,
        workers=workers or default_workers(),
        contest=contest.value,
        pool_size=pool_size,
        rounds=rounds,
        folds=folds,
        caption_key=caption_key,
        max_pixels=max_pixels,
    )
    report = scan_and_ingest(config, make_reporter(quiet=quiet))
    findings = read_findings(RunFolder(out))
    if as_json:
        print_json(as_json_value(report, findings, out))
    else:
        print_facts(describe(report, findings, out), warnings=WARNINGS)
        print_next(next_commands(shards, out))
    raise typer.Exit(exit_code(report, fail_on))


def scan_and_ingest(config: ScanConfig, reporter: Reporter) -> ScanReport:
    """Scan, then build the database of the run, holding the run folder all the while."""
    from roclip_audit.audit.ingest import ingest
    from roclip_audit.core.run import RunFolder
    from roclip_audit.sanitize import scan as sanitize

    run = RunFolder(config.out)
    with run.locked():
        report = sanitize.scan(config, reporter)
        ingest(run)
    return report


def exit_code(report: ScanReport, fail_on: float | None) -> int:
    """Return what the command ends with; what could not be read comes before what was found."""
    if n_unread(report):
        return EXIT_UNREADABLE
    if fail_on is not None and report.contamination.estimate > fail_on:
        return EXIT_FINDINGS
    return EXIT_OK
