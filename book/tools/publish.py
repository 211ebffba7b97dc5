"""Carry executed notebooks from one machine to another, and build the book that is published.

    python book/tools/publish.py pack PROFILE    executed notebooks and what pages show of them:
                                                 build/runs-PROFILE.zip
    python book/tools/publish.py unpack [FILE]   put such archives where the builder finds them
    python book/tools/publish.py site            build and zip the book: build/ulmpaper-book.zip

`site` takes the profile `paper` where all its notebooks have been executed for exactly this
content, else `quick`.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from build_book import build_book
from reach import Package
from run_notebooks import ROOT, content_key, is_current, read_plan, read_record

from ulmpaper.config import PROFILES
from ulmpaper.paper import FOLDER

OFFLINE = "ulmpaper-book"


def pack(root: Path, profile: str, *, build: str = "build") -> Path:
    """Zip the executed notebooks of a profile, their numbers, pictures and exported files."""
    files: list[Path] = []
    for notebook in read_plan(root, profile, build=build):
        executed = root / build / "nb" / profile / f"{notebook.name}.ipynb"
        results = root / notebook.results
        if executed.is_file():
            shown = [p for p in sorted(results.iterdir()) if p.suffix in (".json", ".png", ".svg")]
            files += [executed, *shown, *sorted((results / FOLDER).glob("*"))]
    if not files:
        raise ValueError(
            f"no notebook has been executed in the profile {profile}: run `make notebooks` first"
        )
    archive = root / build / f"runs-{profile}.zip"
    write_zip(archive, {path.relative_to(root).as_posix(): path for path in files})
    return archive


def unpack(root: Path, archive: Path, *, build: str = "build") -> None:
    """Put the files of an archive made by `pack` where they were."""
    with zipfile.ZipFile(archive) as packed:
        places = (f"{build}/nb/", "outputs/", f"{build}/outputs/")
        if strange := [
            n for n in packed.namelist() if not n.startswith(places) or ".." in Path(n).parts
        ]:
            raise ValueError(f"{archive.name} was not made by `make pack`: it holds {strange[0]}")
        packed.extractall(root)


def is_complete(root: Path, profile: str, *, build: str = "build") -> bool:
    """Whether every notebook of a profile has been executed for the present content."""
    package = Package(root / "ulmpaper")
    keys: dict[str, str] = {}
    for notebook in read_plan(root, profile, build=build):
        keys[notebook.name] = content_key(notebook, root, package, keys)
        made = read_record(root / build / "nb" / profile / f"{notebook.name}.ipynb")
        if not (made and is_current(made, keys[notebook.name], root)):
            return False
    return True


def build_site(root: Path, *, build: str = "build") -> Path | None:
    """Build the book of the fullest profile there is; its offline edition, or None."""
    profile = "paper" if is_complete(root, "paper", build=build) else "quick"
    print(f"profile {profile}")
    page = build_book(root, profile, build=build)
    if page is None:
        return None
    archive = root / build / f"{OFFLINE}.zip"
    files = sorted(path for path in page.parent.rglob("*") if path.is_file())
    write_zip(
        archive, {f"{OFFLINE}/{path.relative_to(page.parent).as_posix()}": path for path in files}
    )
    return archive


def write_zip(archive: Path, files: dict[str, Path]) -> None:
    """Write a zip under a temporary name and move it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as made:
        for name, path in files.items():
            made.write(path, name)
    unfinished.replace(archive)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Carry executed notebooks, and build the book that is published."
    )
    parser.add_argument(
        "--build", default="build", help="folder for everything that is built (default: build)"
    )
    todo = parser.add_subparsers(dest="todo", required=True)
    todo.add_parser("pack").add_argument("profile", choices=list(PROFILES))
    todo.add_parser("unpack").add_argument("files", nargs="*", type=Path, metavar="FILE")
    todo.add_parser("site")
    args = parser.parse_args(argv)
    try:
        if args.todo == "unpack":
            for file in args.files:
                unpack(ROOT, file, build=args.build)
                print(f"{file} unpacked")
            return 0
        made = (
            pack(ROOT, args.profile, build=args.build)
            if args.todo == "pack"
            else build_site(ROOT, build=args.build)
        )
    except (ValueError, zipfile.BadZipFile) as error:
        parser.error(str(error))
    if made is None:
        print("The book was not built: see above.", file=sys.stderr)
        return 1
    print(os.path.relpath(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
