"""Hold a Ctrl-C back until what must not be torn is done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_interrupts() -> Iterator[list[int]]:
    """Hold every Ctrl-C back until the block is done; yield those that came."""
    caught: list[int] = []
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not interruptible or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def whole_step() -> Iterator[None]:
    """Let a Ctrl-C act when the block is done: a checkpoint of half a step would not resume to the same run."""
    with held_interrupts() as caught:
        yield
    if caught:
        raise KeyboardInterrupt
