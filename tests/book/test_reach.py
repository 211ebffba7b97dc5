"""What a notebook can reach of the package: what changes its key, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from _book import ROOT, reach

CELLS = ["import ulmpaper as ulm\nfrom ulmpaper import metrics", "ulm.locate(metrics.score(1))"]
FILES = {
    "__init__.py": """
from ulmpaper.core.doors import offer
__version__ = "1"
__all__, __getattr__, __dir__ = offer(__name__, {"core.find": "locate", "networks.train": "train"})
""",
    "core/__init__.py": "",
    "core/doors.py": "def offer(*args): ...",
    "core/find.py": '''
"""Find."""
import numpy as np
from ulmpaper.config import LIMIT
def locate(frames):
    """Find bubbles."""
    from ulmpaper.networks import weights
    return weights.load(frames), LIMIT  # a comment
def helper(x):
    return np.sum(x)
''',
    "config.py": 'LIMIT = _setting(3, "the most there can be", unit="px", source="ours")',
    "metrics/__init__.py": """
from ulmpaper.core.doors import offer
__all__, __getattr__, __dir__ = offer(__name__, {"bubbles": "score " "match", "maps": "draw"})
""",
    "metrics/bubbles.py": "import numpy as np\ndef score(x):\n    return _scale(x)\n_scale = abs",
    "metrics/maps.py": "def draw(x):\n    return x",
    "networks/__init__.py": "",
    "networks/weights.py": """
from pathlib import Path
FOLDER = Path(__file__).parent / "trained"
def load(x):
    return FOLDER / x
""",
    "networks/train.py": "RATE = 0.1\ndef train(x):\n    return RATE\n_scale = float",
    "networks/trained/net.bin": "1 2 3",
    "networks/notes.txt": "nobody reads this",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "ulmpaper"
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def key(package: Path, *cells: str) -> str:
    return reach.Package(package).key(cells or CELLS)


def edit(package: Path, name: str, old: str, new: str) -> None:
    text = (package / name).read_text()
    assert old in text
    (package / name).write_text(text.replace(old, new))


def reached(package: Path, *cells: str) -> set[str]:
    files = reach.Package(package).reached(cells)
    return {path.relative_to(package).as_posix() for path in files if path.name != "__init__.py"}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("core/find.py", '"""Find bubbles."""', '"""Find all bubbles."""'),
        ("core/find.py", '"""Find."""\n', ""),
        ("core/find.py", "# a comment", "# better words"),
        ("core/find.py", "import numpy as np\n", "import numpy as np\n\n\n"),
        ("config.py", "the most there can be", "upper limit"),
        ("__init__.py", '"1"', '"2"'),
        ("metrics/maps.py", "return x", "return 2 * x"),
        ("networks/train.py", "0.1", "0.2"),
        ("networks/notes.txt", "nobody", "somebody"),
    ],
)
def test_words_and_what_is_not_reached_change_nothing(
    package: Path, name: str, old: str, new: str
) -> None:
    before = key(package)
    edit(package, name, old, new)
    assert key(package) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("core/find.py", ", LIMIT", ", 2 * LIMIT"),
        ("core/find.py", "import numpy as np", "import cupy as np"),
        ("config.py", "_setting(3", "_setting(4"),
        ("networks/weights.py", "FOLDER / x", "x"),
        ("networks/trained/net.bin", "3", "4"),
        ("metrics/bubbles.py", "_scale = abs", "_scale = float"),
        ("core/doors.py", "...", "return 1"),
    ],
)
def test_what_is_reached_counts(package: Path, name: str, old: str, new: str) -> None:
    before = key(package)
    edit(package, name, old, new)
    assert key(package) != before


def test_function_that_moves_changes_nothing(package: Path) -> None:
    before = key(package)
    text = (package / "core" / "find.py").read_text()
    start = text.index("def locate")
    stop = text.index("def helper")
    (package / "core" / "localize.py").write_text(
        f"from ulmpaper.config import LIMIT\n{text[start:stop]}"
    )
    (package / "core" / "find.py").write_text(
        "from ulmpaper.core.localize import locate\n" + text[:start] + text[stop:]
    )
    assert key(package) == before, "the old file passes it on"
    edit(package, "__init__.py", "{", '{"core.localize": "locate", ')
    edit(package, "__init__.py", '"core.find": "locate"', '"core.find": "helper"')
    assert key(package, CELLS[0], "ulm.locate(ulm.helper(metrics.score(1)))") == before


def test_an_import_that_brings_another_function_of_the_same_name_counts(package: Path) -> None:
    (package / "metrics" / "other.py").write_text("def score(x):\n    return 2 * x")
    cells = ["from ulmpaper.metrics import other", "from ulmpaper.core import find", "find.locate"]
    source = "from ulmpaper.metrics.{} import score\n"
    text = (package / "core" / "find.py").read_text()
    (package / "core" / "find.py").write_text(source.format("bubbles") + text)
    (package / "core" / "doors.py").write_text("from ulmpaper.metrics import bubbles\n")
    before = key(package, *cells)
    (package / "core" / "find.py").write_text(source.format("other") + text)
    assert key(package, *cells) != before


@pytest.mark.parametrize(
    ("cell", "files"),
    [
        ("import ulmpaper", set()),
        ("from ulmpaper import metrics", set()),
        ("from ulmpaper import metrics\nmetrics.score(1)", {"metrics/bubbles.py"}),
        ("from ulmpaper.metrics import match as same\nsame(1)", {"metrics/bubbles.py"}),
        ("import ulmpaper.metrics.maps", {"metrics/maps.py"}),
        ("import ulmpaper as u\nu.metrics.maps.draw(1)", {"metrics/maps.py"}),
        ("import ulmpaper as u\nu.train(1)", {"networks/train.py"}),
        (
            "from ulmpaper import metrics\nfor n in names: getattr(metrics, n)",
            {"metrics/bubbles.py", "metrics/maps.py"},
        ),
        ("from ulmpaper.metrics import *", {"metrics/bubbles.py", "metrics/maps.py"}),
        ("import numpy\nnumpy.metrics", set()),
    ],
)
def test_names_lead_to_files(package: Path, cell: str, files: set[str]) -> None:
    assert reached(package, cell) - {"core/doors.py"} == files


def test_code_that_cannot_be_read_reaches_everything(package: Path) -> None:
    everything = {name for name in FILES if name.endswith(".py") and "__init__" not in name}
    assert reached(package, "%matplotlib inline") == everything


def test_relative_imports_are_refused(package: Path) -> None:
    (package / "metrics" / "maps.py").write_text("from .bubbles import score")
    with pytest.raises(ValueError, match="relative imports are not followed"):
        key(package)


# --- this package --------------------------------------------------------------------------------


def test_every_shipped_data_file_belongs_to_a_module() -> None:
    package = reach.Package(ROOT / "ulmpaper")
    files = (path for path in package.folder.rglob("*") if path.is_file())
    shipped = {path for path in files if path.suffix not in (".py", ".pyc")}
    assert shipped
    assert {path for found in package.data.values() for path in found} == shipped


def test_front_door_leads_to_files() -> None:
    package = reach.Package(ROOT / "ulmpaper")
    link = package.reached(["import ulmpaper\nulmpaper.link(bubbles)"])
    assert ROOT / "ulmpaper" / "core" / "track.py" in link
    assert not any("networks" in path.parts for path in link), "linking needs no network"
    score = package.reached(["from ulmpaper import metrics\nmetrics.match_bubbles(found, truth)"])
    assert ROOT / "ulmpaper" / "metrics" / "bubbles.py" in score
    run = package.reached(["import ulmpaper as ulm\nulm.ulm(frames)"])
    assert ROOT / "ulmpaper" / "networks" / "weights.py" in run, "imports in functions are followed"


def test_meanings_of_settings_are_words(tmp_path: Path) -> None:
    """The settings are written as the key expects: default first, then the meaning."""
    config = (ROOT / "ulmpaper" / "config.py").read_text(encoding="utf-8")
    package = tmp_path / "ulmpaper"
    package.mkdir()
    cells = ["from ulmpaper import config", "config.load_config()"]
    (package / "config.py").write_text(config)
    before = key(package, *cells)
    meaning = "speed in the middle of the widest vessel"
    edit(package, "config.py", f'"{meaning}"', '"highest speed"')
    assert key(package, *cells) == before
    edit(package, "config.py", '5.0, "highest speed"', '6.0, "highest speed"')
    assert key(package, *cells) != before
