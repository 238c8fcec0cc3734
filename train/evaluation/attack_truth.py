"""What `poison` wrote down: which pictures were targeted, which triggers were planted, and where the poisoned data is.

The truth of `train.planting.truth` and the triggers of `train.planting.triggers`; the pictures come from the poisoned
shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.whole import walk_whole
from roclip_audit.train.evaluation.pictures import MAX_PIXELS, Picture, StoredPictures, picture_of
from roclip_audit.train.planting.triggers import PlantedTrigger, load_trigger
from roclip_audit.train.planting.truth import TRUTH_NAME

TARGETED = "targeted"
_COLUMNS = ("uid", "attack", "target", "image_shard", "image_key")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackTruth:
    """What can be tested of the attacks on a data set.

    Args:
        pictures: the distinct targeted pictures, P of them, as the model saw them in training.
        words: P target words; a picture that was planted for two words is there twice.
        triggers: by name of their folder, in its order.
        not_measured: attacks that have neither: what they did to a model cannot be tested with a picture.
    """

    pictures: StoredPictures
    words: tuple[str, ...]
    triggers: Mapping[str, PlantedTrigger]
    not_measured: tuple[str, ...]

    @property
    def target_words(self) -> tuple[str, ...]:
        """Every word that an attack is after, once."""
        return tuple(dict.fromkeys((*self.words, *(trigger.target for trigger in self.triggers.values()))))


class _Place(NamedTuple):
    """A pair that shows a targeted picture, and its word."""

    uid: str
    word: str


def read_attack_truth(folder: Path, poisoned: str | None, *, max_pixels: int = MAX_PIXELS) -> AttackTruth:
    """Read the truth and find the targeted pictures in the poisoned shards.

    Args:
        folder: what `poison` calls the truth.
        poisoned: the shards it belongs to; None for the folder beside ``folder`` that its poison.json names.
        max_pixels: larger pictures will count as unreadable.

    Raises:
        ConfigError: the folder holds no truth, no attack of it can be tested, or the shards are not those it is about.
        ShardError: a poisoned shard is damaged.
    """
    attacks, places = _read_table(folder)
    found = sorted(path.parent for path in (folder / "triggers").glob("*/trigger.json"))
    triggers = {path.name: load_trigger(path) for path in found}
    if not places and not triggers:
        raise ConfigError(
            f"--attack {folder}: no targeted picture and no trigger; {', '.join(attacks)} cannot be tested"
        )
    measured = {TARGETED, *(trigger.plan.attack for trigger in triggers.values())}
    pictures = _find_pictures(places, poisoned or str(_poisoned_folder(folder))) if places else []
    return AttackTruth(
        pictures=StoredPictures(pictures=pictures, max_pixels=max_pixels),
        words=tuple(place.word for place in places),
        triggers=triggers,
        not_measured=tuple(attack for attack in attacks if attack not in measured),
    )


def _read_table(folder: Path) -> tuple[tuple[str, ...], list[_Place]]:
    """Return the names of the attacks, and one place for each targeted picture and word."""
    if not (folder / TRUTH_NAME).is_file():
        raise ConfigError(f"--attack {folder}: no {TRUTH_NAME} there; name the folder that `poison` wrote the truth to")
    try:
        table = pl.read_parquet(folder / TRUTH_NAME, columns=list(_COLUMNS)).filter(pl.col("attack").is_not_null())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ConfigError(f"--attack {folder / TRUTH_NAME}: not a table of truth ({error})") from error
    targeted = table.filter((pl.col("attack") == TARGETED) & pl.col("target").is_not_null())
    distinct = targeted.unique(["target", "image_shard", "image_key"], keep="first", maintain_order=True)
    places = [_Place(uid=str(row["uid"]), word=str(row["target"])) for row in distinct.iter_rows(named=True)]
    return tuple(table["attack"].unique(maintain_order=True).cast(pl.String).to_list()), places


def _poisoned_folder(folder: Path) -> Path:
    """Return the folder of the poisoned shards: beside the truth, with the name that poison.json says."""
    try:
        name = json.loads((folder / "poison.json").read_text(encoding="utf-8"))["out"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / 'poison.json'}: cannot be read ({error}); --poisoned SHARDS names the data"
        ) from error
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ConfigError(f"{folder / 'poison.json'}: out is {name!r}, not the name of a folder; --poisoned SHARDS")
    beside = folder.resolve().parent / name
    if not beside.is_dir():
        raise ConfigError(f"{beside}: not there; --poisoned SHARDS says where the poisoned data is")
    return beside


def _find_pictures(places: Sequence[_Place], poisoned: str) -> list[Picture]:
    """Find the targeted pictures, in the order of ``places``; pairs go by uid, so new shards or keys do no harm."""
    wanted = {place.uid for place in places}
    pictures: dict[str, Picture] = {}
    for found in walk_whole([poisoned], reader="eval --poisoned"):
        uid = found.json().get("uid")
        if isinstance(uid, str) and uid in wanted:
            pictures.setdefault(uid, picture_of(found))
    missing = sum(place.uid not in pictures for place in places)
    if missing:
        raise ConfigError(
            f"{poisoned}: lacks {missing} of {len(places)} targeted pictures; not the data that the truth is about "
            "(--poisoned SHARDS names it)"
        )
    return [pictures[place.uid] for place in places]
