"""The notebooks in the profile smoke: their numbers, again from scratch, and their exports."""

from __future__ import annotations

import importlib.util
import json
import re
import warnings
from pathlib import Path

import pandas as pd
import papermill
import pytest
from _book import BUILD, ROOT, collect_figures

_spec = importlib.util.spec_from_file_location(
    "make_golden", Path(__file__).parents[1] / "golden" / "make_golden.py"
)
assert _spec is not None
assert _spec.loader is not None
make_golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_golden)

pytestmark = pytest.mark.notebook
# Other processors round otherwise, and a bubble on a limit falls to the other side.
TOLERANCE = {"rel": 0.02, "abs": 0.02}
EXPORTED = {
    "02_psf_and_bmode": {"figure2.pdf", "figure2.png"},
    "05_train_ml3d": {"figure1.pdf", "figure1.png"},
    "09_figure5_ratbrain": {"figure5.pdf", "figure5.png", "figure5.csv", "figure5.tex"},
    "07_figure3_table1_insilico": {
        "figure3.pdf",
        "figure3.png",
        "table1.csv",
        "table1.tex",
        "table1_ranking.csv",
    },
    "08_figure4_table2_cam": {
        "figure4.pdf",
        "figure4.png",
        "table2.csv",
        "table2.tex",
        "table2_length.csv",
    },
}


@pytest.mark.parametrize("name", make_golden.NAMES)
def test_numbers_are_those_stored(name: str) -> None:
    """After a change that is meant, `python tests/golden/make_golden.py` stores the new ones."""
    golden = json.loads(make_golden.GOLDEN.read_text(encoding="utf-8"))[name]
    found = make_golden.numbers(make_golden.smoke_results(name))
    assert found.keys() == golden.keys()
    wrong = {
        key: (found[key], value)
        for key, value in golden.items()
        if found[key] != pytest.approx(value, **TOLERANCE)
    }
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", ["07_figure3_table1_insilico", "09_figure5_ratbrain"])
def test_two_runs_from_scratch_give_the_same_numbers(name: str, tmp_path: Path) -> None:
    """On one machine, to the last bit; no cache is shared."""
    found = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        parameters = {"profile": "smoke", "data_dir": str(folder / "data"), "out_dir": str(folder)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the kernel's sockets
            papermill.execute_notebook(
                ROOT / "notebooks" / f"{name}.ipynb",
                folder / "executed.ipynb",
                parameters=parameters,
                cwd=ROOT,
                kernel_name="python3",
                progress_bar=False,
            )
        (path,) = folder.glob(f"smoke-*/{name}/results.json")
        results = json.loads(path.read_text(encoding="utf-8"))
        del results["run"]["date"]
        found.append(results)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", make_golden.RESULTS)
def test_networks_take_part(name: str) -> None:
    results = make_golden.smoke_results(name)
    assert {"ml3d", "ml3d_true_count", "mspcn"} <= set(results["bubbles"])
    assert results["bubbles"]["ml3d_true_count"]["count_error"][0] < 0.05
    assert 0 < results["maps"]["ml3d"]["covered"][0] <= 1
    assert len(results["ranking"]) == len(results["ranks"]) >= 9


@pytest.mark.parametrize("name", make_golden.NAMES)
def test_every_key_is_explained(name: str) -> None:
    page = (ROOT / "book" / "results.md").read_text(encoding="utf-8")
    section = page.partition(f"## {name}\n")[2].partition("\n## ")[0]
    explained = {
        key
        for row in re.findall(r"^\|(.*?)\|", section, re.M)
        for key in re.findall(r"`(\w+)`", row)
    }
    assert set(make_golden.smoke_results(name)) == explained


def test_figures_and_tables_are_gathered() -> None:
    for name in EXPORTED:
        make_golden.smoke_results(name)
    files = {path.name: path for path in collect_figures.collect(ROOT, "smoke", build=BUILD)}
    assert set().union(*EXPORTED.values()) <= set(files)
    table = pd.read_csv(files["table1.csv"], index_col=[0, 1])
    assert table.paper.dropna().nunique() == 6
    assert files["table1.tex"].read_text().startswith(r"\begin{tabular}{llrrr}")
