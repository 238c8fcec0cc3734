"""Read poisoned shards back, every byte of a pair's form included."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path


class Member:
    """One pair as written: tar headers, bytes, sidecar."""

    def __init__(self, infos: list[tarfile.TarInfo], content: dict[str, bytes]) -> None:
        self.infos = infos
        self.jpeg = content["jpg"]
        self.text = content["txt"].decode()
        self.sidecar = content["json"]
        self.json = json.loads(content["json"])


def read(folder: Path) -> dict[str, Member]:
    """Read all shards of a folder; pairs by uid, in their order."""
    pairs: dict[str, Member] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            infos = tar.getmembers()
            content = [tar.extractfile(info).read() for info in infos]  # type: ignore[union-attr]
        for start in range(0, len(infos), 3):
            three = infos[start : start + 3]
            extensions = [info.name.partition(".")[2] for info in three]
            pair = Member(three, dict(zip(extensions, content[start : start + 3], strict=True)))
            pairs[pair.json["uid"]] = pair
    return pairs
