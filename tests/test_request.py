"""Commands that cannot be done are refused in one line, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pictures import encoded, write_both_splits

from ablations import files, options, request, run
from ablations.table import Encoder, UserError


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Name a table with --table. Known: stop_gradient, predictor"),
        (["--table", "stop_gradeint"], "Unknown table 'stop_gradeint'. Did you mean 'stop_gradient'?"),
        (["--table", "stop_gradient", "--rows", "with,out"], "Unknown row of table stop_gradient 'out'"),
        (["--table", "stop_gradient", "--recipe", "digts"], "Unknown recipe 'digts'. Did you mean 'digits'?"),
        (["--table", "stop_gradient", "--set", "epoch=3"], "Unknown field 'epoch'. Did you mean 'epochs'?"),
        (["--table", "stop_gradient", "--set", "epochs"], "--set takes FIELD=VALUE. Got 'epochs' instead."),
        (["--table", "stop_gradient", "--set", "epochs=many"], "'epochs' must be a whole number at least 1"),
        (["--table", "stop_gradient", "--set", "data=x"], "--set data does not exist: use --data."),
        (["--table", "stop_gradient", "--set", "seed=3"], "--set seed does not exist: use --seeds."),
        (["--table", "stop_gradient", "--set", "protocol=knn"], "'protocol' must be one of imagenet"),
        (["--table", "stop_gradient", "--set", "batch_size=1438"], "at most the 1437 training images. Got 1438"),
        (["--table", "stop_gradient", "--set", "stop_gradient=true"], "varies this field itself"),
        (
            ["--table", "stop_gradient", "--seeds", "0"],
            "--seeds must be 1 to 1000 seeds, the last at most 1,000,000. Got 0",
        ),
        (
            ["--table", "stop_gradient", "--seeds", "9-5"],
            "--seeds FIRST-LAST: the last must not be before the first. Got 9-5: use 5-9.",
        ),
        (["--table", "stop_gradient", "--seeds", "9" * 20], f"the last at most 1,000,000. Got {'9' * 20} instead."),
        (["--table", "stop_gradient", "--seeds", f"0-{'9' * 5000}"], f"1,000,000. Got 0-{'9' * 5000} instead."),
        (["--table", "stop_gradient", "--seeds", f"{'9' * 20}-{'9' * 20}"], "the last at most 1,000,000. Got 999"),
        (
            ["--table", "stop_gradient", "--seeds", "0,1"],
            "--seeds takes N, for seeds 0 to N-1, or FIRST-LAST, as 0-4. Got '0,1' instead.",
        ),
        (["--table", "stop_gradient", "--price", "-1"], "--price must be a finite number at least 0. Got -1 instead."),
        (["--table", "stop_gradient", "--price", "inf"], "--price must be a finite number at least 0. Got inf"),
        (["--table", "stop_gradient", "--checkpoint-seconds", "nan"], "must be a number at least 0. Got nan"),
        (["--table", "stop_gradient", "--set", "base_lr=0.1,0.2"], "Several values are --grid base_lr=0.1,0.2."),
        (["--table", "stop_gradient", "--set", "lr=0.1"], "Here it is base_lr."),
        (["--table", "stop_gradient", "--set", "epoch=3"], "Known: train_images, "),
        (["--table", "stop_gradient", "--data", ""], "--data is empty. Name a folder, a bucket or public data"),
        (["--table", "stop_gradient", "--set", "epochs=1", "--set", "epochs=2"], "--set epochs is given twice"),
        (["--table", "stop_gradient", "--set", "width=99999999999"], "'width' must be a whole number"),
        (["--table", "stop_gradient", "--rows", ""], "Unknown row of table stop_gradient ''"),
        (["--table", "stop_gradient", "--loader-processes", "-1"], "--loader-processes must be 0 to 1000"),
        (["--table", "stop_gradient", "--test-fraction", "1"], "--test-fraction must be above 0 and below 1. Got 1"),
        (["--table", "stop_gradient", "--test-fraction", "0.2"], "--test-fraction is for pictures without a split"),
        (["--table", "stop_gradient", "--launcher", "local", "--workers", "2"], "--launcher local has one worker"),
        (["--table", "stop_gradient", "--jobs", "3"], "with --launcher ray, which runs as many trials at once"),
        (["--table", "stop_gradient", "--jobs", "4"], "for 4 on each GPU use --gpus-per-trial 0.25"),
        (
            ["--table", "stop_gradient", "--launcher", "local", "--jobs", "4", "--gpus-per-trial", "0.5"],
            "are more than one GPU. Use at most --jobs 2",
        ),
        (
            ["--table", "stop_gradient", "--gpus-per-trial", "0"],
            "--gpus-per-trial must be above 0 and at most 1. Got 0",
        ),
        (["--table", "stop_gradient", "--data", "no/such"], "does not exist"),
        (["--table", "stop_gradient", "--workers", "129"], "No trial can start: --workers 129 share a batch of 128"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_a_wrong_command_says_so_in_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.delenv("SIMSIAM_DATA", raising=False)
    assert run.main([*arguments, "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert message.startswith("error: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize("jobs", [[], pytest.param(["--jobs", "2"], marks=pytest.mark.slow)], ids=str)
def test_a_share_of_a_gpu_that_is_not_there_is_refused(
    jobs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["--table", "stop_gradient", "--launcher", "local", "--gpus-per-trial", "0.5"]
    assert run.main([*command, *jobs, "--results", str(tmp_path)]) == 2
    assert "--gpus-per-trial 0.5 needs a GPU; there is none here." in capsys.readouterr().err


def test_data_that_cannot_be_used_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = [encoded(i) for i in range(30)]
    broken[17] = broken[17][:-30]
    (tmp_path / "empty").mkdir()
    nameless = write_both_splits(tmp_path / "nameless", broken, image="picture")
    cases = {
        tmp_path / "empty": "holds nothing that can be read. Known layouts:",
        nameless: "has no image column. Known names: image, img",
        write_both_splits(tmp_path / "broken", broken): "train.parquet, row 17",
    }
    for folder, complaint in cases.items():
        command = ["--table", "stop_gradient", "--launcher", "local", "--set", "batch_size=16", "--data", str(folder)]
        assert run.main([*command, "--results", str(tmp_path / "out")]) == 2
        message = capsys.readouterr().err
        assert complaint in message
        assert "Traceback" not in message
        assert message.count("\n") == 1


def test_a_results_folder_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    command = ["--table", "stop_gradient", "--launcher", "local", *tiny.OVERRIDES]
    assert run.main([*command, "--results", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


OWN = """\
from ablations.table import GIVEN, Row, Table

TABLE = Table(
    name="mine",
    title="Mine",
    section="ours",
    varies=("encoder",),
    rows=(Row(name="tuned", changes=lambda baseline: {"encoder": GIVEN, "epochs": baseline["epochs"]}),),
)
"""


def test_an_encoder_that_a_function_asks_for_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    command = ["--table", str(tmp_path / "mine.py")]
    with pytest.raises(UserError, match="Table mine starts from an encoder: give --from TABLE/ROW or --weights FILE"):
        request.read(options.parser().parse_args(command))
    given = Encoder(digest="a" * 16, network={"width": 8}, origin="x.pth")
    asked = request.read(options.parser().parse_args([*command, "--weights", "x.pth"]), lambda kind, fields: given)
    (trial,) = asked.trials((0,))
    assert (trial.config.encoder, trial.config.width, trial.infeasible) == ("a" * 16, 8, None)
    refused = options.parser().parse_args(["--grid", "dim=64,128", "--weights", "x.pth"])
    with pytest.raises(
        UserError, match=r"--weights is for tables that start from an encoder: .*\. Got a grid of a recipe"
    ):
        request.read(refused, lambda kind, fields: given)


@pytest.mark.parametrize("place", ["s3://bucket/exp#1", "gs://bucket/a//b", "s3://", "s3:///a"])
@pytest.mark.parametrize("option", ["--results", "--data"])
def test_the_uri_of_a_bucket_that_is_not_one_place_is_refused(
    option: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = [] if option == "--results" else ["--results", str(tmp_path)]
    assert run.main(["--table", "stop_gradient", "--plan", option, place, *elsewhere]) == 2
    assert "bucket's URI must" in (message := capsys.readouterr().err) or "it must be BUCKET/FOLDER" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("given", ["option", "environment"])
def test_a_job_does_not_put_its_results_into_the_copy_that_ray_deletes(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = "mine" if given == "option" else None
    monkeypatch.setenv("SIMSIAM_RESULTS", "mine")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {"working_dir": "gcs://x.zip"}}))
    with pytest.raises(UserError, match=r"absolute path or a bucket.*Got mine instead"):
        files.results_place(option)
    for lasting in (str(tmp_path), "s3://bucket/x"):
        assert files.results_place(lasting) == lasting
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"runtime_env": {}}))  # it starts in the checkout
    assert files.results_place(option) == "mine"


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ([], "on Ray, 1 worker a trial with 1 CPU, and a GPU where there are some"),
        (
            ["--workers", "2", "--threads", "2", "--loader-processes", "3"],
            "on Ray, 2 workers a trial with 5 CPUs each, and a GPU where there are some",
        ),
        (["--gpus-per-trial", "0.25"], "on Ray, 1 worker a trial with 1 CPU, and 0.25 of a GPU where there are some"),
        (["--launcher", "local", "--jobs", "2"], "2 at once in processes of their own"),
    ],
)
def test_a_plan_says_what_a_trial_asks_for(asked: list[str], where: str) -> None:
    assert request.read(options.parser().parse_args(["--table", "stop_gradient", *asked])).where == where


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (["--lr", "0.1"], "base_lr is a field: --set base_lr=VALUE"),
        (["--dataset=x"], "For --dataset=x there is --data."),
        (["--gpus", "2"], "For --gpus there is --workers N, one GPU each."),
        (["--seed", "3"], "For --seed there is --seeds N"),
        (["--gpus=1"], "For --gpus=1 there is --workers N, one GPU each."),
    ],
)
def test_words_of_other_tools_are_none_of_ours_and_lead_to_them(
    typed: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(["--table", "stop_gradient", *typed])
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err
