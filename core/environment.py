"""Facts about this machine and this installation, each with a verdict and what to do about it.

``roclip-audit doctor`` prints them, and encoders choose their precision by them. Facts that need the encoders or the
store are added in the command, since ``core`` imports neither.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roclip_audit.core.errors import EXIT_USAGE
from roclip_audit.core.parallel import default_workers

Status = Literal["ok", "warn", "fail"]

PYTHON_RANGE = ((3, 11), (3, 13))
PACKAGES = (
    "torch", "torchvision", "open_clip_torch", "timm", "tokenizers", "safetensors", "numpy", "polars", "pyarrow",
    "duckdb", "faiss-cpu", "pillow", "fsspec", "rich", "typer",
)  # fmt: skip
CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16", "asimd")
BF16_FEATURES = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
LOW_MEMORY = 4_000_000_000  # a scan of 100,000 pairs stays below
LOW_DISK = 5_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One fact: what was looked at, whether it will do, what was found, and what to do if it will not.

    Attributes:
        exit_code: what a program that needs this ends with, where ``status`` is ``fail``.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    exit_code: int = EXIT_USAGE


def check_python(version: tuple[int, int] | None = None) -> Check:
    """Check that this Python is one that is tested; ``version`` stands in for it in tests."""
    lowest, highest = PYTHON_RANGE
    major_minor = sys.version_info[:2] if version is None else version
    found = f"{platform.python_version()} at {sys.executable}"
    advice = f"use Python {lowest[0]}.{lowest[1]} to {highest[0]}.{highest[1]}"
    if major_minor < lowest:
        return Check(name="python", status="fail", found=found, advice=advice)
    if major_minor > highest:
        return Check(name="python", status="warn", found=found, advice=f"not tested with it; {advice}")
    return Check(name="python", status="ok", found=found)


def check_package(name: str) -> Check:
    """Look up the installed version of a package, without importing it."""
    from importlib.metadata import PackageNotFoundError, version  # 30 ms that --help does not need

    try:
        return Check(name=name, status="ok", found=version(name))
    except PackageNotFoundError:
        return Check(name=name, status="fail", found="not installed", advice=f"pip install {name}")


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """Return those of ``CPU_FEATURES`` that the text of ``/proc/cpuinfo`` lists."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip().lower() in {"flags", "features"}:
            present = set(flags.split())
            return tuple(feature for feature in CPU_FEATURES if feature in present)
    return ()


def multiplies_bf16(features: Iterable[str]) -> bool:
    """Tell whether the processor multiplies bfloat16 natively."""
    return not BF16_FEATURES.isdisjoint(features)


def read_text(path: str) -> str:
    """Return a small file of the kernel's, empty if there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def check_processor(cpuinfo: str) -> Check:
    """Check for the vector instructions that make encoding fast, given the text of ``/proc/cpuinfo``."""
    features = cpu_features(cpuinfo)
    found = ", ".join(features) or "no vector instructions known to us"
    if not {"avx2", "asimd"} & set(features):
        return Check(name="processor", status="warn", found=found, advice="encoding will be several times slower")
    return Check(name="processor", status="ok", found=found)


def check_precision(features: Iterable[str]) -> Check:
    """Say what ``auto`` precision comes to on this processor."""
    if multiplies_bf16(features):
        found = "encoders run in bf16 where they stay exact enough"
        return Check(name="precision", status="ok", found=found)
    return Check(name="precision", status="ok", found="fp32: this processor does not multiply bf16 natively")


def check_threads() -> Check:
    """Say how many workers a scan uses by default."""
    usable, present = default_workers(), os.cpu_count() or 1
    note = "" if usable == present else f" of {present}"
    set_threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{usable}{note} processors" + (f", OMP_NUM_THREADS={set_threads}" if set_threads else "")
    return Check(name="threads", status="ok", found=found)


def memory_bytes(meminfo: str, cgroup_limit: str) -> int | None:
    """Return the memory this process may come to use.

    Args:
        meminfo: text of ``/proc/meminfo``.
        cgroup_limit: text of the control group's ``memory.max``; empty or ``max`` if there is no limit.

    Returns:
        The smaller of what is available and the limit, in bytes; None if neither is known.
    """
    available = next((line.split()[1] for line in meminfo.splitlines() if line.startswith("MemAvailable:")), "")
    bounds = [int(available) * 1024] if available.isdigit() else []
    bounds += [int(cgroup_limit)] if cgroup_limit.strip().isdigit() else []
    return min(bounds, default=None)


def readable_size(n_bytes: float) -> str:
    """Return a size as people say it: ``384 kB``, ``20.0 MB``, ``23.0 GB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"


def check_memory(meminfo: str, cgroup_limit: str) -> Check:
    """Check that there is memory for a scan; arguments as for ``memory_bytes``."""
    n_bytes = memory_bytes(meminfo, cgroup_limit)
    if n_bytes is None:
        return Check(name="memory", status="ok", found="unknown")
    if n_bytes < LOW_MEMORY:
        advice = (
            f"{readable_size(LOW_MEMORY)} are enough for 100,000 pairs; with less, scan fewer or use fewer --workers"
        )
        return Check(name="memory", status="warn", found=f"{readable_size(n_bytes)} available", advice=advice)
    return Check(name="memory", status="ok", found=f"{readable_size(n_bytes)} available")


def check_disk(folder: Path) -> Check:
    """Check that there is room for a run in ``folder`` or, while it does not exist, where it would be made."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{readable_size(free)} free at {existing}"
    if free < LOW_DISK:
        advice = "the embedded encoder needs about 80 kB a pair; choose another folder with --out"
        return Check(name="disk", status="warn", found=found, advice=advice)
    return Check(name="disk", status="ok", found=found)


def check_devices() -> Check:
    """Name the CUDA devices that torch can use; imports torch."""
    import torch

    if not torch.cuda.is_available():
        return Check(name="devices", status="ok", found="cpu")
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return Check(name="devices", status="ok", found=f"cuda: {names}")


def check_machine(folder: Path) -> tuple[Check, ...]:
    """Check Python, packages, processor, memory and disk; imports torch if it is there."""
    packages = tuple(map(check_package, PACKAGES))
    cpuinfo, meminfo = read_text("/proc/cpuinfo"), read_text("/proc/meminfo")
    has_torch = packages[0].status == "ok"
    return (
        check_python(),
        *packages,
        check_processor(cpuinfo),
        check_precision(cpu_features(cpuinfo)),
        check_threads(),
        check_memory(meminfo, read_text("/sys/fs/cgroup/memory.max")),
        check_disk(folder),
        *([check_devices()] if has_torch else []),
    )
