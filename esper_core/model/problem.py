"""A problem: what a task builds. Data in three disjoint parts, a host, a loss and a score.

Role: the contract between a task plugin and everything else.
Neighbours: task plugins build it, `model.program` carries it, device strategies read its data.
"""

from collections.abc import Callable

from attrs import frozen
from torch import Tensor

from esper_core.model.hosts import Host
from esper_core.model.parts import Part

SPLITS = ("fit", "validation", "report")


@frozen(eq=False)
class Split:
    """Samples of one part of the data, in memory.

    Attributes:
        inputs: `[n, ...]`.
        targets: `[n]` or `[n, ...]`.
    """

    inputs: Tensor
    targets: Tensor

    def __attrs_post_init__(self) -> None:
        """Refuse inputs and targets of unequal length, and an empty part."""
        if len(self.inputs) != len(self.targets):
            raise ValueError(f"{len(self.inputs)} inputs and {len(self.targets)} targets do not match")
        if len(self.inputs) == 0:
            raise ValueError("a part of the data is empty")

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.inputs)


@frozen(kw_only=True, eq=False)
class Problem:
    """What a task builds.

    Hosts train on `fit`; gates, rewards and controllers see `validation`; `report` is read once, at the end.

    Attributes:
        fit: samples to train on.
        validation: samples to decide on.
        report: samples to report on.
        host: how to build the host.
        loss: `(outputs, targets) -> [B]`, per sample, differentiable; lower is better.
        score: `(outputs, targets) -> [B]`, per sample; its mean over samples is the score.
        score_name: as it is printed, for example "accuracy".
        higher_is_better: direction of the score.
        chance: mean loss of knowing nothing, for ten classes ln 10; None where there is no such number.
        bottleneck: `(host) -> name` of the site of a newborn host where help is needed most; None where the
            task cannot tell.
    """

    fit: Split
    validation: Split
    report: Split
    host: Part
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], Tensor]
    score_name: str = "accuracy"
    higher_is_better: bool = True
    chance: float | None = None
    bottleneck: Callable[[Host], str | None] | None = None

    def split(self, name: str) -> Split:
        """One of the three parts by name."""
        if name not in SPLITS:
            raise ValueError(f"no part {name!r} of the data; expected one of {', '.join(SPLITS)}")
        part: Split = getattr(self, name)
        return part
