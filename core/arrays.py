"""Arrays in .npy files: written row by row, without knowing the number of rows, and read without holding them all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from roclip_audit.core.errors import StoreError


@dataclass(slots=True)
class NpyWriter:
    """Appends rows to a .npy file; made by npy_writer."""

    _file: BinaryIO
    _row_shape: tuple[int, ...]
    _dtype: np.dtype[Any]
    _n_rows: int = 0

    def append(self, rows: np.ndarray) -> None:
        """Write rows, an array [n, *row_shape]; converted to the file's type if they have another.

        Raises:
            ValueError: the rows have another shape.
        """
        if rows.shape[1:] != self._row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} do not fit a file of {self._row_shape}")
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self._n_rows += len(rows)

    def write_header(self) -> None:
        """Write the header for the rows so far; NumPy pads it so that the first axis can grow in place."""
        self._file.seek(0)
        header = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._n_rows, *self._row_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


@contextmanager
def npy_writer(path: Path, row_shape: tuple[int, ...], dtype: Literal["<f2", "|i1"] = "<f2") -> Iterator[NpyWriter]:
    """Open a .npy file (float16, or int8) for rows.

    It appears under its name when the block ends, and not at all if it raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            writer = NpyWriter(file, row_shape, np.dtype(dtype))
            writer.write_header()
            yield writer
            writer.write_header()
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def map_npy(path: Path) -> np.ndarray:
    """Map a .npy file into memory, to be read only.

    Unlike ``np.load(path, mmap_mode="r")`` it keeps no file open: a crawl has more shards than a process may
    open files.

    Raises:
        StoreError: the file is not what ``npy_writer`` wrote.
    """
    import torch

    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
        mapped = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8).numpy()
        array: np.ndarray = mapped[start:].view(dtype).reshape(shape)
    except ValueError as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and its marker in done/, then scan again") from error
    array.flags.writeable = False
    return array
