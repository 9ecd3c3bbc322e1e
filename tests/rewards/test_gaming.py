"""No way to be paid for nothing: whole episodes of the real loop, with scripted scores.

Every reward that does not pay levels is honest; `shaped` is a labelled baseline, and the tests show that it
can be farmed, so that the label is earned.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import family

from esper_core.plugin.rewards import RewardFamily
from esper_core.state.actions import Op
from esper_core.state.settings import GovernorSettings, GrowthSettings
from esper_core.state.slots import Stage
from esper_core.testing.honesty import check_family
from esper_core.testing.scripted import OPEN, Move, Played, play

HONEST = {
    name if mode is None else mode: family(name, mode)
    for name, mode in (
        ("shipped", None),
        ("shapley", None),
        ("loss", None),
        ("contribution", "escrow"),
        ("contribution", "basic"),
        ("contribution", "basic_plus"),
        ("contribution", "sparse"),
        ("contribution", "minimal"),
        ("contribution", "simplified"),
    )
}
SHAPED = family("contribution", "shaped")
NAMES = st.sampled_from(sorted(HONEST))
CREDITING = ("basic", "basic_plus", "escrow", "shapley", "simplified")
CREDITS = {"attribution", "bonus", "drip", "share", "synergy", "contributing"}
"""Components that pay for what seeds seem to be worth."""
GAMMAS = st.sampled_from([1.0, 0.995, 0.9])
EPOCHS, SLOTS = 7, 2
SMALL = 1e-9
IDLE: tuple[Move, ...] = ()


def returns(played: Played, gamma: float) -> np.ndarray:
    """`[N]` discounted from the start."""
    found: np.ndarray = (gamma ** np.arange(len(played.paid)) @ played.paid).round(12)
    return found


def linear(worth: Any, drift: float = 0.0, base: float = 0.4) -> Any:
    """A host that learns by itself, and seeds that each add what they are worth times their influence."""
    return lambda envs, epoch, influence: base + drift * epoch + influence @ np.asarray(worth)


def episode(reward: RewardFamily, score: Any, *stories: Any, gamma: float = 1.0, **more: Any) -> np.ndarray:
    """`[N]` returns of some stories."""
    return returns(play(reward, score, stories, slots=SLOTS, epochs=EPOCHS, gamma=gamma, **more), gamma)


def cycle(slot: int, starts: int, advances: int, prunes: int) -> tuple[Move, ...]:
    """Germinate, advance and prune in these epochs; an episode that is over first leaves moves out."""
    moves = ((starts, Op.GERMINATE, slot), (advances, Op.ADVANCE, slot), (prunes, Op.PRUNE, slot))
    return tuple(move for move in moves if move[0] < EPOCHS)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    name=NAMES,
    gamma=GAMMAS,
    slot=st.integers(0, SLOTS - 1),
    starts=st.integers(0, 3),
    waits=st.integers(1, 3),
    drift=st.floats(-0.05, 0.05),
)
def test_to_germinate_and_prune_without_a_contribution_never_pays(
    name: str, gamma: float, slot: int, starts: int, waits: int, drift: float
) -> None:
    """A1: Whenever, wherever, for however long, blended or not, on any host: at most what idleness pays."""
    blended = cycle(slot, starts, starts + 1, starts + 1 + waits)
    alone = cycle(slot, starts, EPOCHS, starts + waits)
    idle, *found = episode(
        HONEST[name], linear(np.zeros(SLOTS), drift), IDLE, blended, alone, blended + alone, gamma=gamma
    )
    assert max(found) <= idle + SMALL


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    name=NAMES,
    gamma=GAMMAS,
    slot=st.integers(0, SLOTS - 1),
    starts=st.integers(0, 3),
    worth=st.floats(0.03, 0.4),
    drift=st.floats(0.0, 0.05),
)
def test_committing_a_useful_seed_is_worth_at_least_holding_it(
    name: str, gamma: float, slot: int, starts: int, worth: float, drift: float
) -> None:
    """A2: A seed of constant worth, committed as soon as that is possible, or never."""
    planted = ((starts, Op.GERMINATE, slot), (starts + 1, Op.ADVANCE, slot))
    score = linear(np.where(np.arange(SLOTS) == slot, worth, 0.0), drift)
    held, *committed = episode(
        HONEST[name],
        score,
        planted,
        *((*planted, (when, Op.FOSSILIZE, slot)) for when in range(starts + 2, EPOCHS)),
        gamma=gamma,
    )
    assert committed[0] >= held - SMALL
    if name not in ("loss",):
        assert max(committed) > held, "the loss is as low when nothing is committed"


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    name=NAMES,
    gamma=GAMMAS,
    slot=st.integers(0, SLOTS - 1),
    harm=st.floats(0.001, 0.3),
    lasts=st.integers(1, 4),
    drift=st.floats(-0.02, 0.05),
    slow=st.booleans(),
)
def test_a_harmful_seed_never_pays_in_any_slot(
    name: str, gamma: float, slot: int, harm: float, lasts: int, drift: float, slow: bool
) -> None:
    """A3: Pruned again, held, or committed; ramped or at once."""
    growth = GrowthSettings(**{**_as_dict(OPEN), "speeds": (2, 0) if slow else (0, 2)})
    score = linear(np.where(np.arange(SLOTS) == slot, -harm, 0.0), drift)
    planted = ((0, Op.GERMINATE, slot), (1, Op.ADVANCE, slot))
    idle, *found = episode(
        HONEST[name],
        score,
        IDLE,
        (*planted, (1 + lasts, Op.PRUNE, slot)),
        planted,
        (*planted, (1 + lasts, Op.FOSSILIZE, slot)),
        gamma=gamma,
        growth=growth,
    )
    assert max(found) <= idle + SMALL


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(name=NAMES, gamma=GAMMAS, harm=st.floats(0.01, 0.3), drift=st.floats(-0.02, 0.05))
def test_repairing_a_harm_never_pays(name: str, gamma: float, harm: float, drift: float) -> None:
    """A3: One seed harms, a second one makes up for it, both are committed: all is as it was."""

    def score(envs: Any, epoch: int, influence: np.ndarray) -> Any:
        return 0.4 + drift * epoch - harm * np.maximum(influence[..., 0] - influence[..., 1], 0.0)

    one, two = ([(0, Op.GERMINATE, s), (1, Op.ADVANCE, s), (2, Op.FOSSILIZE, s)] for s in (0, 1))
    both = (*one, *((t + 3, op, s) for t, op, s in two))
    idle, repaired = episode(HONEST[name], score, IDLE, both, gamma=gamma)
    assert repaired <= idle + SMALL


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    name=NAMES,
    gamma=st.sampled_from([1.0, 0.995]),
    worth=st.floats(0.05, 0.3),
    harm=st.floats(0.02, 0.3),
    turns=st.integers(4, 6),
)
def test_a_seed_that_was_useful_once_and_harms_in_the_end_never_pays(
    name: str, gamma: float, worth: float, harm: float, turns: int
) -> None:
    """A3: Committed while it was useful; its worth turns before the end."""

    def score(envs: Any, epoch: int, influence: np.ndarray) -> Any:
        return 0.4 + influence[..., 0] * (worth if epoch < turns else -harm)

    story = ((0, Op.GERMINATE, 0), (1, Op.ADVANCE, 0), (2, Op.FOSSILIZE, 0))
    idle, found = episode(HONEST[name], score, IDLE, story, gamma=gamma)
    assert found <= idle + (1.0 - gamma) * 100 * worth + SMALL, (
        "what a loss paid early is worth a little more"
    )


def test_to_commit_in_bad_times_and_to_be_rolled_back_never_pays() -> None:
    """A commitment that a panic undoes is paid back: the blessed epoch was before it. Again and again."""
    growth = GrowthSettings(**{**_as_dict(OPEN), "max_live": 1})
    governor = GovernorSettings(window=20, min_samples=5, patience=2, penalty=0.0)

    def loss(envs: Any, epoch: int, influence: np.ndarray) -> Any:
        return np.where(epoch % 12 in (10, 11), 50.0, 0.5)

    def score(envs: Any, epoch: int, influence: np.ndarray) -> Any:
        return 0.4 + 0.25 * influence[..., 0]

    cycle = ((6, Op.GERMINATE), (7, Op.ADVANCE), (10, Op.FOSSILIZE))
    story = [(12 * n + t, op, 0) for n in range(3) for t, op in cycle]
    more = {"slots": SLOTS, "epochs": 36, "growth": growth, "governor": governor, "loss": loss}
    for name in sorted(set(HONEST) - {"loss"}):
        played = play(HONEST[name], score, [IDLE, story], **more)
        assert played.episode.rollout.verdict[:, 1].astype(bool).sum() >= 2
        assert (played.episode.rollout.heads[:, 1, 0] == Op.FOSSILIZE).sum() == 3
        idle, found = returns(played, 1.0)
        assert found <= idle + SMALL, name


def test_chance_earns_nothing() -> None:
    """On the mean over hosts whose scores are noisy, a seed that adds nothing is worth at most idleness."""
    rng, envs = np.random.default_rng(0), 300

    def score(envs: Any, epoch: int, influence: np.ndarray) -> Any:
        return 0.4 + 0.01 * rng.normal(size=influence.shape[:2])

    late = [(0, Op.GERMINATE, 0), (1, Op.ADVANCE, 0), (5, Op.FOSSILIZE, 0)]
    for name in sorted(set(HONEST) - {"loss"}):
        found = episode(HONEST[name], score, *([IDLE] * envs + [late] * envs), deviation=0.1)
        idle, grown = found[:envs], found[envs:]
        error = np.hypot(idle.std(), grown.std()) / envs**0.5
        assert grown.mean() <= idle.mean() + 3 * error, name


def _as_dict(growth: GrowthSettings) -> dict[str, Any]:
    names = ("training_dwell", "min_health", "min_contribution", "contact_bound", "embargo", "max_live")
    return {name: getattr(growth, name) for name in names}


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    name=NAMES,
    gamma=GAMMAS,
    op=st.sampled_from([Op.ADVANCE, Op.FOSSILIZE, Op.PRUNE, Op.SET_ALPHA_TARGET]),
    slot=st.integers(0, SLOTS - 1),
    worth=st.floats(-0.2, 0.2),
)
def test_repeating_what_is_refused_never_pays(
    name: str, gamma: float, op: Op, slot: int, worth: float
) -> None:
    """A4: Not on an empty slot, and not on a seed that has long been committed."""
    score = linear(np.full(SLOTS, worth))
    fossil = ((0, Op.GERMINATE, slot), (1, Op.ADVANCE, slot), (2, Op.FOSSILIZE, slot))
    asked = [tuple((3 + t, op, slot) for t in range(k)) for k in range(4)]
    stories = [(*before, *more) for before in (IDLE, fossil) for more in asked]
    found = episode(HONEST[name], score, *stories, gamma=gamma).reshape(2, len(asked))
    assert (np.diff(found, axis=1) <= SMALL).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(
    reward=st.sampled_from([HONEST[name] for name in CREDITING] + [SHAPED]),
    hostage=st.floats(0.05, 0.3),
    harm=st.floats(0.05, 0.3),
    drift=st.floats(0.0, 0.02),
)
def test_a_seed_that_takes_the_host_hostage_is_not_credited(
    reward: RewardFamily, hostage: float, harm: float, drift: float
) -> None:
    """A5: Two seeds are worse than none; each without the other is worse still, so that each seems useful.

    The score is below that of the bare host, and whatever the contributions are, nothing is credited, neither
    before a commitment nor after it.
    """

    def score(envs: Any, epoch: int, influence: np.ndarray) -> Any:
        one, two = influence[..., 0], influence[..., 1]
        return 0.6 + drift * epoch - harm * np.maximum(one, two) - hostage * np.abs(one - two)

    held = [(2 * t + s, op, s) for s in (0, 1) for t, op in ((0, Op.GERMINATE), (1, Op.ADVANCE))]
    committed = [*held, (4, Op.FOSSILIZE, 0), (5, Op.FOSSILIZE, 1)]
    played = play(reward, score, [held, committed], slots=SLOTS, epochs=EPOCHS)
    assert played.episode.evidence.contribution[:, :2].min() > 0.04, "each seems useful"
    for name in CREDITS & played.reports[0].payment.components.keys():
        paid = played.component(name)
        assert paid[3:, 0].max() <= SMALL, "while both are held"
        if reward is not SHAPED:  # a level is not taken back, here that of the epoch between the two
            assert paid[:, 1].sum() <= SMALL, "in the end, when both are committed"


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(name=NAMES, gamma=GAMMAS, worth=st.floats(-0.2, 0.2), down=st.integers(2, 3), up=st.integers(4, 5))
def test_moving_the_influence_there_and_back_never_pays(
    name: str, gamma: float, worth: float, down: int, up: int
) -> None:
    """A6: A seed that is turned down and up again, against one that is left alone; committed or not."""
    growth = GrowthSettings(**{**_as_dict(OPEN), "targets": (0.5, 1.0), "speeds": (0,)})
    planted = ((0, Op.GERMINATE, 0), (1, Op.ADVANCE, 0))
    moved = (*planted, (down, Op.SET_ALPHA_TARGET, 0), (up, Op.SET_ALPHA_TARGET, 0))
    end = ((6, Op.FOSSILIZE, 0),)
    found = episode(
        HONEST[name],
        linear(np.full(SLOTS, worth)),
        planted,
        moved,
        planted + end,
        moved + end,
        gamma=gamma,
        growth=growth,
    )
    assert found[1] <= found[0] + SMALL
    assert found[3] <= found[2] + SMALL


@pytest.mark.property
@pytest.mark.defect("B1")
@settings(max_examples=200, deadline=None)
@given(
    gamma=GAMMAS,
    starts=st.integers(0, 3),
    stays=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    commits=st.booleans(),
)
def test_stage_potentials_telescope_in_the_real_loop(
    gamma: float, starts: int, stays: list[int], commits: bool
) -> None:
    """P6: Through germinate, advance, hold and commit or prune, the discounted payments add up to 0.

    Nothing is planted before the first epoch, so that the level is 0 there, and an end pays the level back.
    The predecessor's clock had moved on when it looked, so that it paid for epochs in a stage and never for
    a step from one to the next; that does not add up.
    """
    advance, ends, last = starts + np.cumsum(stays)
    story = [(starts, Op.GERMINATE, 1), (advance, Op.ADVANCE, 1)]
    story.append((ends, Op.FOSSILIZE if commits else Op.PRUNE, 1))
    played = play(HONEST["shapley"], linear(np.zeros(SLOTS)), [story], slots=SLOTS, epochs=14, gamma=gamma)
    paid = played.component("stage")[:, 0].sum(axis=-1)
    assert abs(gamma ** np.arange(14) @ paid) < 1e-12
    assert paid.any()
    assert last < 14
    stages = [report.after.stage[0, 1] for report in played.reports]
    assert abs(gamma ** np.arange(14) @ within_stages_only(stages, gamma)) > 1e-3


def within_stages_only(stages: list[int], gamma: float) -> np.ndarray:
    """What the predecessor paid: gamma phi(e) - phi(e - 1) of one stage, whatever the stage was before."""
    levels = {Stage.TRAINING: 2.0, Stage.BLENDING: 3.5, Stage.HOLDING: 5.5, Stage.FOSSILIZED: 6.0}
    paid, dwelt = np.zeros(len(stages)), 0
    for t, stage in enumerate(stages):
        dwelt = dwelt + 1 if t and stages[t - 1] == stage else 1
        if stage in levels:
            now, before = (levels[Stage(stage)] + min(0.3 * d, 2.0) for d in (dwelt, dwelt - 1))
            paid[t] = gamma * now - before
    return paid


@pytest.mark.defect("B7")
def test_only_the_baseline_that_pays_levels_prefers_to_wait() -> None:
    """A2 fails for `shaped`, as it did for the predecessor, where a level pays for as long as it is held."""
    held = ((0, Op.GERMINATE, 0), (1, Op.ADVANCE, 0))
    score = linear([0.05, 0.0], 0.01)
    waiting, committing = episode(SHAPED, score, held, (*held, (2, Op.FOSSILIZE, 0)))
    assert waiting > committing + 5
    for reward in HONEST.values():
        waiting, committing = episode(reward, score, held, (*held, (2, Op.FOSSILIZE, 0)))
        assert committing >= waiting


def test_a_story_is_played_by_the_real_loop() -> None:
    """Seeds go through the stages, what cannot be done is refused, and every slot is told apart."""
    story = [(0, Op.GERMINATE, 1), (1, Op.ADVANCE, 1), (2, Op.FOSSILIZE, 1), (3, Op.PRUNE, 1)]
    played = play(HONEST["shapley"], linear([0.0, 0.25]), [story, IDLE], slots=SLOTS, epochs=5)
    assert [report.after.stage[0, 1] for report in played.reports] == [
        Stage.TRAINING,
        Stage.HOLDING,
        Stage.FOSSILIZED,
        Stage.FOSSILIZED,
        Stage.FOSSILIZED,
    ]
    assert played.episode.rollout.refused[:, 0].tolist().count(0) == 4
    np.testing.assert_allclose(played.component("share")[:, 0].sum(axis=0), [0, 25], atol=1e-12)
    assert not played.component("share")[:, 1].any()


def test_a_panic_is_a_loss_that_is_not_finite_and_ends_the_segment() -> None:
    """The seed is gone, its balance is paid back, and the others go on."""
    story = [(0, Op.GERMINATE, 0), (1, Op.ADVANCE, 0)]

    def loss(envs: np.ndarray, epoch: int, influence: np.ndarray) -> Any:
        return np.where((epoch == 3) & (envs == 1), np.nan, 0.5)[:, None]

    played = play(HONEST["shapley"], linear([0.25]), [story, story], epochs=6, loss=loss)
    share = played.component("share")[:, :, 0]
    np.testing.assert_allclose(share[:, 0], [0, 25, 0, 0, 0, -25], atol=1e-12)
    np.testing.assert_allclose(share[:, 1], [0, 25, 0, -25, 0, 0], atol=1e-12)
    assert played.episode.rollout.terminated[:, 1].tolist() == [False, False, False, True, False, True]
    assert played.component("panic")[:, 1].tolist() == [0, 0, 0, -1, 0, 0]


@pytest.mark.parametrize("gamma", [1.0, 0.995])
@pytest.mark.parametrize("name", sorted(HONEST))
def test_every_honest_family_passes_the_public_check(name: str, gamma: float) -> None:
    check_family(HONEST[name], gamma=gamma)


def test_the_public_check_finds_what_can_be_farmed() -> None:
    with pytest.raises(AssertionError, match=r"shaped'.*a useful seed is held and never committed"):
        check_family(SHAPED)
    paid = {"weight": 1.0}
    with pytest.raises(AssertionError, match=r"sparse'.*a seed that adds nothing is planted and pruned"):
        check_family(family("contribution", "sparse", acted={"component": "acted", **paid}))
    with pytest.raises(AssertionError, match=r"sparse'.*what is refused is asked for again, the return is 1"):
        check_family(family("contribution", "sparse", refused={"component": "refused", **paid}))
    with pytest.raises(AssertionError, match=r"sparse'.*there is a harmful seed in slot 0"):
        check_family(family("contribution", "sparse", rent={"component": "committed_rent", "weight": 9.0}))
