"""The governor finds what went wrong in an environment by that environment's own losses, and in no other."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import differs, rules_of, table_of, take

from esper_core.rules import lifecycle
from esper_core.rules.gates import GrowthRules
from esper_core.rules.governor import healthy, judge
from esper_core.state.governor import Verdict, Vitals
from esper_core.state.settings import GovernorSettings
from esper_core.state.slots import PLANTED, SlotTable, Stage
from esper_core.testing.strategies import action_spaces, growth_rules, slot_tables

many = settings(max_examples=100, deadline=None)
NONE, NONFINITE, COLLAPSE, DIVERGENCE = Verdict
CHANCE = math.log(10)
REGIMES: dict[str, Callable[[float], float]] = {
    "learns": lambda noise: 0.5 + 0.1 * noise,
    "learns well": lambda noise: 0.02 + 0.002 * noise,
    "knows nothing": lambda noise: CHANCE * (1 + 0.03 * noise),
    "jumps": lambda noise: 4.0 + noise,
    "explodes": lambda noise: 1e30 * (2 + noise),
    "falls": lambda noise: -3.0 + noise,
    "is lost": lambda noise: math.nan,
    "is infinite": lambda noise: math.inf if noise > 0 else -math.inf,
}
"""Losses by what an epoch was like and a number in (-1, 1)."""


def with_history(losses: Sequence[float], strikes: int = 0, window: int = 20) -> Vitals:
    """One environment that was healthy at these losses."""
    vitals = Vitals.unknown(1, window)
    if losses:
        vitals.history[0, -len(losses) :] = losses
    vitals.strikes[0] = strikes
    return vitals


def one(vitals: Vitals, loss: float, chance: float | None = None, **changes: Any) -> tuple[Vitals, Verdict]:
    """Judge one environment with a score that is fine."""
    after, verdict = judge(vitals, np.asarray([loss]), np.zeros(1), chance, GovernorSettings(**changes))
    return after, Verdict(int(verdict[0]))


def remembered(vitals: Vitals, env: int = 0) -> list[float]:
    row = vitals.history[env]
    return [float(v) for v in row[~np.isnan(row)]]


# --- the same verdicts as a plain reading of the rules, one environment at a time


@attrs.define
class Patient:
    """One environment in plain Python."""

    losses: list[float] = attrs.Factory(list)
    strikes: int = 0

    def examine(self, loss: float, score: float, chance: Any, limits: GovernorSettings) -> Verdict:
        before, self.strikes = self.strikes, 0
        if not (math.isfinite(loss) and math.isfinite(score)):
            self.losses.clear()
            return NONFINITE
        past = self.losses[-limits.window :]
        if len(past) >= limits.min_samples:
            mean = statistics.fmean(past)
            had_learned = chance is not None and mean < limits.collapse_from * chance
            if had_learned and abs(loss - chance) < limits.collapse_band * chance:
                self.losses.clear()
                return COLLAPSE
            strange = loss - mean > limits.sensitivity * statistics.pstdev(past)
            strange = strange and (mean <= 0 or loss / mean > limits.multiplier)
            strange = strange and (chance is None or loss > chance)
            if strange and before + 1 == limits.patience:
                self.losses.clear()
                return DIVERGENCE
            if strange:
                self.strikes = before + 1
                return NONE
        self.losses.append(loss)
        return NONE


@st.composite
def courses(draw: st.DrawFn) -> tuple[Any, Any]:
    """`[T, N]` losses and scores: runs of epochs of one regime, with noise that never lies on a threshold."""
    envs = draw(st.integers(1, 4))
    length = draw(st.integers(1, 30))
    noise = np.random.default_rng(draw(st.integers(0, 2**32))).uniform(-1, 1, (length, envs))
    loss = np.empty((length, envs))
    for env in range(envs):
        runs = st.lists(st.tuples(st.sampled_from(list(REGIMES)), st.integers(1, 9)), max_size=6)
        course = [name for name, epochs in draw(runs) for _ in range(epochs)]
        course = (course + ["learns"] * length)[:length]
        loss[:, env] = [REGIMES[name](x) for name, x in zip(course, noise[:, env], strict=True)]
    score = np.where(draw(st.booleans()) & (noise > 0.9), np.nan, noise)
    return loss, score


@st.composite
def limits(draw: st.DrawFn) -> GovernorSettings:
    window = draw(st.integers(1, 8))
    return GovernorSettings(
        window=window,
        min_samples=draw(st.integers(1, window)),
        sensitivity=draw(st.sampled_from((6.0, 0.0, 1.1, 3.7))),
        multiplier=draw(st.sampled_from((3.0, 1.0, 1.3))),
        patience=draw(st.integers(1, 3)),
        collapse_from=draw(st.sampled_from((0.6, 0.0, 0.97))),
        collapse_band=draw(st.sampled_from((0.065, 0.0, 0.4))),
    )


chances = st.sampled_from((CHANCE, None, 0.7))


def play(loss: Any, score: Any, chance: float | None, rules: GovernorSettings) -> tuple[Vitals, Any, Any]:
    """Judge a whole course: the last vitals, `[T, N]` verdicts, `[T, N]` whether an epoch may be blessed."""
    vitals, verdicts, blessed = Vitals.unknown(loss.shape[1], rules.window), [], []
    for epoch in range(len(loss)):
        vitals, verdict = judge(vitals, loss[epoch], score[epoch], chance, rules)
        verdicts.append(verdict)
        blessed.append(healthy(vitals, verdict))
    return vitals, np.asarray(verdicts), np.asarray(blessed)


@pytest.mark.property
@many
@given(courses(), chances, limits())
def test_verdicts_are_those_of_a_plain_reading_of_the_rules(course, chance, rules):
    loss, score = course
    vitals, verdicts, blessed = play(loss, score, chance, rules)
    assert verdicts.dtype == np.int64
    for env in range(loss.shape[1]):
        patient = Patient()
        for epoch in range(len(loss)):
            expected = patient.examine(float(loss[epoch, env]), float(score[epoch, env]), chance, rules)
            assert verdicts[epoch, env] == expected, (env, epoch)
            assert blessed[epoch, env] == (expected == NONE and patient.strikes == 0)
        assert remembered(vitals, env) == patient.losses[-rules.window :]
        assert vitals.strikes[env] == patient.strikes


def test_the_courses_of_the_comparison_contain_every_verdict():
    """At the settings' defaults, so that the comparison above compares something."""
    course = [
        *["learns"] * 6,
        "knows nothing",
        *["learns"] * 5,
        *["explodes"] * 2,
        "is lost",
        "learns",
        "is infinite",
    ]
    loss = np.asarray([[REGIMES[name](0.3)] for name in course])
    _, verdicts, blessed = play(loss, np.zeros_like(loss), CHANCE, GovernorSettings())
    panics = [COLLAPSE, *[NONE] * 6, DIVERGENCE, NONFINITE, NONE, NONFINITE]
    assert verdicts[:, 0].tolist() == [NONE] * 6 + panics
    fine = [False, *[True] * 5, False, False, False, True, False]
    assert blessed[:, 0].tolist() == [True] * 6 + fine


# --- each rule by hand


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["loss", "score"])
def test_what_is_not_finite_panics_at_once_even_without_a_history(what, value):
    fine = {"loss": np.asarray([0.5]), "score": np.asarray([0.9])}
    bad = {**fine, what: np.asarray([value])}
    for vitals in (Vitals.unknown(1, 20), with_history([0.5] * 9, strikes=1)):
        after, verdict = judge(vitals, bad["loss"], bad["score"], None, GovernorSettings())
        assert verdict.tolist() == [NONFINITE]
        assert remembered(after) == []
        assert after.strikes.tolist() == [0]
        assert not healthy(after, verdict).any()


@pytest.mark.parametrize(
    ("history", "loss", "expected"),
    [
        ([1.0] * 5, 4.0, COLLAPSE),
        ([1.0] * 4, 4.0, NONE),  # too few
        ([2.0] * 5, 4.0, NONE),  # had learned nothing: the mean is not below half of chance
        ([1.9] * 5, 4.0, COLLAPSE),
        ([1.0] * 5, 3.0, NONE),  # exactly a quarter of chance away
        ([1.0] * 5, 5.0, NONE),
        ([1.0] * 5, 3.1, COLLAPSE),
        ([1.0] * 5, 4.9, COLLAPSE),  # an anomaly as well: the collapse goes first
    ],
)
def test_a_host_that_had_learned_and_stands_at_chance_again_has_collapsed(history, loss, expected):
    band = {"collapse_from": 0.5, "collapse_band": 0.25}
    after, verdict = one(with_history(history), loss, 4.0, **band)
    assert verdict == expected
    if expected == COLLAPSE:
        assert remembered(after) == []
        assert after.strikes.tolist() == [0]
        assert one(with_history(history), loss, None, **band)[1] == NONE


@pytest.mark.parametrize(
    ("loss", "chance", "strange"),
    [
        (8.25, None, True),
        (8.0, None, False),  # mean 2 and deviation 1: exactly six deviations above
        (8.25, 8.5, False),  # knowing nothing would be worse
        (8.25, 8.25, False),
        (8.75, 8.5, True),
    ],
)
def test_an_anomaly_is_many_deviations_above_the_mean_and_worse_than_chance(loss, chance, strange):
    history = [1.0, 3.0] * 4
    after, verdict = one(with_history(history), loss, chance, collapse_band=0.0)
    assert verdict == NONE
    assert after.strikes.tolist() == [int(strange)]
    assert remembered(after) == history + [loss] * (not strange)


@pytest.mark.parametrize(("loss", "strange"), [(6.0, False), (6.25, True)])
def test_an_anomaly_is_many_times_the_mean_however_steady_the_history(loss, strange):
    assert one(with_history([2.0] * 5), loss)[0].strikes.tolist() == [int(strange)]


@pytest.mark.parametrize("level", [-2.0, 0.0])
def test_without_a_positive_mean_the_deviation_alone_decides(level):
    """Mean `level`, deviation 1."""
    history = [level - 1.0, level + 1.0] * 4
    assert one(with_history(history), level + 6.0)[0].strikes.tolist() == [0]
    assert one(with_history(history), level + 6.25)[0].strikes.tolist() == [1]


def test_strikes_must_follow_each_other():
    vitals, seen = with_history([1.0] * 5), []
    for loss in (9.0, 9.0, 1.0, 9.0, 9.0, 9.0, 9.0):
        vitals, verdict = one(vitals, loss, patience=3)
        seen.append((verdict, int(vitals.strikes[0])))
    assert seen == [
        (NONE, 1),
        (NONE, 2),
        (NONE, 0),
        (NONE, 1),
        (NONE, 2),
        (DIVERGENCE, 0),
        (NONE, 0),  # what is usual is found out anew
    ]
    assert remembered(vitals) == [9.0]


def test_a_rollback_is_not_followed_by_a_panic_over_what_was_lost_with_it():
    """A seed that carried the host is gone for good: its score is not usual any more."""
    vitals = with_history([0.5] * 10)
    verdicts = []
    for loss in (2.3, 2.3, 2.2, 2.1, 2.3, 2.2, 2.1):
        vitals, verdict = one(vitals, loss, CHANCE)
        verdicts.append(verdict)
    assert verdicts == [COLLAPSE] + [NONE] * 6


def test_patience_of_one_panics_at_the_first_anomaly():
    assert one(with_history([1.0] * 5), 9.0, patience=1)[1] == DIVERGENCE


def test_the_window_forgets_the_oldest_loss():
    vitals = Vitals.unknown(1, 3)
    for loss in (1.0, 2.0, 3.0, 4.0):
        vitals, _ = one(vitals, loss, window=3, min_samples=3)
    assert vitals.history.tolist() == [[2.0, 3.0, 4.0]]


@pytest.mark.parametrize("loss", [0.3, CHANCE, -1.0, 0.0, 1e-300, 1e300])
@pytest.mark.parametrize("chance", [CHANCE, None])
def test_a_loss_that_stays_is_never_a_panic(loss, chance):
    course = np.full((40, 2), loss)
    vitals, verdicts, blessed = play(course, np.zeros_like(course), chance, GovernorSettings())
    assert (verdicts == NONE).all()
    assert blessed.all()
    assert vitals.history.tolist() == [[loss] * 20] * 2


@pytest.mark.filterwarnings("error")
def test_beyond_float64_nothing_stands_out_and_nothing_warns():
    """The spread of the window is infinite; a loss that is not finite is found all the same."""
    vitals = with_history([1.7e308, -1.7e308, 1.7e308, 1.7e308, 0.5])
    for sensitivity in (6.0, 0.0):
        after, verdict = one(vitals, 1.7e308, CHANCE, sensitivity=sensitivity)
        assert (verdict, after.strikes.tolist()) == (NONE, [0])
    assert one(vitals, math.inf)[1] == NONFINITE


# --- environments do not know of each other


@pytest.mark.property
@many
@given(courses(), chances, limits(), st.randoms(use_true_random=False))
def test_environments_are_judged_alone(course, chance, rules, random):
    """Reordered, the verdicts are reordered; alone or with neighbours that fail, they are the same bits."""
    loss, score = course
    vitals, verdicts, _ = play(loss, score, chance, rules)
    order = random.sample(range(loss.shape[1]), loss.shape[1])
    other_vitals, other_verdicts, _ = play(loss[:, order], score[:, order], chance, rules)
    assert (other_verdicts == verdicts[:, order]).all()
    assert not differs(other_vitals, take(vitals, order))
    for env in range(loss.shape[1]):
        amid = np.full((len(loss), 3), np.nan)
        amid[:, 1] = loss[:, env]
        alone_vitals, alone_verdicts, _ = play(amid, np.tile(score[:, [env]], 3), chance, rules)
        assert (alone_verdicts[:, 1] == verdicts[:, env]).all()
        assert not differs(take(alone_vitals, [1]), take(vitals, [env]))


def test_judging_leaves_what_it_was_given():
    given_vitals = with_history([1.0] * 5, strikes=1)
    copy = with_history([1.0] * 5, strikes=1)
    for loss in (1.0, 9.0, math.nan):
        one(given_vitals, loss)
    assert not differs(given_vitals, copy)


# --- refusals


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("window", 0, "must be >= 1: 0"),
        ("min_samples", 0, "must be >= 1: 0"),
        ("min_samples", 21, "must be <= 'window' (20): 21"),
        ("sensitivity", -0.1, "must be >= 0.0: -0.1"),
        ("sensitivity", math.inf, "must be finite, not inf"),
        ("multiplier", 0.9, "must be >= 1.0: 0.9"),
        ("multiplier", math.inf, "must be finite, not inf"),
        ("patience", 0, "must be >= 1: 0"),
        ("collapse_from", 1.0, "must be < 1.0: 1.0"),
        ("collapse_from", -0.1, "must be >= 0.0: -0.1"),
        ("collapse_band", 1.0, "must be < 1.0: 1.0"),
        ("collapse_band", math.nan, "must be >= 0.0: nan"),
        ("penalty", -1.0, "must be >= 0.0: -1.0"),
        ("penalty", math.inf, "must be finite, not inf"),
    ],
)
def test_settings_name_the_field_and_the_reason(field, value, reason):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        GovernorSettings(**{field: value})
    assert f"'{field}'" in str(error.value)
    assert reason in str(error.value)


def test_a_shorter_window_needs_fewer_samples():
    assert GovernorSettings(window=3, min_samples=3).window == 3
    with pytest.raises(ValueError, match=r"'min_samples' must be <= 'window' \(4\): 5"):
        GovernorSettings(window=4)


@pytest.mark.parametrize("chance", [0.0, -1.0, math.nan, math.inf])
def test_chance_is_a_positive_loss_or_unknown(chance):
    with pytest.raises(ValueError, match=f"positive and finite, or None, not {chance}"):
        one(Vitals.unknown(1, 20), 1.0, chance)


def test_arrays_must_fit_together():
    with pytest.raises(ValueError, match=r"Vitals\.history must be \[N, W\], got shape \(3,\)"):
        Vitals(history=np.zeros(3), strikes=np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"Vitals\.strikes has shape \(3,\), expected \(2,\)"):
        attrs.evolve(Vitals.unknown(2, 4), strikes=np.zeros(3, np.int64))
    for shapes, name in (((3, 2), "loss"), ((2, 3), "score")):
        loss, score = map(np.zeros, shapes)
        with pytest.raises(ValueError, match=rf"{name} of the epoch has shape \(3,\), expected \(2,\)"):
            judge(Vitals.unknown(2, 4), loss, score, None, GovernorSettings())


# --- rollback


@st.composite
def rollbacks(draw: st.DrawFn) -> tuple[SlotTable, SlotTable, Any, GrowthRules]:
    """Any table, an earlier one with which it shares fossils, and who panicked."""
    space, rules, envs = draw(action_spaces()), draw(growth_rules()), draw(st.integers(1, 3))
    blessed, slots = draw(slot_tables(space, envs)), draw(slot_tables(space, envs))
    fossil = blessed.stage == Stage.FOSSILIZED
    survived = fossil & np.asarray([[draw(st.booleans()) for _ in row] for row in fossil])
    grown = {
        a.name: np.where(survived, getattr(blessed, a.name), getattr(slots, a.name))
        for a in attrs.fields(SlotTable)
        if a.name not in ("born", "seed")
    }
    newer = np.where(slots.seed >= 0, slots.seed + 10, -1)
    seed = np.where(survived, blessed.seed, newer)
    slots = attrs.evolve(slots, **grown, seed=seed, born=blessed.born + slots.born + 10)
    slots = attrs.evolve(slots, age=slots.age + 2 * survived, dwell=slots.dwell + 2 * survived)
    panicked = np.asarray([draw(st.booleans()) for _ in range(envs)])
    return slots, blessed, panicked, rules


@pytest.mark.property
@many
@given(rollbacks())
def test_a_rollback_keeps_the_fossils_of_the_snapshot_and_plants_nothing_else(world):
    slots, blessed, panicked, _ = world
    after = lifecycle.rollback(slots, blessed, panicked)
    assert not differs(take(after, ~panicked), take(slots, ~panicked))
    assert (after.born == slots.born).all()
    fossil = (blessed.stage == Stage.FOSSILIZED) & (slots.seed == blessed.seed)
    blank = SlotTable.empty(*slots.shape)
    for env, slot in np.argwhere(np.broadcast_to(panicked[:, None], slots.shape)):
        at = (env, slot)
        assert (after.stage[at] in PLANTED) == fossil[at]
        source = blessed if fossil[at] else blank
        for name in (a.name for a in attrs.fields(SlotTable)):
            if name != "born" and (fossil[at] or name not in ("stage", "dwell")):
                assert getattr(after, name)[at] == getattr(source, name)[at], name
        if slots.stage[at] not in PLANTED:
            assert (after.stage[at], after.dwell[at]) == (slots.stage[at], slots.dwell[at])
        elif not fossil[at]:
            assert (after.stage[at], after.dwell[at]) == (Stage.PRUNED, 0)
    for name in (a.name for a in attrs.fields(SlotTable)):
        assert getattr(after, name).dtype == getattr(slots, name).dtype
    removed = lifecycle.edits(slots, after)
    assert not removed.germinate.any()
    assert (removed.remove == (slots.within(PLANTED) & panicked[:, None] & ~fossil)).all()


@pytest.mark.property
@many
@given(rollbacks())
def test_slots_that_a_rollback_emptied_can_be_planted_again_after_the_cooldown(world):
    slots, blessed, panicked, rules = world
    after = lifecycle.rollback(slots, blessed, panicked)
    emptied = slots.within(PLANTED) & ~after.within(PLANTED)
    stages = []
    for _ in range(rules.embargo + 3):
        after = lifecycle.age(after)
        stages.append(set(after.stage[emptied].tolist()))
        after = lifecycle.tick(after, rules)
    rest = [Stage.PRUNED] + [Stage.EMBARGOED] * rules.embargo + [Stage.RESETTING, Stage.DORMANT]
    assert stages == [{stage} if emptied.any() else set() for stage in rest]


def test_a_rollback_by_hand():
    """Four slots: a fossil of the snapshot, one that was committed since, a seed on trial, a slot at rest."""
    old = {"stage": Stage.FOSSILIZED, "seed": 0, "age": 5, "dwell": 2, "ramp_target": 0.5}
    trial = {"stage": Stage.HOLDING, "seed": 1}
    rest = {"stage": Stage.EMBARGOED, "dwell": 1}
    now = [
        {**old, "age": 7, "dwell": 4},
        {"stage": Stage.FOSSILIZED, "seed": 1},
        {"stage": Stage.BLENDING, "seed": 2, "withdrawing": True, "ramp_start": 0.5},
        rest,
    ]
    empty: list[dict[str, Any]] = [{}, {}, {}, {}]
    blessed = table_of([old, trial, {}, {}], [old, trial, {}, {}], empty)
    after = lifecycle.rollback(table_of(now, now, empty), blessed, np.asarray([True, False, True]))
    gone = {"stage": Stage.PRUNED}
    assert not differs(after, table_of([old, gone, gone, rest], now, empty))


def test_a_fossil_that_took_the_place_of_another_one_goes():
    """The same slot and stage, but another seed: its weights are not in the snapshot."""
    blessed = table_of([{"stage": Stage.FOSSILIZED, "seed": 0}])
    now = table_of([{"stage": Stage.FOSSILIZED, "seed": 3}])
    after = lifecycle.rollback(now, blessed, np.ones(1, np.bool_))
    assert after.stage.tolist() == [[Stage.PRUNED]]
    assert after.seed.tolist() == [[-1]]


def test_embargo_is_at_least_an_epoch_after_a_rollback_too():
    now = table_of([{"stage": Stage.TRAINING}])
    slots = lifecycle.rollback(now, SlotTable.empty(1, 1), np.ones(1, np.bool_))
    rules = rules_of(embargo=0.0)
    seen = []
    for _ in range(4):
        seen.append(Stage(int(slots.stage[0, 0])))
        slots = lifecycle.tick(lifecycle.age(slots), rules)
    assert seen == [Stage.PRUNED, Stage.EMBARGOED, Stage.RESETTING, Stage.DORMANT]
