"""Registers samebits in transformers as soon as that is imported, and never imports it. Called by samebits."""

import contextlib
import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

AUTO = "transformers.quantizers.auto"
"""The module whose tables name the quantization methods: transformers has it before it loads any model."""


class _AfterAuto(MetaPathFinder):
    """Finds AUTO as the other finders do, once, and registers when it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != AUTO:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            _register()

        spec.loader.exec_module = execute_and_register
        return spec


def _register() -> None:
    with contextlib.suppress(ImportError):  # a transformers before 5: SamebitsConfig says so where it is asked for
        importlib.import_module("samebits.huggingface")


def register() -> None:
    """Makes "samebits" a quantization method of transformers: now if it is imported, else when it is."""
    if AUTO in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterAuto())
