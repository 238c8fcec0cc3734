"""Exports: the pairs of a run in the forms that other tools read.

One format a file, named in ``EXPORTERS``. Each satisfies ``Exporter`` and passes the conformance suite in
tests/audit/export. An output appears when it is complete, and replaces nothing unless ``force`` is on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from roclip_audit.audit.export.base import OWN_OPTIONS, Exporter, ExportReport, ExportRequest
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.registry import load_member, require_member

if TYPE_CHECKING:
    from roclip_audit.core.progress import Reporter
    from roclip_audit.core.run import RunFolder

__all__ = ["EXPORTERS", "ExportReport", "ExportRequest", "Exporter", "Member", "build_exporter", "export"]


@dataclass(frozen=True, slots=True)
class Member:
    """A format: where its class is, and what it writes, in a line."""

    target: str
    """module:Class"""
    summary: str


EXPORTERS: Mapping[str, Member] = {
    "parquet": Member(
        "roclip_audit.audit.export.parquet_scores:ParquetScores",
        "file: every column of the view suspicion",
    ),
    "csv": Member(
        "roclip_audit.audit.export.csv_scores:CsvScores",
        "file: the same; text that a spreadsheet would run gets a ' (--raw: it does not)",
    ),
    "datacomp": Member(
        "roclip_audit.audit.export.datacomp:DataCompSubset",
        "file: keep list for DataComp's resharder, .npy of sorted uids (--where or --remove)",
    ),
    "clip-retrieval": Member(
        "roclip_audit.audit.export.clip_retrieval:ClipRetrievalLayout",
        "folder: img_emb, text_emb, metadata for clip-retrieval and autofaiss (--space)",
    ),
    "viewer": Member(
        "roclip_audit.audit.export.viewer:ViewerTable",
        "file: parquet with paths of pictures for FiftyOne and Spotlight (--images)",
    ),
}
"""Name -> member. Modules are imported when asked for: they load DuckDB."""


def build_exporter(name: str) -> Exporter:
    """Return the exporter of a format.

    Raises:
        ConfigError: there is no such format.
    """
    require_member("format", name, EXPORTERS)
    return cast("Exporter", load_member(EXPORTERS[name].target)())


def export(run: RunFolder, format: str, request: ExportRequest, reporter: Reporter) -> ExportReport:
    """Write the pairs of a run in a format.

    Args:
        run: the run folder.
        format: one of EXPORTERS.
        request: what goes where.
        reporter: told how many pairs are done, by formats that take their time.

    Raises:
        ConfigError: the format does not exist or does not take an option, the condition is wrong, or the place is
            taken. Nothing was written.
        StoreError: the run is missing, damaged or locked.
    """
    from roclip_audit.audit.export.target import new_file, new_folder, refuse_bad_file, refuse_bad_folder

    exporter = build_exporter(format)
    _refuse_foreign_options(exporter, request)
    exporter.check(request)
    if exporter.makes == "file":
        refuse_bad_file(request.out, run, force=request.force)
        with new_file(request.out, run, force=request.force) as target:
            report = exporter.write(run, request, target, reporter)
            return replace(report, n_bytes=target.stat().st_size)
    refuse_bad_folder(request.out, force=request.force)
    about: dict[str, object] = {"format": format, "where": request.where}
    with new_folder(request.out, about, force=request.force) as folder:
        report = exporter.write(run, request, folder, reporter)
        about |= {"n_pairs": report.n_pairs, **dict(report.facts)}
        return replace(report, n_bytes=sum(path.stat().st_size for path in _files(folder)))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _refuse_foreign_options(exporter: Exporter, request: ExportRequest) -> None:
    given = [name for name in OWN_OPTIONS if getattr(request, name) not in (None, False)]
    if foreign := [name for name in given if name not in exporter.options]:
        option = "--" + foreign[0].replace("_", "-")
        takers = [name for name in EXPORTERS if foreign[0] in build_exporter(name).options]
        raise ConfigError(f"{option} is for {', '.join(takers)}, not for {exporter.name}")
