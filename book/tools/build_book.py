"""Execute the notebooks, stage the pages, build the book; each only where something has changed.

    python book/tools/build_book.py PROFILE [--source pala] [--set 'seed=7'] [--check-links | --pdf]

The book is written to build/out/_build/html and can be read there, without a server or a network;
as PDF to build/ulmpaper-book.pdf. Where nothing at all has changed since the same call, it takes a
second.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from provenance import file_hash, file_list, list_hash, revision, tree_hash

if TYPE_CHECKING:
    from run_notebooks import Change

ROOT = Path(__file__).resolve().parents[2]
PAGE, STAMP, CALL = Path("_build", "html", "index.html"), "made_from", "made_by"
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
    # Here, since they take seconds to load.
    from run_notebooks import run_notebooks
    from stage_book import stage

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
    key = list_hash(
        [
            tree_hash(staged),
            tree_hash(root / "ulmpaper"),
            tree_hash(Path(__file__).parent),
            installed(),
        ]
    )
    if (out / PAGE).is_file() and (out / STAMP).is_file() and (out / STAMP).read_text() == key:
        return out / PAGE
    new = out.with_name("out.new")
    shutil.rmtree(new, ignore_errors=True)
    made = subprocess.run(
        sphinx_command(staged, new), cwd=root, stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        print(made.stdout)
        return None
    (new / STAMP).write_text(key)
    shutil.rmtree(out, ignore_errors=True)
    new.rename(out)
    return out / PAGE


def call_key(root: Path, build: str, call: Sequence[str]) -> str:
    """Hash of a call and of everything that it may read; data and results by size and time."""
    made_of = [tree_hash(root / name) for name in ("ulmpaper", "notebooks", "book")]
    made_of.append(file_hash(root / "CHANGELOG.md"))
    folders = [root / name for name in ("data", "outputs", f"{build}/nb", f"{build}/outputs")]
    places = [os.environ.get(f"ULMPAPER_DATA_{name}") for name in ("DIR", "MIRROR")]
    folders += [Path(place) for place in places if place]
    seen = [file_list(folder) for folder in folders]
    return list_hash([*call, *made_of, *places, *seen, installed(), revision(root)])


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
    from run_notebooks import add_options, read_change

    from ulmpaper.config import PROFILES

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
    if args.want == "html":
        made_by = ROOT / args.build / "out" / CALL
        made_by.write_text(call_key(ROOT, args.build, sys.argv[1:] if argv is None else argv))
    print(os.path.relpath(page))
    return 0


def is_made(call: Sequence[str]) -> bool:
    """Whether the last book was made by this call, and nothing has changed since."""
    build = dict(itertools.pairwise(call)).get("--build", "build")
    out = ROOT / build / "out"
    if not ((out / PAGE).is_file() and (out / CALL).is_file()):
        return False
    return (out / CALL).read_text() == call_key(ROOT, build, call)


if __name__ == "__main__":
    if is_made(sys.argv[1:]):
        print("nothing has changed")
        sys.exit(0)
    sys.exit(main())
