"""Draw a labelled data set of real icons: training pairs with captions, and held-out pictures of a hundred classes.

    npm pack @iconify/json && tar xzf iconify-json-*.tgz && pip install resvg-py
    python benchmarks/data_icon_classes.py package data/icons64 --pairs 60000 --classes 100 --px 64 --seed 0
    python benchmarks/data_icon_classes.py package data/tiny --pairs 500 --classes 5 --test-per-class 4

For small CLIP models, and for what an attack does to them: ``train`` has pictures with captions and no labels; ``val``
and ``test`` add the class (field ``class`` in the json, index as member ``cls``), whose names are in ``classes.json``.

An icon is of a class if exactly one of the nouns below is in its name; the test takes those whose name says nothing
else. Of an author whose icons of a class are tested, none of that class is trained on: one design comes in several
styles and sets. A tested picture whose difference hash is that of a trained one, or whose shape is one bit from a
trained one of its class, is dropped. Plain icons are drawn in a colour of their own on a ground of their own, so that
colour tells neither sets nor classes apart. The same package, seed and options give the same bytes; 200 to 230 pairs a
second on busy cores, however many, as resvg holds the interpreter lock.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from data_icons import FREE, PAIRS_PER_SHARD, RESERVED, Icon, choose, icons_of, rasterise, set_names, words_of
from PIL import Image

from roclip_audit.core.images import dhash
from roclip_audit.core.parallel import default_workers, map_ordered
from roclip_audit.core.run import write_json
from roclip_audit.core.seeding import derive_seed, generator
from roclip_audit.train.planting.rewrite import Label, NewPair, encode_jpeg, write_shard

# A class and, after slashes, other words for it. Only what looks like one thing: no mouse, table, scale, radio, card.
_CLASSES = """
airplane/plane alien ambulance anchor apple atom axe backpack balloon banana bandage bank barcode basketball battery
bed beer bell bicycle/bike binoculars bird bluetooth bomb bone book bookmark bottle brain bread briefcase broom bucket
bug building bus butterfly cactus cake calculator calendar camera candle car carrot cart castle cat chair cheese
church clipboard clock cloud coffee compass cookie crown cube cup database diamond dna dog donut door dress drone drum
dumbbell egg envelope/mail/email eraser factory fan fence fingerprint fire/flame fish flag flashlight flask flower
folder football fridge funnel/filter gamepad gavel gear/cog ghost gift glasses globe/earth guitar hammer handshake
headphones/headphone headset heart helicopter helmet hospital hourglass house/home inbox infinity key keyboard ladder
lamp laptop leaf lemon lightbulb/bulb lock lungs magnet map mask medal megaphone/bullhorn microphone/mic microscope
mirror moon mosque motorcycle mountain mushroom newspaper palette paperclip pencil phone/telephone piano pill pizza
planet plug printer puzzle rabbit rainbow recycle robot rocket ruler sailboat satellite scissors scooter screwdriver
shield shirt shovel skull snowflake snowman sofa/couch speaker spoon star stethoscope stopwatch suitcase sun sword
syringe tag taxi telescope tent thermometer ticket toilet tooth tornado train/tram trash tree trophy truck umbrella
usb virus volleyball wallet watch wheelchair wifi windmill wrench
"""
# Logos and screens in motion: nothing to see in a still picture.
_NOT_THESE = re.compile(r"brands|logos|devicon|famicons|skill-icons|academicons|gcp|line-md|svg-spinners|bpmn")
_NOT_CATEGORIES = {"Logos", "Emoji", "Flags / Maps", "Programming"}
# Emoji-like ones that data_icons lets through, as their sets call them neither emoji nor smiley.
_FACES = re.compile(
    r"\b(grin\w*|laugh\w*|smil\w*|kiss\w*|frown\w*|wink\w*|grimace\w*|angry|annoyed|sad|cry\w*|tears?|happy|meh|tongue|"
    r"upside down|unamused|confused|surprised?|dizzy|sick|flushed|astonished|faces?|emotions?|sentiment|mood)\b"
)

MOST_OF_A_CLASS = 250  # labelled icons that go to train first; more come with the rest
HELD_AUTHOR_ICONS = 10  # an author with more icons of a class than this is trained on
HELD_PER_AUTHOR = 4
MOST_HELD = 0.7  # of the icons of a class that could be tested
ENOUGH = 0.84  # of the pictures wanted must be found, or the noun is no class
SAME_SHAPE = 1  # of 64 bits; 2 would take a fifth of the locks and two fifths of the hearts
SPARE = 1.5  # held out for every one wanted: some are drawn blank or are found in train

_WORDS_FOR = {}
for _entry in _CLASSES.split():
    for _word in _entry.split("/"):
        _WORDS_FOR[_word] = _WORDS_FOR[f"{_word}s"] = _entry.split("/")[0]

_DARK = {"black": "#1c1c1c", "": "#2b2b33", "navy": "#1b2a52", "dark brown": "#4a2c1a", "dark green": "#16402a"}
_STRONG = {
    "red": "#c8262d",
    "blue": "#2460c4",
    "green": "#2a8a3e",
    "purple": "#7a35a8",
    "orange": "#d9690f",
    "teal": "#0e7f86",
    "pink": "#d23a82",
    "brown": "#86512b",
    "grey": "#6a6f78",
}
_PALE = ("#ffffff", "#ffffff", "#ffffff", "#f4f1e8", "#eaf2fb", "#eef7ea", "#fbeef1", "#f2ecfa", "#fdf6d8", "#ececec")


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a plain icon is drawn, and the words for it that a caption may use (empty where nobody would say so)."""

    ink: str
    ground: str
    ink_name: str
    ground_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A drawn icon; the hash is that of its shape, black on white."""

    pair: NewPair
    class_name: str | None
    shape: int
    picture: int


def class_of(name: str) -> str | None:
    """Return the class whose noun is in the name of an icon, None if there is none or more than one."""
    found = {_WORDS_FOR[word] for word in words_of(name).lower().split() if word in _WORDS_FOR}
    return found.pop() if len(found) == 1 else None


def says_only_the_class(name: str) -> bool:
    """Tell whether a name is a class word and nothing else."""
    words = words_of(name).lower().split()
    return len(words) == 1 and words[0] in _WORDS_FOR


def look_of(seed: int, url: str, *, plain: bool) -> Look:
    """Draw the colours of an icon: mostly dark on light, a fifth coloured on light, a quarter white on coloured.

    An icon with colours of its own keeps a light ground.
    """
    rng = generator(seed, "look", url)
    part = rng.random() if plain else 0.0
    named = _DARK if part < 0.55 else _STRONG
    name = str(rng.choice(sorted(named)))
    colour, ground = _jitter(named[name], rng), _jitter(str(rng.choice(_PALE)), rng)
    if part < 0.78:
        return Look(ink=colour, ground=ground, ink_name=name if part >= 0.55 else "", ground_name="")
    ground_name = str(rng.choice(sorted({**_DARK, **_STRONG})))
    return Look(
        ink=str(rng.choice(["#ffffff", "#ffffff", "#fbf6e2", "#fff3b8"])),
        ground=_jitter({**_DARK, **_STRONG}[ground_name], rng),
        ink_name="white",
        ground_name=ground_name,
    )


def _jitter(colour: str, rng: np.random.Generator) -> str:
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    if min(parts) == 255:
        return colour
    moves = rng.integers(-12, 13, 3)
    return "#" + "".join(f"{min(max(part + int(move), 0), 255):02x}" for part, move in zip(parts, moves, strict=True))


def caption_of(icon: Icon, look: Look, *, seed: int, plain: bool) -> str:
    """Return the words of the name with, now and then, the topic, the word icon, or the colours."""
    rng = generator(seed, "caption", icon.set_name, icon.name)
    words = words_of(icon.name).lower()
    topics = icon.caption[len(words) + 2 : -1]
    colours = [f"{look.ink_name} {words} on {look.ground_name}", f"{words} on a {look.ground_name} background"]
    if plain and look.ink_name and rng.random() < 0.3:
        return str(rng.choice(colours)) if look.ground_name else f"{look.ink_name} {words}"
    forms = [words, f"{words} icon", f"icon of {words}", f"{words} symbol"]
    if topics:
        forms += [f"{words} ({topics})", f"{words} ({topics})", f"{words} ({topics})", f"{topics}: {words}"]
    return str(rng.choice(forms))


_HEAD = re.compile(r'viewBox="(\S+) (\S+) (\S+) (\S+)" width="\S+" height="\S+" color="[^"]*"')


def restyle(svg: str, *, px: int, ink: str, margin: float = 0.0, shift: tuple[float, float] = (0.5, 0.5)) -> str:
    """Return the SVG of ``data_icons`` drawn as a square of ``px``, in another ink, with room around it.

    Args:
        svg: as data_icons wrote it.
        px: side of the picture.
        ink: of plain icons.
        margin: room, as a share of the longer side.
        shift: how the room is split, left and above, 0 to 1.
    """
    head = _HEAD.search(svg)
    if head is None:
        raise ValueError(f"not an SVG of data_icons: {svg[:200]}")
    left, top, width, height = map(float, head.groups())
    side = max(width, height) * (1 + margin)
    x, y = left - (side - width) * shift[0], top - (side - height) * shift[1]
    box = f'viewBox="{x:.4f} {y:.4f} {side:.4f} {side:.4f}" width="{px}" height="{px}" color="{ink}"'
    return svg[: head.start()] + box + svg[head.end() :]


def draw_labelled(icon: Icon, *, px: int, seed: int, plain: bool, hashed: bool) -> Drawn | None:
    """Draw an icon in its own look, and its shape; None if it comes out blank.

    Args:
        icon: to draw.
        px: side of the picture.
        seed: draws look, place and caption.
        plain: the set has one colour.
        hashed: hash the shape too, which draws it a second time.
    """
    url = f"iconify://{icon.set_name}/{icon.name}"
    look = look_of(seed, url, plain=plain)
    rng = generator(seed, "place", url)
    margin, across, down = float(rng.uniform(0.04, 0.3)), *map(float, rng.uniform(0.2, 0.8, 2))
    pixels = rasterise(restyle(icon.svg, px=px, ink=look.ink, margin=margin, shift=(across, down)), look.ground)
    shape = rasterise(restyle(icon.svg, px=px, ink="#000")) if hashed else pixels
    if pixels is None or shape is None:
        return None
    pair = NewPair(
        uid=f"{derive_seed(seed, url, 0):016x}{derive_seed(seed, url, 1):016x}",
        caption=caption_of(icon, look, seed=seed, plain=plain),
        url=url,
        jpeg=encode_jpeg(pixels),
        width=px,
        height=px,
    )
    shape_hash = dhash(Image.fromarray(shape)) if hashed else 0
    return Drawn(
        pair=pair, class_name=class_of(icon.name), shape=shape_hash, picture=dhash(Image.open(io.BytesIO(pair.jpeg)))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is drawn: the classes, icons for the evaluation (class by class), and icons to train on."""

    classes: tuple[str, ...]
    held: tuple[Icon, ...]
    train: tuple[Icon, ...]


def plan(
    per_set: Mapping[str, list[Icon]],
    authors: Mapping[str, str],
    *,
    n_pairs: int,
    n_classes: int,
    n_held: int,
    seed: int,
) -> Plan:
    """Choose the classes with most authors, hold some authors of each out, and fill train.

    Args:
        per_set: icons by set.
        authors: of the sets.
        n_pairs: wanted in train.
        n_classes: wanted.
        n_held: pictures of a class wanted for val and test together.
        seed: draws who is held out.
    """
    members: dict[str, dict[str, list[Icon]]] = defaultdict(lambda: defaultdict(list))
    for name, icons in per_set.items():
        for icon in icons:
            if found := class_of(icon.name):
                members[found][authors[name]].append(icon)
    held = {name: _hold_out(name, groups, round(n_held * SPARE), seed) for name, groups in members.items()}
    n_left = {
        name: sum(len(icons) for author, icons in groups.items() if author not in held[name])
        for name, groups in members.items()
        if sum(map(len, held[name].values())) >= n_held * ENOUGH
    }
    classes = sorted(sorted(n_left, key=lambda name: (-n_left[name], name))[:n_classes])
    out = {(name, author) for name in classes for author in held[name]}
    labelled, rest = [], {name: list[Icon]() for name in per_set}
    for set_name, icons in per_set.items():
        for icon in icons:
            found = class_of(icon.name)
            if found is None or (found, authors[set_name]) not in out:
                rest[set_name].append(icon)
    for name in classes:
        pool = [icon for author, icons in members[name].items() if (name, author) not in out for icon in icons]
        labelled += [pool[at] for at in generator(seed, "labelled", name).permutation(len(pool))[:MOST_OF_A_CLASS]]
    first = {(icon.set_name, icon.name) for icon in labelled}
    rest = {name: [icon for icon in icons if (name, icon.name) not in first] for name, icons in rest.items()}
    train = labelled[:n_pairs] + choose(rest, max(0, round(n_pairs * 1.02) - len(labelled)), seed)
    order = generator(seed, "train order").permutation(len(train))
    return Plan(
        classes=tuple(classes),
        held=tuple(icon for name in classes for icons in held[name].values() for icon in icons),
        train=tuple(train[at] for at in order),
    )


def _hold_out(name: str, groups: Mapping[str, list[Icon]], wanted: int, seed: int) -> dict[str, list[Icon]]:
    """Return the authors of a class to hold out, drawn, with those of their icons to test."""
    pure = {
        author: list(
            {(icon.set_name, words_of(icon.name)): icon for icon in icons if says_only_the_class(icon.name)}.values()
        )
        for author, icons in groups.items()
    }
    wanted = min(wanted, round(MOST_HELD * sum(map(len, pure.values()))))
    held: dict[str, list[Icon]] = {}
    total = 0
    for at in generator(seed, "held", name).permutation(len(groups)):
        author = sorted(groups)[at]
        n_names = len({(icon.set_name, words_of(icon.name)) for icon in groups[author]})
        if pure[author] and n_names <= HELD_AUTHOR_ICONS and total < wanted:
            held[author] = pure[author][: min(HELD_PER_AUTHOR, wanted - total)]
            total += len(held[author])
    return held


def clean(held: Iterable[Drawn], train: Iterable[Drawn]) -> tuple[list[Drawn], int]:
    """Drop held-out pictures that are in train or came before; return the rest and how many were dropped.

    Dropped are equal hashes of the picture, and shapes of the same class that differ in at most ``SAME_SHAPE`` bits.
    """
    shapes: dict[str | None, list[int]] = defaultdict(list)
    pictures = set[int]()
    for drawn in train:
        shapes[drawn.class_name].append(drawn.shape)
        pictures.add(drawn.picture)
    kept, n_dropped = [], 0
    for drawn in held:
        of_class = shapes[drawn.class_name]
        seen = any((drawn.shape ^ other).bit_count() <= SAME_SHAPE for other in of_class)
        if seen or drawn.picture in pictures:
            n_dropped += 1
            continue
        of_class.append(drawn.shape)
        pictures.add(drawn.picture)
        kept.append(drawn)
    return kept, n_dropped


def used_sets(package: Path) -> dict[str, dict[str, Any]]:
    """Return the sets with a free licence and pictures of things."""
    metas = json.loads((package / "collections.json").read_text(encoding="utf-8"))
    own = set(set_names())
    return {
        name: meta
        for name, meta in metas.items()
        if meta["license"].get("spdx") in FREE
        and not _NOT_THESE.search(name)
        and (name in own or (meta.get("category") not in _NOT_CATEGORIES and not RESERVED.search(name)))
    }


def _icons(package: Path, name: str, meta: dict[str, Any]) -> Iterator[Icon]:
    """Yield the icons of a set, those of a class with their style variants."""
    seen: set[str] = set()
    for icon in icons_of(package, name, meta, variants=True):
        words = words_of(icon.name)
        if _FACES.search(icon.caption.lower()):
            continue
        if words not in seen or class_of(icon.name):
            yield icon
        seen.add(words)


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write train, val, test and the lists; return the counts."""
    metas = used_sets(arguments.package)
    chosen = plan(
        {name: list(_icons(arguments.package, name, meta)) for name, meta in metas.items()},
        {name: meta["author"]["name"] for name, meta in metas.items()},
        n_pairs=arguments.pairs,
        n_classes=arguments.classes,
        n_held=arguments.test_per_class + arguments.val_per_class,
        seed=arguments.seed,
    )

    def draw(icon: Icon) -> Drawn | None:
        plain = not metas[icon.set_name].get("palette")
        hashed = class_of(icon.name) in chosen.classes
        return draw_labelled(icon, px=arguments.px, seed=arguments.seed, plain=plain, hashed=hashed)

    workers = default_workers()
    train = [d for d in map_ordered(draw, chosen.train, workers=workers, ahead=64) if d is not None][: arguments.pairs]
    drawn = [d for d in map_ordered(draw, chosen.held, workers=workers, ahead=64) if d is not None]
    held, n_dropped = clean(drawn, train)
    parts: dict[str, list[NewPair]] = {"train": [d.pair for d in train], "val": [], "test": []}
    for index, name in enumerate(chosen.classes):
        of_class = [replace(d.pair, label=Label(index=index, name=name)) for d in held if d.class_name == name]
        of_class = [of_class[at] for at in generator(arguments.seed, "split", name).permutation(len(of_class))]
        parts["test"] += of_class[: arguments.test_per_class]
        parts["val"] += of_class[arguments.test_per_class :][: arguments.val_per_class]
    for part, pairs in parts.items():
        order = (
            generator(arguments.seed, "order", part).permutation(len(pairs)) if part != "train" else range(len(pairs))
        )
        _write(arguments.out / part, [pairs[at] for at in order])
    write_json(arguments.out / "classes.json", list(chosen.classes))
    used = Counter(pair.url.split("/")[2] for pairs in parts.values() for pair in pairs if pair.url)
    keep = ("name", "author", "license", "version")
    write_json(
        arguments.out / "sets.json",
        {name: {"pairs": used[name], **{k: metas[name].get(k) for k in keep}} for name in metas if used[name]},
    )
    stats = _stats(parts, train, chosen.classes) | {"dropped_as_in_train": n_dropped, "sets": len(used)}
    write_json(arguments.out / "stats.json", stats)
    return stats


def _write(out: Path, pairs: Sequence[NewPair]) -> None:
    out.mkdir(parents=True)
    for number, start in enumerate(range(0, len(pairs), PAIRS_PER_SHARD)):
        write_shard(out, number, pairs[start : start + PAIRS_PER_SHARD])


def _stats(parts: Mapping[str, Sequence[NewPair]], train: Sequence[Drawn], classes: Sequence[str]) -> dict[str, Any]:
    in_train = Counter(drawn.class_name for drawn in train)
    labelled = {name: in_train[name] for name in classes}
    stats: dict[str, Any] = {part: len(pairs) for part, pairs in parts.items()}
    for part in ("val", "test"):
        count = Counter(pair.label.index for pair in parts[part] if pair.label)
        stats[f"{part}_per_class"] = _spread([count[index] for index in range(len(classes))])
    stats["train_per_class"] = _spread(list(labelled.values()))
    stats["train_labelled"] = sum(labelled.values())
    return stats | {"train_by_class": labelled}


def _spread(counts: Sequence[int]) -> dict[str, float]:
    return {"min": min(counts), "median": statistics.median(counts), "max": max(counts)}


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="unpacked @iconify/json")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--pairs", type=int, default=60_000, help="in train")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--test-per-class", type=int, default=20)
    parser.add_argument("--val-per-class", type=int, default=10)
    parser.add_argument("--px", type=int, default=64, help="side of the pictures")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    stats = build(arguments)
    n_drawn = stats["train"] + stats["val"] + stats["test"]
    stats.pop("train_by_class")
    print(json.dumps(stats))
    print(f"{n_drawn} pairs, {n_drawn / (time.monotonic() - started):.0f} a second")


if __name__ == "__main__":
    main()
