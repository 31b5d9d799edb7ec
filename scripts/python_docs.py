#!/usr/bin/env python3
"""Writes docs/python.md from the docstrings of the package: scripts/python_docs.py [--check].

Reads the sources with ast, so it needs neither torch nor the extension. A test holds the file to the docstrings.
"""

import ast
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "samebits"
PAGES = [
    (("ops",), "Ops"),
    (("fused",), "Between linear layers"),
    (("linear",), "Fp8Linear"),
    (("invariant",), "InvariantLinear"),
    (("convert",), "Models"),
    (("huggingface",), "Hugging Face"),
    (("vllm/__init__", "__init__"), "vLLM"),
]
BESIDE_ALL = {"register", "fuse_vllm"}
"""What users name that `samebits.__all__` does not."""


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def public() -> set[str]:
    """`samebits.__all__` and BESIDE_ALL."""
    for node in tree_of("__init__").body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return BESIDE_ALL | set(ast.literal_eval(node.value))
    raise SystemExit("python/samebits/__init__.py has no __all__")


def constant(node: ast.stmt, after: ast.stmt | None) -> list[str]:
    """A constant and the string right below it."""
    text = ast.unparse(node)
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return [f"### `{text}`", "", "```text", inspect.cleandoc(after.value.value), "```", ""]
    return [f"### `{text}`", ""]


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
    names = public()
    for modules, title in PAGES:
        lines += [f"## {title}", "", ast.get_docstring(tree_of(modules[0])) or "", ""]
        for module in modules:
            body = tree_of(module).body
            for node, after in zip(body, [*body[1:], None], strict=True):
                if getattr(node, "name", None) in names:
                    lines += entry(node, 3)
                elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) in names:
                    lines += constant(node, after)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    path = ROOT / "docs" / "python.md"
    if "--check" in sys.argv:
        return 0 if path.read_text() == page() else sys.exit("docs/python.md is old: run scripts/python_docs.py")
    path.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
