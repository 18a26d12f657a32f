"""Words and tables for a paper: LaTeX, the files' numbers, and a paragraph that holds for each table."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pandas as pd
import pytest
from made import ONE, OTHER, a_result, plan, published

from ablations import lines, printed, report, results
from ablations.page import build, evidence, paper
from ablations.store import Store
from simsiam.data import LAYOUTS

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("kind", report.FORMATS)
def test_words_for_a_paper_have_the_files_numbers(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path, {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]})
    assert report.main(["--results", str(tmp_path), "--format", kind]) == 0
    told = capsys.readouterr().out
    assert ("91.5" if kind != "csv" else str(statistics.fmean(ONE))) in told
    assert ("Chen, Xinlei" in told) == (kind != "csv")
    assert ("We train SimSiam on the digits of scikit-learn (" in told) == (kind != "csv")


def test_the_accuracy_of_training_by_labels_is_in_every_table(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan(overrides={"method": "supervised"})
    for trial in trials:
        store.write(a_result(trial.config, classifier_top1=93.7, test_images=360), [])
    store.rebuild(trials)
    said = [report.words(store, kind) for kind in report.FORMATS]
    assert all("classifier top-1, " in each and "93.7" in each for each in said)
    assert all(title in build.page(evidence.read(store), store) for title in (">classifier top-1<", ">93.7<"))
    assert re.search(
        r"\| classifier \|(.*\n)+.* 93\.7 ", printed.results(trials[0].table, store.table("stop_gradient"))
    )


def test_the_paragraph_says_where_tables_are_not_as_the_usual_one() -> None:
    """The published digits: three baselines, seven methods, and rows that are one training."""
    text = report.words(Store.at(ROOT / "results" / "published" / "digits"), "markdown")
    told = next(line for line in text.splitlines() if line.startswith("We train SimSiam"))
    assert "with a cosine schedule; the predictor's is constant, batch 128, 100 epochs" in told
    assert "The baseline of stop_gradient and predictor has predictor_lr=cosine." in told
    assert "The baseline of epochs and methods has batch_size=64." in told
    assert "train by another method: BYOL, MoCo v2, SimCLR, SwAV, the alternating optimisation of Sec. 5.2" in told
    captions = [line for line in text.splitlines() if line.startswith("**")]
    assert [line for line in captions if "come to the same here: all, no_grayscale, no_blur, no_flip." in line]
    assert len([line for line in captions if "The paper's numbers are linear top-1 on ImageNet." in line]) == 14
    alone = report.words(Store.at(ROOT / "results" / "published" / "digits"), "markdown", "methods")
    assert "batch 64, 100 epochs" in alone
    assert "The baseline of" not in alone


@pytest.mark.parametrize("missing", ["has not run", "has failed"])
def test_the_paragraph_knows_the_baseline_of_a_table_that_has_no_line_of_it(missing: str, tmp_path: Path) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    store = Store.at(tmp_path)
    for table, rows in (("similarity", ["cosine", "cross_entropy"]), ("methods", ["simclr_1x", "simsiam_1x"])):
        trials = plan(table, rows=rows)
        for trial in trials:
            if trial.row.name == "simsiam_1x" and missing == "has failed":
                store.write_failure(lines.unfinished(trial.config, "failed", "it broke"))
            elif trial.row.name != "simsiam_1x":
                store.write(a_result(trial.config, wall_seconds=1.0), [])
        store.rebuild(trials)
    told = report.words(store, "markdown")
    assert "batch 128, 100 epochs" in told
    assert "The baseline of stop_gradient has predictor_lr=cosine." in told or "The baseline of similarity" in told
    assert "The baseline of methods has batch_size=64" in told
    assert "train by another method: SimCLR." in told
    alone = report.words(store, "markdown", "methods")
    assert "We train SimCLR" in alone
    assert "The baseline of methods is that of SimSiam." in alone


def test_latex_is_balanced_and_escaped() -> None:
    store = Store.at(ROOT / "results" / "published" / "digits")
    text = report.words(store, "latex").partition("@inproceedings")[0]
    tables = [shown for stage in evidence.read(store).stages for shown in stage.tables]
    found = re.findall(r"\\begin\{table\*\}(.+?)\\end\{table\*\}", text, re.DOTALL)
    assert len(found) == len(tables)
    for table, shown in zip(found, tables, strict=True):
        rows = table.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
        assert len(rows) == len(shown.rows)
        assert all(row.endswith(r"\\") and len(re.findall(r"(?<!\\)&", row)) == 5 for row in rows)
    labels = re.findall(r"\\label\{(.+?)\}", text)
    assert len({*labels}) == len(labels) == len(tables)
    outside = re.sub(r"\\label\{.+?\}|(?<!\\)&(?= )", "", text)
    assert not re.findall(r"(?<!\\)[%&#_]|[|<>]|[^\x00-\x7f]", outside)
    assert r"95 \% t intervals" in text  # a bare % would hide the rest of its line


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("50 % & _x_ #1 $a$ {b}", r"50 \% \& \_x\_ \#1 \$a\$ \{b\}"),
        ("a|b", r"a{\textbar}b"),
        ("[0.5; 1)", "{}[0.5; 1)"),  # else an argument of the \\ before it
        ("*", "{}*"),
        ("τ < √", r"\ensuremath{\tau} \ensuremath{<} \ensuremath{\sqrt{}}"),
    ],
)
def test_letters_that_tex_reads_otherwise(text: str, tex: str) -> None:
    assert paper._tex(text) == tex


def test_words_of_one_table_are_of_that_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    store, others = Store.at(tmp_path), plan("predictor", rows=["none"])
    store.write(a_result(others[0].config, wall_seconds=1.0), [])
    store.rebuild(others)
    text = report.words(store, "markdown", "predictor")
    assert "Stop-gradient" not in text
    assert "Rows have 1 seed; we give" in text


def test_two_data_sets_of_a_recipe_have_captions_of_their_own(tmp_path: Path) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    store, others = Store.at(tmp_path), plan(rows=["with"], data="images@1")
    store.write(a_result(others[0].config), [])
    store.rebuild(others)
    stages = evidence.read(store).stages
    assert len({stage.slug for stage in stages}) == len({stage.name for stage in stages}) == 2
    captions = [line for line in report.words(store, "markdown").splitlines() if line.startswith("**")]
    assert len({*captions}) == 2
    assert any("Recipe digits on images@1." in caption for caption in captions)


def test_csv_is_one_table_of_all(tmp_path: Path) -> None:
    store = Store.at(ROOT / "results" / "published" / "digits")
    (tmp_path / "all.csv").write_text(report.words(store, "csv"))
    frame = pd.read_csv(tmp_path / "all.csv", keep_default_na=False)
    assert set(frame.overrides) == {"", "epochs=25"}
    baselines = frame[(frame.table == "predictor") & (frame.row == "baseline")]
    for line in baselines.itertuples():
        lines = results.load("predictor", overrides=str(line.overrides), root=ROOT / "results" / "published" / "digits")
        own = lines[lines.row == "baseline"]
        assert float(frame.loc[line.Index, "kNN top-1, %"]) == pytest.approx(own.knn_top1.mean())


def test_each_layout_has_words_for_a_paper() -> None:
    told = {layout: paper._data(f"{layout}@0123abcd") for layout in LAYOUTS}
    assert told["cifar10"] == "CIFAR-10"
    assert told["parquet"] == "pictures in Parquet files (digest 0123abcd)"
    assert {*paper.DATA_NAMES, *paper._OWN} == {*LAYOUTS}
