"""Modules of one structure, applied to R rows at once.

A module is written for one environment. Here it runs once on stacked parameters, buffers and inputs, each
with a leading axis of rows, by `torch.vmap` or by a form of its own; no row sees another.

Role: the only place that knows how a module is stacked. Neighbours: `forms` are the shortcuts, `stacked`
trains and `branches` evaluates with it, `trial` finds out whether it equals the modules one by one.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from esper_core.plugin import Blend, Seed
from esper_plugins.devices.forms import FORMS


class Rowwise:
    """A module, applied to stacked tensors.

    Attributes:
        reads: names of the tensors that it reads, in the owner's block.
    """

    def __init__(self, module: nn.Module, owner: nn.Module | None = None) -> None:
        """Find out which tensors the module reads.

        Args:
            module: gives structure and mode; its own tensors are not read.
            owner: the module whose block has the tensors, if it is not `module` itself.
        """
        self._module = module
        self._names = _names(module, owner or module)
        self.reads = frozenset(self._names.values())

    def __call__(self, tensors: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        """Apply the module.

        Args:
            tensors: `[R, ...]` by name in the owner's block, others among them; buffers may be written.
            inputs: `[R, B, ...]`.

        Returns:
            `[R, B, ...]`.
        """
        mine = {name: tensors[theirs] for name, theirs in self._names.items()}
        return _apply(self._module, mine, "", *inputs)


class RowwiseSeed(Rowwise):
    """Seeds, applied to stacked tensors and to features of more rows than their own."""

    def __init__(self, seed: nn.Module) -> None:
        """Find out what a seed reads."""
        super().__init__(seed)
        self._reads_h = cast(Seed, seed).blend is Blend.MULTIPLY

    def on(self, tensors: Mapping[str, Tensor], rows: Tensor, source: Tensor, h: Tensor) -> Tensor:
        """The changes that seeds propose.

        Args:
            tensors: `[r, ...]`.
            rows: `[r]` rows of the features that they read.
            source: `[R, B, ...]`, what a seed reads.
            h: `[R, B, ...]`, what it would change.

        Returns:
            `[r, B, ...]`.
        """
        source = source.index_select(0, rows)
        # a change that is no multiple of the features does not read them, and any would do
        return self(tensors, source, h.index_select(0, rows) if self._reads_h else source)


def _apply(module: nn.Module, tensors: Mapping[str, Tensor], path: str, *inputs: Tensor) -> Tensor:
    """Apply a module whose names begin with `path`."""
    if type(module) is Seed and module.blend is Blend.ADD:
        return _apply(module.branch, tensors, f"{path}branch.", inputs[0])
    if type(module) is nn.Sequential:
        (x,) = inputs
        for name, child in module.named_children():
            x = _apply(child, tensors, f"{path}{name}.", x)
        return x
    form = FORMS.get(type(module))
    return _vmapped(module, tensors, path, *inputs) if form is None else form(module, tensors, path, *inputs)


def _vmapped(module: nn.Module, tensors: Mapping[str, Tensor], path: str, *inputs: Tensor) -> Tensor:
    mine = {name[len(path) :]: tensor for name, tensor in tensors.items() if name.startswith(path)}

    def one(tensors: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        result: Tensor = functional_call(module, tensors, inputs, tie_weights=False)
        return result

    result: Tensor = torch.vmap(one, randomness="error")(mine, inputs)
    return result


def _names(module: nn.Module, owner: nn.Module) -> dict[str, str]:
    """The name in the owner's block of every tensor that a module has, by the module's own name for it."""
    names = {id(tensor): name for name, tensor in reversed(_named(owner).items())}
    return {name: names[id(tensor)] for name, tensor in _named(module).items()}


def _named(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names, those first that a block goes by."""
    return {
        **dict(module.named_parameters()),
        **dict(module.named_buffers()),
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }
