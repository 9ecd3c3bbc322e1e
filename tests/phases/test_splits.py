"""Fit, validation and report: disjoint, the same everywhere, and the report part is not for training."""

from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import assert_same, cast_of, digits, play, program, spirals

from esper_core.model.problem import Problem, Split
from esper_core.state.settings import TrainSettings
from esper_plugins.policies import random, static
from esper_plugins.tasks.splits import split

TRAIN = TrainSettings(epochs=6, batch_size=8, train_batches=2)


@pytest.mark.acceptance("X-03")
@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(targets=st.lists(st.integers(0, 4), min_size=30, max_size=200), key=st.integers(0, 99))
def test_parts_are_disjoint_complete_and_have_the_same_mix_of_classes(targets: list[int], key: int) -> None:
    """Inputs are the numbers of the samples, so that every one can be followed."""
    labels = np.asarray(targets)
    labels[: 5 * 5] = np.repeat(np.arange(5), 5)
    numbers = np.arange(len(labels), dtype=np.float64)
    parts = split(numbers[:, None], labels, key)
    seen = torch.cat([part.inputs[:, 0].long() for part in parts.values()])  # type: ignore[attr-defined]
    assert seen.sort().values.tolist() == list(range(len(labels)))
    for name, share in (("fit", 0.6), ("validation", 0.2), ("report", 0.2)):
        part: Split = parts[name]  # type: ignore[literal-required]
        assert torch.equal(part.targets, torch.from_numpy(labels)[part.inputs[:, 0].long()])
        for label in range(5):
            assert abs(int((part.targets == label).sum()) - share * int((labels == label).sum())) <= 1


@pytest.mark.acceptance("X-03")
@pytest.mark.parametrize("make", [digits, spirals])
def test_a_key_gives_the_same_parts_every_time_and_another_key_others(make: Any) -> None:
    one, again, other = make(), make(), make(data_seed=1)
    for name in ("fit", "validation", "report"):
        assert torch.equal(one.split(name).inputs, again.split(name).inputs)
        assert torch.equal(one.split(name).targets, again.split(name).targets)
        assert not torch.equal(one.split(name).inputs, other.split(name).inputs)


@pytest.mark.acceptance("X-03")
def test_digits_has_every_image_once() -> None:
    problem = digits()
    sizes = {name: len(problem.split(name)) for name in ("fit", "validation", "report")}
    assert sum(sizes.values()) == 1797
    assert sizes["fit"] == pytest.approx(0.6 * 1797, abs=10)
    assert problem.fit.inputs.min() == 0.0
    assert problem.fit.inputs.max() == 1.0


def with_report(problem: Problem, value: float) -> Problem:
    """The problem with a report part that nobody could use without being noticed."""
    inputs = torch.full_like(problem.report.inputs, value)
    return evolve(problem, report=Split(inputs, problem.report.targets))


@pytest.mark.acceptance("X-03")
@pytest.mark.defect("B25")
def test_the_report_part_has_no_influence_on_a_run() -> None:
    """Replaced by rubbish, it leaves decisions, rewards and weights bit-equal."""
    runs = [
        play(cast_of(program(problem, train=TRAIN), random.build), range(3))
        for problem in (spirals(), with_report(spirals(), float("nan")))
    ]
    assert_same(*(run.tensors for run in runs))
    for field in ("heads", "reward", "score"):
        one, other = (getattr(run.episode.rollout, field) for run in runs)
        np.testing.assert_array_equal(one, other)


@pytest.mark.acceptance("X-03")
@pytest.mark.defect("B25")
def test_a_run_never_asks_for_the_report_part_and_fits_on_the_fit_part() -> None:
    """Every evaluation is of the validation part; every index of training is one of the fit part."""
    cast = cast_of(program(spirals(), train=TRAIN), random.build)
    asked: list[str] = []
    largest: list[int] = []
    evaluate, train = cast.device.evaluate, cast.device.train
    cast.device.evaluate = lambda t, plan: (asked.append(plan.split), evaluate(t, plan))[1]  # type: ignore[method-assign]
    cast.device.train = lambda t, plan: (largest.append(int(plan.indices.max())), train(t, plan))[1]  # type: ignore[method-assign]
    play(cast, range(3))
    assert asked == ["validation"] * TRAIN.epochs
    assert max(largest) < len(cast.program.problem.fit)


@pytest.mark.acceptance("X-03")
def test_validation_samples_do_not_move_a_host_that_does_not_grow() -> None:
    """Decisions look at them; gradients do not."""
    problem = spirals()
    rubbish = evolve(problem, validation=Split(problem.validation.inputs * 100, problem.validation.targets))
    runs = [play(cast_of(program(p, train=TRAIN), static.build), range(2)) for p in (problem, rubbish)]
    assert_same(*(run.tensors for run in runs))
    assert (runs[0].episode.rollout.score != runs[1].episode.rollout.score).any()
