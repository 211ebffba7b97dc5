"""The workflows of the public repository: their form, and that they call only what exists here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_workflows_are_valid() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.github-workflows",
    ]
    checked = subprocess.run(
        [*command, *map(str, WORKFLOWS)], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert [path.stem for path in WORKFLOWS] == ["book-gpu", "ci", "links", "pages"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_steps_call_make_targets_that_exist(path: Path) -> None:
    """Besides make, only GitHub's own program for releases and issues."""
    for line in [line for step in steps(path) for line in step.get("run", "").splitlines()]:
        command, *arguments = line.split()
        assert command in ("make", "gh"), line
        if command == "make":
            assert arguments[0] in TARGETS, line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_may_do_no_more_than_they_need(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"]["contents"] == "read", "writing is allowed job by job"
    assert all("timeout-minutes" in job for job in workflow["jobs"].values())
    assert all(
        re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps(path) if "uses" in step
    )


def test_two_pythons_are_tested() -> None:
    pythons = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"][
        "python"
    ]
    required = re.search(
        r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    assert len(pythons) == 2
    assert required is not None
    assert pythons[0] == required[1], "the oldest that the package promises"


def test_what_one_workflow_makes_another_finds() -> None:
    text = {path.stem: path.read_text(encoding="utf-8") for path in WORKFLOWS}
    assert "build/runs-paper.zip" in text["book-gpu"]
    assert "--pattern runs-paper.zip --dir build/runs" in text["pages"]
    for name in ("book-gpu", "pages"):
        made = [
            step["run"]
            for step in steps(ROOT / ".github" / "workflows" / f"{name}.yml")
            if "run" in step
        ]
        assert made.index("make fetch") < made.index("make unpack") < made.index("make site")


def test_binder_installs_the_tested_versions() -> None:
    install = ROOT / "binder" / "postBuild"
    assert install.stat().st_mode & 0o111, "Binder runs it"
    assert subprocess.run(["bash", "-n", str(install)], check=False).returncode == 0
    assert "-c constraints.txt" in install.read_text(encoding="utf-8")
    python = re.search(r"python=([\d.]+)", (ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert python is not None
    assert (ROOT / "binder" / "runtime.txt").read_text(
        encoding="utf-8"
    ).strip() == f"python-{python[1]}"
