# ruff: noqa
"""img2dataset.main.download: cuts the list into shards and downloads those that have no statistics."""

from __future__ import annotations

import glob
import multiprocessing
import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from img2dataset.downloader import Downloader


def download(
    url_list: str,
    output_folder: str,
    number_sample_per_shard: int,
    thread_count: int,
    save_additional_columns: list[str],
    processes_count: int,
    **_: Any,
) -> None:
    os.makedirs(output_folder + "/_tmp", exist_ok=True)
    shards, number = [], 0
    for file in sorted(glob.glob(url_list + "/*.parquet")):
        table = pq.read_table(file)
        for first in range(0, table.num_rows, number_sample_per_shard):
            path = f"{output_folder}/_tmp/{number}.feather"
            if not os.path.exists(f"{output_folder}/{number:05d}_stats.json"):
                with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table.slice(first, number_sample_per_shard))
                shards.append((number, path))
            number += 1
    downloader = Downloader(output_folder, number_sample_per_shard, thread_count, save_additional_columns)
    with multiprocessing.get_context("spawn").Pool(processes_count) as pool:
        for _done in pool.imap_unordered(downloader, shards):
            pass
