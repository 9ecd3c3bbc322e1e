"""Modes per environment: each is paid as if its mode paid all of them, and results are told apart."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from built import FAMILIES
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import cast_of, play, program, rewards, spirals

import esper_core
from esper_core.phases import reward
from esper_core.phases.reward import Payment, Rewards
from esper_core.plugin.rewards import RewardFamily
from esper_core.state.settings import OptimizerSettings, TrainSettings
from esper_core.testing.rewards import Lived, episodes, pay_episode
from esper_plugins.policies import random

GAMMAS = st.sampled_from([1.0, 0.99, 0.5])
CHOSEN = ("escrow", "sparse", "shaped")


def by_environment(amount: np.ndarray) -> np.ndarray:
    found: np.ndarray = amount.reshape(len(amount), -1).sum(axis=1)
    return found


def pay_mixed(
    rewards: Rewards, episode: Lived, envs: np.ndarray, gamma: float, penalty: float
) -> list[Payment]:
    ledgers = reward.open_ledgers(rewards, envs, episode[0].before.slots.shape[1])
    payments = []
    for epoch, transition in enumerate(episode):
        payment, ledgers = reward.pay_all(
            rewards, ledgers, transition, envs=envs, gamma=gamma, penalty=penalty, epoch=epoch
        )
        payments.append(payment)
    return payments


@pytest.mark.acceptance("AB-07")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    episode=episodes(),
    gamma=GAMMAS,
    names=st.lists(st.sampled_from(sorted(FAMILIES)), min_size=1, max_size=4),
    first=st.integers(0, 9),
)
def test_an_environment_is_paid_as_by_its_mode_alone(
    episode: Lived, gamma: float, names: list[str], first: int
) -> None:
    """R4: Bit for bit, total and components; a component that another mode has is 0."""
    families = {name: FAMILIES[name] for name in names}
    order = list(families)
    mixed = Rewards(families=families, modes=np.asarray([order.index(name) for name in names]))
    envs = first + np.arange(len(episode[0].refused))
    found = pay_mixed(mixed, episode, envs, gamma, 2.5)
    alone = {
        name: pay_episode(family, episode, gamma=gamma, penalty=2.5) for name, family in families.items()
    }
    for t, payment in enumerate(found):
        for n, env in enumerate(envs.tolist()):
            own = alone[names[env % len(names)]][t]
            assert payment.total[n] == own.total[n]
            for name, amount in payment.components.items():
                if name not in own.components:
                    assert not amount[n].any()
                elif amount.ndim == own.components[name].ndim:
                    np.testing.assert_array_equal(amount[n], own.components[name][n])
                else:
                    assert amount[n].sum() == by_environment(own.components[name])[n]


def test_a_component_is_by_slot_if_all_modes_pay_it_so() -> None:
    """Two modes may use one name for different things; then it is by environment."""
    by_slot, by_env = (
        RewardFamily(name=name, terms=(evolve(FAMILIES["escrow"].terms[i], name="x"),))
        for name, i in (("slots", 5), ("envs", 4))
    )
    shapes = []

    @settings(max_examples=20, deadline=None, database=None)
    @given(episode=episodes(max_envs=2))
    def look(episode: Lived) -> None:
        for families in ({"a": by_slot}, {"a": by_slot, "b": by_slot}, {"a": by_slot, "b": by_env}):
            mixed = Rewards(families=families, modes=np.arange(len(families)))
            (payment, *_) = pay_mixed(mixed, episode, np.arange(len(episode[0].refused)), 1.0, 0.0)
            shapes.append(payment.components["x"].ndim)

    look()
    assert shapes[:3] == [2, 2, 1]


# the real loop


def mixed_cast(**changes: Any) -> Any:
    train = TrainSettings(
        epochs=7,
        batch_size=8,
        train_batches=2,
        host=OptimizerSettings(lr=0.2),
        seed=OptimizerSettings(lr=0.2),
    )
    return evolve(cast_of(program(spirals(), train=train, root=3), random.build), **changes)


@pytest.mark.acceptance("AB-07")
@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_a_mixed_run_pays_each_environment_what_its_mode_pays_alone(gamma: float) -> None:
    """Networks that train, a policy that does not look at rewards: bit for bit, in every epoch."""
    families = {mode: family for mode in CHOSEN for family in rewards("contribution", mode).families.values()}
    mixed = Rewards(families=families, modes=np.asarray([0, 1, 2, 1]))
    whole = play(mixed_cast(reward=mixed, gamma=gamma), range(6)).episode.rollout
    assert whole.reward.any(axis=0).all()
    for k, family in enumerate(families.values()):
        alone = play(mixed_cast(reward=Rewards.of(family), gamma=gamma), range(6)).episode.rollout
        rows = mixed.group(np.arange(6)) == k
        np.testing.assert_array_equal(whole.reward[:, rows], alone.reward[:, rows])
        assert (whole.reward[:, ~rows] != alone.reward[:, ~rows]).any()


SETS = (
    "task.samples=60",
    "train.epochs=8",
    "train.batch_size=12",
    "run.envs=4",
    "run.rounds=2",
    "policy.name=random",
    "reward.name=contribution",
)
MIXED = 'reward.modes=["escrow", "sparse", "escrow", "sparse"]'


def paid_in(folder: Path) -> np.ndarray:
    """`[epochs, N]` of a run."""
    lines = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    return np.asarray([event["reward"] for event in lines if event["kind"] == "epoch"])


@pytest.fixture(scope="module")
def mixed_run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return esper_core.run("spirals", sets=[*SETS, MIXED], out=tmp_path_factory.mktemp("runs") / "mixed")


@pytest.mark.acceptance("AB-07")
def test_a_mixed_run_writes_the_rewards_of_both(mixed_run: Any, tmp_path: Path) -> None:
    """A whole run, round after round, against runs in which one mode pays all."""
    found = paid_in(mixed_run.folder)
    assert found.shape == (16, 4)
    for mode, rows in (("escrow", [0, 2]), ("sparse", [1, 3])):
        alone = esper_core.run("spirals", sets=[*SETS, f"reward.mode={mode}"], out=tmp_path / mode)
        np.testing.assert_array_equal(found[:, rows], paid_in(alone.folder)[:, rows])
        assert alone.modes == {}


@pytest.mark.acceptance("AB-07")
def test_results_are_told_mode_by_mode(mixed_run: Any) -> None:
    """In the result, in the report, and by `esper inspect`: each mode selects among its own environments."""
    assert list(mixed_run.modes) == ["escrow", "sparse"]
    assert [arm.tries for arm in mixed_run.modes.values()] == [2, 2]
    assert mixed_run.arms["grown"].tries == 4
    best = max(mixed_run.modes.values(), key=lambda arm: arm.validation)
    assert best == evolve(mixed_run.arms["grown"], tries=2, mean=best.mean, mean_error=best.mean_error), (
        "the best of all is the best of one of them"
    )
    means = [arm.mean for arm in mixed_run.modes.values()]
    assert np.mean(means) == pytest.approx(mixed_run.arms["grown"].mean)
    report = json.loads((mixed_run.folder / "report.json").read_text())
    assert list(report["modes"]) == ["escrow", "sparse"]
    assert report["modes"]["sparse"]["mean"] == mixed_run.modes["sparse"].mean
    inspection = esper_core.inspect(mixed_run.folder)
    assert inspection.facts["report"]["modes"] == report["modes"]


@pytest.mark.acceptance("AB-07")
def test_lines_and_tables_have_a_row_for_each_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Returns of two modes are in two units, so that every round has a line for each."""
    result = esper_core.run("spirals", sets=[*SETS, MIXED], out=tmp_path / "run", display="lines")
    lines = capsys.readouterr().out.splitlines()
    paid = paid_in(result.folder)[:8].sum(axis=0)
    for mode, rows in (("escrow", [0, 2]), ("sparse", [1, 3])):
        (line,) = (line for line in lines if line.startswith(f"round 1/2  {mode}  return"))
        assert float(line.split()[4]) == pytest.approx(paid[rows].mean(), abs=1e-4)
    for text in ("\n".join(lines), str(esper_core.inspect(result.folder))):
        assert "grown, by reward mode" in text
        assert {"escrow", "sparse"} <= set(text.split())
