"""Put the same second code cell into every notebook: what Colab and papermill need first.

    python book/tools/setup_cell.py        (`make sync` calls it)

The first code cell holds the parameters, which papermill replaces. The second is the one below. It
installs the package on Colab only, and ends with an error where papermill was given a parameter
that the notebook does not have: papermill itself just logs that, and the notebook would run with
the default. The book leaves the cell out.
"""

from __future__ import annotations

import sys

import jupytext
import nbformat
from run_notebooks import ROOT

TAGS = ["remove-cell", "setup"]
SOURCE = """\
# On Colab: install the package. Under papermill: refuse parameters that are not in the cell above.
import ast

if "google.colab" in str(get_ipython()):
    get_ipython().system("pip install -q ulmpaper[all]@git+https://github.com/ulmpaper/ulmpaper")
from ulmpaper.core import check_choice

cells = get_ipython().user_ns["In"]
if cells[-2].startswith("# Parameters"):
    known, given = ([line.targets[0].id for line in ast.parse(c).body] for c in cells[-3:-1])
    for name in given:
        check_choice(name, known, "parameter of this notebook")"""


def with_setup_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Put the cell behind the parameters, in the place of an older one."""
    cells = [cell for cell in notebook.cells if "setup" not in cell.metadata.get("tags", [])]
    head = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    made = nbformat.v4.new_code_cell(SOURCE, metadata={"tags": TAGS})
    notebook.cells = [*cells[: head + 1], made, *cells[head + 1 :]]
    return notebook


def main() -> int:
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        before = jupytext.read(path)
        old = [(cell.source, cell.metadata.get("tags")) for cell in before.cells]
        after = with_setup_cell(before)
        if [(cell.source, cell.metadata.get("tags")) for cell in after.cells] != old:
            jupytext.write(after, path, fmt="md:myst")
            print(f"{path.relative_to(ROOT)}: setup cell")
    return 0


if __name__ == "__main__":
    sys.exit(main())
