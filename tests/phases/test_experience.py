"""What an update learns from: rollouts of any lengths, cut anywhere, paid by any modes."""

from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learners import USED, Table, Told
from torch import Tensor

from esper_core.phases.update import Experience, experience
from esper_core.state.rollout import Rollout
from esper_core.state.settings import LearnSettings

torch.set_num_threads(1)

many = settings(max_examples=200, deadline=None)
LEARN = LearnSettings(gamma=0.9, trace=0.8)


def used(rollout: Rollout) -> Tensor:
    return USED.expand(*rollout.reward.shape, 7)


@attrs.frozen(kw_only=True, eq=False)
class Played:
    """A rollout, and values of the states behind truncations."""

    rollout: Rollout
    after: Tensor

    def learned(self, learn: LearnSettings = LEARN) -> Experience:
        return experience(Told(), self.rollout, used(self.rollout), learn, self.after)

    def of(self, envs: Any) -> "Played":
        """The part of some environments."""
        rollout = self.rollout
        fields = {
            a.name: getattr(rollout, a.name)[:, envs] for a in attrs.fields(Rollout) if a.name not in WHOLE
        }
        return Played(
            rollout=attrs.evolve(
                rollout,
                **fields,
                trace={"value": rollout.trace["value"][:, envs]},
                group=rollout.group[envs],
            ),
            after=self.after[:, envs],
        )


WHOLE = ("trace", "group")


def draw(steps: int, envs: int, seed: int, groups: int = 1) -> Played:
    """Segments of mixed lengths: some terminate, some are cut, and some rows stay empty behind an end."""
    numbers = np.random.default_rng(seed)
    rollout = Rollout.empty(steps, envs, numbers.integers(0, groups, envs))
    rollout.reward[:] = numbers.normal(size=(steps, envs))
    rollout.trace["value"] = numbers.normal(size=(steps, envs))
    kind = numbers.choice(4, (steps, envs), p=[0.6, 0.15, 0.15, 0.1])
    kind[-1] = np.where(np.isin(kind[-1], [1, 2]), kind[-1], 2)
    rollout.terminated[:], rollout.truncated[:] = kind == 1, kind == 2
    rollout.played[:] = True
    ends = np.isin(kind, [1, 2])
    rollout.played[1:] = (kind[1:] != 3) | ~ends[:-1]
    for t in range(1, steps):  # a gap goes on with some chance
        rollout.played[t] &= rollout.played[t - 1] | ends[t - 1] | (numbers.random(envs) < 0.5)
    rollout.played[0] = True
    for array in (rollout.terminated, rollout.truncated):
        array &= rollout.played
    goes_on = np.concatenate([rollout.played[1:], np.zeros((1, envs), np.bool_)])
    rollout.truncated[:] |= rollout.played & ~goes_on & ~rollout.terminated
    return Played(rollout=rollout, after=torch.from_numpy(numbers.normal(size=(steps, envs))))


played = st.builds(draw, st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6), st.integers(1, 3))


def by_definition(case: Played, learn: LearnSettings) -> tuple[Tensor, Tensor]:
    """Raw advantages and targets, one environment and one segment after the other, backwards."""
    r, value = case.rollout, case.rollout.trace["value"]
    advantage, target = np.zeros(r.reward.shape), value.copy()
    for n in range(r.reward.shape[1]):
        later = 0.0
        for t in reversed(range(len(r.reward))):
            if not r.played[t, n]:
                continue
            if r.terminated[t, n]:
                following, later = 0.0, 0.0
            elif r.truncated[t, n]:
                following, later = float(case.after[t, n]), 0.0
            else:
                following = value[t + 1, n]
            later = r.reward[t, n] + learn.gamma * following - value[t, n] + learn.gamma * learn.trace * later
            advantage[t, n], target[t, n] = later, later + value[t, n]
    return torch.from_numpy(advantage), torch.from_numpy(target)


@pytest.mark.acceptance("RL-04")
@pytest.mark.property
@many
@given(played, st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.9, 1.0]))
def test_terminated_truncated_and_mixed_lengths_equal_their_definition(
    case: Played, trace: float, gamma: float
) -> None:
    """G3: every segment alone, with `after` behind a truncation and 0 behind a termination."""
    learn = LearnSettings(gamma=gamma, trace=trace)
    got = case.learned(learn)
    advantage, target = by_definition(case, learn)
    torch.testing.assert_close(got.target, target, rtol=1e-12, atol=1e-12)
    for group in range(3):
        mine = torch.from_numpy(case.rollout.played & (case.rollout.group == group))
        if int(mine.sum()) > 1:
            raw = advantage[mine]
            expected = (raw - raw.mean()) / raw.std(correction=0).clamp(min=1e-4)
            torch.testing.assert_close(got.advantage[mine], expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(got.played, torch.from_numpy(case.rollout.played))
    assert not got.advantage[~got.played].any()
    assert not got.used[~got.played].any()
    assert torch.equal(got.used[got.played], used(case.rollout)[got.played])


def test_the_drawn_rollouts_are_of_every_kind() -> None:
    cases = [draw(9, 4, seed, 3).rollout for seed in range(20)]
    assert all(any(getattr(c, name)[:-1].any() for c in cases) for name in ("terminated", "truncated"))
    gaps = [~c.played[:-1] & c.played[1:] for c in cases]
    assert any(gap.any() for gap in gaps)
    assert any((~c.played[-1]).any() for c in cases)


def test_values_by_hand() -> None:
    """gamma 1, lambda 1, values 0: an advantage is the sum of rewards up to the next end."""
    actor = Table()
    rollout = Rollout.empty(4, 1)
    rollout.played[:] = True
    rollout.reward[:, 0] = [1.0, 2.0, 4.0, 8.0]
    rollout.terminated[:, 0] = [False, True, False, True]
    part = experience(actor, rollout, used(rollout), LearnSettings(trace=1.0))
    assert part.target[:, 0].tolist() == [3.0, 2.0, 12.0, 8.0]
    raw = torch.tensor([3.0, 2.0, 12.0, 8.0], dtype=torch.float64)
    torch.testing.assert_close(part.advantage[:, 0], (raw - raw.mean()) / raw.std(correction=0))
    rollout.terminated[:, 0] = [False, False, False, True]
    rollout.truncated[:, 0] = [False, True, False, False]
    after = torch.tensor([[9.0], [0.5], [9.0], [9.0]])
    part = experience(actor, rollout, used(rollout), LearnSettings(trace=1.0), after)
    assert part.target[:, 0].tolist() == [3.5, 2.5, 12.0, 8.0]


@pytest.mark.property
@many
@given(played, st.sampled_from([float("nan"), float("inf"), -1e9]))
def test_what_stands_in_empty_rows_and_behind_no_truncation_does_not_matter(case: Played, bad: float) -> None:
    """B1', G9: rewards and values there may be anything; not one bit of what is learned from changes."""
    rollout, empty = case.rollout, ~case.rollout.played
    dirty = attrs.evolve(
        rollout,
        reward=np.where(empty, bad, rollout.reward),
        trace={"value": np.where(empty, -7.0, rollout.trace["value"])},
    )
    cut = torch.from_numpy(rollout.truncated & ~rollout.terminated)
    one, other = case.learned(), Played(rollout=dirty, after=case.after.masked_fill(~cut, bad)).learned()
    mine = one.played
    assert torch.equal(one.advantage, other.advantage)
    assert torch.equal(one.target[mine], other.target[mine])
    assert other.target.isfinite().all()


@pytest.mark.acceptance("RL-06", "AB-07")
@pytest.mark.property
@many
@given(played, st.sampled_from([1e-3, 1e6]))
def test_a_mode_is_learned_from_as_if_it_were_alone(case: Played, unit: float) -> None:
    """G17: however large the returns of other modes are, its advantages and targets are the same."""
    whole = case.learned()
    for group in np.unique(case.rollout.group):
        mine = np.flatnonzero(case.rollout.group == group)
        loud = np.where(case.rollout.group == group, 1.0, unit)
        changed = attrs.evolve(
            case.rollout,
            reward=case.rollout.reward * loud,
            trace={"value": case.rollout.trace["value"] * loud},
        )
        beside = Played(rollout=changed, after=case.after * torch.from_numpy(loud)).learned()
        assert torch.equal(beside.advantage[:, mine], whole.advantage[:, mine])
        alone = case.of(mine).learned()
        torch.testing.assert_close(alone.advantage, whole.advantage[:, mine], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(alone.target, whole.target[:, mine], rtol=1e-12, atol=1e-12)


@pytest.mark.property
@many
@given(played, st.floats(1e-2, 1e2))
def test_rewards_in_another_unit_have_the_same_advantages(case: Played, unit: float) -> None:
    """N8: r, V and V' in another unit: what is learned from is the same, and targets are in that unit."""
    rollout = case.rollout
    other = attrs.evolve(
        rollout, reward=unit * rollout.reward, trace={"value": unit * rollout.trace["value"]}
    )
    one, scaled = case.learned(), Played(rollout=other, after=unit * case.after).learned()
    torch.testing.assert_close(scaled.target, unit * one.target, rtol=1e-12, atol=1e-12)
    if float(one.advantage.abs().max()) > 0.5:
        torch.testing.assert_close(scaled.advantage, one.advantage, rtol=1e-7, atol=1e-7)


@pytest.mark.property
@many
@given(played, st.permutations(range(4)))
def test_the_order_of_environments_does_not_matter(case: Played, order: list[int]) -> None:
    """G9: each has its own advantages and targets wherever it stands."""
    chosen = [n for n in order if n < case.rollout.reward.shape[1]]
    one, other = case.learned().of(torch.tensor(chosen)), case.of(chosen).learned()
    assert torch.equal(one.target, other.target)
    torch.testing.assert_close(one.advantage, other.advantage, rtol=1e-12, atol=1e-12)


def three(**fields: Any) -> Rollout:
    """Three rows of two environments that end by a termination, but for the fields given."""
    rollout = Rollout.empty(3, 2)
    rollout.played[:] = True
    rollout.terminated[-1] = True
    rollout.trace["value"] = np.zeros((3, 2))
    for name, value in fields.items():
        getattr(rollout, name)[:] = value
    return rollout


@pytest.mark.parametrize(
    ("rollout", "after", "message"),
    [
        (
            three(truncated=[[0, 0], [0, 1], [0, 0]]),
            None,
            r"^the rollout is truncated at row 1 of environment 1: give `after`, \[T, N\] .* carried there$",
        ),
        (
            three(terminated=[[0, 0], [0, 0], [1, 0]], truncated=[[0, 0], [0, 0], [0, 1]]),
            None,
            r"^the rollout is truncated at row 2 of environment 1: give `after`",
        ),
        (
            three(terminated=False),
            None,
            r"^the rollout has nothing behind row 2 of environment 0, which is no end: set `terminated`",
        ),
        (
            three(played=[[1, 1], [1, 0], [1, 1]]),
            None,
            r"^the rollout has nothing behind row 0 of environment 1, which is no end",
        ),
        (three(), torch.zeros(3), r"^after has shape \(3,\), expected \(3, 2\) as the rollout has$"),
        (three(), torch.zeros(2, 3), r"^after has shape \(2, 3\), expected \(3, 2\)"),
    ],
)
def test_what_is_missing_is_asked_for(rollout: Rollout, after: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experience(Told(), rollout, used(rollout), LEARN, after)


def test_a_termination_prevails_over_a_truncation() -> None:
    """So that nothing has to be known behind it."""
    rollout = three(truncated=True, terminated=True)
    assert experience(Told(), rollout, used(rollout), LEARN).target.tolist() == rollout.reward.tolist()
