#!/usr/bin/env python3
"""Writes docs/python.md from the docstrings of the package: scripts/python_docs.py [--check].

Reads the sources with ast, so it needs neither torch nor the extension. A test holds the file to the docstrings.
"""

import ast
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ("ops", "Ops"),
    ("fused", "Between linear layers"),
    ("linear", "Fp8Linear"),
    ("invariant", "InvariantLinear"),
    ("convert", "Models"),
    ("huggingface", "Hugging Face"),
    ("vllm/__init__", "vLLM"),
]


def signature(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({ast.unparse(node.args)}){returns}"


def entry(node: ast.AST, level: int, prefix: str = "") -> list[str]:
    """A public function or class and its public methods; nothing for what has no docstring."""
    text = ast.get_docstring(node) if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else None
    if not text:
        return []
    if node.name.startswith("_") and node.name != "__init__":
        return []
    title = node.name if isinstance(node, ast.ClassDef) else signature(node)
    lines = [f"{'#' * level} `{prefix}{title}`", "", "```text", inspect.cleandoc(text), "```", ""]
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            lines += entry(child, level + 1, node.name + ".")
    return lines


def page() -> str:
    lines = ["# Python API", "", "Written by `scripts/python_docs.py` from the docstrings; do not edit.", ""]
    for module, title in PAGES:
        tree = ast.parse((ROOT / "python" / "samebits" / f"{module}.py").read_text())
        lines += [f"## {title}", "", ast.get_docstring(tree) or "", ""]
        for node in tree.body:
            lines += entry(node, 3)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    path = ROOT / "docs" / "python.md"
    if "--check" in sys.argv:
        return 0 if path.read_text() == page() else sys.exit("docs/python.md is old: run scripts/python_docs.py")
    path.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
