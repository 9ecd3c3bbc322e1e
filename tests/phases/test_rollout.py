"""A rollout: fixed rows, each written once, that nothing else shares."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from esper_core.state.actions import HEADS, Decision
from esper_core.state.rollout import Rollout
from esper_core.state.signals import HostSignals

many = settings(max_examples=200, deadline=None)
T, N = 6, 3


def row_of(seed: int, envs: int = N) -> dict[str, Any]:
    """Arguments of `record`, all of them at random."""
    draw = np.random.default_rng(seed)
    decision = Decision(**{head: draw.integers(0, 3, envs) for head in HEADS})
    return {
        "decision": decision,
        "trace": {"seen": draw.normal(size=(envs, 2)), "mask": draw.random((envs, 3)) < 0.5},
        "refused": draw.integers(0, 3, envs),
        "reward": draw.normal(size=envs),
        "signals": attrs.evolve(
            HostSignals.unknown(envs), score=draw.random(envs), committed=draw.random(envs)
        ),
        "verdict": draw.integers(0, 3, envs) * (draw.random(envs) < 0.3),
    }


def arrays(rollout: Rollout) -> dict[str, Any]:
    """Everything with an axis of time."""
    fields = {a.name: getattr(rollout, a.name) for a in attrs.fields(Rollout)}
    return {k: v for k, v in (fields | rollout.trace).items() if k not in ("trace", "group")}


@pytest.mark.property
@many
@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=5, unique=True), st.integers(0, 10**6))
def test_a_row_is_written_alone(epochs: list[int], seed: int) -> None:
    """B1': what is recorded of an epoch changes no other row; rows that were not recorded are not played."""
    rollout = Rollout.empty(T, N)
    for epoch in epochs:
        before = {name: array.copy() for name, array in arrays(rollout).items()}
        rollout.record(epoch, **row_of(seed + epoch))
        for name, array in arrays(rollout).items():
            kept = np.delete(array, epoch, axis=0)
            was = before[name] if name in before else np.zeros_like(array)
            assert_array_equal(kept, np.delete(was, epoch, axis=0), err_msg=name)
    assert rollout.played.all(axis=1).nonzero()[0].tolist() == sorted(epochs)
    assert rollout.played.any(axis=1).nonzero()[0].tolist() == sorted(epochs)


@pytest.mark.property
@many
@given(st.integers(0, T - 1), st.integers(0, 10**6))
def test_a_row_has_what_was_recorded_of_every_environment(epoch: int, seed: int) -> None:
    """B1': environments do not mix: each column is what it is when it is recorded alone."""
    rollout, row = Rollout.empty(T, N), row_of(seed)
    rollout.record(epoch, **row)
    for name in ("refused", "reward", "verdict"):
        assert_array_equal(getattr(rollout, name)[epoch], row[name])
    for name in ("score", "committed"):
        assert_array_equal(getattr(rollout, name)[epoch], getattr(row["signals"], name))
    for k, head in enumerate(HEADS):
        assert_array_equal(rollout.heads[epoch, :, k], getattr(row["decision"], head))
    for name, values in row["trace"].items():
        assert_array_equal(rollout.trace[name][epoch], values)


@pytest.mark.property
@many
@given(st.integers(0, 10**6))
def test_a_verdict_closes_its_segment_in_the_epoch_that_it_falls_in(seed: int) -> None:
    """B2': a rollback at any epoch terminates its segment there and is counted; so does the episode's end."""
    rollout = Rollout.empty(T, N)
    verdicts = np.stack([row_of(seed + t)["verdict"] for t in range(T)])
    for t in range(T):
        rollout.record(t, **row_of(seed + t))
    assert_array_equal(rollout.terminated, (verdicts != 0) | (np.arange(T) == T - 1)[:, None])
    assert_array_equal(rollout.verdict, verdicts)
    assert not rollout.truncated.any()


def test_an_empty_rollout_says_that_it_is() -> None:
    rollout = Rollout.empty(T, N, np.asarray([1, 0, 2]))
    assert not any(getattr(rollout, name).any() for name in ("played", "terminated", "truncated", "verdict"))
    assert rollout.group.tolist() == [1, 0, 2]
    assert Rollout.empty(T, N).group.tolist() == [0] * N
    assert (np.isnan(rollout.score) & np.isnan(rollout.committed)).all()


def test_two_rollouts_share_no_memory() -> None:
    """B1': what a later episode records cannot be read through an earlier one."""
    one, other = Rollout.empty(T, N), Rollout.empty(T, N)
    row = row_of(0)
    for rollout in (one, other):
        rollout.record(0, **row)
    for name, mine in arrays(one).items():
        assert not np.shares_memory(mine, arrays(other)[name]), name
        assert not any(np.shares_memory(mine, given) for given in row["trace"].values()), name
