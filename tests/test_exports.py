"""The public names: complete, typed, lazy, and each where the package says it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import chandlery as ch
from chandlery import errors

SOURCE = Path(ch.__file__).read_text(encoding="utf-8")


def test_all_names_can_be_had_and_are_shown_by_dir() -> None:
    """Everything in `__all__` is there, is sorted, and stands in dir()."""
    assert list(ch.__all__) == sorted(ch.__all__)
    assert set(ch.__all__) <= set(dir(ch))
    assert all(getattr(ch, name) is not None for name in ch.__all__)


def test_every_error_of_the_tree_is_public() -> None:
    """A new class in chandlery.errors must be exported, so that users can catch it."""
    tree = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }

    assert tree <= set(ch.__all__)
    assert all(getattr(ch, name) is getattr(errors, name) for name in tree)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING name exactly what `__all__` does."""
    block = next(
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    )
    imported = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {
        node.target.id
        for node in block.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }

    assert imported | declared == set(ch.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """A misspelt name fails as in any module, and `hasattr` says no."""
    with pytest.raises(AttributeError, match="DataPipelin"):
        ch.DataPipelin  # noqa: B018
    assert not hasattr(ch, "utils")


def test_the_version_is_that_of_the_distribution() -> None:
    """`__version__` is what the installed distribution says, or says that there is none."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert ch.__version__ == version("chandlery")
    except PackageNotFoundError:
        assert ch.__version__ == "0+unknown"


def test_star_import_brings_the_public_names() -> None:
    """`from chandlery import *` works in a fresh interpreter and brings what `__all__` lists."""
    code = "from chandlery import *; print(*sorted(set(dir()) & set(__import__('chandlery').__all__)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == list(ch.__all__)
