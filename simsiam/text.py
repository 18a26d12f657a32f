"""Text that a terminal shows as it is."""

from __future__ import annotations


def printable(text: str) -> str:
    """A line with escapes for what a terminal would act on, or could not show: names may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
