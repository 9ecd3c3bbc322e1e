"""The grown network on disk: written by a run, read with nothing but torch and the code of its parts.

    grown.json            parts by import string, with settings; where each seed sits; hashes
    weights.safetensors   parameters and buffers, with plain names
    probe.safetensors     a fixed batch and the outputs that the network gave for it

Role: export and `load_grown`. No run and no plugin manager is needed to read one.
Neighbours: `model.network.GrownNetwork` is what comes back, `runner.described` what is in `grown.json`.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from esper_core.errors import EsperError, RunError
from esper_core.model.hosts import Host
from esper_core.model.network import GrownNetwork
from esper_core.model.parts import Part
from esper_core.model.program import Program, build_host, build_seed, keyed_generator
from esper_core.model.seeds import Seed
from esper_core.plugin.imports import resolve_own
from esper_core.rules import ramps
from esper_core.runner import strict
from esper_core.runner.described import PROBE, WEIGHTS, DescribedNetwork, DescribedPart, DescribedSeed
from esper_core.runner.files import read_json, read_tensors, sha256, write_json, write_tensors
from esper_core.state.actions import Blend
from esper_core.state.slots import SlotTable, Stage

FORMAT = 1
"""Version of the layout."""
SAMPLES = 8
"""Samples of the fixed batch."""


def network_of(program: Program, arrays: Mapping[str, Tensor], slots: SlotTable, env: int) -> GrownNetwork:
    """The network that an environment ships: its host and its committed seeds.

    Args:
        program: builds the shells.
        arrays: what the device strategy exports.
        slots: the table that belongs to them.
        env: position of the environment.
    """
    host = program.host(0, 0)
    _fill(host, arrays, "host", env)
    seeds: dict[str, Seed] = {}
    influence: dict[str, float] = {}
    planted = slots.blueprint >= 0
    for site in np.flatnonzero(slots.stage[env] == Stage.FOSSILIZED).tolist():
        blueprint, blend = int(slots.blueprint[env, site]), int(slots.blend[env, site])
        pool = planted[:, site] & (slots.blueprint[:, site] == blueprint) & (slots.blend[:, site] == blend)
        seed = program.seed(site, blueprint, blend, (0, 0, 0))
        _fill(seed, arrays, f"pool/{site}.{blueprint}.{blend}", int(pool[:env].sum()))
        name = program.sites[site].name
        seeds[name], influence[name] = seed, float(ramps.influence(slots)[env, site])
    return GrownNetwork(host, seeds, influence).eval()


def save(folder: Path, network: GrownNetwork, program: Program, slots: SlotTable, env: int) -> None:
    """Write a network.

    Args:
        folder: replaced as a whole; a reader sees the old network or the new.
        network: of `network_of`.
        program: names the parts.
        slots: the table that the network was made from.
        env: position of the environment.
    """
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    inputs = program.problem.validation.inputs[:SAMPLES]
    floats = next(p for p in network.parameters()).dtype
    inputs = inputs.to(floats) if inputs.is_floating_point() else inputs
    with torch.no_grad():
        outputs = network(inputs)
    write_tensors(aside / WEIGHTS, network.state_dict())
    write_tensors(aside / PROBE, {"inputs": inputs, "outputs": outputs})
    seeds = []
    for index, site in enumerate(program.sites):
        if site.name in network.influence:
            blueprint, blend = int(slots.blueprint[env, index]), int(slots.blend[env, index])
            seeds.append(
                {
                    "site": attrs.asdict(site),
                    "blueprint": _described(program.blueprints[blueprint]),
                    "blend": program.space.blends[blend].name.lower(),
                    "influence": network.influence[site.name],
                    "parameters": int(slots.parameters[env, index]),
                }
            )
    write_json(
        aside / "grown.json",
        {
            "format": FORMAT,
            "dtype": str(floats).removeprefix("torch."),
            "host": _described(program.problem.host),
            "seeds": seeds,
            "hashes": {p.name: sha256(p) for p in sorted(aside.glob("*.safetensors"))},
        },
    )
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def load_grown(path: str | Path) -> GrownNetwork:
    """Rebuild a grown network as a plain module in evaluation mode.

    Args:
        path: a `grown` folder, or the folder of a run.

    Raises:
        RunError: a file is missing, changed or malformed; the message has its path and the reason.
        PluginError: a part's code is not installed, or is no plugin's own.
    """
    folder = _folder(path)
    found = read(folder)
    try:
        with keyed_generator(0):
            host = build_host(_part(folder, found.host))
            _check_sites(folder, found, host)
            seeds = {s.site.name: _seed(folder, s) for s in found.seeds}
    except EsperError:
        raise
    except Exception as error:  # a stranger's builder may raise anything
        raise RunError(f"{folder}: a part cannot be built: {type(error).__name__}: {error}") from error
    network = GrownNetwork(host, seeds, {s.site.name: s.influence for s in found.seeds})
    network = network.to(getattr(torch, found.dtype))
    try:
        network.load_state_dict(read_tensors(folder / WEIGHTS))
    except RuntimeError as error:
        raise RunError(f"{folder}: the weights do not fit the parts that are installed: {error}") from error
    return network.eval()


def _folder(path: str | Path) -> Path:
    """The folder of the network: the one that was named, or the one in the run that was named."""
    inner = Path(path) / "grown"
    return inner if not (Path(path) / "grown.json").is_file() and inner.is_dir() else Path(path)


def read(folder: Path) -> DescribedNetwork:
    """The description of a network, checked, and the other files against their hashes.

    Args:
        folder: of the network.

    Raises:
        RunError: a file is missing, changed or malformed.
    """
    path = folder / "grown.json"
    table = read_json(path)
    version = table.get("format") if isinstance(table, dict) else None
    if version != FORMAT:
        raise RunError(f"{path}: was written in the format {version}; this version reads {FORMAT}")
    try:
        found = strict.structure({k: v for k, v in table.items() if k != "format"}, DescribedNetwork)
    except strict.RejectedError as error:
        raise RunError(f"{path}: is malformed: {error}") from error
    for name, expected in found.hashes.items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise RunError(f"{folder / name}: is missing or has changed since it was written")
    return found


def _check_sites(folder: Path, found: DescribedNetwork, host: Host) -> None:
    """Every seed sits where the host has a place, and no two in one."""
    names = [seed.site.name for seed in found.seeds]
    for seed in found.seeds:
        if seed.site not in host.sites or names.count(seed.site.name) > 1:
            there = ", ".join(site.name for site in host.sites)
            raise RunError(
                f"{folder / 'grown.json'}: a seed sits at {seed.site.name!r}, which the host "
                f"{found.host.name} does not have as described, or has only once; it has {there}"
            )


def _seed(folder: Path, described: DescribedSeed) -> Seed:
    blend = Blend[described.blend.upper()]
    return build_seed(_part(folder, described.blueprint), described.site, blend)


def _described(part: Part) -> dict[str, Any]:
    """A part as JSON."""
    settings = part.settings
    return {
        "name": part.name,
        "build": part.build,
        "settings": None
        if settings is None
        else {
            "kind": f"{type(settings).__module__}:{type(settings).__qualname__}",
            "values": attrs.asdict(settings),
        },
    }


def _part(folder: Path, described: DescribedPart) -> Part:
    """A part from its description; its code must be installed, and be a plugin's own."""
    owner = f"{folder}: part {described.name!r}"
    settings = None
    if described.settings is not None:
        kind = resolve_own(described.settings.kind, owner=owner)
        if not isinstance(kind, type) or not attrs.has(kind):
            raise RunError(f"{owner}: its settings {described.settings.kind!r} must be an attrs class")
        try:
            settings = strict.structure(described.settings.values, kind)
        except strict.RejectedError as error:
            raise RunError(f"{owner}: its settings do not fit {described.settings.kind}: {error}") from error
    call = resolve_own(described.build, owner=owner)
    if not callable(call):
        raise RunError(f"{owner}: {described.build!r} must be a builder, not a {type(call).__name__}")
    return Part(name=described.name, build=described.build, call=call, settings=settings)


def _fill(module: torch.nn.Module, arrays: Mapping[str, Tensor], path: str, row: int) -> None:
    """Give a module the parameters and buffers of a row; it takes their dtype."""
    state = {}
    for name in module.state_dict():
        trained, fixed = arrays.get(f"{path}/parameters/{name}"), arrays.get(f"{path}/buffers/{name}")
        source = trained if trained is not None else fixed
        if source is not None:
            state[name] = source[row]
    floats = [t.dtype for t in state.values() if t.is_floating_point()]
    if floats:
        module.to(floats[0])
    module.load_state_dict(state, strict=False)
