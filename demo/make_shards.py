"""Choose the demo's pairs out of the Open Clip Art Library shards; `demo/shards` is what this printed once.

    python demo/make_shards.py OPENCLIPART_SHARDS demo/shards

Chosen: public domain only; a readable caption; pictures of things (no playing cards, generated stars or interface
icons); at most so many of each series, category and creator. Pictures are copied byte for byte. The same input gives
the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

from roclip_audit.core.samples import Sample, walk_samples
from roclip_audit.core.seeding import generator
from roclip_audit.core.shards import expand_shards, open_shard

LICENCE = "CC-PDDC (public domain)"
KEPT_CATEGORIES = re.compile(
    r"animals|buildings|food|plants|tools|transportation|recreation/(music|sports)|containers|household|office|people"
    r"|electronics|education|signs_and_symbols/(weather|flags|clocks)|geography/astronomy|computer/hardware"
)
DROPPED_CATEGORIES = re.compile(r"smilies|stickmen|semaphore|maritime|miscellany|france|spain|nation")
CAPTION = re.compile(r"[A-Z0-9a-z][\w ,.'()&:/!-]{6,110}", re.ASCII)
DIRT = re.compile(
    r"@|http|www|converted|\beps\b|victor balin|svg|inkscape|cc0|openclipart|\d{3}|\bv\d|untitled"
    r"|stripper|pantyhose|nude|naked",
    re.IGNORECASE,
)
MAX_OF = {"kind": 5, "topic": 230, "category": 140, "creator": 230, "look": 2}
MAX_IMAGE_BYTES = 3600
N_SHARDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One pair of the library."""

    caption: str
    image: bytes
    sidecar: dict[str, Any]


def read_pairs(folder: str) -> Iterator[Pair]:
    """Yield every pair of the shards in ``folder``."""
    for shard in expand_shards([folder]):
        with open_shard(shard) as buffer:
            for sample in walk_samples(buffer):
                if isinstance(sample, Sample):
                    content = {name: buffer[m.offset : m.offset + m.size] for name, m in sample.members.items()}
                    yield Pair(
                        caption=content["txt"].decode().strip(),
                        image=content["jpg"],
                        sidecar=json.loads(content["json"]),
                    )


def is_fit(pair: Pair) -> bool:
    """Say whether a pair is free, readable and shows a thing."""
    category = pair.sidecar["category"]
    return (
        pair.sidecar["license"] == LICENCE
        and bool(KEPT_CATEGORIES.match(category))
        and not DROPPED_CATEGORIES.search(category)
        and bool(CAPTION.fullmatch(pair.caption))
        and not DIRT.search(pair.caption)
        and len(pair.image) <= MAX_IMAGE_BYTES
        and min(pair.sidecar["width"], pair.sidecar["height"]) >= 48
    )


def look_of(pair: Pair) -> str:
    """Hash what the picture looks like, coarsely: 8 x 8 grey levels in four steps."""
    with Image.open(io.BytesIO(pair.image)) as image:
        grey = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX))
    return hashlib.blake2b((grey // 64).tobytes(), digest_size=8).hexdigest()


def kind_of(caption: str) -> str:
    """Return the title without digits: pictures of a series share it."""
    return " ".join(re.findall(r"[a-z]+", re.split(r"[.(]", caption.lower())[0]))


def choose(pairs: list[Pair], n_pairs: int) -> list[Pair]:
    """Take pairs in a fixed random order while no series, category, creator or look is over its limit."""
    taken: Counter[tuple[str, str]] = Counter()
    chosen = []
    for index in generator(0, "demo").permutation(len(pairs)):
        pair = pairs[index]
        groups = {
            "kind": kind_of(pair.caption),
            "topic": "/".join(pair.sidecar["category"].split("/")[:2]),
            "category": pair.sidecar["category"],
            "creator": pair.sidecar["creator"],
            "look": look_of(pair),
        }
        if len(chosen) < n_pairs and all(taken[group, value] < MAX_OF[group] for group, value in groups.items()):
            taken.update(groups.items())
            chosen.append(pair)
    return chosen


def write_shard(folder: Path, number: int, pairs: list[Pair]) -> None:
    """Write one shard in img2dataset's layout."""
    rows = []
    with tarfile.open(folder / f"{number:05d}.tar", "w:", format=tarfile.USTAR_FORMAT) as tar:
        for position, pair in enumerate(pairs):
            row = {**pair.sidecar, "key": f"{number * 10_000 + position:09d}"}
            row = {name: row[name] for name in _FIELDS}
            rows.append(row)
            members = {
                "jpg": pair.image,
                "json": json.dumps(row, ensure_ascii=False).encode(),
                "txt": pair.caption.encode(),
            }
            for extension, content in members.items():
                member = tarfile.TarInfo(f"{row['key']}.{extension}")
                member.size, member.mode = len(content), 0o444
                tar.addfile(member, io.BytesIO(content))
    pl.DataFrame(rows).write_parquet(folder / f"{number:05d}.parquet")
    stats = {
        "count": len(pairs),
        "successes": len(pairs),
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "duration": 0.0,
        "start_time": 0.0,
        "end_time": 0.0,
        "status_dict": {"success": len(pairs)},
    }
    (folder / f"{number:05d}_stats.json").write_text(json.dumps(stats, indent=4) + "\n")


_FIELDS = ("url", "caption", "key", "status", "width", "height", "sha256", "license", "creator", "category")


def main() -> None:
    """Read the command line, choose and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", help="folder of the Open Clip Art Library shards")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--pairs", type=int, default=900)
    arguments = parser.parse_args()
    fit = [pair for pair in read_pairs(arguments.library) if is_fit(pair)]
    chosen = choose(fit, arguments.pairs)
    arguments.out.mkdir(parents=True)
    for number in range(N_SHARDS):
        write_shard(arguments.out, number, chosen[number::N_SHARDS])
    print(f"{len(fit)} fit, {len(chosen)} chosen")  # noqa: T201


if __name__ == "__main__":
    main()
