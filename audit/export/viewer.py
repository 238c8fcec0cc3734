"""A table with pictures, for tools that show files: FiftyOne and Renumics Spotlight.

Both want one row a picture and an absolute path: FiftyOne makes a sample of ``filepath`` and fields, Spotlight takes a
column whose values are image files for pictures. So the pictures are written to disk, each drawn anew from what the
decoder saw: a PNG named by uid. No byte of a shard and no name out of it gets to the disk, and faint triggers survive.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from roclip_audit.audit.export.base import MAX_IMAGES, ExportReport, ExportRequest
from roclip_audit.audit.export.selected import checked, selected_rows, unscored_note
from roclip_audit.audit.export.target import new_folder, refuse_bad_folder
from roclip_audit.audit.pictures import NO_IMAGE, locate_pictures, read_pictures
from roclip_audit.audit.query import clear_errors
from roclip_audit.audit.store import open_readonly
from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.progress import Progress, Reporter
from roclip_audit.core.run import RunFolder

_COLUMNS: Final = "* exclude (q_by_view)"  # Spotlight would take a list of numbers for an embedding
_UID: Final = re.compile(r"[0-9a-f]{32}")


class ViewerTable:
    """A parquet file with ``filepath`` in front, and a folder of PNGs."""

    name: ClassVar[str] = "viewer"
    makes: ClassVar[Literal["file", "folder"]] = "file"
    options: ClassVar[frozenset[str]] = frozenset({"images", "max_images"})

    def check(self, request: ExportRequest) -> None:
        """Ask for a free folder for the pictures."""
        if request.images is None:
            raise ConfigError("FiftyOne and Spotlight show files: name a new folder for the pictures with --images DIR")
        refuse_bad_folder(request.images, force=request.force)

    def write(self, run: RunFolder, request: ExportRequest, target: Path, reporter: Reporter) -> ExportReport:
        """Write pictures and table; memory is that of a batch of rows and of one picture.

        A pair whose picture cannot be read stays in the table: ``filepath`` is null, ``image_note`` says why.
        """
        self.check(request)
        assert request.images is not None
        n_pairs, most = checked(run, request.where), request.max_images or MAX_IMAGES
        if n_pairs > most:
            raise ConfigError(
                f"{n_pairs:,} pairs are selected, at most {most:,} pictures are written; narrow --where, for example "
                "to 'fdr <= 0.1', or raise --max-images"
            )
        images = request.images.resolve()
        about: dict[str, object] = {"format": self.name, "table": str(request.out), "where": request.where}
        n_unread = 0
        with (
            new_folder(images, about, force=request.force) as folder,
            reporter.stage("pictures", total=n_pairs) as progress,
            selected_rows(run, request.where, columns=_COLUMNS) as result,
        ):
            schema, batches = result.arrow()
            text = [pa.field("filepath", pa.string()), pa.field("image_note", pa.string())]
            schema = pa.schema([text[0], *schema, text[1]])
            with pq.ParquetWriter(target, schema, compression="zstd") as writer:
                for batch in batches:
                    notes = _extract(run, batch["uid"].to_pylist(), folder, progress)
                    n_unread += sum(note is not None for note in notes.values())
                    paths = [None if note else str(_path(images, uid)) for uid, note in notes.items()]
                    columns = [pa.array(paths, pa.string()), *batch.columns, pa.array(notes.values(), pa.string())]
                    writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            about["n_images"] = n_pairs - n_unread
        return ExportReport(
            format=self.name,
            out=request.out,
            n_pairs=n_pairs,
            n_unreadable=n_unread,
            facts=(("pictures", f"{n_pairs - n_unread:,} in {images}"),),
            notes=unscored_note(run),
        )


def _path(folder: Path, uid: str) -> Path:
    if not _UID.fullmatch(uid):
        raise StoreError(f"the database has a uid that is none: {uid[:40]!r}; run the same scan again")
    return folder / uid[:2] / f"{uid}.png"


def _extract(run: RunFolder, uids: list[str], folder: Path, progress: Progress) -> dict[str, str | None]:
    """Write the pictures of some pairs; return what is wrong with each, None if nothing, in the order of ``uids``."""
    notes: dict[str, str | None] = dict.fromkeys(uids, NO_IMAGE)
    with open_readonly(run) as connection, clear_errors(run.database):
        places = locate_pictures(connection, uids)
    for uid, picture in read_pictures(places):
        notes[uid] = picture.note or None
        if picture.image is not None:
            _save(picture.image, _path(folder, uid))
        progress.advance(1, n_errors=int(picture.image is None))
    return notes


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    image.save(path, "PNG", compress_level=1)  # level 6 takes several times as long for a tenth less
