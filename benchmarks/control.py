"""Does the update learn control problems as well as a known-good implementation with the same settings?

    python benchmarks/control.py [--seeds 5] [--steps 100000] [--out runs/control] [--task NAME ...]

`CartPole` is CartPole-v1. `CartPole without velocities` shows the two positions only, in units of where an
episode ends, so that one has to remember: without a memory ours gets 44. Ours is `experience` and `improve`
of `esper_core.plugin` with a small network that is defined here. Beside it are PPO of stable-baselines3 and
RecurrentPPO of sb3-contrib, with networks of the same shape. All have the settings of the RL Zoo for these
problems: 8 environments, 32 steps, 20 passes over all of them at once, gamma 0.98, lambda 0.8, and a learning
rate of 0.001 and a clip of 0.2 that fall linearly to 0. To save time, the recurrent ones have 64 steps, 10
passes and memories of 64 instead of 256.

`evaluated` is the mean return of the most probable actions of what was learned, over the same episodes for
all. `while learning` is the return of the episode that a step of training lies in, averaged over all of them.
Both are means over seeds with 95 % intervals (t distribution). The interval of the difference is Welch's, cut
where the reference would have to get more than can be had. A run that is finished is not run again, so that
several processes may share the seeds. Needs the extra `references`.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import click
import gymnasium
import numpy as np
import sb3_contrib
import stable_baselines3
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from numpy.typing import NDArray
from scipy import stats
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

from esper_core.plugin import Judged, LearnSettings, Rollout, experience, improve

ENVS = 8
EPISODES = 100
"""Episodes of an evaluation."""
MEASURES = {"evaluated": "evaluated", "learning": "while learning"}
CHANCE = 22.0
"""The return of random actions."""
MOST = 500.0
"""The return at which an episode is cut."""
LEVEL = 0.05 * MOST
"""Return that ours may be below the reference and still be on its level."""
CLIP = 0.2
LEARN = LearnSettings(
    gamma=0.98,
    trace=0.8,
    minibatches=1,
    lr=1e-3,
    lr_end=0.0,
    clip=CLIP,
    kl_limit=1e9,
    entropy=0.0,
    value=1.0,
    max_norm=0.5,
)
"""The value's error has a factor of one half here, a weight of one half there; divergence has no limit."""


@attrs.frozen(kw_only=True, eq=False)
class Task:
    """A control problem.

    Attributes:
        sees: which of the four numbers of a state are shown.
        units: of what is shown.
        rows: steps of a rollout.
        passes: over a rollout.
        hidden: width of the memory; 0 means none.
        reference: the implementation that is known to be good.
        policy: its name for a network of the same shape as ours.
    """

    sees: list[int]
    units: NDArray[np.float32]
    rows: int
    passes: int
    hidden: int
    reference: type[Any]
    policy: str

    def make(self) -> gymnasium.Env[Any, Any]:
        """One environment."""
        env = gymnasium.make("CartPole-v1")
        shown = gymnasium.spaces.Box(-np.inf, np.inf, (len(self.sees),), np.float32)
        return gymnasium.wrappers.TransformObservation(
            env, lambda state: state[self.sees] / self.units, shown
        )


CARTPOLE = Task(
    sees=[0, 1, 2, 3],
    units=np.ones(4, np.float32),
    rows=32,
    passes=20,
    hidden=0,
    reference=stable_baselines3.PPO,
    policy="MlpPolicy",
)
POSITIONS = Task(
    sees=[0, 2],
    units=np.asarray([2.4, 12 * np.pi / 180], np.float32),
    rows=64,
    passes=10,
    hidden=64,
    reference=sb3_contrib.RecurrentPPO,
    policy="MlpLstmPolicy",
)
TASKS = {"CartPole": CARTPOLE, "CartPole without velocities": POSITIONS}
Predict = Callable[[NDArray[Any], Any, NDArray[Any]], tuple[NDArray[Any], Any]]
"""Observations `[N, K]`, memory (None at first) and who begins `[N]`; gives actions `[N]` and memory."""


class Network(nn.Module):
    """Logits of two actions and a value, each by a network of its own; an `Actor` for one head."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.hidden, width = task.hidden, task.hidden or len(task.sees)
        remembering = range(2 if task.hidden else 0)
        self.lstms = nn.ModuleList(nn.LSTM(len(task.sees), task.hidden) for _ in remembering)
        self.logits, self.values = _layers(width, 2, 0.01), _layers(width, 1, 1.0)

    def forward(self, seen: Tensor, begins: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give logits `[T, N, 2]`, values `[T, N]` and the memory behind the last row.

        Args:
            seen: `[T, N, K]`.
            begins: `[T, N]` nothing before counts.
            memory: `[N, 2, 2, H]` before the first row: for logits and values, what is told and what is kept.
        """
        for_logits, for_values = seen, seen
        if self.hidden:
            (for_logits, for_values), memory = self._remember(seen, begins, memory)
        return self.logits(for_logits), self.values(for_values).squeeze(-1), memory

    def judge(self, trace: Mapping[str, Tensor], heads: Tensor) -> Judged:
        """See `esper_core.phases.update.Actor`."""
        logits, value, _ = self(trace["seen"], trace["begins"], trace["memory"][0])
        p = torch.distributions.Categorical(logits=logits)
        others = torch.zeros(*heads.shape[:2], heads.shape[2] - 1)
        return Judged(
            log_probability=torch.cat([p.log_prob(heads[..., 0]).unsqueeze(-1), others], dim=-1),
            entropy=torch.cat([p.entropy().unsqueeze(-1) / np.log(2.0), others], dim=-1),
            value=value,
        )

    @torch.no_grad()
    def predict(self, seen: NDArray[Any], memory: Tensor | None, begins: NDArray[Any]) -> tuple[Any, Tensor]:
        """The most probable actions; see `Predict`."""
        memory = self.blank(len(seen)) if memory is None else memory
        logits, _, memory = self(torch.from_numpy(seen)[None], torch.from_numpy(begins)[None], memory)
        return logits[0].argmax(dim=-1).numpy(), memory

    def blank(self, envs: int) -> Tensor:
        """Nothing is remembered."""
        return torch.zeros(envs, 2, 2, self.hidden)

    def _remember(self, seen: Tensor, begins: Tensor, memory: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run both over stretches in which no environment begins."""
        starts = sorted({0, *begins.any(dim=1).nonzero().flatten().tolist()})
        stretches = []
        for start, stop in pairwise([*starts, len(seen)]):
            memory = memory.masked_fill(begins[start, :, None, None, None], 0.0)
            before = memory.permute(1, 2, 0, 3).unsqueeze(2).contiguous()
            codes, after = zip(
                *(lstm(seen[start:stop], (h, c)) for lstm, (h, c) in zip(self.lstms, before, strict=True)),
                strict=True,
            )
            memory = torch.stack([torch.cat(states) for states in after]).permute(2, 0, 1, 3)
            stretches.append(codes)
        return [torch.cat(codes) for codes in zip(*stretches, strict=True)], memory


def _layers(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Two layers of 64 and a last one, with orthogonal weights."""
    layers = [nn.Linear(inputs, 64), nn.Linear(64, 64), nn.Linear(64, outputs)]
    for layer, size in zip(layers, (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, size)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])


class Play:
    """Eight environments that are played on and on; a rollout is cut out of them."""

    def __init__(self, task: Task, network: Network, seed: int) -> None:
        self._rows = task.rows
        self._envs = SyncVectorEnv([task.make] * ENVS, autoreset_mode=AutoresetMode.SAME_STEP)
        self._network = network
        self._seen, _ = self._envs.reset(seed=seed)
        self._begins = np.ones(ENVS, np.bool_)
        self._memory = network.blank(ENVS)
        self._age = np.zeros(ENVS, np.int64)
        self.returns: list[int] = []

    @torch.no_grad()
    def rollout(self) -> tuple[Rollout, Tensor]:
        """Some steps, and `[T, N]` values of the states behind truncated ones."""
        rollout, after = Rollout.empty(self._rows, ENVS), torch.zeros(self._rows, ENVS)
        rollout.trace["seen"] = np.zeros((self._rows, *self._seen.shape), np.float32)
        rollout.trace["begins"] = np.zeros((self._rows, ENVS), np.bool_)
        # a rollout begins with the memory that the last one ended with; nobody reads the other rows
        rollout.trace["memory"] = np.zeros((self._rows, *self._memory.shape), np.float32)
        rollout.trace["memory"][0] = self._memory.numpy()
        rollout.played[:] = True
        for row in range(self._rows):
            rollout.trace["seen"][row], rollout.trace["begins"][row] = self._seen, self._begins
            logits, _, self._memory = self._network(*self._now(self._seen, self._begins))
            action = torch.distributions.Categorical(logits=logits[0]).sample().numpy()
            self._seen, reward, terminated, truncated, info = self._envs.step(action)
            rollout.heads[row, :, 0], rollout.reward[row] = action, reward
            rollout.terminated[row] = terminated
            rollout.truncated[row] = ~terminated & (truncated | (row == self._rows - 1))
            self._begins = terminated | truncated
            if rollout.truncated[row].any():
                _, value, _ = self._network(*self._now(_last(self._seen, info), np.zeros(ENVS, np.bool_)))
                after[row] = value[0]
            self._count()
        return rollout, after

    def _now(self, seen: NDArray[Any], begins: NDArray[Any]) -> tuple[Tensor, Tensor, Tensor]:
        return torch.from_numpy(seen)[None], torch.from_numpy(begins)[None], self._memory

    def _count(self) -> None:
        """An episode's return is its length."""
        self._age += 1
        self.returns += self._age[self._begins].tolist()
        self._age[self._begins] = 0


def _last(seen: NDArray[Any], info: Mapping[str, Any]) -> NDArray[Any]:
    """The states that steps led to, before any reset."""
    seen = seen.copy()
    if "final_obs" in info:
        ended = info["_final_obs"]
        seen[ended] = np.stack(info["final_obs"][ended])
    return seen


def ours(task: Task, seed: int, steps: int) -> tuple[Predict, list[int]]:
    """Learn with Esper's update."""
    torch.manual_seed(seed)
    network = Network(task)
    adam = torch.optim.Adam(network.parameters(), LEARN.lr, eps=1e-5)
    play = Play(task, network, seed)
    used = torch.zeros(task.rows, ENVS, 7, dtype=torch.bool)
    used[..., 0] = True
    rounds = steps // (task.rows * ENVS)
    for number in range(rounds):
        rollout, after = play.rollout()
        progress = (number + 1) / rounds
        learn = attrs.evolve(LEARN, passes=task.passes, clip=max(CLIP * (1.0 - progress), 1e-9))
        played = experience(network, rollout, used, learn, after)
        improve(network, adam, played, learn, scale=1.0, keys=(seed, number), progress=progress)
    return network.predict, play.returns


def reference(task: Task, seed: int, steps: int) -> tuple[Predict, list[int]]:
    """Learn with the known-good implementation."""
    envs = make_vec_env(task.make, n_envs=ENVS, seed=seed)
    model = task.reference(
        task.policy,
        envs,
        n_steps=task.rows,
        batch_size=task.rows * ENVS,
        n_epochs=task.passes,
        gamma=LEARN.gamma,
        gae_lambda=LEARN.trace,
        learning_rate=lambda left: LEARN.lr * left,
        clip_range=lambda left: CLIP * left,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=LEARN.max_norm,
        policy_kwargs={"lstm_hidden_size": task.hidden} if task.hidden else {},
        seed=seed,
        device="cpu",
    )
    model.learn(steps // (task.rows * ENVS) * task.rows * ENVS)
    returns = [length for lengths in envs.env_method("get_episode_lengths") for length in lengths]
    return lambda seen, memory, begins: model.predict(seen, memory, begins, deterministic=True), returns


LEARNERS = {"ours": ours, "reference": reference}


def evaluate(task: Task, predict: Predict) -> float:
    """Mean return of the first episodes of some environments, the same for everybody."""
    envs = SyncVectorEnv([task.make] * EPISODES, autoreset_mode=AutoresetMode.SAME_STEP)
    seen, _ = envs.reset(seed=10_000)
    begins, memory = np.ones(EPISODES, np.bool_), None
    going, returns = np.ones(EPISODES, np.bool_), np.zeros(EPISODES)
    while going.any():
        actions, memory = predict(seen, memory, begins)
        seen, reward, terminated, truncated, _ = envs.step(actions)
        returns += np.where(going, reward, 0.0)
        begins = terminated | truncated
        going &= ~begins
    return float(returns.mean())


@click.command(help=__doc__)
@click.option("--seeds", default=5, help="How many seeds, from 0.")
@click.option("--steps", default=100_000, help="Steps of all environments together.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/control"))
@click.option("--task", "tasks", multiple=True, type=click.Choice(list(TASKS)), default=tuple(TASKS))
def main(seeds: int, steps: int, out: Path, tasks: tuple[str, ...]) -> None:
    """Run what is missing, then print a table and a verdict for every task."""
    torch.set_num_threads(1)
    for name in tasks:
        played = [{who: _row(out, name, who, seed, steps) for who in LEARNERS} for seed in range(seeds)]
        rows = {who: [row[who] for row in played] for who in LEARNERS}
        kind = TASKS[name].reference.__name__
        print(f"\n{name}: {steps} steps, {seeds} seeds; the reference is {kind}\n")
        columns = " ".join(f"{what:>22}" for what in MEASURES.values())
        print(f"{'':>10} {columns} {'minutes':>8}   evaluated, by seed")
        for who, found in rows.items():
            cells = [_interval([row[key] for row in found]) for key in MEASURES]
            minutes = np.mean([row["minutes"] for row in found])
            each = " ".join(f"{row['evaluated']:.0f}" for row in found)
            print(f"{who:>10} {cells[0]:>22} {cells[1]:>22} {minutes:>8.1f}   {each}")
        for key, what in MEASURES.items():
            for line in _verdict(*([row[key] for row in found] for found in rows.values())):
                print(f"{what}: {line}")


def _row(out: Path, name: str, who: str, seed: int, steps: int) -> dict[str, float]:
    """A finished run's numbers; played if it is not there yet."""
    path = out / f"{name.replace(' ', '-')}-{who}-{steps}-{seed}.json"
    if not path.exists():
        begin = time.perf_counter()
        predict, returns = LEARNERS[who](TASKS[name], seed, steps)
        found = {
            "evaluated": evaluate(TASKS[name], predict),
            # every episode counts as often as it has steps
            "learning": float(np.average(returns, weights=returns)),
            "minutes": (time.perf_counter() - begin) / 60,
        }
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
        click.echo(f"{path.name}: {found}", err=True)
    row: dict[str, float] = json.loads(path.read_text())
    return row


def _half(errors: NDArray[Any], degrees: NDArray[Any]) -> float:
    """Half the width of the 95 % interval of a sum of means (Welch and Satterthwaite)."""
    if not errors.any():
        return 0.0
    together = errors.sum() ** 2 / (errors**2 / degrees).sum()
    return float(stats.t.ppf(0.975, together) * errors.sum() ** 0.5)


def _squared_errors(*samples: list[float]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Squared standard errors of means, and their degrees of freedom."""
    errors = np.asarray([np.var(values, ddof=1) / len(values) for values in samples])
    return errors, np.asarray([len(values) - 1 for values in samples])


def _interval(values: list[float]) -> str:
    """Mean and half the width of its interval."""
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} +/- {_half(*_squared_errors(values)):.1f}"


def _verdict(mine: list[float], others: list[float]) -> Iterator[str]:
    """The difference, its interval, and what follows from it."""
    apart = float(np.mean(mine) - np.mean(others))
    if len(mine) < 2:
        yield f"difference {apart:+.1f}; one seed says nothing more"
        return
    half = _half(*_squared_errors(mine, others))
    # the reference's true mean cannot be above what can be had
    low = max(apart - half, float(np.mean(mine)) - _half(*_squared_errors(mine)) - MOST)
    high = apart + half
    yield f"difference {apart:+.1f}, 95 % interval [{low:+.1f}, {high:+.1f}]"
    if np.mean(others) < 5 * CHANCE:
        yield f"verdict: none, the reference has not learned itself; its mean is below {5 * CHANCE:.0f}"
    elif low >= -LEVEL:
        yield f"verdict: ours reaches the level of the reference (it is at most {LEVEL:.0f} below it)"
    elif high < -LEVEL:
        yield f"verdict: ours falls short of the reference by more than {LEVEL:.0f}"
    else:
        yield f"verdict: undecided, whether ours is more than {LEVEL:.0f} below takes more seeds"


if __name__ == "__main__":
    main()
