"""Within a step: order, synchronisation, and gradients that do not outlive it."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from hand_made import PLAIN, SEEDS, World, batches, train_of
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from worlds import program, spirals

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.state.plans import EvalPlan
from esper_plugins.devices import epoch


@pytest.mark.acceptance("GR-02")
def test_statistics_are_taken_after_backward_and_before_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def spy(where: Any, name: str) -> None:
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, **k: (order.append(name), real(*a, **k))[1])

    spy(torch.autograd, "grad")
    spy(epoch, "parameter_norms")
    spy(epoch.Accumulator, "add")
    spy(epoch, "clip_factors")
    spy(epoch, "step")
    world = World(program(spirals(), train=train_of()), 2)
    world.train(batches(2, 2))
    assert order == ["grad", "grad", "parameter_norms", "add", "clip_factors", "step"] * 2


@pytest.mark.acceptance("GR-02")
def test_statistics_are_of_the_gradient_before_it_is_clipped() -> None:
    tight = train_of(host=evolve(PLAIN, clip=1e-3))
    world = World(program(spirals(), train=tight), 1)
    before = world.rows(0)
    found = world.train(batches(1, 1)).host
    moved = [
        (tensor - before[name]).flatten() for name, tensor in world.rows(0).items() if "parameters" in name
    ]
    assert float(torch.cat(moved).norm()) == pytest.approx(1e-3 * PLAIN.lr, rel=1e-2)
    assert found.largest[0] > 0.05
    np.testing.assert_allclose(found.square, found.largest**2)


class Synchronisations(TorchDispatchMode):
    """Counts operations whose result the host would have to wait for on an accelerator."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "aten.equal", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in self.WAITING):
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.acceptance("GR-03")
@pytest.mark.parametrize("executor", ["loop", "stacked"])
@pytest.mark.parametrize("name", SEEDS)
def test_an_epoch_is_read_once(name: str, executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step waits for the device; training and evaluation transfer one tensor each, for any N and T."""
    make, seeds = SEEDS[name]
    transfers: list[Tensor] = []
    real = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: (transfers.append(self), real(self))[1])
    for envs, steps in ((1, 2), (3, 5)):
        world = World(program(make(), train=train_of()), envs, *seeds, executor=executor)
        question = EvalPlan(split="validation", limit=None, influence=np.ones((envs, 2, 2)))
        transfers.clear()
        with Synchronisations() as waits:
            world.train(batches(envs, steps))
            assert len(transfers) == 1
            world.device.evaluate(world.tensors, question)
        assert len(transfers) == 2
        assert not waits.found


class Sometimes(nn.Module):
    """A host with a parameter that only some batches use."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = nn.ModuleList([nn.Linear(2, 4), _Sometimes(), nn.Linear(4, 2)])
        self.sites = (Site(name="here", after=0, kind="vector", width=4),)


class _Sometimes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.extra if self.training and _USED.pop(0) else x


_USED: list[bool] = []


@pytest.mark.acceptance("GR-07")
def test_no_gradient_outlives_its_step() -> None:
    """A parameter that a batch does not use has gradient 0 in that step, not the one of the step before."""
    problem = evolve(spirals(), host=Part(name="test/sometimes", build="", call=Sometimes))

    def trained(*used: bool) -> dict[str, Tensor]:
        world = World(program(problem, train=train_of()), 1)
        _USED[:] = used
        if used:
            world.train(batches(1, 2)[:, : len(used)])
        return world.rows(0)

    born, once, twice = trained(), trained(True), trained(True, False)
    extra, weight = "host/parameters/segments.1.extra", "host/parameters/segments.0.weight"
    assert not torch.equal(born[extra], once[extra])
    assert torch.equal(once[extra], twice[extra])
    assert not torch.equal(once[weight], twice[weight])


@pytest.mark.acceptance("GR-07")
def test_no_gradient_outlives_its_epoch() -> None:
    """Modules hold no gradient; a seed that stops training keeps its parameters, bit for bit."""
    make, seeds = SEEDS["mlp"]
    world = World(program(make(), train=train_of()), 1, *seeds)
    world.train(batches(1, 2))
    modules = [world.tensors.host(0), *world.tensors.seeds(0).values()]
    assert all(p.grad is None for module in modules for p in module.parameters())
    before = world.rows(0)
    world.train(batches(1, 2), training=np.asarray([[True, False]]))
    for name, tensor in world.rows(0).items():
        assert torch.equal(tensor, before[name]) == (name.startswith("pool/1.") or "alive" in name), name
