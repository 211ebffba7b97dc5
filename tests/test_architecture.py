"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ulmpaper"
ROOT = PACKAGE.parent

# A module imports only from layers below its own, never sideways.
LAYERS = [
    {"records"},
    {
        "array",
        "bank",
        "checked",
        "clutter",
        "diskfile",
        "example",
        "filters",
        "flow",
        "model",
        "parallel",
        "registry",
        "subpixel",
        "tubes",
    },
    {
        "crb",
        "decode",
        "kernels",
        "localize",
        "loss",
        "metrics",
        "psf",
        "quality",
        "render",
        "segment",
        "settings",
        "storage",
        "synthesis",
        "targets",
        "track",
        "vessels",
        "weights",
    },
    {
        "config",
        "datasets",
        "domain",
        "phantom",
        "predict",
        "processes",
        "runs",
        "scoring",
        "simulate",
    },
    {"chain", "coverage", "infer"},
    {"costs", "figures", "pipeline", "player", "scenes", "ways"},
    {
        "evaluate",
        "export",
        "figure1",
        "figure2",
        "figure3",
        "figure5",
        "generate",
        "insilico",
        "results",
        "windows",
    },
    {"judge", "recipes"},
    {"tables", "train"},
    {"cli"},
    {"__main__"},
]
MAY_IMPORT_TORCH = {
    "costs",
    "decode",
    "infer",
    "kernels",
    "loss",
    "model",
    "predict",
    "processes",
    "recipes",
    "runs",
    "simulate",
    "synthesis",
    "targets",
    "train",
    "weights",
    "windows",
}
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(module: str) -> tuple[set[str], set[str]]:
    """Modules of the package and packages from outside that `module` imports at its top level or anywhere."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    inside, outside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            head, _, rest = node.module.partition(".")
            if head == "ulmpaper":
                inside |= {rest} if rest else {alias.name for alias in node.names}
            else:
                outside.add(head)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                head, _, rest = alias.name.partition(".")
                (inside if head == "ulmpaper" else outside).add(
                    rest if head == "ulmpaper" else head
                )
    return inside - {"", "__version__"}, outside


def layer_of(module: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if module in names]
    assert len(found) == 1, f"{module} must stand in one layer of LAYERS"
    return found[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_lower_layers(module: str) -> None:
    inside, outside = imports(module)
    too_high = {name for name in inside if layer_of(name) >= layer_of(module)}
    assert not too_high, f"{module} imports {too_high} from its own layer or above"
    if module not in MAY_IMPORT_TORCH | {"cli"}:
        assert "torch" not in outside, f"{module} must not import torch"


@pytest.mark.parametrize("module", MODULES)
def test_modules_stay_short(module: str) -> None:
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").count("\n")
    assert lines <= 300, f"{module}.py has {lines} lines: does it hold two things?"


def test_no_module_for_everything() -> None:
    assert not {"utils", "common", "helpers", "misc"} & set(MODULES)


def test_import_is_light() -> None:
    code = "import sys, ulmpaper; print([m for m in ('torch', 'matplotlib', 'scipy', 'pandas') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_chain_needs_neither_torch_nor_matplotlib() -> None:
    code = "import sys, ulmpaper.pipeline; print([m for m in ('torch', 'matplotlib') if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_every_module_is_reachable_from_the_package() -> None:
    import ulmpaper

    assert set(ulmpaper.__all__) == set(MODULES) - {"cli", "__main__"}
    with pytest.raises(AttributeError, match="has no attribute 'localise'"):
        ulmpaper.localise  # noqa: B018


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
        name for name in asked if re.split(r"[<>=~]", name)[0].strip().lower() not in pinned
    ]
