"""Put together the folder that Sphinx builds: pages of `book/`, notebooks, generated pages.

build/book/                 from
*.md, static/, ...          book/, with the generated parts of api, cite, claims and data.md
static/lab.html             the lab of book/lab, in one file
_toc.yml                    book/_toc.yml, with a page for each room of the package under `api`
_config.yml                 book/_config.yml, with the profile in the line at the foot of each page,
                            and the revision that Colab and Binder open
changelog.md                CHANGELOG.md
notebooks/NAME.ipynb        prose of notebooks/NAME.ipynb, outputs of build/nb/PROFILE/NAME.ipynb
results.json                results.json of every notebook, under its name without the number
figures/*.png, *.svg        pictures that notebooks wrote beside their results.json
assumptions.md, runs.md     the settings of all profiles; how each notebook was run
api/ROOM.md                 one page for each room of the package, its front door among them
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import yaml
from build_lab import build_lab
from claims import claims_text
from provenance import revision
from reach import offered
from run_notebooks import Change, label, read_plan

from ulmpaper.config import PROFILES, config_table, load_config
from ulmpaper.io import REGISTRY
from ulmpaper.networks import find_weights, read_network

CITED = ("pustovalov2024", "heiles2022", "liu2020", "ulmpaper")
SHORTER = """\
For this content no run of the profile *paper* was at hand, which needs a GPU. So data are fewer,
networks smaller and trainings shorter here than in the paper; the [assumptions](assumptions.md)
list every difference."""


def stage(root: Path, profile: str, *, build: str = "build", change: Change | None = None) -> Path:
    """Write the staged folder anew and return it."""
    plan = read_plan(root, profile, build=build, change=change)
    made = root / build / "nb" / label(profile, change)
    executed = {n.name: nbformat.read(made / f"{n.name}.ipynb", 4) for n in plan}
    records = {name: notebook.metadata["ulmpaper"] for name, notebook in executed.items()}
    staged = root / build / "book"
    shutil.rmtree(staged, ignore_errors=True)
    sources = shutil.ignore_patterns("tools", "lab", "__pycache__")
    shutil.copytree(root / "book", staged, ignore=sources)
    build_lab(staged / "static" / "lab.html", root / "book" / "lab")
    for folder in ("notebooks", "figures", "api"):
        (staged / folder).mkdir(exist_ok=True)
    for notebook in plan:
        try:
            page = with_outputs(nbformat.read(notebook.source, 4), executed[notebook.name])
        except ValueError as error:
            raise ValueError(f"{notebook.name}: {error}") from None
        nbformat.write(page, staged / "notebooks" / f"{notebook.name}.ipynb")
    folders = {name: root / record["results"] for name, record in records.items()}
    results = {
        short(name): json.loads((folder / "results.json").read_text(encoding="utf-8"))
        for name, folder in folders.items()
    }
    (staged / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    for picture in pictures(folders.values()):
        shutil.copyfile(picture, staged / "figures" / picture.name)
    rooms = list_rooms(root / "ulmpaper")
    for room in rooms:
        page = api_page(root / "ulmpaper", room)
        (staged / "api" / f"{room}.md").write_text(page, encoding="utf-8")
    rows = [(f"[{room}](api/{room}.md)", line) for room, line in rooms.items()]
    fill(staged / "api.md", "<!-- rooms -->", markdown_table(["Room", "Purpose"], rows))
    fill(staged / "data.md", "<!-- data sets -->", data_table())
    fill(staged / "claims.md", "<!-- claims -->", claims_text(results, markdown_table))
    for key in CITED:
        fill(staged / "cite.md", f"<!-- {key} -->", bibtex(root / "book" / "references.bib", key))
    shutil.copyfile(root / "CHANGELOG.md", staged / "changelog.md")
    settings = yaml.safe_load((staged / "_config.yml").read_text(encoding="utf-8"))
    settings["html"]["extra_footer"] += f" {edition(profile, change)}"
    settings["repository"]["branch"] = revision(root)
    (staged / "_config.yml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    toc = yaml.safe_load((staged / "_toc.yml").read_text(encoding="utf-8"))
    (staged / "_toc.yml").write_text(
        yaml.safe_dump(with_api(toc, rooms), sort_keys=False), encoding="utf-8"
    )
    (staged / "assumptions.md").write_text(assumptions_page(), encoding="utf-8")
    (staged / "runs.md").write_text(runs_page(profile, records), encoding="utf-8")
    return staged


def fill(page: Path, mark: str, text: str) -> None:
    """Put generated text in the place of `mark`."""
    before, found, after = page.read_text(encoding="utf-8").partition(mark)
    if not found:
        raise ValueError(f"{page.name} lacks the line {mark}")
    page.write_text(before + text + after, encoding="utf-8")


def edition(profile: str, change: Change | None = None) -> str:
    """What a reader of any page should know about its numbers."""
    short = (
        "the paper's own settings"
        if profile == "paper"
        else "shorter and smaller than the paper's settings"
    )
    changed = dict(change or {})
    overrides = changed.pop("overrides", {})
    given = [f"{key} = {value}" for key, value in {**changed, **overrides}.items()]
    with_these = f", with {', '.join(given)}" if given else ""
    return f"This edition was made with the profile {profile}{with_these}: {short}."


def short(name: str) -> str:
    """Name of a notebook without its number, as in `{{ r.classical_ulm.n_tracks }}`."""
    return name.partition("_")[2]


def pictures(folders: Iterable[Path]) -> list[Path]:
    """Pictures that the notebooks wrote for other pages; two of one name would hide each other."""
    found = [
        p for folder in folders for p in sorted(folder.iterdir()) if p.suffix in (".png", ".svg")
    ]
    names = [picture.name for picture in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(
            f"two notebooks write a picture called {', '.join(sorted(twice))}: rename one"
        )
    return found


# --- notebooks ------------------------------------------------------------------------------------


def with_outputs(
    source: nbformat.NotebookNode, executed: nbformat.NotebookNode
) -> nbformat.NotebookNode:
    """The present source with the outputs of its execution, and a line that says what made them."""
    twins = iter(cell for cell in executed.cells if cell.cell_type == "code")
    cells = []
    for cell in source.cells:
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        twin = next(twins, None)
        # The setup cell names the version of the package; it has no output.
        is_setup = "setup" in cell.metadata.get("tags", [])
        if twin is None or (twin.source != cell.source and not is_setup):
            raise ValueError("its code was changed while it ran: execute it again")
        cell.outputs, cell.execution_count = twin.outputs, twin.execution_count
        if "parameters" in cell.metadata.get("tags", []) and executed.metadata.ulmpaper.parameters:
            cells.append(next(twins))
    title, _, rest = cells[0].source.partition("\n")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    made_by = byline(executed.metadata.ulmpaper, code)
    cells[0].source = f"{title}\n\n{made_by}\n{rest}"
    number_equations(cells, re.sub(r"\W+", "-", title.strip("# ").lower()))
    source.cells = cells
    source.metadata["language_info"] = executed.metadata.language_info
    return source


def number_equations(cells: Iterable[nbformat.NotebookNode], name: str) -> None:
    """Give each displayed equation a label, so that it has a number; notebooks have none."""
    number = itertools.count(1)
    for cell in cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"^\$\$\n(.*?)\n\$\$$",
                lambda found: f"{found[0]} (eq-{name}-{next(number)})",
                cell.source,
                flags=re.M | re.S,
            )


def byline(record: Mapping[str, Any], code: str = "") -> str:
    """One line of HTML: what made the outputs of a page, and the networks that its code uses."""
    networks = networks_in_use(record, code)
    trained = (
        f" Networks: {', '.join(f'{name} {digest}' for name, digest in networks.items())}."
        if networks
        else ""
    )
    return (
        f'<p class="provenance">Profile <strong>{record["profile"]}</strong>, '
        f"source {record['source']}. "
        f"Run on {record['finished'][:10]} in {in_words(record['seconds'])} on {record['device']}, "
        f"revision {record['commit']}.{trained}</p>"
    )


def networks_in_use(record: Mapping[str, Any], code: str) -> dict[str, str]:
    """The networks that a page's code uses, and the digests of the settings of their trainings."""
    if not re.search(r"\"(ml3d|mspcn)\"|load_network", code):
        return {}
    cfg = load_config(record["profile"], record["parameters"].get("overrides"))
    files = {
        name: find_weights(name, getattr(cfg, name).weights) for name in ("ml3d", "count", "mspcn")
    }
    in_methods = re.findall(r"Method\(\"(\w+)\"[^)]*weights=\"(\w+)\"", code)
    by_name = re.findall(r"load_network\(\"(\w+)\", \"(\w+)\"\)", code)
    for recipe, variant in in_methods + by_name:
        files[f"{recipe} {variant}"] = find_weights(recipe, variant)
    return {name: read_network(path).about["digest"] for name, path in files.items()}


def in_words(seconds: float) -> str:
    """A duration as a reader says it."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# --- generated pages ------------------------------------------------------------------------------


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, style: str = ""
) -> str:
    """A Markdown table, with a class of static/ulm.css where `style` is given."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(
        "| " + " | ".join(str(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
    )
    return f":::{{table}}\n:class: {style}\n\n{table}\n:::" if style else table


def runs_page(profile: str, records: Mapping[str, Mapping[str, Any]]) -> str:
    """How each notebook of this book was executed."""
    runs = markdown_table(
        ["Notebook", "Finished (UTC)", "Time", "Slowest cell", "Parameters", "Revision", "Machine"],
        [
            (
                f"[{name}](notebooks/{name}.ipynb)",
                record["finished"][:16].replace("T", " "),
                in_words(record["seconds"]),
                f"[{record['slowest']['cell']}], {in_words(record['slowest']['seconds'])}",
                ", ".join(f"`{key} = {value!r}`" for key, value in record["parameters"].items())
                or "as written",
                record["commit"],
                record["device"],
            )
            for name, record in records.items()
        ],
        style="ulm-runs",
    )
    versions = sorted({item for record in records.values() for item in record["versions"].items()})
    total = in_words(sum(record["seconds"] for record in records.values()))
    shorter = "" if profile == "paper" else f"\n{SHORTER}\n"
    return f"""# How this book was run

Every number and every figure of this edition was made with the profile **{profile}**. All its
notebooks ({len(records)}) ran to their end, in {total} together. A notebook runs again only when
its code or parameters, code of the package that it can reach, another package, its data or a
notebook it needs has changed; so dates and revisions may differ.
{shorter}
{runs}

## Versions

{markdown_table(["Package", "Version"], versions)}
"""


def assumptions_page() -> str:
    """Every setting with its source, and where the shorter profiles leave the paper's values."""
    tables = {profile: config_table(load_config(profile)) for profile in PROFILES}
    paper = tables.pop("paper")
    shorter = [
        ", ".join(
            f"{profile}: {table.value[row]}"
            for profile, table in tables.items()
            if table.value[row] != value
        )
        for row, value in paper.value.items()
    ]
    paper = paper.assign(shorter=shorter)
    counts = paper.source.str.partition(" ")[0].value_counts()
    return f"""# Assumptions

A result rests on every value below. This page is made from the package's own settings
({{py:func}}`ulmpaper.load_config`), so nothing that was assumed is left out. *From* says who chose
a value: the paper, PALA, or this project where both are silent. Of {len(paper)} settings,
{counts["paper"]} are the paper's, {counts["PALA"]} PALA's and {counts["ours"]} ours.

*Value* is that of the profile *paper*; the next column says where *quick* and *smoke* differ from
it. Any value can be replaced in a notebook, for example by `overrides = {{"track.max_gap": 1}}`.

{"".join(_sections(paper))}"""


def _sections(table: pd.DataFrame) -> Iterator[str]:
    names = table.setting.str.rpartition(".")
    for section in names[0].unique():
        rows = [
            (f"`{name}`", _with_unit(row.value, row.unit), row.shorter, row.source, row.meaning)
            for name, row in zip(
                names[2][names[0] == section], table[names[0] == section].itertuples(), strict=True
            )
        ]
        header = ["Setting", "Value", "Shorter profiles", "From", "Meaning"]
        title = f"`{section}`" if section else "The run as a whole"
        yield f"## {title}\n\n{markdown_table(header, rows, style='ulm-settings')}\n\n"


def _with_unit(value: str, unit: str) -> str:
    return value if value == "none" or unit == "-" else f"{value} {unit}"


def data_table() -> str:
    """What `ulmpaper fetch` knows."""
    sets = REGISTRY
    rows = [
        (f"`{name}`", d.what, f"{d.size}; {_link(d.address)}", d.licence)
        for name, d in sets.items()
    ]
    table = markdown_table(
        ["Name", "What it is", "Size; source", "Licence"], rows, style="ulm-data"
    )
    small = ", ".join(f"`{name}`" for name, d in sets.items() if d.small)
    return f"{table}\n\n`--small` fetches {small}."


def _link(address: str) -> str:
    return f"[{address.removeprefix('https://github.com/').removeprefix('https://doi.org/')}]({address})"


def bibtex(references: Path, key: str) -> str:
    """The entry of one work as it stands in the bibliography's file, ready to be copied."""
    found = re.search(
        rf"^@\w+\{{{key},.*?^\}}", references.read_text(encoding="utf-8"), re.M | re.S
    )
    if not found:
        raise ValueError(f"{references.name} has no entry {key}")
    return f"```bibtex\n{found[0]}\n```"


ROOMS = (
    "ulmpaper",
    "core",
    "io",
    "simulator",
    "networks",
    "metrics",
    "pipeline",
    "plots",
    "config",
    "paper",
)


def list_rooms(package: Path) -> dict[str, str]:
    """First line of the docstring of the front door and of each room, in the reference's order."""
    return {room: _docstring(_home(package, room)).partition("\n")[0] for room in ROOMS}


def _home(package: Path, room: str) -> Path:
    """The file that bears a room's docstring."""
    if room == "ulmpaper":
        return package / "__init__.py"
    inside = package / room / "__init__.py"
    return inside if inside.is_file() else package / f"{room}.py"


def _docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def api_page(package: Path, room: str) -> str:
    """Reference page of a room: its docstring, then what it offers, file by file."""
    home = _home(package, room)
    dotted = "ulmpaper" if room == "ulmpaper" else f"ulmpaper.{room}"
    if home.stem != "__init__":
        members = "\n   :members:\n   :member-order: bysource"
        return f"# {room}\n\n{_rst(f'.. automodule:: {dotted}{members}')}"
    files: dict[str, list[str]] = {}
    for name, file in offered(ast.parse(home.read_text(encoding="utf-8"))).items():
        files.setdefault(file, []).append(name)
    parts = [f"# {room}\n", _rst(f".. automodule:: {dotted}")]
    for file, names in files.items():
        path = home.parent / f"{file.replace('.', '/')}.py"
        # The front door's names lie in the rooms, whose pages show the docstrings of their files.
        if room != "ulmpaper":
            parts += [f"## {file}\n", _rst(f".. automodule:: {dotted}.{file}")]
        parts += [_rst(_entry(path, dotted, name)) for name in names]
    return "\n".join(parts)


def _rst(text: str) -> str:
    return f"```{{eval-rst}}\n{text}\n```\n"


def _entry(path: Path, room: str, name: str) -> str:
    """Directive for one name that a room offers."""
    text = path.read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return f".. autofunction:: {room}.{name}"
        if isinstance(node, ast.ClassDef) and node.name == name:
            if room != "ulmpaper":
                return f".. autoclass:: {room}.{name}\n   :members:\n   :member-order: bysource"
            home = f"{path.parent.name}.{name}"
            return f".. py:class:: {name}\n   :module: {room}\n\n   Another name of `{home}`."
        is_taken = isinstance(node, ast.ImportFrom) and name in {a.name for a in node.names}
        if is_taken and (node.module or "").startswith("ulmpaper."):
            home = f"{node.module.split('.')[1]}.{name}"
            return f".. py:function:: {name}\n   :module: {room}\n\n   Another name of `{home}`."
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if name in re.findall(r"\w+", " ".join(map(ast.unparse, targets))):
                return _constant(text.splitlines(), node, room, name)
    raise ValueError(f"{room} offers {name}, which {path.name} does not define")


def _constant(lines: Sequence[str], node: ast.Assign | ast.AnnAssign, room: str, name: str) -> str:
    """A constant with the comment above it; of a dictionary the keys, else a short value."""
    words: list[str] = []
    for line in reversed(lines[: node.lineno - 1]):
        if not line.startswith("#"):
            break
        words.insert(0, line.lstrip("# "))
    value = ""
    if isinstance(node.value, ast.Dict):
        keys = [ast.unparse(key) for key in node.value.keys if key is not None]
        words.append(f"Keys: {', '.join(f'``{key}``' for key in keys)}.")
    elif isinstance(node.value, ast.Constant):
        value = f"\n   :value: {ast.unparse(node.value)}"
    return f".. py:data:: {name}\n   :module: {room}{value}\n\n   {' '.join(words)}"


def with_api(toc: dict[str, Any], rooms: Iterable[str]) -> dict[str, Any]:
    """The table of contents with the rooms' pages below `api`."""
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            if chapter["file"] == "api":
                chapter["sections"] = [{"file": f"api/{room}"} for room in rooms]
    return toc
