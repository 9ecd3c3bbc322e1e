"""When a rollout is read: after its last row, before anything is begun anew, and never afterwards."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

import esper_core
from esper_core.phases import collect, update
from esper_core.state.rollout import Rollout
from esper_plugins.policies import lstm


def content(rollout: Rollout) -> dict[str, bytes]:
    fields = {a.name: getattr(rollout, a.name) for a in attrs.fields(Rollout)}
    return {name: array.tobytes() for name, array in (fields | rollout.trace).items() if name != "trace"}


@pytest.mark.acceptance("RL-09")
def test_the_update_reads_a_rollout_before_anything_is_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Filled, then advantages, then steps, then the next episode with buffers of its own."""
    order: list[str] = []
    rollouts: list[Rollout] = []
    held: list[dict[str, bytes]] = []
    born, played = collect.begin, collect.advance

    def begin(*args: Any, **kwargs: Any) -> collect.Episode:
        order.append("begin")
        return born(*args, **kwargs)

    def advance(cast: Any, episode: collect.Episode) -> Any:
        order.append("row")
        return played(cast, episode)

    def experience(actor: Any, rollout: Rollout, *args: Any) -> update.Experience:
        order.append("advantages")
        assert rollout.played.all()
        assert rollout.terminated[-1].all()
        return update.experience(actor, rollout, *args)

    def improve(*args: Any, **kwargs: Any) -> dict[str, float]:
        order.append("steps")
        return update.improve(*args, **kwargs)

    learn = lstm.LstmPolicy.learn

    def learned(self: lstm.LstmPolicy, rollout: Rollout, *args: Any) -> Any:
        assert all(content(r) == h for r, h in zip(rollouts, held, strict=True)), "an old rollout was changed"
        rollouts.append(rollout)
        held.append(content(rollout))
        return learn(self, rollout, *args)

    monkeypatch.setattr(collect, "begin", begin)
    monkeypatch.setattr(collect, "advance", advance)
    monkeypatch.setattr(lstm, "experience", experience)
    monkeypatch.setattr(lstm, "improve", improve)
    monkeypatch.setattr(lstm.LstmPolicy, "learn", learned)
    sets = ["train.epochs=4", "train.train_batches=2", "run.envs=2", "run.rounds=3"]
    esper_core.run("spirals", policy="lstm", sets=sets, out=tmp_path / "run")
    round_ = ["begin", *["row"] * 4, "advantages", "steps"]
    assert order[: 3 * len(round_)] == round_ * 3
    assert [content(r) for r in rollouts] == held
    for one, other in pairwise(rollouts):
        for name in ("reward", "heads", "terminated", "played"):
            assert not np.shares_memory(getattr(one, name), getattr(other, name))
