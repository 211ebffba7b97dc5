"""Store the numbers of notebooks in the profile smoke for `tests/book/test_results.py`.

    python tests/golden/make_golden.py

What the networks find is left out, because it changes with every training; so are the notebooks
5, 6 and 10, which are about networks and speed, and what depends on which real data have been
fetched: the notebooks 1 and 9, and parts of others. Any other change of these numbers is a change
of the simulators, of the classical chain or of the scores, and belongs in the changelog.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

# As a script; under pytest its settings name these folders.
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "book" / "tools")]

from _book import BUILD, ROOT, run_notebooks  # noqa: E402

GOLDEN = Path(__file__).with_name("results_smoke.json")
RESULTS = ("07_figure3_table1_insilico", "08_figure4_table2_cam")
NAMES = ("02_psf_and_bmode", "03_data", "04_classical_ulm", *RESULTS, "11_pala_differences")
_LEFT_OUT = ("mspcn", "ml3d", "paper_sized", "ranks", "length_by_width", "real", "brain")


@functools.cache
def smoke_results(name: str) -> dict[str, Any]:
    """Results of a notebook in the profile smoke; it runs only where something has changed."""
    (run,) = run_notebooks.run_notebooks(ROOT, "smoke", [name], build=BUILD)
    assert run.status in ("ran", "unchanged"), run.detail
    plan = {
        notebook.name: notebook for notebook in run_notebooks.read_plan(ROOT, "smoke", build=BUILD)
    }
    found = json.loads((ROOT / plan[name].results / "results.json").read_text(encoding="utf-8"))
    del found["run"]  # what made the numbers: date and revision differ from run to run
    return found


def numbers(results: Any, path: str = "") -> dict[str, float]:
    """All numbers by their dotted path, but those that networks or fetched data have a part in."""
    if isinstance(results, dict | list):
        items = results.items() if isinstance(results, dict) else enumerate(results)
        parts = [
            numbers(value, f"{path}.{key}")
            for key, value in items
            if not str(key).startswith(_LEFT_OUT)
        ]
        return {key: value for part in parts for key, value in part.items()}
    return (
        {path[1:]: results}
        if isinstance(results, int | float) and not isinstance(results, bool)
        else {}
    )


if __name__ == "__main__":
    golden = {name: numbers(smoke_results(name)) for name in NAMES}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(len, golden.values()))} numbers -> {GOLDEN}")
