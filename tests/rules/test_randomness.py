"""Randomness from counters: golden values, independence of N, uniformity, and no global state."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.rules.randomness import Purpose, bits, permutations, torch_seed, uniforms

keys = st.integers(0, 2**63 - 1)
M = (1 << 64) - 1


def mix(z: int) -> int:
    """The finaliser of SplitMix64, in Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
    return z ^ (z >> 31)


def reference(root: int, *numbers: int) -> int:
    state = mix((root + 0x9E3779B97F4A7C15) & M)
    for number in numbers:
        state = mix(((state ^ number) * 3 + 0x9E3779B97F4A7C15) & M)
    return state


def test_the_reference_is_splitmix64():
    """First two outputs of the published generator for the seed 0."""
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    assert mix((2 * 0x9E3779B97F4A7C15) & M) == 0x6E789E6AA1B965F4


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(st.integers(0, M), st.sampled_from(Purpose), st.lists(keys, max_size=4))
def test_bits_and_all_that_is_made_of_them_equal_the_reference(root, purpose, numbers):
    value = reference(root, purpose, *numbers)
    assert int(bits(root, purpose, *numbers)) == value
    assert float(uniforms(root, purpose, *numbers)) == (value >> 11) / 2**53
    assert torch_seed(root, purpose, *numbers) == value >> 1 < 2**63
    order = sorted(range(7), key=lambda i: reference(root, purpose, *numbers, i))
    assert permutations(7, root, purpose, *numbers).tolist() == order


@pytest.mark.acceptance("X-09")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(keys, st.sampled_from(Purpose), st.integers(1, 6), st.integers(1, 6), keys)
def test_an_additional_environment_shifts_no_other(root, purpose, envs, more, epoch):
    few, many = np.arange(envs), np.arange(envs + more)
    heads = np.arange(7)
    np.testing.assert_array_equal(
        uniforms(root, purpose, few[:, None], epoch, heads),
        uniforms(root, purpose, many[:, None], epoch, heads)[:envs],
    )
    np.testing.assert_array_equal(
        permutations(9, root, purpose, few, epoch), permutations(9, root, purpose, many, epoch)[:envs]
    )


def test_purposes_rounds_environments_and_epochs_never_share_a_draw():
    rounds, envs, epochs = np.ogrid[:12, :12, :12]
    drawn = np.stack([bits(root, p, rounds, envs, epochs) for root in (0, 1) for p in Purpose])
    assert len(np.unique(drawn)) == drawn.size == 2 * len(Purpose) * 12**3


def test_no_key_is_ignored_and_their_order_counts():
    base = bits(5, Purpose.POLICY, 1, 2, 3)
    others = [bits(5, Purpose.POLICY, *numbers) for numbers in itertools.permutations((1, 2, 3))]
    assert len({int(b) for b in others}) == 6
    assert int(bits(5, Purpose.POLICY, 1, 2)) != int(base) != int(bits(5, Purpose.POLICY, 1, 2, 3, 0))


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def bound(cells: int) -> float:
    """Six standard deviations above the mean of chi-square with `cells - 1` degrees of freedom."""
    return cells - 1 + 6 * math.sqrt(2 * (cells - 1))


@pytest.mark.parametrize("axis", ["environments", "epochs", "roots"])
def test_uniforms_are_uniform_along_every_key(axis):
    many = np.arange(40_000)
    drawn = {
        "environments": lambda: uniforms(3, Purpose.POLICY, 0, many, 0),
        "epochs": lambda: uniforms(3, Purpose.POLICY, 0, 0, many),
        "roots": lambda: np.asarray([uniforms(root, Purpose.POLICY, 0, 0) for root in range(4000)]),
    }[axis]()
    assert 0 <= drawn.min() <= drawn.max() < 1
    assert chi_square(np.histogram(drawn, 64, (0, 1))[0]) < bound(64)
    pairs = np.histogram2d(drawn[:-1], drawn[1:], 8, ((0, 1), (0, 1)))[0]
    assert chi_square(pairs) < bound(64)


def test_every_bit_is_fair():
    drawn = bits(11, Purpose.SEED, np.arange(20_000))
    ones = [(int(((drawn >> np.uint64(b)) & np.uint64(1)).sum())) for b in range(64)]
    assert max(abs(count - 10_000) for count in ones) < 6 * math.sqrt(20_000 / 4)


def test_permutations_are_permutations_each_its_own_and_all_equally_likely():
    drawn = permutations(100, 0, Purpose.BATCHES, np.arange(50)[:, None], np.arange(4))
    assert drawn.shape == (50, 4, 100)
    np.testing.assert_array_equal(np.sort(drawn, axis=-1), np.broadcast_to(np.arange(100), drawn.shape))
    assert len(np.unique(drawn.reshape(200, 100), axis=0)) == 200
    small = permutations(3, 1, Purpose.PERMUTATIONS, np.arange(6000))
    assert chi_square(np.unique(small, axis=0, return_counts=True)[1]) < bound(6)
    assert permutations(5, 0, Purpose.DATA).shape == (5,)


def test_no_global_generator_is_read_or_moved():
    def draw() -> list[object]:
        return [
            uniforms(1, Purpose.POLICY, np.arange(3)).tolist(),
            permutations(6, 1, Purpose.BATCHES, np.arange(3)).tolist(),
            torch_seed(1, Purpose.MODULES, 4),
        ]

    def states() -> list[object]:
        return [str(np.random.get_state()), torch.get_rng_state().tolist()]  # noqa: NPY002

    before, first = states(), draw()
    assert states() == before
    np.random.seed(77)  # noqa: NPY002
    torch.manual_seed(77)
    assert draw() == first
