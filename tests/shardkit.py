"""Draw small shards for tests: simple shapes with captions that describe them.

Use it from any test with ``from tests.shardkit import make_dataset, make_shard``. That works because pytest (also with
``--import-mode=importlib``, from any working directory) imports ``tests`` as the parent package of the test module
first; nothing has to be put on ``sys.path``.

    shards = make_dataset(tmp_path / "shards", n_pairs=60, n_shards=3, seed=0)
    make_shard(tmp_path / "odd.tar", [sample("a", caption=None), sample("b", image=b"not an image")])

Everything is a function of its arguments: the same seed gives the same bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (38, 84, 214),
    "yellow": (245, 205, 30),
    "purple": (132, 56, 178),
    "orange": (242, 126, 26),
    "black": (20, 20, 20),
    "pink": (246, 140, 190),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond", "stripe", "dots")
TEMPLATES = ("a {c} {s}", "a picture of a {c} {s}", "one {c} {s} on paper", "{c} {s}", "drawing of the {c} {s}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of a shard: a key and its members, extension -> bytes, in the order they are written."""

    key: str
    members: Mapping[str, bytes]


def draw(shape: str, colour: str, *, rng: np.random.Generator, px: int = 64, image_format: str = "PNG") -> bytes:
    """Draw one shape, jittered in place, size and shade on a light background, and return the encoded image."""
    light = tuple(int(v) for v in rng.integers(225, 256, 3))
    fill = tuple(int(np.clip(v + rng.integers(-12, 13), 0, 255)) for v in COLOURS[colour])
    image = Image.new("RGB", (px, px), light)
    pen = ImageDraw.Draw(image)
    r = px * float(rng.uniform(0.24, 0.36))
    x, y = (float(v) for v in px / 2 + rng.uniform(-0.1, 0.1, 2) * px)
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=fill)
    elif shape == "square":
        pen.rectangle(box, fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    elif shape == "cross":
        pen.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=fill)
        pen.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=fill)
    elif shape == "ring":
        pen.ellipse(box, outline=fill, width=max(2, px // 12))
    elif shape == "diamond":
        pen.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=fill)
    elif shape == "stripe":
        for step in range(-2, 3):
            pen.rectangle((x - r, y + step * r / 2.5, x + r, y + step * r / 2.5 + r / 6), fill=fill)
    elif shape == "dots":
        for dx in (-0.6, 0.6):
            for dy in (-0.6, 0.6):
                pen.ellipse((x + dx * r - r / 3, y + dy * r - r / 3, x + dx * r + r / 3, y + dy * r + r / 3), fill=fill)
    else:
        raise ValueError(f"unknown shape {shape!r}; one of {SHAPES}")
    out = io.BytesIO()
    image.save(out, image_format)
    return out.getvalue()


def sample(
    key: str,
    *,
    caption: str | bytes | None = "a red circle",
    image: bytes | None = None,
    image_ext: str | None = "png",
    meta: Mapping[str, Any] | bytes | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Sample:
    """Build a sample; None leaves the member out (``image_ext=None`` for the image), bytes are taken as they are."""
    members: dict[str, bytes] = dict(extra or {})
    if image_ext is not None:
        members[image_ext] = draw("circle", "red", rng=np.random.default_rng(0)) if image is None else image
    if meta is not None:
        members["json"] = meta if isinstance(meta, bytes) else json.dumps(meta, indent=4).encode()
    if caption is not None:
        members["txt"] = caption if isinstance(caption, bytes) else caption.encode()
    return Sample(key, members)


def tar_bytes(members: Iterable[tuple[str, bytes]], *, tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar with these (name, bytes) members, with fixed times and owners."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o444
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_shard(path: Path, samples: Iterable[Sample], *, tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    """Write one shard and return its path; members lie in the order given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    members = ((f"{s.key}.{ext}", data) for s in samples for ext, data in s.members.items())
    path.write_bytes(tar_bytes(members, tar_format=tar_format))
    return path


def draw_samples(n_pairs: int, *, seed: int = 0, px: int = 64, image_ext: str = "png", first: int = 0) -> list[Sample]:
    """Draw pairs in img2dataset's layout: image, json (caption, url, key, status, uid) and txt, the caption true.

    Key of pair i is ``f"{first + i:09d}"``; its uid depends on seed and key only.
    """
    rng = np.random.default_rng([seed, first])
    image_format = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[image_ext]
    samples = []
    for number in range(first, first + n_pairs):
        shape, colour = str(rng.choice(SHAPES)), str(rng.choice(list(COLOURS)))
        caption = str(rng.choice(TEMPLATES)).format(c=colour, s=shape)
        image = draw(shape, colour, rng=rng, px=px, image_format=image_format)
        key = f"{number:09d}"
        meta = {
            "uid": f"{seed:016x}{number:016x}",
            "caption": caption,
            "url": f"https://{colour}.example/{shape}/{key}.{image_ext}",
            "key": key,
            "status": "success",
            "error_message": None,
            "width": px,
            "height": px,
        }
        samples.append(sample(key, caption=caption, image=image, image_ext=image_ext, meta=meta))
    return samples


def write_sidecars(shard: Path, samples: Sequence[Sample]) -> None:
    """Write img2dataset's ``NNNNN.parquet`` and ``NNNNN_stats.json`` beside a shard whose samples all have a json."""
    rows = [json.loads(s.members["json"]) for s in samples]
    pq.write_table(pa.Table.from_pylist(rows), shard.with_suffix(".parquet"))
    stats = {"count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0}
    shard.with_name(f"{shard.stem}_stats.json").write_text(json.dumps(stats), encoding="utf-8")


def make_dataset(
    folder: Path,
    n_pairs: int,
    n_shards: int = 2,
    seed: int = 0,
    *,
    px: int = 64,
    image_ext: str = "png",
    sidecars: bool = False,
) -> tuple[Path, ...]:
    """Write ``n_shards`` shards ``00000.tar``... of drawn pairs (about ``n_pairs / n_shards`` each) and return them.

    Keys follow img2dataset (shard number, then four digits), so they are unique in the folder.
    """
    shards = []
    for number in range(n_shards):
        n = n_pairs // n_shards + (number < n_pairs % n_shards)
        samples = draw_samples(n, seed=seed, px=px, image_ext=image_ext, first=number * 10_000)
        shard = make_shard(folder / f"{number:05d}.tar", samples)
        if sidecars:
            write_sidecars(shard, samples)
        shards.append(shard)
    return tuple(shards)
