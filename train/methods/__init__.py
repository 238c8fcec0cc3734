"""Training methods by name: one file a member, one line in the table. To add one, see ``Method`` in base.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from roclip_audit.core.registry import load_member, require_member

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
    require_member("method", name, METHODS)
    member: type[Method] = load_member(METHODS[name], __name__)
    return member.build(settings)
