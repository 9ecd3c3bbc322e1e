"""Incubation is bounded: a seed whose first contact would hurt is not let in."""

from pathlib import Path

from small_runs import SMALL, events

import esper_core

WILD = (*SMALL, "train.seed.lr=3.0", "growth.incubation_cap=100.0", "growth.min_health=0.0", "train.epochs=8")
BOUND = 0.1
"""The default of `growth.contact_bound`."""


def contacts(folder: Path) -> dict[tuple[int, int], float]:
    """Measured rise at first contact, by epoch and environment."""
    return {
        (event["epoch"], env): contact
        for event in events(folder)
        if event["kind"] == "seeds"
        for env, contact in zip(event["env"], event["contact"], strict=True)
        if contact is not None
    }


def advances(folder: Path) -> set[tuple[int, int]]:
    """Epochs and environments in which a seed was let in."""
    moves = [e for e in events(folder) if e["kind"] == "lifecycle"]
    return {
        (event["epoch"], env)
        for event in moves
        for env, cause in zip(event["env"], event["cause"], strict=True)
        if cause == "advance"
    }


def rises(folder: Path) -> list[float]:
    """Relative rise of the validation loss over the epoch of each first contact."""
    loss = {e["epoch"]: e["loss"] for e in events(folder) if e["kind"] == "epoch"}
    return [loss[epoch][env] / loss[epoch - 1][env] - 1 for epoch, env in advances(folder)]


def test_a_seed_that_would_hurt_waits_outside(tmp_path: Path) -> None:
    folder = esper_core.run("spirals", sets=WILD, out=tmp_path / "bounded").folder
    measured = contacts(folder)
    kept_out = [key for key, contact in measured.items() if contact > BOUND and key[0] >= 3]
    assert len(kept_out) > 3, "the bound was put to the test"
    assert not {(epoch + 1, env) for epoch, env in kept_out} & advances(folder)
    assert all(measured[epoch - 1, env] <= BOUND for epoch, env in advances(folder))


def test_without_the_bound_it_would_have_come_in_and_hurt(tmp_path: Path) -> None:
    sets = [*WILD, "growth.contact_bound=1e9"]
    folder = esper_core.run("spirals", sets=sets, out=tmp_path / "open").folder
    assert len(advances(folder)) == 2
    assert max(rises(folder)) > BOUND
