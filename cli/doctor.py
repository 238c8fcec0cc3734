"""``roclip-audit doctor``: will it run here, how fast, and is the run folder sound?"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from roclip_audit.cli.options import AuditDir, Json
from roclip_audit.cli.render import count, print_json
from roclip_audit.core.environment import Check, check_machine, readable_size
from roclip_audit.core.errors import EXIT_OK, EXIT_STORE, RoclipAuditError, StoreLockedError
from roclip_audit.core.terminal import printable

if TYPE_CHECKING:
    from roclip_audit.core.run import RunFolder

EXAMPLES = """Examples:

\b
  roclip-audit doctor
  roclip-audit doctor --audit audit-crawl --json

Exit codes: 0 nothing fails; 2 something needed is missing; 4 the run folder is damaged."""


def doctor(audit: AuditDir = Path("audit"), as_json: Json = False) -> None:
    """Check versions, processor, memory, weights and the run folder, and say what to do about each failure."""
    checks = (*check_machine(audit), *check_weights(), check_hub_cache(), *check_run(audit))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            typer.echo(line(check))
    raise typer.Exit(max((check.exit_code for check in checks if check.status == "fail"), default=EXIT_OK))


def line(check: Check) -> str:
    """Return a check as one line for a terminal."""
    advice = f" -> {check.advice}" if check.advice else ""
    return f"{check.status:<4}  {check.name:<18}  {printable(check.found + advice)}"


def check_weights() -> Iterator[Check]:
    """Check that the weights of the embedded encoder are installed and are the pinned ones."""
    try:
        from roclip_audit.sanitize.encoders.weights import PINNED, read_verified
    except ImportError as error:
        yield Check(
            name="weights", status="fail", found=f"cannot be checked: {error}", advice="install what is missing"
        )
        return
    for pinned in PINNED:
        name = Path(pinned.path).name
        try:
            size = len(read_verified(pinned))
        except RoclipAuditError as error:
            yield Check(name="weights", status="fail", found=str(error))
        else:
            yield Check(name="weights", status="ok", found=f"{name}, {readable_size(size)}, sha256 as pinned")


def check_hub_cache() -> Check:
    """List what the Hugging Face cache holds, so that one knows which open_clip models work without network."""
    try:
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound
    except ImportError as error:
        return Check(name="hub cache", status="warn", found=f"cannot be checked: {error}")
    try:
        cached = scan_cache_dir()
    except CacheNotFound:
        return Check(name="hub cache", status="ok", found="empty; --encoder embedded needs none")
    names = ", ".join(sorted(repo.repo_id for repo in cached.repos if repo.repo_type == "model")) or "no models"
    return Check(name="hub cache", status="ok", found=f"{names}, {readable_size(cached.size_on_disk)}")


def check_run(folder: Path) -> Iterator[Check]:
    """Check lock, completion markers, manifest and database of a run folder, if there is one."""
    from roclip_audit.core.run import RunFolder

    if not folder.exists():
        yield Check(name="run folder", status="ok", found=f"{folder}: not there yet; a scan makes it")
        return
    run = RunFolder(folder)
    yield check_lock(run)
    yield check_markers(run)
    yield check_store(run)


def check_lock(run: RunFolder) -> Check:
    """Say whether a scan is writing to the run folder."""
    try:
        with (run.root / ".lock").open(encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return Check(name="lock", status="ok", found="free")
    except OSError:
        return Check(name="lock", status="warn", found="a scan is writing here", advice="wait for it to finish")
    return Check(name="lock", status="ok", found="free")


def check_markers(run: RunFolder) -> Check:
    """Check that every completion marker can be read."""
    markers = sorted((run.root / "done").glob("*/*.json"))
    for marker in markers:
        try:
            json.loads(marker.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            advice = "delete it; the next scan does that piece again"
            found = f"{marker}: damaged ({error})"
            return Check(name="finished work", status="fail", found=found, advice=advice, exit_code=EXIT_STORE)
    return Check(name="finished work", status="ok", found=count(len(markers), "piece"))


def check_store(run: RunFolder) -> Check:
    """Check that manifest and database open, have this version's form, and agree on the pairs of every shard."""
    from roclip_audit.audit.manifest import read_manifest
    from roclip_audit.audit.query import run_query

    if not run.manifest.exists() and not run.database.exists():
        return Check(name="database", status="warn", found="no finished scan", advice="run the scan again: it resumes")
    try:
        expected = {shard.name: shard.n_pairs for shard in read_manifest(run).shards}
        with run_query(run, "select shard, count(*) from pairs group by shard") as result:
            found = {str(shard): int(n) for shard, n in result.rows()}
    except StoreLockedError as error:
        return Check(name="database", status="warn", found=str(error))
    except RoclipAuditError as error:
        return Check(name="database", status="fail", found=str(error), exit_code=EXIT_STORE)
    differing = [name for name in expected | found if expected.get(name, 0) != found.get(name, 0)]
    if differing:
        text = f"manifest and database differ in {count(len(differing), 'shard')}, first {differing[0]}"
        advice = "run the same scan again: it builds the database anew"
        return Check(name="database", status="fail", found=text, advice=advice, exit_code=EXIT_STORE)
    return Check(name="database", status="ok", found=f"{count(sum(found.values()), 'pair')}, as the manifest says")
