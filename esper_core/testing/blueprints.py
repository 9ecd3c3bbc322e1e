"""Conformance of a blueprint: what makes its seeds safe to grow.

A seed must be invisible at birth, able to learn at once, reproducible from its key, and the same again after
it was written to disk. `check_blueprint` builds some seeds, plays with them, and says what is wrong.

Role: public; our own blueprints and those of plugin authors pass the same check.
Neighbours: `model.program` builds seeds this way in a run, `model.trie` relies on rows that are independent.
"""

import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from attrs import frozen
from safetensors.torch import load, save
from torch import Tensor, nn

from esper_core.model.hosts import Site
from esper_core.model.parts import Part
from esper_core.model.program import count_parameters, keyed_generator
from esper_core.plugin.imports import resolve
from esper_core.plugin.specs import KINDS, Blueprint

ROWS = 5
"""Samples in a batch that the check feeds; odd, and more than one."""
SHAPES = {"vector": (), "map": (6, 5), "sequence": (7,)}
"""Positions of a sample for every kind of feature; not square, so that swapped axes are noticed."""
CLOSE = 1e-9
"""Relative difference in float64 below which two ways to compute the same thing agree."""


def check_blueprint(
    blueprint: Blueprint | Part,
    *,
    kinds: Iterable[str] | None = None,
    widths: Sequence[int] = (4, 12),
    settings: object = None,
) -> None:
    """Check that a blueprint's seeds behave.

    For every kind and width: the seed is an `nn.Module` with parameters, its structure does not depend on
    chance, its initialisation depends on torch's generator alone; its change is exactly 0 at birth, keeps
    shape and dtype, and gives every parameter gradient; after a step of training it is not 0 any more; in
    evaluation it draws nothing, changes nothing, and treats every sample on its own; it survives a round trip
    through safetensors.

    Args:
        blueprint: a plugin's record, or a builder.
        kinds: of features to check; absent means all that the record fits. A builder needs them.
        widths: channels to check.
        settings: passed to the record's builder; absent means the defaults of its settings class.

    Raises:
        AssertionError: the message names the blueprint, the kind, the width, what is wrong and what to do.
        TypeError: a builder without kinds.
        PluginError: the record's code cannot be imported.
    """
    part = _part(blueprint, settings) if isinstance(blueprint, Blueprint) else blueprint
    if kinds is None:
        if isinstance(blueprint, Part):
            raise TypeError(f"check_blueprint: name the kinds that {blueprint.name} fits, of {sorted(KINDS)}")
        kinds = blueprint.fits
    for kind in sorted(kinds):
        for width in widths:
            case = _Case(part, Site(name="here", after=0, kind=kind, width=width))
            for check in _CHECKS:
                check(case)


@frozen
class _Case:
    """A blueprint at a site."""

    part: Part
    site: Site

    def build(self, key: int = 0) -> nn.Module:
        """A seed's module, in float64, as a run builds it."""
        with keyed_generator(key):
            module = self.part.make(self.site)
        self.require(
            isinstance(module, nn.Module),
            f"build() returned a {type(module).__name__}",
            "return an nn.Module",
        )
        built: nn.Module = module.to(torch.float64)
        return built

    def batch(self, key: int, rows: int = ROWS) -> Tensor:
        """Random features, `[rows, width, ...]`, or `[rows, length, width]` for a sequence."""
        generator = torch.Generator().manual_seed(key)
        positions = SHAPES[self.site.kind]
        shape = (
            (*positions, self.site.width) if self.site.kind == "sequence" else (self.site.width, *positions)
        )
        return torch.randn(rows, *shape, dtype=torch.float64, generator=generator)

    def trained(self, key: int = 0) -> nn.Module:
        """A seed after a few steps of gradient descent, so that it is no identity any more."""
        module = self.build(key).train()
        for step in range(3):
            self.descend(module, self.batch(step), self.batch(10 + step))
        return module

    def descend(self, module: nn.Module, x: Tensor, upstream: Tensor) -> None:
        """One step of gradient descent along a given gradient of the change."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        with keyed_generator(0):
            change = module(x)
        found = torch.autograd.grad(change, parameters, upstream, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=0.1)

    def require(self, holds: bool, wrong: str, remedy: str) -> None:
        """Raise `AssertionError` unless something holds."""
        if not holds:
            site = self.site
            raise AssertionError(
                f"blueprint {self.part.name}, {site.kind} of width {site.width}: {wrong}; {remedy}"
            )


def _part(record: Blueprint, settings: object) -> Part:
    owner = f"blueprint {record.name!r}"
    call = resolve(record.build, owner=owner)
    if record.settings is not None and settings is None:
        settings = _callable(resolve(record.settings, owner=owner))()
    return Part(name=record.name, build=record.build, call=_callable(call), settings=settings)


def _callable(found: object) -> Callable[..., object]:
    if not callable(found):
        raise TypeError(f"{found!r} is not callable")
    return found


def _has_parameters(case: _Case) -> None:
    count = count_parameters(case.build())
    case.require(count > 0, "the module has no trainable parameter", "there is nothing to grow")


def _structure_is_fixed(case: _Case) -> None:
    one, other = (
        {name: tuple(tensor.shape) for name, tensor in _tensors(case.build(key)).items()} for key in (0, 1)
    )
    case.require(
        one == other,
        f"two seeds have different parameters or buffers, {one} and {other}",
        "let chance decide values, never shapes: seeds of one blueprint are stored as one block",
    )


def _chance_is_keyed(case: _Case) -> None:
    """One key, one seed, whatever Python's and NumPy's generators do, and both are left alone."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global generator is the point
    outputs = []
    try:
        for key in (1, 2):
            random.seed(key)
            np.random.seed(key)  # noqa: NPY002
            before = _legacy_generators()
            module = case.build().train()
            with keyed_generator(0):
                change = module(case.batch(0))
            case.require(
                before == _legacy_generators(),
                "it draws from the global generator of Python or NumPy",
                "draw with torch: a seed must be a function of its key",
            )
            outputs.append((change.detach(), *(tensor.detach() for tensor in _tensors(module).values())))
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
    case.require(
        all(_same(a, b) for a, b in zip(*outputs, strict=True)),
        "two seeds with one key differ",
        "use no clock, no counter and no generator but torch's",
    )


def _born_as_an_identity(case: _Case) -> None:
    for dtype in (torch.float32, torch.float64):
        for training in (True, False):
            module = case.build().to(dtype).train(training)
            x = case.batch(0).to(dtype)
            with torch.no_grad(), keyed_generator(0):
                change = module(x.clone())
            case.require(
                isinstance(change, Tensor) and change.shape == x.shape and change.dtype == dtype,
                f"input {tuple(x.shape)} {dtype} became {_described(change)}",
                "keep shape and dtype",
            )
            worst = float(change.abs().amax())
            case.require(
                worst == 0.0,
                f"its change at birth is up to {worst:g} ({'training' if training else 'evaluation'} mode)",
                "make it exactly 0: start the last layer at 0, or subtract a copy",
            )


def _leaves_its_input_alone(case: _Case) -> None:
    module, x = case.build().train(), case.batch(0)
    given = x.clone()
    with torch.no_grad(), keyed_generator(0):
        module(given)
    case.require(
        torch.equal(x, given), "it writes to its input", "use no in-place operation on what it is given"
    )


def _every_parameter_learns(case: _Case) -> None:
    module = case.build().train()
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with keyed_generator(0):
        change = module(case.batch(0))
    case.require(change.requires_grad, "its change does not depend on its parameters", "connect them")
    found = torch.autograd.grad(change, list(named.values()), case.batch(1), allow_unused=True)
    for name, gradient in zip(named, found, strict=True):
        case.require(
            gradient is not None and bool((gradient != 0).any()),
            f"parameter {name!r} has no gradient at birth",
            "it would never learn: do not put a zero in front of it and a zero behind it",
        )
        case.require(
            gradient is not None and bool(torch.isfinite(gradient).all()),
            f"the gradient of {name!r} is not finite at birth",
            "keep roots, logarithms and quotients away from their poles",
        )


def _survives_silence(case: _Case) -> None:
    """Features that are all 0, as behind dead units, give a finite change and finite gradients."""
    module = case.trained()
    x = torch.zeros_like(case.batch(0)).requires_grad_()
    with keyed_generator(0):
        change = module(x)
    found = torch.autograd.grad(
        change, [x, *(p for p in module.parameters() if p.requires_grad)], case.batch(1), allow_unused=True
    )
    case.require(
        all(bool(torch.isfinite(t).all()) for t in (change, *found) if t is not None),
        "an input of zeros gives a change or a gradient that is not finite",
        "add an epsilon to what it divides by",
    )


def _training_changes_it(case: _Case) -> None:
    module = case.build().train()
    case.descend(module, case.batch(0), case.batch(1))
    with torch.no_grad():
        change = module.eval()(case.batch(0))
    case.require(
        bool((change != 0).any()),
        "after a step of training its change is still 0",
        "let it leave the identity",
    )


def _evaluation_is_pure(case: _Case) -> None:
    module, x = case.trained().eval(), case.batch(20)
    before = {name: tensor.clone() for name, tensor in _tensors(module).items()}
    generator = torch.get_rng_state()
    with torch.no_grad():
        first, second = module(x.clone()), module(x.clone())
        single = torch.cat([module(x[row : row + 1].clone()) for row in range(ROWS)])
    case.require(
        torch.equal(generator, torch.get_rng_state()) and torch.equal(first, second),
        "it draws random numbers in evaluation mode",
        "draw in training mode only, as nn.Dropout does",
    )
    case.require(
        all(_same(before[name], tensor) for name, tensor in _tensors(module).items()),
        "it changes its buffers in evaluation mode",
        "update them in training mode only, as nn.BatchNorm2d does",
    )
    scale = float(first.abs().amax()) or 1.0
    case.require(
        float((first - single).abs().amax()) <= CLOSE * scale,
        "in evaluation mode a sample's change depends on the other samples of its batch",
        "use no statistics over the batch there: configurations are evaluated in batches of their own making",
    )


def _survives_the_disk(case: _Case) -> None:
    module = case.trained().eval()
    state = module.state_dict()
    foreign = [name for name, value in state.items() if not isinstance(value, Tensor)]
    case.require(
        not foreign,
        f"its state has {', '.join(foreign)}, which is no tensor",
        "keep it in a buffer or in settings",
    )
    written = save({name: value.contiguous().clone() for name, value in state.items()})
    again = case.build(key=1).eval()
    again.load_state_dict(load(written))
    x = case.batch(20)
    with torch.no_grad():
        case.require(
            torch.equal(module(x), again(x)),
            "after a round trip through its state_dict it computes something else",
            "keep everything that matters in parameters and buffers",
        )


def _legacy_generators() -> tuple[object, bytes, int]:
    """State of the global generators of Python and NumPy."""
    _, words, position, *_ = np.random.get_state(legacy=True)  # noqa: NPY002 - it is what must not be used
    return random.getstate(), np.asarray(words).tobytes(), int(position)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that a state_dict leaves out included."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _same(one: Tensor, other: Tensor) -> bool:
    return (
        torch.equal(one.nan_to_num(), other.nan_to_num())
        if one.is_floating_point()
        else torch.equal(one, other)
    )


def _described(change: object) -> str:
    if isinstance(change, Tensor):
        return f"{tuple(change.shape)} {change.dtype}"
    return f"a {type(change).__name__}"


_CHECKS: tuple[Callable[[_Case], None], ...] = (
    _has_parameters,
    _structure_is_fixed,
    _chance_is_keyed,
    _born_as_an_identity,
    _leaves_its_input_alone,
    _every_parameter_learns,
    _survives_silence,
    _training_changes_it,
    _evaluation_is_pure,
    _survives_the_disk,
)
"""In the order in which a defect is easiest to understand."""
