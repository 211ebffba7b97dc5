"""Execute the notebooks, stage the pages, build the book; each only where something has changed.

    python book/tools/build_book.py PROFILE [--source pala] [--set 'seed=7'] [--check-links | --pdf]

The book is written to build/out/_build/html and can be read there, without a server or a network;
as PDF to build/ulmpaper-book.pdf.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from provenance import list_hash, tree_hash
from run_notebooks import ROOT, Change, add_options, read_change, run_notebooks
from stage_book import stage

from ulmpaper.config import PROFILES

TEX = {  # program: Debian packages that bring it, with what the pages need
    "xelatex": "texlive-xetex texlive-latex-extra texlive-fonts-recommended lmodern"
    " fonts-freefont-otf",
    "latexmk": "latexmk",
    "rsvg-convert": "librsvg2-bin",
}


def build_book(
    root: Path,
    profile: str,
    *,
    build: str = "build",
    want: str = "html",
    change: Change | None = None,
) -> Path | None:
    """Bring the book up to date and return its first page; None where a notebook or Sphinx fails.

    `want` may be "pdf" instead; or "links": check every link to other sites, and return the list of
    the broken ones.
    """
    if want == "pdf" and (
        lacking := [package for program, package in TEX.items() if not shutil.which(program)]
    ):
        raise ValueError(
            "the PDF needs LaTeX; on Debian: apt-get install --no-install-recommends "
            + " ".join(lacking)
        )
    (root / build).mkdir(parents=True, exist_ok=True)
    with FileLock(root / build / "lock"):  # two builds at once would write into each other's files
        runs = run_notebooks(root, profile, build=build, change=change)
        if any(run.status in ("failed", "waits") for run in runs):
            return None
        staged = stage(root, profile, build=build, change=change)
        if want == "html":
            return run_sphinx(root, staged, root / build / "out")
        return {"links": check_links, "pdf": print_pdf}[want](root, staged, root / build)


def run_sphinx(root: Path, staged: Path, out: Path) -> Path | None:
    """Build `staged` into `out` unless `out` was made from the same files by the same programs.

    The old book stays until the new one is complete; the new one keeps nothing of the old one.
    """
    page, stamp = Path("_build", "html", "index.html"), "made_from"
    key = list_hash(
        [
            tree_hash(staged),
            tree_hash(root / "ulmpaper"),
            tree_hash(Path(__file__).parent),
            installed(),
        ]
    )
    if (out / page).is_file() and (out / stamp).is_file() and (out / stamp).read_text() == key:
        return out / page
    new = out.with_name("out.new")
    shutil.rmtree(new, ignore_errors=True)
    made = subprocess.run(
        sphinx_command(staged, new), cwd=root, stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        print(made.stdout)
        return None
    (new / stamp).write_text(key)
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)
    return out / page


def check_links(root: Path, staged: Path, folder: Path) -> Path:
    """Check every link that leaves the book; return broken_links.txt, which may be empty."""
    out, broken = folder / "links", folder / "broken_links.txt"
    shutil.rmtree(out, ignore_errors=True)
    command = [*sphinx_command(staged, out), "--builder", "linkcheck"]
    sphinx = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, check=False)
    report = out / "_build" / "linkcheck" / "output.json"
    if not report.is_file():
        raise ValueError(f"Sphinx did not reach the links:\n{sphinx.stdout}")
    asked = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    lines = [
        f"- {a['filename']}: {a['uri']} ({a['info']})\n"
        for a in asked
        if a["status"] in ("broken", "timeout")
    ]
    broken.write_text("".join(sorted(lines)), encoding="utf-8")
    print(f"{len(asked)} links, {len(lines)} of them broken")
    return broken


def print_pdf(root: Path, staged: Path, folder: Path) -> Path | None:
    """Typeset `staged`; return ulmpaper-book.pdf, or None where LaTeX stopped."""
    out, name = folder / "pdf", "ulmpaper-book.pdf"
    shutil.rmtree(out, ignore_errors=True)
    command = [*sphinx_command(staged, out), "--builder", "pdflatex"]
    quiet = {**os.environ, "LATEXMKOPTS": "-interaction=nonstopmode -halt-on-error -quiet"}
    made = subprocess.run(
        command,
        cwd=root,
        env=quiet,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if made.returncode:
        print(made.stdout)
        return None
    return Path(shutil.copyfile(out / "_build" / "latex" / name, folder / name))


def sphinx_command(staged: Path, out: Path) -> list[str]:
    """Jupyter Book of this interpreter, whatever is first on PATH; every warning is an error."""
    call = "from jupyter_book.cli.main import main; main()"
    options = ["--path-output", str(out), "--all", "--quiet", "-W", "-n", "--keep-going"]
    return [sys.executable, "-c", call, "build", str(staged), *options]


def installed() -> list[tuple[str, str]]:
    """Name and version of every package: Sphinx has too many that matter to list them by hand."""
    return sorted((dist.name, dist.version) for dist in importlib.metadata.distributions())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks and build the book.")
    parser.add_argument("profile", choices=list(PROFILES))
    add_options(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--check-links",
        dest="want",
        action="store_const",
        const="links",
        help="ask links to elsewhere",
    )
    instead.add_argument(
        "--pdf", dest="want", action="store_const", const="pdf", help="typeset it, with LaTeX"
    )
    parser.set_defaults(want="html")
    args = parser.parse_args(argv)
    try:
        page = build_book(
            ROOT, args.profile, build=args.build, want=args.want, change=read_change(args)
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if page is None:
        print("The book was not built: see above.", file=sys.stderr)
        return 1
    if args.want == "links" and (broken := page.read_text(encoding="utf-8")):
        print(broken)
        return 1
    print(os.path.relpath(page))
    return 0


if __name__ == "__main__":
    sys.exit(main())
