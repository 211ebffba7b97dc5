"""Put the lab's scripts, style sheet and page together into one HTML file that needs nothing else.

    python book/tools/build_lab.py [lab.html]

The scripts of book/lab become one, in an order in which each stands after those that it imports.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

LAB = Path(__file__).resolve().parents[1] / "lab"
_IMPORT = re.compile(r"^import\s*\{[^}]*\}\s*from\s*\"\./([\w.]+)\";\n", re.M)
_DECLARED = re.compile(r"^(?:async )?(?:function|const|let|class)\s+(\w+|\[[^\]]*\])", re.M)
# The browser itself keeps the page from reaching anything outside.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)
_STYLE = '<link rel="stylesheet" href="lab.css">'
_SCRIPT = '<script type="module" src="app.js"></script>'
_CHARSET = '<meta charset="utf-8">'


def build_lab(target: Path, lab: Path = LAB) -> Path:
    """Write the self-contained page to `target` and return it.

    Raises
    ------
    ValueError
        Two scripts declare the same name, import in a circle, or use a form of import or export
        that is not handled; the page lacks the line that a part goes to.
    """
    page = (lab / "index.html").read_text(encoding="utf-8")
    style = (lab / "lab.css").read_text(encoding="utf-8")
    parts = {
        _CHARSET: f'{_CHARSET}\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        _STYLE: f"<style>\n{style}</style>",
        _SCRIPT: f'<script type="module">\n{join_scripts(lab)}</script>',
    }
    for line, part in parts.items():
        if page.count(line) != 1:
            raise ValueError(f"index.html must hold this line once: {line}")
        page = page.replace(line, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, encoding="utf-8")
    return target


def join_scripts(lab: Path) -> str:
    """All scripts that app.js needs, one after the other, without imports and exports."""
    texts: dict[str, str] = {}
    _collect(lab, "app.js", texts, ())
    names = Counter(name for text in texts.values() for name in declared(text))
    if twice := sorted(name for name, times in names.items() if times > 1):
        raise ValueError(f"more than one script declares {', '.join(twice)}")
    script = "\n".join(f"// --- {name}\n\n{text}" for name, text in texts.items())
    if "</script" in script:
        raise ValueError("a script must not hold the tag that ends it")
    return script


def declared(text: str) -> list[str]:
    """Names that a script declares outside of functions."""
    return [name for found in _DECLARED.findall(text) for name in re.findall(r"\w+", found)]


def _collect(lab: Path, name: str, texts: dict[str, str], waiting: tuple[str, ...]) -> None:
    if name in texts:
        return
    if name in waiting:
        raise ValueError(f"scripts import in a circle: {' -> '.join([*waiting, name])}")
    text = (lab / name).read_text(encoding="utf-8")
    for other in _IMPORT.findall(text):
        _collect(lab, other, texts, (*waiting, name))
    text = re.sub(r"^export (?=(?:async )?(?:function|const|let|class) )", "", text, flags=re.M)
    text = _IMPORT.sub("", text)
    if left := re.search(r"^(?:import|export)\b.*", text, re.M):
        raise ValueError(f"{name}: this line is not handled: {left[0]}")
    texts[name] = text.strip() + "\n"


if __name__ == "__main__":
    print(build_lab(Path(sys.argv[1] if len(sys.argv) > 1 else "lab.html")))
