"""The vectorised rules against a reference that is written slot by slot from the plan's table.

The reference shares no code with the rules: no arrays, plain `if` and `for`, and its own ramps. It starts
from any consistent table. Decisions are legal, refused and out of range, so that the executor's guard is
compared, too.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_core.rules import actions, ramps
from esper_core.rules.lifecycle import Refusal
from esper_core.state.actions import HEADS, Curve
from esper_core.state.slots import SlotTable, Stage
from esper_core.testing.strategies import (
    action_spaces,
    decisions,
    evidence,
    growth_rules,
    legal_decisions,
    live,
    slot_tables,
)

pytestmark = pytest.mark.property


@dataclass
class Seed:
    number: int
    blueprint: int
    blend: int
    parameters: int
    target: float
    steps: int
    curve: str
    age: int = 0
    start: float = 0.0
    done: int = 0
    leaving: bool = False

    def aim(self, start: float, target: float, steps: int, curve: str) -> None:
        self.start, self.target, self.steps, self.curve, self.done = start, target, steps, curve, 0

    def alpha(self) -> float:
        if self.done >= self.steps:
            return self.target
        t = self.done / self.steps
        return self.start + (self.target - self.start) * FRACTION[self.curve](t)


def logistic(k: float) -> Any:
    def fraction(t: float) -> float:
        def s(x: float) -> float:
            return 1 / (1 + math.exp(-k * (x - 0.5)))

        return (s(t) - s(0)) / (s(1) - s(0))

    return fraction


FRACTION = {
    "LINEAR": lambda t: t,
    "COSINE": lambda t: math.sin(math.pi * t / 2) ** 2,
    "SIGMOID_GENTLE": logistic(6),
    "SIGMOID": logistic(12),
    "SIGMOID_SHARP": logistic(24),
}


@dataclass
class Place:
    stage: str = "DORMANT"
    dwell: int = 0
    seed: Seed | None = None

    def enter(self, stage: str) -> None:
        if stage != self.stage:
            self.stage, self.dwell = stage, 0

    def empty(self, stage: str) -> None:
        self.seed = None
        self.enter(stage)

    def alpha(self) -> float:
        return self.seed.alpha() if self.stage in ("BLENDING", "HOLDING", "FOSSILIZED") else 0.0


@dataclass
class World:
    space: Any
    rules: Any
    places: list[Place]
    born: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)

    def share(self, share: float) -> int:
        return 0 if share == 0 else max(1, math.ceil(share * self.rules.epochs - 1e-9))

    def ripe(self, i: int) -> bool:
        g, place, seen = self.rules.growth, self.places[i], self.seen[i]
        return (
            place.stage == "TRAINING"
            and place.dwell >= self.share(g.training_dwell)
            and seen["health"] >= g.min_health
            and seen["contact"] <= g.contact_bound
            and seen["nonfinite"] == 0
        )

    def allows(self, heads: tuple[int, ...]) -> bool:
        op, slot, blueprint, blend, curve, target, speed = heads
        space, g = self.space, self.rules.growth
        if op == 0:
            return True
        if op not in range(1, 6) or slot not in range(len(self.places)):
            return False
        place, seen = self.places[slot], self.seen[slot]
        speeds, curves = range(len(space.speeds)), range(len(space.curves))
        if op == 1:
            if blueprint not in range(len(space.blueprints)) or blend not in range(len(space.blends)):
                return False
            if target not in range(len(space.targets)) or speed not in speeds or curve not in curves:
                return False
            seeds = [p.seed for p in self.places if p.seed is not None]
            live = sum(p.seed is not None and p.stage != "FOSSILIZED" for p in self.places)
            cost = int(space.cost[slot, blueprint, blend])
            total = sum(s.parameters for s in seeds) + cost
            fits = cost >= 0 and (g.budget is None or total <= g.budget)
            return bool(place.stage == "DORMANT" and space.enabled[slot] and fits and live < g.max_live)
        if op == 2:
            return not g.auto_advance and self.ripe(slot)
        held = place.stage == "HOLDING" and seen["nonfinite"] == 0
        if op == 3:
            inside = target in range(len(space.targets)) and speed in speeds and curve in curves
            return held and inside and place.seed.target != space.targets[target]
        if op == 4:
            return held and seen["measured"] == 0 and seen["contribution"] >= g.min_contribution
        alive = place.stage in ("TRAINING", "BLENDING", "HOLDING") and not place.seed.leaving
        return alive and speed in speeds and curve in curves and place.seed.age >= self.share(g.prune_dwell)

    def act(self, heads: tuple[int, ...]) -> bool:
        op, slot, blueprint, blend, curve, target, speed = heads
        allowed = self.allows(heads)
        if allowed and op:
            place = self.places[slot]
            curve_name = Curve(self.space.curves[curve]).name if op in (1, 3, 5) else ""
            if op == 1:
                cost = int(self.space.cost[slot, blueprint, blend])
                aim = (float(self.space.targets[target]), int(self.space.speeds[speed]), curve_name)
                place.seed = Seed(self.born, blueprint, blend, cost, *aim)
                place.enter("GERMINATED")
                self.born += 1
            elif op == 2:
                place.enter("BLENDING")
            elif op == 3:
                aim = (float(self.space.targets[target]), int(self.space.speeds[speed]), curve_name)
                place.seed.aim(place.alpha(), *aim)
                place.enter("BLENDING")
            elif op == 4:
                place.enter("FOSSILIZED")
            elif self.space.speeds[speed] > 0 and place.alpha() > 0:
                place.seed.aim(place.alpha(), 0.0, int(self.space.speeds[speed]), curve_name)
                place.seed.leaving = True
                place.enter("BLENDING")
            else:
                place.empty("PRUNED")
        ripe = [i for i in range(len(self.places)) if self.ripe(i)]
        if self.rules.growth.auto_advance and ripe:
            self.places[ripe[0]].enter("BLENDING")
        for i, place in enumerate(self.places):
            if place.stage in ("TRAINING", "BLENDING", "HOLDING") and self.seen[i]["nonfinite"] > 0:
                place.empty("PRUNED")
        return allowed

    def tick(self) -> None:
        embargo = max(1, self.share(self.rules.growth.embargo))
        for place in self.places:
            if place.stage == "BLENDING":
                place.seed.done = min(place.seed.done + 1, place.seed.steps)
                if place.seed.done == place.seed.steps:
                    place.empty("PRUNED") if place.seed.leaving else place.enter("HOLDING")
            elif place.stage == "PRUNED" and place.dwell == 1:
                place.enter("EMBARGOED")
            elif place.stage == "EMBARGOED" and place.dwell >= embargo:
                place.enter("RESETTING")
            elif place.stage == "RESETTING":
                place.enter("DORMANT")

    def settle_and_age(self, built: list[bool]) -> None:
        for place, good in zip(self.places, built, strict=True):
            if place.stage == "GERMINATED":
                place.enter("TRAINING") if good else place.empty("DORMANT")
            if place.stage != "DORMANT":
                place.dwell += 1
            if place.seed is not None:
                place.seed.age += 1


def world_of(space: Any, rules: Any, table: SlotTable, env: int) -> World:
    places = []
    for i in range(len(space.slots)):
        cell = {a.name: getattr(table, a.name)[env, i].item() for a in attrs.fields(SlotTable)[1:]}
        names = ("blueprint", "blend", "parameters", "age")
        ramp = {name: cell[f"ramp_{name}"] for name in ("start", "target", "steps", "done")}
        curve = Curve(cell["ramp_curve"]).name
        kept = {name: cell[name] for name in names}
        seed = Seed(number=cell["seed"], curve=curve, leaving=cell["withdrawing"], **kept, **ramp)
        places.append(Place(Stage(cell["stage"]).name, cell["dwell"], seed if cell["seed"] >= 0 else None))
    return World(space, rules, places, born=int(table.born[env]))


def assert_equal(world: World, table: SlotTable, env: int) -> None:
    alpha = ramps.influence(table)[env]
    assert table.born[env] == world.born
    for i, place in enumerate(world.places):
        seed = place.seed
        assert (Stage(int(table.stage[env, i])).name, table.dwell[env, i]) == (place.stage, place.dwell)
        assert alpha[i] == pytest.approx(place.alpha(), abs=1e-12)
        assert table.withdrawing[env, i] == (seed is not None and seed.leaving)
        known = [getattr(table, n)[env, i] for n in ("seed", "blueprint", "blend", "parameters", "age")]
        if seed is None:
            assert known == [-1, -1, -1, 0, 0]
        else:
            assert known == [seed.number, seed.blueprint, seed.blend, seed.parameters, seed.age]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_rules_equal_the_reference(data):
    space, rules = data.draw(action_spaces()), data.draw(growth_rules())
    count = len(space.slots)
    table = data.draw(slot_tables(space, 2))
    worlds = [world_of(space, rules, table, env) for env in range(2)]
    built = data.draw(st.lists(st.booleans(), min_size=2 * count, max_size=2 * count))
    fine = np.asarray(built).reshape(2, count)
    for _ in range(data.draw(st.integers(1, 8))):
        seen = data.draw(evidence(2, count, rules))
        legal = legal_decisions(actions.masks(table, seen, space, rules), space)
        decision = data.draw(legal | decisions(space, 2, outside=False) | decisions(space, 2))
        epoch = live(table, seen, decision, space, rules, fine)
        for env, world in enumerate(worlds):
            names = ("health", "contact", "contribution", "measured", "nonfinite")
            world.seen = [{name: getattr(seen, name)[env, i] for name in names} for i in range(count)]
            allowed = world.act(tuple(int(getattr(decision, head)[env]) for head in HEADS))
            assert allowed == (epoch.refused[env] == Refusal.NONE)
            world.tick()
            world.settle_and_age(fine[env].tolist())
            assert_equal(world, epoch.after, env)
        table = epoch.after


def test_the_reference_knows_every_curve():
    assert set(FRACTION) == {curve.name for curve in Curve}
