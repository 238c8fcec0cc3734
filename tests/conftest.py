"""What every test lives with: no network, time enough on a busy machine, Ctrl-C that interrupts."""

from __future__ import annotations

import ipaddress
import os
import signal
import sys

from hypothesis import HealthCheck, settings

# Set before anything imports huggingface_hub, and inherited by the commands that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
# Many small products on more threads than free processors wait for each other: up to a hundred times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets its background jobs, and what they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


class NetworkUsedError(BaseException):
    """A test reached for another machine; no ``except Exception`` swallows this."""


def _refuse_other_machines(event: str, arguments: tuple[object, ...]) -> None:
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and not _is_here(str(address[0])):
        raise NetworkUsedError(f"a test tried to connect to {address}")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


sys.addaudithook(_refuse_other_machines)
