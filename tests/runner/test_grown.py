"""The exported network: exact, plain, and independent of the run."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import SMALL

import esper_core
from esper_core.errors import PluginError, RunError
from esper_core.runner import checkpoint
from esper_core.runner.config import catalogue_for, load
from esper_core.runner.files import read_tensors
from esper_core.runner.setup import assemble
from esper_core.state.plans import EvalPlan


def probe(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The fixed batch and the outputs that the network gave for it when it was written."""
    found = read_tensors(run / "grown" / "probe.safetensors")
    return found["inputs"], found["outputs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets = [*SMALL, "growth.min_contribution=-1.0"]
    return esper_core.run("spirals", sets=sets, out=tmp_path_factory.mktemp("runs") / "run").folder


def test_it_reproduces_the_recorded_outputs_exactly(folder: Path) -> None:
    network = esper_core.load_grown(folder)
    inputs, outputs = probe(folder)
    with torch.no_grad():
        assert torch.equal(network(inputs), outputs)
    assert len(network.seeds) == 1
    assert not network.training


def test_it_agrees_with_the_executor(folder: Path) -> None:
    config = load(str(folder / "config.toml"), catalogue=catalogue_for("spirals"), preset=False)
    setup = assemble(config, catalogue_for("spirals"))
    saved = checkpoint.load(folder / "checkpoints" / "round-000001")
    envs = np.arange(2)
    assert saved.slots is not None
    tensors = setup.cast.device.adopt(saved.tensors, saved.slots, envs, 0)
    shipped = np.where(saved.slots.stage == 5, saved.slots.ramp_target, 0.0)
    counts = setup.cast.device.evaluate(
        tensors, EvalPlan(split="report", limit=None, influence=shipped[:, None, :])
    )
    setup.cast.device.close()
    report = setup.cast.program.problem.report
    env = saved.state.history[-1].best
    with torch.no_grad():
        outputs = esper_core.load_grown(folder)(report.inputs)
    losses = setup.cast.program.problem.loss(outputs, report.targets)
    assert losses.double().sum().item() == pytest.approx(counts.loss_sum[env, 0], rel=1e-6)


def test_it_needs_no_run_and_no_plugin_manager(folder: Path) -> None:
    code = (
        "import sys, esper_core, torch\n"
        f"network = esper_core.load_grown({str(folder)!r})\n"
        "assert isinstance(network, torch.nn.Module)\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('sklearn', 'rich', 'click')\n"
        "         or m in ('esper_core.runner.loop', 'esper_core.plugin.loader')]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_it_trains_like_any_module(folder: Path) -> None:
    network = esper_core.load_grown(folder).train()
    inputs, _ = probe(folder)
    network(inputs).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_a_changed_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "grown"
    copy.mkdir()
    for path in (folder / "grown").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    weights = copy / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(RunError, match=r"weights.safetensors: is missing or has changed"):
        esper_core.load_grown(copy)


def test_a_part_that_no_installed_plugin_declares_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "grown"
    copy.mkdir()
    for path in (folder / "grown").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    described = json.loads((copy / "grown.json").read_text())
    described["seeds"][0]["blueprint"]["build"] = "os:system"
    (copy / "grown.json").write_text(json.dumps(described))
    with pytest.raises(PluginError, match="os"):
        esper_core.load_grown(copy)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nowhere/grown.json: cannot be read"):
        esper_core.load_grown(tmp_path / "nowhere")


def test_influence_below_one_is_kept(tmp_path: Path) -> None:
    script = tmp_path / "half.toml"
    step = '[[steps]]\nepoch = {}\nop = "{}"\nslot = "block1"\nwait = true\n{}\n'
    more = 'blueprint = "linear"\ntarget = 0.5\nspeed = 0\nblend = "gate"'
    script.write_text(
        step.format(0, "germinate", more) + step.format(1, "advance", "") + step.format(2, "fossilize", "")
    )
    sets = [*SMALL, 'growth.blends=["gate"]', "growth.min_contribution=-1.0", "growth.training_dwell=0.1"]
    result = esper_core.run("spirals", sets=sets, policy=script, out=tmp_path / "run")
    network = esper_core.load_grown(result.folder)
    assert network.influence == {"block1": 0.5}
    inputs, outputs = probe(result.folder)
    with torch.no_grad():
        assert torch.equal(network(inputs), outputs)
        plain = inputs
        for segment in network.host.segments:
            plain = segment(plain)
    assert not torch.allclose(plain, outputs)
