"""What an export is: a request, an exporter that carries it out, a report of what was written.

Nothing heavy is imported here: the command line reads the table of formats for its help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from roclip_audit.core.progress import Reporter
    from roclip_audit.core.run import RunFolder

Space = Literal["encoder", "aligned"]
MAX_IMAGES = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """What is to be written where.

    Attributes:
        out: the file, or the folder, to make.
        where: condition over the view ``suspicion``; the pairs for which it is true are written, None for all.
        force: replace what an earlier export left at ``out`` (and at ``images``).
        remove: datacomp: the rule of ``curate --where``, the pairs for which it is true are left out.
        remove_unscored: datacomp: also leave out pairs without evidence.
        raw: csv: no guard against spreadsheet formulas.
        space: clip-retrieval: which vectors; the encoder's by default.
        images: viewer: folder to make, for the pictures.
        max_images: viewer: most pictures that are written, MAX_IMAGES by default.
    """

    out: Path
    where: str | None = None
    force: bool = False
    remove: str | None = None
    remove_unscored: bool = False
    raw: bool = False
    space: Space | None = None
    images: Path | None = None
    max_images: int | None = None


OWN_OPTIONS = ("remove", "remove_unscored", "raw", "space", "images", "max_images")
"""Fields of a request that only some exporters take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportReport:
    """What was written.

    Attributes:
        format: name of the exporter.
        out: the file or folder.
        n_pairs: pairs that were written.
        n_bytes: of all files.
        n_unreadable: pairs whose picture could not be read; they are in the table, without a picture.
        facts: more about what was written, name and value.
        notes: what a reader should know, in sentences.
    """

    format: str
    out: Path
    n_pairs: int
    n_bytes: int = 0
    n_unreadable: int = 0
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())


class Exporter(Protocol):
    """Writes the pairs of a run in one format.

    ``write`` may leave its output half-made: it is given temporary places, and ``export`` moves them where they belong.
    """

    name: ClassVar[str]
    makes: ClassVar[Literal["file", "folder"]]
    options: ClassVar[frozenset[str]]
    """Those of OWN_OPTIONS that it takes."""

    def check(self, request: ExportRequest) -> None:
        """Raise ConfigError if the request lacks something; called before any work."""
        ...

    def write(self, run: RunFolder, request: ExportRequest, target: Path, reporter: Reporter) -> ExportReport:
        """Write to ``target``, a file that does not exist or an empty folder.

        Raises:
            ConfigError: a condition is wrong, or too much was asked for.
            StoreError: the run is missing, damaged or locked.
        """
        ...
