"""``roclip-audit review``: look at pairs and decide about them, on a local web page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roclip_audit.core.terminal import say

EXAMPLES = """Examples:

\b
  roclip-audit review
  roclip-audit review --audit run --open --reviewer anna
  roclip-audit curate shards/ curated/ --audit run --where "fdr <= 0.1"

A person's verdict beats the condition of curate."""


def review(
    audit: Annotated[Path, typer.Option("--audit", metavar="DIR", help="Run folder.")] = Path("audit"),
    reviewer: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="your user name", help="Who decides.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow a --host that other machines can reach, without encryption.")
    ] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Serve a page on which people look at pairs and decide: keep or drop.

    The pictures are read out of the shards, which must lie where they were scanned. Decisions go to decisions.jsonl in
    the run folder, nothing is ever overwritten, and `sql` and `curate` honour them at once.
    """
    from roclip_audit.audit.review.server import ReviewSettings, serve
    from roclip_audit.core.run import RunFolder

    def ready(url: str) -> None:
        if expose:
            say(f"roclip-audit: warning: whoever reaches {host} and knows the address below can read and decide")
        typer.echo(f"review of {audit}: {url}\nCtrl-C stops it")
        if open_browser:
            typer.launch(url)

    serve(RunFolder(audit), ReviewSettings(host=host, port=port, expose=expose, reviewer=reviewer), ready=ready)
