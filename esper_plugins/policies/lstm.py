"""The policy `lstm`: learns from every round by recurrent proximal policy optimisation.

Observations are normalised by moments that stay as they are for a whole round and take in what was seen at
its end; so is the unit of the values, of which every reward mode has its own. Masks are part of the
distribution, and every choice that is offered keeps a least probability.

Role: the glue between what a run shows and the network. Neighbours: `pointer` is the network,
`esper_core.plugin` gives features, distributions and the update.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_core.plugin import (
    HEADS,
    HEADS_OF,
    HOST_FEATURES,
    MEASURES,
    SLOT_FEATURES,
    Bools,
    Choice,
    Decision,
    Floats,
    Ints,
    Learned,
    Moments,
    Op,
    PolicyContext,
    Purpose,
    Rollout,
    RunError,
    View,
    bits,
    experience,
    host_features,
    improve,
    keyed_generator,
    name_of,
    sample,
    slot_features,
)
from esper_plugins.policies.pointer import Memory, PointerNet
from esper_plugins.policies.settings import Lstm

CLIP = 5.0
"""Largest normalised feature: beyond it a rare event is just rare."""
ADAM_EPS = 1e-5
"""Keeps the first steps small where gradients are."""
USES = np.asarray([[head in HEADS_OF[op] for head in HEADS] for op in Op])
"""`[6, 7]`: the operation uses the head."""


def build(context: PolicyContext, settings: Lstm) -> "LstmPolicy":
    """The policy for a vocabulary of actions."""
    return LstmPolicy(context, settings)


class LstmPolicy:
    """See `esper_core.plugin.protocols.Policy`."""

    needs = MEASURES
    """It looks at everything that can be measured at a site."""

    def __init__(self, context: PolicyContext, settings: Lstm) -> None:
        """Draw the network from the run's seed."""
        self._context = context
        with keyed_generator(int(bits(context.root, Purpose.NETWORK) >> np.uint64(1))):
            self._network = PointerNet(
                len(HOST_FEATURES), len(SLOT_FEATURES), context.space, settings, context.groups
            )
        self._adam = torch.optim.Adam(self._network.parameters(), context.learn.lr, eps=ADAM_EPS)
        self._moments = {
            "host": Moments.none(len(HOST_FEATURES)),
            "slots": Moments.none(len(SLOT_FEATURES)),
            **{f"returns/{group}": Moments.none(1) for group in range(context.groups)},
        }

    def start(self, envs: Ints, round_index: int) -> Memory:
        """Nothing is remembered."""
        return self._network.blank(len(envs))

    @torch.no_grad()
    def decide(self, view: View, memory: Memory, uniforms: Floats) -> Choice:
        """Draw one head after the other, each given those before it."""
        context = self._context
        seen = {
            "host": host_features(
                view.epoch, view.epochs, view.begins, view.slots, view.signals, context.host_parameters
            ),
            "slots": slot_features(view.epochs, view.slots, view.evidence, context.host_parameters),
            "begins": view.begins,
        }
        inputs = {name: torch.from_numpy(values).unsqueeze(0) for name, values in self._read(seen).items()}
        codes, memory = self._network.encode(inputs["host"], inputs["slots"], inputs["begins"], memory)
        chosen = {head: np.zeros(len(uniforms), np.int64) for head in HEADS}
        trace = dict(seen)
        draws = torch.from_numpy(uniforms)
        for index, head in enumerate(HEADS):
            mask = self._mask(head, view, chosen)
            op, slot = (torch.from_numpy(chosen[name]).unsqueeze(0) for name in ("op", "slot"))
            p = self._network.probabilities(head, codes, op, slot, torch.from_numpy(mask).unsqueeze(0))
            chosen[head] = sample(p[0], draws[:, index]).numpy()
            trace[f"mask_{head}"] = mask
        return Choice(decision=Decision(**chosen), memory=memory, trace=trace)

    def learn(self, rollout: Rollout, round_index: int, rounds: int) -> Mapping[str, float]:
        """One round of updates; then the normalisers take in what was seen."""
        learn, network = self._context.learn, self._network
        masks = np.stack([rollout.trace[f"mask_{head}"].sum(axis=-1) for head in HEADS], axis=-1)
        group = np.tile(rollout.group, (len(rollout.reward), 1))
        played = experience(
            network,
            attrs.evolve(rollout, trace={**self._read(rollout.trace), "group": group}),
            torch.from_numpy(masks > 1),
            learn,
        )
        told = improve(
            network,
            self._adam,
            played,
            learn,
            scale=network.value_std[torch.from_numpy(rollout.group)],
            keys=(self._context.root, round_index),
            progress=round_index / max(1, rounds - 1),
        )
        self._take_in(rollout, played.target.to(torch.float64).numpy())
        return told

    def _take_in(self, rollout: Rollout, returns: Floats) -> None:
        """Merge what was seen into the normalisers, and give the values the units of the returns."""
        seen = {name: rollout.trace[name][rollout.played] for name in ("host", "slots")}
        for group in range(self._context.groups):
            seen[f"returns/{group}"] = returns[rollout.played & (rollout.group == group)][:, None]
        self._moments = {
            name: moments.merge(seen[name].reshape(-1, seen[name].shape[-1]))
            for name, moments in self._moments.items()
        }
        units = [self._moments[f"returns/{group}"] for group in range(self._context.groups)]
        mean, std = (np.concatenate(parts) for parts in zip(*((u.mean, u.std) for u in units), strict=True))
        self._network.rescale(torch.from_numpy(mean), torch.from_numpy(std))

    def state(self) -> Learned:
        """Copies of the network, the optimizer and the normalisers; and what they read and choose."""
        adam = self._adam.state_dict()["state"]
        tensors = {f"network/{name}": tensor for name, tensor in self._network.state_dict().items()}
        for index, (name, _) in enumerate(self._network.named_parameters()):
            if index in adam:
                tensors |= {f"adam/{name}/{part}": adam[index][part] for part in adam[index]}
        moments = {
            name: {"count": moments.count, "mean": moments.mean.tolist(), "m2": moments.m2.tolist()}
            for name, moments in self._moments.items()
        }
        return Learned(
            values={"vocabulary": self._vocabulary(), "moments": moments},
            tensors={name: tensor.clone() for name, tensor in tensors.items()},
        )

    def restore(self, state: Learned) -> None:
        """Go on from a copy of what `state` gave.

        Raises:
            RunError: it was learned with other features, choices or sizes.
        """
        self._expect_same(state)
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self._network.load_state_dict(_under("network/", tensors))
        adam = self._adam.state_dict()
        for index, (name, _) in enumerate(self._network.named_parameters()):
            found = _under(f"adam/{name}/", tensors)
            if found:
                adam["state"][index] = found
        self._adam.load_state_dict(adam)
        self._moments = {
            name: Moments(count=v["count"], mean=np.asarray(v["mean"]), m2=np.asarray(v["m2"]))
            for name, v in state.values["moments"].items()
        }

    def _vocabulary(self) -> dict[str, Any]:
        """Names of all features, and of all choices but those of slots, of which any number is served."""
        space = self._context.space
        return {
            "features of hosts": list(HOST_FEATURES),
            "features of slots": list(SLOT_FEATURES),
            "operations": [name_of(op) for op in Op],
            "blueprints": list(space.blueprints),
            "blends": [name_of(blend) for blend in space.blends],
            "curves": [name_of(curve) for curve in space.curves],
            "targets": space.targets.tolist(),
            "speeds": space.speeds.tolist(),
            "reward modes": self._context.groups,
        }

    def _expect_same(self, state: Learned) -> None:
        """Refuse what was learned for another vocabulary, or by a network of another size."""
        found, wrong = state.values.get("vocabulary", {}), []
        for what, expected in self._vocabulary().items():
            if found.get(what) != expected:
                wrong.append(f"{what}: has {found.get(what)}, expected {expected}")
        tensors = _under("network/", state.tensors)
        for name, tensor in self._network.state_dict().items():
            shape = tuple(tensors[name].shape) if name in tensors else None
            if shape != tuple(tensor.shape):
                wrong.append(f"{name}: has the shape {shape}, expected {tuple(tensor.shape)}")
        if state.values.get("moments", {}).keys() != self._moments.keys():
            wrong.append(f"moments: has none, or others than {', '.join(self._moments)}")
        if wrong:
            raise RunError(
                "policy esper/lstm: the checkpoint was learned with other settings or by another version\n"
                + "\n".join(f"  {line}" for line in wrong)
                + "\ngo on with the settings and the version that wrote it, or begin a new run"
            )

    def _read(self, seen: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the network reads: features normalised; the rest as it is."""
        normalised = {name: self._moments[name].normalise(seen[name], CLIP) for name in ("host", "slots")}
        return {**seen, **normalised}

    def _mask(self, head: str, view: View, chosen: Mapping[str, Ints]) -> Bools:
        """`[N, K]` choices of a head that will succeed; none where the operation does not use it."""
        env, masks = np.arange(len(chosen["op"])), view.masks
        if head == "op":
            return masks.op
        op, slot = chosen["op"], chosen["slot"]
        free = np.ones((len(op), self._network.sizes[head]), np.bool_)
        if head == "slot":
            free = masks.slot[env, op]
        if head == "blueprint":
            free = masks.blueprint[env, slot]
        if head == "blend":
            free = masks.blend[env, slot, chosen["blueprint"]]
        if head == "target":
            free = masks.target[env, slot] | (op != Op.SET_ALPHA_TARGET)[:, None]
        used: Bools = free & USES[op, HEADS.index(head)][:, None]
        return used


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
