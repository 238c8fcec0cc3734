"""`roclip-audit poison`: plant known attacks in a copy of real shards, with ground truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from roclip_audit.core.progress import make_reporter

EXAMPLES = """Examples:

\b
  roclip-audit poison shards/ poisoned/ -a targeted:bird:0.006 -a badnets_fixed:banana:0.006
  roclip-audit poison shards/ poisoned/ --plan plan.json --truth truth/ --seed 1"""


def poison(
    shards: Annotated[list[str], typer.Argument(help="Clean shards: folders, tars or patterns.")],
    out: Annotated[Path, typer.Argument(help="New folder for the poisoned shards.")],
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", "-a", help="NAME:TARGET:RATE[:key=value,...], as in sig:desk:0.006; repeatable."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="JSON list of attacks; added to --attack.")] = None,
    truth: Annotated[Path | None, typer.Option(help="Folder for the truth, outside of OUT [OUT-truth].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Plant attacks in a copy of real shards, and write down where they are.

    Clean and planted pairs are encoded alike and shuffled together, so that only content tells them apart.

    The folder OUT-truth gets the table that says which is which, and the triggers. No scan reads it.
    """
    from roclip_audit.train.attacks import AttackPlan, read_plan
    from roclip_audit.train.poison import poison as plant

    plans = [*map(AttackPlan.parse, attack or []), *(read_plan(plan) if plan is not None else ())]
    report = plant(shards, out, plan=plans, seed=seed, truth_path=truth, reporter=make_reporter(quiet=quiet))
    typer.echo(json.dumps(report.as_json(), indent=2) if as_json else str(report))
