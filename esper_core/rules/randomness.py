"""Randomness from counters: every draw is a function of its keys.

Role: nothing random is stored. A draw names what it is for (`Purpose`) and where it stands (round,
environment, epoch, ...), so an additional environment shifts no other and a resumed run needs no generator
state. The hash is the finaliser of SplitMix64 (Steele, Lea, Flood 2014), applied once per key.
Neighbours: policies get `uniforms` as an argument, `phases.collect` draws batches, `model` seeds torch.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from esper_core.state.arrays import Floats, Ints

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a draw is for; draws of different purposes never share a key."""

    HOST = 1
    SEED = 2
    BATCHES = 3
    POLICY = 4
    PERMUTATIONS = 5
    DATA = 6
    MODULES = 7
    MINIBATCHES = 8
    NETWORK = 9


def bits(root: int, purpose: Purpose, *keys: ArrayLike) -> NDArray[np.uint64]:
    """64 pseudo-random bits for every combination of the keys.

    Args:
        root: the run's seed, a non-negative integer.
        purpose: what the draw is for.
        keys: integers or integer arrays that broadcast against each other.

    Returns:
        Unsigned integers of the broadcast shape.
    """
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(root).astype(np.uint64) + _STEP)
        for key in (np.asarray(int(purpose)), *map(np.asarray, keys)):
            state = _mix((state ^ key.astype(np.uint64)) * np.uint64(3) + _STEP)
    return state


def uniforms(root: int, purpose: Purpose, *keys: ArrayLike) -> Floats:
    """Float64 uniforms in [0, 1) for every combination of the keys under `root`, 53 bits each."""
    return (bits(root, purpose, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutations(size: int, root: int, purpose: Purpose, *keys: ArrayLike) -> Ints:
    """A permutation of `range(size)` for every combination of the keys.

    Args:
        size: n.
        root: the run's seed, a non-negative integer.
        purpose: what the draw is for.
        keys: integers or integer arrays that broadcast against each other.

    Returns:
        Integers of the broadcast shape of the keys, plus a last axis of length `size`.
    """
    expanded = [np.asarray(key)[..., None] for key in keys]
    return np.argsort(bits(root, purpose, *expanded, np.arange(size)), axis=-1, kind="stable")


def torch_seed(root: int, purpose: Purpose, *keys: int) -> int:
    """A seed for a torch generator: 63 bits, so that it is a valid signed integer."""
    return int(bits(root, purpose, *keys) >> np.uint64(1))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
