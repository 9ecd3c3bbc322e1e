"""Who earned the score: against brute force over all orders, and against statistics sample by sample."""

from collections.abc import Callable
from functools import cache
from itertools import chain, combinations, permutations
from math import factorial
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.phases import validate
from esper_core.phases.validate import EXACT, Question
from esper_core.rules import ramps
from esper_core.state.arrays import take
from esper_core.state.attribution import Attribution
from esper_core.state.plans import EvalCounts
from esper_core.state.slots import SlotTable, Stage

SAMPLES = 37
EXACTLY = {"rtol": 0.0, "atol": 1e-12}
TRAINING, HOLDING, FOSSIL, EMPTY = Stage.TRAINING, Stage.HOLDING, Stage.FOSSILIZED, Stage.DORMANT

Configuration = tuple[float, ...]
Game = Callable[[int, Configuration], tuple[Any, Any]]
"""Losses and scores of every sample, `[samples]` each, of an environment under a configuration."""


def table(*envs: tuple[Stage, ...]) -> SlotTable:
    """Seeds in stages; each has an influence of its own, and would make first contact at half of it."""
    stage = np.asarray(envs, np.int64)
    count = stage.shape[1]
    target = np.broadcast_to((np.arange(count) + 1) / (count + 1), stage.shape).copy()
    return attrs.evolve(
        SlotTable.empty(*stage.shape),
        stage=stage,
        seed=np.where(stage > 0, np.arange(count), -1),
        ramp_target=target,
        ramp_steps=np.where(stage == TRAINING, 2, 0),
    )


def game(seed: int, *, binary: bool = True) -> Game:
    """Arbitrary scores: nothing about them is additive, so that every interaction shows."""

    @cache
    def play(env: int, configuration: Configuration) -> tuple[Any, Any]:
        key = [seed, env, *(round(1e6 * a) for a in configuration)]
        draw = np.random.default_rng(key)
        skill = draw.uniform(0.2, 0.8)
        scores = (
            (draw.uniform(size=SAMPLES) < skill).astype(float) if binary else draw.normal(skill, 1.0, SAMPLES)
        )
        return draw.uniform(0.5, 1.5, SAMPLES), scores

    return play


def ask(slots: SlotTable, epoch: int = 0, envs: Any = None, root: int = 0) -> Question:
    numbers = np.arange(slots.shape[0]) if envs is None else np.asarray(envs)
    return validate.ask(slots, (root, 0, numbers, epoch), "validation", None)


def answer(question: Question, play: Game, envs: Any = None) -> EvalCounts:
    """What a device would count."""
    rows = question.plan.influence.tolist()
    numbers = range(len(rows)) if envs is None else envs
    played = [[play(env, tuple(c)) for c in row] for env, row in zip(numbers, rows, strict=True)]
    losses = np.asarray([[loss for loss, _ in row] for row in played])
    scores = np.asarray([[score for _, score in row] for row in played])
    return EvalCounts(
        samples=SAMPLES,
        loss_sum=losses.sum(axis=-1),
        score_sum=scores.sum(axis=-1),
        co_score=scores @ scores.transpose(0, 2, 1),
        rank=np.full(question.players.shape, np.nan),
        orthogonality=np.full(question.players.shape, np.nan),
        device_ms=0.0,
    )


def attribution(
    slots: SlotTable, play: Game, *, epoch: int = 0, higher: bool = True, envs: Any = None
) -> Attribution:
    question = ask(slots, epoch, envs)
    return validate.read(question, answer(question, play, envs), higher_is_better=higher)


class Truth:
    """One environment by brute force: the value of a coalition, sample by sample, straight from the game."""

    def __init__(self, slots: SlotTable, env: int, play: Game, sign: float = 1.0) -> None:
        self.influence = ramps.influence(slots)[env]
        self.players = [int(s) for s in np.flatnonzero(self.influence > 0)]
        self.fossils = [s for s in self.players if slots.stage[env, s] == FOSSIL]
        self.play, self.env, self.sign = play, env, sign

    def value(self, coalition: Any) -> Any:
        on = [a if s in coalition else 0.0 for s, a in enumerate(self.influence.tolist())]
        return self.sign * self.play(self.env, tuple(on))[1]

    def shapley(self, player: int) -> Any:
        """Average over all orders of what the player adds to those before it."""
        total = np.zeros(SAMPLES)
        for order in permutations(self.players):
            before = order[: order.index(player)]
            total += self.value({*before, player}) - self.value(before)
        return total / factorial(len(self.players))

    def contribution(self, player: int) -> Any:
        return self.value(self.players) - self.value([s for s in self.players if s != player])

    def interaction(self, one: int, other: int) -> Any:
        return self.value([one, other]) - self.value([one]) - self.value([other]) + self.value([])


def mean_and_error(samples: Any) -> tuple[float, float]:
    return float(samples.mean()), float(samples.std(ddof=1) / len(samples) ** 0.5)


EXACT_TABLES = {
    "none": (EMPTY, EMPTY, EMPTY, EMPTY),
    "one": (EMPTY, HOLDING, EMPTY, EMPTY),
    "fossil": (FOSSIL, EMPTY, EMPTY, EMPTY),
    "two": (HOLDING, EMPTY, FOSSIL, EMPTY),
    "training beside two": (TRAINING, HOLDING, FOSSIL, EMPTY),
    "three": (HOLDING, FOSSIL, EMPTY, HOLDING),
    "four": (FOSSIL, HOLDING, HOLDING, FOSSIL),
}


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", EXACT_TABLES)
@pytest.mark.parametrize("spare", [0, 1])
def test_everything_is_exact_for_up_to_four_players(
    name: str, binary: bool, higher: bool, spare: int
) -> None:
    """Values and standard errors, with as many slots as players, and with more."""
    slots = table(EXACT_TABLES[name] + (EMPTY,) * spare)
    play = game(3, binary=binary)
    found = attribution(slots, play, higher=higher)
    truth = Truth(slots, 0, play, 1.0 if higher else -1.0)
    scalars = {"score": truth.players, "committed": truth.fossils, "bare": []}
    for field, coalition in scalars.items():
        mean, error = mean_and_error(truth.value(coalition))
        np.testing.assert_allclose(getattr(found, field)[0], mean, **EXACTLY)
        if field != "bare":
            np.testing.assert_allclose(getattr(found, f"{field}_error")[0], error, rtol=1e-7, atol=1e-9)
    for site in range(slots.shape[1]):
        for field in ("contribution", "shapley"):
            value, error = getattr(found, field)[0, site], getattr(found, f"{field}_error")[0, site]
            if site not in truth.players:
                assert np.isnan(value)
                assert np.isnan(error)
                continue
            expected, spread = mean_and_error(getattr(truth, field)(site))
            np.testing.assert_allclose(value, expected, **EXACTLY)
            np.testing.assert_allclose(error, spread, rtol=1e-7, atol=1e-9)
        for other in range(slots.shape[1]):
            value, error = found.interaction[0, site, other], found.interaction_error[0, site, other]
            if site == other or not {site, other} <= set(truth.players):
                assert np.isnan(value)
                continue
            expected, spread = mean_and_error(truth.interaction(site, other))
            np.testing.assert_allclose(value, expected, **EXACTLY)
            np.testing.assert_allclose(error, spread, rtol=1e-7, atol=1e-9)
    assert found.players[0].tolist() == [site in truth.players for site in range(slots.shape[1])]


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    stages=st.lists(
        st.lists(st.sampled_from([EMPTY, TRAINING, HOLDING, FOSSIL]), min_size=6, max_size=6).map(tuple),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 99),
)
def test_shares_add_up_to_what_the_seeds_add(stages: list[tuple[Stage, ...]], seed: int) -> None:
    """Efficiency, for any number of players, exact or estimated: no score is lost or invented."""
    slots, play = table(*stages), game(seed)
    found = attribution(slots, play)
    np.testing.assert_allclose(np.nansum(found.shapley, axis=1), found.score - found.bare, **EXACTLY)
    for env in range(len(stages)):
        truth = Truth(slots, env, play)
        np.testing.assert_allclose(found.score[env], truth.value(truth.players).mean(), **EXACTLY)
        np.testing.assert_allclose(found.bare[env], truth.value([]).mean(), **EXACTLY)
        np.testing.assert_allclose(found.committed[env], truth.value(truth.fossils).mean(), **EXACTLY)
        for player in truth.players:
            np.testing.assert_allclose(
                found.contribution[env, player], truth.contribution(player).mean(), **EXACTLY
            )


def test_a_dummy_earns_nothing_and_equals_earn_the_same() -> None:
    """Two axioms of Shapley, on a game for them: seed 1 does nothing, seeds 0 and 2 are interchangeable."""
    slots = table((HOLDING, HOLDING, HOLDING))
    slots.ramp_target[:] = 0.5

    def play(env: int, configuration: Configuration) -> tuple[Any, Any]:
        helpers = (configuration[0] > 0) + (configuration[2] > 0)
        return np.ones(SAMPLES), (np.arange(SAMPLES) < 5 + 7 * helpers**2).astype(float)

    found = attribution(slots, play)
    assert found.shapley[0, 1] == 0.0
    assert found.contribution[0, 1] == 0.0
    np.testing.assert_allclose(found.shapley[0, 0], found.shapley[0, 2], **EXACTLY)
    np.testing.assert_allclose(found.interaction[0, 0, 2], 2 * 7 / SAMPLES, **EXACTLY)
    np.testing.assert_allclose(found.interaction[0, 0, 1], 0.0, **EXACTLY)


# ------------------------------------------------------------------ more players than can be enumerated


@pytest.mark.parametrize(
    "stages", [(HOLDING,) * 5, (FOSSIL, *(HOLDING,) * 5), (HOLDING,) * 5 + (TRAINING, EMPTY)]
)
def test_the_estimator_is_unbiased_and_always_efficient(stages: tuple[Stage, ...]) -> None:
    """Over many epochs, which key the orders, its mean is the exact share, within four standard errors."""
    slots, play = table(stages), game(5, binary=False)
    truth = Truth(slots, 0, play)
    assert len(truth.players) > EXACT
    shares = []
    for epoch in range(200):
        found = attribution(slots, play, epoch=epoch)
        np.testing.assert_allclose(np.nansum(found.shapley), found.score[0] - found.bare[0], **EXACTLY)
        assert np.isnan(found.interaction).all()
        shares.append(found.shapley[0, truth.players])
    estimates = np.asarray(shares)
    exact = np.asarray([truth.shapley(player).mean() for player in truth.players])
    error = estimates.std(axis=0, ddof=1) / len(estimates) ** 0.5
    assert (np.abs(estimates.mean(axis=0) - exact) < 4 * error).all()
    assert (error > 0).all()
    assert (np.abs(estimates - exact).max(axis=0) > 10 * error).any()


def test_orders_come_in_pairs() -> None:
    """An order and its reverse: what one puts before a player, the other puts behind (antithetic draws)."""
    everyone = set(range(6))
    for epoch in range(20):
        on = ask(table((HOLDING,) * 6), epoch).plan.influence[0] > 0
        drawn = {frozenset(np.flatnonzero(row).tolist()) for row in on if 2 <= row.sum() <= 4}
        assert drawn == {frozenset(everyone - prefix) for prefix in drawn}


def test_the_error_of_an_estimate_covers_the_choice_of_orders() -> None:
    """Its share for the choice of orders is that of the mean of `PAIRS` independent pairs."""
    slots, play = table((HOLDING,) * 6), game(5, binary=False)
    found = [attribution(slots, play, epoch=epoch) for epoch in range(200)]
    spread = np.asarray([f.shapley[0] for f in found]).std(axis=0, ddof=1)
    claimed = np.sqrt(np.mean([f.shapley_error[0] ** 2 for f in found], axis=0))
    exact = [mean_and_error(Truth(slots, 0, play).shapley(player))[1] for player in range(6)]
    assert (claimed > np.asarray(exact)).all()
    assert (claimed**2 > 0.8 * spread**2).all()


def test_few_players_among_many_slots_are_exact() -> None:
    """Six slots, so that orders would be drawn for more; with three players nothing is estimated."""
    slots, play = table((HOLDING, EMPTY, FOSSIL, EMPTY, EMPTY, HOLDING), (HOLDING,) * 6), game(1)
    found = attribution(slots, play)
    truth = Truth(slots, 0, play)
    for player in truth.players:
        np.testing.assert_allclose(found.shapley[0, player], truth.shapley(player).mean(), **EXACTLY)
    assert found.interaction[0, 0, 2] == pytest.approx(truth.interaction(0, 2).mean(), abs=1e-12)
    assert np.isnan(found.interaction[1]).all()


# ------------------------------------------------------------------ errors, contacts, neighbours


def test_a_standard_error_agrees_with_a_bootstrap() -> None:
    slots, play = table((HOLDING, FOSSIL, HOLDING)), game(8)
    found, truth = attribution(slots, play), Truth(slots, 0, play)
    draws = np.random.default_rng(0).integers(0, SAMPLES, (4000, SAMPLES))
    for player in truth.players:
        for field in ("shapley", "contribution"):
            resampled = getattr(truth, field)(player)[draws].mean(axis=1).std()
            assert getattr(found, f"{field}_error")[0, player] == pytest.approx(resampled, rel=0.08)


def test_paired_differences_are_sharper_than_scores() -> None:
    """A seed that turns one sample from wrong to right has an error of 1 / n, whatever the score's is."""
    slots = table((HOLDING,))

    def play(env: int, configuration: Configuration) -> tuple[Any, Any]:
        right = (np.arange(SAMPLES) % 2 == 0).astype(float)
        right[1] = float(configuration[0] > 0)
        return np.ones(SAMPLES), right

    found = attribution(slots, play)
    np.testing.assert_allclose(found.contribution, 1 / SAMPLES)
    np.testing.assert_allclose(found.contribution_error, 1 / SAMPLES, rtol=1e-9)
    assert found.score_error[0] > 0.08


def test_a_single_sample_has_no_known_error() -> None:
    question = ask(table((HOLDING,)))
    counts = attrs.evolve(answer(question, game(0)), samples=1)
    found = validate.read(question, counts, higher_is_better=True)
    assert not np.isfinite(found.contribution_error).any()


def test_first_contact_is_measured_for_training_seeds_only() -> None:
    """As the relative rise of the loss at the influence of the ramp's first epoch, beside all players."""
    slots, play = table((TRAINING, HOLDING, TRAINING, EMPTY, FOSSIL)), game(2)
    found = attribution(slots, play)
    influence = ramps.influence(slots)[0]
    first = ramps.first_contact(slots)[0]
    assert first[0] == pytest.approx(slots.ramp_target[0, 0] / 2)
    now = play(0, tuple(influence))[0].mean()
    for site in range(5):
        if site in (0, 2):
            touched = influence.copy()
            touched[site] = first[site]
            expected = (play(0, tuple(touched))[0].mean() - now) / now
            np.testing.assert_allclose(found.contact[0, site], expected, rtol=1e-12)
        else:
            assert np.isnan(found.contact[0, site])


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    stages=st.lists(
        st.lists(st.sampled_from([EMPTY, TRAINING, HOLDING, FOSSIL]), min_size=6, max_size=6).map(tuple),
        min_size=2,
        max_size=5,
    ),
    slots_=st.sampled_from([1, 3, 4, 6]),
)
def test_an_environment_does_not_feel_its_neighbours(stages: list[tuple[Stage, ...]], slots_: int) -> None:
    """Bit for bit, alone and among others, however many players they have."""
    together = table(*(row[:slots_] for row in stages))
    play = game(4, binary=False)
    found = attribution(together, play)
    for env, row in enumerate(stages):
        alone = attribution(table(row[:slots_]), play, envs=[env])
        for field in attrs.fields(Attribution):
            np.testing.assert_array_equal(
                getattr(found, field.name)[env], getattr(alone, field.name)[0], err_msg=field.name
            )


def test_only_distinct_configurations_cost_anything() -> None:
    """2^n for n players; with more than four, what the orders need; one more for every TRAINING seed."""
    rows = {
        (EMPTY,) * 4: 1,
        (HOLDING, EMPTY, FOSSIL, EMPTY): 4,
        (HOLDING, TRAINING, FOSSIL, EMPTY): 5,
        (HOLDING,) * 4: 16,
    }
    for stages, expected in rows.items():
        plan = ask(table(stages)).plan.influence[0]
        assert len(np.unique(plan, axis=0)) == expected
    orders = 2 * validate.PAIRS
    many = len(np.unique(ask(table((HOLDING,) * 6)).plan.influence[0], axis=0))
    assert many <= 1 + 6 + 1 + 1 + orders * 5 < 2**6
    subsets = set(chain.from_iterable(combinations(range(4), size) for size in range(5)))
    on = {tuple(np.flatnonzero(row)) for row in ask(table((HOLDING,) * 4)).plan.influence[0] > 0}
    assert on == subsets


def test_a_question_is_about_the_samples_that_it_was_asked_for() -> None:
    slots = table((HOLDING, EMPTY))
    for split, limit in (("validation", None), ("report", 7)):
        plan = validate.ask(slots, (0, 0, np.arange(1), 0), split, limit).plan
        assert (plan.split, plan.limit) == (split, limit)


def test_what_a_neighbour_trains_changes_no_configuration() -> None:
    """A ramp under way is looked at one step on only where a seed of the same environment trains."""
    ramping = attrs.evolve(
        table((Stage.BLENDING, EMPTY), (Stage.BLENDING, TRAINING)),
        ramp_steps=np.full((2, 2), 4),
        ramp_done=np.full((2, 2), 1),
    )
    alone = ask(take(ramping, np.arange(1)))
    both = ask(ramping)
    np.testing.assert_array_equal(both.plan.influence[0], alone.plan.influence[0])
    assert len(np.unique(alone.plan.influence[0], axis=0)) == 2, "with the seed, and without"
    assert len(np.unique(both.plan.influence[1], axis=0)) == 4, "and one step on, without and with the other"


def test_losses_are_means() -> None:
    question, play = ask(table((HOLDING,))), game(3)
    counts = answer(question, play)
    found = validate.read(question, counts, higher_is_better=True)
    expected = np.mean(play(0, tuple(question.plan.influence[0, 0].tolist()))[0])
    np.testing.assert_allclose(found.loss, expected, **EXACTLY)
