"""A project of two tiny notebooks, on which the runner and the publisher are tested."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import yaml

from ulmpaper.paper import start_run

PARAMETERS = {
    "profile": "quick",
    "overrides": {},
    "source": "simulated",
    "data_dir": "",
    "out_dir": "outputs",
}
OUT = start_run("name", **PARAMETERS | {"profile": "smoke"}).out
DIGEST = OUT.parent.name.removeprefix("smoke-")
HEAD = "\n".join(
    f"{name}: {type(value).__name__} = {value!r}" for name, value in PARAMETERS.items()
)
WRITE = """\
import json, pathlib
from ulmpaper import module
out = pathlib.Path(out_dir) / f"{{profile}}-{digest}" / "{name}"
out.mkdir(parents=True, exist_ok=True)
(out / "results.json").write_text(json.dumps({{"value": {value}}}))"""


def write_notebook(root: Path, name: str, value: str, *, prose: str = "Text.") -> None:
    body = WRITE.format(digest=DIGEST, name=name, value=value)
    v4 = nbformat.v4
    made = v4.new_notebook(
        cells=[
            v4.new_markdown_cell(f"# {name}\n\n{prose}", id="title"),
            v4.new_code_cell(HEAD, metadata={"tags": ["parameters"]}, id="head"),
            v4.new_code_cell(body, id="body"),
        ],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    nbformat.write(made, root / "notebooks" / f"{name}.ipynb")


def write_profiles(root: Path, **of_second: object) -> None:
    second = {"needs": ["01_first"], "inputs": ["numbers.txt"], **of_second}
    notebooks = {"01_first": {}, "02_second": second}
    text = yaml.safe_dump(
        {"cell_timeout_s": {"smoke": 60}, "notebooks": notebooks}, sort_keys=False
    )
    (root / "notebooks" / "profiles.yml").write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("notebooks", "data", "ulmpaper"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "numbers.txt").write_text("1 2 3")
    (tmp_path / "ulmpaper" / "__init__.py").touch()
    (tmp_path / "ulmpaper" / "module.py").write_text("answer = 42\n")
    (tmp_path / "ulmpaper" / "other.py").write_text("answer = 42\n")
    write_notebook(tmp_path, "01_first", "1")
    write_notebook(tmp_path, "02_second", "2")
    write_profiles(tmp_path)
    return tmp_path
