"""Which code and which machine a number came from."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import simsiam
from simsiam.methods import METHODS, SIMSIAM

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = Path(simsiam.__file__).resolve().parent, Path(__file__).resolve().parent  # apart where Ray brings them

# What a Config is made from, and how its pictures are found and read: their identities stand in the Config.
_NO_NUMBERS = {"simsiam.methods", "simsiam.recipes", "simsiam.data", "simsiam.buckets", "simsiam.text"}

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


def sources(method: str = SIMSIAM) -> str:
    """A digest of the code that decides a number of this method, as it was when it was asked for first.

    That is ablations/trial.py and all that it imports of simsiam/, and the method's own file: another method, recipe
    or layout of data makes no result stale. What is read into pixels is the data's identity. Comments, docstrings and
    layout do not count, nor does the version of Python.
    """
    with _once:  # sixteen threads that ask at first would each make it
        return _sources(method)


def is_stale(result: Mapping[str, Any]) -> bool:
    """Whether other sources than these have trained it; they have where its method is none of these sources'."""
    method = result["method"] or SIMSIAM
    trained = result.get("outcome") != "infeasible"
    return trained and (method not in METHODS or bool(result["sources"] != sources(method)))


def check_one_place() -> None:
    """Raises RuntimeError if this process has loaded our code from two places.

    Where Ray's copy of the code is being removed, Python finds what is missing in an editable installation, whose files
    may be others by now.
    """
    for name, module in sys.modules.copy().items():
        package, dot, _ = name.partition(".")
        file = getattr(module, "__file__", None)
        for home in _PACKAGES:
            if dot and file and package == home.name and home not in Path(file).resolve().parents:
                raise RuntimeError(f"The code of this process is of two places: {file} is not within {home}.")


_once = threading.Lock()


@functools.cache
def _sources(method: str) -> str:
    return digest(*_PACKAGES, method)


def digest(science: Path, orchestration: Path, method: str = SIMSIAM) -> str:
    """The same of two packages anywhere."""
    files = {"ablations.trial": orchestration / "trial.py"}
    own = METHODS[method].module
    files[own] = science.joinpath(*own.split(".")[1:]).with_suffix(".py")
    waiting = dict(files)
    while waiting:
        name, file = waiting.popitem()
        files[name] = file
        waiting |= {each: found for each, found in _imported(science, file).items() if each not in files}
    code = hashlib.sha256()
    for name in sorted(files):
        code.update(name.encode() + _digest(files[name]))
    return code.hexdigest()[:16]


@functools.cache
def _imported(science: Path, file: Path) -> dict[str, Path]:
    """Modules of simsiam/ that a file imports and that can decide a number, by name."""
    imported = {}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "simsiam":
            names = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "simsiam"]
        else:
            continue
        for name in names:
            path = science.joinpath(*name.split(".")[1:])
            found = next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)
            if found and name != "simsiam" and not {name, ".".join(name.split(".")[:2])} & _NO_NUMBERS:
                imported[name] = found
    return imported


@functools.cache
def _digest(file: Path) -> bytes:
    code = hashlib.sha256()
    for word in _words(_tree(file)):
        code.update(word.encode() + b"\0")
    return code.digest()


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


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
