"""A task may say where its hosts need help, and what knowing nothing costs."""

import math

import pytest
import torch
from worlds import digits, host_of, spirals

from esper_core.model.program import build_host, keyed_generator


@pytest.mark.parametrize("narrow", [0, 1, 2])
def test_digits_names_the_site_across_the_narrow_block(narrow):
    problem = digits(blocks=3, narrow=narrow)
    assert problem.bottleneck(host_of(problem)) == f"block{narrow}"


def test_a_random_bottleneck_is_the_block_with_dead_units_in_every_host():
    problem = digits(blocks=4, narrow="random", narrow_width=2)
    named = set()
    for key in range(12):
        with keyed_generator(key):
            host = build_host(problem.host)
        alive = torch.stack([segment.alive for segment in list(host.segments)[1:-1]]).sum(dim=1)
        (site,) = (site.name for site, units in zip(host.sites, alive.tolist(), strict=True) if units == 2)
        assert problem.bottleneck(host) == site
        named.add(site)
    assert len(named) > 2


def test_a_host_without_a_narrow_block_has_no_bottleneck():
    assert spirals().bottleneck is None


@pytest.mark.parametrize(("problem", "classes"), [(digits(), 10), (spirals(), 2), (spirals(arms=5), 5)])
def test_chance_is_the_loss_of_equal_odds(problem, classes):
    odds = torch.zeros(classes, classes)
    assert problem.chance == math.log(classes)
    assert problem.loss(odds, torch.arange(classes)).mean().item() == pytest.approx(problem.chance)
