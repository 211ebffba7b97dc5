"""The page *Run it yourself*: its commands are those that exist, and do what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import typer
from _book import ROOT, setup_cell
from _book import run_notebooks as runner

from ulmpaper.cli import app
from ulmpaper.config import config_table, load_config

PAGE = (ROOT / "book" / "run_it.md").read_text(encoding="utf-8")
MARKS = ("network", "GPU", "cluster", "minutes", "browser")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def commands() -> list[tuple[str, str]]:
    """Every line to be typed, and its mark, in the order of the page."""
    found = []
    for line in "".join(blocks("console")).splitlines():
        assert line.startswith("$ "), f"a line to be typed begins with $: {line}"
        text, _, mark = line[2:].partition("  # ")
        assert mark in ("", *MARKS), f"no such mark: {line}"
        found.append((text, mark))
    return found


def files() -> dict[str, str]:
    """What the reader is told to save, by name: the name stands in the first comment."""
    named = [
        (re.search(r"^# ([\w.]+)$", text, re.M), text) for text in blocks("python") + blocks("bash")
    ]
    return {name[1]: text for name, text in named if name}


def test_page_explains_its_marks() -> None:
    explained = re.findall(r"^\| `# (\w+)` \|", PAGE, re.M)
    assert explained == list(MARKS)
    assert {mark for _, mark in commands()} == {"", *MARKS}, "each mark is used"
    assert list(files()) == ["sweep.py", "make_frames.py", "in_python.py", "sweep.sh"]


PROGRAMS = (
    "bash",
    "conda",
    "dask",
    "git",
    "make",
    "papermill",
    "pip",
    "python",
    "python3",
    "sbatch",
    "ulmpaper",
)


@pytest.mark.parametrize("command", [text for text, _ in commands()])
def test_command_exists_with_its_options(command: str) -> None:
    words = shlex.split(command)
    while re.match(r"\w+=", words[0]):
        words.pop(0)
    program, *rest = words
    assert Path(program).name in PROGRAMS
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{rest[0]}:.*##", makefile, re.M), f"no target {rest[0]}"
    if Path(program).name == "ulmpaper":
        known = typer.main.get_command(app).commands[rest[0]].params  # type: ignore[attr-defined]
        options = {option for parameter in known for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options
        keys = config_table(load_config()).setting
        assert {rest[i + 1].split("=")[0] for i, word in enumerate(rest) if word == "--set"} <= set(
            keys
        )
    if Path(program).name == "papermill":
        notebook = nbformat.read(
            ROOT / next(word for word in rest if word.startswith("notebooks/")), 4
        )
        assert {rest[i + 1] for i, word in enumerate(rest) if word == "-p"} <= set(
            runner.default_parameters(notebook)
        )
    for option in ("-c", "-f"):  # files that pip and conda read
        if option in rest and program != ".venv/bin/python":
            assert (ROOT / rest[rest.index(option) + 1]).is_file()


# --- as a reader would type it --------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository, to write into."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("notebooks", "book", "ulmpaper", "Makefile", "constraints.txt", "environment.yml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(BIN.parent)
    return folder


def typed(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.notebook
def test_papermill_documents_the_parameters(checkout: Path) -> None:
    (command,) = (text for text, _ in commands() if "--help-notebook" in text)
    said = typed(command, checkout)
    assert said.returncode == 0
    assert re.search(r"profile: str \(default \"quick\"\).*\n?.*smoke", said.stdout)
    assert all(
        f"{name}: {kind} " in said.stdout
        for name, kind in {"overrides": "dict", "source": "str", "data_dir": "str"}.items()
    )
    assert "Unknown type" not in said.stdout
    assert "where results are written" in said.stdout


@pytest.mark.notebook
@pytest.mark.parametrize(
    ("slip", "message"),
    [
        ("-p profil smoke", "unknown parameter of this notebook 'profil': did you mean 'profile'"),
        (
            "-y '{overrides: {track.max_gpa: 1}}'",
            "unknown setting 'track.max_gpa': did you mean 'track.max_gap'",
        ),
        ("-p overrides track.max_gap", "overrides are a mapping"),
        ("-p out_dir /proc/nope", "cannot write to /proc/nope"),
    ],
)
def test_papermill_by_hand_stops_at_a_slip(checkout: Path, slip: str, message: str) -> None:
    said = typed(
        f".venv/bin/papermill notebooks/04_classical_ulm.ipynb slip.ipynb {slip}", checkout
    )
    assert said.returncode != 0
    assert message in said.stderr
    assert not (checkout / "outputs").exists()
    assert not (checkout / "data").exists()


@pytest.mark.slow
@pytest.mark.notebook
def test_page_can_be_typed_from_top_to_bottom(checkout: Path) -> None:
    for name, text in files().items():
        (checkout / name).write_text(text)
    printed = {}
    for command, mark in commands():
        if not mark:
            said = typed(command, checkout)
            assert said.returncode == 0, f"$ {command}\n{said.stdout}\n{said.stderr}"
            printed[command] = said.stdout
    assert (checkout / "out.ipynb").is_file()
    (sweep,) = (out for command, out in printed.items() if command.endswith("python sweep.py"))
    (task,) = (out for command, out in printed.items() if "SLURM" in command)
    assert [line.split()[0] for line in sweep.splitlines()] == ["0.15", "2.0"]
    assert sweep.endswith(task), "one task of the array does one value of the sweep"
    assert len({line.split()[1] for line in sweep.splitlines()}) == 2, (
        "the value makes a difference"
    )
    assert (checkout / "out_figures" / "fig-classical-maps.png").is_file()
    assert "200 of 84 x 143 px" in "".join(printed.values())
    assert {"tables.h5", "tracks.csv", "maps.npz", "density.png", "run.json"} <= {
        path.name for path in (checkout / "out").iterdir()
    }
    assert (checkout / "out_python" / "run.json").is_file()
    assert (checkout / "run" / "best.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("name", ["04_classical_ulm", "09_figure5_ratbrain"])
def test_chapters_run_by_palas_rules(checkout: Path, name: str) -> None:
    """Truth and estimate are drawn on the same grid, whose size PALA's rules change."""
    said = typed(
        f".venv/bin/papermill notebooks/{name}.ipynb pala.ipynb -p profile smoke -p out_dir pala "
        "-p overrides pala=true",
        checkout,
    )
    assert said.returncode == 0, said.stderr
    (path,) = (checkout / "pala").glob(f"*/{name}/results.json")
    assert json.loads(path.read_text())["run"]["overrides"] == {"pala": True}


# --- the cell that makes papermill strict ---------------------------------------------------------


def test_setup_cell_is_put_behind_the_parameters_once() -> None:
    v4 = nbformat.v4
    head = v4.new_code_cell("profile = 'quick'", metadata={"tags": ["parameters"]})
    made = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), head, v4.new_code_cell("1 + 1")])
    for _ in range(2):
        made = setup_cell.with_setup_cell(made, "01_first")
        assert [cell.source for cell in made.cells] == [
            "# Title",
            head.source,
            setup_cell.source("01_first"),
            "1 + 1",
        ]
    made.cells[2].source = "an older one"
    again = setup_cell.with_setup_cell(made, "01_first")
    assert again.cells[2].source == setup_cell.source("01_first")
