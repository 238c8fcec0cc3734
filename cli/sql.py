"""``roclip-audit sql``: ask the database of a scan anything, read-only."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from roclip_audit.core.errors import ConfigError

EXAMPLES = """Examples:

\b
  roclip-audit sql "select uid, caption, suspicion, fdr, rival_caption from suspicion order by risk desc limit 20"
  roclip-audit sql "from by_domain limit 10"
  roclip-audit sql "show tables"
  roclip-audit sql "from flagged" --format csv --out flagged.csv
  roclip-audit sql --format parquet --out scores.parquet "from suspicion"
  echo "select count(*) from flagged" | roclip-audit sql -

docs/schema.md explains every table, view and column."""


class Format(StrEnum):
    """How an answer is written."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    JSONL = "jsonl"
    PARQUET = "parquet"
    MARKDOWN = "markdown"


def sql(
    query: Annotated[
        str | None,
        typer.Argument(metavar="QUERY", show_default=False, help="One SQL statement; - for stdin."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the statement here.")] = None,
    audit: Annotated[Path, typer.Option("--audit", metavar="DIR", help="Run folder.")] = Path("audit"),
    format: Annotated[Format, typer.Option("--format", help="How the answer is written.")] = Format.TABLE,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to FILE, not stdout.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="csv: no ' before text that spreadsheets run as formula.")] = False,
    allow_external: Annotated[
        bool, typer.Option("--allow-external", help="Let the query read and write files (read_csv, copy to).")
    ] = False,
) -> None:
    """Ask the database of a scan: `select ... from suspicion`.

    Read-only; a query sees nothing outside the database. Text is written so that a caption cannot do anything to a
    terminal, a spreadsheet or a page.
    """
    from roclip_audit.audit.formats import write_result
    from roclip_audit.audit.query import run_query
    from roclip_audit.core.run import RunFolder

    statement = read_statement(query, file)
    with run_query(RunFolder(audit), statement, allow_external=allow_external) as result:
        write_result(result, "json" if as_json else format.value, out=out, raw=raw)


def read_statement(query: str | None, file: Path | None) -> str:
    """Return the SQL from the argument, a file or stdin.

    Raises:
        ConfigError: none or two of them were given, or the file cannot be read as text.
    """
    if (query is None) == (file is None):
        raise ConfigError("give one SQL statement: as an argument, with --file FILE, or as - from stdin")
    try:
        if file is not None:
            return file.read_text(encoding="utf-8")
        return sys.stdin.read() if query == "-" else str(query)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file or 'stdin'}: cannot be read as SQL ({error})") from error
