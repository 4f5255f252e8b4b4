"""The import arrows and file sizes promised in the README, enforced."""

import ast
from pathlib import Path

import pytest

import cdinfer

PACKAGE = Path(cdinfer.__file__).parent
TOOLS = PACKAGE.parent / "tools"

LEAVES = {"bitstream", "models", "losses", "metrics"}
ALL = LEAVES | {"codecs", "data", "tasks", "runs", "studies", "cli", "__main__"}

#: Layer -> the layers it may import, besides itself.
ALLOWED: dict[str, set[str]] = {
    **{leaf: set() for leaf in LEAVES},
    "codecs": {"bitstream"},
    "data": {"codecs", "bitstream"},
    "tasks": {"codecs", "models", "losses", "metrics"},
    "runs": ALL - {"studies", "cli", "__main__"},
    "studies": ALL - {"cli", "__main__"},
    "cli": ALL,
    "__init__": set(),
    "__main__": set(),  # it imports one command's module by name, when that runs
}


def imported_layers(source: str) -> set[str]:
    """Return the parts of cdinfer that Python source imports; ``.`` stands for a relative one."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "cdinfer.." if node.level else node.module
            names += [f"{module}.{alias.name}" for alias in node.names]
    layers = {[*name.split("."), ""][1] or "." for name in names if is_ours(name)}
    return layers - {"__version__"}


def is_ours(name: str) -> bool:
    return name == "cdinfer" or name.startswith("cdinfer.")


@pytest.mark.parametrize(
    ("source", "layers"),
    [
        ("from cdinfer import codecs, data", {"codecs", "data"}),
        ("from cdinfer.codecs.cae import CAE", {"codecs"}),
        ("def f():\n    import cdinfer.runs as r", {"runs"}),
        ("from cdinfer import __version__\nimport torch, os.path", set()),
        ("from .. import codecs\nfrom . import x", {"."}),
        ("import cdinfer_extras", set()),
    ],
)
def test_imports_are_seen_however_they_are_written(source: str, layers: set[str]) -> None:
    assert imported_layers(source) == layers


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_follow_the_arrows(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert layer in ALLOWED, f"DESIGN knows no layer {layer}"
    extra = imported_layers(path.read_text("utf-8")) - ALLOWED[layer] - {layer}
    assert not extra, f"{layer} may not import {sorted(extra)}"


def test_no_file_is_over_400_lines() -> None:
    files = [*PACKAGE.rglob("*.py"), *TOOLS.rglob("*.py"), *TOOLS.rglob("*.sh")]
    assert len(files) > 20
    assert [p for p in files if len(p.read_text("utf-8").splitlines()) > 400] == []


def test_no_file_is_a_drawer_for_anything() -> None:
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "common", "helpers", "misc"}
