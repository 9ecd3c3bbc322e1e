"""Who earned the score: values of coalitions of seeds, with standard errors.

Role: the record that `phases.validate` returns. Scores are oriented: higher is always better here.
Neighbours: evidence is filled from it, events print it.
"""

import attrs
import numpy as np

from esper_core.state.arrays import Bools, Floats


@attrs.frozen(kw_only=True, eq=False)
class Attribution:
    """Scores of an epoch and what every seed contributed to them.

    Attributes:
        loss: `[N]` mean loss of the network as it stands.
        score: `[N]` its score; `score_error` its standard error.
        committed: `[N]` score with committed seeds only; `committed_error` its standard error.
        bare: `[N]` score with no seed.
        players: `[N, S]` seeds that were switched on and off.
        contribution: `[N, S]` score minus the score without the seed (leave one out); NaN without a player.
        contribution_error: its standard error.
        shapley: `[N, S]` Shapley share of score minus bare; NaN without a player.
        shapley_error: its standard error; where orders of players were drawn, their choice is a part of it.
        banzhaf: `[N, S]` Banzhaf value, the mean of what the seed adds to all coalitions of the others; they
            do not add up to score minus bare. NaN without a player, and where not every coalition was
            evaluated.
        banzhaf_error: its standard error.
        interaction: `[N, S, S]` v(ij) - v(i) - v(j) + v(none) for pairs of players; NaN for others, and where
            not every coalition was evaluated.
        interaction_error: its standard error.
        contact: `[N, S]` relative rise of the loss at a TRAINING seed's first contact; else NaN.
    """

    loss: Floats
    score: Floats
    score_error: Floats
    committed: Floats
    committed_error: Floats
    bare: Floats
    players: Bools
    contribution: Floats
    contribution_error: Floats
    shapley: Floats
    shapley_error: Floats
    banzhaf: Floats
    banzhaf_error: Floats
    interaction: Floats
    interaction_error: Floats
    contact: Floats

    @classmethod
    def unknown(cls, envs: int, slots: int) -> "Attribution":
        """Nothing has been measured and nobody plays, for N = `envs` and S = `slots`."""
        shape = (envs, slots, slots)
        axes = dict.fromkeys(("loss", "score", "score_error", "committed", "committed_error", "bare"), 1)
        axes |= dict.fromkeys(("interaction", "interaction_error"), 3)
        floats = {a.name: np.full(shape[: axes.get(a.name, 2)], np.nan) for a in attrs.fields(cls)}
        return cls(**floats | {"players": np.zeros((envs, slots), np.bool_)})
