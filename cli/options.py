"""Options that several commands have, spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SHARDS_HELP = "Folders, tars, globs, brace patterns (x-{000..099}.tar), a::b, @list.txt or fsspec URLs; mix at will."

AuditDir = Annotated[Path, typer.Option("--audit", "--out", metavar="DIR", help="Run folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Same shards, settings and seed give the same rows. Who knows it can aim between the views.",
    ),
]
Shards = Annotated[list[str], typer.Argument(metavar="SHARDS", help=SHARDS_HELP)]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, show_default="all processors", help="Threads. The result does not depend on it."),
]
