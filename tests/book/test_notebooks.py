"""The notebooks' contract, and the runner that executes them."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from _book import ROOT, setup_cell
from _book import run_notebooks as runner
from _project import DIGEST, PARAMETERS, project, write_notebook, write_profiles
from jupytext.compare import compare_notebooks

from ulmpaper.config import PROFILES, load_config

__all__ = ["project"]
NAMES = list(runner.read_profiles(ROOT)["notebooks"])
# A kernel that stops may flush its streams after it closed them: ipykernel logs that
# now and then, after all cells have run.
SHUTDOWN_RACE = (
    r"ERROR:tornado\.general:Uncaught exception in ZMQStream callback\n"
    r"Traceback .*\n(?: .*\n)*zmq\.error\.ZMQError: Socket operation on non-socket\n"
)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", 4)


def cells(name: str, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == kind]


# --- every notebook -------------------------------------------------------------------------------


def test_profiles_and_contents_name_every_notebook_in_order() -> None:
    texts = sorted(path.stem for path in (ROOT / "notebooks").glob("*.md"))
    assert texts == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == NAMES
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [c.removeprefix("notebooks/") for c in chapters if c.startswith("notebooks/")] == NAMES


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_set_parameters_that_exist(profile: str) -> None:
    for notebook in runner.read_plan(ROOT, profile):
        assert notebook.parameters["profile"] == profile
        load_config(profile, notebook.parameters["overrides"])


@pytest.mark.parametrize("name", NAMES)
def test_text_and_notebook_are_one(name: str) -> None:
    text = jupytext.read(ROOT / "notebooks" / f"{name}.md")
    compare_notebooks(read(name), text, fmt="md:myst")  # raises at the first difference
    assert len(read(name).cells) == len(text.cells)


@pytest.mark.parametrize("name", NAMES)
def test_no_outputs_are_committed(name: str) -> None:
    assert [
        (cell.outputs, cell.execution_count) for cell in cells(name, "code") if cell.outputs
    ] == []
    assert {cell.execution_count for cell in cells(name, "code")} == {None}


@pytest.mark.parametrize("name", NAMES)
def test_first_code_cell_holds_the_parameters(name: str) -> None:
    first = cells(name, "code")[0]
    assert first.metadata.tags == ["parameters"]
    assert list(runner.default_parameters(read(name)).items()) == list(PARAMETERS.items())
    assert all(" # " in line for line in first.source.splitlines()), "each parameter has a comment"


@pytest.mark.parametrize("name", NAMES)
def test_second_code_cell_is_the_same_everywhere(name: str) -> None:
    second = cells(name, "code")[1]
    assert (second.source, second.metadata.tags) == (setup_cell.source(name), setup_cell.TAGS), (
        "run `make sync`"
    )


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_define_nothing(name: str) -> None:
    for cell in cells(name, "code"):
        assert len(cell.source.splitlines()) <= 12, f"longer than 12 lines:\n{cell.source}"
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef}, (
            f"belongs in the package:\n{cell.source}"
        )


MYST = {
    "a role": r"\{[a-zA-Z][\w:+.-]*\}`",
    "a directive": r"^\s*(`{3,}|:{3,}|~{3,})\s*\{",
    "a colon fence": r"^\s*:{3,}",
    "a substitution": r"\{\{",
    "a target": r"^\([\w:.-]+\)=\s*$",
}


@pytest.mark.parametrize("name", NAMES)
def test_text_is_plain_markdown(name: str) -> None:
    """Else Colab and Jupyter would show the markup."""
    for cell in cells(name, "markdown"):
        found = [what for what, pattern in MYST.items() if re.search(pattern, cell.source, re.M)]
        assert not found, f"{found} in:\n{cell.source}"


@pytest.mark.parametrize("name", NAMES)
def test_exercises_have_solutions_in_words_and_as_code(name: str) -> None:
    book = read(name).cells
    start = next(i for i, cell in enumerate(book) if "\n## Exercises\n" in f"\n{cell.source}")
    asked, _, told = book[start].source.partition("<details>")
    before, _, asked = asked.rpartition("## Exercises")
    numbers = re.findall(r"^(\d)\. \*\((easy|medium|open)\)\*", asked, re.M)
    assert 3 <= len(numbers) <= 6
    assert re.findall(r"^(\d)\. ", told, re.M) == [number for number, _ in numbers]
    assert "> **Try changing this.**" in before or any(
        "> **Try changing this.**" in c.source for c in book[:start]
    )
    cells = [cell for cell in book[start + 1 :] if cell.cell_type == "code"]
    assert {tuple(cell.metadata.tags) for cell in cells} == {("hide-cell", "solution")}
    solved = [
        re.match(r"Solution (\d), as code", cell.metadata.mystnb.code_prompt_show)[1]
        for cell in cells
    ]
    assert solved == sorted(solved)
    assert set(solved) >= {number for number, level in numbers if level != "open"}


@pytest.mark.parametrize("name", NAMES)
def test_notebook_begins_with_its_title(name: str) -> None:
    titles = [
        line
        for cell in cells(name, "markdown")
        for line in cell.source.splitlines()
        if re.match("# ", line)
    ]
    assert len(titles) == 1
    assert read(name).cells[0].source.startswith(titles[0])


# --- the runner, on a project of two tiny notebooks -----------------------------------------------


def statuses(root: Path, *names: str) -> list[str]:
    return [run.status for run in runner.run_notebooks(root, "smoke", names)]


def keys(root: Path) -> list[str]:
    """Keys of both notebooks as the runner would compute them now."""
    made: dict[str, str] = {}
    for notebook in runner.read_plan(root, "smoke"):
        made[notebook.name] = runner.content_key(
            notebook, root, runner.Package(root / "ulmpaper"), made
        )
    return list(made.values())


def test_key_changes_with_what_outputs_depend_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed() -> list[bool]:
        nonlocal before
        now = keys(project)
        was, before = before, now
        return [a != b for a, b in zip(was, now, strict=True)]

    before = keys(project)
    assert changed() == [False, False]
    write_notebook(project, "01_first", "1", prose="Other words.")
    assert changed() == [False, False], "prose is staged anew, not run anew"
    write_notebook(project, "01_first", "10")
    assert changed() == [True, True], "what is needed counts"
    write_notebook(project, "02_second", "20")
    assert changed() == [False, True]
    (project / "data" / "numbers.txt").write_text("4 5 6")
    assert changed() == [False, True]
    write_profiles(project, parameters={"smoke": {"source": "pala"}})
    assert changed() == [False, True]
    (project / "ulmpaper" / "module.py").write_text('"""Words."""\nanswer = 42  # why\n')
    assert changed() == [False, False], "so are words in the package"
    (project / "ulmpaper" / "other.py").write_text("answer = 43\n")
    assert changed() == [False, False], "neither notebook reaches it"
    (project / "ulmpaper" / "module.py").write_text("answer = 43\n")
    assert changed() == [True, True]
    monkeypatch.setattr(runner, "versions", lambda: {"numpy": "0.1"})
    assert changed() == [True, True]


def test_input_counts_the_same_wherever_it_lies(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys(project)
    mirror = project / "mirror"
    mirror.mkdir()
    shutil.move(project / "data" / "numbers.txt", mirror)
    assert keys(project)[1] != before[1], "nothing is assumed where the variable is not set"
    monkeypatch.setenv("ULMPAPER_DATA_MIRROR", str(mirror))
    assert keys(project) == before


@pytest.mark.notebook
def test_notebooks_run_once_until_something_changes(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert statuses(project) == ["ran", "ran"]
    assert statuses(project) == ["unchanged", "unchanged"]
    results = project / "outputs" / f"smoke-{DIGEST}" / "02_second" / "results.json"
    results.unlink()
    assert statuses(project) == ["unchanged", "ran"]
    assert json.loads(results.read_text()) == {"value": 2}
    printed = capfd.readouterr()
    said = re.sub(SHUTDOWN_RACE, "", printed.err)
    assert said == "", "kernel and papermill are silent"
    assert re.search(r"^02_second +ran +\d+\.\d s$", printed.out, re.M)


@pytest.mark.notebook
def test_executed_notebook_says_what_made_it_and_no_more(project: Path) -> None:
    assert statuses(project, "01_first") == ["ran"]
    executed = project / "build" / "nb" / "smoke" / "01_first.ipynb"
    record = runner.read_record(executed)
    assert record is not None
    assert (record["profile"], record["source"]) == ("smoke", "simulated")
    assert record["parameters"] == {"profile": "smoke"}
    assert record["versions"]["numpy"]
    assert record["slowest"]["cell"] in (1, 2, 3)
    assert str(project) not in executed.read_text()
    assert "papermill" not in executed.read_text()


def job(name: str, *needs: str, is_alone: bool = False) -> runner._Job:
    notebook = runner.Notebook(name, Path(name), needs, (), {}, {}, is_alone)
    return runner._Job(notebook, Path(), Path(), "", None)


def test_notebooks_run_side_by_side_but_for_those_that_measure_times() -> None:
    a, b, c, d = job("a"), job("b"), job("c", "a"), job("d", is_alone=True)
    assert runner._ready([a, b, c, d], []) == [a, b]
    assert runner._ready([c, d], [a, b]) == []
    assert runner._ready([c, d], [b]) == [c]  # a is done
    assert runner._ready([d], [c]) == []
    assert runner._ready([d, job("e", is_alone=True)], []) == [d]


def test_the_runner_says_what_is_to_run_and_for_how_long(
    capsys: pytest.CaptureFixture[str],
) -> None:
    runner._forecast({"01_a": 60.0, "02_b": 120.0}, 2)
    assert capsys.readouterr().out == (
        "to run, 2 at a time: 01 (60 s), 02 (120 s): about 2.0 min, by the last run\n"
    )
    runner._forecast({"01_a": None}, 1)  # it never ran here
    assert capsys.readouterr().out == "to run, 1 at a time: 01\n"
    runner._forecast({}, 0)
    assert capsys.readouterr().out == ""


@pytest.mark.notebook
def test_failing_notebook_leaves_the_old_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert statuses(project) == ["ran", "ran"]
    executed = project / "build" / "nb" / "smoke" / "01_first.ipynb"
    before = executed.read_bytes()
    write_notebook(project, "01_first", "1 / 0")
    assert statuses(project) == ["failed", "waits"]
    assert executed.read_bytes() == before
    said = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in said
    assert "in cell [3]" in said
    assert '| (out / "results.json")' in said
    write_notebook(project, "01_first", "1")
    assert statuses(project) == ["unchanged", "unchanged"]


@pytest.mark.notebook
def test_notebook_without_results_fails(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_notebook(project, "01_first", "1")
    notebook = nbformat.read(project / "notebooks" / "01_first.ipynb", 4)
    notebook.cells[2].source = "out_dir"
    nbformat.write(notebook, project / "notebooks" / "01_first.ipynb")
    assert statuses(project, "01_first") == ["failed"]
    assert "wrote no outputs/smoke-" in capsys.readouterr().out


def test_needed_notebooks_run_too(project: Path) -> None:
    plan = runner.read_plan(project, "smoke")
    assert [n.name for n in runner.with_needs(plan, ["02_second"])] == ["01_first", "02_second"]
    assert [n.name for n in runner.with_needs(plan, ["01_first"])] == ["01_first"]


@pytest.mark.parametrize(
    ("of_second", "message"),
    [
        ({"parameters": {"smoke": {"overides": {}}}}, "'overides': did you mean 'overrides'"),
        ({"needs": ["03_third"]}, "unknown notebook before 02_second"),
        ({"parameter": {}}, "did you mean 'parameters'"),
        ({"parameters": {"fast": {}}}, "unknown profile of notebook 02_second 'fast'"),
    ],
)
def test_slips_in_profiles_are_named(project: Path, of_second: dict, message: str) -> None:
    write_profiles(project, **of_second)
    with pytest.raises(ValueError, match=message):
        runner.read_plan(project, "smoke")


def test_unknown_names_are_named(project: Path) -> None:
    with pytest.raises(ValueError, match="did you mean '02_second'"):
        statuses(project, "02_secnd")
    (project / "notebooks" / "02_second.ipynb").unlink()
    with pytest.raises(ValueError, match="make sync"):
        runner.read_plan(project, "smoke")


def test_another_build_folder_keeps_its_results_apart(project: Path) -> None:
    usual, apart = (
        runner.read_plan(project, "smoke"),
        runner.read_plan(project, "smoke", build="elsewhere"),
    )
    assert usual[0].results == Path("outputs") / f"smoke-{DIGEST}" / "01_first"
    assert apart[0].results == Path("elsewhere") / usual[0].results


def test_command_line_fails_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        runner.main(["smoke", "no_such_notebook"])
    assert stopped.value.code == 2
    assert "unknown notebook 'no_such_notebook'" in capsys.readouterr().err
