"""The claims of RoCLIP's paper at a scale that can be run: plant attacks, train with each defence, measure.

    python benchmarks/data_icon_classes.py package data/icons --pairs 60000
    python benchmarks/bench_defence.py data/icons --scale cpu-small --jobs 2  # 6,000 pairs
    python benchmarks/bench_defence.py data/icons --scale cpu      # 10,000 pairs, 32 pixels; ten minutes an arm
    python benchmarks/bench_defence.py data/icons --scale cpu-50k  # 50,000 pairs; an hour an arm and more
    python benchmarks/bench_defence.py data/icons --scale gpu      # one GPU: all pairs, 64 pixels, bf16

For every seed: draw pairs, plant targeted poisoning and a patch backdoor, scan, then train each arm on the same
poisoned pairs with the same number of steps, and evaluate. Arms of all seeds run side by side, as many as ``--jobs``
says. What is finished is kept in the work folder, so that a run can be stopped and goes on. Writes
``results/DATE-defence-SCALE.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from roclip_audit import __version__
from roclip_audit.core.parallel import default_workers
from roclip_audit.core.progress import PlainReporter, SilentReporter
from roclip_audit.core.run import RunFolder, work_key, write_json
from roclip_audit.core.seeding import generator
from roclip_audit.core.shards import expand_shards
from roclip_audit.core.significance import wilson_interval
from roclip_audit.train.attacks import AttackPlan
from roclip_audit.train.config import Recipe, TrainConfig
from roclip_audit.train.data.pairs import read_pairs
from roclip_audit.train.evaluation import EvalConfig, evaluate
from roclip_audit.train.evaluation.report import LEAST_UNDEFENDED_SUCCESS
from roclip_audit.train.model import model_config
from roclip_audit.train.planting.poison import poison
from roclip_audit.train.planting.rewrite import NewPair, write_shard
from roclip_audit.train.recipes import small
from roclip_audit.train.trainer import TrainReport, train

TEMPLATES = ("{}", "a {}", "{} icon", "{} symbol", "icon of {}")
"""Prompts in the style of the captions: the 80 of CLIP speak of photographs, which these captions never do."""

MOST_SUSPICIOUS_FIFTH = "suspicion >= (select quantile_cont(suspicion, 0.8) from suspicion)"
"""A budget instead of a promise: on small sets of symbols a list at a stated error rate holds little of the poison."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the experiment is.

    Attributes:
        n_pairs: drawn for every seed; 0 takes all.
        n_classes: the most frequent classes; targets are among them.
        n_targets, targeted_rate: pictures of the targeted attack, and share of the pairs for each.
        backdoor: patch backdoor as ``poison`` reads it, target left out.
        recipe: of all arms, but for what an arm changes.
    """

    n_pairs: int
    n_classes: int
    n_targets: int
    targeted_rate: float
    backdoor: str
    recipe: Recipe

    def data_key(self, where: str, data: Path) -> str:
        """Name what is planted in what, and what a scan leaves out; how it is trained on is no part of it."""
        settings = {name: value for name, value in asdict(self).items() if name != "recipe"}
        described = (data / "stats.json").read_text(encoding="utf-8")
        return work_key(settings, where, described, code_of("train.attacks"), code_of("train.planting"))[:8]


SCALES = {
    "cpu-small": Scale(
        n_pairs=6_000,
        n_classes=16,
        n_targets=6,
        targeted_rate=0.0025,
        backdoor="badnets_fixed:{}:0.02:side=0.25,captions=natural,kind=yellow",
        recipe=replace(small(6_000, has_gpu=False), epochs=40),
    ),
    "cpu": Scale(
        n_pairs=10_000,
        n_classes=24,
        n_targets=8,
        targeted_rate=0.0018,
        backdoor="badnets_fixed:{}:0.012:side=0.25,captions=natural,kind=yellow",
        recipe=replace(small(10_000, has_gpu=False), epochs=40),
    ),
    "cpu-50k": Scale(
        n_pairs=50_000,
        n_classes=100,
        n_targets=16,
        targeted_rate=0.0005,
        backdoor="badnets_fixed:{}:0.005:side=0.25,captions=natural,kind=yellow",
        recipe=small(50_000, has_gpu=False),
    ),
    "gpu": Scale(
        n_pairs=0,
        n_classes=100,
        n_targets=16,
        targeted_rate=0.0005,
        backdoor="badnets_fixed:{}:0.005:side=0.25,captions=natural,kind=yellow",
        recipe=replace(small(50_000, has_gpu=True), epochs=32, batch_size=512),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to train.

    Attributes:
        method: as in ``train --method``.
        strict: RoCLIP as published.
        augment: strong views and EDA.
        curated: train on what a scan leaves.
    """

    method: str
    strict: bool = False
    augment: bool = True
    curated: bool = False


ARMS = {
    "clip": Arm(method="clip", augment=False),
    "clip-augmented": Arm(method="clip"),
    "roclip-strict": Arm(method="roclip", strict=True),
    "roclip-fixed": Arm(method="roclip"),
    "safeclip": Arm(method="safeclip"),
    "scan+clip": Arm(method="clip", augment=False, curated=True),
    "scan+roclip-fixed": Arm(method="roclip", curated=True),
}


def labelled_pairs(tars: Sequence[Path]) -> Iterator[NewPair]:
    """Yield the pairs of shards as they are."""
    for tar in tars:
        with tarfile.open(tar) as opened:
            members: dict[str, dict[str, bytes]] = {}
            for member in opened:
                key, _, extension = member.name.partition(".")
                content = opened.extractfile(member)
                if content is not None:
                    members.setdefault(key, {})[extension] = content.read()
        for content_of in members.values():
            meta = json.loads(content_of["json"])
            yield NewPair(
                uid=meta["uid"],
                caption=meta["caption"],
                url=meta["url"],
                jpeg=content_of["jpg"],
                width=meta["width"],
                height=meta["height"],
            )


def draw_pairs(data: Path, out: Path, scale: Scale, seed: int) -> list[str]:
    """Write the clean pairs of a seed and the test set of its classes; return the classes, the most frequent first."""
    counts = json.loads((data / "stats.json").read_text())["train_by_class"]
    classes = sorted(counts, key=lambda name: (-counts[name], name))[: scale.n_classes]
    pairs = list(labelled_pairs(sorted((data / "train").glob("*.tar"))))
    if scale.n_pairs:
        named = re.compile(rf"\b({'|'.join(map(re.escape, classes))})s?\b")
        order = generator(seed, "bench", "pairs").permutation(len(pairs)).tolist()
        order.sort(key=lambda index: named.search(pairs[index].caption) is None)  # pairs of the classes first
        pairs = [pairs[index] for index in sorted(order[: scale.n_pairs])]
    out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(pairs), 1_000)):
        write_shard(out, number, pairs[start : start + 1_000])
    write_probe(pairs, out.parent / "probe", classes)
    return classes


def write_probe(pairs: Sequence[NewPair], out: Path, classes: Sequence[str], *, most: int = 60) -> None:
    """Write pictures to train the linear probe on: clean pairs whose caption names exactly one class."""
    counts = dict.fromkeys(classes, 0)
    for number, pair in enumerate(pairs):
        named = [name for name in classes if re.search(rf"\b{re.escape(name)}s?\b", pair.caption)]
        if len(named) == 1 and counts[named[0]] < most:
            counts[named[0]] += 1
            (out / named[0]).mkdir(parents=True, exist_ok=True)
            (out / named[0] / f"{number:06d}.jpg").write_bytes(pair.jpeg)


def write_tests(data: Path, out: Path, part: str, classes: Sequence[str]) -> None:
    """Copy the labelled pictures of some classes into class folders."""
    for tar in sorted((data / part).glob("*.tar")):
        with tarfile.open(tar) as opened:
            names: dict[str, str] = {}
            pictures: dict[str, bytes] = {}
            for member in opened:
                key, _, extension = member.name.partition(".")
                content = opened.extractfile(member)
                if content is not None and extension == "json":
                    names[key] = json.loads(content.read())["class"]
                elif content is not None and extension == "jpg":
                    pictures[key] = content.read()
        for key, picture in pictures.items():
            if names[key] in classes:
                folder = out / names[key]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{tar.stem}-{key}.jpg").write_bytes(picture)


def folder_of(options: argparse.Namespace, seed: int) -> Path:
    """Return where everything of a seed lies."""
    work: Path = options.work
    return work / f"{scale_of(options).data_key(options.where, options.data)}-{seed}"


def prepare(options: argparse.Namespace, seed: int) -> None:
    """Draw and poison the pairs of a seed, where that is missing."""
    scale, folder = scale_of(options), folder_of(options, seed)
    if (folder / "ready").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    classes = draw_pairs(options.data, folder / "clean", scale, seed)
    write_tests(options.data, folder / "test", "test", classes)
    drawn = generator(seed, "bench", "targets").permutation(classes).tolist()
    plan = [
        AttackPlan(attack="targeted", target=word, rate=scale.targeted_rate) for word in drawn[1 : scale.n_targets + 1]
    ]
    plan.append(AttackPlan.parse(scale.backdoor.format(drawn[0])))
    poison([str(folder / "clean")], folder / "shards", plan=plan, seed=seed, truth_path=folder / "truth")
    (folder / "templates.txt").write_text("\n".join(TEMPLATES))
    (folder / "ready").touch()


def scan_folder(folder: Path) -> Path:
    """Return where a seed's scan by this code lies."""
    return folder / f"scan-{code_of('sanitize')[:8]}"


def scan_once(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Scan the poisoned pairs of a seed and write the selection, where that is missing; return how well it did."""
    folder, workers = folder_of(options, seed), workers_of(options)
    out = scan_folder(folder)
    run, selection, facts = RunFolder(out / "audit"), out / "selection.parquet", out / "scan.json"
    if not facts.exists():
        from roclip_audit.audit.query import run_query
        from roclip_audit.audit.select import write_selection
        from roclip_audit.cli.scan import scan_and_ingest
        from roclip_audit.sanitize.scan import ScanConfig

        started = time.monotonic()
        scan_and_ingest(
            ScanConfig(shards=(str(folder / "shards"),), out=run.root, workers=workers), PlainReporter(period_s=60)
        )
        report = write_selection(run, options.where, selection)
        sql = f"""
            select t.attack, count(*), count(*) filter (where not s.keep)
            from '{folder}/truth/truth.parquet' t join '{selection}' s using (uid) group by t.attack order by t.attack
        """
        with run_query(run, sql, allow_external=True) as result:
            removed = {str(attack): (int(n), int(gone)) for attack, n, gone in result.rows()}
        write_json(facts, {"removed": removed, "n_removed": report.n_removed, "seconds": time.monotonic() - started})
    found: dict[str, Any] = json.loads(facts.read_text())
    return found


def train_arm(folder: Path, out: Path, name: str, scale: Scale, *, seed: int, device: str, workers: int) -> TrainReport:
    """Train one arm on the pairs of a seed."""
    arm = ARMS[name]
    shutil.rmtree(out, ignore_errors=True)
    selection = scan_folder(folder) / "selection.parquet" if arm.curated else None
    table = read_pairs(expand_shards([str(folder / "shards")]), selection=selection)
    config = TrainConfig(
        out=out,
        recipe=scale.recipe,
        method=arm.method,
        strict=arm.strict,
        augment=arm.augment,
        seed=seed,
        device=device,
        cache="memory",
        workers=workers,
    )
    report = train(config, table, reporter=PlainReporter(period_s=60))
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return report


def measure(folder: Path, model: Path, *, device: str, workers: int) -> dict[str, Any]:
    """Evaluate one arm."""
    config = EvalConfig(
        checkpoints=(str(model),),
        data=str(folder / "test"),
        probe_train=str(folder / "probe"),
        attack=folder / "truth",
        templates=folder / "templates.txt",
        device=device,
        workers=workers,
    )
    return row_of(evaluate(config, SilentReporter()).as_json()["models"][0])


def row_of(result: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one evaluated model: counts of successes, and shares."""
    row: dict[str, Any] = {
        "zero_shot": result["zero_shot"]["top1"]["share"],
        "probe": result["linear_probe"]["accuracy"]["share"],
    }
    for attack in result["attacks"]:
        kind = "targeted" if attack["trigger"] is None else "backdoor"
        if attack["pooled"] == 1:
            k, n = row.get(kind, (0, 0))
            row[kind] = (k + attack["success"]["k"], n + attack["success"]["n"])
            if kind == "backdoor":
                row["untriggered"] = attack["base_rate"]["share"]
    return row


def summarise(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Pool the seeds: Wilson intervals over all target pictures, means and ranges of the rest."""
    table = []
    for name, of_seed in rows.items():
        line: dict[str, Any] = {"arm": name, "seeds": len(of_seed)}
        for kind in ("targeted", "backdoor"):
            k, n = (sum(row[kind][place] for row in of_seed) for place in (0, 1))
            shares = [row[kind][0] / row[kind][1] for row in of_seed]
            line[kind] = {"k": k, "n": n, "wilson": wilson_interval(k, n), "of_seed": shares}
        for kind in ("zero_shot", "probe", "untriggered"):
            line[kind] = {
                "mean": sum(row[kind] for row in of_seed) / len(of_seed),
                "of_seed": [row[kind] for row in of_seed],
            }
        table.append(line)
    return table


def markdown(table: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Return the result as a page."""
    lines = [
        f"# Defences at scale {facts['scale']}, {facts['date']}",
        "",
        f"{facts['machine']}; torch {facts['torch']}, roclip-audit {facts['roclip_audit']} at {facts['commit']}; seeds "
        f"{facts['seeds']}; {facts['settings']}; {facts['minutes']} minutes (less what an earlier call had finished).",
        "",
        "Targeted: target pictures called the target, all seeds together, with Wilson's 95 % interval. Backdoor: mean "
        "over seeds of the share of triggered test pictures called the target (lowest to highest); then the same "
        "share without the trigger. Zero-shot and linear probe: mean top-1 over seeds (lowest to highest).",
        "",
        "| arm | targeted | backdoor | zero-shot | linear probe |",
        "|---|---|---|---|---|",
    ]
    for line in table:
        low, high = line["targeted"]["wilson"]
        targeted = f"{line['targeted']['k']} of {line['targeted']['n']} ({low:.0%} to {high:.0%})"
        cells = [
            f"{_spread(line['backdoor']['of_seed'])}; {line['untriggered']['mean']:.1%}",
            _spread(line["zero_shot"]["of_seed"]),
            _spread(line["probe"]["of_seed"]),
        ]
        lines.append(f"| {line['arm']} | {targeted} | {' | '.join(cells)} |")
    lines += ["", *void(table), "Scan (pairs removed of pairs planted, by seed):", ""]
    for seed, scanned in facts["scans"].items():
        planted = ", ".join(f"{name} {gone} of {n}" for name, (n, gone) in scanned["removed"].items() if name != "None")
        clean = scanned["removed"].get("None", (0, 0))
        lines.append(f"- seed {seed}: {planted}; clean pairs {clean[1]} of {clean[0]}")
    return "\n".join(lines) + "\n"


def void(table: Sequence[dict[str, Any]]) -> list[str]:
    """Say where the attack did not take without a defence: then the other arms show nothing."""
    plain = next((line for line in table if line["arm"] == "clip"), None)
    if plain is None:
        return ["No undefended arm (`clip`): that an attack failed shows nothing.", ""]
    lines = []
    for kind in ("targeted", "backdoor"):
        share = sum(plain[kind]["of_seed"]) / len(plain[kind]["of_seed"])
        if share < LEAST_UNDEFENDED_SUCCESS:
            lines += [f"Void: undefended, the {kind} attack succeeds in {share:.1%}. That it fails shows nothing.", ""]
    return lines


def _spread(shares: Sequence[float]) -> str:
    return f"{sum(shares) / len(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})"


def main() -> None:
    """Run what is missing, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="what data_icon_classes.py wrote")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--model", help="of all arms, such as vit-32 or a JSON file [the scale's]")
    compared = [name for name in ARMS if name != "clip-augmented"]
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=compared, help="[all but clip-augmented]")
    parser.add_argument("--work", type=Path, default=Path("defence-work"), help="kept between calls")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--where", default=MOST_SUSPICIOUS_FIFTH, help="what the curated arms leave out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=1, help="arms side by side, the cores dealt out among them")
    options = parser.parse_args()
    scale = scale_of(options)
    started = time.monotonic()
    longest_first = sorted(options.arms, key=lambda name: ARMS[name].method != "safeclip")
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(prepare, options), options.seeds))
        any_curated = any(ARMS[name].curated for name in options.arms)
        scans = {seed: pool.submit(scan_once, options, seed) for seed in options.seeds if any_curated}

        def begin(*, curated: bool) -> dict[tuple[str, int], Future[dict[str, Any]]]:
            names = [name for name in longest_first if ARMS[name].curated == curated]
            return {cell: pool.submit(run_arm, options, cell) for cell in product(names, options.seeds)}

        trained = begin(curated=False)  # beside the scans
        scanned = {seed: scan.result() for seed, scan in scans.items()}
        trained |= begin(curated=True)
        found = {cell: future.result() for cell, future in trained.items()}
    rows = {name: [found[name, seed]["row"] for seed in options.seeds] for name in options.arms}
    facts: dict[str, Any] = {
        "scale": options.scale,
        "jobs": options.jobs,
        "training": {seed: {name: found[name, seed]["training"] for name in options.arms} for seed in options.seeds},
        "scans": scanned,
        "minutes": round((time.monotonic() - started) / 60),
    }
    write_results(options, scale, rows, facts)


def scale_of(options: argparse.Namespace) -> Scale:
    """Return the scale that was asked for, with the model that was."""
    scale = SCALES[options.scale]
    return replace(scale, recipe=replace(scale.recipe, model=options.model)) if options.model else scale


def workers_of(options: argparse.Namespace) -> int:
    """Let torch use the cores of one of the jobs; return how many they are."""
    workers = max(1, default_workers() // options.jobs)
    torch.set_num_threads(workers)
    return workers


def run_arm(options: argparse.Namespace, cell: tuple[str, int]) -> dict[str, Any]:
    """Train and measure an arm where that is missing; return what training took, and its row."""
    (name, seed), scale, workers = cell, scale_of(options), workers_of(options)
    folder = folder_of(options, seed)
    code = code_of("train"), code_of("sanitize") if ARMS[name].curated else ""
    key = work_key(asdict(scale.recipe), model_config(scale.recipe.model), asdict(ARMS[name]), options.device, *code)
    out = folder / "runs" / f"{name}-{key[:8]}"
    done = out / "row.json"
    if not done.exists():
        report = train_arm(folder, out, name, scale, seed=seed, device=options.device, workers=workers).as_json()
        training = {key: value for key, value in report.items() if key not in {"out", "model"}}
        row = measure(folder, out / "model", device=options.device, workers=workers)
        write_json(done, {"training": training, "row": row})
    found: dict[str, Any] = json.loads(done.read_text())
    return found


def code_of(part: str) -> str:
    """Hash the code of a part of the package: what another version did is not put into the same table."""
    modules = sorted(Path(import_module(f"roclip_audit.{part}").__path__[0]).rglob("*.py"))
    return work_key([module.read_text(encoding="utf-8") for module in modules])


def write_results(
    options: argparse.Namespace, scale: Scale, rows: dict[str, list[dict[str, Any]]], facts: dict[str, Any]
) -> None:
    """Write the JSON and the page."""
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    cuda = torch.cuda.is_available() and options.device != "cpu"
    recipe = scale.recipe
    facts |= {
        "date": f"{datetime.now(tz=UTC):%Y-%m-%d}",
        "machine": torch.cuda.get_device_name() if cuda else f"{default_workers()} cores ({platform.machine()})",
        "torch": torch.__version__,
        "roclip_audit": __version__,
        "commit": git.stdout.strip() or "?",
        "seeds": options.seeds,
        "scale_settings": asdict(scale),
        "where": options.where,
        "settings": f"{recipe.model}, {recipe.epochs} epochs of batches of {recipe.batch_size}, lr {recipe.lr:g}",
    }
    table = summarise(rows)
    model = f"-{Path(options.model).stem}" if options.model else ""
    stem = options.out / f"{facts['date']}-defence-{options.scale}{model}"
    write_json(stem.with_suffix(".json"), {**facts, "table": table})
    stem.with_suffix(".md").write_text(markdown(table, facts), encoding="utf-8")
    print(markdown(table, facts))


if __name__ == "__main__":
    main()
