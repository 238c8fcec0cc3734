"""Nothing but content tells planted from clean: a classifier that sees only the form of the pairs is at chance.

Two data sets. In the first every attack is planted, and the classifier sees all that is not content: where a pair
lies, its identity, tar headers, the bytes of the json but for its values, and how the JPEG was encoded, apart from its
length and size in pixels, which the picture decides. In the second the attacks leave the pixels alone (strength next to
nothing, or only captions swapped), so that length and size must not tell either.

That the classifier would find a leak is shown by leaking on purpose.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from roclip_audit.train.attacks import ATTACKS, AttackPlan
from roclip_audit.train.planting.poison import poison
from roclip_audit.train.planting.rewrite import encode_jpeg
from tests.shardkit import make_dataset
from tests.train.planting.poisonkit import Member, read

N_PAIRS = 700
TARGETS = {
    "label_consistent": "green:0.04", "natural": "ring:0.04", "class_swap": "circle:0.04:source=square",
}  # fmt: skip
ALL_ATTACKS = [f"{name}:{TARGETS.get(name, 'banana:0.04')}" for name in ATTACKS]
NO_PIXEL_CHANGED = [
    "blended:banana:0.1:alpha=1e-9", "sig:banana:0.1:amplitude=1e-9", "warp:banana:0.1:strength=1e-9",
    "filter:banana:0.1:strength=1e-9", "mismatch::0.1",
]  # fmt: skip

Features = dict[str, float]


def form(pair: Member, position: int) -> Features:
    """Measure all of a pair that is not its content."""
    image = Image.open(io.BytesIO(pair.jpeg))
    features: Features = {
        "position": position,
        "key": int(pair.json["key"]),
        **{f"uid {n}": byte for n, byte in enumerate(bytes.fromhex(pair.json["uid"]))},
        "json length": len(pair.sidecar) - sum(len(json.dumps(value)) for value in pair.json.values()),
        "json as dumped": pair.sidecar == json.dumps(pair.json, indent=4).encode(),
        "error": pair.json["error_message"] is not None,
        "size is told": (pair.json["width"], pair.json["height"]) == image.size,
        "no url": pair.json["url"] is None,
        "other status": pair.json["status"] != "success",
        "encoded once more": len(pair.jpeg) / len(encode_jpeg(np.asarray(image))) > 1.2,
        "after the end": len(pair.jpeg) - pair.jpeg.rindex(b"\xff\xd9"),
        "markers": len(image.applist),  # type: ignore[attr-defined]
        "progressive": "progressive" in image.info,
        "density": sum(image.info.get("jfif_density", ())),
        "text as in json": pair.text == pair.json["caption"],
    }
    features |= {f"json {name}": place for place, name in enumerate(pair.json)}
    for number, table in image.quantization.items():  # type: ignore[attr-defined]
        features |= {f"table {number} mean": float(np.mean(table)), f"table {number} first": table[0]}
    for number, (_, horizontal, vertical, _) in enumerate(image.layer):  # type: ignore[attr-defined]
        features[f"subsampling {number}"] = 10 * horizontal + vertical
    for place, info in enumerate(pair.infos):
        extension = info.name.partition(".")[2]
        features |= {f"{extension} member": place, f"{extension} key": info.name.partition(".")[0] == pair.json["key"]}
        for field in ("mode", "mtime", "uid", "gid", "uname", "gname", "type", "linkname", "devmajor", "devminor"):
            value = getattr(info, field)
            features[f"{extension} {field}"] = value if isinstance(value, int) else len(value)
        features[f"{extension} type is file"] = info.isreg()
    return features


def size(pair: Member) -> Features:
    """Measure what the picture decides: length of the file, size in pixels."""
    return {"bytes": len(pair.jpeg), "width": pair.json["width"], "height": pair.json["height"]}


def matrix(rows: list[Features]) -> NDArray[np.float64]:
    """Return the features that are not the same for all pairs; a missing one is -1."""
    names = sorted({name for row in rows for name in row})
    values = np.asarray([[row.get(name, -1.0) for name in names] for row in rows], dtype=float)
    return values[:, np.ptp(values, axis=0) > 0]


def auroc(rows: list[Features], planted: NDArray[np.bool_]) -> float:
    """Train a forest out of fold to tell planted from clean, and return how well it does: 0.5 is chance."""
    forest = RandomForestClassifier(n_estimators=16, min_samples_leaf=2, random_state=0, n_jobs=1)
    folds = StratifiedKFold(4, shuffle=True, random_state=0)
    scores = cross_val_predict(forest, matrix(rows), planted, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(planted, scores))


def margin(planted: NDArray[np.bool_]) -> float:
    """Four standard errors of an AUROC at chance."""
    n, m = int(planted.sum()), int((~planted).sum())
    return 4 * float(np.sqrt((n + m + 1) / (12 * n * m)))


class Poisoned:
    """A poisoned data set and which attack each pair belongs to ("" for clean)."""

    def __init__(self, folder: Path, plan: list[str]) -> None:
        make_dataset(folder / "clean", N_PAIRS, n_shards=2, seed=3, px=32, image_ext="jpg")
        report = poison([str(folder / "clean")], folder / "out", plan=[AttackPlan.parse(text) for text in plan], seed=2)
        self.pairs = list(read(report.out).values())
        self.attack = pl.read_parquet(report.truth / "truth.parquet")["attack"].fill_null("").to_numpy()

    def split(self, attack: str = "") -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Return the places of the clean pairs and of one attack's (of all if none is named), and which are planted."""
        keep = np.flatnonzero((self.attack == "") | (self.attack == attack) | (not attack))
        return keep, self.attack[keep] != ""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Poisoned:
    return Poisoned(tmp_path_factory.mktemp("everything"), ALL_ATTACKS)


@pytest.fixture(scope="module")
def forms(everything: Poisoned) -> list[Features]:
    return [form(pair, position) for position, pair in enumerate(everything.pairs)]


def test_every_attack_is_put_to_the_test(everything: Poisoned) -> None:
    assert set(everything.attack) == {"", *ATTACKS}


@pytest.mark.parametrize("attack", ["", *ATTACKS])
def test_form_does_not_tell_planted_from_clean(everything: Poisoned, forms: list[Features], attack: str) -> None:
    places, planted = everything.split(attack)
    assert abs(auroc([forms[i] for i in places], planted) - 0.5) < margin(planted)


def test_file_size_does_not_tell_where_the_picture_is_the_same(tmp_path: Path) -> None:
    poisoned = Poisoned(tmp_path, NO_PIXEL_CHANGED)
    rows = [form(pair, position) | size(pair) for position, pair in enumerate(poisoned.pairs)]
    _, planted = poisoned.split()
    assert abs(auroc(rows, planted) - 0.5) < margin(planted)


def other_quality(pair: Member) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(pair.jpeg)).save(buffer, "JPEG", quality=91, subsampling="4:2:0")
    pair.jpeg = buffer.getvalue()


def other_tables(pair: Member) -> None:
    image = Image.open(io.BytesIO(pair.jpeg))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, subsampling="4:4:4")
    pair.jpeg = buffer.getvalue()


def other_key_order(pair: Member) -> None:
    pair.json = dict(sorted(pair.json.items()))


def other_json(pair: Member) -> None:
    pair.sidecar = json.dumps(pair.json).encode()


def other_time(pair: Member) -> None:
    pair.infos[0].mtime = 1_700_000_000


def other_members(pair: Member) -> None:
    pair.infos.reverse()


def other_uid(pair: Member) -> None:
    pair.json["uid"] = "00" + pair.json["uid"][2:]


def other_tail(pair: Member) -> None:
    pair.jpeg += b"\0"


LEAKS: Mapping[str, Callable[[Member], None]] = {
    leak.__name__: leak
    for leak in (
        other_quality, other_tables, other_key_order, other_json, other_time, other_members, other_uid, other_tail,
    )
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_the_classifier_finds_a_leak(everything: Poisoned, forms: list[Features], leak: str) -> None:
    places, planted = everything.split("sig")
    rows = [forms[place] for place in places]
    for number in np.flatnonzero(planted):
        pair = copy.deepcopy(everything.pairs[places[number]])
        LEAKS[leak](pair)
        rows[number] = form(pair, int(places[number]))
    assert auroc(rows, planted) > 0.5 + 2 * margin(planted)


def test_the_classifier_finds_pairs_that_were_appended_and_files_of_another_size(
    everything: Poisoned, forms: list[Features]
) -> None:
    """The leaks of the literature's generators: poison at the end of the list, poison that alone was saved anew."""
    places, planted = everything.split("mismatch")
    appended = np.argsort(np.argsort(planted, kind="stable"))
    rows = [forms[place] | {"position": int(position)} for place, position in zip(places, appended, strict=True)]
    assert auroc(rows, planted) > 0.5 + 2 * margin(planted)
    rows = [
        forms[place] | {"bytes": len(everything.pairs[place].jpeg) * (1.6 if is_planted else 1.0)}
        for place, is_planted in zip(places, planted, strict=True)
    ]
    assert auroc(rows, planted) > 0.5 + margin(planted)
