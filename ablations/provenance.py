"""Which code and which machine a number came from."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import simsiam

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = Path(simsiam.__file__).resolve().parent, Path(__file__).resolve().parent  # apart where Ray brings them

_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def version(package: str) -> str | None:
    """The installed version of a package, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine() -> str:
    """The GPU's name if there is one, else the processor's: what a result calls its device, without importing torch."""
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip()
    return processor()


def processor() -> str:
    """The processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sources() -> str:
    """A digest of the code that decides a number, as it was when it was asked for first: simsiam/, ablations/trial.py.

    Comments, docstrings and layout do not count, nor does the version of Python.
    """
    with _once:  # sixteen threads that ask at first would each make it
        return _sources()


_once = threading.Lock()


@functools.cache
def _sources() -> str:
    return digest(*_PACKAGES)


def digest(science: Path, orchestration: Path) -> str:
    """The same of two packages anywhere."""
    code = hashlib.sha256()
    for file in [*sorted(science.glob("**/*.py")), orchestration / "trial.py"]:
        package = science if file.is_relative_to(science) else orchestration
        code.update(file.relative_to(package.parent).as_posix().encode())
        for word in _words(ast.parse(file.read_text())):
            code.update(word.encode() + b"\0")
    return code.hexdigest()[:16]


def _words(node: ast.AST) -> Iterator[str]:
    """A syntax tree as words. Empty fields are left out: newer Pythons have more of them."""
    yield type(node).__name__
    documented = isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None
    for name, value in ast.iter_fields(node):
        children = value if isinstance(value, list) else [value]
        for child in children[1:] if documented and name == "body" else children:
            if isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant) and not child.value:
                continue  # Python 3.12 ends a format with an empty one
            if isinstance(child, ast.AST):
                yield name
                yield from _words(child)
            elif child is not None:
                yield f"{name}={child!r}"
