"""The guard of tests/conftest.py works."""

from __future__ import annotations

import socket

import pytest

from tests.conftest import NetworkUsedError


def test_no_test_reaches_another_machine() -> None:
    with socket.socket() as one, pytest.raises(NetworkUsedError):
        one.connect(("192.0.2.1", 80))  # an address that is reserved for documentation


def test_this_machine_may_talk_to_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass
