"""What of the package a notebook can reach, as one hash.

    package = Package(root / "ulmpaper")
    package.key(cells)                      # `cells`: the code of a notebook

From the names that the code uses, every import of the package is followed from file to file,
those inside functions too. The key holds the statements of these files, and the data files in the
folders that they name as their own. It leaves out what changes no number: docstrings, comments,
the meanings of settings, the package's own imports and its version. The files count as one set of
statements, so a function that moves to another file leaves the key as it is.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from provenance import file_hash, list_hash


class Package:
    """The parsed files of a package, and how names lead to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = sorted(folder.rglob("*.py"))
        trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
        self._offers = {
            path.parent: offered(tree) for path, tree in trees.items() if path.stem == "__init__"
        }
        self._uses = {path: list(_uses(tree, folder.name)) for path, tree in trees.items()}
        self.data = {path: list(_data_beside(path, tree)) for path, tree in trees.items()}
        bare = _Bare(folder.name)
        self._statements = {
            path: list(_statements(bare.visit(tree))) for path, tree in trees.items()
        }

    def key(self, cells: Iterable[str]) -> str:
        """Hash of all that the code in `cells` can reach."""
        files = self.reached(cells)
        data = {(path.name, file_hash(path)) for file in files for path in self.data[file]}
        return list_hash([*sorted(self._entries(files)), *sorted(data)])

    def reached(self, cells: Iterable[str]) -> set[Path]:
        """Files that the code in `cells` can reach; all files where a cell is not plain Python."""
        try:
            uses = list(_uses(ast.parse("\n".join(cells)), self.folder.name))
        except SyntaxError:
            return set(self._uses)
        found: set[Path] = set()
        while uses:
            dotted, whole = uses.pop()
            for path in self.files_of(dotted, whole=whole) - found:
                found.add(path)
                uses += self._uses[path]
        return found

    def files_of(self, dotted: str, *, whole: bool = False) -> set[Path]:
        """Files that a dotted name leads to; with `whole`, a room leads to all of its files."""
        place = self.folder
        found = {place / "__init__.py"}
        for part in dotted.split(".")[1:]:
            if file := self._offers.get(place, {}).get(part):
                room = ".".join(place.relative_to(self.folder.parent).parts)
                found |= self.files_of(f"{room}.{file}")
            if not (place / part).is_dir():
                return (found | {place / f"{part}.py"}) & self._uses.keys()
            place = place / part
            found.add(place / "__init__.py")
        if whole:
            found |= {path for path in self._uses if place in path.parents}
        return found & self._uses.keys()

    def _entries(self, files: Iterable[Path]) -> set[tuple[str, str]]:
        """The statements of `files`, each with its file where its name has two meanings."""
        meanings: dict[str, set[str]] = defaultdict(set)
        for file in files:
            for names, statement in self._statements[file]:
                for name in names:
                    meanings[name].add(statement)
        shared = {name for name, statements in meanings.items() if len(statements) > 1}
        entries = set()
        for file in files:
            stem = file.relative_to(self.folder).as_posix()
            for names, statement in self._statements[file]:
                entries.add((statement, stem if shared & set(names) else ""))
            # Which of two functions of one name an import brings makes a difference.
            for dotted, _ in self._uses[file]:
                if dotted.rpartition(".")[2] in shared:
                    entries.add((f"{stem} uses", dotted))
        return entries


class _Bare(ast.NodeTransformer):
    """Takes out what changes no number."""

    def __init__(self, package: str) -> None:
        self.package = package

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        return None if _is_own(node, self.package) else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if _is_own(node, self.package) or node.module == "__future__" else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        # The version names a release; what a room offers is followed, but is not part of the key.
        is_version = ast.unparse(node.targets[0]) == "__version__"
        return None if is_version or _is_offer(node) else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) == "_setting":  # _setting(default, meaning, unit=..., source=...)
            node.args = node.args[:1]
        return self.generic_visit(node)


def _is_offer(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func) == "offer"
    )


def offered(tree: ast.Module) -> dict[str, str]:
    """The names that a room's `__init__` loads on first use, and the file of each."""
    files: dict[str, str] = {}
    for node in filter(_is_offer, tree.body):
        files |= ast.literal_eval(node.value.args[1])  # type: ignore[attr-defined]
    return {name: file for file, names in files.items() for name in names.split()}


def _is_own(node: ast.AST, package: str) -> bool:
    """Whether a statement imports from the package."""
    if isinstance(node, ast.ImportFrom):
        if node.level:
            raise ValueError(f"relative imports are not followed: {ast.unparse(node)}")
        return (node.module or "").partition(".")[0] == package
    return isinstance(node, ast.Import) and any(
        alias.name.partition(".")[0] == package for alias in node.names
    )


def _uses(tree: ast.Module, package: str) -> Iterator[tuple[str, bool]]:
    """Dotted names of the package that the code imports, or (True) uses."""
    meant: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_own(node, package):
            for alias in node.names:
                every = alias.name == "*"
                dotted = f"{node.module}" if every else f"{node.module}.{alias.name}"
                meant[alias.asname or alias.name].add(dotted)
                yield dotted, every
        elif isinstance(node, ast.Import) and _is_own(node, package):
            for alias in node.names:
                meant[alias.asname or package].add(alias.name if alias.asname else package)
                yield alias.name, False
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        chain = node
        parts: list[str] = []
        while isinstance(chain, ast.Attribute):
            parts.insert(0, chain.attr)
            chain = chain.value
        if isinstance(chain, ast.Name) and isinstance(chain.ctx, ast.Load):
            for dotted in meant.get(chain.id, ()):
                yield ".".join([dotted, *parts]), True
        else:
            todo += ast.iter_child_nodes(node)


def _statements(tree: ast.Module) -> Iterator[tuple[list[str], str]]:
    """Top-level statements as text, with the names that each defines; every import by itself."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", "")
            yield from (([], f"{module} {alias.name} {alias.asname}") for alias in node.names)
            continue
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        yield names, ast.dump(node)


def _data_beside(path: Path, tree: ast.Module) -> Iterator[Path]:
    """The files in a folder that a module names as its own: `Path(__file__).parent / "folder"`."""
    for name in re.findall(r"Path\(__file__\)\.parent / '(\w+)'", ast.unparse(tree)):
        folder = path.parent / name
        yield from (file for file in sorted(folder.rglob("*")) if file.is_file())
