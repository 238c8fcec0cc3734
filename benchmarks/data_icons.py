"""Draw a data set of real icons with captions, for experiments: pictures from npm `@iconify/json`, drawn by resvg.

    npm pack @iconify/json && tar xzf iconify-json-*.tgz && pip install resvg-py
    python benchmarks/data_icons.py package data/icons8k --pairs 8000 --seed 0

Captions are the cleaned name of the icon with the categories of its set, such as ``grapes (food, fruit)``. Sets take
part in equal numbers until they run out; an icon and its style variants count once per set. Only sets with a free
licence; emoji-like ones are left out. ``sets.json`` in the output says set, author and licence; the url of a pair
names set and icon. The same package, seed and numbers give the same bytes. ``--shared 3`` takes only what three sets
draw, such as ``apple``: every caption is then known from other pictures, as where several makers draw one list.
"""

from __future__ import annotations

import argparse
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from roclip_audit.core.parallel import default_workers, map_ordered
from roclip_audit.core.run import write_json
from roclip_audit.core.seeding import derive_seed, generator
from roclip_audit.train.attacks import Pixels
from roclip_audit.train.planting.rewrite import NewPair, encode_jpeg, write_shard

SIDE_PX = 128
PAIRS_PER_SHARD = 1000

# Sets whose pictures mean something: logos and tickers are few, flags (named by code) none.
_COLOUR_SETS = """
icon-park streamline-color streamline-plump-color streamline-freehand-color streamline-flex-color streamline-sharp-color
streamline-ultimate-color streamline-cyber-color streamline-kameleon-color streamline-stickies-color fluent-color
glyphs-poly marketeq flat-color-icons flat-ui meteocons catppuccin material-icon-theme devicon logos skill-icons gcp
"""
_PLAIN_SETS = """
game-icons healthicons medical-icon temaki maki roentgen pinhead osmic map wi ginetex gis duo-icons icon-park-twotone
mdi tabler ph solar hugeicons carbon mingcute fa7-solid streamline-pixel memory clarity lets-icons ic
"""
_STYLE_WORDS = """
fill filled outline outlined baseline line linear light thin bold broken duotone twotone solid regular rounded sharp
round flat color colored colour icon icons alt variant 11 12 14 15 16 20 24 28 32 48 1 2 3 4 5
"""
FREE = {"MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-3.0", "ISC", "OFL-1.1", "Unlicense", "BSD-3-Clause"}
RESERVED = re.compile(r"emoji|smiley|emoticon|wordmark", re.IGNORECASE)
STYLE_WORDS = frozenset(_STYLE_WORDS.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Icon:
    """One icon of a set: where it is from, its caption, and its picture as SVG."""

    set_name: str
    name: str
    caption: str
    svg: str


def words_of(name: str) -> str:
    """Return the name as words, without the words that say how it is drawn: ``apple-fill-24`` -> ``apple``."""
    words = [word for word in re.split(r"[-_\s]+", name) if word]
    kept = [word for word in words if word.lower() not in STYLE_WORDS]
    return " ".join(kept or words)


def topic_of(category: str) -> str:
    """Return a category as lower-case words: ``MoneyPayments`` -> ``money payments``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category).strip().lower()


def icons_of(package: Path, set_name: str, meta: dict[str, Any], *, variants: bool = False) -> Iterator[Icon]:
    """Yield the icons of a set, one for each cleaned name, or with its style variants too."""
    described = json.loads((package / "json" / f"{set_name}.json").read_text(encoding="utf-8"))
    categories: dict[str, list[str]] = {}
    for category, names in described.get("categories", {}).items():
        for name in names:
            categories.setdefault(name, []).append(category)
    fallback = [part.strip() for part in meta.get("category", "").split("/") if meta.get("category") == "Logos"]
    seen: set[str] = set()
    for name, drawn in described["icons"].items():
        words = words_of(name)
        topics = [topic for raw in categories.get(name, fallback) if (topic := topic_of(raw))]
        if (
            (words in seen and not variants)
            or len(words) < 3
            or drawn.get("hidden")
            or RESERVED.search(" ".join([name, *topics]))
        ):
            continue
        seen.add(words)
        yield Icon(
            set_name=set_name,
            name=name,
            caption=f"{words} ({', '.join(topics)})" if topics else words,
            svg=_svg(drawn, described),
        )


def _svg(drawn: dict[str, Any], described: dict[str, Any]) -> str:
    box = [drawn.get(key, described.get(key, default)) for key, default in _BOX]
    view, scale = " ".join(str(number) for number in box), SIDE_PX / max(box[2:])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view}" '
        f'width="{box[2] * scale:.3f}" height="{box[3] * scale:.3f}" color="#222">{drawn["body"]}</svg>'
    )


_BOX = (("left", 0), ("top", 0), ("width", 16), ("height", 16))


def set_names() -> tuple[str, ...]:
    """Return the sets that are drawn, those in colour first."""
    return (*_COLOUR_SETS.split(), *_PLAIN_SETS.split())


def choose(per_set: dict[str, list[Icon]], n_pairs: int, seed: int) -> list[Icon]:
    """Deal icons out set by set, shuffled within each, until there are ``n_pairs``; the result is shuffled."""
    piles = [generator(seed, "icons", name).permutation(len(icons)).tolist() for name, icons in per_set.items()]
    decks = list(per_set.values())
    chosen: list[Icon] = []
    depth = 0
    while len(chosen) < n_pairs and any(depth < len(pile) for pile in piles):
        chosen += [deck[pile[depth]] for deck, pile in zip(decks, piles, strict=True) if depth < len(pile)]
        depth += 1
    order = generator(seed, "icons", "order").permutation(len(chosen[:n_pairs]))
    return [chosen[place] for place in order]


def shared_by(per_set: dict[str, list[Icon]], least: int) -> dict[str, list[Icon]]:
    """Keep the icons whose cleaned name at least so many sets have."""
    n_sets = Counter(words for icons in per_set.values() for words in {words_of(icon.name).lower() for icon in icons})
    return {
        name: [icon for icon in icons if n_sets[words_of(icon.name).lower()] >= least]
        for name, icons in per_set.items()
    }


def rasterise(svg: str, background: str = "#ffffff") -> Pixels | None:
    """Draw an SVG on a plain background; None if it cannot be drawn or comes out blank."""
    import resvg_py

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, background=background, skip_system_fonts=True)
    except ValueError:
        return None
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    blank = min(pixels.shape[:2]) < 16 or int(pixels.max()) - int(pixels.min()) < 24
    return None if blank else pixels


def draw(icon: Icon, seed: int) -> NewPair | None:
    """Draw an icon, long side 128 px on white; None if it cannot be drawn or comes out blank."""
    pixels = rasterise(icon.svg)
    if pixels is None:
        return None
    url = f"iconify://{icon.set_name}/{icon.name}"
    return NewPair(
        uid=f"{derive_seed(seed, url, 0):016x}{derive_seed(seed, url, 1):016x}",
        caption=icon.caption,
        url=url,
        jpeg=encode_jpeg(pixels),
        width=pixels.shape[1],
        height=pixels.shape[0],
    )


def build(package: Path, out: Path, *, n_pairs: int, seed: int, shared: int = 1) -> int:
    """Write ``n_pairs`` icons (fewer if the sets run out) as shards; return how many were written."""
    metas = json.loads((package / "collections.json").read_text(encoding="utf-8"))
    names = [name for name in set_names() if metas[name]["license"].get("spdx") in FREE]
    per_set = {name: list(icons_of(package, name, metas[name])) for name in names}
    chosen = choose(shared_by(per_set, shared), round(n_pairs * 1.02), seed)
    drawn = map_ordered(lambda icon: draw(icon, seed), chosen, workers=default_workers(), ahead=64)
    pairs = [pair for pair in drawn if pair is not None][:n_pairs]
    out.mkdir(parents=True)
    for number, start in enumerate(range(0, len(pairs), PAIRS_PER_SHARD)):
        write_shard(out, number, pairs[start : start + PAIRS_PER_SHARD])
    used = [pair.url.split("/")[2] for pair in pairs if pair.url]
    keep = ("name", "author", "license", "version")
    write_json(
        out / "sets.json",
        {name: {"pairs": used.count(name), **{k: metas[name].get(k) for k in keep}} for name in names},
    )
    return len(pairs)


def main() -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="unpacked @iconify/json")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--pairs", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", type=int, default=1, help="sets that must have an icon of the name [1]")
    given = parser.parse_args()
    print(build(given.package, given.out, n_pairs=given.pairs, seed=given.seed, shared=given.shared), "pairs")


if __name__ == "__main__":
    main()
