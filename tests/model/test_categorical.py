"""Masked choices with a floor: exact probabilities, gradients that never die, draws that never go astray."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.overrides import TorchFunctionMode

from esper_core.model.categorical import entropy, log_probability, probabilities, sample

NAN, INF = float("nan"), float("inf")
many = settings(max_examples=200, deadline=None)
floors = st.sampled_from([0.0, 0.01, 0.05, 0.15, 0.4, 1.0])
JUST_BELOW_ONE = math.nextafter(1.0, 0.0)


def draw_rows(rows: int, size: int, key: int, scale: float, share: float) -> tuple[Tensor, Tensor]:
    """Logits and masks, each with at least one valid entry; masked logits are as wild as any."""
    generator = torch.Generator().manual_seed(key)
    logits = scale * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, size, generator=generator) < share
    mask[torch.arange(rows), torch.randint(size, (rows,), generator=generator)] = True
    wild = torch.tensor([NAN, INF, -INF, 1e300, 0.0], dtype=torch.float64)
    return torch.where(mask, logits, wild[torch.randint(5, (rows, size), generator=generator)]), mask


drawn = st.builds(
    draw_rows,
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 1.0, 10.0, 100.0]),
    st.sampled_from([0.3, 0.7, 1.0]),
)
varied = st.builds(
    draw_rows,
    st.integers(1, 5),
    st.integers(2, 9),
    st.integers(0, 10**6),
    st.sampled_from([0.3, 1.0, 3.0]),
    st.sampled_from([0.5, 1.0]),
)


def by_definition(logits: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Row by row in Python's floats."""
    rows = []
    for row, valid in zip(logits.tolist(), mask.tolist(), strict=True):
        top = max(z for z, v in zip(row, valid, strict=True) if v)
        weights = [math.exp(z - top) if v else 0.0 for z, v in zip(row, valid, strict=True)]
        n = sum(valid)
        eps = min(floor, 1 / n)
        rows.append(
            [v * ((1 - n * eps) * w / sum(weights) + eps) for w, v in zip(weights, valid, strict=True)]
        )
    return torch.tensor(rows, dtype=torch.float64)


def row(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def valid(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def gradients(logits: Tensor, mask: Tensor, floor: float) -> list[Tensor]:
    """Of every valid entry's log-probability and of the entropy, with respect to the logits of one row."""
    found = []
    for action in [*mask.nonzero().flatten(), None]:
        leaf = logits.clone().requires_grad_()
        p = probabilities(leaf, mask, floor)
        value = entropy(p, mask) if action is None else log_probability(p, action)
        found.append(torch.autograd.grad(value, leaf)[0])
    return found


# ---------------------------------------------------------------------------------------------- probabilities


def test_values_by_hand() -> None:
    """Odds 1 : 3 over two of three entries, floor 0.1: 0.8 * 1/4 + 0.1 and 0.8 * 3/4 + 0.1."""
    p = probabilities(row(0.0, 7.0, math.log(3)), valid(1, 0, 1), 0.1)
    torch.testing.assert_close(p, row(0.3, 0.0, 0.7), rtol=1e-15, atol=0)
    torch.testing.assert_close(log_probability(p, torch.tensor(2)), row(math.log(0.7))[0], rtol=1e-15, atol=0)
    bits = -(0.3 * math.log2(0.3) + 0.7 * math.log2(0.7))
    torch.testing.assert_close(entropy(p, valid(1, 0, 1)), row(bits)[0], rtol=1e-14, atol=0)
    drawn_at = {u: int(sample(p, torch.tensor(u))) for u in (0.0, 0.29, 0.31, 0.99)}
    assert drawn_at == {0.0: 0, 0.29: 0, 0.31: 2, 0.99: 2}


@pytest.mark.property
@many
@given(drawn, floors)
def test_probabilities_equal_their_definition(rows: tuple[Tensor, Tensor], floor: float) -> None:
    """K6: mixing with the uniform distribution; a floor of 0 leaves the softmax as it is."""
    logits, mask = rows
    torch.testing.assert_close(
        probabilities(logits, mask, floor), by_definition(logits, mask, floor), rtol=1e-12, atol=1e-15
    )


@pytest.mark.acceptance("RL-05")
@pytest.mark.property
@many
@given(drawn, floors)
def test_probabilities_add_up_to_1_and_masked_ones_are_exactly_0(
    rows: tuple[Tensor, Tensor], floor: float
) -> None:
    """K1: they sum to 1, and a masked entry has exactly 0."""
    logits, mask = rows
    p = probabilities(logits, mask, floor)
    torch.testing.assert_close(p.sum(-1), torch.ones(len(p), dtype=p.dtype), rtol=0, atol=1e-14)
    assert not p[~mask].any()


@pytest.mark.property
@many
@given(varied, floors, st.floats(-50, 50))
def test_a_shift_of_all_logits_changes_nothing(
    rows: tuple[Tensor, Tensor], floor: float, shift: float
) -> None:
    """K2: p(z + c) = p(z)."""
    logits, mask = rows
    torch.testing.assert_close(
        probabilities(logits + shift, mask, floor), probabilities(logits, mask, floor), rtol=1e-12, atol=1e-13
    )


@pytest.mark.property
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@many
@given(rows=drawn, floor=floors)
def test_no_valid_entry_falls_below_the_floor(
    dtype: torch.dtype, rows: tuple[Tensor, Tensor], floor: float
) -> None:
    """K3: exactly, in the numbers of the type: the smaller of the floor and 1 / n."""
    logits, mask = rows
    p = probabilities(logits.to(dtype), mask, floor)
    least = torch.minimum(row(floor, dtype=dtype), 1 / mask.sum(-1).to(dtype))
    assert bool((p.masked_fill(~mask, INF).amin(-1) >= least).all())


@pytest.mark.parametrize("size", range(1, 60))
def test_a_floor_of_1_over_n_or_more_gives_all_the_same(size: int) -> None:
    logits = 30 * torch.randn(size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    for floor in (1 / size, 1.0):
        p = probabilities(logits, torch.ones(size, dtype=torch.bool), floor)
        torch.testing.assert_close(p, torch.full_like(p, 1 / size), rtol=1e-14, atol=0)


@pytest.mark.property
@many
@given(drawn, floors)
def test_probabilities_are_ordered_as_the_logits_are(rows: tuple[Tensor, Tensor], floor: float) -> None:
    """K4: a larger logit never has a smaller probability, and has a larger one where the floor allows it."""
    logits, mask = rows
    p = probabilities(logits, mask, floor)
    for z, q, m in zip(logits, p, mask, strict=True):
        in_order = q[m][z[m].argsort()]
        assert bool((in_order.diff() >= -1e-16).all())
        apart = z[m].sort().values.diff() > 1e-6
        if floor * int(m.sum()) < 1 and float(z[m].max() - z[m].min()) < 10:
            assert bool((in_order.diff()[apart] > 0).all())


@pytest.mark.property
@many
@given(drawn)
def test_without_a_floor_it_is_the_softmax_of_what_is_valid(rows: tuple[Tensor, Tensor]) -> None:
    """K6: a floor of 0 is no floor."""
    logits, mask = rows
    for z, q, m in zip(logits, probabilities(logits, mask, 0.0), mask, strict=True):
        torch.testing.assert_close(q[m], z[m].softmax(-1), rtol=1e-14, atol=1e-300)


@pytest.mark.property
@many
@given(st.integers(1, 9), st.floats(-100, 100), floors)
def test_alike_logits_give_alike_probabilities(size: int, logit: float, floor: float) -> None:
    """K6: uniform stays uniform under any floor."""
    mask = torch.ones(size, dtype=torch.bool)
    p = probabilities(torch.full((size,), logit, dtype=torch.float64), mask, floor)
    torch.testing.assert_close(p, torch.full_like(p, 1 / size), rtol=1e-14, atol=0)


# -------------------------------------------------------------------------------------------------- gradients


@pytest.mark.property
@many
@given(varied, floors)
def test_masked_logits_get_no_gradient_and_nobody_gets_nan(rows: tuple[Tensor, Tensor], floor: float) -> None:
    """K2: the gradient with respect to masked logits is exactly 0."""
    for logits, mask in zip(*rows, strict=True):
        for gradient in gradients(logits, mask, floor):
            assert not gradient[~mask].any()
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.property
@many
@given(varied, st.sampled_from([0.0, 0.01, 0.1]))
def test_gradients_are_derivatives(rows: tuple[Tensor, Tensor], floor: float) -> None:
    logits, mask = rows
    logits = logits.masked_fill(~mask, 0.3).requires_grad_()

    def values(logits: Tensor) -> tuple[Tensor, Tensor]:
        p = probabilities(logits, mask, floor)
        return log_probability(p, mask.int().argmax(-1)), entropy(p, mask)

    assert torch.autograd.gradcheck(values, logits, fast_mode=True)


@pytest.mark.property
@many
@given(
    size=st.integers(2, 7),
    key=st.integers(0, 10**6),
    lead=st.sampled_from([0.0, 3.0, 10.0, 20.0, 30.0]),
    floor=st.sampled_from([0.0, 1e-3, 0.02, 0.1]),
)
def test_every_valid_logit_keeps_a_gradient_however_far_one_dominates(
    size: int, key: int, lead: float, floor: float
) -> None:
    """K5: of every log-probability; and the entropy's is never 0 where the entries differ."""
    logits, mask = (part[0] for part in draw_rows(1, size, key, 1.0, 0.8))
    assume(int(mask.sum()) >= 2)
    logits[int(mask.int().argmax())] += lead
    *of_actions, of_entropy = gradients(logits, mask, floor)
    for gradient in of_actions:
        assert bool((gradient[mask] != 0).all())
    assert bool(of_entropy.any())


@pytest.mark.parametrize("floor", [1e-3, 0.05])
@pytest.mark.parametrize("lead", [5.0, 15.0, 30.0])
def test_the_entropy_pulls_a_dominating_logit_down_and_the_others_up(lead: float, floor: float) -> None:
    *_, gradient = gradients(row(lead, 0.0, 0.0, NAN, 0.0), valid(1, 1, 1, 0, 1), floor)
    assert float(gradient[0]) < 0
    assert bool((gradient[[1, 2, 4]] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wild", [-INF, -1e30, torch.finfo(torch.float32).min, INF, 1e30])
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_valid_logits_that_are_infinite_or_nearly_so_break_nothing(
    wild: float, floor: float, dtype: torch.dtype
) -> None:
    for logits in (row(wild, 0.0, 1.0), row(wild, wild, 1.0), row(wild, wild, wild)):
        for mask in (valid(1, 1, 1), valid(1, 1, 0), valid(1, 0, 0)):
            p = probabilities(logits.to(dtype), mask, floor)
            assert float(p.sum()) == pytest.approx(1.0, abs=1e-6)
            assert not p[~mask].any()
            for gradient in gradients(logits.to(dtype), mask, floor):
                assert bool(torch.isfinite(gradient).all())
                assert not gradient[~mask].any()


def test_a_valid_logit_that_is_no_number_stays_visible() -> None:
    """What is broken must not look like a choice; its neighbours' rows are whole."""
    logits = torch.stack([row(NAN, 1.0), row(0.0, 1.0)])
    p = probabilities(logits, torch.ones(2, 2, dtype=torch.bool), 0.1)
    assert bool(p[0].isnan().all())
    assert bool(p[1].isfinite().all())


# ------------------------------------------------------------------------------ log-probability, entropy


@pytest.mark.property
@many
@given(drawn, floors)
def test_log_probabilities_are_logarithms_of_probabilities(rows: tuple[Tensor, Tensor], floor: float) -> None:
    p = probabilities(*rows, floor)
    for action in range(p.shape[-1]):
        got = log_probability(p, torch.full((len(p),), action))
        tiny = torch.finfo(p.dtype).tiny
        expected = [math.log(max(q, tiny)) for q in p[:, action].tolist()]
        torch.testing.assert_close(got, row(*expected), rtol=1e-14, atol=1e-15)


def test_an_impossible_choice_has_a_finite_logarithm_without_gradient() -> None:
    p = row(0.0, 1.0).requires_grad_()
    value = log_probability(p, torch.tensor(0))
    assert value.item() == math.log(torch.finfo(torch.float64).tiny)
    assert torch.autograd.grad(value, p)[0].tolist() == [0.0, 0.0]


@pytest.mark.property
@many
@given(drawn, floors)
def test_entropy_is_the_share_of_what_it_could_be(rows: tuple[Tensor, Tensor], floor: float) -> None:
    """K7: in [0, 1], and 0 where one entry is valid."""
    logits, mask = rows
    p = probabilities(logits, mask, floor)
    got = entropy(p, mask)
    for value, q, n in zip(got.tolist(), p.tolist(), mask.sum(-1).tolist(), strict=True):
        nats = -sum(x * math.log(x) for x in q if x > 0)
        assert value == pytest.approx(nats / math.log(n) if n > 1 else 0.0, rel=1e-12, abs=1e-14)
        assert -1e-14 <= value <= 1 + 1e-14


@pytest.mark.property
@many
@given(varied, st.sampled_from([0.0, 0.01, 0.1]))
def test_entropy_is_1_only_where_all_are_alike(rows: tuple[Tensor, Tensor], floor: float) -> None:
    """K7: 1 where all valid entries are alike, and nowhere else."""
    logits, mask = rows
    for z, m in zip(logits, mask, strict=True):
        if int(m.sum()) > 1 and float(z[m].max() - z[m].min()) > 1e-3:
            assert float(entropy(probabilities(z, m, floor), m)) < 1.0
        alike = z.masked_fill(m, 0.7)
        assert float(entropy(probabilities(alike, m, floor), m)) == pytest.approx(
            float(m.sum() > 1), abs=1e-12
        )


@pytest.mark.property
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@many
@given(size=st.integers(1, 9), at=st.integers(0, 8), logit=st.floats(-1e30, 1e30), floor=st.floats(0, 1))
def test_a_single_valid_entry_contributes_nothing(
    dtype: torch.dtype, size: int, at: int, logit: float, floor: float
) -> None:
    """K8: probability 1, log-probability 0, entropy 0, gradient 0: exactly."""
    mask = torch.arange(size) == at % size
    logits = torch.full((size,), NAN, dtype=dtype).masked_fill(mask, logit)
    p = probabilities(logits, mask, floor)
    assert p.tolist() == mask.to(dtype).tolist()
    assert float(log_probability(p, torch.tensor(at % size))) == 0.0
    assert float(entropy(p, mask)) == 0.0
    assert not any(gradient.any() for gradient in gradients(logits, mask, floor))


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_a_row_without_a_valid_entry_is_0_in_every_respect(floor: float) -> None:
    logits = torch.stack([row(NAN, INF, -INF), row(0.0, 1.0, 2.0), row(-INF, -INF, -INF)]).requires_grad_()
    mask = torch.stack([valid(0, 0, 0), valid(1, 1, 0), valid(0, 0, 0)])
    p = probabilities(logits, mask, floor)
    values = log_probability(p, torch.tensor([2, 1, 0])), entropy(p, mask)
    assert not p[[0, 2]].any()
    for value in values:
        assert value[1].item() != 0
        assert value[[0, 2]].tolist() == [0.0, 0.0]
    assert sample(p, row(0.5, 0.5, JUST_BELOW_ONE)).tolist()[::2] == [0, 0]
    (gradient,) = torch.autograd.grad(sum(value.sum() for value in values), logits)
    assert not gradient[[0, 2]].any()
    assert bool(gradient[1, :2].all())
    assert float(gradient[1, 2]) == 0.0


# ------------------------------------------------------------------------------------------------------ draws


@pytest.mark.acceptance("RL-05")
@pytest.mark.property
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=300, deadline=None)
@given(
    rows=drawn,
    floor=floors,
    uniform=st.one_of(
        st.floats(0, 1, exclude_max=True),
        st.sampled_from([0.0, 5e-324, 1 - 2.0**-24, 1 - 2.0**-25, JUST_BELOW_ONE]),
    ),
)
def test_nothing_is_drawn_that_is_masked(
    dtype: torch.dtype, rows: tuple[Tensor, Tensor], floor: float, uniform: float
) -> None:
    """K1: also where the probabilities add up to less than the uniform, or it rounds up to 1."""
    logits, mask = rows
    p = probabilities(logits.to(dtype), mask, floor)
    at = torch.arange(len(p))
    chosen = sample(p, torch.full((len(p),), uniform, dtype=torch.float64))
    assert chosen.dtype == torch.int64
    assert bool(mask[at, chosen].all())
    assert bool((p[at, chosen] > 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_draw_is_the_last_possible_entry(dtype: torch.dtype) -> None:
    """Tenths add up to less than 1 in one type and to more in another; masked entries follow."""
    p = torch.cat([torch.full((10,), 0.1), torch.zeros(5)]).to(dtype)
    for short in (p, p * (1 - 1e-6), p * (1 + 1e-6)):
        assert int(sample(short, torch.tensor(JUST_BELOW_ONE, dtype=torch.float64))) == 9
        assert int(sample(short.roll(3), torch.tensor(0.0))) == 3


class ParallelSums(TorchFunctionMode):
    """Cumulated sums that are rounded anew at every entry, as on devices that sum by trees."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.cumsum:
            return result
        step = torch.arange(result.shape[-1], dtype=result.dtype) % 3 - 1
        return result * (1 + step * torch.finfo(result.dtype).eps)


@pytest.mark.property
@many
@given(rows=drawn, floor=floors, entry=st.integers(0, 8))
def test_nothing_masked_is_drawn_where_sums_are_rounded_otherwise(
    rows: tuple[Tensor, Tensor], floor: float, entry: int
) -> None:
    """Uniforms on and beside the borders between entries."""
    p = probabilities(*rows, floor)
    border = p.cumsum(-1)[:, entry % p.shape[-1]].clamp(0.0, JUST_BELOW_ONE)
    for step in (-1, 0, 1):
        uniform = (border * (1 + step * torch.finfo(p.dtype).eps)).clamp(max=JUST_BELOW_ONE)
        with ParallelSums():
            chosen = sample(p, uniform)
        assert bool((p.gather(-1, chosen[:, None]) > 0).all())


@pytest.mark.property
@many
@given(varied, floors)
def test_frequencies_over_even_uniforms_are_the_probabilities(
    rows: tuple[Tensor, Tensor], floor: float
) -> None:
    """The middles of M equal parts: each entry is chosen p M times, give or take one."""
    logits, mask = rows
    size, parts = logits.shape[-1], 1000
    uniforms = (torch.arange(parts, dtype=torch.float64) + 0.5) / parts
    for p in probabilities(logits, mask, floor):
        chosen = sample(p.expand(parts, size), uniforms)
        assert bool((chosen.diff() >= 0).all())
        frequency = torch.bincount(chosen, minlength=size) / parts
        assert float((frequency - p).abs().max()) <= 1 / parts + 1e-12


# ----------------------------------------------------------------------------------------------- the kernels


def test_leading_axes_are_rows() -> None:
    logits, mask = draw_rows(12, 5, 0, 1.0, 0.6)
    uniform = torch.rand(12, generator=torch.Generator().manual_seed(1))
    flat = probabilities(logits, mask, 0.05)
    p = probabilities(logits.view(3, 4, 5), mask.view(3, 4, 5), 0.05)
    actions = sample(flat, uniform)
    assert torch.equal(p.view(12, 5), flat)
    assert torch.equal(sample(p, uniform.view(3, 4)), actions.view(3, 4))
    assert torch.equal(entropy(p, mask.view(3, 4, 5)), entropy(flat, mask).view(3, 4))
    assert torch.equal(log_probability(p, actions.view(3, 4)), log_probability(flat, actions).view(3, 4))


def test_nothing_is_read_back_from_the_device_and_nothing_is_changed() -> None:
    """A meta tensor has a shape and no values: whatever looks at one fails."""
    logits, mask = (part.to("meta") for part in draw_rows(4, 5, 0, 1.0, 0.6))
    p = probabilities(logits, mask, 0.1)
    actions = sample(p, torch.zeros(4, device="meta"))
    results = (actions, entropy(p, mask), log_probability(p, actions))
    assert all(result.shape == (4,) for result in results)
    logits, mask = draw_rows(4, 5, 0, 1.0, 0.6)
    held = logits.clone(), mask.clone()
    p = probabilities(logits, mask, 0.1)
    before = p.clone()
    entropy(p, mask), log_probability(p, sample(p, torch.zeros(4)))
    torch.testing.assert_close(logits, held[0], rtol=0, atol=0, equal_nan=True)
    assert torch.equal(mask, held[1])
    assert torch.equal(p, before)
