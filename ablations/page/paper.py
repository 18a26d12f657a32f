"""Words and tables for a paper: LaTeX, Markdown and CSV of a table, a methods paragraph, and whom to cite."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pandas as pd
from pylatexenc.latexencode import UnicodeToLatexEncoder

from ablations import lines as lines_of
from ablations import planning, todays
from ablations.columns import Result
from ablations.page.evidence import Shown, Stage
from ablations.printed import Number, accuracies, in_no_mean, outcomes, plural, same_trainings
from ablations.table import Table
from ablations.verdict import Interval
from simsiam import config as configs
from simsiam.methods import DETECTION

BIBTEX = """\
@inproceedings{chen2021exploring,
  title     = {Exploring Simple {Siamese} Representation Learning},
  author    = {Chen, Xinlei and He, Kaiming},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  pages     = {15750--15758},
  year      = {2021}
}"""


def frame(stages: Sequence[Stage]) -> pd.DataFrame:
    """The paper's tables with ours beside them: a line a row, the mean of its seeds with its 95 % interval."""
    lines = []
    for stage in stages:
        for shown in stage.tables:
            for row in shown.rows:
                line: Result = {"table": shown.table.name, "recipe": stage.recipe, "overrides": stage.overrides}
                line |= {"data": stage.data, "encoder_from": ", ".join(lines_of.origins(shown.of(row)))}
                line |= {"row": row.name, "paper": row.paper, "seeds": len(shown.ran(row))}
                for number in accuracies(shown.lines):
                    mean, title = shown.mean(row, number.name), _title(number)
                    line[title] = mean.mean if mean else None
                    line[f"{title} ±"] = mean.half if mean and math.isfinite(mean.half) else None
                lines.append({**line, "outcome": outcomes(shown.of(row))})
    return pd.DataFrame(lines)


def csv(stages: Sequence[Stage]) -> str:
    """One table of all."""
    return frame(stages).to_csv(index=False)


def markdown(stages: Sequence[Stage]) -> str:
    """The tables, how they were made, and whom to cite."""
    return _with_words(stages, _markdown, _plain)


def latex(stages: Sequence[Stage]) -> str:
    """The same, with tables for booktabs."""
    return _with_words(stages, _latex, _tex)


def _with_words(stages: Sequence[Stage], table: Callable[[Stage, Shown], str], text: Callable[[str], str]) -> str:
    parts: list[str] = []
    for stage in stages:
        parts += [*(table(stage, shown) for shown in stage.tables), text(methods(stage)) + "\n"]
    return "\n".join([*parts, BIBTEX])


def _markdown(stage: Stage, shown: Shown) -> str:
    cells = _cells(shown).map(lambda text: _plain(text).replace("|", r"\|"))
    head = ["| " + " | ".join(cells.columns) + " |", "|" + "|".join("---" for _ in cells.columns) + "|"]
    lines = ["| " + " | ".join(line) + " |" for line in cells.itertuples(index=False)]
    return "\n".join([f"**{_plain(_caption(stage, shown))}**", "", *head, *lines]) + "\n"


def _latex(stage: Stage, shown: Shown) -> str:
    cells = _cells(shown).map(_tex)
    cells.columns = [_tex(name) for name in cells.columns]
    caption, label = _tex(_caption(stage, shown)), f"tab:{stage.slug}_{shown.table.name}"
    # Of both columns of a page: six are too wide for one.
    style = cells.style.hide(axis="index")
    form = functools.partial(
        style.to_latex, environment="table*", column_format=f"l{'r' * (len(cells.columns) - 2)}l", hrules=True
    )
    return str(form(position_float="centering", caption=caption, label=label))


def _caption(stage: Stage, shown: Shown) -> str:
    parts = [f"{shown.table.title} ({shown.table.section}).", f"{_sentence(stage)}."]
    parts.append("Means over seeds with their 95 % intervals.")
    if any(row.paper is not None for row in shown.rows):
        parts.append("The paper's numbers are linear top-1 on ImageNet.")
    parts += in_no_mean(shown.lines)
    return " ".join([*parts, *([] if shown.table.axes else same_trainings(shown.lines))])


def _sentence(stage: Stage) -> str:
    data = f" on {stage.apart}" if stage.apart else ""
    origin = f", from the encoder of {stage.origin}" if stage.origin else ""
    return f"Recipe {stage.recipe}{data}{origin}" + (f", changed as {stage.overrides}" if stage.overrides else "")


def _title(number: Number) -> str:
    """With the unit, but where it is never named: of AP."""
    return f"{number.title}, %" if number.name.endswith("top1") else number.title


def _cells(shown: Shown) -> pd.DataFrame:
    """The same as text: `97.2 ± 0.9`."""
    lines = []
    for row in shown.rows:
        its = accuracies(shown.lines)
        numbers = {_title(each): mean_text(shown.mean(row, each.name), each.digits) for each in its}
        paper = "-" if row.paper is None else f"{row.paper:.1f}"
        ended = outcomes(shown.of(row))
        lines.append({"row": row.name, "paper": paper, "seeds": str(len(shown.ran(row))), **numbers, "outcome": ended})
    return pd.DataFrame(lines)


def mean_text(mean: Interval | None, digits: int = 1) -> str:
    """A mean with its interval; `-` for none."""
    return "-" if mean is None else mean.text(digits)


# A `_` within a word is none.
_MARKUP = re.compile(r"[\\`*<\[~$]|&(?=[#\w]+;)|(?<![^\W_])_|_(?![^\W_])")


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it stands."""
    return _MARKUP.sub(r"\\\g<0>", text)


_TO_TEX = UnicodeToLatexEncoder(unknown_char_policy="keep", unknown_char_warning=False)


def _tex(text: str) -> str:
    # In LaTeX's first fonts a bar is a dash; and [ or * after the end of a line is an argument of that.
    return "{}" * text.startswith(("[", "*")) + _TO_TEX.unicode_to_latex(text).replace("|", r"{\textbar}")


class _NotRecorded:
    """What an earlier version's files lack, in any format."""

    def __format__(self, spec: str) -> str:
        return str(self)

    def __str__(self) -> str:
        return "not recorded"


_NOT_RECORDED = _NotRecorded()
_METHODS_PARAGRAPH = """\
We train {method} on {data} ({train_pictures:,} pictures of {image_size} px) by the recipe {recipe}: a \
{backbone}, {heads}{optimizer} with momentum {momentum:g} and weight decay {weight_decay:g}, a base learning rate of \
{base_lr:g} scaled by batch/256 with a cosine schedule{predictor_lr}, batch {batch_size}, {length}, in \
{precision}. {rows} Accuracies are of {test_images:,} test pictures after the last epoch: kNN with k = \
{knn_k} and temperature {knn_temperature:g} on the backbone's features, and a linear probe ({probe}) on them. A \
run has collapsed if the std of z/||z|| times sqrt(d) is below 0.02 or its effective rank below 3. Rows have \
{seeds}; we give means with 95 % t intervals. Claims are judged on kNN top-1 by differences paired by \
seed, with simultaneous intervals over all claims of a table. All was computed with torch {torch} on {device}."""
_DETECTION_PARAGRAPH = """\
We fine-tune all of torchvision's Faster R-CNN with a feature pyramid on {data} ({train_pictures:,} pictures) by the \
recipe {recipe}: a {backbone}, SGD with momentum {momentum:g} and weight decay {weight_decay:g}, a base learning rate \
of {base_lr:g} scaled by batch/256 and divided by ten after 3/4 and 11/12 of the steps, batch {batch_size}, {length}, \
in {precision}. Rows differ in what the backbone starts from. AP is COCO's, of boxes, on {test_images:,} test \
pictures after the last epoch. Rows have {seeds}; we give means with 95 % t intervals. All was computed with torch \
{torch} on {device}."""


def methods(stage: Stage) -> str:
    """A paragraph on how the numbers of a stage were made, from the Configs and the provenance of what is shown."""
    lines = [line for shown in stage.tables for line in shown.lines if line["wall_seconds"] is not None]
    if not lines:
        return f"Nothing of recipe {stage.name} has been trained yet."
    if not any(line["epochs"] for line in lines):
        return f"{_sentence(stage)}: networks as they are, without training."
    baselines = _baselines(stage)
    usual = _usual(baselines, lines)
    width = "" if usual["width"] == 64 else f" of width {usual['width']}"
    said = {
        "method": _method(usual["method"]),
        "data": _data(stage.data),
        "recipe": _sentence(stage).removeprefix("Recipe "),
        "backbone": usual["backbone"].replace("resnet", "ResNet-") + width,
        "heads": _heads(usual),
        "predictor_lr": "; the predictor's is constant" * (usual["predictor_lr"] == "constant"),
        "rows": " ".join([*_kinds_of_rows(stage), *_other_baselines(baselines, usual), *_other_methods(lines, usual)]),
        "length": plural(usual["epochs"], "epoch"),
        "seeds": _seeds(len(shown.ran(row)) for shown in stage.tables for row in shown.rows),
        "torch": _listed(line["torch"] for line in lines),
        "device": _listed(line["device"] for line in lines),
    }
    recorded = {name: _NOT_RECORDED if value is None else value for name, value in usual.items()}
    recorded["optimizer"] = OPTIMIZER_NAMES.get(usual["optimizer"], _NOT_RECORDED)
    paragraph = _DETECTION_PARAGRAPH if usual["method"] == DETECTION else _METHODS_PARAGRAPH
    return paragraph.format(**{**recorded, **said})


def _baselines(stage: Stage) -> dict[str, Result]:
    """Table -> the Config that its rows change."""
    overrides = todays.fields(stage.overrides)
    return {
        shown.table.name: dataclasses.asdict(planning.baseline(shown.table, stage.recipe, stage.data, overrides))
        for shown in stage.tables
    }


def _usual(baselines: Mapping[str, Result], lines: Iterable[Result]) -> Result:
    """The baseline that most tables have, of those whose method has trained a row, with what its lines tell besides."""
    by_method = {line["method"]: line for line in lines if line["epochs"]}
    those = [config for config in baselines.values() if config["method"] in by_method]
    if not those:
        return next(iter(by_method.values()))
    usual = max(those, key=those.count)
    return {**by_method[usual["method"]], **usual}


def _other_baselines(baselines: Mapping[str, Result], usual: Result) -> Iterator[str]:
    """A sentence for the tables of each other baseline."""
    tables: dict[str, list[str]] = {}
    for name, config in baselines.items():
        settings = {field: usual[field] for field in config}
        other = {field: its for field, (its, _) in configs.difference(config, settings).items()}
        if "method" in other:
            tables.setdefault(f"is that of {_method(config['method'])}", []).append(name)
        elif other := {field: its for field, its in other.items() if its is not None}:
            tables.setdefault(f"has {configs.canonical(other)}", []).append(name)
    for what, names in tables.items():
        yield f"The baseline of {' and '.join(names)} {what}."


def _other_methods(lines: Iterable[Result], usual: Result) -> Iterator[str]:
    found = {_method(line["method"]) for line in lines if line["epochs"]} - {_method(usual["method"])}
    if found:
        yield f"Some rows train by another method: {', '.join(sorted(found))}."


def _kinds_of_rows(stage: Stage) -> list[str]:
    kinds = {(bool(shown.table.axes), shown.table.tuned): shown.table for shown in stage.tables}
    return [_rows(table) for table in kinds.values()]


def _method(name: str) -> str:
    return METHOD_NAMES.get(name, name)


def _rows(table: Table) -> str:
    """What its rows are, in a sentence or two."""
    if not table.axes:
        return "Each row changes one part of its table's baseline."
    if not table.tuned:
        return "Each row has the values that its name says."
    return (
        f"Each row was also trained at each of several {' and '.join(table.axes)}, as the rows' names say, and claims "
        "were judged at those with the best mean leave-one-out kNN on the training pictures."
    )


OPTIMIZER_NAMES = {"sgd": "SGD", "lars": "LARS"}
METHOD_NAMES = {
    **{"simsiam": "SimSiam", "simclr": "SimCLR", "moco": "MoCo v2", "byol": "BYOL", "swav": "SwAV"},
    **{"alternation": "the alternating optimisation of Sec. 5.2", "expectation": "the moving average of Sec. 5.2"},
    "supervised": "training by labels",
}


# Of the layouts that are data of one name; the others hold anybody's pictures.
DATA_NAMES = {
    "digits": "the digits of scikit-learn",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
}
_OWN = {"parquet": "Parquet files", "images": "class folders", "voc": "Pascal VOC's layout"}


def _data(identity: str) -> str:
    """In words, from `layout@digest`."""
    layout, _, digest = identity.partition("@")
    return DATA_NAMES.get(layout) or f"pictures in {_OWN.get(layout, layout)} (digest {digest})"


def _heads(line: Result) -> str:
    if not line["projector_layers"]:
        return ""
    hidden = f", a predictor with a hidden width of {line['predictor_hidden']}" if line["predictor_hidden"] else ""
    return f"a projector of {line['projector_layers']} layers with d = {line['dim']}{hidden}, "


def _seeds(numbers: Iterable[int]) -> str:
    """How many rows have; a row none of whose seeds has run is no row of fewer seeds."""
    found = sorted(set(numbers))
    some = [n for n in found if n] or [0]
    text = plural(some[-1], "seed") if len(some) == 1 else f"{some[0]} to {plural(some[-1], 'seed')}"
    return f"{text}, some none, since those failed or could not start" if len(some) < len(found) else text


def _listed(values: Iterable[str | None]) -> str:
    return ", ".join(sorted({value for value in values if value}))


FORMATS: dict[str, Callable[[Sequence[Stage]], str]] = {"latex": latex, "markdown": markdown, "csv": csv}
