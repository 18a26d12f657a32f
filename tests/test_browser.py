"""The page in a real browser: python -m pytest -m browser, with Chromium and the extra `browser`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from made import ONE, a_result, plan, published

from ablations import report, run
from ablations.store import Store

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parent.parent
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("There is no Chromium on this machine.")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a real run of two tables, pictures and all, and of the published digits."""
    place = tmp_path_factory.mktemp("page") / "results"
    shutil.copytree(ROOT / "results" / "published" / "digits", place)
    for table in ("stop_gradient", "batch_norm"):
        command = ["--table", table, "--seeds", "2", "--launcher", "local", *tiny.OVERRIDES]
        assert run.main([*command, "--results", str(place)]) == 0
    report.write(Store.at(place))
    return f"file://{place}/report.html"


def opened(chromium: Any, address: str, **options: Any) -> tuple[Any, list[str], list[str]]:
    """A page with all its charts drawn, the errors that it reported, and the requests that it made."""
    errors: list[str] = []
    requests: list[str] = []
    page = chromium.new_page(**options)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.evaluate("figures.forEach(draw)")
    page.wait_for_function("figures.every((each) => each.querySelector('.chart svg'))")
    return page, errors, requests


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_chart_is_drawn_without_errors_requests_or_barriers(
    chromium: Any, address: str, viewport: dict[str, int], scheme: str, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page, errors, requests = opened(chromium, address, viewport=viewport, color_scheme=scheme)
    assert page.locator("figure .chart svg").count() == page.locator("figure > .chart").count() > 0
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    # Sideways, tables scroll on their own and the page does not.
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    found = axe.Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    page.close()


def test_a_click_on_a_claim_leads_to_its_evidence(chromium: Any, address: str) -> None:
    page, _, _ = opened(chromium, address, viewport=DESKTOP)
    link = page.locator("td.verdict a").first
    target = link.get_attribute("href")
    link.click()
    assert page.url.endswith(target)
    assert page.locator(target).is_visible()
    page.close()


def test_300_trials_are_drawn_in_two_seconds(chromium: Any, tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    published(tmp_path, {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]})
    curve = [{"epoch": i, "loss": -i / 100, "knn_top1": float(i), "z_std": 0.9} for i in range(1, 101)]
    for table in ("predictor", "batch_norm", "similarity", "output_dim"):
        trials = plan(table, seeds=range(25))
        for trial in trials:
            store.write(a_result(trial.config, knn_top1=90 + trial.config.seed % 7, knn_top1_init=40.0), curve)
        store.rebuild(trials)
    assert len(store.fingerprints()) >= 300
    report.write(store)
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    page, errors, _ = opened(chromium, f"file://{tmp_path}/report.html", viewport=DESKTOP)
    assert errors == []
    milliseconds = page.evaluate(
        "async () => { figures.forEach((each) => delete each.querySelector('.chart').dataset.drawn);"
        " const begun = performance.now(); await Promise.all(figures.map(draw)); return performance.now() - begun; }"
    )
    assert milliseconds < 2000
    page.close()
