"""The staged pages and the built book."""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import nbformat
import pytest
import yaml
from _book import (
    BUILD,
    ROOT,
    build_book,
    built_book,
    draw_background,
    pages,
    setup_cell,
    stage_book,
)
from _book import run_notebooks as runner
from bs4 import BeautifulSoup, Tag

import ulmpaper
from ulmpaper.config import config_table, load_config
from ulmpaper.io import REGISTRY
from ulmpaper.networks import CountNet, write_network
from ulmpaper.simulator import Acquisition

STAGED = ROOT / BUILD / "book"
NOTEBOOKS = list(runner.read_profiles(ROOT)["notebooks"])


@functools.cache
def soup(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


class Tags(HTMLParser):
    """All tags of a page with their attributes: ten times faster than a tree."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@functools.cache
def tags(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    return Tags(page).found


@functools.cache
def anchors(page: Path) -> set[str | None]:
    return {attributes.get("id") for _, attributes in tags(page)}


def articles() -> dict[str, Tag]:
    """The text of every page but the listings of code."""
    own = [page for page in pages() if "_modules" not in page.parts]
    found = {page.name: soup(page).find("article") for page in own}
    return {name: article for name, article in found.items() if article is not None}


# --- staging --------------------------------------------------------------------------------------


def executed_notebook() -> tuple[nbformat.NotebookNode, nbformat.NotebookNode]:
    """A source whose prose has changed, and its execution with an injected cell."""
    v4 = nbformat.v4
    head = v4.new_code_cell("profile = 'quick'", metadata={"tags": ["parameters"]})
    source = v4.new_notebook(
        cells=[v4.new_markdown_cell("# Title\n\nNew words."), head, v4.new_code_cell("1 + 1")]
    )
    output = v4.new_output("execute_result", {"text/plain": "2"}, execution_count=3)
    executed = v4.new_notebook(
        cells=[
            v4.new_markdown_cell("# Title\n\nOld words."),
            v4.new_code_cell(
                "profile = 'quick'", execution_count=1, metadata={"tags": ["parameters"]}
            ),
            v4.new_code_cell(
                "profile = 'smoke'", execution_count=2, metadata={"tags": ["injected-parameters"]}
            ),
            v4.new_code_cell("1 + 1", execution_count=3, outputs=[output]),
        ]
    )
    executed.metadata["language_info"] = {"name": "python"}
    executed.metadata["ulmpaper"] = {
        "profile": "smoke",
        "parameters": {"profile": "smoke"},
        "source": "simulated",
        "finished": "2026-01-02T03:04:05+00:00",
        "seconds": 130.0,
        "device": "a slow computer (1 cores)",
        "commit": "abc1234",
    }
    return source, executed


def test_staged_notebook_joins_new_prose_and_outputs() -> None:
    page = stage_book.with_outputs(*executed_notebook())
    assert [cell.get("execution_count") for cell in page.cells] == [None, 1, 2, 3]
    assert page.cells[3].outputs[0].data["text/plain"] == "2"
    title, _, byline, *_, words = page.cells[0].source.splitlines()
    assert (title, words) == ("# Title", "New words.")
    assert re.search("smoke.*simulated.*2026-01-02 in 2 min on a slow computer.*abc1234", byline)
    assert "ulmpaper" not in page.metadata


def test_code_that_changed_while_it_ran_is_named() -> None:
    source, executed = executed_notebook()
    source.cells[-1].source = "2 + 2"
    with pytest.raises(ValueError, match="changed while it ran"):
        stage_book.with_outputs(source, executed)


def test_staged_notebook_numbers_its_equations() -> None:
    source, executed = executed_notebook()
    source.cells[0].source += "\n\n$$\na = b\n$$\n\nand\n\n$$\nc\n= d\n$$\n\nwith $e$."
    text = stage_book.with_outputs(source, executed).cells[0].source
    assert re.findall(r"^\$\$ .*", text, re.M) == ["$$ (eq-title-1)", "$$ (eq-title-2)"]
    assert text.endswith("with $e$.")


def test_page_names_the_networks_that_made_it(tmp_path: Path) -> None:
    assert "Networks" not in stage_book.with_outputs(*executed_notebook()).cells[0].source
    source, executed = executed_notebook()
    own = tmp_path / "own.safetensors"
    net = CountNet(n_max=4, features=2)
    write_network(
        own,
        net,
        recipe="count",
        network={"n_max": 4, "features": 2},
        about={"digest": "0123456789"},
    )
    executed.metadata["ulmpaper"]["parameters"] = {"overrides": {"count.weights": str(own)}}
    for cells in (source.cells, executed.cells):
        cells[-1].source = 'ulm.locate(frames, "ml3d")'
    byline = stage_book.with_outputs(source, executed).cells[0].source
    assert re.search(r"Networks: ml3d \w{10}, count 0123456789, mspcn \w{10}\.</p>", byline)
    record = {"profile": "smoke", "parameters": {"overrides": {"ml3d.weights": str(own)}}}
    code = """paper.Method("ml3d", "predicted", weights="phantom")
    paper.Method("mspcn", weights="phantom")
    ulm.load_network("count", "paper")"""
    networks = stage_book.networks_in_use(record, code)
    assert networks["ml3d"] == "0123456789" != networks["ml3d phantom"]
    assert {"mspcn phantom", "count paper"} < set(networks)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (99.9, "99.9 s"), (130, "2 min"), (9000, "2.5 h")]
)
def test_durations_are_read_easily(seconds: float, words: str) -> None:
    assert stage_book.in_words(seconds) == words


def test_tables_keep_bars_in_their_cells() -> None:
    table = stage_book.markdown_table(["a", "b"], [("x|y", 1)])
    assert table == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


def test_assumptions_show_every_setting_with_its_source() -> None:
    page = stage_book.assumptions_page()
    paper = config_table(load_config("paper"))
    for row in paper.itertuples():
        name = row.setting.rpartition(".")[2]
        assert re.search(
            rf"\| `{name}` \| {re.escape(row.value)}.*{re.escape(row.source)} \|", page
        ), row.setting
    quick = load_config("quick")
    assert f"quick: {quick.example.n_frames}" in page


def test_reference_has_a_page_for_each_room_with_all_that_it_offers() -> None:
    rooms = stage_book.list_rooms(ROOT / "ulmpaper")
    assert set(rooms) == {"ulmpaper", *rooms_on_disk()}
    assert all(line.endswith(".") for line in rooms.values())
    for room in rooms:
        page = stage_book.api_page(ROOT / "ulmpaper", room)
        dotted = "ulmpaper" if room == "ulmpaper" else f"ulmpaper.{room}"
        for name in getattr(importlib.import_module(dotted), "__all__", []):
            full = rf":: {dotted}\.{name}$|:: {name}\n   :module: {dotted}$"
            assert re.search(full, page, re.M), name


def rooms_on_disk() -> set[str]:
    """Folders and files of the package that one can import; the command line is none."""
    package = ROOT / "ulmpaper"
    files = {path.stem for path in package.glob("[!_]*.py")} - {"cli"}
    return files | {path.parent.name for path in package.glob("*/__init__.py")}


def test_constants_are_shown_with_their_comment_or_value() -> None:
    page = stage_book.api_page(ROOT / "ulmpaper", "paper")
    assert ".. py:data:: TRUTH\n   :module: ulmpaper.paper\n   :value: 'truth'" in page
    assert re.search(r"PAPER\n   :module: ulmpaper\.paper\n\n   SSIM .*Keys: ``'Table I'``", page)


def test_name_that_is_offered_but_not_defined_is_named(tmp_path: Path) -> None:
    room = tmp_path / "ulmpaper" / "core"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text('a, b, c = offer(__name__, {"track": "link"})\n')
    (room / "track.py").write_text("from elsewhere import link\n")
    with pytest.raises(ValueError, match=r"offers link, which track\.py does not define"):
        stage_book.api_page(tmp_path / "ulmpaper", "core")


def test_page_without_its_mark_is_named(tmp_path: Path) -> None:
    page = tmp_path / "data.md"
    page.write_text("# Data\n")
    with pytest.raises(ValueError, match=r"data\.md lacks the line <!-- data sets -->"):
        stage_book.fill(page, "<!-- data sets -->", "a table")


def test_two_pictures_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [tmp_path / "01_first", tmp_path / "02_second"]
    for folder in folders:
        folder.mkdir()
        (folder / "home.png").touch()
    with pytest.raises(ValueError, match=r"two notebooks write a picture called home\.png"):
        stage_book.pictures(folders)


def test_entry_of_a_work_is_the_bibliographys(tmp_path: Path) -> None:
    references = tmp_path / "references.bib"
    references.write_text(
        "@misc{one,\n  title = {A {B}},\n}\n\n@article{two,\n  title = {C},\n  year = 1\n}\n"
    )
    assert (
        stage_book.bibtex(references, "two")
        == "```bibtex\n@article{two,\n  title = {C},\n  year = 1\n}\n```"
    )
    with pytest.raises(ValueError, match="no entry three"):
        stage_book.bibtex(references, "three")


def test_companion_is_cited_in_its_present_version() -> None:
    entry = stage_book.bibtex(ROOT / "book" / "references.bib", "ulmpaper")
    assert f"Version {ulmpaper.__version__}" in entry
    assert f"version: {ulmpaper.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_what_installs_itself_is_of_this_version() -> None:
    """Colab, Binder and pip: else the page of one release opens another's notebook."""
    tag = f"v{ulmpaper.__version__}"
    settings = yaml.safe_load((ROOT / "book" / "_config.yml").read_text(encoding="utf-8"))
    assert settings["repository"]["branch"] == tag
    pages = [setup_cell.source("a"), (ROOT / "book" / "run_it.md").read_text(encoding="utf-8")]
    for page in pages:
        installed = re.findall(r"git\+https://\S+?ulmpaper/ulmpaper(\S*?)[\"'\s]", page)
        assert installed == [f"@{tag}"]


def test_lecturers_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "book" / "teach.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    exec(code, {})
    rows = re.findall(r"rms error ([\d.]+) px, bound ([\d.]+)", capsys.readouterr().out)
    assert len(rows) == 6
    assert all(float(bound) * 0.9 < float(error) < 1.7 * float(bound) for error, bound in rows)


def test_drawings_are_those_of_their_script(tmp_path: Path) -> None:
    draw_background.main(tmp_path)
    for drawn in tmp_path.iterdir():
        assert drawn.read_bytes() == (ROOT / "book" / "assets" / drawn.name).read_bytes(), (
            "run draw_background.py"
        )


SETTINGS = set(config_table(load_config()).setting)


OWNERS = {"ulmpaper": ulmpaper, "Acquisition": Acquisition, "Block": ulmpaper.Block}


def known(name: str) -> bool:
    """Whether a name in the text is a setting or leads to something in the package."""
    if name in SETTINGS | {setting.partition(".")[0] for setting in SETTINGS}:
        return True
    first, *rest = name.split(".")
    owner = OWNERS.get(first)
    if rest and rest[0] in getattr(owner, "__dataclass_fields__", ()):
        return True
    try:
        functools.reduce(getattr, rest, owner)
    except AttributeError:
        return False
    return owner is not None


@pytest.mark.parametrize(
    "page", ["api", "background", "conventions", "glossary", "open_questions", "run_it", "teach"]
)
def test_names_in_the_text_are_names_in_the_code(page: str) -> None:
    text = re.sub(
        r"^```.*?^```",
        "",
        (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8"),
        flags=re.M | re.S,
    )
    text = re.sub(
        r"`[\w./]*\.(?:py|sh|json|h5|npz|npy|png|csv|mat|html|pdf|tiff)`", "", text
    )  # names of files
    names = re.findall(r"`([A-Za-z]\w*(?:\.\w+)+)`", text)  # those of roles, too
    names += re.findall(r"\bulmpaper(?:\.\w+)+", text)
    assert names
    assert [name for name in names if not known(name)] == []


@pytest.mark.slow
def test_code_of_the_reference_page_runs(tmp_path: Path) -> None:
    text = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    assert len(blocks) == 3
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    for code in blocks:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "out" / "density.png").is_file()


# --- building -------------------------------------------------------------------------------------


def test_sphinx_runs_once_and_its_warnings_are_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    staged, out = tmp_path / "book", tmp_path / "out"
    staged.mkdir()
    (tmp_path / "ulmpaper").mkdir()
    (staged / "_config.yml").write_text("title: A book\n")
    (staged / "_toc.yml").write_text("format: jb-book\nroot: index\n")
    (staged / "index.md").write_text("# A book\n\nAll is well.\n")
    page = build_book.run_sphinx(tmp_path, staged, out)
    assert page is not None
    before = page.stat()
    assert build_book.run_sphinx(tmp_path, staged, out) == page
    assert page.stat() == before, "nothing has changed, so nothing is built"
    (staged / "index.md").write_text("# A book\n\n[nowhere](missing.md)\n")
    assert build_book.run_sphinx(tmp_path, staged, out) is None
    assert page.stat() == before, "the last good book stays"
    assert not (tmp_path / "out.new" / "made_from").exists()
    assert "missing.md" in capfd.readouterr().err


def test_sphinx_is_that_of_this_interpreter() -> None:
    assert build_book.sphinx_command(Path("a"), Path("b"))[0] == sys.executable


def test_the_same_call_again_does_nothing_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ulmpaper/a.py", "notebooks/n.md", "book/page.md", "CHANGELOG.md", "data/d.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    page = tmp_path / "b" / "out" / build_book.PAGE
    page.parent.mkdir(parents=True)
    page.write_text("book")
    monkeypatch.setattr(build_book, "ROOT", tmp_path)
    call = ["smoke", "--build", "b"]
    assert not build_book.is_made(call)
    made_by = tmp_path / "b" / "out" / build_book.CALL
    for name in ("ulmpaper/a.py", "notebooks/n.md", "book/page.md", "CHANGELOG.md", "data/d.tif"):
        made_by.write_text(build_book.call_key(tmp_path, "b", call))
        assert build_book.is_made(call)
        (tmp_path / name).write_text("22")
        assert not build_book.is_made(call), name
    made_by.write_text(build_book.call_key(tmp_path, "b", call))
    assert not build_book.is_made([*call, "--set", "seed=7"])
    page.unlink()
    assert not build_book.is_made(call)


# --- the book in smoke ----------------------------------------------------------------------------


@pytest.mark.notebook
def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in pages():
        links = {
            attributes.get(name) for _, attributes in tags(page) for name in ("href", "src")
        } - {None, "#"}
        for link in links:
            address, anchor = urldefrag(link)
            if re.match("[a-z]+:", address):
                continue
            target = page.parent / unquote(address.partition("?")[0]) if address else page
            target = Path(os.path.normpath(target))
            if not target.exists() or (
                anchor and target.suffix == ".html" and unquote(anchor) not in anchors(target)
            ):
                broken.append((page.name, link))
    assert broken == []


@pytest.mark.notebook
def test_nothing_is_loaded_from_elsewhere() -> None:
    foreign = []
    for page in pages():
        loaded = [a["src"] for _, a in tags(page) if a.get("src")]
        loaded += [a["href"] for tag, a in tags(page) if tag == "link" and a["rel"] != "canonical"]
        foreign += [(page.name, address) for address in loaded if re.match("(https?:)?//", address)]
        foreign += [(page.name, "thebe")] * ("thebe_selector" in page.read_text(encoding="utf-8"))
    assert foreign == []


@pytest.mark.notebook
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_page_shows_its_figures_and_what_made_them(name: str) -> None:
    html = built_book()
    page = soup(html / "notebooks" / f"{name}.html")
    staged = nbformat.read(STAGED / "notebooks" / f"{name}.ipynb", 4)
    named = [
        c.metadata.mystnb.figure.name
        for c in staged.cells
        if "figure" in c.metadata.get("mystnb", {})
    ]
    shown = [figure.get("id") for figure in page.select("article figure")]
    assert shown == named
    assert all(image.get("alt") for image in page.select("article figure img")), (
        "every figure has words for it"
    )
    byline = page.select_one("article p.provenance").get_text()
    assert re.fullmatch(
        r"Profile smoke, source \w+\. Run on \d{4}-\d\d-\d\d in [\d.]+ \w+ on .+, revision .+\.",
        byline,
    )
    networks = r"Networks: ml3d \w{10}, count \w{10}, mspcn \w{10}"
    networks += r"(, (ml3d|count|mspcn) (phantom|paper) \w{10})*\.$"
    assert bool(re.search(networks, byline)) == ("05" <= name < "11")


@pytest.mark.notebook
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_buttons_lead_to_the_notebook_in_the_repository(name: str) -> None:
    links = [
        a.get("href") or ""
        for tag, a in tags(built_book() / "notebooks" / f"{name}.html")
        if tag == "a"
    ]
    for host in ("mybinder.org", "colab.research.google.com"):
        assert [
            link for link in links if host in link and link.endswith(f"/notebooks/{name}.ipynb")
        ], host


@pytest.mark.notebook
def test_home_page_shows_the_picture_and_numbers_of_a_notebook() -> None:
    html = built_book()
    figure = soup(html / "index.html").select_one("article figure#fig-home")
    results = json.loads((STAGED / "results.json").read_text(encoding="utf-8"))
    assert f"paths of {results['classical_ulm']['n_tracks']} bubbles" in figure.get_text()
    assert (html / figure.img["src"]).stat().st_size > 1000


@pytest.mark.notebook
def test_every_page_says_which_profile_made_it() -> None:
    own = [page for page in pages() if "_modules" not in page.parts]
    said = {page.name: soup(page).find("footer", class_="bd-footer-content") for page in own}
    assert [
        name for name, foot in said.items() if "made with the profile smoke" not in foot.get_text()
    ] == []


@pytest.mark.notebook
def test_cite_page_has_all_that_is_to_be_cited() -> None:
    shown = "".join(
        block.get_text()
        for block in soup(built_book() / "cite.html").select("div.highlight-bibtex")
    )
    assert re.findall(r"@\w+\{(\w+),", shown) == list(stage_book.CITED)


@pytest.mark.notebook
def test_data_page_lists_what_can_be_fetched() -> None:
    rows = soup(built_book() / "data.html").select("article table.ulm-data tbody tr")
    assert [row.td.get_text() for row in rows] == list(REGISTRY)


@pytest.mark.notebook
def test_reference_documents_every_public_function() -> None:
    html = built_book()
    for room in stage_book.list_rooms(ROOT / "ulmpaper"):
        dotted = "ulmpaper" if room == "ulmpaper" else f"ulmpaper.{room}"
        module = importlib.import_module(dotted)
        public = set(getattr(module, "__all__", ()))
        if not public:
            source = Path(module.__file__).read_text(encoding="utf-8")
            public = set(re.findall(r"^(?:def|class) ([a-zA-Z]\w*)", source, re.M))
        documented = anchors(html / "api" / f"{room}.html")
        assert {f"{dotted}.{name}" for name in public} <= documented


@pytest.mark.notebook
def test_pages_hold_no_leftovers() -> None:
    """No role, substitution or fence that was not understood, and nothing ugly in an output."""
    left = []
    for name, article in articles().items():
        words = [
            text for text in article.find_all(string=True) if not text.find_parent(["pre", "code"])
        ]
        left += [(name, text) for text in words if re.search(r"\{[a-z:]+\}`|\{\{|:::|\[\?\]", text)]
        outputs = " ".join(block.get_text() for block in article.select("div.cell_output"))
        left += [
            (name, what) for what in ("Traceback", "Warning:", "<Figure size") if what in outputs
        ]
    assert left == []


@pytest.mark.notebook
def test_no_path_of_this_machine_is_published() -> None:
    html = built_book()
    private = [str(ROOT), str(Path.home()) + "/", "/tmp/", sys.prefix]
    texts = [
        p for p in html.rglob("*") if p.suffix in {".html", ".ipynb", ".md", ".json", ".js", ".txt"}
    ]
    own = [p for p in texts if "_static" not in p.relative_to(html).parts]
    assert len(own) > 20
    assert [
        (p.name, path) for p in own for path in private if path in p.read_text(encoding="utf-8")
    ] == []


@pytest.mark.notebook
def test_runs_page_names_every_notebook_and_its_profile() -> None:
    text = articles()["runs.html"].get_text()
    assert "profile smoke" in text
    assert all(name in text for name in NOTEBOOKS)
    assert "numpy" in text


@pytest.mark.notebook
def test_all_notebooks_run_in_smoke() -> None:
    built_book()
    for notebook in runner.read_plan(ROOT, "smoke", build=BUILD):
        executed = nbformat.read(ROOT / BUILD / "nb" / "smoke" / f"{notebook.name}.ipynb", 4)
        code = [cell for cell in executed.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
        assert isinstance(json.loads((ROOT / notebook.results / "results.json").read_text()), dict)


# --- PDF ------------------------------------------------------------------------------------------


def test_pdf_without_latex_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        build_book.shutil, "which", lambda program: None if program == "latexmk" else program
    )
    with pytest.raises(ValueError, match=r"apt-get install --no-install-recommends latexmk$"):
        build_book.build_book(tmp_path, "smoke", want="pdf")


@pytest.mark.slow
@pytest.mark.notebook
def test_book_can_be_printed(tmp_path: Path) -> None:
    if lacking := [program for program in build_book.TEX if not shutil.which(program)]:
        pytest.skip(f"the PDF needs {', '.join(lacking)}")
    built_book()
    pdf = build_book.print_pdf(ROOT, STAGED, tmp_path)
    assert pdf is not None
    assert pdf.read_bytes().startswith(b"%PDF")
    log = (tmp_path / "pdf" / "_build" / "latex" / "ulmpaper-book.log").read_text(
        encoding="utf-8", errors="replace"
    )
    assert int(re.search(r"Output written on ulmpaper-book\.pdf \((\d+) pages", log)[1]) > 100
    assert not re.findall(r"^Missing character.*", log, re.M)
