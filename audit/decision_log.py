"""The log of decisions: ``decisions.jsonl`` in the run folder, one JSON object a line, only ever appended to.

It is the source of truth about what people decided; the database holds a copy. A line says who gave which pair which
verdict, when and why. The last line about a pair counts, and ``clear`` takes back what was decided before. Lines that
one click wrote share an ``action``; taking an action back appends lines that restore what was before it.

Writers take turns (``flock``), write all lines of an action in one piece and wait for the disk. A crash can leave the
last line torn: the next writer ends it, and readers skip what is no whole decision, so that no other line is lost.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, get_args

from roclip_audit.core.errors import ConfigError, StoreError
from roclip_audit.core.run import RunFolder

LOG_NAME: Final = "decisions.jsonl"
MAX_NOTE: Final = 2000
MAX_REVIEWER: Final = 64
Verdict = Literal["keep", "drop", "clear"]
VERDICTS: Final[tuple[str, ...]] = get_args(Verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One line of the log.

    Attributes:
        uid: of the pair; the pair may leave the run and come back.
        verdict: keep, drop, or clear (as if nothing had been decided).
        reviewer: who.
        note: why.
        at: when, UTC, ISO 8601.
        action: the same for all lines of one action.
        undoes: the action that this one takes back.
    """

    uid: str
    verdict: str
    reviewer: str
    note: str | None
    at: str
    action: str
    undoes: str | None = None

    @property
    def decided_at(self) -> datetime:
        """When, as a time without zone, which is UTC's."""
        return datetime.fromisoformat(self.at).astimezone(UTC).replace(tzinfo=None)


def log_path(run: RunFolder) -> Path:
    """Return where the log lies, or will lie."""
    return run.root / LOG_NAME


def log_bytes(run: RunFolder) -> int:
    """Return the size of the log, 0 if nothing was ever decided."""
    try:
        return log_path(run).stat().st_size
    except FileNotFoundError:
        return 0


def default_reviewer() -> str:
    """Return the name that the system knows the user by."""
    try:
        return getpass.getuser()[:MAX_REVIEWER]
    except (OSError, KeyError):  # a process without an account, as in some containers
        return "unknown"


def new_decisions(uids: Sequence[str], verdict: str, *, reviewer: str, note: str | None = None) -> list[Decision]:
    """Return the lines of one new action.

    Raises:
        ConfigError: an unknown verdict, a nameless reviewer, or a name or note that is too long.
    """
    if verdict not in VERDICTS:
        raise ConfigError(f"unknown verdict {verdict!r}; use {', '.join(VERDICTS)}")
    if not reviewer.strip() or len(reviewer) > MAX_REVIEWER:
        raise ConfigError(f"a reviewer's name has 1 to {MAX_REVIEWER} characters")
    if note is not None and len(note) > MAX_NOTE:
        raise ConfigError(f"a note has {MAX_NOTE:,} characters at most, this one {len(note):,}")
    at, action = datetime.now(UTC).isoformat(timespec="microseconds"), secrets.token_hex(8)
    return [
        Decision(uid=uid, verdict=verdict, reviewer=reviewer, note=note or None, at=at, action=action) for uid in uids
    ]


def _parsed(line: bytes) -> Decision | None:
    """Return the decision on a line, or None for what a crash left of one."""
    try:
        value = json.loads(line)
        undoes, note = value.get("undoes"), value.get("note")
        found = Decision(
            uid=str(value["uid"]),
            verdict=str(value["verdict"]),
            reviewer=str(value["reviewer"]),
            note=None if note is None else str(note),
            at=str(value["at"]),
            action=str(value["action"]),
            undoes=None if undoes is None else str(undoes),
        )
        return found if found.verdict in VERDICTS and found.decided_at else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None


def _parse(content: bytes) -> Iterator[Decision]:
    for line in content.split(b"\n"):
        decision = _parsed(line) if line else None
        if decision is not None:
            yield decision


def _complete(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def read_log(run: RunFolder, *, start: int = 0) -> tuple[list[Decision], int]:
    """Read the whole lines of the log from a position on.

    Args:
        run: the run folder.
        start: byte to begin at, the end that an earlier call returned.

    Returns:
        The decisions, oldest first, and the byte after the last whole line.

    Raises:
        StoreError: the log is there but cannot be read.
    """
    try:
        with log_path(run).open("rb") as log:
            log.seek(start)
            content = _complete(log.read())
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise StoreError(f"{log_path(run)}: cannot be read ({error.strerror})") from error
    return list(_parse(content)), start + len(content)


class LogWriter:
    """The log, held against other writers; from ``open_log``."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path

    def read(self) -> list[Decision]:
        """Return all decisions, oldest first."""
        return list(_parse(_complete(self._path.read_bytes())))

    def append(self, decisions: Sequence[Decision]) -> None:
        """Append lines and wait until they are on the disk; all of them or none.

        Raises:
            StoreError: the disk is full, or the like; the log is as it was.
        """
        if not decisions:
            return
        before = os.fstat(self._descriptor).st_size
        torn = before > 0 and os.pread(self._descriptor, 1, before - 1) != b"\n"
        lines = "".join(json.dumps(_as_dict(decision), ensure_ascii=True) + "\n" for decision in decisions)
        rest = memoryview((b"\n" if torn else b"") + lines.encode())
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, before)
            raise StoreError(f"{self._path}: cannot be written ({error.strerror}); nothing was decided") from error


def _as_dict(decision: Decision) -> dict[str, Any]:
    return {name: value for name, value in asdict(decision).items() if name != "undoes" or value is not None}


@contextmanager
def open_log(run: RunFolder) -> Iterator[LogWriter]:
    """Hold the log for writing; other writers wait.

    Raises:
        StoreError: it cannot be opened.
    """
    path = log_path(run)
    is_new = not path.exists()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: cannot be opened ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # the kernel lets go when the descriptor is closed
        if is_new:
            _sync_folder(run.root)
        yield LogWriter(descriptor, path)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make sure that the name of a new file survives a crash too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _standing(history: Sequence[Decision]) -> dict[str, list[Decision]]:
    """Return uid -> the decisions about it that were not taken back, the one that counts last."""
    stacks: dict[str, list[Decision]] = {}
    for decision in history:
        stack = stacks.setdefault(decision.uid, [])
        if decision.undoes is None:
            stack.append(decision)
        elif stack and stack[-1].action == decision.undoes:
            stack.pop()
    return stacks


def take_back_last(history: Sequence[Decision], reviewer: str) -> tuple[list[Decision], int] | None:
    """Return the lines that take back a reviewer's last action that still stands, None if there is none.

    A pair that somebody decided about since keeps the later verdict; the number of these comes with the lines.
    """
    stacks = _standing(history)
    standing = {stack[-1].action for stack in stacks.values() if stack}
    own = (one for one in reversed(history) if one.reviewer == reviewer and one.undoes is None)
    last = next((one.action for one in own if one.action in standing), None)
    if last is None:
        return None
    n_pairs = len({one.uid for one in history if one.action == last})
    at, action = datetime.now(UTC).isoformat(timespec="microseconds"), secrets.token_hex(8)
    lines = []
    for uid, stack in stacks.items():
        if stack and stack[-1].action == last:
            before = stack[-2] if len(stack) > 1 else None
            verdict, note = ("clear", None) if before is None else (before.verdict, before.note)
            lines.append(
                Decision(uid=uid, verdict=verdict, reviewer=reviewer, note=note, at=at, action=action, undoes=last)
            )
    return lines, n_pairs - len(lines)
