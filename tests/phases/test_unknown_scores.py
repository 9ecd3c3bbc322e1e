"""A score that is not finite makes unknown what depends on it, and nothing else."""

from typing import Any

import attrs
import numpy as np

from esper_core.phases import validate
from esper_core.state.plans import EvalCounts
from esper_core.state.slots import SlotTable, Stage

SAMPLES = 50


def table(stages: list[Stage]) -> SlotTable:
    """One environment; every seed that is there aims at full influence in two epochs."""
    shape = (1, len(stages))
    slots = SlotTable.empty(*shape)
    stage = np.asarray([stages], np.int64)
    planted = stage > Stage.GERMINATED
    return attrs.evolve(
        slots,
        stage=stage,
        seed=np.where(planted, np.arange(len(stages)), -1),
        blueprint=np.where(planted, 0, -1),
        blend=np.where(planted, 0, -1),
        ramp_target=np.where(planted, 1.0, 0.0),
        ramp_steps=np.where(planted, 2, 0),
        ramp_done=np.where(stage == Stage.TRAINING, 0, np.where(stage == Stage.BLENDING, 1, 2)),
    )


def answered(slots: SlotTable, scores: np.ndarray, losses: np.ndarray | None = None) -> Any:
    """Attribution for `[K, n]` per-sample scores of one environment."""
    question = validate.ask(slots, (0, 0, np.arange(1), 0), "validation", None)
    counts = EvalCounts(
        samples=SAMPLES,
        loss_sum=np.ones((1, len(scores))) if losses is None else losses[None] * SAMPLES,
        score_sum=scores.sum(axis=1)[None],
        co_score=(scores @ scores.T)[None],
        rank=np.full(slots.shape, np.nan),
        orthogonality=np.full(slots.shape, np.nan),
        device_ms=0.0,
    )
    return validate.read(question, counts, higher_is_better=True)


def configurations(slots: SlotTable) -> np.ndarray:
    found: np.ndarray = validate.ask(slots, (0, 0, np.arange(1), 0), "validation", None).plan.influence[0]
    return found


def test_a_contact_that_is_not_finite_leaves_every_attribution_as_it_was() -> None:
    slots = table([Stage.FOSSILIZED, Stage.HOLDING, Stage.TRAINING])
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(len(configurations(slots)), SAMPLES))
    sound = answered(slots, scores)
    scores[-1] = np.nan
    poisoned = answered(slots, scores)
    for name in ("score", "score_error", "committed", "bare", "contribution", "shapley", "interaction"):
        one, other = getattr(sound, name), getattr(poisoned, name)
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).any()


def test_a_coalition_that_is_not_finite_is_unknown_where_it_counts() -> None:
    slots = table([Stage.FOSSILIZED, Stage.HOLDING])
    scores = np.random.default_rng(1).normal(size=(len(configurations(slots)), SAMPLES))
    without_first = [i for i, row in enumerate(configurations(slots)) if tuple(row) == (0.0, 1.0)]
    scores[without_first] = np.nan
    found = answered(slots, scores)
    contribution = found.contribution[0]
    assert np.isnan(contribution[0])
    assert np.isfinite(contribution[1])
    assert np.isnan(found.shapley[0]).all()
    assert np.isfinite(found.committed[0])


def test_contact_is_measured_against_the_next_step_of_the_other_ramps() -> None:
    """A neighbour's ramp moves from 1/2 to 1 in the epoch of contact: that is not the newcomer's doing."""
    slots = table([Stage.BLENDING, Stage.TRAINING])
    asked = configurations(slots)
    np.testing.assert_array_equal(asked[0], [0.5, 0.0])
    np.testing.assert_array_equal(asked[-3:], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.5]])
    losses = np.ones(len(asked))
    losses[-3:] = [2.0, 2.0, 2.2]
    found = answered(slots, np.ones((len(asked), SAMPLES)), losses)
    np.testing.assert_allclose(found.contact[0], [np.nan, 0.1])
