"""The axioms of attribution, on cooperative games: through real questions, and the real reading of counts."""

from itertools import permutations
from math import erf
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from esper_core.model.trie import distinct
from esper_core.phases import validate
from esper_core.phases.validate import EXACT, PAIRS, Question
from esper_core.rules import ramps
from esper_core.state.actions import ActionSpace, Blend, Curve
from esper_core.state.attribution import Attribution
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing import games, strategies
from esper_core.testing.games import MAX_PLAYERS

CLOSE = {"rtol": 0.0, "atol": 1e-12}
SHARES = ("contribution", "shapley", "banzhaf")
FORMS = ("score", "committed", *SHARES, "interaction")
"""Quantities with a standard error."""
TENTH = st.integers(-100, 100).map(lambda tenths: tenths / 10)


def table(*stages: int) -> SlotTable:
    """One environment; every seed has an influence of its own."""
    stage = np.asarray([stages], np.int64)
    slots = stage.shape[1]
    return attrs.evolve(
        SlotTable.empty(1, slots),
        stage=stage,
        seed=np.where(stage > 0, np.arange(slots), -1),
        ramp_target=(np.arange(slots)[None] + 1) / (slots + 1),
        ramp_steps=np.where(stage == Stage.TRAINING, 2, 0),
    )


@st.composite
def seats(draw: st.DrawFn, fewest: int = 0, most: int = MAX_PLAYERS) -> SlotTable:
    """Players, committed or not, in some of up to six slots; others are empty, in training, or resting."""
    players = draw(st.integers(fewest, most))
    slots = draw(st.integers(max(players, 1), MAX_PLAYERS))
    kind, place = np.frombuffer(draw(st.binary(min_size=2 * slots, max_size=2 * slots)), np.uint8).reshape(
        2, -1
    )
    playing = np.asarray((Stage.HOLDING, Stage.FOSSILIZED))[kind % 2]
    others = np.asarray((Stage.DORMANT, Stage.TRAINING, Stage.EMBARGOED))[kind % 3]
    return table(*np.where(np.arange(slots) < players, playing, others)[np.argsort(place, kind="stable")])


@st.composite
def cases(draw: st.DrawFn, kind: Any = games.games, fewest: int = 0, most: int = MAX_PLAYERS) -> Any:
    """Slots, and a game for the players in them."""
    slots = draw(seats(fewest, most))
    return slots, draw(kind(len(players_of(slots))))


SPACE = ActionSpace(
    slots=tuple(f"slot{i}" for i in range(MAX_PLAYERS)),
    blueprints=("test/blueprint",),
    blends=(Blend.ADD,),
    curves=tuple(Curve),
    targets=np.asarray([1.0, 0.5]),
    speeds=np.asarray([0, 2, 5], np.int64),
    enabled=np.ones(MAX_PLAYERS, np.bool_),
    cost=np.ones((MAX_PLAYERS, 1, 1), np.int64),
)


@st.composite
def real_cases(draw: st.DrawFn) -> Any:
    """Real tables: ramps under way in both directions, seeds in training, fossils, cooldowns, empty slots."""
    slots = draw(strategies.slot_tables(SPACE, 1))
    return slots, draw(games.games(len(players_of(slots))))


def players_of(slots: SlotTable) -> Any:
    return np.flatnonzero(ramps.influence(slots)[0] > 0)


def ask(slots: SlotTable, epoch: int = 0) -> Question:
    return validate.ask(slots, (0, 0, np.arange(len(slots.stage)), epoch), "validation", None)


def attribution(slots: SlotTable, game: Any, *, epoch: int = 0) -> Attribution:
    """Of slots whose players, the same in all environments, play a game."""
    question = ask(slots, epoch)
    counts = games.played(question.plan, games.seated(game, players_of(slots), slots.shape[1]))
    return validate.read(question, counts, higher_is_better=True)


def of_players(found: Attribution, name: str) -> Any:
    """A quantity of the first environment, without the slots that do not play."""
    values, players = getattr(found, name)[0], np.flatnonzero(found.players[0])
    return values[np.ix_(*[players] * values.ndim)]


def known_shares(found: Attribution) -> tuple[str, ...]:
    """Above four players Banzhaf values are unknown."""
    return SHARES if found.players[0].sum() <= EXACT else SHARES[:2]


def under_orders(orders: Any, slots: SlotTable, game: Any) -> Attribution:
    """Attribution of one environment many times over, under given orders of slots, `[M, PAIRS, S]`."""
    copies = {a.name: np.repeat(getattr(slots, a.name), len(orders), axis=0) for a in attrs.fields(SlotTable)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "permutations", lambda *_: np.asarray(orders))
        return attribution(SlotTable(**copies), game)


def orders_of(slots: SlotTable) -> st.SearchStrategy[Any]:
    """The orders of one environment, `[PAIRS, S]`."""
    return st.lists(st.permutations(range(slots.shape[1])), min_size=PAIRS, max_size=PAIRS)


def prefixes(slots: SlotTable, orders: Any) -> list[list[int]]:
    """Ranks of the players in the sequence of every order and its reverse."""
    rank = {player: r for r, player in enumerate(players_of(slots).tolist())}
    drawn = [[rank[slot] for slot in order if slot in rank] for order in orders]
    return [sequence for order in drawn for sequence in (order, order[::-1])]


# ------------------------------------------------------------------ the oracle itself


def test_the_oracle_solves_the_glove_game() -> None:
    """A left glove and two right ones; a pair is worth 1."""
    game = np.asarray([0, 0, 0, 1, 0, 1, 0, 1])[:, None].astype(float)
    np.testing.assert_allclose(games.shapley(game)[:, 0], [4 / 6, 1 / 6, 1 / 6], **CLOSE)
    np.testing.assert_allclose(games.banzhaf(game)[:, 0], [3 / 4, 1 / 4, 1 / 4], **CLOSE)
    np.testing.assert_allclose(games.leave_one_out(game)[:, 0], [1, 0, 0], **CLOSE)
    assert [games.interaction(game, *pair)[0] for pair in ((0, 1), (1, 0), (1, 2))] == [1, 1, 0]
    assert games.marginals(game).shape == (6, 3, 1)


def test_the_oracle_solves_the_airport_game() -> None:
    """A runway costs what its longest user needs, 1, 4 or 10: every stretch is shared by those who use it."""
    needs = np.asarray([1.0, 4.0, 10.0])
    game = np.asarray(
        [max([need for i, need in enumerate(needs) if c >> i & 1], default=0) for c in range(8)]
    )
    shares = [1 / 3, 1 / 3 + 3 / 2, 1 / 3 + 3 / 2 + 6]
    np.testing.assert_allclose(games.shapley(game), shares, **CLOSE)
    seated = games.seated(game, np.asarray([3, 0, 2]), 4)
    np.testing.assert_allclose(games.shapley(seated), [shares[1], 0, shares[2], shares[0]], **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_strategies_draw_the_games_that_they_promise(data: st.DataObject) -> None:
    """By what everybody adds in every order, sample by sample."""
    players = data.draw(st.integers(2, 4))
    additive, adds = data.draw(games.additive_games(players))
    np.testing.assert_allclose(games.marginals(additive) - adds, 0.0, **CLOSE)
    assert games.marginals(data.draw(games.monotone_games(players))).min() >= 0.0
    game, dummy = data.draw(games.games_with_a_dummy(players))
    assert (games.marginals(game)[:, dummy] == 0.0).all()
    game, one, other = data.draw(games.symmetric_games(players))
    swapped = np.arange(players)
    swapped[[one, other]] = other, one
    np.testing.assert_array_equal(games.seated(game, swapped, players), game)


# ------------------------------------------------------------------ what is evaluated


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(slots=strategies.slot_tables(SPACE, 1))
def test_up_to_four_players_exactly_two_to_the_n_configurations_are_computed(slots: SlotTable) -> None:
    """C1: once each, nobody and everybody among them; and what first contacts need, if somebody trains."""
    players, influence = players_of(slots), ramps.influence(slots)[0]
    assume(len(players) <= EXACT)
    asked = [tuple(row) for row in ask(slots).plan.influence[0].tolist()]
    wanted = {
        tuple(np.where([s in players and bool(c >> s & 1) for s in range(len(influence))], influence, 0.0))
        for c in range(2 ** len(influence))
    }
    assert len(wanted) == 2 ** len(players)
    assert {tuple(influence), tuple(np.zeros_like(influence))} <= wanted
    if (slots.stage == Stage.TRAINING).any():
        after = ramps.upcoming(slots)[0]
        contact = ramps.first_contact(slots)[0]
        wanted |= {tuple(after)} | {tuple(after + np.where(np.arange(6) == s, contact, 0)) for s in range(6)}
    computed, _ = distinct(asked)
    assert len(computed) == len(wanted)
    assert set(computed) == wanted
    assert asked[0] == tuple(influence)


@pytest.mark.defect("B20")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(slots=strategies.slot_tables(SPACE, 1))
def test_a_seed_is_judged_at_the_influence_that_it_has(slots: SlotTable) -> None:
    """Shares are about the network as it stands: everybody plays at the present influence, or at 0.

    The predecessor's coalitions for shares put every seed at 1, whatever it stood at.
    """
    influence = ramps.influence(slots)[0]
    asked = ask(slots).plan.influence[0, : -slots.shape[1] - 1]

    def check(configurations: Any) -> None:
        assert ((configurations == 0) | (configurations == influence)).all()

    check(asked)
    if ((influence > 0) & (influence < 1)).any():
        with pytest.raises(AssertionError):
            check(np.where(asked > 0, 1.0, 0.0))


# ------------------------------------------------------------------ the axioms


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(games.additive_games))
def test_who_adds_the_same_to_everybody_earns_just_that(case: Any) -> None:
    """C2: additive game: share = Banzhaf value = contribution = what is added, however many there are."""
    slots, (game, adds) = case
    found = attribution(slots, game)
    for name in known_shares(found):
        np.testing.assert_allclose(of_players(found, name), adds.mean(axis=-1), **CLOSE)
    pairs = of_players(found, "interaction")
    np.testing.assert_allclose(pairs[np.isfinite(pairs)], 0.0, **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(), epoch=st.integers(0, 99))
def test_shares_add_up_to_the_whole_gain(case: Any, epoch: int) -> None:
    """C3: efficiency, exact or estimated: sum of shares = v(everybody) - v(nobody)."""
    slots, game = case
    found, value = attribution(slots, game, epoch=epoch), game.mean(axis=-1)
    np.testing.assert_allclose(of_players(found, "shapley").sum(), value[-1] - value[0], **CLOSE)
    np.testing.assert_allclose(found.score - found.bare, value[-1:] - value[0], **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(games.symmetric_games, 2, EXACT))
def test_equals_earn_the_same(case: Any) -> None:
    """C4: symmetry: interchangeable players have the same shares, and the same interactions with others."""
    slots, (game, one, other) = case
    found = attribution(slots, game)
    for name in SHARES:
        shares = of_players(found, name)
        np.testing.assert_allclose(shares[one], shares[other], **CLOSE)
    pairs = of_players(found, "interaction")
    rest = [i for i in range(len(pairs)) if i not in (one, other)]
    np.testing.assert_allclose(pairs[one, rest], pairs[other, rest], **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(games.games_with_a_dummy, 1))
def test_who_changes_nothing_earns_nothing(case: Any) -> None:
    """C5: dummy: all shares are 0, exact or estimated, with an error of 0; so are its interactions."""
    slots, (game, dummy) = case
    found = attribution(slots, game)
    for name in known_shares(found):
        np.testing.assert_allclose(of_players(found, name)[dummy], 0.0, **CLOSE)
        np.testing.assert_allclose(of_players(found, f"{name}_error")[dummy] ** 2, 0.0, **CLOSE)
    pairs = of_players(found, "interaction")[dummy]
    np.testing.assert_allclose(pairs[np.isfinite(pairs)], 0.0, **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_every_quantity_is_linear_in_the_game(data: st.DataObject) -> None:
    """C6: linearity: what is read of a v + b w is a times what is read of v, plus b times that of w."""
    slots, v = data.draw(cases())
    w = data.draw(games.games(len(players_of(slots))))
    a, b = data.draw(TENTH), data.draw(TENTH)
    both, one, other = (attribution(slots, game) for game in (a * v + b * w, v, w))
    for name in ("score", "committed", "bare", *SHARES, "interaction"):
        expected = a * getattr(one, name) + b * getattr(other, name)
        np.testing.assert_allclose(getattr(both, name), expected, rtol=0.0, atol=1e-11)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=real_cases(), order=st.permutations(range(MAX_PLAYERS)))
def test_slots_have_no_rank(case: Any, order: list[int]) -> None:
    """C7: permuting the slots permutes what is read; real tables, with empty slots and fossils.

    Of estimated shares that holds on average only: they depend on the orders, and orders are drawn for slots.
    """
    slots, game = case
    players = players_of(slots)
    moved = SlotTable(**{n: v if n == "born" else v[:, order] for n, v in attrs.asdict(slots).items()})
    question = ask(moved)
    there = np.asarray([order.index(player) for player in players], np.int64)
    counts = games.played(question.plan, games.seated(game, there, MAX_PLAYERS))
    found, was = validate.read(question, counts, higher_is_better=True), attribution(slots, game)
    estimated = () if len(players) <= EXACT else ("shapley", "shapley_error")
    for name in {a.name for a in attrs.fields(Attribution)} - {*estimated}:
        now, then = getattr(found, name), getattr(was, name)
        for axis in range(1, then.ndim):
            then = then.take(order, axis)
        power = 2 if name.endswith("_error") else 1
        np.testing.assert_allclose(now**power, then**power, **CLOSE, err_msg=name)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(games.monotone_games))
def test_nobody_loses_where_nobody_does_harm(case: Any) -> None:
    """C8: monotone game: all shares are at least 0, exact or estimated."""
    slots, game = case
    found = attribution(slots, game)
    for name in known_shares(found):
        assert (of_players(found, name) >= -1e-12).all(), name


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases())
def test_a_share_lies_between_the_least_and_the_most_that_a_player_adds(case: Any) -> None:
    """C9: min <= share <= max over all orders, exact or estimated."""
    slots, game = case
    found, added = attribution(slots, game), games.marginals(game.mean(axis=-1))
    for name in known_shares(found):
        shares = of_players(found, name)
        assert (shares >= added.min(axis=0, initial=np.inf) - 1e-12).all(), name
        assert (shares <= added.max(axis=0, initial=-np.inf) + 1e-12).all(), name


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(most=EXACT))
def test_an_interaction_is_mutual(case: Any) -> None:
    """C10: I_ij = I_ji = v(ij) - v(i) - v(j) + v(nobody), with one error; unknown for a seed and itself."""
    slots, game = case
    found = attribution(slots, game)
    pairs = of_players(found, "interaction")
    np.testing.assert_array_equal(found.interaction, found.interaction.transpose(0, 2, 1))
    errors = found.interaction_error**2
    np.testing.assert_allclose(errors, errors.transpose(0, 2, 1), **CLOSE)
    for i, j in np.ndindex(*pairs.shape):
        expected = games.interaction(game, i, j).mean() if i != j else np.nan
        np.testing.assert_allclose(pairs[i, j], expected, **CLOSE)


@pytest.mark.defect("B20")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(fewest=2, most=2))
def test_two_share_their_interaction_equally(case: Any) -> None:
    """C10: two players: share = v(i) - v(nobody) + I / 2, and contribution = v(i) - v(nobody) + I.

    The predecessor never evaluated the pair of two seeds, so that it knew of no interaction.
    """
    slots, game = case
    found, value = attribution(slots, game), game.mean(axis=-1)
    first = value[[1, 2]] - value[0]

    def check(interaction: float) -> None:
        np.testing.assert_allclose(of_players(found, "shapley"), first + interaction / 2, **CLOSE)
        np.testing.assert_allclose(of_players(found, "contribution"), first + interaction, **CLOSE)

    check(of_players(found, "interaction")[0, 1])
    with pytest.raises(AssertionError):
        check(np.nan)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(fewest=1, most=1))
def test_a_single_seed_earns_all_that_seeds_add(case: Any) -> None:
    """C11: one player: contribution = share = Banzhaf value = v(it) - v(nobody), with one error."""
    slots, game = case
    found, value = attribution(slots, game), game.mean(axis=-1)
    for name in SHARES:
        np.testing.assert_allclose(of_players(found, name), value[1:] - value[0], **CLOSE)
        np.testing.assert_array_equal(getattr(found, f"{name}_error"), found.contribution_error)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(most=EXACT))
def test_up_to_four_players_every_number_is_exact(case: Any) -> None:
    """Values of the score, the committed score, shares, Banzhaf values and contributions, by brute force."""
    slots, game = case
    found, fossils = attribution(slots, game), slots.stage[0, players_of(slots)] == Stage.FOSSILIZED
    assert found.score[0] == pytest.approx(game[-1].mean(), abs=1e-12)
    assert found.bare[0] == pytest.approx(game[0].mean(), abs=1e-12)
    committed = fossils @ (1 << np.arange(len(fossils)))
    assert found.committed[0] == pytest.approx(game[int(committed)].mean(), abs=1e-12)
    for name, oracle in zip(SHARES, (games.leave_one_out, games.shapley, games.banzhaf), strict=True):
        np.testing.assert_allclose(of_players(found, name), oracle(game).mean(axis=-1), **CLOSE)
        assert np.isnan(getattr(found, name)[~found.players]).all()


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(most=EXACT))
def test_the_mean_with_a_seed_minus_the_mean_without_is_its_banzhaf_value(case: Any) -> None:
    """C14: and these values need not add up to the whole gain; above four players they are unknown."""
    slots, game = case
    found, value = attribution(slots, game), game.mean(axis=-1)
    players = len(players_of(slots))
    present = (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)
    for i, banzhaf in enumerate(of_players(found, "banzhaf")):
        expected = value[present[:, i]].mean() - value[~present[:, i]].mean()
        np.testing.assert_allclose(banzhaf, expected, **CLOSE)


def test_banzhaf_values_and_interactions_of_more_than_four_are_unknown() -> None:
    """Their coalitions are not evaluated, and nothing is put in their place."""
    rng = np.random.default_rng(0)
    found = attribution(table(*[Stage.HOLDING] * 5), rng.normal(size=(2**5, 9)))
    for name in ("banzhaf", "banzhaf_error", "interaction", "interaction_error"):
        assert np.isnan(getattr(found, name)).all()
    glove = attribution(table(*[Stage.HOLDING] * 3), np.asarray([0, 0, 0, 1, 0, 1, 0, 1.0])[:, None])
    assert glove.banzhaf[0].sum() == pytest.approx(5 / 4)
    assert glove.shapley[0].sum() == pytest.approx(1.0)


# ------------------------------------------------------------------ more players than can be enumerated


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(game=games.games(EXACT + 1))
def test_the_mean_of_the_estimates_over_all_orders_is_the_exact_share(game: Any) -> None:
    """C12, C13: unbiased: the average over all n! orders is exact, though single estimates are not."""
    slots = table(Stage.FOSSILIZED, *[Stage.HOLDING] * EXACT)
    orders = np.asarray(list(permutations(range(EXACT + 1)))).reshape(-1, PAIRS, EXACT + 1)
    mean = under_orders(orders, slots, game).shapley.mean(axis=0)
    np.testing.assert_allclose(mean, games.shapley(game.mean(axis=-1)), **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(slots=seats(), epoch=st.integers(0, 99))
def test_every_pair_of_orders_is_efficient_by_itself(slots: SlotTable, epoch: int) -> None:
    """C12: as weights of the configurations, the shares of a pair add up to v(everybody) - v(nobody)."""
    question = ask(slots, epoch)
    forms, on = question.forms, question.plan.influence[0] > 0
    whole = forms.shapley.sum(axis=2)[0]
    assert len(whole) == (PAIRS if slots.shape[1] > EXACT else 1)
    assert not on[forms.bare[0] == 1].any()
    everybody = np.arange(len(on)) == 0
    assert (on[everybody] == question.players).all()
    np.testing.assert_allclose(whole, np.broadcast_to(everybody - forms.bare[0], whole.shape), **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_an_estimate_is_the_mean_over_the_orders_that_were_drawn(data: st.DataObject) -> None:
    """C12: an order and its reverse, `PAIRS` times; against what everybody adds in just these orders."""
    slots, game = data.draw(cases(fewest=EXACT + 1))
    orders = data.draw(orders_of(slots))
    value, share = game.mean(axis=-1), np.zeros(len(players_of(slots)))
    for sequence in prefixes(slots, orders):
        before = 0
        for player in sequence:
            share[player] += (value[before | 1 << player] - value[before]) / (2 * PAIRS)
            before |= 1 << player
    np.testing.assert_allclose(of_players(under_orders([orders], slots, game), "shapley"), share, **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_an_antithetic_pair_is_exact_for_two(data: st.DataObject) -> None:
    """C12: an order of two and its reverse are all orders (as if only one player could be enumerated)."""
    slots, game = data.draw(cases(fewest=2, most=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validate, "EXACT", 1)
        found = attribution(slots, game, epoch=data.draw(st.integers(0, 99)))
        assert np.isnan(found.interaction).all()
    np.testing.assert_allclose(of_players(found, "shapley"), games.shapley(game).mean(axis=-1), **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(fewest=EXACT + 1), epoch=st.integers(0, 99))
def test_the_same_keys_give_the_same_estimate(case: Any, epoch: int) -> None:
    """C13: bit for bit, with its error; what was read before leaves no trace."""
    slots, game = case
    one = attribution(slots, game, epoch=epoch)
    attribution(slots, -game, epoch=epoch + 1)
    again = attribution(slots, game, epoch=epoch)
    for field in attrs.fields(Attribution):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(again, field.name))


def test_other_keys_give_other_estimates() -> None:
    """C13: of root, round, environment and epoch, each one matters."""
    slots = table(*[Stage.HOLDING] * 6)
    game = np.random.default_rng(1).normal(size=(2**6, 7))
    keys = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    estimates = set()
    for root, number, env, epoch in keys:
        question = validate.ask(slots, (root, number, np.asarray([env]), epoch), "validation", None)
        found = validate.read(question, games.played(question.plan, game), higher_is_better=True)
        estimates.add(tuple(found.shapley[0]))
    assert len(estimates) == len(keys)


# ------------------------------------------------------------------ what was not measured is never skipped


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(data=st.data(), rubbish=st.sampled_from([np.nan, np.inf, -np.inf]))
def test_a_lost_coalition_makes_unknown_what_it_counts_in_and_nothing_else(
    data: st.DataObject, rubbish: float
) -> None:
    """C12: where a coalition has no finite score, what uses it is NaN, and not a mean of the others."""
    slots, game = data.draw(cases(fewest=1))
    orders = data.draw(orders_of(slots))
    lost = data.draw(st.integers(0, len(game) - 1))
    broken = game.copy()
    broken[lost, 0] = rubbish
    with np.errstate(invalid="ignore"):
        sound, found = (under_orders([orders], slots, g) for g in (game, broken))
    uses = _uses(slots, orders)
    for name in FORMS:
        for field in (name, f"{name}_error"):
            was = of_players(sound, field) if getattr(sound, field).ndim > 1 else getattr(sound, field)
            now = of_players(found, field) if getattr(found, field).ndim > 1 else getattr(found, field)
            unknown = np.vectorize(lambda coalitions: lost in coalitions, otypes=[bool])(uses[name])
            assert np.isnan(now[unknown]).all(), field
            power = 2 if field.endswith("_error") else 1
            np.testing.assert_allclose(now[~unknown] ** power, was[~unknown] ** power, **CLOSE)
    assert bool(np.isnan(found.bare[0])) == (lost == 0)


def test_a_first_contact_that_would_explode_leaves_everything_else_as_it_was() -> None:
    """Its score is finite, and the square of it is not."""
    slots = table(Stage.HOLDING, Stage.TRAINING, Stage.HOLDING)
    game = np.random.default_rng(0).normal(size=(2**3, 9))
    question = ask(slots)
    sound = validate.read(question, games.played(question.plan, game), higher_is_better=True)
    game[0b111] = -1e200
    with np.errstate(over="ignore"):
        counts = games.played(question.plan, game)
    found = validate.read(question, counts, higher_is_better=True)
    for field in {a.name for a in attrs.fields(Attribution)} - {"contact"}:
        np.testing.assert_array_equal(getattr(found, field), getattr(sound, field))
    assert found.contact[0, 1] > 1e190


def _uses(slots: SlotTable, orders: Any) -> dict[str, Any]:
    """The coalitions that every quantity is made of, as sets in arrays of its shape."""
    fossils = slots.stage[0, players_of(slots)] == Stage.FOSSILIZED
    n = len(fossils)
    everybody = 2**n - 1
    every = [set(range(2**n))] * n
    shapley: list[set[int]] = every
    if n > EXACT:
        shapley = [set() for _ in range(n)]
        for sequence in prefixes(slots, orders):
            before = 0
            for player in sequence:
                shapley[player] |= {before, before | 1 << player}
                before |= 1 << player
    pairs = [[{0, 1 << i, 1 << j, 1 << i | 1 << j} for j in range(n)] for i in range(n)]
    uses = {
        "score": [{everybody}],
        "committed": [{int(fossils @ (1 << np.arange(n)))}],
        "contribution": [{everybody, everybody - (1 << i)} for i in range(n)],
        "shapley": shapley,
        "banzhaf": every,
        "interaction": pairs,
    }
    shapes = {"interaction": (n, n), "score": (1,), "committed": (1,)}
    arrays = {name: np.empty(shapes.get(name, (n,)), object) for name in uses}
    for name, array in arrays.items():
        for index in np.ndindex(*array.shape):
            array[index] = uses[name][index[0]][index[1]] if array.ndim == 2 else uses[name][index[0]]
    return arrays


@pytest.mark.defect("B20")
def test_the_predecessors_sampler_is_neither_exact_nor_efficient() -> None:
    """B20: it drew 20 orders where all coalitions were known, and skipped prefixes that were not evaluated.

    Same games, same checks: exact for four, efficient for six.
    """
    rng = np.random.default_rng(0)
    four, six = rng.normal(size=(2**4, 11)), rng.normal(size=(2**6, 11))

    def check_exact(shares: Any) -> None:
        np.testing.assert_allclose(shares, games.shapley(four).mean(axis=-1), **CLOSE)

    def check_efficient(shares: Any) -> None:
        np.testing.assert_allclose(shares.sum(), (six[-1] - six[0]).mean(), **CLOSE)

    check_exact(attribution(table(*[Stage.HOLDING] * 4), four).shapley[0])
    check_efficient(attribution(table(*[Stage.HOLDING] * 6), six).shapley[0])
    with pytest.raises(AssertionError):
        check_exact(_by_the_predecessor(four.mean(axis=-1), 4, rng))
    with pytest.raises(AssertionError):
        check_efficient(_by_the_predecessor(six.mean(axis=-1), 6, rng))


def _by_the_predecessor(value: Any, players: int, rng: np.random.Generator) -> Any:
    """Shares over 20 random orders, of the coalitions that 10 other orders and their reverses evaluated."""

    def steps() -> list[tuple[int, int]]:
        order = rng.permutation(players)
        after = np.cumsum(1 << order)
        return list(zip(order.tolist(), after.tolist(), strict=True))

    evaluated = {0, *range(2**players)} if players <= 4 else {0, *(1 << np.arange(players)).tolist()}
    if players > 4:
        for _ in range(10):
            after = [coalition for _, coalition in steps()]
            evaluated |= {*after, *(2**players - 1 - c for c in after)}
    added: list[list[float]] = [[] for _ in range(players)]
    for _ in range(20):
        for player, after_it in steps():
            if {after_it, after_it - (1 << player)} <= evaluated:
                added[player].append(value[after_it] - value[after_it - (1 << player)])
    return np.asarray([np.mean(marginal) for marginal in added])


@pytest.mark.defect("B20")
@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(fewest=EXACT + 1))
def test_what_all_seeds_add_is_measured_however_many_there_are(case: Any) -> None:
    """B20: score - bare = v(everybody) - v(nobody); the predecessor took the largest contribution."""
    slots, game = case
    found, value = attribution(slots, game), game.mean(axis=-1)

    def check(gain: float) -> None:
        assert gain == pytest.approx(value[-1] - value[0], abs=1e-12)

    check(found.score[0] - found.bare[0])
    largest = games.leave_one_out(value).max()
    if abs(largest - (value[-1] - value[0])) > 1e-9:
        with pytest.raises(AssertionError):
            check(largest)


# ------------------------------------------------------------------ standard errors


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(case=cases(most=EXACT))
def test_an_exact_number_errs_as_the_mean_of_its_samples_does(case: Any) -> None:
    """error^2 = variance over samples / n, where each sample's own share is worked out by brute force."""
    slots, game = case
    found, players = attribution(slots, game), range(len(players_of(slots)))
    fossils = slots.stage[0, players_of(slots)] == Stage.FOSSILIZED
    samples = {
        "score": game[-1:],
        "committed": game[[int(fossils @ (1 << np.arange(len(fossils))))]],
        "contribution": games.leave_one_out(game),
        "shapley": games.shapley(game),
        "banzhaf": games.banzhaf(game),
    }
    for name, own in samples.items():
        error = getattr(found, f"{name}_error")
        error = error if error.ndim == 1 else of_players(found, f"{name}_error")
        np.testing.assert_allclose(error**2, own.var(axis=-1, ddof=1) / own.shape[-1], **CLOSE)
    for i in players:
        for j in players:
            if i != j:
                own = games.interaction(game, i, j)
                error = of_players(found, "interaction_error")[i, j]
                np.testing.assert_allclose(error**2, own.var(ddof=1) / len(own), **CLOSE)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_an_estimate_errs_by_its_samples_and_by_its_orders(data: st.DataObject) -> None:
    """error^2 = (variance over samples) / n + (variance between pairs of orders) / `PAIRS`."""
    slots, game = data.draw(cases(fewest=EXACT + 1))
    orders = data.draw(orders_of(slots))
    pairs = np.zeros((PAIRS, len(players_of(slots)), game.shape[-1]))
    for number, sequence in enumerate(prefixes(slots, orders)):
        before = 0
        for player in sequence:
            pairs[number // 2, player] += (game[before | 1 << player] - game[before]) / 2
            before |= 1 << player
    own = pairs.mean(axis=0)
    variance = own.var(axis=-1, ddof=1) / own.shape[-1] + pairs.mean(axis=-1).var(axis=0, ddof=1) / PAIRS
    found = under_orders([orders], slots, game)
    np.testing.assert_allclose(of_players(found, "shapley_error") ** 2, variance, **CLOSE)


@pytest.mark.parametrize("kind", ["real", "binary"])
@pytest.mark.parametrize("own", [0.1, 1.0])
@pytest.mark.parametrize("players", [3, 6])
def test_a_stated_error_covers_the_truth_as_often_as_it_says(players: int, own: float, kind: str) -> None:
    """400 data sets of 100 samples; scores have a common part, and one of their own for every coalition.

    Exact shares are covered as the normal distribution says, and so are estimates whose error is mostly that
    of the samples. Where the orders matter most, `PAIRS` pairs tell less about their spread: then it is
    Student's t with 3 degrees of freedom.
    """
    rng = np.random.default_rng(players)
    truth = 0.3 * rng.normal(size=2**players)
    noise = rng.normal(size=(400, 1, 100)) + own * rng.normal(size=(400, 2**players, 100))
    scores = truth[:, None] + noise
    if kind == "binary":
        truth = np.asarray([0.5 * (1 + erf(t / (2 * (1 + own**2)) ** 0.5)) for t in truth])
        scores = (scores > 0).astype(float)
    slots = table(*[Stage.HOLDING] * players)
    many = {a.name: np.repeat(getattr(slots, a.name), 400, axis=0) for a in attrs.fields(SlotTable)}
    question = ask(SlotTable(**many))
    found = validate.read(question, games.played(question.plan, scores), higher_is_better=True)
    off = found.shapley - games.shapley(truth)
    within = [(np.abs(off) < errors * found.shapley_error).mean() for errors in (1.0, 1.96, 3.18)]
    normal, student = [0.683, 0.95, 0.999], [0.609, 0.855, 0.95]
    few_orders = players > EXACT and own < 1.0
    np.testing.assert_allclose(within, student if few_orders else normal, rtol=0.0, atol=0.07)
    claimed = np.sqrt((found.shapley_error**2).mean() / (off**2).mean())
    assert claimed == pytest.approx(1.0, abs=0.06 if players <= EXACT else 0.15)


@pytest.mark.property
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_common_to_all_configurations_is_nobodys_doing(data: st.DataObject) -> None:
    """R25: what is added to a sample's score under every configuration changes no causal number or error."""
    slots, game = data.draw(cases())
    drift = np.asarray(data.draw(st.lists(TENTH, min_size=5, max_size=5)))
    was, now = attribution(slots, game), attribution(slots, game + drift)
    for name in (*SHARES, "interaction"):
        np.testing.assert_allclose(getattr(now, name), getattr(was, name), **CLOSE)
        one, other = (getattr(found, f"{name}_error") ** 2 for found in (now, was))
        np.testing.assert_allclose(one, other, **CLOSE)
    np.testing.assert_allclose(now.score - now.bare, was.score - was.bare, **CLOSE)


@pytest.mark.defect("B25")
def test_a_gain_below_the_error_of_a_score_is_resolved_because_it_is_paired() -> None:
    """B25: 10 000 samples of which nine in ten are right; a seed turns 30 to right and 5 to wrong.

    Read as two scores with errors of their own, which is all that the predecessor's thresholds could lean on,
    the gain is noise.
    """
    game = np.zeros((2, 10_000))
    game[:, 1_000:] = 1.0
    game[1, :30] = 1.0
    game[1, -5:] = 0.0
    found = attribution(table(Stage.HOLDING, Stage.DORMANT), game)
    gain, error = found.shapley[0, 0], found.shapley_error[0, 0]

    def check(error: float) -> None:
        assert gain > 2 * error

    assert gain == pytest.approx(0.0025, abs=1e-12)
    assert error == pytest.approx(35**0.5 / 10_000, rel=0.02)
    check(error)
    with pytest.raises(AssertionError):
        check(float(np.sqrt((game.var(axis=1, ddof=1) / 10_000).sum())))


def test_counts_have_no_rounding_and_other_scores_a_stated_one() -> None:
    """A million samples of which a seed turns one; and real scores that are far from 0 for their spread."""
    counted = np.ones((2, 1_000_000))
    counted[0, 0] = 0.0
    found = attribution(table(Stage.HOLDING), counted)
    np.testing.assert_allclose(found.contribution_error[0, 0], 1e-6, rtol=1e-9)
    np.testing.assert_allclose(found.score_error[0], 0.0, rtol=0, atol=0)
    spread = np.random.default_rng(0).normal(size=(2, 100))
    exact = (spread[1] - spread[0]).std(ddof=1) / 10
    for offset in (1e2, 1e4, 1e6):
        error = attribution(table(Stage.HOLDING), spread + offset).contribution_error[0, 0]
        assert abs(error**2 - exact**2) < 1e-15 * offset**2 / 100
    for offset in 1e6 * np.random.default_rng(1).normal(size=20):
        same = attribution(table(*[Stage.HOLDING] * 3), spread[:1] + 0.1 * np.arange(8)[:, None] + offset)
        for name in SHARES:
            error = getattr(same, f"{name}_error")
            assert ((error >= 0.0) & (error < 1e-7 * abs(offset) / 10)).all()
        assert same.score_error[0] == pytest.approx(spread[0].std(ddof=1) / 10, rel=0.01)


def test_nothing_is_known_before_anything_was_measured() -> None:
    """Of the shapes that `read` gives."""
    unknown = Attribution.unknown(1, 3)
    read = attribution(table(Stage.HOLDING, Stage.DORMANT, Stage.HOLDING), np.zeros((4, 3)))
    for field in attrs.fields(Attribution):
        empty, full = getattr(unknown, field.name), getattr(read, field.name)
        assert (empty.shape, empty.dtype) == (full.shape, full.dtype), field.name
        assert not empty.any() if field.name == "players" else np.isnan(empty).all()
