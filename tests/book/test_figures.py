"""Figures of executed notebooks, gathered by their names; books with other data and settings."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
import pytest
from _book import ROOT, collect_figures
from _book import run_notebooks as runner
from _project import project

__all__ = ["project"]
PIXEL = base64.b64encode(b"a picture").decode()


def execute(path: Path, *names: str, results: str = "outputs") -> None:
    """An executed notebook that shows figures of these names, and a picture without a name."""
    v4 = nbformat.v4
    shown = v4.new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"})
    made = v4.new_notebook(cells=[v4.new_code_cell("plt.show()", outputs=[shown])])
    for name in names:
        cell = v4.new_code_cell("plt.show()", outputs=[shown])
        cell.metadata["mystnb"] = {"figure": {"name": name}}
        made.cells.append(cell)
    made.metadata["ulmpaper"] = {"results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)


def test_all_figures_of_a_profile_come_by_their_names(project: Path) -> None:
    executed = project / "build" / "nb" / "smoke"
    execute(executed / "01_first.ipynb", "fig-one", "fig-two", results="outputs/a/01_first")
    execute(executed / "02_second.ipynb", "fig-three", results="outputs/a/02_second")
    exported = project / "outputs" / "a" / "02_second" / "export"
    exported.mkdir(parents=True)
    (exported / "table1.csv").write_text("a,b")
    files = collect_figures.collect(project, "smoke")
    assert {path.name for path in files} == {
        "fig-one.png",
        "fig-two.png",
        "fig-three.png",
        "table1.csv",
    }
    assert {path.parent for path in files} == {project / "build" / "figures" / "smoke"}
    assert (files[-1].parent / "fig-two.png").read_bytes() == b"a picture"


def test_figures_of_one_executed_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(tmp_path / "mine.ipynb", "fig-one")
    assert collect_figures.main([str(tmp_path / "mine.ipynb")]) == 0
    assert [path.name for path in (tmp_path / "mine_figures").iterdir()] == ["fig-one.png"]
    assert collect_figures.main([str(tmp_path / "mine.ipynb"), "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "fig-one.png").read_bytes() == b"a picture"
    capsys.readouterr()
    unexecuted = ROOT / "notebooks" / "04_classical_ulm.ipynb"
    assert collect_figures.main([str(unexecuted)]) == 1
    assert "shows no figure with a name: execute it first" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "is not a notebook"), ("{}", "is not a notebook"), (None, "No such")],
)
def test_what_is_no_notebook_is_refused(
    tmp_path: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "a.ipynb").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        collect_figures.main([str(tmp_path / "a.ipynb")])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_book_names_each_figure_once() -> None:
    names = [
        cell.metadata["mystnb"]["figure"]["name"]
        for notebook in runner.read_plan(ROOT, "smoke")
        for cell in nbformat.read(notebook.source, 4).cells
        if "figure" in cell.metadata.get("mystnb", {})
    ]
    assert len(names) == len(set(names)) == 73
    assert all(name.startswith("fig-") for name in names)


# --- other data, other settings -------------------------------------------------------------------


def test_other_data_and_settings_have_folders_of_their_own(project: Path) -> None:
    changes = [None, {"source": "pala"}, {"overrides": {"seed": 7}}, {"overrides": {"seed": 8}}]
    assert len({runner.label("smoke", change) for change in changes}) == len(changes)
    results = [runner.read_plan(project, "smoke", change=change)[0].results for change in changes]
    assert len(set(results)) == len(changes)
    plan = runner.read_plan(project, "smoke", change={"overrides": {"seed": 7}})
    assert [notebook.parameters["overrides"] for notebook in plan] == [{"seed": 7}] * 2


@pytest.mark.notebook
def test_notebooks_run_with_other_settings_beside_the_usual_ones(project: Path) -> None:
    change = {"overrides": {"seed": 7}}
    usual = project / "build" / "nb" / "smoke" / "01_first.ipynb"
    execute(usual, "fig-one")
    before = usual.read_bytes()
    (run,) = runner.run_notebooks(project, "smoke", ["01_first"], change=change)
    assert "wrote no outputs/smoke-" in run.detail, "the tiny notebook writes where it always does"
    assert usual.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "paal"], "unknown source 'paal'"),
        (["--set", "seed"], "overrides are a mapping"),
        (["--set", "sed=7"], "unknown setting 'sed'"),
        (["--set", "track.max_gpa=7"], "did you mean 'track.max_gap'"),
    ],
)
def test_slips_stop_before_anything_runs(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        runner.main(["smoke", *words])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_real_data_are_refused_before_the_first_notebook(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for old, new in (("01_first", "01_first"), ("02_second", "09_figure5_ratbrain")):
        (project / "notebooks" / f"{old}.ipynb").rename(project / "notebooks" / f"{new}.ipynb")
    (project / "notebooks" / "profiles.yml").write_text(
        "notebooks: {01_first: {}, 09_figure5_ratbrain: {}}"
    )
    with pytest.raises(FileNotFoundError, match=r"^09_figure5_ratbrain: .*fetch pala-ratbrain"):
        runner.run_notebooks(project, "smoke", change={"source": "pala"})
    assert capsys.readouterr().out == ""
    assert not (project / "build" / "nb" / runner.label("smoke", {"source": "pala"})).exists()


def test_other_real_data_are_another_run(project: Path) -> None:
    """PALA's files count by their content, and only where they are read."""
    name = "03_data"
    (project / "notebooks" / "01_first.ipynb").rename(project / "notebooks" / f"{name}.ipynb")
    (project / "notebooks" / "profiles.yml").write_text(f"notebooks: {{{name}: {{}}}}")
    folder = project / "data" / "PALA_data_InSilicoFlow"
    folder.mkdir()

    def keys(content: str) -> list[str]:
        (folder / "PALA_InSilicoFlow_IQ001.mat").write_text(content)
        package = runner.Package(project / "ulmpaper")
        plans = [runner.read_plan(project, "smoke", change=c) for c in (None, {"source": "pala"})]
        return [runner.content_key(plan[0], project, package, {}) for plan in plans]

    one, other = keys("one recording"), keys("another one")
    assert one[0] == other[0]
    assert one[1] != other[1]
