"""The classes of the two splits are the same ones: matched by name, and said where they are not."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from simsiam.data.pictures import TEST, TRAIN, DataError
from simsiam.text import printable

_SHOWN = 3  # classes that a message names

Names = Mapping[str, Collection[Any]]  # split -> its classes: names, or numbers where there are none


def check(of: Names, place: str) -> None:
    """Raises DataError if kNN or a linear classifier could not tell anything."""
    if len(set(of[TRAIN])) < 2:
        raise DataError(
            f"{place} has {len(set(of[TRAIN]))} class in its train split ({_some(of[TRAIN])}): an accuracy takes two. "
            "Give data with a folder, or a label, for each class."
        )
    if not set(of[TRAIN]) & set(of[TEST]):
        raise DataError(
            f"The train and the test split of {place} have no class in common: train has {_some(of[TRAIN])}, test has "
            f"{_some(of[TEST])}. Name each class alike in both."
        )


def notes(of: Names) -> Iterator[str]:
    """A line for the classes of one split alone."""
    for split, other, means in (
        (TEST, TRAIN, "none of their pictures can be right"),
        (TRAIN, TEST, "nothing is tested on them"),
    ):
        if alone := set(of[split]) - set(of[other]):
            one = len(alone) == 1
            yield f"{len(alone)} class{'' if one else 'es'} of {split} alone ({_some(alone)}): {means}"


def _some(names: Collection[Any]) -> str:
    """The first of them for a person."""
    ordered = [printable(str(name)) for name in sorted(set(names))]
    return ", ".join(ordered[:_SHOWN]) + (f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else "")
