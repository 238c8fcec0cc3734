"""``roclip-audit train``: train a CLIP model on shards, with the RoCLIP defence or without."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.cli.options import Json, Quiet, Shards, Workers
from roclip_audit.cli.render import count, print_facts, print_json
from roclip_audit.core.errors import EXIT_OK, EXIT_UNREADABLE, ConfigError, StoreError
from roclip_audit.core.progress import Reporter, duration, make_reporter
from roclip_audit.core.schema import FLAG_FDR

if TYPE_CHECKING:
    from roclip_audit.core.shards import Shard
    from roclip_audit.train.config import Recipe, TrainConfig
    from roclip_audit.train.data.pairs import PairTable
    from roclip_audit.train.trainer import TrainReport

FLAGGED = f"fdr <= {FLAG_FDR}"
USED_BY: Mapping[str, tuple[str, ...]] = {
    "match_every": ("roclip", "roclip --strict"),
    "match_after": ("roclip",),
    "contest": ("roclip",),
    "pool_share": ("roclip", "roclip --strict", "safeclip"),
}
"""Settings that not every method looks at."""
EXAMPLES = """Examples:

\b
  roclip-audit train 'curated/{00000..00009}.tar' --robust --out run
  roclip-audit train shards/ --audit audit --where "fdr <= 0.1" --robust --out run
  roclip-audit train shards/ --method clip --recipe paper --model ViT-B-32 --out run
  roclip-audit train shards/ --method cleanclip --from local-dir:run/model --lr 1e-5 --epochs 10 --out cleaned
  torchrun --nproc-per-node 8 -m roclip_audit.cli.main train shards/ --robust --out run

Interrupted? The same command with --resume goes on, to the same result.

Then: roclip-audit eval run, or roclip-audit scan other-shards/ --encoder local-dir:run/model

Exit codes: 0 ok; 2 usage or configuration, or the training diverged; 3 finished, but some pictures could not be read;
4 run folder locked or damaged; 130 interrupted."""


class Method(StrEnum):
    """What is trained."""

    CLIP = "clip"
    ROCLIP = "roclip"
    SAFECLIP = "safeclip"
    CLEANCLIP = "cleanclip"


class RecipeName(StrEnum):
    """Where hyper-parameters come from."""

    AUTO = "auto"
    PAPER = "paper"
    SMALL = "small"


class Precision(StrEnum):
    """Of the towers."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class Cache(StrEnum):
    """Where decoded pictures are."""

    AUTO = "auto"
    STREAM = "stream"
    MEMORY = "memory"


def train(
    shards: Shards,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="New folder for the run.")],
    robust: Annotated[bool, typer.Option("--robust", help="The RoCLIP defence: --method roclip.")] = False,
    method: Annotated[Method | None, typer.Option(show_default="clip", help="Loss; see docs/training.md.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="RoCLIP as its published code runs, defects included.")
    ] = False,
    recipe: Annotated[
        RecipeName, typer.Option(help="Hyper-parameters: auto fits them to data and machine, paper are RoCLIP's.")
    ] = RecipeName.AUTO,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="ARCH",
            show_default="the recipe's",
            help="Architecture of open_clip, resnet-64, vit-64, resnet-32, vit-32, or a JSON file.",
        ),
    ] = None,
    start_from: Annotated[
        str, typer.Option("--from", metavar="CHECKPOINT", show_default=False, help="Train a model further.")
    ] = "",
    audit: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Run folder of a scan of these shards: leave pairs out."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(metavar="SQL", show_default=FLAGGED, help="With --audit: which pairs to leave out, as in curate."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(metavar="N", min=1, show_default="the recipe's", help="Passes over the pairs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=2, show_default="the recipe's", help="Of all processes together.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(metavar="X", show_default="the recipe's", help="Highest learning rate.")
    ] = None,
    warmup: Annotated[
        float | None,
        typer.Option(metavar="SHARE", show_default="the recipe's", help="Of the run, in which the rate rises."),
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(metavar="X", show_default="the recipe's", help="Of AdamW.")
    ] = None,
    match_every: Annotated[
        int | None, typer.Option(metavar="K", min=1, show_default="the recipe's", help="Match in every K-th epoch.")
    ] = None,
    match_after: Annotated[
        float | None,
        typer.Option(metavar="SHARE", show_default="the recipe's", help="Of the run, before the first match."),
    ] = None,
    pool_share: Annotated[
        float | None,
        typer.Option(metavar="SHARE", show_default="the recipe's", help="Caption pool, share of the pairs."),
    ] = None,
    contest: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            show_default="the recipe's",
            help="Of the pool may be nearer than a caption that RoCLIP trains on; 0 asks nothing.",
        ),
    ] = None,
    no_augment: Annotated[
        bool, typer.Option("--no-augment", help="No strong image views and no text augmentation.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where RUN was interrupted.")] = False,
    caption_key: Annotated[
        str | None, typer.Option(metavar="KEY", show_default=False, help="Key of the caption in the json, as in scan.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Same pairs, settings and seed: same model.")] = 0,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where it is faster.")] = Precision.AUTO,
    cache: Annotated[Cache, typer.Option(help="Keep decoded pictures in memory (auto: up to 4 GB).")] = Cache.AUTO,
    device: Annotated[str, typer.Option(metavar="NAME", help="auto, cpu or cuda.")] = "auto",
    compile_towers: Annotated[bool, typer.Option("--compile", help="Let torch compile the model.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard as well.")] = False,
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a CLIP model on curated shards, or on raw shards filtered through an audit.

    --robust trains with RoCLIP: in every few epochs (--match-every) each image is drawn to the nearest caption of a
    large, changing pool instead of to its own, so that a planted caption loses its hold.
    """
    from roclip_audit.core.parallel import default_workers
    from roclip_audit.core.shards import expand_shards
    from roclip_audit.train.config import TrainConfig
    from roclip_audit.train.trainer import train as run

    method_name = chosen_method(method, robust=robust, strict=strict)
    changes = {"model": model, "epochs": epochs, "batch_size": batch_size, "lr": lr, "warmup": warmup}
    changes |= {"weight_decay": weight_decay, "match_every": match_every, "match_after": match_after}
    changes |= {"pool_share": pool_share, "contest": contest}
    refuse_unused(changes, f"{method_name} --strict" if strict else method_name, start_from)
    reporter = make_reporter(quiet=quiet or os.environ.get("RANK", "0") != "0")
    table = read_table(expand_shards(shards), audit, where, caption_key, reporter)
    config = TrainConfig(
        out=out,
        recipe=chosen_recipe(recipe.value, len(table), device, changes),
        method=method_name,
        strict=strict,
        augment=not no_augment,
        start_from=start_from,
        seed=seed,
        precision=precision.value,
        cache=cache.value,
        device=device,
        workers=workers or default_workers(),
        compile=compile_towers,
        tensorboard=tensorboard,
    )
    report = run(config, table, resume=resume, reporter=reporter)
    if os.environ.get("RANK", "0") != "0":
        return  # with 0: torchrun takes any other code for a failure, and stops the process that writes the model
    if as_json:
        recipe_json = config.recipe.as_json() | {"model": start_from or config.recipe.model}
        print_json(report.as_json() | {"left_out": dict(table.left_out), "recipe": recipe_json})
    else:
        print_facts(describe(report, table, config))
    raise typer.Exit(EXIT_UNREADABLE if report.n_unreadable else EXIT_OK)


def chosen_method(method: Method | None, *, robust: bool, strict: bool) -> str:
    """Return the name of the method that the options mean.

    Raises:
        ConfigError: they contradict each other.
    """
    if robust and method not in (None, Method.ROCLIP):
        raise ConfigError(f"--robust is RoCLIP; it cannot be combined with --method {method}")
    chosen = Method.ROCLIP if robust else method or Method.CLIP
    if strict and chosen is not Method.ROCLIP:
        raise ConfigError("--strict is a mode of RoCLIP; add --method roclip")
    if strict and robust:
        raise ConfigError("--robust means RoCLIP with the defects of its code mended; for those say --method roclip")
    return chosen.value


def refuse_unused(changes: Mapping[str, object], method: str, start_from: str) -> None:
    """Refuse settings that were given and would do nothing.

    Args:
        changes: what the user set, None where nothing; all of USED_BY are there.
        method: with its mode, as in USED_BY.
        start_from: the model to train further, if any.

    Raises:
        ConfigError: there is one.
    """
    if start_from and changes["model"] is not None:
        raise ConfigError("--model: a model that is trained further (--from) keeps its architecture; leave --model out")
    for name, users in USED_BY.items():
        if changes[name] is not None and method not in users:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option}: --method {method} does not use it, only {', '.join(users)}; leave it out")


def chosen_recipe(name: str, n_pairs: int, device: str, changes: Mapping[str, object]) -> Recipe:
    """Return a recipe for the data and the machine, with what the user set."""
    from roclip_audit.train.distributed import choose_device
    from roclip_audit.train.recipes import find_recipe

    recipe = find_recipe(name, n_pairs, has_gpu=choose_device(device).type == "cuda")
    return replace(recipe, **{key: value for key, value in changes.items() if value is not None})  # type: ignore[arg-type]


def read_table(
    shards: tuple[Shard, ...], audit: Path | None, where: str | None, caption_key: str | None, reporter: Reporter
) -> PairTable:
    """Read the pairs of the shards, without those that a rule over a scan leaves out."""
    from roclip_audit.train.data.pairs import read_pairs

    if audit is None:
        if where is not None:
            raise ConfigError("--where needs --audit, the run folder of a scan of these shards")
        return read_pairs(shards, caption_key=caption_key, reporter=reporter)
    from roclip_audit.audit.manifest import read_manifest
    from roclip_audit.audit.select import write_selection
    from roclip_audit.core.run import RunFolder

    run = RunFolder(audit)
    scanned = {shard.name: shard.fingerprint for shard in read_manifest(run).shards}
    for shard in shards:
        if scanned.get(shard.name) != shard.fingerprint:
            raise StoreError(f"{shard.path}: is not as the scan in {audit} saw it; scan these shards again")
    with tempfile.TemporaryDirectory(prefix="roclip-audit-") as folder:
        selection = Path(folder) / "selection.parquet"
        write_selection(run, where or FLAGGED, selection)
        return read_pairs(shards, selection=selection, caption_key=caption_key, reporter=reporter)


def describe(report: TrainReport, table: PairTable, config: TrainConfig) -> list[tuple[str, str]]:
    """Return the report as lines of name and value."""
    left_out = sum(table.left_out.values())
    why = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in sorted(table.left_out.items()))
    recipe, begun = config.recipe, f"from {config.start_from}" if config.start_from else config.recipe.model
    trained = f"{begun}, {config.method}, {count(recipe.epochs, 'epoch')}, batches of {recipe.batch_size:,}"
    facts = [
        ("pairs", f"{len(table):,}" + (f", {left_out:,} left out ({why})" if left_out else "")),
        ("trained", f"{trained}, {count(report.n_steps, 'step')} in {duration(report.seconds)}"),
        ("speed", f"{report.pairs_per_s:,.0f} pairs/s"),
    ]
    if report.loss is not None:
        facts.append(("loss", f"{report.loss:.3f} in the last epoch"))
    if report.n_unreadable:
        facts.append(("unreadable", f"{count(report.n_unreadable, 'picture')} could not be decoded, over all epochs"))
    return [
        *facts,
        ("model", str(report.model)),
        ("plot", str(report.out / "loss.svg")),
        ("next", f"roclip-audit eval {report.out} --data LABELLED"),
    ]
