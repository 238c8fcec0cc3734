"""``roclip-audit bench``: plant attacks, scan, run the literature's detectors, and measure all of them alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.cli.options import Json, Quiet, Shards, Workers
from roclip_audit.cli.render import print_facts, print_json
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.progress import make_reporter

if TYPE_CHECKING:
    from roclip_audit.audit.leaderboard.rows import Row
    from roclip_audit.train.attacks import AttackPlan

EXAMPLES = """Examples:

\b
  roclip-audit bench shards/ --out bench
  roclip-audit bench shards/ --out bench --rate 0.003 --rate 0.006 --seed 0 --seed 1 --seed 2
  roclip-audit bench shards/ --out bench -a badnets_fixed:banana:0.006 -a mismatch::0.05 --detector risk --detector gmm

Interrupted? The same command resumes. Further rates, seeds and encoders join the same table.

The peers need scikit-learn: pip install 'roclip-audit[bench]'."""


def bench(
    shards: Shards,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the sweep, made or resumed.")],
    attack: Annotated[
        list[str] | None,
        typer.Option("--attack", "-a", help="NAME:TARGET[:RATE[:key=value,...]]; repeatable [every attack]."),
    ] = None,
    plan: Annotated[Path | None, typer.Option(help="JSON list of attacks; added to --attack.")] = None,
    rate: Annotated[
        list[float] | None,
        typer.Option(
            min=0, max=1, help="Share of the pairs that each attack takes; repeatable [0.005, or the plan's]."
        ),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Of planting and scan; repeatable [0].")] = None,
    noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of plain mismatch beside the attacks of the default plan.")
    ] = 0.05,
    encoder: Annotated[str, typer.Option(metavar="SPEC", help="As for scan.")] = "embedded",
    detector: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A column of evidence or a peer; repeatable [all].")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the tables call the data set [name of the folder].")] = None,
    replicates: Annotated[int, typer.Option(metavar="N", min=0, help="Bootstrap replicates for the intervals.")] = 500,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the poisoned copies and the embeddings.")] = False,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure detection: attacks x rates x seeds, our rankings and the literature's detectors on the same pairs.

    Each rate and seed is one poisoned copy that holds all attacks, on different pairs. Writes DIR/leaderboard.md,
    leaderboard.parquet (all numbers, with intervals) and leaderboard.svg.
    """
    from roclip_audit.cli.sweep import BenchConfig, sweep
    from roclip_audit.core.parallel import default_workers
    from roclip_audit.train.attacks import read_plan

    config = BenchConfig(
        shards=tuple(shards),
        out=out,
        data=name or data_name(shards),
        plan=(*(attack_of(text, rate, noise) for text in attack or []), *(read_plan(plan) if plan is not None else ())),
        rates=tuple(rate or ()),
        noise=noise,
        seeds=tuple(seed or (0,)),
        encoder=encoder,
        detectors=tuple(detector or ()),
        workers=workers or default_workers(),
        n_replicates=replicates,
        keep=keep,
    )
    written, rows = sweep(config, make_reporter(quiet=quiet))
    if as_json:
        print_json({"table": written.table, "numbers": written.numbers, "figure": written.figure, "rows": digest(rows)})
    else:
        print_facts([*auroc_lines(rows), ("table", str(written.table)), ("figure", str(written.figure))])


def attack_of(text: str, rates: list[float] | None, noise: float) -> AttackPlan:
    """Read an attack; one that names no rate takes those of the sweep, plain mismatch that of the noise."""
    from roclip_audit.cli.sweep import DEFAULT_RATE
    from roclip_audit.train.attacks import AttackPlan
    from roclip_audit.train.planting.bench_plan import NOISE

    is_noise = text.partition(":")[0].strip() == NOISE
    return AttackPlan.parse(text, rate=noise if is_noise else (rates or [DEFAULT_RATE])[0])


def data_name(shards: list[str]) -> str:
    """Return a name for a data set: that of its folder, or of the one above if that is only called shards."""
    path = Path(shards[0].split("::")[0].removeprefix("@")).resolve()
    if path.suffix == ".tar" or any(sign in path.name for sign in "{*"):
        path = path.parent
    name = path.parent.name if path.name in {"shards", "data", "train"} else path.name
    if not name:
        raise ConfigError("the data set needs a name: --name NAME")
    return name


def digest(rows: list[Row]) -> list[dict[str, object]]:
    """Return every number over seeds, as JSON values."""
    from roclip_audit.audit.leaderboard.summary import summarise

    return [
        {
            "data": setting.data,
            "encoder": setting.encoder,
            "rate": setting.rate,
            "detector": detector,
            "attack": attack,
            "metric": metric,
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "seeds": found.n_seeds,
        }
        for (setting, detector, attack, metric), found in summarise(rows).items()
    ]


def auroc_lines(rows: list[Row]) -> list[tuple[str, str]]:
    """Return a line per setting and attack: AUROC of risk and of suspicion, and of the best peer."""
    from roclip_audit.audit.leaderboard.summary import summarise
    from roclip_audit.sanitize.peers import PEERS

    found: dict[tuple[str, str], dict[str, float]] = {}
    for (setting, detector, attack, metric), one in summarise(rows).items():
        if metric == "auroc":
            where = f"{setting.data}, {setting.encoder}, rate {setting.rate:g}"
            found.setdefault((where, attack), {})[detector] = one.value
    lines: list[tuple[str, str]] = []
    for (where, attack), values in found.items():
        ours = [f"{name} {values[name]:.3f}" for name in ("risk", "suspicion") if name in values]
        theirs = {name: value for name, value in values.items() if name in PEERS}
        best = max(theirs, key=lambda name: theirs[name], default=None)
        peer = [f"best peer {theirs[best]:.3f} ({best})"] if best else []
        lines.append((f"{where}, {attack}", "AUROC " + ", ".join([*ours, *peer])))
    return lines
