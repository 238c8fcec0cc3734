"""The row-by-row .npy writer against numpy.save."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.arrays import map_npy, npy_writer
from roclip_audit.core.errors import StoreError


@given(st.lists(st.integers(0, 7), max_size=6), st.sampled_from([(), (3,), (2, 5)]))
def test_rows_written_in_pieces_load_as_one_array(sizes: list[int], row_shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal((size, *row_shape)).astype(np.float16) for size in sizes]
    path = Path(tempfile.mkdtemp()) / "rows.npy"
    with npy_writer(path, row_shape) as writer:
        for piece in pieces:
            writer.append(piece)
    loaded = np.load(path, mmap_mode="r" if sum(sizes) else None)
    assert loaded.dtype == np.float16
    assert np.array_equal(loaded, np.concatenate([np.empty((0, *row_shape), np.float16), *pieces]))
    mapped = map_npy(path)
    assert mapped.dtype == np.float16
    assert np.array_equal(mapped, loaded)
    assert not mapped.flags.writeable


def test_rows_of_another_shape_are_refused_and_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    with npy_writer(tmp_path / "rows.npy", (2,)) as writer:
        writer.append(np.zeros((3, 2), np.float16))
    before = (tmp_path / "rows.npy").read_bytes()
    with pytest.raises(ValueError, match="do not fit"), npy_writer(tmp_path / "rows.npy", (5,)) as writer:
        writer.append(np.zeros((3, 2), np.float16))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]
    assert (tmp_path / "rows.npy").read_bytes() == before


def test_mapped_files_are_not_kept_open(tmp_path: Path) -> None:
    with npy_writer(tmp_path / "rows.npy", (2,)) as writer:
        writer.append(np.ones((3, 2)))
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    mapped = [map_npy(tmp_path / "rows.npy") for _ in range(30)]
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open
    assert all(np.array_equal(rows, np.ones((3, 2))) for rows in mapped)


@pytest.mark.parametrize("keep", [0, 5, 100, 130])
def test_a_damaged_file_names_itself(tmp_path: Path, keep: int) -> None:
    with npy_writer(tmp_path / "rows.npy", (2,)) as writer:
        writer.append(np.ones((3, 2)))
    (tmp_path / "rows.npy").write_bytes((tmp_path / "rows.npy").read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"rows\.npy: damaged"):
        map_npy(tmp_path / "rows.npy")
