"""What every policy that does not learn keeps to, whatever it sees."""

from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views import RULES, context_of, evidence_of, rules_of, space_of, view_of

from esper_core.plugin import Learned, Rule
from esper_core.rules import lifecycle
from esper_core.state.actions import HEADS, HEADS_OF, Op
from esper_core.state.rollout import Rollout
from esper_core.testing.strategies import action_spaces, evidence, growth_rules, live, slot_tables

ENVS = 4
FIXED = space_of(3)


def memories(policy: Any, envs: Any, draw: np.random.Generator) -> Any:
    """A memory that an episode could have come to: of what a policy remembers, some is true."""
    memory = policy.start(envs, 0)
    return (
        memory | (draw.random(memory.shape) < 0.5) if getattr(memory, "dtype", None) == np.bool_ else memory
    )


@pytest.mark.property
@pytest.mark.parametrize(
    "name", [name for name in RULES if name not in ("scripted", "plant-many", "probe-small")]
)
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_asked_for_would_succeed(name, data):
    space = data.draw(action_spaces())
    rules = data.draw(growth_rules())
    policy = RULES[name](context_of(space, rules.epochs))
    slots, seen = data.draw(slot_tables(space, ENVS)), data.draw(evidence(ENVS, len(space.slots), rules))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    view = view_of(
        slots,
        seen,
        space,
        rules,
        epoch=data.draw(st.sampled_from((0, rules.epochs // 2, rules.epochs - 1))),
        begins=draw.random(ENVS) < 0.2,
        plateau=draw.integers(0, 4, ENVS),
    )
    choice = policy.decide(view, memories(policy, np.arange(ENVS), draw), draw.random((ENVS, 7)))
    assert not lifecycle.refusals(slots, seen, choice.decision, space, rules).any()


def random_episode(name: str, envs: list[int], seed: int, order: list[int]) -> list[tuple[str, ...]]:
    """What every environment does in an episode of random evidence and panics, in the order of their numbers.

    What happens to an environment is drawn by its number, and `order` is where it stands.
    """
    rules = rules_of(16, max_live=2, budget=150)
    numbers = np.asarray(envs)[order]
    draws = np.stack([np.random.default_rng((seed, n)).random((rules.epochs, 8, 3)) for n in numbers], axis=1)
    policy = RULES[name](context_of(FIXED, rules.epochs))
    memory, told = policy.start(numbers, 1), []
    slots = lifecycle.SlotTable.empty(len(numbers), 3)
    for epoch, (rank, contribution, health, begins, plateau, *uniforms) in enumerate(draws.swapaxes(1, 2)):
        seen = evidence_of(
            slots.shape,
            rank=np.where(rank < 0.3, np.nan, np.round(rank, 1)),
            contribution=np.where(contribution < 0.2, np.nan, np.round(contribution - 0.5, 1)),
            measured=np.where(contribution < 0.2, 3, 0),
            health=health + 0.5,
        )
        view = view_of(
            slots,
            seen,
            FIXED,
            rules,
            epoch=epoch,
            begins=(begins[:, 0] < 0.1) | (epoch == 0),
            plateau=(plateau[:, 0] * 5).astype(int),
        )
        choice = policy.decide(view, memory, np.concatenate(uniforms, axis=1)[:, :7])
        lived = live(slots, seen, choice.decision, FIXED, rules)
        assert not lived.refused.any()
        told.append(np.stack([getattr(choice.decision, head) for head in HEADS], axis=1))
        slots, memory = lived.after, choice.memory
    return np.stack(told, axis=1)[np.argsort(numbers)]


@pytest.mark.property
@pytest.mark.parametrize("name", RULES)
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**32), st.permutations(range(5)))
def test_neighbours_change_nothing(name, seed, order):
    """Other places and other neighbours, the same numbers: the same decisions, epoch by epoch."""
    envs = [0, 1, 2, 5, 7]
    together = random_episode(name, envs, seed, [0, 1, 2, 3, 4])
    assert np.array_equal(random_episode(name, envs, seed, list(order)), together)
    assert np.array_equal(random_episode(name, [2, 7], seed, [1, 0]), together[[2, 4]])


@pytest.mark.parametrize("name", [name for name in RULES if name != "static"])
def test_the_episodes_of_these_tests_are_eventful(name):
    """Every policy does all that it can do; otherwise the tests above would be about waiting."""
    done = np.concatenate([random_episode(name, list(range(8)), seed, list(range(8))) for seed in range(6)])
    ops = {Op(op) for op in np.unique(done[..., 0])}
    pruning = {"random", "scripted", "heuristic", "eager", "probe-and-switch", "probe-small"}
    committing = set(RULES) - {"scripted"}
    assert {Op.GERMINATE, Op.ADVANCE} <= ops
    assert (Op.FOSSILIZE in ops) == (name in committing)
    assert (Op.PRUNE in ops) == (name in pruning)


@pytest.mark.parametrize("name", [name for name in RULES if name != "random"])
def test_a_head_that_is_not_used_is_0(name):
    """`random` draws them all."""
    done = random_episode(name, list(range(8)), 3, list(range(8))).reshape(-1, len(HEADS))
    for op, *heads in done:
        assert all(
            value == 0 for head, value in zip(HEADS[1:], heads, strict=True) if head not in HEADS_OF[Op(op)]
        )


@pytest.mark.parametrize("name", [name for name in RULES if name != "random"])
def test_nothing_is_left_to_chance(name):
    space, rules = space_of(), rules_of()
    policy = RULES[name](context_of(space))
    seen = evidence_of((3, 3), rank=0.5, contribution=0.1, measured=0)
    view = view_of(lifecycle.SlotTable.empty(3, 3), seen, space, rules)
    choices = [policy.decide(view, policy.start(np.arange(3), 0), np.full((3, 7), u)) for u in (0.0, 0.99)]
    for head in HEADS:
        assert np.array_equal(*(getattr(choice.decision, head) for choice in choices))


@pytest.mark.acceptance("HE-04")
@pytest.mark.parametrize("name", RULES)
def test_they_are_plain_policies(name):
    """One protocol for every policy: no state, nothing learned, no measurement that nobody reads."""
    policy = RULES[name](context_of(space_of()))
    assert isinstance(policy, Rule)
    assert policy.needs == ({"rank"} if name.startswith(("plant", "probe")) else set())
    assert policy.learn(Rollout.empty(4, 2), 0, 1) == {}
    assert attrs.asdict(policy.state()) == attrs.asdict(Learned())
    policy.restore(policy.state())
