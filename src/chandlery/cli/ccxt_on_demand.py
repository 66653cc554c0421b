"""ccxt without the hundred exchange classes that nobody asked for, which take half of a second to import.

`import ccxt.async_support` imports every class of every exchange, those of the synchronous kind too. With `on_demand`
each is imported when it is first looked for, through the packages' own names: `ccxt.binance` is the same class as ever.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import decode_source
from types import CodeType, ModuleType
from typing import Any

_PACKAGES = ("ccxt", "ccxt.async_support")
_NAMES = "_chandlery_on_demand"


def on_demand() -> None:
    """Let ccxt import exchange classes when they are first used; does nothing where it is imported already.

    For the process of the command line, which is its own: a class that was not used yet is not in `vars(ccxt)`, though it is in `dir(ccxt)`.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the two packages as ever, and loads them by `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _PACKAGES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Runs a package's source without its imports of exchange classes, which `_Package` makes up for."""

    def get_code(self, fullname: str) -> CodeType | None:
        # From the source, so that what is compiled here is not kept where others find it.
        source = decode_source(self.get_data(self.path))
        # `from ccxt.binance import binance`: a class from the module of its own name.
        own = re.compile(rf"^from {re.escape(fullname)}\.(\w+) import \1[ \t]*(?:#.*)?$", re.MULTILINE)
        left_out = f"\n{_NAMES} = frozenset({own.findall(source)!r})\n"
        return compile(own.sub("", source) + left_out, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Package
        super().exec_module(module)


class _Package(ModuleType):
    """A package whose exchange classes are imported when they are looked for."""

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get(_NAMES, ()):
            found = getattr(import_module(f"{self.__name__}.{name}"), name)
            super().__setattr__(name, found)
            return found
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        # An import of `ccxt.binance` sets that module as an attribute; ccxt has the class of the same name there.
        own = isinstance(value, ModuleType) and value.__name__ == f"{self.__name__}.{name}"
        if own and name in self.__dict__.get(_NAMES, ()):
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self.__dict__.get(_NAMES, ())})
