"""Fused validation: which configurations are evaluated, and what follows from their scores.

Every quantity is a linear form of the configurations' mean scores, v = W m. Scores are averages over the
same samples, so the covariance of the means follows from the sums of products, and the standard error of
each form is sqrt(diag(W C W') / n): exact for paired differences, which is what contributions are.

Players are the seeds with influence above 0, fossils included. With up to `EXACT` players every coalition is
evaluated once; above, the full coalition, leave-one-out, none, committed, and antithetic permutations
(Mitchell et al. 2022): an order and its reverse, whose prefixes give unbiased Shapley shares.

Role: pure functions that plan an evaluation and read its counts.
Neighbours: a device strategy evaluates the plan (`model.trie`), `phases.collect` calls both halves.
"""

import attrs
import numpy as np

from esper_core.rules import ramps
from esper_core.rules.randomness import Purpose, permutations
from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.attribution import Attribution
from esper_core.state.plans import EvalCounts, EvalPlan
from esper_core.state.slots import SlotTable, Stage

EXACT = 4
"""Players up to which all coalitions are evaluated."""
PAIRS = 4
"""Antithetic pairs of permutations above that."""


@attrs.frozen(kw_only=True, eq=False)
class Question:
    """An evaluation plan and the linear forms that read it.

    K depends on S alone, so that an environment's numbers do not depend on its neighbours'; configurations
    that an environment does not need repeat another and are computed once.

    Attributes:
        plan: K configurations per environment, the network as it stands first; the last S + 1 are the
            network after the next step of its ramps, without and with each seed that is in TRAINING,
            where one is.
        players: `[N, S]`.
        sampled: `[N]` more than `EXACT` players: Shapley shares are estimates over R pairs of orders.
        forms: weights over the configurations' scores, each `[N, ..., K]`.
        training: `[N, S]` slots whose first contact is measured.
    """

    plan: EvalPlan
    players: Bools
    sampled: Bools
    forms: "Forms"
    training: Bools


@attrs.frozen(kw_only=True, eq=False)
class Forms:
    """Linear forms over K configurations.

    Attributes:
        committed: `[N, K]` score with committed seeds only.
        bare: `[N, K]` score without seeds.
        contribution: `[N, S, K]` leave one out.
        shapley: `[N, R, S, K]` one estimate per pair of orders; R is 1 where all are exact.
        banzhaf: `[N, S, K]` mean over the coalitions of the others; 0 where shares are estimates.
        interaction: `[N, S, S, K]` v(ij) - v(i) - v(j) + v(none); 0 where shares are estimates.
    """

    committed: Floats
    bare: Floats
    contribution: Floats
    shapley: Floats
    banzhaf: Floats
    interaction: Floats


def ask(slots: SlotTable, keys: tuple[int, int, Ints, int], split: str, limit: int | None) -> Question:
    """Plan the evaluation of every environment.

    Args:
        slots: where every seed stands.
        keys: root seed, round, `[N]` numbers of the environments, epoch; they key the orders of players.
        split: part of the data.
        limit: samples to look at; None means all.
    """
    influence = ramps.influence(slots)
    players = influence > 0
    count = slots.shape[1]
    fossils = players & (slots.stage == Stage.FOSSILIZED)
    sampled = players.sum(axis=1) > EXACT
    on, forms = _every_coalition(players, fossils)
    if count > EXACT:
        on, forms = _choose(sampled, _some_coalitions(players, fossils, keys), (on, forms))
    training = slots.stage == Stage.TRAINING
    # where nobody trains there is no contact to measure, and the network as it stands costs nothing more
    soon = np.where(training.any(axis=1, keepdims=True), ramps.upcoming(slots), influence)
    coming = np.repeat(soon[:, None, :], count + 1, axis=1)
    coming[:, 1 + np.arange(count), np.arange(count)] += ramps.first_contact(slots)
    configurations = np.concatenate([np.where(on, influence[:, None, :], 0.0), coming], axis=1)
    return Question(
        plan=EvalPlan(split=split, limit=limit, influence=configurations),
        players=players,
        sampled=sampled,
        forms=_padded(forms, configurations.shape[1]),
        training=training,
    )


def read(question: Question, counts: EvalCounts, *, higher_is_better: bool) -> Attribution:
    """Turn counts into scores, contributions and shares, with standard errors.

    A configuration that was asked for and has no finite score makes unknown (NaN) whatever it counts in, and
    nothing else. It is never skipped: what the others say without it is another quantity.

    Args:
        question: from `ask`.
        counts: what a device counted under the question's plan.
        higher_is_better: direction of the score; the scores that are returned are oriented.
    """
    n, count = counts.samples, question.players.shape[1]
    mean = counts.score_sum / n * (1.0 if higher_is_better else -1.0)
    loss = counts.loss_sum / n
    forms = question.forms
    # a sample without a finite score has no finite square; what is too large for a variance is lost, too
    lost = ~np.isfinite(np.diagonal(counts.co_score, axis1=1, axis2=2))
    finite = np.where(lost, 0.0, mean)
    covariance = _covariance(counts, lost)

    def flat(form: Floats) -> Floats:
        return form.reshape(len(form), -1, form.shape[-1])

    def known(form: Floats, values: Floats) -> Floats:
        uses = ((flat(form) != 0) & lost[:, None, :]).any(axis=-1)
        return np.where(uses, np.nan, values).reshape(form.shape[:-1])

    def value(form: Floats) -> Floats:
        return known(form, (flat(form) @ finite[:, :, None])[..., 0])

    def error(form: Floats) -> Floats:
        variance = ((flat(form) @ covariance) * flat(form)).sum(axis=-1)
        return known(form, standard_error(variance, n))

    def of(who: Bools, values: Floats) -> Floats:
        return np.where(who, values, np.nan)

    pairs = value(forms.shapley)
    shapley = pairs.mean(axis=1)
    orders = pairs.var(axis=1, ddof=1) / pairs.shape[1] if pairs.shape[1] > 1 else np.zeros_like(shapley)
    here = np.zeros_like(mean)
    here[:, 0] = 1.0
    players = question.players
    exact = players & ~question.sampled[:, None]
    pair = exact[:, :, None] & exact[:, None, :] & ~np.eye(count, dtype=bool)
    without = loss[:, -count - 1 : -count]
    with np.errstate(invalid="ignore", over="ignore"):
        contact = (loss[:, -count:] - without) / np.maximum(np.abs(without), np.finfo(float).tiny)
    return Attribution(
        loss=loss[:, 0],
        score=value(here),
        score_error=error(here),
        committed=value(forms.committed),
        committed_error=error(forms.committed),
        bare=value(forms.bare),
        players=players,
        contribution=of(players, value(forms.contribution)),
        contribution_error=of(players, error(forms.contribution)),
        shapley=of(players, shapley),
        shapley_error=of(players, np.sqrt(error(forms.shapley.mean(axis=1)) ** 2 + orders)),
        banzhaf=of(exact, value(forms.banzhaf)),
        banzhaf_error=of(exact, error(forms.banzhaf)),
        interaction=of(pair, value(forms.interaction)),
        interaction_error=of(pair, error(forms.interaction)),
        contact=of(question.training, contact),
    )


def _covariance(counts: EvalCounts, lost: Bools) -> Floats:
    """`[N, K, K]` (population) covariance of the configurations' scores; 0 for those that are lost.

    (n sum(ab) - sum(a) sum(b)) / n^2: whole numbers before the division where scores are 0 or 1, so that
    nothing is rounded. Other scores are known relative to their size: a standard deviation below 1e-8 of the
    root mean square is rounding.
    """
    n = counts.samples
    total = np.where(lost, 0.0, counts.score_sum)
    products = np.where(lost[:, :, None] | lost[:, None, :], 0.0, counts.co_score)
    covariance: Floats = (n * products - total[:, :, None] * total[:, None, :]) / n**2
    return covariance


def standard_error(variance: Floats, n: int) -> Floats:
    """Standard error of a mean over `n` samples from their (population) variance; NaN for one sample."""
    with np.errstate(invalid="ignore", divide="ignore"):
        error: Floats = np.sqrt(np.maximum(variance, 0.0) / np.float64(n - 1))
    return error


def _every_coalition(players: Bools, fossils: Bools) -> tuple[Bools, Forms]:
    """All coalitions of up to `EXACT` players.

    Coalitions are numbered by who is absent: bit r of the number is set if the player of rank r is out, so
    that number 0 is the network as it stands. Environments with fewer players see theirs repeatedly.
    """
    envs, count = players.shape
    codes = np.arange(2 ** min(count, EXACT))
    rank: Ints = np.cumsum(players, axis=1) - players
    bit = np.where(players, 1 << rank, 0)
    size = np.minimum(players.sum(axis=1), EXACT)
    on = players[:, None, :] & ((codes[None, :, None] & bit[:, None, :]) == 0)
    present = size[:, None] - np.asarray([int(c).bit_count() for c in codes])
    valid = codes < (1 << size)[:, None]
    weight = _shapley_weights(size)
    row = np.arange(envs)[:, None]
    joining = weight[row, np.maximum(present - 1, 0)][:, None, :]
    staying = weight[row, np.clip(present, 0, EXACT)][:, None, :]
    out = (codes[None, None, :] & bit[:, :, None]) != 0
    member = valid[:, None, :] & players[:, :, None]
    swing = np.where(out, -2.0, 2.0) / (1 << size)[:, None, None]
    nobody = (1 << size) - 1
    pair = bit[:, :, None] | bit[:, None, :]
    everyone = nobody[:, None, None]
    interaction = (
        _at(everyone & ~pair, codes)
        - _at(everyone & ~bit[:, :, None], codes)
        - _at(everyone & ~bit[:, None, :], codes)
        + _at(everyone, codes)
    )
    return on, Forms(
        committed=_at(np.where(fossils, 0, bit).sum(axis=1), codes),
        bare=_at(nobody, codes),
        contribution=_at(np.zeros_like(bit), codes) - _at(bit, codes),
        shapley=np.where(member, np.where(out, -staying, joining), 0.0)[:, None],
        banzhaf=np.where(member, swing, 0.0),
        interaction=interaction,
    )


def _some_coalitions(players: Bools, fossils: Bools, keys: tuple[int, int, Ints, int]) -> tuple[Bools, Forms]:
    """Full, leave-one-out (S), none, committed, then the proper prefixes of the orders and their reverses."""
    envs, count = players.shape
    root, round_index, numbers, epoch = keys
    order = permutations(
        count, root, Purpose.PERMUTATIONS, round_index, numbers[:, None], epoch, np.arange(PAIRS)
    )
    # whoever does not play comes after all others, and adds nothing there
    drawn = np.where(players[:, None, :], np.argsort(order, axis=-1), count)
    place = np.argsort(np.argsort(drawn, axis=-1, kind="stable"), axis=-1)
    size = players.sum(axis=1)[:, None, None]
    place = np.stack([place, size - 1 - place], axis=2)
    lengths = np.arange(1, count)
    prefix = players[:, None, None, None, :] & (place[:, :, :, None, :] < lengths[:, None])
    alone = players[:, None, :] & ~np.eye(count, dtype=bool)
    head = [players[:, None], alone, np.zeros_like(players)[:, None], fossils[:, None]]
    on = np.concatenate([*head, prefix.reshape(envs, -1, count)], axis=1)
    columns = np.arange(on.shape[1])
    none, committed, first = count + 1, count + 2, count + 3
    start = first + (np.arange(2 * PAIRS) * (count - 1)).reshape(PAIRS, 2, 1)

    def prefix_of(length: Ints) -> Ints:
        inner = start + np.clip(length, 1, count - 1) - 1
        return np.where(length <= 0, none, np.where(length >= size[..., None], 0, inner))

    marginal = _at(prefix_of(place + 1), columns) - _at(prefix_of(place), columns)
    single = np.broadcast_to(np.arange(count) + 1, players.shape)
    return on, Forms(
        committed=_at(np.full(envs, committed), columns),
        bare=_at(np.full(envs, none), columns),
        contribution=_at(np.zeros_like(single), columns) - _at(single, columns),
        shapley=marginal.mean(axis=2),
        banzhaf=np.zeros((envs, count, len(columns))),
        interaction=np.zeros((envs, count, count, len(columns))),
    )


def _shapley_weights(size: Ints) -> Floats:
    """`[N, EXACT + 1]`: weight t! (n - t - 1)! / n! of a coalition of t < n of n players."""
    factorial = np.asarray([1.0, 1.0, 2.0, 6.0, 24.0])
    t = np.arange(EXACT + 1)
    n = size[:, None]
    weights: Floats = factorial[t] * factorial[np.clip(n - t - 1, 0, EXACT)] / factorial[n]
    return weights


def _at(index: Ints, columns: Ints) -> Floats:
    """Unit weights: 1 in the column of `index`, on a new last axis."""
    column: Floats = (np.asarray(index)[..., None] == columns).astype(np.float64)
    return column


def _choose(first: Bools, one: tuple[Bools, Forms], other: tuple[Bools, Forms]) -> tuple[Bools, Forms]:
    """Rows of `one` where `first` holds, else of `other`, padded to the same number of configurations."""
    width = max(one[0].shape[1], other[0].shape[1])
    coalitions = [
        np.concatenate([on, np.repeat(on[:, :1], width - on.shape[1], axis=1)], axis=1)
        for on, _ in (one, other)
    ]
    forms = [attrs.asdict(_padded(f, width), recurse=False) for _, f in (one, other)]

    def pick(a: Floats, b: Floats) -> Floats:
        a, b = np.broadcast_arrays(a, b)
        return np.where(first.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return pick(*coalitions).astype(bool), Forms(
        **{name: pick(forms[0][name], forms[1][name]) for name in forms[0]}
    )


def _padded(forms: Forms, width: int) -> Forms:
    """Weights 0 for configurations up to `width`."""

    def pad(form: Floats) -> Floats:
        return np.concatenate([form, np.zeros((*form.shape[:-1], width - form.shape[-1]))], axis=-1)

    return Forms(**{name: pad(form) for name, form in attrs.asdict(forms, recurse=False).items()})
