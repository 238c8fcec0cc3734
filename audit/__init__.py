"""The DuckDB store and what people read from it: SQL, a single pair, selections, exports.

For notebooks::

    from roclip_audit.audit import open_audit

    audit = open_audit("audit/")
    audit.suspicion(where="fdr <= 0.1", limit=20)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from roclip_audit.audit.notebook import Audit as Audit
    from roclip_audit.audit.notebook import open_audit as open_audit

__all__ = ["Audit", "open_audit"]


def __getattr__(name: str) -> object:
    """Import what a notebook asks for, and DuckDB and polars with it, no earlier."""
    if name in __all__:
        from roclip_audit.audit import notebook

        return getattr(notebook, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
