"""What a person reads of a plan: what there is, what would run, how long it may take, and what that costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ablations import estimate, planning, provenance
from ablations.board import duration
from ablations.estimate import Times
from ablations.printed import price as money
from ablations.request import Request
from ablations.store import Store
from ablations.table import Trial

_NAMED = 10  # fingerprints
_ROWS = 5  # named beside a reason


def plan(
    request: Request, trials: Sequence[Trial], todo: Mapping[str, Trial], store: Store, *, looks: Sequence[int] = ()
) -> str:
    """What would run, what is there, what cannot run and why, how long it may take, and what a trial asks for.

    Args:
        todo: fingerprint -> trial, of those that this command runs.
        looks: after how many seeds the claims are judged, where it may end before the last.

    Raises UserError for a kind of device, or a cluster's file, that tells no time.
    """
    distinct = planning.distinct(trials)
    states = store.states(distinct)
    told = trials if request.args.fingerprints else trials[:_NAMED]
    lines = [f"  {t.fingerprint}  {t.name}: {states.get(t.fingerprint, 'infeasible')}" for t in told]
    if left := len(trials) - len(lines):
        lines.append(f"  ... and {left} more: --plan --fingerprints shows all.")
    reasons: dict[str, dict[str, None]] = {}
    for trial in trials:
        if trial.infeasible:
            reasons.setdefault(trial.infeasible, {})[f"{trial.table.name}/{trial.row.name}"] = None
    for reason, rows in reasons.items():
        besides = f" and {len(rows) - _ROWS} more" if len(rows) > _ROWS else ""
        lines.append(f"Infeasible: {', '.join(list(rows)[:_ROWS])}{besides}: {reason}")
    lines.append(_counts(trials, distinct, states))
    if todo:
        lines.append(f"Now: {len(todo)} training{'s' * (len(todo) > 1)}, {request.where}.")
        lines.append(_time(request, todo, store))
        if looks[1:]:
            judged = f"{', '.join(map(str, looks[:-1]))} and {looks[-1]}"
            lines.append(f"That is the most: claims are judged after {judged} seeds; more, only for what is undecided.")
    else:
        lines.append("Now: nothing to train.")
    return "\n".join([f"Results: {store.folder}", *lines])


def _counts(trials: Sequence[Trial], distinct: Mapping[str, Trial], states: Mapping[str, str]) -> str:
    """How many results of how many trainings, and what there is of them."""
    rows, seeds = len({(t.table.name, t.row.name) for t in trials}), len({t.config.seed for t in trials})
    product = f"{rows} row{'s' * (rows != 1)} x {seeds} seed{'s' * (seeds != 1)} = " * (rows * seeds == len(trials))
    infeasible = sum(trial.infeasible is not None for trial in trials)
    shared = len(trials) - infeasible - len(distinct)
    since = f", since {shared} {'is' if shared == 1 else 'are'} shared" if shared else ""
    cannot = f", {infeasible} cannot start" if infeasible else ""
    there = ", ".join(f"{n} {state}" for state, n in sorted(Counter(states.values()).items()))
    trainings = f"{len(distinct)} training{'s' * (len(distinct) != 1)}{since}"
    return f"{product}{len(trials)} result{'s' * (len(trials) != 1)}{cannot}: {trainings}; {there or 'none'}."


def _time(request: Request, todo: Mapping[str, Trial], store: Store) -> str:
    args, trials = request.args, list(todo.values())
    if args.device:
        its = request.source
        times = estimate.on(args.device, trials, store, args.threads, (its.train_images, its.test_images))
    elif args.probe:
        from ablations import timing

        known = estimate.speeds(estimate.costs(store), provenance.machine(), args.threads)
        found = known | timing.speeds(trials, request.runtime, known)
        times = estimate.times(trials, found, f" on this machine's {provenance.machine()}")
    else:
        times = estimate.here(trials, store, args.threads)
    at_once = None
    if args.cluster is not None:
        from ablations import machines

        at_once = machines.at_once(args.cluster, request.runtime), args.cluster
    return how_long(times, workers=args.workers, price=args.price, at_once=at_once, here=not args.device)


def how_long(
    times: Times,
    *,
    workers: int = 1,
    price: float | None = None,
    at_once: tuple[int, str] | None = None,
    here: bool = True,
) -> str:
    """How long trainings may take, and what they may cost.

    Args:
        workers: of one training.
        price: of an hour of one CPU or GPU.
        at_once: how many trainings a cluster holds at once, and its name.
        here: whether it is asked of where trainings of this command run; of another kind of device they tell nothing.
    """
    if not times.known:
        tells = f"A first training of each kind tells{'' if times.by else ', or --plan --probe'}"
        return f"Time: unknown{times.by}. {tells if here else '--plan --probe on such a machine tells'}."
    text = f"{duration(times.seconds / workers)} if one follows the other{times.by}"
    text += f", if {workers} workers are {workers} times as fast as one" if workers > 1 else ""
    if times.unknown:
        text += f", of {len(times.known)}; unknown of {times.unknown}"
    lines, of = [f"Time: {text}."], f" of these {len(times.known)}" if times.unknown else ""
    if at_once:
        count, cluster = at_once
        lasts = duration(times.spread(count, workers))
        together = "all at once" if count >= len(times.known) else f"at most {count} at once"
        lines.append(
            f"On {cluster}{of}: {lasts}, {together}, if its machines are as fast and all there from the start."
        )
    if price is not None:
        cost = money([price * times.seconds / 3600])
        lines.append(f"Price{of}: {cost}, at {price:g} an hour of a CPU or GPU.")
    return "\n".join(lines)
