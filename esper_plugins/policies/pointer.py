"""The network of the policy `lstm`: a recurrent summary of the host, and a pointer over its slots.

Every slot is encoded by the same weights, and what is done where is scored by the same weights, so that one
network serves hosts with any number of slots. The summary reads the host's features with the mean and the
maximum of the slots' codes; it goes through an LSTM cell, whose memory starts at 0 with every segment. The
operation comes first; slot, then blueprint, then the heads of the ramp follow, each given those before it.

Role: the tensors of the policy. Neighbours: `lstm` feeds it, and learns.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_core.plugin import HEADS, ActionSpace, Judged, Op, entropy, log_probability, probabilities
from esper_plugins.policies.settings import Lstm

Memory = tuple[Tensor, Tensor]
"""Hidden and cell state, `[N, H]` each."""
OPS = len(Op)


class Codes(NamedTuple):
    """What the network makes of what it sees.

    Attributes:
        summary: `[..., N, 2 H]` of the hosts, with and without memory.
        slots: `[..., N, S, E]`.
    """

    summary: Tensor
    slots: Tensor


class PointerNet(nn.Module):
    """Encodes hosts and slots, and scores choices and values."""

    value_mean: Tensor
    value_std: Tensor

    def __init__(self, host: int, slot: int, space: ActionSpace, settings: Lstm, groups: int) -> None:
        """Draw the weights.

        Args:
            host: features of a host, F.
            slot: features of a slot, G.
            space: gives the numbers of choices.
            settings: sizes.
            groups: reward modes, each with a value and a unit of its own.
        """
        super().__init__()
        size, code = settings.hidden, settings.slot_code
        self._floor = settings.floor
        self.sizes = dict(zip(HEADS, space.sizes, strict=True))
        self.slot_encoder: nn.Module = nn.Sequential(
            nn.Linear(slot, code), nn.Tanh(), nn.Linear(code, code), nn.Tanh()
        )
        self.host_encoder = nn.Sequential(nn.Linear(host + 2 * code, size), nn.Tanh())
        self.cell = nn.LSTMCell(size, size)
        self.op = nn.Linear(2 * size, OPS)
        self.before_point = nn.Linear(2 * size + code, size)
        self.point = nn.Linear(size, OPS)
        self.before_choose = nn.Linear(2 * size + code + OPS, size)
        self.choose = nn.ModuleDict({head: nn.Linear(size, self.sizes[head]) for head in HEADS[2:]})
        self.before_expect = nn.Linear(2 * size, size)
        self.expect = nn.Linear(size, groups)
        self.register_buffer("value_mean", torch.zeros(groups))
        self.register_buffer("value_std", torch.ones(groups))
        self._initialise(settings.wait_bias)

    def _initialise(self, wait_bias: float) -> None:
        """Orthogonal weights; small ones for what scores choices, so that the first policy is near uniform.

        Args:
            wait_bias: logit of the operation WAIT at the start.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, 2**0.5)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.startswith(("op.", "point.", "choose.")):
                    parameter.mul_(0.01)
            self.expect.weight.mul_(0.1)
            self.op.bias[Op.WAIT] = wait_bias

    def blank(self, envs: int) -> Memory:
        """Memory at the start of a segment."""
        zeros = self.op.weight.new_zeros(envs, self.cell.hidden_size)
        return zeros, zeros.clone()

    def encode(self, host: Tensor, slots: Tensor, begins: Tensor, memory: Memory) -> tuple[Codes, Memory]:
        """Run over a sequence.

        Args:
            host: `[T, N, F]`, in any precision.
            slots: `[T, N, S, G]`, as well.
            begins: `[T, N]` bool, a segment begins.
            memory: before the first step.

        Returns:
            Codes with leading axes `[T, N]`, and the memory after the last step.
        """
        host, slots = host.to(self.value_mean.dtype), slots.to(self.value_mean.dtype)
        codes = self.slot_encoder(slots)
        seen = self.host_encoder(torch.cat([host, codes.mean(dim=-2), codes.amax(dim=-2)], dim=-1))
        hidden = []
        for x, new in zip(seen, begins.unsqueeze(-1), strict=True):
            h, c = (torch.where(new, torch.zeros_like(state), state) for state in memory)
            memory = self.cell(x, (h, c))
            hidden.append(memory[0])
        return Codes(torch.cat([torch.stack(hidden), seen], dim=-1), codes), memory

    def head(self, name: str, codes: Codes, op: Tensor, slot: Tensor) -> Tensor:
        """Logits of a head, given the choices before it.

        Args:
            name: of `HEADS`.
            codes: what is seen.
            op: `[..., N]`; the head `op` does not read it.
            slot: `[..., N]`; the heads `op` and `slot` do not read it.

        Returns:
            `[..., N, K]`.
        """
        if name == "op":
            return self.op(codes.summary)  # type: ignore[no-any-return]
        if name == "slot":
            wide = codes.summary.unsqueeze(-2).expand(*codes.slots.shape[:-1], -1)
            scores = self.point(self.before_point(torch.cat([wide, codes.slots], dim=-1)).tanh())
            index = op[..., None, None].expand(*scores.shape[:-1], 1)
            return scores.gather(-1, index).squeeze(-1)  # type: ignore[no-any-return]
        index = slot[..., None, None].expand(*slot.shape, 1, codes.slots.shape[-1])
        here = codes.slots.gather(-2, index).squeeze(-2)
        kind = nn.functional.one_hot(op, OPS).to(here.dtype)
        given = self.before_choose(torch.cat([codes.summary, here, kind], dim=-1)).tanh()
        return self.choose[name](given)  # type: ignore[no-any-return]

    def probabilities(self, name: str, codes: Codes, op: Tensor, slot: Tensor, mask: Tensor) -> Tensor:
        """Probabilities of a head's choices, `[..., N, K]`; `mask` says which are valid, see `head`."""
        return probabilities(self.head(name, codes, op, slot), mask, self._floor)

    def values(self, codes: Codes, group: Tensor) -> Tensor:
        """`[..., N]` expected return under the reward mode that pays the environment, `group` `[..., N]`."""
        scaled = self.expect(self.before_expect(codes.summary).tanh())
        here: Tensor = scaled.gather(-1, group.unsqueeze(-1)).squeeze(-1)
        return here * self.value_std[group] + self.value_mean[group]

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        """See `esper_core.phases.update.Actor`: how probable choices were, and what was expected."""
        envs = heads.shape[1]
        codes, _ = self.encode(trace["host"], trace["slots"], trace["begins"], self.blank(envs))
        op, slot = heads[..., 0], heads[..., 1]
        log_probabilities, entropies = [], []
        for index, name in enumerate(HEADS):
            mask = trace[f"mask_{name}"]
            p = self.probabilities(name, codes, op, slot, mask)
            log_probabilities.append(log_probability(p, heads[..., index]))
            entropies.append(entropy(p, mask))
        return Judged(
            torch.stack(log_probabilities, dim=-1),
            torch.stack(entropies, dim=-1),
            self.values(codes, trace["group"]),
        )

    @torch.no_grad()
    def rescale(self, mean: Tensor, std: Tensor) -> None:
        """Give each group's values another unit without changing any of them (van Hasselt et al. 2016).

        Args:
            mean: `[groups]` that becomes 0.
            std: `[groups]` that becomes 1.
        """
        last, old_mean, old_std = self.expect, self.value_mean, self.value_std
        mean, std = mean.to(old_mean), std.to(old_std)
        last.weight.mul_((old_std / std).unsqueeze(-1))
        last.bias.copy_((old_std * last.bias + old_mean - mean) / std)
        old_mean.copy_(mean)
        old_std.copy_(std)
