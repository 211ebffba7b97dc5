"""What Jupyter Book lacks: numbers of notebooks in the text, links in docstrings, citations."""

from __future__ import annotations

import functools
import importlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import roles
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxRole
from sphinxcontrib.bibtex.plugin import register_plugin
from sphinxcontrib.bibtex.style.referencing import BracketStyle
from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle


def read_results(app: Sphinx, config: Config) -> None:
    """Make results.json the substitution `r`: `{{ "%.2f"|format(r.classical_ulm.rmse_px) }}`."""
    config.myst_substitutions["r"] = json.loads(
        (Path(app.srcdir) / "results.json").read_text(encoding="utf-8")
    )


def drop_thebe(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Leave out sphinx-thebe, which loads from the network and whose script fails on every page."""
    for kind in ("script_files", "css_files"):
        names = [(getattr(file, "filename", "") or str(file), file) for file in context[kind]]
        context[kind] = [file for name, file in names if "thebe" not in name]


class Mention(SphinxRole):
    """Single backticks in a docstring: a link where the name is documented, else just code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        # Docstrings write `config.Config` for what is documented as ulmpaper.config.Config.
        is_short = "." in self.text and not self.text.startswith("ulmpaper.")
        target = f"ulmpaper.{self.text}" if is_short else self.text
        role = self.env.get_domain("py").role("obj")
        shown = f"{self.text} <{target}>"
        found, messages = role("obj", self.rawtext, shown, self.lineno, self.inliner)
        found[0]["only_mentioned"] = True
        return found, messages


def leave_mention(
    app: Sphinx, env: Any, node: pending_xref, shown: nodes.Node
) -> nodes.Node | None:
    """Show a mention that leads nowhere as code, without a warning."""
    return nodes.literal(text=shown.astext()) if node.get("only_mentioned") else None


def add_file_anchors(app: Sphinx, doctree: nodes.document) -> None:
    """Let a name be found under its file, room and front door: listings of code link to any."""
    for node in doctree.findall(desc_signature):
        try:
            place = importlib.import_module(node.get("module") or "")
            found = functools.reduce(getattr, node.get("fullname", "").split("."), place)
        except (AttributeError, ImportError, ValueError):
            continue
        file = str(getattr(found, "__module__", "")).split(".")
        if file[0] == "ulmpaper" and hasattr(found, "__qualname__"):
            places = (".".join(file[:depth]) for depth in range(1, len(file) + 1))
            anchors = [f"{place}.{found.__qualname__}" for place in places]
            node["ids"] += [anchor for anchor in anchors if anchor not in node["ids"]]


def shorten_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Show a nested default as `Section()`, as it is written, not with every value in it."""
    inner = r"\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)"
    return signature and signature[0] + re.sub(rf"=(\w+){inner}", r"=\1()", signature[1:]), returns


def skip_field_aliases(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples, whose own docstring says nothing."""
    words = getattr(obj, "__doc__", None) or ""
    return True if words.startswith("Alias for field number") else None


@dataclass
class RoundBrackets(AuthorYearReferenceStyle):
    """Citations as (Errico et al., 2015; Couture et al., 2018)."""

    bracket_parenthetical: BracketStyle = field(
        default_factory=lambda: BracketStyle("(", ")", "; ")
    )
    bracket_textual: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")", "; "))


def setup(app: Sphinx) -> dict[str, Any]:
    roles.register_local_role("mention", Mention())
    register_plugin("sphinxcontrib.bibtex.style.referencing", "round_brackets", RoundBrackets)
    app.connect("config-inited", read_results, priority=1)
    app.connect("html-page-context", drop_thebe, priority=900)
    app.connect("missing-reference", leave_mention)
    app.connect("doctree-read", add_file_anchors)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_field_aliases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
