"""A host from somebody who has only read the interface is accepted, grown, and given back."""

from pathlib import Path

import pytest
import torch
from distributions import install

import esper_core
from esper_core.errors import PluginError
from esper_core.plugin import Host

REGISTRATION = """
from esper_core.plugin import Task, hookimpl

@hookimpl
def esper_tasks():
    yield Task(name="stranger/parity", build="stranger.task:build")
    yield Task(name="stranger/siteless", build="stranger.task:build_without_sites")
"""
TASK = """
import attrs
import torch
from torch import nn
from torch.nn import functional as F

from esper_core.plugin import Part, Problem, Site, Split


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.segments = nn.ModuleList([nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)])
        self.sites = (Site(name="middle", after=1, kind="vector", width=6),)

    def forward(self, x):
        for segment in self.segments:
            x = segment(x)
        return x


class Siteless(nn.Module):
    def __init__(self):
        super().__init__()
        self.segments = nn.ModuleList([nn.Linear(4, 2)])


def build():
    generator = torch.Generator().manual_seed(0)
    def part():
        inputs = torch.randint(0, 2, (40, 4), generator=generator).float()
        return Split(inputs, inputs.sum(dim=1).long() % 2)
    return Problem(
        fit=part(),
        validation=part(),
        report=part(),
        host=Part(name="stranger/network", build="stranger.task:Network", call=Network),
        loss=lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"),
        score=lambda outputs, targets: (outputs.argmax(dim=-1) == targets).to(outputs.dtype),
    )


def build_without_sites():
    host = Part(name="stranger/siteless", build="stranger.task:Siteless", call=Siteless)
    return attrs.evolve(build(), host=host)
"""
STEPS = [
    {"epoch": 0, "op": "germinate", "slot": "middle", "blueprint": "linear", "speed": 0, "target": 1.0},
    {"epoch": 1, "op": "advance", "slot": "middle", "wait": True},
    {"epoch": 2, "op": "fossilize", "slot": "middle", "wait": True},
]
CONFIG = {
    "policy": {"name": "scripted", "steps": STEPS},
    "run": {"envs": 2},
    "train": {"epochs": 6, "batch_size": 10},
    "growth": {"training_dwell": 0.0, "min_health": 0.0, "min_contribution": -1.0, "contact_bound": 9.0},
}


@pytest.fixture
def stranger(site: Path) -> None:
    files = {"stranger/__init__.py": REGISTRATION, "stranger/task.py": TASK}
    install(site, "stranger-esper", entry_points={"stranger": "stranger"}, files=files)


@pytest.mark.acceptance("QU-12")
@pytest.mark.usefixtures("stranger")
def test_a_plain_module_with_segments_and_sites_is_grown(tmp_path: Path) -> None:
    result = esper_core.run({**CONFIG, "task": {"name": "stranger/parity"}}, out=tmp_path / "run")
    network = esper_core.load_grown(result.folder)
    assert type(network.host).__name__ == "Network"
    assert not isinstance(network.host, Host)
    assert list(network.seeds) == ["middle"]
    x = torch.eye(4)
    with torch.no_grad():
        assert not torch.allclose(network(x), network.host(x))
    assert result.arms["grown"].parameters == result.arms["static"].parameters + 6 * 6 + 6


@pytest.mark.acceptance("QU-12")
@pytest.mark.usefixtures("stranger")
def test_a_module_without_sites_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        PluginError,
        match=r"host stranger/siteless: .*Siteless must have the attributes 'segments' and 'sites'",
    ):
        esper_core.run({**CONFIG, "task": {"name": "stranger/siteless"}}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
