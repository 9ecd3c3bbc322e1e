"""A trial at the start of a run: whether a program's modules equal themselves when they are stacked.

Two newborn hosts, and two seeds of every kind, are run one by one and as rows of a block, in training and in
evaluation, in float64. What draws random numbers, branches on data or keeps tensors elsewhere is found here
and not in a result.

Role: refuses what the `stacked` executor would get wrong. Neighbours: `rowwise` is what is tried.
"""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from esper_core.plugin import ConfigError, Host, Program, features, fold, keyed_generator
from esper_plugins.devices.blocks import Block, Layout
from esper_plugins.devices.rowwise import RowwiseSeed
from esper_plugins.devices.stacked import StackedHost
from esper_plugins.devices.tensors import Key

ROWS, SAMPLES = 2, 4
"""Modules of a kind, and samples that each of them sees."""
TOLERANCE = 1e-9
"""Largest difference, relative to the largest number."""

OUTPUTS = "its outputs"

Run = Callable[[nn.Module, int], Tensor]
"""`(module, row) -> output` of one module on its own."""
RunAll = Callable[[nn.Module, dict[str, Tensor]], Tensor]
"""`(module, tensors) -> outputs` of all of them, one row each."""


def check(program: Program) -> None:
    """Try everything that a program may build.

    Raises:
        ConfigError: something cannot be stacked; the message names it and says why.
    """
    with keyed_generator(0):
        fit = program.problem.fit.inputs
        x = fit[torch.arange(ROWS * SAMPLES) % len(fit)].unflatten(0, (ROWS, SAMPLES)).cpu()
        seen = _try_hosts(program, x.double().nan_to_num(0.0, 0.0, 0.0) if x.is_floating_point() else x)
        tried = set()
        for site, blueprint, blend in np.argwhere(program.space.fits).tolist():
            source, h = seen[site]
            kind = (blueprint, blend, program.sites[site].kind, source.shape)
            if kind not in tried:
                tried.add(kind)
                _try_seeds(program, Key(site, blueprint, blend), source, h)


def _try_hosts(program: Program, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Also returns what seeds would read and change at every site, `[ROWS, SAMPLES, ...]` each."""
    hosts = [program.host(0, env).double() for env in range(ROWS)]

    def one(host: nn.Module, row: int) -> Tensor:
        return fold(cast(Host, host), x[row], {})

    def together(host: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        return fold(cast(Host, StackedHost.of(cast(Host, host), tensors)), x, {})

    _refuse(f"host {program.problem.host.name}", hosts, one, together)
    with torch.no_grad():
        seen = [features(host.eval(), x[row]) for row, host in enumerate(hosts)]
    return [
        (torch.stack([source for source, _ in rows]), torch.stack([h for _, h in rows]))
        for rows in zip(*seen, strict=True)
    ]


def _try_seeds(program: Program, key: Key, source: Tensor, h: Tensor) -> None:
    """Away from their birth, at which their changes are 0."""
    seeds = [program.seed(*key, (0, row, 0)).double() for row in range(ROWS)]
    for row, seed in enumerate(seeds):
        for parameter in seed.parameters():
            parameter.data += (torch.arange(parameter.numel()) + row).sin().view_as(parameter)

    def one(seed: nn.Module, row: int) -> Tensor:
        change: Tensor = seed(source[row], h[row])
        return change

    def together(seed: nn.Module, tensors: dict[str, Tensor]) -> Tensor:
        return RowwiseSeed(seed).on(tensors, torch.arange(ROWS), source, h)

    blend = program.space.blends[key.blend].name.lower()
    _refuse(f"blueprint {program.blueprints[key.blueprint].name} ({blend})", seeds, one, together)


def _refuse(what: str, modules: Sequence[nn.Module], one: Run, together: RunAll) -> None:
    """Compare modules one by one with all of them as rows."""
    try:
        reason = _difference(modules, one, together, True) or _difference(modules, one, together, False)
    except Exception as error:
        text = str(error).splitlines()[0]
        reason = "it draws random numbers" if "randomness" in text else f"{type(error).__name__}: {text}"
    if reason is not None:
        raise ConfigError(
            f"device.executor = 'stacked': {what} cannot be stacked: {reason}; use device.executor = 'loop'"
        )


def _difference(modules: Sequence[nn.Module], one: Run, together: RunAll, mode: bool) -> str | None:
    """What differs in training mode, or in evaluation; None if nothing does."""
    block = Block.of(modules, Layout.of(modules[0]), (), torch.empty(0, dtype=torch.float64))
    with torch.no_grad():
        found = {OUTPUTS: together(modules[0].train(mode), block.named()), **block.buffers}
        outputs = torch.stack([one(module.train(mode), row) for row, module in enumerate(modules)])
    alone = Block.of(modules, block.layout, (), block.values)
    for name, expected in {OUTPUTS: outputs, **alone.buffers}.items():
        expected = expected.double()
        close = TOLERANCE * max(expected.nan_to_num(0.0, 0.0, 0.0).abs().flatten().tolist(), default=0.0)
        if not torch.allclose(found[name].double(), expected, 0.0, close, equal_nan=True):
            return f"{name} as one of several rows are not those of the module itself"
    return None
