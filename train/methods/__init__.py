"""Training methods by name: one file a member, one line in the table. To add one, see ``Method`` in base.py."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from roclip_audit.core.errors import ConfigError

if TYPE_CHECKING:
    from roclip_audit.train.methods.base import Method, MethodSettings

METHODS: Mapping[str, str] = {
    "clip": "clip:Clip",
    "roclip": "roclip:RoClip",
    "safeclip": "safeclip:SafeClip",
    "cleanclip": "cleanclip:CleanClip",
}
"""Name -> "module:Class". Modules are imported when asked for: they load torch."""


def build_method(name: str, settings: MethodSettings) -> Method:
    """Build a method for a run.

    Raises:
        ConfigError: no method has this name, or its settings cannot work.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}; one of {', '.join(METHODS)}")
    module, _, class_name = METHODS[name].partition(":")
    member: type[Method] = getattr(importlib.import_module(f"{__name__}.{module}"), class_name)
    return member.build(settings)
