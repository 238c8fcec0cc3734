"""``roclip-audit fetch``: from a list of URLs to shards, and a second look at what the URLs show today."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from roclip_audit.cli.options import Json, Quiet
from roclip_audit.cli.render import count, percent, print_facts, print_json
from roclip_audit.core.errors import EXIT_OK, EXIT_UNREADABLE, ConfigError
from roclip_audit.core.progress import duration, make_reporter

if TYPE_CHECKING:
    from roclip_audit.sanitize.fetch.recheck import RecheckReport
    from roclip_audit.sanitize.fetch.summary import FetchReport

EXAMPLES = """Examples:

\b
  roclip-audit fetch list.parquet shards/
  roclip-audit fetch metadata/ shards/ --max-failed 0.3
  roclip-audit fetch crawl.tsv shards/ --url-col link --caption-col alt --img2dataset img2dataset-env/bin/img2dataset
  roclip-audit fetch --recheck shards/ --sample 1000 --json

Interrupted? The same command resumes.

Exit codes: 0 every row gave a pair (or no more than --max-failed did not); 2 usage or configuration, or img2dataset
is missing or broke down; 3 finished, but more rows gave none; 4 another fetch is writing here; 130 interrupted."""


class OnMismatch(StrEnum):
    """What happens to content that is not what the list published."""

    DROP = "drop"
    KEEP = "keep"


def fetch(
    urls: Annotated[
        str | None,
        typer.Argument(
            metavar="[URLS]",
            show_default=False,
            help="List: parquet (DataComp metadata too), csv, tsv or jsonl, plain or .gz; a file, a folder or a glob.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", show_default=False, help="Folder for the shards.")
    ] = None,
    recheck: Annotated[
        Path | None,
        typer.Option(metavar="OUT", show_default=False, help="Download a sample of OUT again and say what changed."),
    ] = None,
    url_col: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the URLs.")] = None,
    caption_col: Annotated[str | None, typer.Option(metavar="NAME", help="Column of the captions.")] = None,
    hash_col: Annotated[
        str | None, typer.Option(metavar="NAME", help="Column of published hashes (md5, sha1, sha256, sha512).")
    ] = None,
    on_mismatch: Annotated[
        OnMismatch, typer.Option(help="Content whose published hash differs: leave it out, or keep it and report it.")
    ] = OnMismatch.DROP,
    image_size: Annotated[int, typer.Option(metavar="PX", min=1, help="Longer sides are brought down to it.")] = 512,
    keep_bytes: Annotated[
        bool, typer.Option("--keep-bytes", help="Store what came, byte for byte, instead of encoding it anew.")
    ] = False,
    max_bytes: Annotated[int, typer.Option(metavar="N", min=1, help="Larger files are not taken.")] = 20_000_000,
    max_pixels: Annotated[int, typer.Option(metavar="N", min=1, help="Larger images are not decoded.")] = 50_000_000,
    types: Annotated[str, typer.Option(metavar="LIST", help="Kinds of images, by content.")] = "jpeg,png,webp",
    timeout: Annotated[float, typer.Option(metavar="S", min=0.1, help="Longest silence, seconds.")] = 10.0,
    deadline: Annotated[float, typer.Option(metavar="S", min=0.1, help="Longest transfer, seconds.")] = 60.0,
    retries: Annotated[int, typer.Option(metavar="N", min=0, help="After silence or a broken connection.")] = 0,
    allow_address: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", show_default=False, help="Private network that may be reached; repeatable."),
    ] = None,
    pairs_per_shard: Annotated[int, typer.Option(metavar="N", min=2, help="URLs in a shard.")] = 10_000,
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="Processes of img2dataset.")] = 1,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="Downloads at a time in each.")] = 32,
    img2dataset: Annotated[
        Path | None,
        typer.Option(metavar="PATH", show_default="installed here, or on PATH", help="Program or Python of it."),
    ] = None,
    max_failed: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="End with 0 up to this share of rows without a pair.")
    ] = 0.0,
    sample: Annotated[int, typer.Option(metavar="N", min=1, help="URLs that --recheck looks at.")] = 1_000,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the sample.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a list of URLs and captions into shards that scan takes as they are.

    Drives img2dataset behind a guard: public addresses only, limits of size, time and type, opt-outs respected,
    published hashes compared. Every row that gives no pair has a reason.
    """
    from roclip_audit.sanitize.fetch import fetch as library
    from roclip_audit.sanitize.fetch.guard import Limits
    from roclip_audit.sanitize.fetch.recheck import RecheckConfig
    from roclip_audit.sanitize.fetch.recheck import recheck as look_again
    from roclip_audit.sanitize.fetch.settings import Columns, FetchConfig

    limits = Limits(
        max_bytes=max_bytes,
        timeout_s=timeout,
        deadline_s=deadline,
        types=tuple(one.strip() for one in types.split(",")),
        allowed=tuple(allow_address or ()),
    )
    reporter = make_reporter(quiet=quiet)
    if recheck is not None:
        if urls is not None:
            raise ConfigError("--recheck OUT takes no list: it looks at the URLs of OUT again")
        drift = look_again(
            RecheckConfig(out=recheck, sample=sample, limits=limits, threads=threads, seed=seed), reporter
        )
        print_json(asdict(drift)) if as_json else print_facts(describe_drift(drift))
        return
    if urls is None or out is None:
        raise ConfigError("name a list and a folder: roclip-audit fetch URLS OUT")
    report = library.fetch(
        FetchConfig(
            urls=urls,
            out=out,
            columns=Columns(url=url_col, caption=caption_col, published_hash=hash_col),
            limits=limits,
            image_size=image_size,
            keep_bytes=keep_bytes,
            max_pixels=max_pixels,
            keep_mismatches=on_mismatch is OnMismatch.KEEP,
            pairs_per_shard=pairs_per_shard,
            processes=processes,
            threads=threads,
            retries=retries,
            img2dataset=img2dataset,
        ),
        reporter,
    )
    print_json(asdict(report) | {"n_lost": report.n_lost}) if as_json else print_facts(describe(report, out))
    raise typer.Exit(exit_code(report, max_failed))


def exit_code(report: FetchReport, max_failed: float) -> int:
    """Return what the command ends with; an unfinished shard is never a success."""
    lost = report.n_lost > max_failed * report.n_rows
    return EXIT_UNREADABLE if lost or report.n_unfinished else EXIT_OK


def describe(report: FetchReport, out: Path) -> Iterator[tuple[str, str]]:
    """Yield the report as lines of name and value."""
    yield (
        "fetched",
        f"{count(report.n_pairs, 'pair')} of {count(report.n_rows, 'row')} in {count(report.n_shards, 'shard')}, "
        f"{duration(report.seconds)} (img2dataset {report.img2dataset})",
    )
    if report.reused:
        yield "resumed", f"{count(report.reused, 'shard')} finished before"
    if report.n_hashes:
        yield (
            "verified",
            f"{count(report.n_verified, 'pair')} have their published hash, {report.n_hashes:,} rows name one",
        )
    if report.n_failed:
        yield "failed", f"{count(report.n_failed, 'URL')} ({percent(report.n_failed / report.n_rows)})"
    for reason, n in report.failures.items():
        worst = ", ".join(f"{host or '?'} {m:,}" for host, m in report.hosts.get(reason, {}).items())
        yield "", f"{n:,} {reason} ({worst})"
    if report.n_rejected:
        yield "not tried", f"{count(report.n_rejected, 'row')}; see {out / 'fetch' / 'rejected.parquet'}"
    for reason, n in report.rejected.items():
        yield "", f"{n:,} {reason}"
    if report.n_unfinished:
        yield "unfinished", f"{count(report.n_unfinished, 'shard')}; the same command tries again"
    yield "shards", str(out)


def describe_drift(report: RecheckReport) -> Iterator[tuple[str, str]]:
    """Yield the report of a recheck as lines of name and value."""
    yield "looked at", f"{count(report.n_checked, 'URL')} of {report.n_known:,} that were fetched"
    for name, n in (
        ("same", report.n_same),
        ("changed", report.n_changed),
        ("gone", report.n_gone),
        ("no answer", report.n_failed),
    ):
        yield name, f"{n:,} ({percent(n / report.n_checked)})" if n else "0"
    for drift in report.domains:
        yield (
            "domain",
            f"{drift.domain}: {drift.n_changed:,} changed, {drift.n_gone:,} gone of {drift.n_checked:,}, "
            f"p corrected {drift.p_corrected:.2g}",
        )
    yield "rows", report.file
