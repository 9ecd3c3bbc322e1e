"""The comparison that ends every run: was growing worth it?

Four arms with the same data, budget of epochs, number of tries, and selection by validation: the static
host; the smallest seed in every slot from the start; the best grown network; and its twin, the same final
architecture from scratch. The report split is read here, once per arm, and nowhere else.

Role: plays the arms through the one loop and makes the table.
Neighbours: `runner.loop` calls it after the last round, `runner.display` prints it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from esper_core.errors import RunError
from esper_core.phases import collect, validate
from esper_core.phases.collect import Cast, Episode
from esper_core.plugin.protocols import Policy
from esper_core.rules import lifecycle, ramps
from esper_core.runner.files import read_json
from esper_core.state.arrays import Ints
from esper_core.state.plans import EvalPlan
from esper_core.state.run import best_of
from esper_core.state.slots import SlotTable, Stage

ARMS = ("static", "everywhere", "grown", "twin")


@attrs.frozen(kw_only=True)
class Arm:
    """One row of the table.

    Attributes:
        score: of the selected network on the report split, in the task's units and direction.
        error: its standard error over samples.
        mean: of the scores of all tries on the report split.
        mean_error: its standard error over tries; unknown for a single one.
        parameters: of the selected network.
        epochs: that it was trained for.
        tries: networks that were trained.
        selected: number of the environment whose network was selected, by validation.
        validation: score that it was selected by.
    """

    score: float
    error: float
    mean: float
    mean_error: float
    parameters: int
    epochs: int
    tries: int
    selected: int
    validation: float


@attrs.frozen(kw_only=True)
class Comparison:
    """What the end of a run says.

    Attributes:
        arms: by name, as in `ARMS`.
        modes: the grown networks of each reward mode, by its name; empty where one mode paid all of them.
    """

    arms: dict[str, Arm]
    modes: dict[str, Arm]


def read(path: Path) -> tuple[str, Comparison]:
    """The name of the score and the comparison of a report that was written.

    Args:
        path: of `report.json`.

    Raises:
        RunError: the file is missing or malformed; the message has its path.
    """
    found: Any = read_json(path)
    try:
        tables = {name: dict(found["arms"][name]) for name in ARMS}
        modes = {name: _arm(dict(table)) for name, table in found["modes"].items()}
        arms = {name: _arm(table) for name, table in tables.items()}
        return str(found["score"]), Comparison(arms=arms, modes=modes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}: is not a whole report: {type(error).__name__}: {error}") from error


def _arm(table: dict[str, Any]) -> Arm:
    """From JSON, which has null for what is not a number."""
    fields: dict[str, Any] = {name: math.nan if value is None else value for name, value in table.items()}
    return Arm(**fields)


Progress = Callable[[str, Episode], None]
"""Called after every epoch of an arm with its name and the episode."""


def arms(cast: Cast, static: Policy, grown: Episode, progress: Progress) -> dict[str, Arm]:
    """Play the arms that a run has not played yet, and score all four.

    Args:
        cast: who takes part.
        static: the policy that waits.
        grown: the last round's episode, after its last epoch.
        progress: called after every epoch.
    """
    # the seeds of an arm are committed from the start, so freezing what is committed must not freeze them
    growth = attrs.evolve(cast.program.growth, freeze_fossils=False)
    waiting = attrs.evolve(cast, policy=static, program=attrs.evolve(cast.program, growth=growth))
    table = {
        "static": SlotTable.empty(len(grown.envs), len(cast.program.sites)),
        "everywhere": everywhere(cast, len(grown.envs)),
        "twin": twin(cast, grown),
    }
    scored = {"grown": score(cast, grown)}
    for name, planted in table.items():
        episode = collect.begin(waiting, grown.envs, grown.round_index, planted)
        for _ in range(cast.program.train.epochs):
            episode, _ = collect.advance(waiting, episode)
            progress(name, episode)
        scored[name] = score(cast, episode)
    return {name: scored[name] for name in ARMS}


def everywhere(cast: Cast, envs: int) -> SlotTable:
    """The smallest seed in every slot that may grow, from the start, at full influence."""
    space = cast.program.space
    cost = np.where(space.fits[:, :, 0], space.cost[:, :, 0], np.iinfo(np.int64).max)
    smallest = np.where(space.enabled & space.fits[:, :, 0].any(axis=1), cost.argmin(axis=1), -1)
    return lifecycle.plant(space, envs, smallest, np.zeros_like(smallest), np.ones(len(smallest)))


def twin(cast: Cast, grown: Episode) -> SlotTable:
    """The architecture of the best grown network, with newborn parameters."""
    env = best_of(grown.signals.committed)
    committed = grown.slots.stage[env] == Stage.FOSSILIZED
    return lifecycle.plant(
        cast.program.space,
        len(grown.envs),
        np.where(committed, grown.slots.blueprint[env], -1),
        np.where(committed, grown.slots.blend[env], 0),
        ramps.influence(grown.slots)[env],
    )


def by_mode(cast: Cast, episode: Episode) -> dict[str, Arm]:
    """The grown networks of each reward mode, as an arm of its own; none where there is one mode only."""
    modes = list(cast.reward.families)
    if len(modes) == 1:
        return {}
    group = cast.reward.group(episode.envs)
    return {mode: score(cast, episode, np.flatnonzero(group == k)) for k, mode in enumerate(modes)}


def score(cast: Cast, episode: Episode, among: Ints | None = None) -> Arm:
    """Select a network by validation and score it on the report split.

    Args:
        cast: who takes part.
        episode: after its last epoch.
        among: positions of the networks to select from; absent means all.
    """
    tried = np.arange(len(episode.envs)) if among is None else among
    program, env = cast.program, int(tried[best_of(episode.signals.committed[tried])])
    committed = episode.slots.stage == Stage.FOSSILIZED
    shipped = np.where(committed, ramps.influence(episode.slots), 0.0)
    plan = EvalPlan(split="report", limit=None, influence=shipped[:, None, :])
    counts = cast.device.evaluate(episode.tensors, plan)
    scores = counts.score_sum[:, 0] / counts.samples
    tries = len(tried)
    variance = counts.co_score[env, 0, 0] / counts.samples - scores[env] ** 2
    added: Ints = np.where(committed, episode.slots.parameters, 0).sum(axis=1)
    sign = 1.0 if program.problem.higher_is_better else -1.0
    return Arm(
        score=float(scores[env]),
        error=float(validate.standard_error(variance, counts.samples)),
        mean=float(scores[tried].mean()),
        mean_error=float(scores[tried].std(ddof=1) / tries**0.5) if tries > 1 else math.nan,
        parameters=cast.host_parameters + int(added[env]),
        epochs=episode.epoch,
        tries=tries,
        selected=int(episode.envs[env]),
        validation=float(sign * episode.signals.committed[env]),
    )
