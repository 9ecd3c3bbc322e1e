"""Observation: how measurements become evidence and signals that outlive the epoch.

Role: pure functions of the last record and the new measurements; unknown stays unknown (NaN).
Neighbours: `phases.collect` calls them after training and validation; gates and policies read the result.
"""

import numpy as np

from esper_core.state.arrays import Bools, Floats, Ints
from esper_core.state.attribution import Attribution
from esper_core.state.evidence import Evidence
from esper_core.state.plans import EvalCounts, GradientStatistics, TrainCounts
from esper_core.state.settings import GrowthSettings
from esper_core.state.signals import HostSignals
from esper_core.state.slots import PLANTED, SlotTable


def evidence(
    last: Evidence,
    slots: SlotTable,
    attribution: Attribution,
    evaluated: EvalCounts,
    counts: TrainCounts,
    host_parameters: int,
    growth: GrowthSettings,
) -> Evidence:
    """Evidence after an epoch; a slot without a seed has none, and a new seed inherits nothing.

    Args:
        last: evidence before the epoch.
        slots: the table during the epoch.
        attribution: of the validation after the epoch.
        evaluated: what was measured at the sites in it.
        counts: of the training.
        host_parameters: of one host.
        growth: memories of the moving averages.
    """
    planted = slots.within(PLANTED)
    known = planted & (slots.age > 0)
    measured = ~np.isnan(attribution.contribution)
    since = np.where(known & (last.measured >= 0), last.measured + 1, -1)
    change = attribution.contribution - last.contribution
    return Evidence(
        contribution=attribution.contribution,
        contribution_error=attribution.contribution_error,
        velocity=_average(np.where(known, last.velocity, np.nan), change, growth.velocity_memory),
        shapley=attribution.shapley,
        shapley_error=attribution.shapley_error,
        measured=np.where(measured, 0, since),
        health=np.where(planted, counts.seeds.health, np.nan),
        gradient_norm=np.where(planted, counts.seeds.root_mean_square, np.nan),
        gradient_ratio=_average(
            np.where(known, last.gradient_ratio, np.nan),
            _ratio(counts.seeds, counts.host, slots.parameters, host_parameters),
            growth.ratio_memory,
        ),
        nonfinite=np.where(planted, counts.seeds.nonfinite, 0),
        contact=attribution.contact,
        rank=evaluated.rank,
        orthogonality=evaluated.orthogonality,
    )


def signals(last: HostSignals, attribution: Attribution, counts: TrainCounts) -> HostSignals:
    """Signals after an epoch."""
    best = np.fmax(last.best, attribution.score)
    risen: Bools = ~(best <= last.best)
    return HostSignals(
        train_loss=counts.loss_sum / counts.samples,
        loss=attribution.loss,
        score=attribution.score,
        committed=attribution.committed,
        best=best,
        plateau=np.where(risen, 0, last.plateau + 1),
    )


def _average(last: Floats, new: Floats, memory: float) -> Floats:
    """Exponential moving average that starts at its first measurement."""
    started = np.isnan(last)
    return np.where(started, new, np.where(np.isnan(new), last, memory * last + (1.0 - memory) * new))


def _ratio(seeds: GradientStatistics, hosts: GradientStatistics, seed_size: Ints, host_size: int) -> Floats:
    """Gradient norm per square root of parameters, seed over host; NaN where either is unknown or 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        seed = seeds.root_mean_square / np.sqrt(seed_size)
        host = hosts.root_mean_square[:, None] / np.sqrt(host_size)
        return np.where(host > 0, seed / host, np.nan)
