"""Executed notebooks that travel, and the book that is published from them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nbformat
import pytest
from _book import publish, stage_book
from _book import run_notebooks as runner
from _project import project, write_notebook

__all__ = ["project"]


def executed(root: Path, profile: str) -> None:
    """What executing all notebooks of a profile leaves, without the wait."""
    keys: dict[str, str] = {}
    package = runner.Package(root / "ulmpaper")
    for notebook in runner.read_plan(root, profile):
        results = root / notebook.results / "results.json"
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps({"value": 1}))
        (results.parent / "map.png").write_bytes(b"a picture")
        (results.parent / "frames.h5").write_bytes(b"too large to travel")
        (results.parent / "export").mkdir(exist_ok=True)
        (results.parent / "export" / "map.pdf").write_bytes(b"a figure")
        keys[notebook.name] = key = runner.content_key(notebook, root, package, keys)
        made = nbformat.read(notebook.source, 4)
        where = notebook.results.as_posix()
        made.metadata["ulmpaper"] = {
            "key": key,
            "results": where,
            "results_sha256": runner.file_hash(results),
        }
        target = root / "build" / "nb" / profile / f"{notebook.name}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(made, target)


def test_executed_notebooks_travel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    executed(project, "paper")
    archive = publish.pack(project, "paper")
    assert archive == project / "build" / "runs-paper.zip"
    with zipfile.ZipFile(archive) as packed:
        suffixes = sorted(Path(name).suffix for name in packed.namelist())
    assert suffixes == sorted([".ipynb", ".json", ".png", ".pdf"] * 2), "nothing that no page shows"

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for folder in ("notebooks", "data", "ulmpaper"):
        (project / folder).rename(elsewhere / folder)
    assert not publish.is_complete(elsewhere, "paper")
    publish.unpack(elsewhere, archive)
    assert publish.is_complete(elsewhere, "paper")
    assert not publish.is_complete(elsewhere, "quick")


def test_notebooks_made_for_other_content_do_not_count(project: Path) -> None:
    executed(project, "paper")
    assert publish.is_complete(project, "paper")
    write_notebook(project, "01_first", "1", prose="Other words.")
    assert publish.is_complete(project, "paper"), "prose is taken from the source"
    write_notebook(project, "01_first", "2")
    assert not publish.is_complete(project, "paper")


@pytest.mark.parametrize("profile", ["paper", "quick"])
def test_site_is_the_fullest_book_there_is(
    project: Path, profile: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executed(project, profile)

    def build_book(root: Path, profile: str, *, build: str) -> Path:
        html = root / build / "out" / "_build" / "html"
        (html / "notebooks").mkdir(parents=True)
        (html / "index.html").write_text(profile)
        (html / "notebooks" / "a.html").write_text("a page")
        return html / "index.html"

    monkeypatch.setattr(publish, "build_book", build_book)
    archive = publish.build_site(project)
    assert archive == project / "build" / "ulmpaper-book.zip"
    assert capsys.readouterr().out == f"profile {profile}\n"
    with zipfile.ZipFile(archive) as book:
        assert sorted(book.namelist()) == [
            "ulmpaper-book/index.html",
            "ulmpaper-book/notebooks/a.html",
        ]
        assert book.read("ulmpaper-book/index.html").decode() == profile
    monkeypatch.setattr(publish, "build_book", lambda *_, **__: None)
    assert publish.build_site(project) is None


def test_failed_runs_are_packed_as_far_as_they_came(project: Path) -> None:
    with pytest.raises(ValueError, match="no notebook has been executed in the profile paper"):
        publish.pack(project, "paper")
    executed(project, "paper")
    (project / "build" / "nb" / "paper" / "02_second.ipynb").unlink()
    with zipfile.ZipFile(publish.pack(project, "paper")) as packed:
        assert not any("02_second" in name for name in packed.namelist())


@pytest.mark.parametrize("name", ["Makefile", "outputs/../Makefile", "/etc/passwd"])
def test_foreign_archives_are_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "runs.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("outputs/a/results.json", "{}")
        packed.writestr(name, "all:")
    with pytest.raises(ValueError, match=r"runs\.zip was not made by `make pack`"):
        publish.unpack(tmp_path, archive)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("profile", "words"), [("paper", "own settings"), ("quick", "shorter and smaller")]
)
def test_edition_is_told(profile: str, words: str) -> None:
    assert words in stage_book.edition(profile)
    record = {
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 1.0,
        "slowest": {"cell": 1, "seconds": 1.0},
        "parameters": {},
        "commit": "abc1234",
        "device": "a computer",
        "versions": {"python": "3.11"},
    }
    page = stage_book.runs_page(profile, {"01_first": record})
    assert ("no run of the profile *paper* was at hand" in page) == (profile != "paper")
