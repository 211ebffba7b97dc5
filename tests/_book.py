"""What the tests of notebooks and book share: the tools, and one book in the profile smoke."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import build_book
import claims
import collect_figures
import draw_background
import publish
import reach
import run_notebooks
import setup_cell
import stage_book

__all__ = [
    "BUILD",
    "ROOT",
    "TOOLS",
    "build_book",
    "built_book",
    "claims",
    "collect_figures",
    "draw_background",
    "pages",
    "publish",
    "reach",
    "run_notebooks",
    "setup_cell",
    "stage_book",
]
ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "book" / "tools"

# Apart from the user's build/out and outputs, and kept, so that an unchanged book is not built
# again.
BUILD = "build/test"


@functools.cache
def built_book() -> Path:
    """Folder of the HTML of the whole book in the profile smoke."""
    command = [sys.executable, str(TOOLS / "build_book.py"), "smoke", "--build", BUILD]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"the book does not build:\n{made.stdout}\n{made.stderr}"
    return ROOT / BUILD / "out" / "_build" / "html"


def pages() -> list[Path]:
    """Every page of the book that a reader can turn to."""
    html = built_book()
    return sorted(
        page for page in html.rglob("*.html") if "_static" not in page.relative_to(html).parts
    )
