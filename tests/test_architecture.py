"""The arrows between the packages, and what else the layout promises."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("core", "sanitize", "audit", "train", "cli")
ARROWS = {
    "core": {"core"},
    "sanitize": {"core", "sanitize"},
    "audit": {"core", "audit"},
    "train": {"core", "train"},
    "cli": {"core", "sanitize", "audit", "train", "cli"},
}
BROAD_EXCEPT = {"cli/main.py", "sanitize/scan.py"}  # the top of the command line and the per-shard boundary
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages() -> list[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(pyproject["tool"]["setuptools"]["packages"])


def test_there_are_modules_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_follow_the_arrows(path: Path) -> None:
    allowed = ARROWS[path.relative_to(ROOT).parts[0]]
    for dotted in imported(path):
        parts = dotted.split(".")
        assert parts[0] not in FOLDERS, f"{dotted}: say roclip_audit.{dotted}, or it is imported twice"
        if parts[0] == "roclip_audit" and parts[1] in FOLDERS:
            assert parts[1] in allowed, f"{name(path)} imports {dotted}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_stay_readable(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_errors_are_caught_by_name(path: Path) -> None:
    handlers = [
        node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ExceptHandler)
    ]
    broad = [node.lineno for node in handlers if _is_broad(node.type) and not _passes_on(node)]
    assert not broad or name(path) in BROAD_EXCEPT, f"lines {broad}"


def _is_broad(caught: ast.expr | None) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(one is None or (isinstance(one, ast.Name) and one.id in {"Exception", "BaseException"}) for one in names)


def _passes_on(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_every_package_is_in_the_wheel() -> None:
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in MODULES if path.name == "__init__.py"
    }
    assert {f"roclip_audit.{package}" for package in found} | {"roclip_audit"} == set(packages())
    folders = {path.parent for path in MODULES}
    assert all((folder / "__init__.py").exists() for folder in folders), "a folder of modules without __init__.py"


def test_the_checkers_see_every_package() -> None:
    links = {path.name: path.resolve() for path in (ROOT / "typings" / "roclip_audit").iterdir() if path.is_symlink()}
    assert {folder: ROOT / folder for folder in FOLDERS}.items() <= links.items()
