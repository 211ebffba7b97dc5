"""Gather the figures and tables that the notebooks of a profile exported: build/figures/PROFILE/.

    python book/tools/collect_figures.py PROFILE

Figures come as PDF and PNG, tables as CSV and LaTeX, written by `ulmpaper.paper.export_figure` and
`ulmpaper.paper.export_table`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from run_notebooks import ROOT, read_plan

from ulmpaper.config import PROFILES
from ulmpaper.paper import FOLDER


def collect(root: Path, profile: str, *, build: str = "build") -> list[Path]:
    """Copy what all notebooks exported into one folder, made anew, and return the files in it."""
    folders = [
        root / notebook.results / FOLDER for notebook in read_plan(root, profile, build=build)
    ]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    names = [path.name for path in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two notebooks export a file called {', '.join(sorted(twice))}: rename one"
        )
    target = root / build / "figures" / profile
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    return [Path(shutil.copyfile(path, target / path.name)) for path in found]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Gather the figures and tables of the executed notebooks."
    )
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument(
        "--build", default="build", help="folder for everything that is built (default: build)"
    )
    args = parser.parse_args(argv)
    files = collect(ROOT, args.profile, build=args.build)
    if not files:
        print(
            f"no notebook has exported anything in the profile {args.profile}: "
            "run `make notebooks` first"
        )
        return 1
    for path in files:
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
