"""Put the second code cell into every notebook: what must be right before anything slow starts.

    python book/tools/setup_cell.py        (`make sync` calls it)

The first code cell holds the parameters, which papermill replaces. The second is the one below. It
installs the package on Colab only, in the version that the notebook belongs to, and calls
`ulmpaper.paper.start_run`, which refuses wrong parameters in a sentence. The book leaves it out.
"""

from __future__ import annotations

import sys

import jupytext
import nbformat
from run_notebooks import ROOT

from ulmpaper import __version__

TAGS = ["remove-cell", "setup"]
SOURCE = """\
# On Colab: install the package. Everywhere: check the parameters above, name the folder of results.
if "google.colab" in str(get_ipython()):
    package = "git+https://github.com/ulmpaper/ulmpaper@v{version}"
    get_ipython().system(f"pip install -q 'ulmpaper[all] @ {{package}}'")
from ulmpaper.paper import start_run

parameters = {{"profile": profile, "overrides": overrides, "source": source}}
parameters |= {{"data_dir": data_dir, "out_dir": out_dir}}
run = start_run("{name}", get_ipython().user_ns["In"], **parameters)
overrides, data_dir, out = run.overrides, run.data_dir, run.out"""


def source(name: str) -> str:
    """The cell of the notebook `name`."""
    return SOURCE.format(name=name, version=__version__)


def with_setup_cell(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Put the cell behind the parameters, in the place of an older one."""
    cells = [cell for cell in notebook.cells if "setup" not in cell.metadata.get("tags", [])]
    head = next(i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    made = nbformat.v4.new_code_cell(source(name), metadata={"tags": TAGS})
    notebook.cells = [*cells[: head + 1], made, *cells[head + 1 :]]
    return notebook


def main() -> int:
    for path in sorted((ROOT / "notebooks").glob("*.md")):
        before = jupytext.read(path)
        old = [(cell.source, cell.metadata.get("tags")) for cell in before.cells]
        after = with_setup_cell(before, path.stem)
        if [(cell.source, cell.metadata.get("tags")) for cell in after.cells] != old:
            jupytext.write(after, path, fmt="md:myst")
            print(f"{path.relative_to(ROOT)}: setup cell")
    return 0


if __name__ == "__main__":
    sys.exit(main())
