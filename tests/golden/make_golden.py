"""Store the numbers of the results notebooks in the profile smoke, to which `tests/test_results.py` compares.

    python tests/golden/make_golden.py

What the networks find is left out: it changes with every training. Whatever else changes here is a change of the
simulators, of the classical chain or of the scores, and belongs into the changelog.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from _book import BUILD, ROOT, run_notebooks

GOLDEN = Path(__file__).with_name("results_smoke.json")
NAMES = ("07_figure3_table1_insilico", "08_figure4_table2_cam")
_OF_NETWORKS = ("mspcn", "ml3d", "ranks", "length_by_width")


def smoke_results(name: str) -> dict[str, Any]:
    """Results of a notebook in the profile smoke, as the tests' book has them; it runs if it must."""
    (run,) = run_notebooks.run_notebooks(ROOT, "smoke", [name], build=BUILD)
    assert run.status in ("ran", "unchanged"), run.detail
    plan = {notebook.name: notebook for notebook in run_notebooks.read_plan(ROOT, "smoke", build=BUILD)}
    return json.loads((ROOT / plan[name].results / "results.json").read_text(encoding="utf-8"))


def numbers(results: Any, path: str = "") -> dict[str, float]:
    """All numbers by their dotted path, but those that networks have a part in."""
    if isinstance(results, dict | list):
        items = results.items() if isinstance(results, dict) else enumerate(results)
        parts = [numbers(value, f"{path}.{key}") for key, value in items if not str(key).startswith(_OF_NETWORKS)]
        return {key: value for part in parts for key, value in part.items()}
    return {path[1:]: results} if isinstance(results, int | float) and not isinstance(results, bool) else {}


if __name__ == "__main__":
    golden = {name: numbers(smoke_results(name)) for name in NAMES}
    GOLDEN.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
    print(f"{sum(map(len, golden.values()))} numbers -> {GOLDEN}")
