"""The hash against SplitMix64 in Python's own integers, and whether its numbers look random."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from simsiam import randomness

N = 20_000
MASK = (1 << 64) - 1


def splitmix64(state: int) -> int:
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hashed(*words: int | str) -> int:
    state = 0
    for word in words:
        if isinstance(word, str):
            word = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        state = splitmix64(state ^ splitmix64(word & MASK))
    return state


def test_the_mixer_gives_the_published_numbers() -> None:
    # The first five outputs of SplitMix64 seeded with 1234567, whose state grows by the golden gamma.
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = [(1234567 + i * 0x9E3779B97F4A7C15) & MASK for i in range(5)]
    assert [splitmix64(state) for state in states] == published
    assert randomness._mix(np.array(states, np.uint64)).tolist() == published


@settings(max_examples=200)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8), max_size=5))
def test_bits_are_the_hash_in_python_integers(words: list[int | str]) -> None:
    assert randomness.bits(*words).tolist() == [hashed(*words)]


def test_numbers_never_change() -> None:
    # Computed by `hashed` above: results are named by what they started from, so these may never move.
    assert randomness.bits("view", 0, 1, 2, 3).tolist() == [427196209456178625]
    assert randomness.bits(7).tolist() == [13309476754707697221]
    assert randomness.uniform("crop", 1, 2, 3).tolist() == [0.4203975226303728]
    assert randomness.permutation(8, "order", 0, 1).tolist() == [6, 3, 5, 0, 2, 1, 4, 7]


def test_words_are_broadcast() -> None:
    ids, tries = np.arange(5)[:, None], np.arange(3)
    together = randomness.bits("crop", 4, ids, "area", tries)
    assert together.shape == (5, 3)
    assert together.tolist() == [[hashed("crop", 4, i, "area", k) for k in range(3)] for i in range(5)]


def test_words_of_any_integer_type_are_the_same() -> None:
    kinds = (np.int16, np.int32, np.int64, np.uint8, np.uint64)
    assert len({tuple(randomness.bits("a", np.arange(9, dtype=kind)).tolist()) for kind in kinds}) == 1


def test_the_order_and_the_number_of_words_matter() -> None:
    spellings = [(1, 2), (2, 1), (1, 2, 0), (0, 1, 2), (3,), (1,), ("1", 2), ("12",), ("1", "2")]
    assert len({randomness.bits(*words)[0] for words in spellings}) == len(spellings)


SERIES = {
    "samples": ("view", 0, 3, np.arange(N), 1, "flip"),
    "epochs": ("view", 0, np.arange(N), 5, 1, "flip"),
    "seeds": ("view", np.arange(N), 3, 5, 1, "flip"),
    "views": ("view", 0, 3, 5, np.arange(N), "flip"),
    "multiples of 2^32": ("view", np.arange(N) << 32),
}


@pytest.mark.parametrize("words", SERIES.values(), ids=SERIES.keys())
def test_uniform_along_every_word(words: tuple[randomness.Word, ...]) -> None:
    numbers = randomness.uniform(*words)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("words", SERIES.values(), ids=SERIES.keys())
def test_neighbours_have_nothing_to_do_with_each_other(words: tuple[randomness.Word, ...]) -> None:
    numbers = randomness.uniform(*words)
    for lag in (1, 2, 16, 128):
        assert abs(np.corrcoef(numbers[:-lag], numbers[lag:])[0, 1]) < 4 / np.sqrt(N)


def test_parameters_and_views_have_nothing_to_do_with_each_other() -> None:
    ids = np.arange(N)
    names = ("jitter", "brightness", "contrast", "grayscale", "blur", "sigma", "flip")
    numbers = np.stack([randomness.uniform("view", 0, 0, ids, v, name) for v in (0, 1) for name in names])
    correlation = np.corrcoef(numbers) - np.eye(len(numbers))
    assert np.abs(correlation).max() < 4.5 / np.sqrt(N)


def test_every_bit_is_a_fair_coin() -> None:
    bits = randomness.bits("bits", np.arange(N))[:, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 4.5 * 0.5 / np.sqrt(N)


def test_permutation_is_one_and_differs_by_epoch() -> None:
    orders = [randomness.permutation(500, "order", seed, epoch) for seed in (0, 1) for epoch in (0, 1, 2)]
    for order in orders:
        assert sorted(order.tolist()) == list(range(500))
    for i, one in enumerate(orders):
        for two in orders[:i]:
            # Two random orders agree in one place on average.
            assert (one == two).sum() < 10
            assert abs(stats.spearmanr(one, two).statistic) < 4 / np.sqrt(500)
    assert randomness.permutation(500, "order", 0, 0).tolist() == orders[0].tolist()


def test_each_place_of_a_permutation_is_as_likely() -> None:
    orders = np.stack([randomness.permutation(6, "order", seed) for seed in range(6000)])
    for item in range(6):
        counts = np.bincount(np.argmax(orders == item, axis=1), minlength=6)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_permutation_of_nothing_and_of_one() -> None:
    assert randomness.permutation(0, "order").tolist() == []
    assert randomness.permutation(1, "order").tolist() == [0]
