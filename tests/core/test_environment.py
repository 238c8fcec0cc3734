"""Facts about the machine, read from texts of the kernel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from roclip_audit.core.environment import (
    check_disk,
    check_machine,
    check_memory,
    check_package,
    check_precision,
    check_processor,
    check_python,
    cpu_features,
    memory_bytes,
    multiplies_bf16,
    readable_size,
)

SERVER = "processor : 0\nflags\t\t: fpu sse2 avx2 avx512f avx512_bf16 amx_tile amx_bf16\n\nprocessor : 1\nflags : fpu\n"
OLD = "processor : 0\nflags\t\t: fpu sse2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"
MEMORY = "MemTotal:       24684096 kB\nMemAvailable:   22978520 kB\n"


def test_features_come_from_the_first_processor() -> None:
    assert cpu_features(SERVER) == ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    assert cpu_features(ARM) == ("bf16", "asimd")
    assert cpu_features(OLD) == cpu_features("") == ()


@pytest.mark.parametrize(("cpuinfo", "native"), [(SERVER, True), (ARM, True), (OLD, False)])
def test_bf16_is_native_or_not(cpuinfo: str, native: bool) -> None:
    assert multiplies_bf16(cpu_features(cpuinfo)) is native
    assert ("bf16 where" in check_precision(cpu_features(cpuinfo)).found) is native


def test_a_processor_without_vector_units_is_slow() -> None:
    assert check_processor(SERVER).status == check_processor(ARM).status == "ok"
    assert check_processor(OLD).status == "warn"


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "warn")]
)
def test_python_versions(version: tuple[int, int], status: str) -> None:
    assert check_python(version).status == status


def test_a_missing_package_says_how_to_get_it() -> None:
    assert check_package("torch").status == "ok"
    missing = check_package("no-such-package-of-ours")
    assert (missing.status, missing.advice) == ("fail", "pip install no-such-package-of-ours")


@pytest.mark.parametrize(
    ("meminfo", "limit", "n_bytes"),
    [
        (MEMORY, "", 22978520 * 1024),
        (MEMORY, "max\n", 22978520 * 1024),
        (MEMORY, "1000000\n", 1000000),
        ("", "1000000\n", 1000000),
        ("", "", None),
    ],
)
def test_memory_is_what_is_free_or_what_is_allowed(meminfo: str, limit: str, n_bytes: int | None) -> None:
    assert memory_bytes(meminfo, limit) == n_bytes


def test_little_memory_is_a_warning() -> None:
    assert check_memory(MEMORY, "max").status == "ok"
    assert check_memory(MEMORY, "1000000000").status == "warn"
    assert check_memory("", "").found == "unknown"


def test_disk_is_looked_at_where_the_folder_will_be(tmp_path: Path) -> None:
    check = check_disk(tmp_path / "not" / "yet")
    assert str(tmp_path) in check.found
    assert "not" not in check.found.removesuffix(str(tmp_path))


def test_sizes_read_naturally() -> None:
    assert [readable_size(n) for n in (0, 384_000, 20e6, 23.04e9)] == ["0 kB", "384 kB", "20.0 MB", "23.0 GB"]


def test_nothing_fails_where_the_tests_run(tmp_path: Path) -> None:
    checks = {check.name: check for check in check_machine(tmp_path)}
    assert [name for name, check in checks.items() if check.status == "fail"] == []
    assert checks["python"].found.endswith(sys.executable)
    assert {"torch", "processor", "threads", "memory", "disk", "devices"} <= set(checks)
