"""``roclip-audit show``: one pair with all its evidence, and a contact sheet of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from roclip_audit.cli.options import Json
from roclip_audit.core.terminal import say

EXAMPLES = """Examples:

\b
  roclip-audit show 3f2a91
  roclip-audit show 00000.tar/000000017 --image pair.png
  roclip-audit show 3f2a91 --json"""

WIDEST = 120


def show(
    pair: Annotated[str, typer.Argument(metavar="PAIR", help="uid, its first characters, or SHARD/KEY.")],
    audit: Annotated[Path, typer.Option("--audit", metavar="DIR", help="Run folder.")] = Path("audit"),
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Also write a contact sheet: .png, .jpg or .webp.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one pair: its evidence in words, the captions that beat its own, its nearest pairs.

    The contact sheet adds the pictures, read out of the shards; for it these must lie where they were scanned.
    """
    from roclip_audit.audit.show import report_json, write_report
    from roclip_audit.audit.show import show as report_on
    from roclip_audit.core.run import RunFolder

    report = report_on(RunFolder(audit), pair)
    if as_json:
        typer.echo(report_json(report))
    else:
        write_report(report, sys.stdout, width=min(WIDEST, shutil.get_terminal_size().columns))
    if image is not None:
        from roclip_audit.audit.contact_sheet import write_sheet

        write_sheet(RunFolder(audit), report, image)
        say(f"wrote {image}")
