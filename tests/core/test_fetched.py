"""Reasons out of the messages of img2dataset, ours and everybody's."""

from __future__ import annotations

import pytest

from roclip_audit.core.fetched import DEAD, FETCH_REASONS, failure_of, found_sha256


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        ("failed_to_download", "http_gone: HTTP 404", "http_gone"),
        ("failed_to_download", "url_credentials", "url_credentials"),
        ("failed_to_download", "HTTP Error 404: Not Found", "http_gone"),
        ("failed_to_download", "HTTP Error 403: Forbidden", "http_error"),
        ("failed_to_download", "HTTP Error 308: Permanent Redirect", "redirects"),
        ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>", "unresolved"),
        ("failed_to_download", "<urlopen error timed out>", "timeout"),
        ("failed_to_download", "The read operation timed out", "timeout"),
        ("failed_to_download", "<urlopen error [Errno 111] Connection refused>", "unreachable"),
        ("failed_to_download", "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls"),
        ("failed_to_download", "IncompleteRead(100 bytes read, 40 more expected)", "truncated"),
        ("failed_to_download", "<urlopen error unknown url type: javascript>", "url_scheme"),
        ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive", "opted_out"),
        ("failed_to_download", "hash mismatch", "hash_mismatch"),
        ("failed_to_resize", "Image decoding error", "undecodable"),
        ("failed_to_resize", "image too small", "image_rejected"),
        ("failed_to_resize", "image area too large", "too_large"),
        ("failed_to_resize", "OpenCV(4.14.0) error: pixels <= CV_IO_MAX_IMAGE_PIXELS in function 'x'", "too_large"),
        ("failed_to_resize", "what?", "undecodable"),
        ("failed_to_download", "what?", "other"),
        ("failed_to_download", None, "other"),
    ],
)
def test_reasons(status: str, message: str | None, reason: str) -> None:
    failure = failure_of(status, message)
    assert failure.reason == reason
    assert len(failure.detail) <= 300


def test_the_dead_are_reasons() -> None:
    assert set(DEAD) <= FETCH_REASONS.keys()


def test_the_found_hash_comes_back() -> None:
    assert found_sha256("found sha256 " + "ab" * 32) == "ab" * 32
    assert found_sha256("found sha256 xyz") is None


def test_a_message_of_a_stranger_costs_little() -> None:
    assert failure_of("failed_to_download", "x" * 10_000_000).reason == "other"
