"""The command line: one module a command, nothing heavy imported before a command runs.

roclip-audit --help
roclip-audit scan shards/
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.core import TyperGroup

from roclip_audit import __version__
from roclip_audit.cli import bench, curate, demo, doctor, export, fetch, poison, report, review, scan, show, sql, train
from roclip_audit.cli import eval as evaluation
from roclip_audit.core.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, RoclipAuditError
from roclip_audit.core.terminal import say

EXAMPLES = """Start with:

\b
  roclip-audit demo
  roclip-audit scan shards/
  roclip-audit sql "select uid, caption, suspicion, fdr, rival_caption from suspicion order by risk desc limit 20"
  roclip-audit report
  roclip-audit curate shards/ curated/ --where "fdr <= 0.1"

Exit codes: 0 ok; 1 findings above --fail-on; 2 usage or configuration, or an error in roclip-audit; 3 finished, but
some shards or pairs could not be read; 4 run folder locked or damaged; 130 interrupted."""


class Commands(TyperGroup):
    """The group of commands, where every error becomes a message and an exit code."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the command that was asked for."""
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except RoclipAuditError as error:
            say(f"roclip-audit: error: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("roclip-audit: interrupted; the same command resumes (train: with --resume)")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            _drop_stdout()
            raise typer.Exit(EXIT_OK) from None
        return answer


def _drop_stdout() -> None:
    """Send what is still to be written nowhere: the reader (``| head``) has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="roclip-audit",
    cls=Commands,
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"roclip-audit {__version__}")
        raise typer.Exit


@app.callback()
def roclip_audit(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Find planted and mismatched image-caption pairs before a CLIP-like model learns them."""


app.command(short_help="Give every pair a suspicion, and every list an error rate.", epilog=scan.EXAMPLES)(scan.scan)
app.command(short_help="Query the results, read-only.", epilog=sql.EXAMPLES)(sql.sql)
app.command(short_help="Show one pair with all its evidence.", epilog=show.EXAMPLES)(show.show)
app.command(short_help="Write one HTML page about a run.", epilog=report.EXAMPLES)(report.report)
app.command(short_help="Look at pairs and decide, in the browser.", epilog=review.EXAMPLES)(review.review)
app.command(short_help="Write shards without the pairs that a rule names.", epilog=curate.EXAMPLES)(curate.curate)
app.command(short_help="Fetch a list of URLs into shards, or look at them again.", epilog=fetch.EXAMPLES)(fetch.fetch)
app.command(short_help="Write scores, keep lists, embeddings or pictures for other tools.", epilog=export.EXAMPLES)(
    export.export
)
app.command(short_help="Train a CLIP model, with the RoCLIP defence or without.", epilog=train.EXAMPLES)(train.train)
app.command(
    "eval", short_help="Measure what a defence bought, and whether attacks still work.", epilog=evaluation.EXAMPLES
)(evaluation.evaluate)
app.command(short_help="Plant known attacks in a copy, with ground truth.", epilog=poison.EXAMPLES)(poison.poison)
app.command(short_help="Measure detection against planted truth and against peers.", epilog=bench.EXAMPLES)(bench.bench)
app.command(short_help="Plant, scan and compare, on the pairs that ship.", epilog=demo.EXAMPLES)(demo.demo)
app.command(short_help="Check installation, machine and run folder.", epilog=doctor.EXAMPLES)(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; the entry point of ``roclip-audit``.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    try:
        app(arguments, prog_name="roclip-audit")
    except Exception:  # noqa: BLE001 - the top of the command line: what gets here is a defect of ours
        for line in traceback.format_exc().splitlines():
            say(line)
        say("roclip-audit: this is an error in roclip-audit; please report it with the lines above")
        sys.exit(EXIT_USAGE)


if __name__ == "__main__":
    main()
