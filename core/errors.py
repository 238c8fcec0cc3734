"""The errors roclip-audit raises on purpose, each with the exit code its command ends with.

RoclipAuditError                 2   anything below
├── ConfigError                  2   a setting, path or option that cannot work; found before any work
│   └── MissingExtraError        2   an optional package is not installed (the message holds the install line)
├── ShardError                   3   a shard that cannot be read at all; names the file
├── EncoderError                 2   an encoder that cannot be built or whose weights do not have the pinned hash
└── StoreError                   4   the run folder or its database is damaged, unfinished or of another version
    └── StoreLockedError         4   another process holds the run folder or the database

Exit codes of the command line: 0 ok; 1 findings above ``--fail-on``; 2 usage or configuration; 3 finished, but some
shards or pairs could not be read; 4 store locked or damaged; 130 interrupted, resumable.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_FINDINGS = 1
EXIT_USAGE = 2
EXIT_UNREADABLE = 3
EXIT_STORE = 4
EXIT_INTERRUPTED = 130


class RoclipAuditError(Exception):
    """Base of every error a caller can do something about; the message says what, where and what to do."""

    exit_code = EXIT_USAGE


class ConfigError(RoclipAuditError):
    """A setting that cannot work, found before any work was done."""


class MissingExtraError(ConfigError):
    """A feature needs a package that the core install leaves out."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra '{extra}': pip install 'roclip-audit[{extra}]'")


class EncoderError(RoclipAuditError):
    """An encoder that cannot be built, or whose weights are not the pinned ones."""


class ShardError(RoclipAuditError):
    """A shard that cannot be read at all."""

    exit_code = EXIT_UNREADABLE


class StoreError(RoclipAuditError):
    """The run folder or its database is damaged, unfinished or written by another version."""

    exit_code = EXIT_STORE


class StoreLockedError(StoreError):
    """Another process holds the run folder or the database."""
