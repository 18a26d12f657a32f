"""Randomness as a function of names, not a state: the same words give the same numbers on any worker, after any resume.

numpy because torch on CPU has no uint64 arithmetic.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Word = int | str | npt.NDArray[np.integer]


def bits(*words: Word, after: npt.NDArray[np.uint64] | None = None) -> npt.NDArray[np.uint64]:
    """64 random bits for each element of the words broadcast together (at least one dimension).

    `bits(a, b, c)` is `bits(c, after=bits(a, b))`: what many draws have in common is folded once.
    """
    state = np.zeros(1, np.uint64) if after is None else after
    for word in words:
        if isinstance(word, str):
            word = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        state = _mix(state ^ _mix(np.atleast_1d(np.asarray(word)).astype(np.uint64)))
    return state


def uniform(*words: Word, after: npt.NDArray[np.uint64] | None = None) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), as `bits`."""
    return (bits(*words, after=after) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(n: int, *words: Word) -> npt.NDArray[np.int64]:
    """A random order of 0 .. n-1."""
    return np.argsort(bits(*words, np.arange(n)), kind="stable")


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """One output of the SplitMix64 generator at state x (Steele, Lea & Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
