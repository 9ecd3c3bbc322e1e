"""The training loop once more, in plain PyTorch: one network at a time, modules, torch.optim, `if` and `for`.

It shares no code with what it is compared to. Only data, initial weights and the order of the samples come
from outside. A seed that incubates is written down as what it means: the gradient that the loss has at the
seed's site is handed to the seed, through an explicit cap, and to nobody else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainMLP(nn.Module):
    """Stem, blocks with dead units, read-out."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.layer = nn.Linear(width, width)
            self.register_buffer("alive", torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(F.linear(x, self.layer.weight, self.layer.bias)) * self.alive

    def __init__(self, inputs: int, width: int, blocks: int, classes: int) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        middle = [self.Block(width) for _ in range(blocks)]
        self.segments = nn.ModuleList([stem, *middle, nn.Linear(width, classes)])


class PlainLowRank(nn.Module):
    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down, self.mirror_down = nn.Linear(width, rank // 2), nn.Linear(width, rank // 2)
        self.up = nn.Linear(rank // 2, width, bias=False)
        self.mirror_up = nn.Linear(rank // 2, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x))) - self.mirror_up(F.gelu(self.mirror_down(x))) + self.bias


class PlainConvolution(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.normalise, self.layer = (
            nn.GroupNorm(groups, width, affine=False),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.relu(self.normalise(x)))


class Sprout(nn.Module):
    """A seed: its module, perhaps a gate, and where it stands in its life."""

    def __init__(self, branch: nn.Module, blend: str, width: int) -> None:
        super().__init__()
        self.branch, self.blend = branch, blend
        self.gate = nn.Linear(width, 1) if blend == "gate" else None
        self.stage, self.leaving = "incubating", False
        self.start, self.target, self.steps, self.curve, self.done = 0.0, 0.0, 0, "linear", 0
        self.optimizer: Any = None

    def change(self, x: Tensor, h: Tensor) -> Tensor:
        out = self.branch(x)
        if self.blend == "multiply":
            return h * torch.tanh(out)
        if self.blend == "gate":
            pooled = x.flatten(2).mean(dim=2) if x.dim() == 4 else x
            return torch.sigmoid(self.gate(pooled)).reshape(-1, *[1] * (x.dim() - 1)) * out
        return out

    def aim(self, start: float, target: float, steps: int, curve: str) -> None:
        self.start, self.target, self.steps, self.curve, self.done = start, target, steps, curve, 0

    def alpha(self) -> float:
        if self.stage == "incubating":
            return 0.0
        if self.done >= self.steps:
            return self.target
        return self.start + (self.target - self.start) * CURVES[self.curve](self.done / self.steps)

    def grows(self, freeze_fossils: bool) -> bool:
        return not (self.stage == "fossil" and freeze_fossils)


def _sigmoid(k: float) -> Callable[[float], float]:
    def curve(t: float) -> float:
        low, here, high = (1 / (1 + math.exp(-k * (u - 0.5))) for u in (0.0, t, 1.0))
        return (here - low) / (high - low)

    return curve


CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "cosine": lambda t: 0.5 - 0.5 * math.cos(math.pi * t),
    "sigmoid-gentle": _sigmoid(6),
    "sigmoid": _sigmoid(12),
    "sigmoid-sharp": _sigmoid(24),
}


@dataclass
class History:
    """One entry per epoch."""

    train_loss: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    alphas: list[tuple[float, ...]] = field(default_factory=list)
    capped: int = 0
    clipped: int = 0


@dataclass
class PlainRun:
    """One host that grows by a script.

    `sites` are (name, behind which segment, across); `newborn` gives the module of a seed, by site,
    blueprint, blend and number; `batches` the samples of every step of an epoch; `train` and `growth` are
    settings.
    """

    segments: Sequence[nn.Module]
    sites: Sequence[tuple[str, int, bool]]
    fit: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    newborn: Callable[[int, str, str, int], Sprout]
    batches: Callable[[int], Sequence[Any]]
    train: Any
    growth: Any
    sprouts: dict[int, Sprout] = field(default_factory=dict)
    history: History = field(default_factory=History)
    born: int = 0

    def play(self, script: Sequence[Any]) -> History:
        parameters = [p for segment in self.segments for p in segment.parameters()]
        self.optimizer = self._optimizer(parameters, self.train.host)
        for epoch in range(self.train.epochs):
            for event in script:
                if event.epoch == epoch:
                    self._act(event)
            self._tick()
            self._train(epoch)
            self._evaluate()
        return self.history

    def _act(self, event: Any) -> None:
        site = [name for name, _, _ in self.sites].index(event.slot)
        sprout = self.sprouts.get(site)
        steps, curve = event.speed or 0, event.curve or "linear"
        if event.op == "germinate":
            sprout = self.newborn(site, event.blueprint, event.blend or "add", self.born)
            sprout.aim(0.0, event.target, steps, curve)
            sprout.optimizer = self._optimizer(list(sprout.parameters()), self.train.seed)
            self.sprouts[site] = sprout
            self.born += 1
        elif event.op == "advance":
            sprout.stage = "blending"
        elif event.op == "set-alpha-target":
            sprout.aim(sprout.alpha(), event.target, steps, curve)
            sprout.stage = "blending"
        elif event.op == "fossilize":
            sprout.stage = "fossil"
        elif steps == 0 or sprout.alpha() == 0.0:
            del self.sprouts[site]
        else:
            sprout.aim(sprout.alpha(), 0.0, steps, curve)
            sprout.stage, sprout.leaving = "blending", True

    def _tick(self) -> None:
        for site, sprout in list(self.sprouts.items()):
            if sprout.stage == "blending":
                sprout.done += 1
            if sprout.leaving and sprout.done >= sprout.steps:
                del self.sprouts[site]

    def _forward(
        self, x: Tensor, on: Callable[[Sprout], float]
    ) -> tuple[Tensor, list[tuple[Sprout, Tensor, Tensor]]]:
        """The output, and what the incubating seeds read and would have changed."""
        waiting = []
        gain = self.growth.input_gain
        behind = {after: (site, across) for site, (_, after, across) in enumerate(self.sites)}
        for index, segment in enumerate(self.segments):
            before, x = x, segment(x)
            site, across = behind.get(index, (-1, False))
            sprout = self.sprouts.get(site)
            if sprout is None:
                continue
            source = before if across else x
            if sprout.stage == "incubating":
                waiting.append((sprout, source.detach(), x))
            elif on(sprout) > 0.0:
                seen = [gain * t + (1 - gain) * t.detach() for t in (source, x)]
                x = x + on(sprout) * sprout.change(*seen)
        return x, waiting

    def _train(self, epoch: int) -> None:
        batches = self.batches(epoch)
        total, count = 0.0, 0
        for segment in self.segments:
            segment.train()
        for sprout in self.sprouts.values():
            sprout.train(sprout.grows(self.growth.freeze_fossils))
        for number, rows in enumerate(batches):
            rate = self._rate(epoch * len(batches) + number, self.train.epochs * len(batches))
            total += self._step(self.fit[0][rows], self.fit[1][rows], rate)
            count += len(rows)
        self.history.train_loss.append(total / count)
        self.history.alphas.append(tuple(s.alpha() for _, s in sorted(self.sprouts.items())))

    def _step(self, x: Tensor, y: Tensor, rate: float) -> float:
        out, waiting = self._forward(x, Sprout.alpha)
        losses = F.cross_entropy(out, y, reduction="none")
        training = [s for s in self.sprouts.values() if s.grows(self.growth.freeze_fossils)]
        groups = [(self.optimizer, self.train.host), *((s.optimizer, self.train.seed) for s in training)]
        for optimizer, _ in groups:
            optimizer.zero_grad(set_to_none=True)
        felt = (
            torch.autograd.grad(losses.mean(), [h for _, _, h in waiting], retain_graph=True)
            if waiting
            else ()
        )
        losses.mean().backward()
        for (sprout, source, h), gradient in zip(waiting, felt, strict=True):
            sprout.zero_grad(set_to_none=True)
            self._capped(sprout.change(source, h.detach()), h.detach()).backward(gradient)
        self._clip(groups, [s.optimizer for s, _, _ in waiting])
        for optimizer, settings in groups:
            optimizer.param_groups[0]["lr"] = rate * settings.lr
            optimizer.step()
        return float(losses.detach().sum())

    def _capped(self, delta: Tensor, h: Tensor) -> Tensor:
        """delta, drawn back to the sphere of radius cap |h| if it lies outside."""
        limit, norm = self.growth.incubation_cap * max(float(h.norm()), 0.1 * h.numel() ** 0.5), delta.norm()
        if norm <= limit:
            return delta
        self.history.capped += 1
        return delta * (limit / norm)

    def _clip(self, groups: list[tuple[Any, Any]], alone: list[Any]) -> None:
        joint = self.train.clip_scope == "joint"
        together = [o for o, _ in groups if joint and o not in alone]
        piles = [(together, self.train.host)] if together else []
        piles += [([o], settings) for o, settings in groups if o not in together]
        for optimizers, settings in piles:
            if settings.clip:
                parameters = [p for o in optimizers for p in o.param_groups[0]["params"]]
                norm = nn.utils.clip_grad_norm_(parameters, settings.clip)
                self.history.clipped += int(norm > settings.clip)

    def _evaluate(self) -> None:
        x, y = self.validation
        for module in (*self.segments, *self.sprouts.values()):
            module.eval()
        with torch.no_grad():
            live, _ = self._forward(x, Sprout.alpha)
            shipped, _ = self._forward(x, lambda s: s.alpha() if s.stage == "fossil" else 0.0)
            bare, _ = self._forward(x, lambda s: 0.0)
        self.history.loss.append(float(F.cross_entropy(live, y)))
        for name, out in (("score", live), ("committed", shipped), ("bare", bare)):
            getattr(self.history, name).append(float((out.argmax(dim=1) == y).double().mean()))

    def _rate(self, step: int, steps: int) -> float:
        if self.train.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * step / steps))

    @staticmethod
    def _optimizer(parameters: list[nn.Parameter], settings: Any) -> torch.optim.Optimizer:
        if settings.name == "adamw":
            betas = (settings.beta1, settings.beta2)
            return torch.optim.AdamW(
                parameters, lr=settings.lr, betas=betas, eps=settings.eps, weight_decay=settings.weight_decay
            )
        return torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
