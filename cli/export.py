"""``roclip-audit export``: the results in the forms that other tools read."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.audit.export import EXPORTERS
from roclip_audit.audit.export.base import MAX_IMAGES
from roclip_audit.cli.options import Json, Quiet
from roclip_audit.cli.render import count, print_facts, print_json
from roclip_audit.core.errors import EXIT_OK, EXIT_UNREADABLE

if TYPE_CHECKING:
    from roclip_audit.audit.export import ExportReport

_FORMATS = "\n".join(f"  {name:<15} {member.summary}" for name, member in EXPORTERS.items())
EXAMPLES = f"""Formats:

\b
{_FORMATS}

Examples:

\b
  roclip-audit export csv flagged.csv --where "fdr <= 0.1"
  roclip-audit export datacomp keep.npy --remove "fdr <= 0.1"
  roclip-audit export clip-retrieval embeddings --space encoder
  roclip-audit export viewer pairs.parquet --images pictures --where "fdr <= 0.2"

docs/export.md shows how the other tools read them. Nothing is replaced without --force."""


class Space(StrEnum):
    """Which vectors of a pair."""

    ENCODER = "encoder"
    ALIGNED = "aligned"


def export(
    format: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(EXPORTERS)}.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to make.")],
    audit: Annotated[Path, typer.Option("--audit", metavar="DIR", help="Run folder.")] = Path("audit"),
    where: Annotated[
        str | None,
        typer.Option("--where", metavar="SQL", help="Condition over the view suspicion; true = export. Default: all."),
    ] = None,
    remove: Annotated[
        str | None,
        typer.Option("--remove", metavar="SQL", help="datacomp: rule as in curate --where; true = leave out."),
    ] = None,
    remove_unscored: Annotated[
        bool, typer.Option("--remove-unscored", help="datacomp, with --remove: also leave out pairs without evidence.")
    ] = False,
    space: Annotated[
        Space | None,
        typer.Option(help="clip-retrieval: features of the encoder (the default), or the aligned space of the scan."),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="viewer: new folder for the pictures, drawn anew as PNG.")
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default=str(MAX_IMAGES), help="viewer: most pictures.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="csv: no ' before text that spreadsheets run as formula.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output of an earlier export.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the results for other tools: scores, keep lists, embeddings, pictures."""
    from roclip_audit.audit.export import ExportRequest
    from roclip_audit.audit.export import export as write
    from roclip_audit.core.progress import make_reporter
    from roclip_audit.core.run import RunFolder

    request = ExportRequest(
        out=out,
        where=where,
        remove=remove,
        remove_unscored=remove_unscored,
        space=None if space is None else space.value,
        images=images,
        max_images=max_images,
        raw=raw,
        force=force,
    )
    report = write(RunFolder(audit), format, request, make_reporter(quiet=quiet))
    if as_json:
        print_json(asdict(report))
    else:
        print_facts(describe(report))
    raise typer.Exit(EXIT_UNREADABLE if report.n_unreadable else EXIT_OK)


def describe(report: ExportReport) -> list[tuple[str, str]]:
    """Return the report as lines of name and value."""
    lines = [("written", f"{report.out}, {count(report.n_pairs, 'pair')}, {report.n_bytes:,} bytes"), *report.facts]
    if report.n_unreadable:
        lines.append(("unreadable", f"{count(report.n_unreadable, 'picture')}: filepath is null, image_note says why"))
    if not report.n_pairs:
        lines.append(("note", "no pair is selected"))
    return [*lines, *(("note", note) for note in report.notes)]
