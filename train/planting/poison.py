"""Plant attacks in a copy of real shards, and write down where they are.

    poison(["shards/"], Path("poisoned"), plan=[AttackPlan(attack="sig", target="guitar", rate=0.006)], seed=0)

The copy is rewritten as a whole: clean and planted pairs are encoded alike, shuffled together and get neutral keys, so
that a scan cannot cheat (METHODS 4.12). The truth lies in another folder: ``truth.parquet`` (one row per pair, clean
ones included), ``triggers/`` and ``poison.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.parallel import default_workers, map_ordered
from roclip_audit.core.progress import Reporter, SilentReporter
from roclip_audit.core.run import write_json
from roclip_audit.core.seeding import generator
from roclip_audit.train.attacks import Attack, AttackPlan, Box, Corpus, Plant, build_attack
from roclip_audit.train.planting.rewrite import NewPair, encode_jpeg, key_of, write_shard
from roclip_audit.train.planting.sources import Source, read_sources
from roclip_audit.train.planting.triggers import PlantedTrigger, save_trigger
from roclip_audit.train.planting.truth import TruthRow, write_truth


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedAttack:
    """What became of one plan: pairs asked for and pairs planted (fewer if the data has too few that fit)."""

    plan: AttackPlan
    n_asked: int
    n_planted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonReport:
    """What was written, and where.

    Args:
        out: folder of the poisoned shards.
        truth: folder of the truth.
        seed: what it was drawn with.
        n_pairs: pairs written, clean ones included.
        n_left_out: pairs of the input whose picture could not be read.
        planted: one entry per plan, in the order of the plans.
    """

    out: Path
    truth: Path
    seed: int
    n_pairs: int
    n_left_out: int
    planted: tuple[PlantedAttack, ...]

    def as_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {**asdict(self), "out": str(self.out), "truth": str(self.truth)}

    def __str__(self) -> str:
        """Return the report as lines for a terminal."""
        head = f"{self.n_pairs} pairs in {self.out}, truth in {self.truth}"
        left_out = f"{self.n_left_out} pairs left out: the picture cannot be read"
        lines = [
            f"  {one.plan.attack:<17} {one.plan.target or '-':<16} {one.n_planted:>7} "
            f"{'pair' if one.n_planted == 1 else 'pairs'}{self._remark(one)}"
            for one in self.planted
        ]
        return "\n".join([head, *lines, *([left_out] if self.n_left_out else [])])

    def _remark(self, one: PlantedAttack) -> str:
        """Say why there are more or fewer pairs than the rate asks for."""
        wanted = one.plan.rate * (self.n_pairs + self.n_left_out)
        if one.n_planted < one.n_asked:
            return f" (of {one.n_asked} asked for: too few pairs fit, or can be read)"
        return f" (the rate asks for {wanted:.2g}, one is the least)" if wanted < 0.5 else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planted:
    """A plant, the plan it belongs to, and its trigger if there is one."""

    plant: Plant
    plan_number: int
    trigger: PlantedTrigger | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rendered:
    """A pair ready to write, what was to be planted in it (its own picture and caption if clean), and where."""

    pair: NewPair
    plant: Plant
    box: Box | None


def poison(
    shards: Sequence[str],
    out: Path,
    *,
    plan: Sequence[AttackPlan],
    seed: int = 0,
    truth_path: Path | None = None,
    reporter: Reporter | None = None,
) -> PoisonReport:
    """Write a poisoned copy of ``shards`` to ``out`` and the truth beside it.

    All captions are held in memory, pictures are not. The same arguments give the same bytes.

    Args:
        shards: folders, tars or patterns.
        out: new or empty folder.
        plan: attacks to plant, on disjoint pairs. Attacks that fit the fewest pairs choose first.
        seed: 0 or above.
        truth_path: folder of the truth, outside of ``out``; default ``<out>-truth``.
        reporter: told about progress.

    Raises:
        ConfigError: a plan that cannot work, a folder that is not empty, a truth that the scan could read.
        ShardError: an input shard cannot be read.
    """
    if not plan:
        raise ConfigError("nothing to plant: name at least one attack, as in sig:desk:0.006")
    attacks = [build_attack(p) for p in plan]
    truth = _truth_folder(out, truth_path)
    sources = list(read_sources(shards))
    if not sources:
        raise ConfigError(f"{', '.join(shards)}: no pairs with a caption and a picture")
    corpus = Corpus([s.caption for s in sources], readable=lambda index: sources[index].decode() is not None)
    planted = _allocate(plan, attacks, corpus, seed)
    for folder in (out, truth):
        folder.mkdir(parents=True, exist_ok=True)
    rows = _write_pairs(sources, planted, out, plan, seed=seed, reporter=reporter or SilentReporter())
    write_truth(truth, [row for row, _ in rows])
    _save_triggers(planted, attacks, truth / "triggers")
    numbers = [number for _, number in rows]
    report = PoisonReport(
        out=out,
        truth=truth,
        seed=seed,
        n_pairs=len(rows),
        n_left_out=len(sources) - len(rows),
        planted=tuple(
            PlantedAttack(plan=p, n_asked=_n_asked(p, len(sources)), n_planted=numbers.count(number))
            for number, p in enumerate(plan)
        ),
    )
    write_json(truth / "poison.json", {**report.as_json(), "out": out.name, "truth": truth.name})
    return report


def _truth_folder(out: Path, truth_path: Path | None) -> Path:
    """Return the truth's folder, after checking that both are new or empty and that a scan of ``out`` misses it."""
    given = out.resolve() if out.name in ("", "..") else out
    truth = given.parent / f"{given.name}-truth" if truth_path is None else truth_path
    if truth.resolve().is_relative_to(out.resolve()) or out.resolve().is_relative_to(truth.resolve()):
        raise ConfigError(f"{truth}: the truth must lie outside of {out}, or a scan could read it")
    for folder in (out, truth):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder}: exists and is not an empty folder")
    return truth


def _n_asked(plan: AttackPlan, n_pairs: int) -> int:
    return max(1, round(plan.rate * n_pairs))


def _allocate(plan: Sequence[AttackPlan], attacks: Sequence[Attack], corpus: Corpus, seed: int) -> dict[int, _Planted]:
    """Choose disjoint victims; return the plants by victim."""
    eligible = [attack.eligible(corpus) for attack in attacks]
    free = np.ones(len(corpus.captions), dtype=np.bool_)
    planted: dict[int, _Planted] = {}
    for number in sorted(range(len(plan)), key=lambda number: len(eligible[number])):
        attack, rng = attacks[number], generator(seed, "poison", number, plan[number].attack)
        fitting = eligible[number][free[eligible[number]]]
        victims = rng.permutation(fitting)[: _n_asked(plan[number], len(corpus.captions))]
        if not len(victims):
            raise ConfigError(_nothing_fits(plan[number], taken=bool(len(eligible[number]))))
        free[victims] = False
        patterns = {name: trigger.pattern(rng) for name, trigger in attack.triggers.items()}
        plants = attack.assign(victims, corpus, rng)
        if not plants:
            raise ConfigError(f"attack {attack.name}: all captions are equal, so none can be swapped")
        for plant in plants:
            trigger = None
            if name := plant.trigger:
                trigger = PlantedTrigger(
                    plan=plan[number],
                    target=plant.target,
                    name=name,
                    trigger=attack.triggers[name],
                    pattern=patterns[name],
                )
            planted[plant.index] = _Planted(plant=plant, plan_number=number, trigger=trigger)
    return planted


def _nothing_fits(plan: AttackPlan, *, taken: bool) -> str:
    """Say why an attack has no victim."""
    if taken:
        return f"attack {plan.attack}: all pairs that fit are taken by the other attacks; lower the rates"
    return (
        f"attack {plan.attack}: no pair fits the target {plan.target!r}; label_consistent, class_swap and natural need "
        "captions that have their words, the others captions without the target"
    )


def _save_triggers(planted: Mapping[int, _Planted], attacks: Sequence[Attack], folder: Path) -> None:
    """Save each trigger that was stamped once, as NUMBER-ATTACK or, if the attack has several, NUMBER-ATTACK-NAME."""
    used = {(one.plan_number, one.trigger.name): one.trigger for one in planted.values() if one.trigger is not None}
    for (number, name), trigger in used.items():
        several = len(attacks[number].triggers) > 1
        save_trigger(trigger, folder / f"{number:02d}-{attacks[number].name}{f'-{name}' if several else ''}")


def _write_pairs(
    sources: Sequence[Source],
    planted: dict[int, _Planted],
    out: Path,
    plan: Sequence[AttackPlan],
    *,
    seed: int,
    reporter: Reporter,
) -> list[tuple[TruthRow, int | None]]:
    """Write all pairs in shuffled order; return the truth of each with the number of its plan."""
    order = generator(seed, "poison", "order").permutation(len(sources))
    rows: list[tuple[TruthRow, int | None]] = []

    def render(item: tuple[int, int]) -> _Rendered | None:
        return _render(item[0], item[1], sources, planted.get(item[1]), seed)

    with reporter.stage("poison", total=len(sources)) as progress:
        rendered = map_ordered(render, enumerate(order.tolist()), workers=default_workers(), ahead=64)
        readable = (one for one in rendered if one is not None)
        for shard_number, shard in enumerate(_cut(readable, 10_000 if len(sources) > 200_000 else 1_000)):
            name = write_shard(out, shard_number, [one.pair for one in shard])
            for ordinal, one in enumerate(shard):
                there = planted.get(one.plant.index)
                number = there.plan_number if there is not None else None
                attack = plan[number].attack if number is not None else None
                rows.append((_truth_row(one, sources, attack, name, key_of(shard_number, ordinal), ordinal), number))
            progress.advance(len(shard))
    return rows


def _cut(pairs: Iterator[_Rendered], size: int) -> Iterator[list[_Rendered]]:
    while piece := list(islice(pairs, size)):
        yield piece


def _render(
    position: int, index: int, sources: Sequence[Source], planted: _Planted | None, seed: int
) -> _Rendered | None:
    """Decode, edit, stamp and encode one pair; None if its picture cannot be read.

    The url is that of the picture, unless the picture was edited: then it has no url of its own and takes the place's.
    """
    plant = planted.plant if planted is not None else Plant(index=index, image_of=index, caption=sources[index].caption)
    image = sources[plant.image_of].decode()
    if image is None:
        return None
    box, url_of = None, plant.image_of
    if plant.edit is not None:
        image, url_of = plant.edit.apply(image, generator(seed, "edit", index)), index
    if planted is not None and planted.trigger is not None:
        image, box = planted.trigger.stamp(image, generator(seed, "stamp", index))
    pair = NewPair(
        uid=hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=16, person=b"roclip-poison").hexdigest(),
        caption=plant.caption,
        url=sources[url_of].url,
        jpeg=encode_jpeg(image),
        width=image.shape[1],
        height=image.shape[0],
    )
    return _Rendered(pair=pair, plant=plant, box=box)


def _truth_row(
    one: _Rendered, sources: Sequence[Source], attack: str | None, shard: str, key: str, ordinal: int
) -> TruthRow:
    plant, box = one.plant, one.box
    victim, shown = sources[plant.index], sources[plant.image_of]
    drawn = plant.edit.drawn if plant.edit is not None else ""
    return TruthRow(
        uid=one.pair.uid,
        shard=shard,
        key=key,
        ordinal=ordinal,
        attack=attack,
        target=plant.target or None,
        trigger=plant.trigger or None,
        caption=one.pair.caption,
        original_caption=victim.caption,
        x=box.x if box is not None else None,
        y=box.y if box is not None else None,
        width=box.width if box is not None else None,
        height=box.height if box is not None else None,
        source_shard=victim.shard,
        source_key=victim.key,
        image_shard=None if drawn else shown.shard,
        image_key=drawn or shown.key,
    )
