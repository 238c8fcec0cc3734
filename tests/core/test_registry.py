"""Tables of plug-ins."""

from __future__ import annotations

import pytest

from roclip_audit.core.errors import ConfigError
from roclip_audit.core.registry import load_member, require_member


def test_an_unknown_name_lists_the_known_ones() -> None:
    require_member("fruit", "pear", {"apple": "", "pear": ""})
    with pytest.raises(ConfigError, match="unknown fruit 'plum'; one of apple, pear"):
        require_member("fruit", "plum", ("apple", "pear"))


def test_a_class_is_found_by_its_whole_name_or_within_a_package() -> None:
    assert load_member("roclip_audit.core.errors:ConfigError") is ConfigError
    assert load_member("errors:ConfigError", "roclip_audit.core") is ConfigError
