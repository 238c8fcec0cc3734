# ruff: noqa
"""The parts of img2dataset.downloader that driver.py replaces or calls, with the same names and arguments."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from multiprocessing.pool import ThreadPool

import pyarrow as pa
import pyarrow.parquet as pq


def download_image(row, timeout, user_agent_token, disallowed_header_directives):  # type: ignore[no-untyped-def]
    raise AssertionError("the guard has to stand here")


def download_image_with_retry(row, timeout, retries, user_agent_token, disallowed_header_directives):  # type: ignore
    raise AssertionError("the guard has to stand here")


class Downloader:
    """Downloads one shard."""

    def __init__(self, out: str, per_shard: int, threads: int, columns: list[str]) -> None:
        self.out, self.per_shard, self.threads, self.columns = out, per_shard, threads, columns

    def __call__(self, row):  # type: ignore
        number, _ = row
        if os.path.exists(os.path.join(self.out, f"fail-{number}")):  # a test wants this shard to fail
            return
        self.download_shard(row)

    def download_shard(self, row):  # type: ignore
        number, path = row
        with pa.memory_map(path) as source:
            rows = pa.ipc.open_file(source).read_all().to_pylist()
        found = []
        stem = os.path.join(self.out, f"{number:05d}")
        with tarfile.open(stem + ".tar", "w") as tar, ThreadPool(self.threads) as pool:
            for key, content, error in pool.imap_unordered(
                lambda one: download_image_with_retry(
                    one, timeout=1, retries=0, user_agent_token=None, disallowed_header_directives=None
                ),
                [(i, row["url"]) for i, row in enumerate(rows)],
            ):
                data = None if content is None else content.read()
                meta = {name: rows[key][name] for name in [*self.columns, "caption", "url"]}
                meta |= {"key": f"{number:05d}{key:04d}", "error_message": error, "width": None, "exif": None}
                meta["status"] = "failed_to_download" if data is None else "success"
                meta["sha256"] = None if data is None else hashlib.sha256(data).hexdigest()
                found.append(meta)
                if data is not None:
                    text = (rows[key]["caption"] or "").encode()
                    for ending, member in (("jpg", data), ("json", json.dumps(meta).encode()), ("txt", text)):
                        info = tarfile.TarInfo(f"{meta['key']}.{ending}")
                        info.size = len(member)
                        tar.addfile(info, io.BytesIO(member))
        pq.write_table(pa.Table.from_pylist(found), stem + ".parquet")
        successes = sum(one["status"] == "success" for one in found)
        with open(stem + "_stats.json", "w") as stats:
            json.dump({"count": len(found), "successes": successes}, stats)
