"""The metadata, the pins and the wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from roclip_audit import __version__
from roclip_audit.sanitize.encoders.weights import INSTALL_LINE

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def normalised(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    return dict(line.split("==") for line in lines if line)


def test_one_version() -> None:
    assert PYPROJECT["project"]["version"] == __version__
    assert f"[{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_requirement_is_pinned() -> None:
    """Those of `fetch` aside: img2dataset asks for versions that do not fit ours, see docs/fetch.md."""
    project = PYPROJECT["project"]
    extras = {name: extra for name, extra in project["optional-dependencies"].items() if name != "fetch"}
    wanted = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    assert {normalised(one) for one in wanted} <= set(pins())


def test_the_pins_name_no_place() -> None:
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?:|file:|@|--|\+cpu", text)
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())


def test_the_weights_are_pinned_alike_everywhere() -> None:
    for requirement in PYPROJECT["project"]["optional-dependencies"]["embedded"]:
        name, version = requirement.split("==")
        assert pins()[name] == version
        assert name in (ROOT / "Makefile").read_text()
        assert requirement in INSTALL_LINE


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: the build leaves a folder that a later one would pack again
    left_out = shutil.ignore_patterns(
        ".*", "build", "*.egg-info", "__pycache__", "typings", "demo", "demo-run", "tests", "docs"
    )
    shutil.copytree(ROOT, source, ignore=left_out)
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run(wheel, check=True)
    (path,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        packed = set(archive.namelist())
    for folder in ("core", "sanitize", "audit", "train", "cli"):
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in {".py", ".json", ".html", ".css", ".js", ".gz"}:
                assert f"roclip_audit/{file.relative_to(ROOT).as_posix()}" in packed
    assert "roclip_audit/py.typed" in packed
    assert any(name.endswith("LICENSE") for name in packed)
