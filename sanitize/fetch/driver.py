"""Run img2dataset behind the guard. The program that its interpreter runs; roclip-audit itself never imports it.

    PYTHON driver.py SETTINGS.json

img2dataset starts its workers by ``spawn``: each runs the top of this file again as ``__mp_main__``, so that what is
replaced here is replaced in every process. The order of the guard's parts:

1. ``img2dataset.downloader.download_image`` becomes ``guard.download``, and the content is compared with the published
   hash, if the list has one;
2. an audit hook of the interpreter refuses every connection to an address that is not allowed, whoever makes it;
3. the process ends when standard input does, that is, when roclip-audit is gone.

If img2dataset no longer has the functions that are replaced here, nothing is downloaded at all.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.path.pop(0)  # this folder: its modules must not stand in for others of the same name

import importlib.util
import inspect
import io
import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

SETTINGS_VARIABLE = "ROCLIP_AUDIT_FETCH_SETTINGS"
EXPECTED_PARAMETERS = ["row", "timeout", "user_agent_token", "disallowed_header_directives"]


def _load_guard() -> Any:
    spec = importlib.util.spec_from_file_location("roclip_audit_guard", Path(__file__).with_name("guard.py"))
    if spec is None or spec.loader is None:
        raise SystemExit("guard.py is missing beside driver.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _refuse_connections(guard: Any, networks: Any) -> None:
    """Refuse connections to places that are not allowed, for all of this process."""

    def hook(event: str, arguments: Any) -> None:
        if event != "socket.connect" or not isinstance(arguments[1], tuple):
            return  # sockets of the file system and the kernel have no such address
        host, port = arguments[1][:2]
        try:
            address = guard.parse_address(str(host))
        except ValueError:
            raise guard.Refused("address_refused", "a name that was not resolved") from None
        if not guard.is_allowed(address, port, networks):
            raise guard.Refused("address_refused", f"{address} port {port}")

    sys.addaudithook(hook)


class _Rows:
    """The published hashes of the shard that this process works on; keys are positions in the shard."""

    published: list[str | None] = []  # noqa: RUF012 - one shard at a time in a process, on purpose


def install(settings: dict[str, Any]) -> None:
    """Put the guard in the place of img2dataset's downloading, in this process."""
    import pyarrow as pa
    from img2dataset import downloader

    guard = _load_guard()
    limits = guard.Limits(**{**settings["limits"], "types": tuple(settings["limits"]["types"])})
    _refuse_connections(guard, guard.parse_networks(limits.allowed))
    parameters = list(inspect.signature(downloader.download_image).parameters)
    if parameters != EXPECTED_PARAMETERS or not hasattr(downloader.Downloader, "download_shard"):
        raise SystemExit(f"this version of img2dataset is not known: download_image{parameters}")
    progress = os.open(settings["progress"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    plain_shard = downloader.Downloader.download_shard

    def download_image(row: tuple[int, str], *_: Any) -> tuple[int, io.BytesIO | None, str | None]:
        key, url = row
        try:
            content = guard.download(url, limits).content
            published = _Rows.published[key] if settings["verify"] else None
            found = None if published is None else guard.hash_mismatch(content, published)
            if found is not None:
                raise guard.Refused("hash_mismatch", f"found {found}")
        except guard.Refused as refused:
            return key, None, str(refused)
        return key, io.BytesIO(content), None

    def with_retry(row: tuple[int, str], retries: int = 0, **options: Any) -> Any:
        for _ in range(retries + 1):
            found = download_image(row)
            if found[1] is not None or not str(found[2]).startswith(("timeout", "unreachable", "truncated")):
                break
        os.write(progress, b"+" if found[1] is not None else b"-")
        return found

    def download_shard(self: Any, row: Any) -> None:
        with pa.memory_map(str(row[1])) as source:
            table = pa.ipc.open_file(source).read_all()
            has_hashes = "published_hash" in table.column_names
            _Rows.published = table["published_hash"].to_pylist() if has_hashes else [None] * table.num_rows
        plain_shard(self, row)

    downloader.download_image = download_image
    downloader.download_image_with_retry = with_retry
    downloader.Downloader.download_shard = download_shard


def _end_with_standard_input() -> None:
    while os.read(0, 1):  # not sys.stdin, whose lock a thread must not hold when Python ends
        pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _settings() -> dict[str, Any]:
    if __name__ == "__main__":
        os.environ[SETTINGS_VARIABLE] = sys.argv[1]  # the workers have no arguments of their own
    settings: dict[str, Any] = json.loads(Path(os.environ[SETTINGS_VARIABLE]).read_text(encoding="utf-8"))
    return settings


def main() -> None:
    """Download the list that the settings name."""
    from img2dataset.main import download

    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    settings = _settings()
    install(settings)
    download(**settings["img2dataset"])


if __name__ == "__mp_main__":
    install(_settings())
elif __name__ == "__main__":
    main()
