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
BROAD_EXCEPT = {"cli/main.py"}  # what gets to the top of the command line is a defect of ours
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def imported(tree: ast.Module) -> Iterator[str]:
    """Yield the dotted names that a module imports, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)


def packages() -> list[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(pyproject["tool"]["setuptools"]["packages"])


def test_there_are_modules_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(FOLDERS)


def test_imports_follow_the_arrows(trees: dict[Path, ast.Module]) -> None:
    found = [(name(path), dotted) for path, tree in trees.items() for dotted in imported(tree)]
    assert [one for one in found if not _follows(*one)] == []


def _follows(module: str, dotted: str) -> bool:
    """Tell whether a module may import a name: not relative, not by a second name, and along the arrows."""
    top, *below = dotted.split(".")
    if top in {"", *FOLDERS}:
        return False
    return top != "roclip_audit" or not below or below[0] not in FOLDERS or below[0] in ARROWS[module.split("/")[0]]


def test_a_wrong_import_would_be_seen() -> None:
    assert not _follows("audit/x.py", "roclip_audit.sanitize.scan")
    assert not _follows("core/x.py", "roclip_audit.cli")
    assert not _follows("core/x.py", "core.errors")
    assert not _follows("core/x.py", ".errors")
    assert _follows("cli/x.py", "roclip_audit.train.planting.poison")


def test_modules_stay_readable() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {module: n for module, n in lines.items() if n > MOST_LINES} == {}


def test_errors_are_caught_by_name(trees: dict[Path, ast.Module]) -> None:
    broad = {
        name(path)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type) and not _passes_on(node)
    }
    assert broad == BROAD_EXCEPT


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
