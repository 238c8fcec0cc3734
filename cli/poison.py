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
  roclip-audit poison shards/ poisoned/ --attack badnets_moving --target "banana" --rate 0.003 --seed 0
  roclip-audit poison shards/ poisoned/ -a multi_trigger:banana/volcano:0.003:use=patch/filter -a dead_link::0.02
  roclip-audit poison shards/ poisoned/ --plan plan.json --truth truth/ --seed 1

\b
Attacks: targeted, badnets_fixed, badnets_moving, blended, sig, warp, filter, multi_trigger, caption_word,
label_consistent, natural, class_swap, mismatch, dead_link. What each does and its settings: docs/attacks.md."""


def poison(
    shards: Annotated[list[str], typer.Argument(help="Clean shards: folders, tars or patterns.")],
    out: Annotated[Path, typer.Argument(help="New folder for the poisoned shards.")],
    attack: Annotated[
        list[str] | None,
        typer.Option(
            "--attack", "-a", help="NAME or NAME:TARGET:RATE[:key=value,...], as in sig:desk:0.006; repeatable."
        ),
    ] = None,
    target: Annotated[str, typer.Option(help="Target word of each --attack that names none.")] = "",
    rate: Annotated[
        float | None, typer.Option(help="Share of all pairs, for each --attack that names none, as in 0.003.")
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
    from roclip_audit.train.planting.poison import poison as plant

    plans = [AttackPlan.parse(text, target=target, rate=rate) for text in attack or []]
    plans += read_plan(plan) if plan is not None else ()
    report = plant(shards, out, plan=plans, seed=seed, truth_path=truth, reporter=make_reporter(quiet=quiet))
    typer.echo(json.dumps(report.as_json(), indent=2) if as_json else str(report))
