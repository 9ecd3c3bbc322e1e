"""What an episode pays: the shipped score minus the first minus rent, once, whatever happens in between."""

from typing import Any

import numpy as np
import pytest
from attrs import evolve
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from worlds import EVERYTHING, cast_of, play, program, script, spirals, step

from esper_core.errors import RunError
from esper_core.phases import reward
from esper_core.plugin.protocols import Transition
from esper_core.state.actions import Decision
from esper_core.state.evidence import Evidence
from esper_core.state.settings import GrowthSettings, OptimizerSettings, TrainSettings
from esper_core.state.signals import HostSignals
from esper_core.state.slots import SlotTable, Stage
from esper_plugins.policies import random
from esper_plugins.rewards import shipped
from esper_plugins.rewards.settings import Shipped

FAST = OptimizerSettings(lr=0.2)


def assert_telescopes(played: Any, rent: float) -> None:
    """The sum of an episode, and its last term paid in the last epoch and in no other."""
    rollout, reports = played.episode.rollout, played.reports
    slots = played.episode.slots
    owned = np.where(slots.stage == Stage.FOSSILIZED, slots.parameters, 0).sum(axis=1)
    expected = rollout.committed[-1] - rollout.score[0] - rent * owned / played.cast.host_parameters
    np.testing.assert_allclose(rollout.reward.sum(axis=0), expected, rtol=0, atol=1e-12)
    for epoch, report in enumerate(reports):
        last = epoch == len(reports) - 1
        components = report.payment.components
        assert set(components) == {"score", "shipped", "rent"}
        np.testing.assert_array_equal(report.payment.total, rollout.reward[epoch])
        np.testing.assert_allclose(sum(components.values()), report.payment.total, rtol=0, atol=1e-15)
        if last:
            np.testing.assert_allclose(components["shipped"], rollout.committed[-1] - rollout.score[-1])
            np.testing.assert_allclose(components["rent"], -rent * owned / played.cast.host_parameters)
        else:
            assert not components["shipped"].any()
            assert not components["rent"].any()


@pytest.mark.acceptance("ME-05")
@pytest.mark.property
@settings(max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    epochs=st.sampled_from([1, 2, 3, 9]), root=st.integers(0, 10**6), rent=st.sampled_from([0.0, 0.1, 3.0])
)
def test_an_episode_pays_what_it_shipped(epochs: int, root: int, rent: float) -> None:
    train = TrainSettings(epochs=epochs, batch_size=8, train_batches=2, host=FAST, seed=FAST)
    cast = cast_of(program(spirals(), train=train, root=root), random.build)
    assert_telescopes(play(evolve(cast, reward=shipped.build(Shipped(rent=rent))), range(4)), rent)


@pytest.mark.acceptance("ME-05")
@pytest.mark.parametrize("epochs", [1, 2, 7])
def test_the_end_is_paid_once_and_uncommitted_seeds_are_dropped(epochs: int) -> None:
    """One environment commits its seed, one is still ramping at the end, one grows nothing."""
    steps = [
        step(0, "germinate", "block0", blueprint="linear", target=1.0, speed=0, envs=(0, 1)),
        step(1, "advance", "block0", envs=(0, 1)),
        step(3, "fossilize", "block0", envs=(0,)),
    ]
    train = TrainSettings(epochs=epochs, batch_size=8, host=FAST, seed=FAST)
    cast = cast_of(program(spirals(), train=train), script(*(s for s in steps if s.epoch < epochs)))
    played = play(cast, (0, 1, 2))
    assert_telescopes(played, 0.1)
    if epochs == 7:
        last = played.reports[-1].payment.components
        assert last["rent"][0] < 0 == last["rent"][1] == last["rent"][2]
        rollout = played.episode.rollout
        assert rollout.committed[-1, 0] == rollout.score[-1, 0]
        assert last["shipped"][0] == last["shipped"][2] == 0


def test_the_budget_is_what_rent_is_paid_for() -> None:
    """Rent counts committed parameters only, per host of parameters, by hand."""
    family = shipped.build(Shipped(rent=0.5))
    slots = SlotTable.empty(1, 3)
    slots.stage[0] = [Stage.FOSSILIZED, Stage.HOLDING, Stage.FOSSILIZED]
    slots.parameters[0] = [10, 1000, 30]
    found = family.components(transition(slots, epoch=4, before=0.2, after=0.5, committed=0.4))
    assert found["score"].tolist() == pytest.approx([0.3])
    assert found["shipped"].tolist() == pytest.approx([-0.1])
    assert found["rent"].tolist() == pytest.approx([-0.5 * 40 / 80])


def transition(
    slots: SlotTable, *, epoch: int, before: float, after: float, committed: float, epochs: int = 5
) -> Transition:
    envs = slots.shape[0]
    unknown = HostSignals.unknown(envs)
    return Transition(
        epoch=epoch,
        epochs=epochs,
        before=slots,
        after=slots,
        signals_before=evolve(unknown, score=np.full(envs, before)),
        signals=evolve(unknown, score=np.full(envs, after), committed=np.full(envs, committed)),
        evidence=Evidence.unknown(*slots.shape),
        decision=Decision.wait(envs),
        refused=np.zeros(envs, np.int64),
        host_parameters=80,
    )


def test_the_first_epoch_is_paid_nothing_for_its_score() -> None:
    """There was no score before it; NaN in the signals does not reach the sum."""
    found = shipped.build(Shipped()).components(
        transition(SlotTable.empty(1, 1), epoch=0, before=float("nan"), after=0.5, committed=0.5)
    )
    assert {name: amount.tolist() for name, amount in found.items()} == {
        "score": [0.0], "shipped": [0.0], "rent": [0.0]
    }  # fmt: skip


def test_only_the_end_looks_at_what_would_ship() -> None:
    """A score that is unknown or infinite before the end is not multiplied by 0: it is not looked at."""
    found = shipped.build(Shipped()).components(
        transition(SlotTable.empty(1, 1), epoch=2, before=0.5, after=0.5, committed=float("nan"))
    )
    assert found["shipped"].tolist() == [0.0]


class Family:
    def __init__(self, **components: Any) -> None:
        self._components = {name: np.asarray(amount) for name, amount in components.items()}

    def components(self, transition: Transition) -> Any:
        return self._components


def test_a_payment_is_the_sum_of_its_components() -> None:
    given_ = transition(SlotTable.empty(2, 1), epoch=3, before=0, after=0, committed=0)
    found = reward.pay(Family(one=[1.0, 2.0], two=[0.5, -2.0]), given_)
    assert found.total.tolist() == [1.5, 0.0]
    assert found.components["two"].tolist() == [0.5, -2.0]


def test_a_component_of_the_wrong_shape_or_value_is_named() -> None:
    given_ = transition(SlotTable.empty(3, 1), epoch=3, before=0, after=0, committed=0)
    with pytest.raises(
        RunError, match=r"'odd' has shape \(2,\) in epoch 3; expected \(3,\), one amount per env"
    ):
        reward.pay(Family(fine=np.zeros(3), odd=np.zeros(2)), given_)
    with pytest.raises(RunError, match=r"'bad' is not finite in epoch 3, environments \[0, 2\]"):
        reward.pay(Family(bad=[np.nan, 0.0, np.inf]), given_)


def test_gates_may_close_and_the_sum_still_holds() -> None:
    """Refused actions cost nothing of their own."""
    closed = GrowthSettings(
        **{**EVERYTHING, "min_health": 1.0, "contact_bound": 1e-12, "min_contribution": 1.0}
    )
    steps = (
        step(0, "germinate", "block0", blueprint="linear"),
        step(1, "advance", "block0"),
        step(2, "fossilize", "block0"),
    )
    train = TrainSettings(epochs=4, batch_size=8, train_batches=2)
    played = play(cast_of(program(spirals(), train=train, growth=closed), script(*steps)), range(2))
    assert played.episode.rollout.refused.any()
    assert_telescopes(played, 0.1)
