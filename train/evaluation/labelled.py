"""Labelled pictures: WebDataset shards with a class column, or a folder of class folders.

Shards: the member ``cls`` (an index or a name), the json's ``class`` (a name; or another field), or both.
Folder: CLASS/*.jpg as torchvision's ImageFolder reads it, classes in the order of their names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.whole import ShardSample, walk_whole
from roclip_audit.train.evaluation.class_names import RawLabel, resolve_labels, spoken
from roclip_audit.train.evaluation.pictures import MAX_PIXELS, Picture, StoredPictures, picture_of

# torchvision's list; a format that is not accepted is counted as unreadable, not passed over.
FOLDER_EXTENSIONS: Final = frozenset((".jpg", ".jpeg", ".png", ".webp", ".ppm", ".bmp", ".pgm", ".tif", ".tiff"))
MAX_CLS_BYTES: Final = 1 << 10
_INDEX = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Pictures with a class each.

    Args:
        class_names: by label.
        pictures: N of them.
        labels_N: positions in ``class_names``.
        n_unlabelled: samples left out because they name no class.
    """

    class_names: tuple[str, ...]
    pictures: StoredPictures
    labels_N: NDArray[np.intp]
    n_unlabelled: int = 0


def read_labelled(
    spec: str, *, option: str, classes: Sequence[str] | None, class_key: str = "class", max_pixels: int = MAX_PIXELS
) -> Labelled:
    """Read where the pictures lie and what their classes are; no picture is decoded.

    Args:
        spec: a folder of class folders, or shards in any form of `expand_shards`.
        option: what to name in an error.
        classes: names by index; None for those of the data.
        class_key: field of the json.
        max_pixels: larger pictures will count as unreadable.

    Raises:
        ConfigError: nothing there, no class column, fewer than two classes, labels that do not fit the names.
        ShardError: a shard is damaged.
    """
    folder = Path(spec).expanduser()
    found = (
        _read_folder(folder, classes) if _has_class_folders(folder) else _read_shards(spec, classes, class_key, option)
    )
    class_names, pictures, labels, n_unlabelled = found
    if len(class_names) < 2:
        raise ConfigError(f"{option} {spec}: a single class, {class_names[0]!r}; there is nothing to tell apart")
    return Labelled(
        class_names=class_names,
        pictures=StoredPictures(pictures=pictures, max_pixels=max_pixels),
        labels_N=np.asarray(labels, dtype=np.intp),
        n_unlabelled=n_unlabelled,
    )


_Found = tuple[tuple[str, ...], list[Picture], list[int], int]


def _read_shards(spec: str, classes: Sequence[str] | None, class_key: str, option: str) -> _Found:
    raw: list[RawLabel] = []
    pictures: list[Picture] = []
    n_unlabelled = 0
    for found in walk_whole([spec], reader=f"eval {option}"):
        label = _raw_label(found, class_key)
        if label is None:
            n_unlabelled += 1
        else:
            raw.append(label)
            pictures.append(picture_of(found))
    if not raw:
        raise ConfigError(
            f"{option} {spec}: no class column in {n_unlabelled:,} samples: neither a member cls nor a field "
            f"{class_key!r} of the json (--class-key names another)"
        )
    names, labels = resolve_labels(raw, classes)
    return names, pictures, labels, n_unlabelled


def _raw_label(found: ShardSample, class_key: str) -> RawLabel | None:
    """Read the class of a sample; the member cls goes before the json."""
    says = found.text("cls", max_bytes=MAX_CLS_BYTES).strip()
    value = found.json().get(class_key)
    index = value if type(value) is int and value >= 0 else None
    name = value.strip() if isinstance(value, str) else ""
    if _INDEX.fullmatch(says):
        index = int(says)
    elif says:
        index, name = None, says
    if index is None and not name:
        return None
    return RawLabel(where=found.where, index=index, name=name or None)


def _has_class_folders(folder: Path) -> bool:
    """Tell a folder of class folders from one of shards: no tar in it, and a picture in a folder below."""
    if not folder.is_dir() or any(folder.glob("*.tar")):
        return False
    return any(next(_pictures_below(below), None) is not None for below in _class_folders(folder))


def _class_folders(folder: Path) -> list[Path]:
    return sorted(below for below in folder.iterdir() if below.is_dir() and not below.name.startswith("."))


def _pictures_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in FOLDER_EXTENSIONS:
                yield Path(parent, name)


def _read_folder(folder: Path, classes: Sequence[str] | None) -> _Found:
    folders = _class_folders(folder)
    if classes is not None and len(classes) != len(folders):
        raise ConfigError(f"{folder}: {len(folders)} class folders, but {len(classes)} names in --classes")
    pictures: list[Picture] = []
    labels: list[int] = []
    for label, below in enumerate(folders):
        files = list(_pictures_below(below))
        if not files:
            raise ConfigError(f"{below}: a class folder without pictures; remove it")
        pictures += [_picture(file, folder) for file in files]
        labels += [label] * len(files)
    names = tuple(spoken(below.name) for below in folders) if classes is None else tuple(classes)
    if classes is None and len(set(names)) < len(names):
        raise ConfigError(f"{folder}: two folders mean the same class once underscores are spaces; join or rename them")
    return names, pictures, labels, 0


def _picture(file: Path, folder: Path) -> Picture:
    try:
        n_bytes = file.stat().st_size
    except OSError:
        n_bytes = 0  # reading it will say what is wrong
    return Picture(where=str(file.relative_to(folder)), path=str(file), n_bytes=n_bytes)
