"""The notebook runs as it stands, and shows what the committed files give."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ablations import results

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "analysis.ipynb"


def shown(notebook: nbformat.NotebookNode) -> list[str]:
    """The text of each output, in order; a figure is its kind alone."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts.append("figure" if "image/svg+xml" in data else data.get("text/plain", output.get("text", "")))
    return texts


@pytest.mark.filterwarnings("ignore")  # of Jupyter's own making
def test_the_notebook_runs_and_shows_what_it_says() -> None:
    before = nbformat.read(NOTEBOOK, as_version=4)
    after = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(ROOT)}}
    NotebookClient(after, timeout=120, kernel_name="python3", resources=resources).execute()
    assert shown(after) == shown(before)
    assert "figure" in shown(after)
    root = ROOT / "results" / "published" / "digits"
    between = results.compare("stop_gradient", "with", "without", root=root)
    assert any(f"with - without = {between.mean:+.1f} ± {between.half:.1f} points" in text for text in shown(after))
