"""The domain of a url that anybody may have written; the database reads it in the same way."""

from __future__ import annotations

import re
from typing import Final

MAX_URL_CHARS: Final = 4_096
_VANISHING: Final = str.maketrans("", "", "\t\r\n")
# What follows '//', up to the path, without user, port and trailing dots. A backslash ends the host, as in browsers.
_HOST: Final = re.compile(
    r"[\x00-\x20]*(?:[a-z][a-z0-9+.-]*:)?//(?:[^/\\?#]*@)?"
    r'([^\x00-\x20\x7f"%<>^`{|}/\\?#@:\[\]]{1,253}|\[[0-9a-f:.]{2,45}\])'
    r"(?::[0-9]{0,5})?(?:[/\\?#]|\Z)"
)


def domain_of(url: str | None) -> str | None:
    """Return the host of a url in lower case, or None if there is no usable one."""
    if not url:
        return None
    found = _HOST.match(url[:MAX_URL_CHARS].translate(_VANISHING).lower())
    return (found[1].rstrip(".") or None) if found else None
