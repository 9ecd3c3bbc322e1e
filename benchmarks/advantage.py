"""Cost of an advantage estimate: ours beside plain loops and torchrl's vectorised estimator, in one run.

    python benchmarks/advantage.py [--repeats 7]

Milliseconds of CPU that one estimate over `[T, N]` takes in float32, median of the repeats, one thread. 2 %
of all steps terminate and 2 % are cut. `error` is the largest difference to the loop in float64. Every way is
timed on the layout and the types that it is made for. A plain Python loop over too many steps is timed on
some of the environments and scaled; those are marked with *.

Second table: ours at T = 128, microseconds per environment as N grows.
"""

import time
from collections.abc import Callable
from typing import Any

import attrs
import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_core.phases.advantage import gae, gae_loop, gae_scan

try:
    import torchrl.objectives.value.functional as torchrl_functional
except ModuleNotFoundError:
    torchrl_functional = None

SIZES = ((128, 64), (512, 256), (1024, 4096))
WIDTHS = (1, 4, 16, 64, 256, 1024, 4096)
GAMMA, LAM = 0.99, 0.95
PLAIN = 2**18
"""Steps up to which plain Python is timed on all of them."""


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """Arguments of an estimate, each `[T, N]`."""

    r: Tensor
    v: Tensor
    after: Tensor
    terminated: Tensor
    truncated: Tensor

    @classmethod
    def draw(cls, steps: int, envs: int) -> "Case":
        generator = torch.Generator().manual_seed(0)
        r, v, after = torch.randn(3, steps, envs, generator=generator)
        terminated, truncated = torch.rand(2, steps, envs, generator=generator) < 0.02
        return cls(r=r, v=v, after=after, terminated=terminated, truncated=truncated)

    def each(self, change: Callable[[Tensor], Any]) -> list[Any]:
        return [change(x) for x in (self.r, self.v, self.after, self.terminated, self.truncated)]


@attrs.frozen(kw_only=True)
class Timed:
    """What a way of estimating needs, and how far off it is."""

    ms: float
    error: float
    scaled: bool = False

    def __str__(self) -> str:
        return f"{self.ms:.3f}{'*' if self.scaled else ' '} {self.error:.0e}"


def by_rows(arrays: list[NDArray[Any]]) -> NDArray[np.float32]:
    """The recursion over rows, in NumPy."""
    r, v, after, terminated, truncated = arrays
    delta = r + np.float32(GAMMA) * np.where(terminated, np.float32(0), after) - v
    weight = np.where(terminated | truncated, np.float32(0), np.float32(GAMMA * LAM))
    result = np.empty_like(r)
    following = np.zeros_like(r[0])
    for t in range(len(r) - 1, -1, -1):
        result[t] = following = delta[t] + weight[t] * following
    return result


def by_numbers(columns: list[list[list[Any]]]) -> list[list[float]]:
    """The recursion over environments and rows, in plain Python numbers; by environment."""
    result = []
    for r, v, after, terminated, truncated in zip(*columns, strict=True):
        column, following = [0.0] * len(r), 0.0
        for t in range(len(r) - 1, -1, -1):
            if terminated[t]:
                following = r[t] - v[t]
            elif truncated[t]:
                following = r[t] + GAMMA * after[t] - v[t]
            else:
                following = r[t] + GAMMA * after[t] - v[t] + GAMMA * LAM * following
            column[t] = following
        result.append(column)
    return result


def measure(case: Case, repeats: int) -> dict[str, Timed | None]:
    """Every way on one case; None where it is not installed."""
    exact, _ = gae_loop(*case.each(lambda x: x if x.dtype == torch.bool else x.double()), GAMMA, LAM)
    steps, envs = case.r.shape

    def timed(way: Callable[..., Tensor], arguments: Any, share: int = envs) -> Timed:
        got = way(arguments)
        taken = []
        for _ in range(repeats):
            begin = time.process_time()
            way(arguments)
            taken.append(time.process_time() - begin)
        error = float((got.double() - exact[:, :share]).abs().max())
        return Timed(ms=float(np.median(taken)) * 1e3 * envs / share, error=error, scaled=share < envs)

    ours = {
        name: timed(lambda a, way=way: way(*a, GAMMA, LAM)[0], case.each(lambda x: x))
        for name, way in (("gae", gae), ("loop", gae_loop), ("scan", gae_scan))
    }
    few = max(1, min(envs, PLAIN // steps))
    plain = {
        "NumPy rows": timed(lambda a: torch.from_numpy(by_rows(a)), case.each(lambda x: x.numpy())),
        "Python": timed(
            lambda a: torch.tensor(by_numbers(a)).T, case.each(lambda x: x[:, :few].T.tolist()), few
        ),
    }
    return {
        **ours,
        **plain,
        "torchrl": None if torchrl_functional is None else timed(by_torchrl, by_batch(case)),
    }


def by_batch(case: Case) -> list[Tensor]:
    """As torchrl has them: `[N, T, 1]`."""
    done = case.terminated | case.truncated
    arrays = (case.v, case.after, case.r, done, case.terminated)
    return [x.T.unsqueeze(-1).contiguous() for x in arrays]


def by_torchrl(arrays: list[Tensor]) -> Tensor:
    """The vectorised estimator of torchrl."""
    advantage, _ = torchrl_functional.vec_generalized_advantage_estimate(GAMMA, LAM, *arrays)
    return advantage.squeeze(-1).T


@click.command(help=__doc__)
@click.option("--repeats", default=7, help="Repeats of every estimate.")
def main(repeats: int) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    print("ms and error in float32\n")
    for number, (steps, envs) in enumerate(SIZES):
        row = measure(Case.draw(steps, envs), repeats)
        if not number:
            print(f"{'[T, N]':>14}" + "".join(f"{name:>20}" for name in row))
        cells = ("not installed" if cell is None else str(cell) for cell in row.values())
        print(f"{f'[{steps}, {envs}]':>14}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    print("\nours at T = 128: us per environment\n")
    print(f"{'N':>6}{'gae':>10}")
    for envs in WIDTHS:
        print(f"{envs:>6}{_per_environment(Case.draw(128, envs), repeats):>10.2f}")


def _per_environment(case: Case, repeats: int) -> float:
    arguments = case.each(lambda x: x)
    taken = []
    for _ in range(repeats * 5):
        begin = time.process_time()
        gae(*arguments, GAMMA, LAM)
        taken.append(time.process_time() - begin)
    return float(np.median(taken)) / case.r.shape[1] * 1e6


if __name__ == "__main__":
    main()
