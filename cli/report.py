"""``roclip-audit report``: one HTML page about a run, to look at, to print, to hand on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roclip_audit.cli.options import Json
from roclip_audit.cli.render import count, print_facts, print_json

EXAMPLES = """Examples:

\b
  roclip-audit report
  roclip-audit report --audit run --out run.html
  roclip-audit report --thumbnails 200 --out long.html

docs/report.md explains every part of the page."""


def report(
    audit: Annotated[Path, typer.Option("--audit", metavar="DIR", help="Run folder.")] = Path("audit"),
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The page.")] = Path("report.html"),
    thumbnails: Annotated[int, typer.Option(metavar="N", min=0, help="Pairs to show with their picture.")] = 60,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a run: how much is mismatched, what lists promise, what to look at.

    The page holds its pictures, loads nothing, runs nothing, prints well. Pictures are read out of the shards, which
    must lie where they were scanned; where one cannot be had, the page says why.
    """
    from roclip_audit.audit.report.page import write_report
    from roclip_audit.core.run import RunFolder

    written = write_report(RunFolder(audit), out, thumbnails=thumbnails)
    if as_json:
        print_json({"path": str(written.path), "bytes": written.n_bytes, "pictures": written.n_pictures,
                    "absent": written.n_absent})  # fmt: skip
        return
    absent = f", {count(written.n_absent, 'picture')} not to be had (the page says why)" if written.n_absent else ""
    print_facts([("report", f"{written.path} ({written.n_bytes / 1e6:.1f} MB{absent})")])
