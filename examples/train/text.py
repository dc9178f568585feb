"""Text that every CPython installation carries: documentation strings of the standard library, the language reference.

``documents`` are in a fixed order; which ones are held out depends on their content alone. Licences of Debian's
base-files are added where /usr/share/common-licenses exists.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Folders of the standard library that hold tests, or are not part of every installation.
SKIPPED = frozenset(
    ["test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip", "site-packages", "dist-packages"]
)
LICENCES = Path("/usr/share/common-licenses")


@dataclass(frozen=True)
class Document:
    """A text, and what it is about ("json.dumps") where it describes one thing."""

    text: str
    subject: str | None = None

    @property
    def held_out(self) -> bool:
        """One in twenty, by a hash of the text: the same choice in every run and version."""
        return int.from_bytes(hashlib.sha256(self.text.encode()).digest()[:4], "big") % 20 == 0


def documents() -> list[Document]:
    """Every document, equal texts once."""
    found: dict[str, Document] = {}
    for document in (*_docstrings(), *_topics(), *_licences()):
        found.setdefault(document.text, document)
    return list(found.values())


def _docstrings() -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED & set(parts) or parts[0] == "pydoc_data" or parts[0].startswith("config-"):
            continue
        module = ".".join(part for part in parts if part != "__init__")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes in old sources
                tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except SyntaxError:
            continue
        yield from _of(tree, module)


def _of(node: ast.AST, name: str) -> Iterator[Document]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and len(text) > 20:
            private = any(part.startswith("_") for part in name.split("."))
            yield Document(text, None if private else name)
    for child in ast.iter_child_nodes(node):
        yield from _of(child, f"{name}.{child.name}" if hasattr(child, "name") else name)


def _topics() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(topics[name].strip())


def _licences() -> Iterator[Document]:
    for path in sorted(LICENCES.glob("*")) if LICENCES.is_dir() else ():
        if not path.is_symlink():
            yield Document(path.read_text(encoding="utf-8", errors="replace").strip())
