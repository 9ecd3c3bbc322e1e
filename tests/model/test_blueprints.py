"""Every built-in blueprint keeps the contract, and the check finds every way to break it."""

import itertools
import random
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from worlds import builtin

import esper_plugins
from esper_core.model.blending import blend
from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.program import build_seed, keyed_generator
from esper_core.plugin import Blueprint
from esper_core.state.actions import Blend
from esper_core.testing.blueprints import SHAPES, check_blueprint
from esper_plugins.blueprints.settings import LowRank

RECORDS = {record.name: record for record in cast(Any, esper_plugins.esper_blueprints())}
FITS = [(part, kind) for part, kinds in zip(*builtin(), strict=True) for kind in sorted(kinds)]
COUNTS = {
    "esper/linear": lambda c: c * c + c,
    "esper/lowrank": lambda c: 2 * c * 4 + 4 + c,
    "esper/norm": lambda c: 2 * c,
    "esper/depthwise": lambda c: 10 * c,
    "esper/conv_light": lambda c: 9 * c * c + c,
}
"""Parameters by width, by hand."""


@pytest.mark.parametrize("width", [1, 3, 8, 12])
@pytest.mark.parametrize(("part", "kind"), FITS, ids=[f"{part.name}-{kind}" for part, kind in FITS])
def test_every_built_in_blueprint_keeps_the_contract(part: Part, kind: str, width: int) -> None:
    check_blueprint(part, kinds=(kind,), widths=(width,))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_record_is_checked_with_the_defaults_of_its_settings() -> None:
    check_blueprint(RECORDS["esper/lowrank"], widths=(4,))
    check_blueprint(RECORDS["esper/lowrank"], widths=(4,), settings=LowRank(rank=2))
    with pytest.raises(AssertionError, match="esper/lowrank, vector of width 4"):
        check_blueprint(RECORDS["esper/lowrank"], widths=(4,), settings=_Doubled())


class _Doubled:
    rank = 0


@pytest.mark.parametrize(("part", "kind"), FITS, ids=[f"{part.name}-{kind}" for part, kind in FITS])
@pytest.mark.parametrize("how", list(Blend))
@pytest.mark.parametrize("width", [4, 12])
def test_a_seed_is_an_identity_at_birth_under_every_blend(
    part: Part, kind: str, how: Blend, width: int
) -> None:
    """Even at full influence, and the branch has gradient in every parameter."""
    site = Site(name="here", after=0, kind=kind, width=width)
    with keyed_generator(0):
        seed = build_seed(part, site, how)
        x, h, upstream = (torch.randn(6, width, *SHAPES[kind]) for _ in range(3))
    y = blend(h, seed(x, h), 1.0, 1.0, 1.0)
    assert torch.equal(y, h)
    assert sum(p.numel() for p in seed.branch.parameters()) == COUNTS[part.name](width)
    found = torch.autograd.grad(y, list(seed.branch.parameters()), upstream)
    assert all(bool((gradient != 0).any()) for gradient in found)


class _Zeroed(nn.Module):
    """A good blueprint for vectors, to be broken in one way each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.layer(x)
        return change


class _Dead(_Zeroed):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.inner = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.inner(x)) * 0.0 + super().forward(x)


class _Sharp(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square().sum(dim=1, keepdim=True).sqrt() * x


class _Loud(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1e-9


class _Wide(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :1]


class _Double(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).double()


class _Unconnected(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class _Stuck(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        change = super().forward(x)
        return change - change.detach()


class _Noisy(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1 + 0.1 * torch.rand_like(x)))


class _Crowded(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=0))


class _Counting(_Zeroed):
    calls: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x)


class _Forgetful(_Zeroed):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.direction = torch.randn(width)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.direction)


class _Destructive(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.add_(1.0))


class _Dividing(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.norm(dim=1, keepdim=True))


class _Foreign(_Zeroed):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 0}

    def set_extra_state(self, state: Any) -> None:
        pass


class _Legacy(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * np.random.random()  # noqa: NPY002 - the defect


class _Python(_Zeroed):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * random.random()


class _Serial(_Zeroed):
    numbers = itertools.count()

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("number", torch.tensor(float(next(self.numbers))))


class _Random(_Zeroed):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.extra = nn.Parameter(torch.zeros(int(torch.randint(1, 1000, ()))))


BROKEN = {
    "a dict": (lambda width: {}, r"build\(\) returned a dict; return an nn.Module"),
    "nothing": (lambda width: nn.Identity(), "has no trainable parameter"),
    "dead": (_Dead, r"parameter 'inner.weight' has no gradient at birth; it would never learn"),
    "sharp": (_Sharp, r"the gradient of 'layer.weight' is not finite at birth"),
    "loud": (_Loud, r"its change at birth is up to 1e-09 \(training mode\); make it exactly 0"),
    "wide": (_Wide, r"input \(5, 4\) torch.float32 became \(5, 1\) torch.float32; keep shape and dtype"),
    "double": (_Double, r"torch.float32 became \(5, 4\) torch.float64; keep shape and dtype"),
    "unconnected": (_Unconnected, "its change does not depend on its parameters"),
    "stuck": (_Stuck, "after a step of training its change is still 0"),
    "noisy": (_Noisy, "draws random numbers in evaluation mode"),
    "crowded": (_Crowded, "a sample's change depends on the other samples of its batch"),
    "counting": (_Counting, "changes its buffers in evaluation mode"),
    "forgetful": (_Forgetful, "after a round trip through its state_dict it computes something else"),
    "destructive": (_Destructive, "it writes to its input"),
    "dividing": (_Dividing, "an input of zeros gives a change or a gradient that is not finite"),
    "foreign": (_Foreign, "its state has _extra_state, which is no tensor"),
    "legacy": (_Legacy, "global generator of Python or NumPy"),
    "python": (_Python, "global generator of Python or NumPy"),
    "serial": (_Serial, "two seeds with one key differ"),
    "random": (_Random, "two seeds have different parameters or buffers"),
}


@pytest.mark.parametrize(("build", "message"), BROKEN.values(), ids=BROKEN)
def test_the_check_says_what_is_wrong(build: Any, message: str) -> None:
    part = Part(name="acme/broken", build="", call=lambda site: build(site.width))
    with pytest.raises(AssertionError, match="blueprint acme/broken, vector of width 4: .*" + message):
        check_blueprint(part, kinds=("vector",), widths=(4,))


def test_the_unbroken_one_passes_and_every_generator_is_left_alone() -> None:
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    good = Part(name="acme/good", build="", call=lambda site: _Zeroed(site.width))
    check_blueprint(good, kinds=("vector", "sequence"))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), repr(np.random.get_state()))  # noqa: NPY002


def test_dropout_batch_normalisation_and_shared_parameters_are_welcome() -> None:
    def ordinary(site: Site) -> nn.Module:
        last = nn.Conv2d(site.width, site.width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        return nn.Sequential(nn.BatchNorm2d(site.width, affine=False), nn.Dropout(0.5), last)

    def tied(site: Site) -> nn.Module:
        one = _Zeroed(site.width)
        one.again = one.layer
        return one

    check_blueprint(Part(name="acme/ordinary", build="", call=ordinary), kinds=("map",))
    check_blueprint(Part(name="acme/tied", build="", call=tied), kinds=("vector",))


def test_a_builder_needs_kinds() -> None:
    with pytest.raises(
        TypeError, match=r"name the kinds that acme/good fits, of \['map', 'sequence', 'vector'\]"
    ):
        check_blueprint(Part(name="acme/good", build="", call=_Zeroed))


def test_a_record_names_what_it_fits() -> None:
    assert all(isinstance(record, Blueprint) and record.fits for record in RECORDS.values())
