"""scikit-learn, which some peers need and roclip-audit does not."""

from __future__ import annotations

import importlib

from roclip_audit.core.errors import MissingExtraError


def require_sklearn(peer: str, module: str) -> None:
    """Import a module of scikit-learn, so that it costs no time later.

    Raises:
        MissingExtraError: it is not installed; the message holds the line that installs it.
    """
    try:
        importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise MissingExtraError(f"the peer {peer}", "bench") from error
