"""The results notebooks in the profile smoke: their numbers and what all notebooks export."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pandas as pd
import pytest
from _book import BUILD, ROOT, collect_figures

_spec = importlib.util.spec_from_file_location("make_golden", Path(__file__).parent / "golden" / "make_golden.py")
assert _spec is not None
assert _spec.loader is not None
make_golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_golden)

pytestmark = pytest.mark.notebook
# Other processors round otherwise, and a bubble on a limit falls to the other side.
TOLERANCE = {"rel": 0.02, "abs": 0.02}
EXPORTED = {
    "07_figure3_table1_insilico": {"figure3.pdf", "figure3.png", "table1.csv", "table1.tex", "table1_ranking.csv"},
    "08_figure4_table2_cam": {"figure4.pdf", "figure4.png", "table2.csv", "table2.tex", "table2_length.csv"},
}


@pytest.mark.parametrize("name", make_golden.NAMES)
def test_numbers_are_those_stored(name: str) -> None:
    """After a change that is meant, `python tests/golden/make_golden.py` stores the new ones."""
    golden = json.loads(make_golden.GOLDEN.read_text(encoding="utf-8"))[name]
    found = make_golden.numbers(make_golden.smoke_results(name))
    assert found.keys() == golden.keys()
    wrong = {
        key: (found[key], value) for key, value in golden.items() if found[key] != pytest.approx(value, **TOLERANCE)
    }
    assert not wrong


@pytest.mark.parametrize("name", make_golden.NAMES)
def test_networks_take_part(name: str) -> None:
    results = make_golden.smoke_results(name)
    assert {"ml3d", "ml3d_true_count", "mspcn"} <= set(results["bubbles"])
    assert results["bubbles"]["ml3d_true_count"]["count_error"][0] < 0.05
    assert 0 < results["maps"]["ml3d"]["covered"][0] <= 1
    assert len(results["ranking"]) == len(results["ranks"]) >= 9


def test_figures_and_tables_are_gathered() -> None:
    for name in make_golden.NAMES:
        make_golden.smoke_results(name)
    files = {path.name: path for path in collect_figures.collect(ROOT, "smoke", build=BUILD)}
    assert set().union(*EXPORTED.values()) <= set(files)
    table = pd.read_csv(files["table1.csv"], index_col=[0, 1])
    assert table.paper.dropna().nunique() == 6
    assert files["table1.tex"].read_text().startswith(r"\begin{tabular}{llrrr}")
