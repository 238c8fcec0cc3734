"""train/planting/rewrite.py: labels are extra, and add nothing to a pair without one."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np

from roclip_audit.train.planting.rewrite import Label, NewPair, encode_jpeg, write_shard

PAIR = NewPair(uid="u", caption="a cat", url=None, jpeg=encode_jpeg(np.zeros((8, 8, 3), np.uint8)), width=8, height=8)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_a_label_is_a_field_and_a_member(tmp_path: Path) -> None:
    labelled = dataclasses.replace(PAIR, label=Label(index=7, name="cat"))
    found = members(tmp_path / write_shard(tmp_path, 0, [PAIR, labelled]))
    assert [name for name in found if name.startswith("000000000.")] == [
        "000000000.jpg",
        "000000000.json",
        "000000000.txt",
    ]
    plain, with_class = (json.loads(found[f"00000000{n}.json"]) for n in (0, 1))
    assert with_class == {**plain, "key": "000000001", "class": "cat"}
    assert found["000000001.cls"] == b"7"
