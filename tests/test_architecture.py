"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ulmpaper.config import Config

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ulmpaper"

# Room or door: the rooms and doors that it may import.
MAY_IMPORT = {
    "core": set(),
    "io": {"core"},
    "config": {"core"},
    "metrics": {"core"},
    "simulator": {"core", "io", "config"},
    "networks": {"core", "io", "config", "metrics", "simulator"},
    "plots": {"core", "io"},
    "pipeline": {"core", "io", "config", "metrics", "networks", "plots"},
    "paper": {"core", "io", "config", "metrics", "simulator", "networks", "plots", "pipeline"},
    "cli": {"core", "io", "config", "networks", "simulator", "plots", "pipeline"},
    "__main__": {"cli"},
}
MAY_IMPORT_TORCH = {"simulator.imaging", "simulator.simulate", "paper.costs"}  # and all networks
FILES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
    if path.stem != "__init__"
)
SECTIONS = {type(getattr(Config(), field.name)).__name__ for field in fields(Config)}
ROOMS = [name for name in MAY_IMPORT if (PACKAGE / name).is_dir()]


def room_of(name: str) -> str:
    return name.partition(".")[0]


def tree_of(name: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8"))


def imports(name: str) -> tuple[set[str], set[str]]:
    """Files of the package, and packages from outside, that a file imports anywhere.

    What is imported for type checkers alone does not count.
    """
    inside, outside = set(), set()
    todo: list[ast.AST] = [tree_of(name)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            head, _, rest = node.module.partition(".")
            if head != "ulmpaper":
                outside.add(head)
            elif rest in FILES:
                inside.add(rest)
            else:  # files of a room, or of the package
                names = {alias.name for alias in node.names}
                inside |= {f"{rest}.{n}".strip(".") for n in names} & set(FILES)
        elif isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        todo += ast.iter_child_nodes(node)
    return inside, outside


IMPORTS = {name: imports(name) for name in FILES}


def test_the_top_of_the_package_is_seen_at_one_glance() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 12
    assert {room_of(name) for name in FILES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", FILES)
def test_a_room_imports_only_rooms_named_in_its_row(name: str) -> None:
    inside, outside = IMPORTS[name]
    room = room_of(name)
    too_much = {other for other in inside if room_of(other) not in MAY_IMPORT[room] | {room}}
    assert not too_much, f"{name} must not import {too_much}"
    if room != "networks" and name not in MAY_IMPORT_TORCH:
        assert "torch" not in outside, f"{name} must not import torch"


def test_no_circle() -> None:
    """Neither between rooms nor between the files of one."""
    left = {name: inside for name, (inside, _) in IMPORTS.items()}
    while free := [name for name, inside in left.items() if not inside & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"these files import each other: {left}"
    arrows = {(room_of(a), room_of(b)) for a, (inside, _) in IMPORTS.items() for b in inside}
    assert len([1 for a, b in arrows if a != b]) <= 36


def test_no_file_for_everything() -> None:
    assert not {"utils", "common", "helpers", "misc"} & {name.rpartition(".")[2] for name in FILES}


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_a_room_keeps_what_it_promises(room: str) -> None:
    door = importlib.import_module(f"ulmpaper.{room}".rstrip("."))
    assert door.__doc__
    assert "::" in door.__doc__, "a room opens with its equation or chain"
    for name in door.__all__:
        assert getattr(door, name).__doc__, f"{name} needs a docstring"
    assert set(door.__all__) <= set(dir(door))
    # A function that bears the name of its file would be hidden by it.
    files = {name.partition(".")[2] for name in FILES if room_of(name) == room}
    assert not files & set(door.__all__)
    with pytest.raises(AttributeError, match="has no 'nonsense'"):
        door.nonsense  # noqa: B018


def public_names() -> dict[str, str]:
    """Names that files of rooms define without an underscore, each with its file."""
    names = {}
    for file in FILES:
        for node in tree_of(file).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node]
            for target in targets:
                name = getattr(target, "name", None) or getattr(target, "id", "_")
                if not name.startswith("_"):
                    names[f"{file}.{name}"] = file
    return names


def test_every_public_name_has_a_user_outside_its_file() -> None:
    """Another file, a door that promises it, a notebook, a script, a benchmark or a page."""
    places = ("ulmpaper/**/*.py", "notebooks/*.md", "benchmarks/*.py", "data/*.py", "book/*.md")
    texts = {path: path.read_text(encoding="utf-8") for p in places for path in ROOT.glob(p)}
    words = {path: set(re.findall(r"\w+", text)) for path, text in texts.items()}
    unused = []
    for full, file in public_names().items():
        own = PACKAGE / f"{file.replace('.', '/')}.py"
        name = full.rpartition(".")[2]
        is_section = file == "config" and name in SECTIONS  # seen as an attribute of a Config
        if room_of(file) not in {"cli", "__main__"} and not is_section:
            unused += [full] if not any(name in w for p, w in words.items() if p != own) else []
    assert not unused, "make these private, or show them"


def loaded_by(module: str, *others: str) -> str:
    """Which of other modules an import loads."""
    code = f"import sys, {module}; print([m for m in {others} if m in sys.modules])"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light() -> None:
    assert loaded_by("ulmpaper", "torch", "matplotlib", "scipy", "pandas") == "[]"


def test_chain_needs_neither_torch_nor_matplotlib() -> None:
    optional = ("torch", "matplotlib", "skimage", "pymust", "pooch", "typer")
    assert loaded_by("ulmpaper.pipeline", *optional) == "[]"


def test_environment_and_constraints_hold_the_same_versions() -> None:
    import yaml

    def pins(lines: list[str]) -> dict[str, str]:
        return dict(line.split("==") for line in lines if "==" in line)

    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert pins(pip) == pins(constraints)


def test_every_dependency_is_pinned() -> None:
    import re
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert not [
        name
        for name in asked
        if re.split(r"[<>=~]", name)[0].strip().lower() not in pinned
        and not name.startswith("ulmpaper[")  # the extra "all", made of other extras
    ]
