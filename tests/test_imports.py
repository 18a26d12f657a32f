"""The arrows between the rooms, and what listing and planning may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [*ROOT.glob("simsiam/**/*.py"), *ROOT.glob("ablations/**/*.py")]

# What each room of ablations/ may import of ablations/; a room not named here may import nothing of it.
ARROWS = {
    "run": {
        *("options", "request", "catalogue", "planning", "table", "grid", "encoders", "rerun", "training"),
        *("files", "store", "verdict", "report"),
        *("data_check", "listing", "printed", "printed_grid", "printed_plan", "terminal"),
    },
    "training": {
        *("request", "planning", "table", "grid", "rerun", "rebuild", "store", "verdict"),
        *("board", "printed_plan", "progress", "terminal", "tracking"),
        *("alarm", "launch", "launch_local", "launch_jobs"),
    },
    "options": {"table"},
    "request": {"asked", "options", "planning", "table"},
    "asked": {"catalogue", "definition", "grid", "options", "planning", "table"},
    "catalogue": {"definition", "store", "table", "tables"},
    "definition": {"table"},
    "grid": {"options", "table", "verdict"},
    "tuned": {"table", "verdict"},
    "planning": {"table"},
    "listing": {"board", "catalogue", "columns", "estimate", "planning", "store", "table"},
    "launch": {
        "alarm",
        "beside",
        "launch",
        "machines",
        "files",
        "placement",
        "provenance",
        "trial",
        "store",
        "columns",
        "progress",
        "table",
        "terminal",
        "tries",
        "lines",
    },
    "placement": {"table"},
    "machines": {"placement", "table"},
    "launch_local": {
        "alarm",
        "beside",
        "placement",
        "trial",
        "store",
        "lines",
        "columns",
        "progress",
        "table",
        "terminal",
    },
    "launch_jobs": {
        "alarm",
        "launch_local",
        "trial",
        "provenance",
        "store",
        "lines",
        "columns",
        "progress",
        "table",
        "terminal",
        "tries",
    },
    "progress": {"board", "table", "terminal", "tracking"},
    "tracking": {"files", "provenance", "table", "terminal"},
    "board": {"files", "terminal"},
    "printed": {"agreement", "board", "fidelity", "lines", "provenance", "table", "terminal", "verdict"},
    "printed_plan": {
        *("board", "estimate", "machines", "planning", "printed", "provenance", "request", "store", "table", "timing"),
    },
    "timing": {"estimate", "launch_local", "table", "terminal", "trial"},
    "printed_grid": {"grid", "lines", "printed", "provenance", "table", "tuned", "verdict"},
    "estimate": {"catalogue", "columns", "provenance", "store", "table"},
    "submit": {"asked", "catalogue", "options", "table", "terminal"},
    "results": {
        *("results", "terminal", "printed", "store", "columns", "encoders", "files", "table", "verdict"),
        *("agreement", "board", "catalogue", "fidelity", "lines", "printed_grid", "todays", "tuned"),
    },
    "todays": {"catalogue", "definition", "planning", "provenance", "table"},
    "fidelity": {"verdict"},
    "page": {
        *("page", "board", "columns", "printed", "provenance", "store", "table", "todays", "verdict"),
        *("catalogue", "definition", "fidelity", "lines", "planning", "tuned"),
    },
    "report": {"catalogue", "files", "page", "store", "table", "terminal"},
    "agreement": {"lines", "table", "verdict"},
    "beside": {"files"},
    "published": {"columns", "lines", "provenance", "store", "table"},
    "verdict": {"table"},
    "data_check": {"table"},
    "rebuild": {"store", "table"},
    "rerun": {"planning", "store", "table"},
    "store": {"columns", "definition", "files", "lines", "table", "provenance"},
    "encoders": {"files", "lines", "store", "table"},
    "lines": {"columns", "provenance", "references", "table"},
    "references": {"planning", "table"},
    "files": {"table"},
    "tables": {"table"},
    "trial": {"provenance"},
}


# The same of simsiam/data/: its layouts know nothing of each other.
DATA: dict[str, set[str]] = {
    "pictures": set(),
    "source": {"pictures"},
    "classes": {"pictures"},
    "decoding": {"pictures"},
    "digits": {"pictures", "source"},
    "torchvision_folders": {"pictures", "source"},
    "class_folders": {"pictures", "source", "classes"},
    "voc": {"pictures", "source"},
    "arrow": {"pictures"},
    "parquet_files": {"pictures", "source", "arrow"},
    "hub": {"pictures"},
    "download": set(),
    "public": {"pictures", "arrow", "download", "hub"},
    "parquet_columns": {"pictures", "arrow", "parquet_files"},
    "parquet_rows": {"pictures", "arrow", "parquet_files", "parquet_columns"},
    "parquet": {"pictures", "source", "classes", "arrow", "parquet_files", "parquet_columns", "parquet_rows"},
}


def imported(file: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, at any depth."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages(file: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_imports_follow_the_arrows(file: Path) -> None:
    room = file.relative_to(ROOT).with_suffix("").parts
    if room[0] == "simsiam":
        assert packages(file).isdisjoint({"ablations", "ray", "pandas"})
        if room[-1] not in ("arrow", "parquet", "parquet_columns", "parquet_files", "parquet_rows", "buckets"):
            assert "pyarrow" not in packages(file)
        if room[1] == "data" and room[-1] != "__init__":
            ours = {name.split(".")[2] for name in imported(file) if re.match(r"simsiam\.data\.", name)}
            assert ours - {room[-1]} <= DATA[room[-1]]
        return
    assert room[1] in ("launch", "machines", "submit") or "ray" not in packages(file)
    if room[1] not in ("store", "columns", "files"):
        assert "pyarrow" not in packages(file)
    ours = {name.split(".")[1] for name in imported(file) if name.startswith("ablations.")}
    assert ours <= ARROWS.get(room[1], set())
    if room[1] in ("table", "planning", "tables"):
        of_simsiam = {name for name in imported(file) if name.startswith("simsiam.")}
        assert {name.split(".")[1] for name in of_simsiam} <= {"config", "methods", "recipes"}


HEAVY = ("torch", "torchvision", "ray", "pandas", "scipy", "sklearn")


def heavy_after(*arguments: str) -> set[str]:
    """The heavy modules that are loaded after a command."""
    code = (
        "import sys, runpy\nsys.argv = ['ablations/run.py', *sys.argv[1:]]\n"
        "try: runpy.run_path('ablations/run.py', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('modules', *sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    loaded = out.rsplit("modules", 1)[1].split()
    return {name for name in HEAVY if name in loaded}


def test_listing_and_planning_import_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_after("--list") == set()
    assert heavy_after("--table", "stop_gradient", "--plan", "--results", str(tmp_path)) == set()


def test_what_the_trials_tell_waits_in_a_process_without_torch() -> None:
    code = "import sys, ablations.launch.mailbox; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {name for name in HEAVY if name in loaded.split()} <= {"ray"}


def test_an_installed_package_has_every_file() -> None:
    others = {
        file
        for package in ("simsiam", "ablations")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and file.suffix != ".py" and file.parent.name != "__pycache__"
    }
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    taken = {
        file
        for package, patterns in tool["package-data"].items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    assert others == taken
    assert tool["packages"]["find"] == {"include": ["simsiam*", "ablations*"], "namespaces": False}
    assert all((file.parent / "__init__.py").exists() for file in FILES)  # or setuptools would leave them out


def test_train_step_fits_in_15_lines() -> None:
    tree = ast.parse((ROOT / "simsiam" / "pretrain.py").read_text())
    step = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "train_step")
    assert step.end_lineno is not None
    assert step.end_lineno - step.lineno + 1 <= 15


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_and_functions_stay_small(file: Path) -> None:
    source = file.read_text()
    assert source.count("\n") <= 350
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 50, node.name
