"""All columns of the view ``suspicion`` as one CSV file that a spreadsheet may open."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from roclip_audit.audit.export.base import ExportReport, ExportRequest
from roclip_audit.audit.export.selected import checked, selected_rows, unscored_note
from roclip_audit.audit.formats import write_csv
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder


class CsvScores:
    """One CSV file, UTF-8 with a header; text that a spreadsheet would run as a formula gets an apostrophe."""

    name: ClassVar[str] = "csv"
    makes: ClassVar[Literal["file", "folder"]] = "file"
    options: ClassVar[frozenset[str]] = frozenset({"raw"})

    def check(self, request: ExportRequest) -> None:
        """Ask for nothing."""

    def write(self, run: RunFolder, request: ExportRequest, target: Path, reporter: Reporter) -> ExportReport:
        """Write the file; memory is that of the sort."""
        n_pairs = checked(run, request.where)
        with (
            selected_rows(run, request.where) as result,
            target.open("w", encoding="utf-8", newline="") as stream,
        ):
            write_csv(result, stream, raw=request.raw)
        guard = "raw: a caption may be a formula; do not open it in a spreadsheet" if request.raw else ""
        notes = (*unscored_note(run), *((guard,) if guard else ()))
        return ExportReport(format=self.name, out=request.out, n_pairs=n_pairs, notes=notes)
