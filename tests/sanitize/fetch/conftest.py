"""The local web, and interpreters that have img2dataset: a stand-in always, the real one in the long lane."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from roclip_audit.sanitize.fetch.engine import find_interpreter
from tests.sanitize.fetch.webkit import Web, serve

ROOT = Path(__file__).parents[3]


@pytest.fixture
def web() -> Iterator[Web]:
    """Give a running server."""
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the interpreter of an environment in which ``img2dataset`` is the stand-in beside this file."""
    folder = tmp_path_factory.mktemp("standin") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    paths = [str(Path(__file__).with_name("standin")), sysconfig.get_paths()["purelib"]]
    (site / "standin.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    (site / "img2dataset-1.47.0.dist-info").mkdir()
    (site / "img2dataset-1.47.0.dist-info" / "METADATA").write_text("Name: img2dataset\nVersion: 1.47.0\n")
    return folder / "bin" / "python"


@pytest.fixture(scope="session")
def img2dataset() -> Path:
    """Give the real img2dataset: the one of ``make test-slow``, or one on the PATH."""
    named = os.environ.get("ROCLIP_AUDIT_IMG2DATASET")
    found = [Path(named)] if named else [ROOT / ".venv-fetch" / "bin" / "img2dataset"]
    on_path = shutil.which("img2dataset")
    found += [Path(on_path)] if on_path else []
    usable = next((path for path in found if path.exists()), None)
    if usable is not None and not _imports(usable):
        usable = None
    if usable is None:
        pytest.skip(
            "img2dataset is not installed; `make test-slow` installs it into .venv-fetch where Python is 3.11 or 3.12"
        )
    return usable


def _imports(program: Path) -> bool:
    """Tell whether the program runs: on Python 3.13 it installs and does not."""
    ask = [find_interpreter(program), "-c", "import img2dataset"]
    return subprocess.run(ask, capture_output=True, check=False, timeout=120).returncode == 0
