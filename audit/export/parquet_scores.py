"""All columns of the view ``suspicion`` as one parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from roclip_audit.audit.export.base import ExportReport, ExportRequest
from roclip_audit.audit.export.selected import checked, selected_rows, unscored_note
from roclip_audit.audit.formats import write_parquet
from roclip_audit.core.progress import Reporter
from roclip_audit.core.run import RunFolder


class ParquetScores:
    """One parquet file, types and text as in the database."""

    name: ClassVar[str] = "parquet"
    makes: ClassVar[Literal["file", "folder"]] = "file"
    options: ClassVar[frozenset[str]] = frozenset()

    def check(self, request: ExportRequest) -> None:
        """Ask for nothing."""

    def write(self, run: RunFolder, request: ExportRequest, target: Path, reporter: Reporter) -> ExportReport:
        """Write the file; memory is that of the sort."""
        n_pairs = checked(run, request.where)
        with selected_rows(run, request.where) as result:
            write_parquet(result, target)
        return ExportReport(format=self.name, out=request.out, n_pairs=n_pairs, notes=unscored_note(run))
