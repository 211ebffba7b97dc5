"""Gather the figures and tables of executed notebooks: build/figures/PROFILE/.

    python book/tools/collect_figures.py PROFILE [--source pala] [--set 'seed=7']
    python book/tools/collect_figures.py FILE.ipynb [-o FOLDER]

Every figure of the book comes as PNG under its name, `fig-murray.png`, as the page shows it. What
notebooks export by `ulmpaper.paper.export_figure` and `export_table` comes along: the paper's
figures as PDF and PNG, its tables as CSV and LaTeX. Of one executed notebook, such as papermill
writes, the figures in it are taken.
"""

from __future__ import annotations

import argparse
import base64
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from run_notebooks import ROOT, Change, add_options, label, read_change, read_plan, read_record

from ulmpaper.io.files import write_atomic
from ulmpaper.paper import FOLDER


def collect(
    root: Path, profile: str, *, build: str = "build", change: Change | None = None
) -> list[Path]:
    """Gather what all notebooks show and exported in one folder, made anew; return its files."""
    executed = root / build / "nb" / label(profile, change)
    exported: list[Path] = []
    shown: dict[str, bytes] = {}
    for notebook in read_plan(root, profile, build=build, change=change):
        file = executed / f"{notebook.name}.ipynb"
        if record := read_record(file):
            exported += sorted((root / record["results"] / FOLDER).glob("*"))
            shown |= figures(file)
    names = [path.name for path in exported]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two notebooks export a file called {', '.join(sorted(twice))}: rename one"
        )
    target = root / build / "figures" / label(profile, change)
    shutil.rmtree(target, ignore_errors=True)
    copied = [(path.name, path.read_bytes()) for path in exported]
    return _write(target, {**dict(copied), **shown})


def figures(executed: Path) -> dict[str, bytes]:
    """The figures of one executed notebook as PNG, by the name of their file.

    Raises
    ------
    ValueError
        Not a notebook.
    """
    try:
        notebook = nbformat.read(executed, 4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError) as error:
        raise ValueError(f"{executed} is not a notebook ({type(error).__name__})") from None
    found = {}
    for cell in notebook.cells:
        name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        pictures = [
            output.data["image/png"]
            for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})
        ]
        if name and pictures:
            found[f"{name}.png"] = base64.b64decode(pictures[-1])
    return found


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, content in files.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / name, content)
    return [folder / name for name in files]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Gather the figures and tables of the executed notebooks, or of one."
    )
    parser.add_argument("profile", metavar="PROFILE|FILE.ipynb")
    parser.add_argument(
        "-o", "--out", type=Path, help="folder for those of FILE.ipynb (default: FILE_figures)"
    )
    add_options(parser)
    args = parser.parse_args(argv)
    one = Path(args.profile)
    try:
        if one.suffix == ".ipynb":
            files = _write(args.out or one.with_name(f"{one.stem}_figures"), figures(one))
        else:
            files = collect(ROOT, args.profile, build=args.build, change=read_change(args))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not files:
        print(
            f"{one} shows no figure with a name: execute it first, by papermill or in Jupyter"
            if one.suffix == ".ipynb"
            else f"nothing was executed in the profile {args.profile}: run `make notebooks` first"
        )
        return 1
    for path in files:
        print(os.path.relpath(path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
