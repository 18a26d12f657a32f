"""What a person sees: the plan, the trials as they run, the table at the end."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ablations.table import Table, Trial

Result = Mapping[str, Any]

_PLAIN_SECONDS = 15.0  # between two plain lines of one trial


class Progress:
    """The trials of a run as they go. A live table in a terminal, plain lines otherwise.

    Args:
        todo: the trials that will run.
    """

    def __init__(self, todo: Sequence[Trial]) -> None:
        self._states = {trial.fingerprint: _State(trial) for trial in todo}
        self._live: Any = None

    def __enter__(self) -> Self:
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(get_renderable=self._render, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start(self, fingerprint: str) -> None:
        state = self._states[fingerprint]
        state.status = "starting"
        self._say(f"{state.name}: starting")

    def epoch(self, fingerprint: str, line: Result) -> None:
        """A trial has done an epoch, with the line of its curve."""
        state = self._states[fingerprint]
        state.take(line)
        if time.monotonic() - state.said > _PLAIN_SECONDS:
            state.said = time.monotonic()
            self._say(f"{state.name}: {state.text()}")

    def finish(self, fingerprint: str, result: Result) -> None:
        state = self._states[fingerprint]
        state.status = result["outcome"]
        seconds = result.get("wall_seconds")
        took = f" in {duration(seconds)}" if seconds else ""
        reason = f": {result['message']}" if result.get("message") else ""
        self._say(f"{state.name}: {state.status}{took}{reason}")

    def _say(self, text: str) -> None:
        if self._live is None:
            print(text, flush=True)

    def _render(self) -> Any:
        from rich.table import Table as Grid

        grid = Grid(box=None, pad_edge=False)
        for heading in ("trial", "status", "epoch", "loss", "z_std", "kNN", "left"):
            grid.add_column(heading)
        for state in self._states.values():
            grid.add_row(state.name, state.status, *state.cells())
        return grid


class _State:
    def __init__(self, trial: Trial) -> None:
        self.name, self.epochs = trial.name, trial.config.epochs
        self.status = "waiting"
        self.said = time.monotonic()
        self.line: Result | None = None
        self._first: tuple[float, int] | None = None

    def take(self, line: Result) -> None:
        self.status, self.line = "running", line
        self._first = self._first or (time.monotonic(), line["epoch"])

    def left(self) -> float | None:
        """Seconds to the last epoch, at the speed since the first line seen; None before there are two."""
        if self.line is None or self._first is None or self.line["epoch"] == self._first[1]:
            return None
        begun, first = self._first
        return (time.monotonic() - begun) / (self.line["epoch"] - first) * (self.epochs - self.line["epoch"])

    def cells(self) -> tuple[str, ...]:
        if self.line is None:
            return ("", "", "", "", "")
        left = self.left()
        return (
            f"{self.line['epoch']}/{self.epochs}",
            f"{self.line['loss']:.3f}",
            f"{self.line['z_std']:.2f}",
            f"{self.line['knn_top1']:.1f}",
            "" if left is None else duration(left),
        )

    def text(self) -> str:
        epoch, loss, std, knn, left = self.cells()
        return f"epoch {epoch}, loss {loss}, z_std {std}, kNN {knn} %" + (f", {left} left" if left else "")


_COLUMNS = (("ours", "linear_top1", 1), ("kNN", "knn_top1", 1), ("untrained", "knn_top1_init", 1))
_FORENSICS = (("z_std", "z_std", 2), ("rank", "effective_rank", 1))


def results(table: Table, lines: Sequence[Result]) -> str:
    """One table of one recipe with one set of overrides, a line a row: row | paper | ours | ... | outcome | time.

    Args:
        lines: of results/<table>.parquet.
    """
    numbers = _COLUMNS + _FORENSICS
    cells = [("row", "paper", *(heading for heading, _, _ in numbers), "outcome", "time")]
    for row in table.rows:
        if seeds := [line for line in lines if line["row"] == row.name]:
            paper = "-" if row.paper is None else f"{row.paper:.1f}"
            ours = (spread(seeds, name, digits) for _, name, digits in numbers)
            cells.append((row.name, paper, *ours, _outcomes(seeds), _time(seeds)))
    text = [
        f"{table.title} ({table.section}). Linear and kNN top-1 in per cent, time a trial.",
        "",
        aligned(cells),
    ]
    messages = dict.fromkeys(f"{line['row']}: {line['message']}" for line in lines if line["message"])
    pixels = [line["knn_top1_pixels"] for line in lines if line["knn_top1_pixels"] is not None]
    raw = [f"kNN on the raw pixels: {pixels[0]:.1f} %."] if pixels else []
    return "\n".join([*text, *([""] if messages or raw else []), *messages, *raw])


def spread(lines: Sequence[Result], name: str, digits: int) -> str:
    """Mean over the seeds that have a number, and their standard deviation if they are several."""
    values = [line[name] for line in lines if line[name] is not None]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table, its columns aligned."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """0:42, 12:05 or 3:12:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _outcomes(lines: Sequence[Result]) -> str:
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["outcome"]] = counts.get(line["outcome"], 0) + 1
    return ", ".join(o if n == len(lines) else f"{n} {o}" for o, n in counts.items())


def _time(lines: Sequence[Result]) -> str:
    seconds = [line["wall_seconds"] for line in lines if line["wall_seconds"] is not None]
    return duration(statistics.fmean(seconds)) if seconds else "-"
