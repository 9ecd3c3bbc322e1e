"""The grown network on disk: written by a run, read with nothing but torch and the code of its parts.

    grown.json            parts by import string, with settings; where each seed sits; hashes
    weights.safetensors   parameters and buffers, with plain names
    probe.safetensors     a fixed batch and the outputs that the network gave for it

Role: export and `load_grown`. No run and no plugin manager is needed to read one.
Neighbours: `model.network.GrownNetwork` is what comes back.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import cattrs
import numpy as np
import torch
from cattrs.strategies import configure_union_passthrough
from torch import Tensor

from esper_core.errors import EsperError, RunError
from esper_core.model.hosts import Site
from esper_core.model.network import GrownNetwork
from esper_core.model.parts import Part
from esper_core.model.program import BuildError, Program, build_host, build_seed, keyed_generator
from esper_core.model.seeds import Seed
from esper_core.plugin.imports import resolve
from esper_core.rules import ramps
from esper_core.runner.files import read_json, read_tensors, sha256, write_json, write_tensors
from esper_core.state.actions import Blend
from esper_core.state.slots import SlotTable, Stage

FORMAT = 1
"""Version of the layout."""
PROBE = 8
"""Samples of the fixed batch."""

_CONVERTER = cattrs.Converter()
configure_union_passthrough(int | float | str | bool | None, _CONVERTER)


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
    inputs = program.problem.validation.inputs[:PROBE]
    floats = next(p for p in network.parameters()).dtype
    inputs = inputs.to(floats) if inputs.is_floating_point() else inputs
    with torch.no_grad():
        outputs = network(inputs)
    write_tensors(aside / "weights.safetensors", network.state_dict())
    write_tensors(aside / "probe.safetensors", {"inputs": inputs, "outputs": outputs})
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
        RunError: a file is missing, changed or malformed.
        PluginError: a part's code is not installed.
    """
    folder = Path(path)
    if not (folder / "grown.json").is_file() and (folder / "grown" / "grown.json").is_file():
        folder = folder / "grown"
    found = read_json(folder / "grown.json")
    if found.get("format") != FORMAT:
        raise RunError(
            f"{folder}: was written in the format {found.get('format')}; this version reads {FORMAT}"
        )
    for name, expected in found["hashes"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise RunError(f"{folder / name}: is missing or has changed since it was written")
    try:
        with keyed_generator(0):
            host = build_host(_part(found["host"]))
            seeds = {s["site"]["name"]: _seed(s) for s in found["seeds"]}
    except BuildError as error:
        raise RunError(f"{folder}: {error}") from error
    network = GrownNetwork(host, seeds, {s["site"]["name"]: s["influence"] for s in found["seeds"]})
    network = network.to(getattr(torch, found["dtype"]))
    try:
        network.load_state_dict(read_tensors(folder / "weights.safetensors"))
    except RuntimeError as error:
        raise RunError(f"{folder}: the weights do not fit the parts that are installed: {error}") from error
    return network.eval()


def probe(path: str | Path) -> tuple[Tensor, Tensor]:
    """The fixed batch and the outputs that a network gave for it when it was written."""
    folder = Path(path)
    found = read_tensors(
        (folder if (folder / "grown.json").is_file() else folder / "grown") / "probe.safetensors"
    )
    return found["inputs"], found["outputs"]


def _seed(described: Mapping[str, Any]) -> Seed:
    site = Site(**described["site"])
    return build_seed(_part(described["blueprint"]), site, Blend[described["blend"].upper()])


def _described(part: Part) -> dict[str, Any]:
    """A part as JSON."""
    settings = part.settings
    return {
        "name": part.name,
        "build": part.build,
        "settings": None
        if settings is None
        else {
            "class": f"{type(settings).__module__}:{type(settings).__qualname__}",
            "values": attrs.asdict(settings),
        },
    }


def _part(described: Mapping[str, Any]) -> Part:
    """A part from JSON; its code must be installed."""
    owner = f"part {described['name']!r} of a grown network"
    settings = described["settings"]
    if settings is not None:
        kind = cast(type, resolve(settings["class"], owner=owner))
        try:
            settings = _CONVERTER.structure(settings["values"], kind)
        except EsperError:
            raise
        except Exception as error:
            raise RunError(
                f"{owner}: its settings do not fit {described['settings']['class']}: {error}"
            ) from error
    call = cast(Any, resolve(described["build"], owner=owner))
    return Part(name=described["name"], build=described["build"], call=call, settings=settings)


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
