"""Blocks: parameters, optimizer state and buffers of R modules of one structure, stacked.

Every named tensor of shape `shape` is a view `[R, *shape]` on one flat `[R, P]` block, so that a row is one
environment's (or one seed's) complete state: snapshot, migration and removal are copies of rows, and norms,
clipping and optimizer steps are operations on whole blocks.

Role: storage. Neighbours: `optimizers` steps blocks, `loop` binds modules to their rows.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import attrs
import torch
from torch import Tensor, nn

from esper_core.plugin import PluginError


@attrs.frozen(eq=False)
class Layout:
    """Names, shapes and offsets of the parameters of one structure.

    Attributes:
        names: of the trainable parameters.
        shapes: theirs.
        buffers: names of the buffers (and of parameters that do not train).
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    buffers: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "Layout":
        """Layout of a module; parameters that are shared are counted once."""
        parameters = dict(module.named_parameters())
        trainable = {name: p for name, p in parameters.items() if p.requires_grad}
        fixed = [name for name in parameters if name not in trainable]
        buffers = [name for name, _ in module.named_buffers()]
        return cls(
            names=tuple(trainable),
            shapes=tuple(p.shape for p in trainable.values()),
            buffers=(*fixed, *buffers),
        )

    def expect(self, module: nn.Module) -> None:
        """Raise `PluginError` unless a module has this layout."""
        other = Layout.of(module)
        mine, found = (
            {**dict(zip(one.names, one.shapes, strict=True)), **dict.fromkeys(one.buffers)}
            for one in (self, other)
        )
        for name in {**mine, **found}:
            if name not in mine or name not in found or mine[name] != found[name]:
                raise PluginError(
                    f"two modules of one builder ({type(module).__name__}) differ in {name!r}; "
                    "chance may decide values, never which parameters and buffers there are or their shapes"
                )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers per parameter."""
        return tuple(shape.numel() for shape in self.shapes)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The named views `[..., *shape]` of a flat `[..., P]` tensor."""
        lead = flat.shape[:-1]
        pieces = flat.split(self.sizes, dim=-1)
        return [p.view(*lead, *shape) for p, shape in zip(pieces, self.shapes, strict=True)]


@attrs.frozen(eq=False)
class Block:
    """State of R modules of one structure.

    Attributes:
        layout: what the columns mean.
        values: `[R, P]` parameters.
        state: `[R, P]` per name of the optimizer's state.
        steps: `[R]` optimizer steps taken.
        buffers: `[R, ...]` by name.
    """

    layout: Layout
    values: Tensor
    state: dict[str, Tensor]
    steps: Tensor
    buffers: dict[str, Tensor]

    @classmethod
    def of(
        cls, modules: Sequence[nn.Module], layout: Layout, state: tuple[str, ...], like: Tensor
    ) -> "Block":
        """Stack modules; their optimizer state is zero.

        Args:
            modules: of one structure.
            layout: theirs.
            state: names of the optimizer's state tensors.
            like: gives dtype and device.

        Raises:
            PluginError: the modules differ in structure; the message names a tensor that they do not share.
        """
        for module in modules:
            layout.expect(module)
        parameters = [dict(m.named_parameters()) for m in modules]
        values = torch.stack(
            [torch.cat([p[name].detach().reshape(-1) for name in layout.names]) for p in parameters]
        ).to(like)
        everything = [{**p, **dict(m.named_buffers())} for p, m in zip(parameters, modules, strict=True)]
        return cls(
            layout=layout,
            values=values,
            state={name: torch.zeros_like(values) for name in state},
            steps=torch.zeros(len(modules), dtype=torch.int64, device=values.device),
            buffers={
                name: _cast(torch.stack([e[name].detach() for e in everything]), like)
                for name in layout.buffers
            },
        )

    @property
    def rows(self) -> int:
        """R."""
        return len(self.values)

    def named(self) -> dict[str, Tensor]:
        """Parameters and buffers by name, `[R, ...]`; they share memory with the block."""
        return {
            **dict(zip(self.layout.names, self.layout.views(self.values), strict=True)),
            **self.buffers,
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name; the first axis of each is the row."""
        for name, view in zip(self.layout.names, self.layout.views(self.values), strict=True):
            yield f"parameters/{name}", view
        for kind, flat in self.state.items():
            for name, view in zip(self.layout.names, self.layout.views(flat), strict=True):
                yield f"{kind}/{name}", view
        yield "steps", self.steps
        for name, buffer in self.buffers.items():
            yield f"buffers/{name}", buffer

    def part(self, rows: slice) -> "Block":
        """Some rows, in place: the tensors are views."""
        return self._map(lambda t: t[rows])

    def take(self, rows: list[int]) -> "Block":
        """A block of copies of some rows."""
        return self._map(lambda t: t[rows])

    def join(self, other: "Block") -> "Block":
        """This block's rows, then the other's."""
        return attrs.evolve(
            self,
            values=torch.cat([self.values, other.values]),
            state={name: torch.cat([t, other.state[name]]) for name, t in self.state.items()},
            steps=torch.cat([self.steps, other.steps]),
            buffers={name: torch.cat([t, other.buffers[name]]) for name, t in self.buffers.items()},
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Block":
        return attrs.evolve(
            self,
            values=function(self.values),
            state={name: function(t) for name, t in self.state.items()},
            steps=function(self.steps),
            buffers={name: function(t) for name, t in self.buffers.items()},
        )


def bind(module: nn.Module, block: Block, row: int) -> list[nn.Parameter]:
    """Make a module's parameters and buffers views of a row, and return its trainable parameters.

    Training the module then trains the row; nothing is copied in a step. The tensors stay the objects that
    they are, so that whatever else refers to them (shared parameters, a module's own list) goes on to.

    Args:
        module: with the block's dtype and device.
        block: of its structure.
        row: which row.
    """
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, view in zip(block.layout.names, block.layout.views(block.values[row]), strict=True):
        named[name].data = view
    for name, buffer in block.buffers.items():
        named[name].data = buffer[row]
    return [cast(nn.Parameter, named[name]) for name in block.layout.names]


def _cast(buffer: Tensor, like: Tensor) -> Tensor:
    """Floating buffers get the block's dtype, counters keep theirs."""
    return buffer.to(like) if buffer.is_floating_point() else buffer.to(like.device)
