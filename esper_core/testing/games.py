"""Cooperative games: hypothesis strategies, what a device would count in them, and the truth by brute force.

A game is an array `[2^N, n]`: the score of n samples for every coalition of N players. Bit i of a coalition's
number is set if player i is in, so that number 0 is nobody and the last is everybody. What a coalition is
worth, v: 2^N -> R, is the mean over samples. The oracle works sample by sample, and reads any axes behind the
first: the mean of what it returns is a value, and its scatter gives that value's standard error.

Role: public; whoever attributes scores to seeds can be held to the axioms of cooperative game theory.
Neighbours: `phases.validate` asks for coalitions and reads the counts, `tests/phases/test_games.py` compares.
"""

from itertools import permutations
from math import factorial, prod

import numpy as np
from hypothesis import strategies as st

from esper_core.state.arrays import Floats, Ints
from esper_core.state.plans import EvalCounts, EvalPlan

MAX_PLAYERS = 6
"""Most players of a game that the oracle should be asked about: it goes through all 720 orders."""


@st.composite
def games(draw: st.DrawFn, players: int, samples: int = 5) -> Floats:
    """Any game, `[2^players, samples]`; scores lie in [-12.8, 12.7], and the simplest is 0 everywhere."""
    return _numbers(draw, 2**players, samples)


@st.composite
def additive_games(draw: st.DrawFn, players: int, samples: int = 5) -> tuple[Floats, Floats]:
    """A game in which a player adds the same to any coalition, and what each adds, `[players, samples]`."""
    adds = _numbers(draw, players, samples)
    return _members(players) @ adds + _numbers(draw, samples), adds


@st.composite
def monotone_games(draw: st.DrawFn, players: int, samples: int = 5) -> Floats:
    """A game in which nobody who joins does harm, in any sample."""
    game = draw(games(players, samples))
    for player in range(players):
        without, joined = _sides(game, player)
        game[joined] = np.maximum(game[joined], game[without])
    return game


@st.composite
def games_with_a_dummy(draw: st.DrawFn, players: int, samples: int = 5) -> tuple[Floats, int]:
    """A game in which one player never changes anything (a null player), and its number."""
    game, dummy = draw(games(players, samples)), draw(st.integers(0, players - 1))
    without, joined = _sides(game, dummy)
    game[joined] = game[without]
    return game, dummy


@st.composite
def symmetric_games(draw: st.DrawFn, players: int, samples: int = 5) -> tuple[Floats, int, int]:
    """A game in which two of at least two players are interchangeable, and their numbers."""
    game = draw(games(players, samples))
    one, other = draw(st.permutations(range(players)))[:2]
    coalitions = np.arange(len(game))
    only_one = coalitions[(coalitions >> one & 1) > (coalitions >> other & 1)]
    game[only_one ^ (1 << one) ^ (1 << other)] = game[only_one]
    return game, one, other


def seated(game: Floats, players: Ints, slots: int) -> Floats:
    """The game with its players in some of the slots, `[2^slots, ...]`: whoever else is in changes nothing.

    Args:
        game: `[2^N, ...]`.
        players: `[N]` slot of every player, each another one.
        slots: at least N.
    """
    coalitions = np.arange(2**slots)[:, None]
    return game[(coalitions >> players & 1) @ (1 << np.arange(len(players)))]


def played(plan: EvalPlan, game: Floats) -> EvalCounts:
    """What a device would count if every sample's score were the game's, and its loss the negative of it.

    Args:
        plan: `[N, K, S]` influences; a player is in a coalition if its influence is above 0.
        game: `[2^S, n]` for all environments, or `[N, 2^S, n]`.
    """
    present = plan.influence > 0
    envs, _, slots = present.shape
    coalition = present @ (1 << np.arange(slots))
    scores = np.broadcast_to(game, (envs, *game.shape[-2:]))[np.arange(envs)[:, None], coalition]
    return EvalCounts(
        samples=game.shape[-1],
        loss_sum=-scores.sum(axis=-1),
        score_sum=scores.sum(axis=-1),
        co_score=scores @ scores.transpose(0, 2, 1),
        rank=np.full((envs, slots), np.nan),
        orthogonality=np.full((envs, slots), np.nan),
        device_ms=0.0,
    )


def marginals(game: Floats) -> Floats:
    """`[N!, N, ...]`: what every player adds to those who came before it, in every order of the N players.

    The share of a player (Shapley, 1953) is the mean over the orders.
    """
    players = _players(game)
    orders = np.asarray(list(permutations(range(players))), np.int64).reshape(factorial(players), players)
    after = np.cumsum(1 << orders, axis=1)
    added = game[after] - game[after - (1 << orders)]
    by_player: Floats = added[np.arange(len(orders))[:, None], np.argsort(orders, axis=1)]
    return by_player


def shapley(game: Floats) -> Floats:
    """`[N, ...]` Shapley shares: the mean of `marginals` over all orders."""
    share: Floats = marginals(game).mean(axis=0)
    return share


def banzhaf(game: Floats) -> Floats:
    """`[N, ...]` Banzhaf values: the mean of what every player adds to the coalitions of the others."""
    sides = [_sides(game, player) for player in range(_players(game))]
    added = [(game[joined] - game[without]).mean(axis=0) for without, joined in sides]
    return np.asarray(added).reshape(len(sides), *game.shape[1:])


def leave_one_out(game: Floats) -> Floats:
    """`[N, ...]`: what everybody is worth minus what everybody else is worth."""
    alone = 1 << np.arange(_players(game))
    last: Floats = game[-1] - game[len(game) - 1 - alone]
    return last


def interaction(game: Floats, one: int, other: int) -> Floats:
    """`[...]`: v(ij) - v(i) - v(j) + v(nobody), for two different players."""
    i, j = 1 << one, 1 << other
    pair: Floats = game[i | j] - game[i] - game[j] + game[0]
    return pair


def _players(game: Floats) -> int:
    """N, of `[2^N, ...]`."""
    return len(game).bit_length() - 1


def _members(players: int) -> Floats:
    """`[2^players, players]`: 1 where a player is in a coalition, else 0."""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(np.float64)


def _sides(game: Floats, player: int) -> tuple[Ints, Ints]:
    """Coalitions without a player, and the same ones with it."""
    coalitions = np.arange(len(game))
    without = coalitions[coalitions >> player & 1 == 0]
    return without, without | 1 << player


def _numbers(draw: st.DrawFn, *shape: int) -> Floats:
    """Tenths in [-12.8, 12.7], drawn as bytes: fast, and they shrink to 0."""
    size = prod(shape)
    drawn = draw(st.binary(min_size=size, max_size=size))
    return np.frombuffer(drawn, np.int8).reshape(shape) / 10.0
