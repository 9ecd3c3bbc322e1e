"""The loop of a run: rounds of epochs, a checkpoint after every round, the comparison at the end.

Role: the shell around the phases. It owns the run folder, events, displays and interruptions; what is
computed does not depend on any of them.
Neighbours: `phases.collect` plays epochs, `runner.checkpoint` saves, `runner.compare` ends the run.
"""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import numpy as np
from torch import Tensor

from esper_core.errors import EsperError, Interrupted, PluginError, RunError
from esper_core.phases import collect
from esper_core.phases.collect import Episode
from esper_core.plugin.protocols import Sink
from esper_core.runner import checkpoint, compare, grown
from esper_core.runner.checkpoint import Checkpoint
from esper_core.runner.display.protocol import Display
from esper_core.runner.events import Events, plain
from esper_core.runner.files import write_json, write_tensors
from esper_core.runner.folder import RunFolder
from esper_core.runner.setup import Setup
from esper_core.state.run import RoundSummary, RunState, best_of
from esper_core.state.slots import SlotTable, Stage


class _Stop:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self, number: int, frame: object) -> None:
        """Signal handler: the first time asks, the second time stops at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Catch SIGINT and SIGTERM, where signals can be caught, until the epoch is over."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Loop:
    """A run between its folder and its result."""

    def __init__(self, setup: Setup, folder: RunFolder, display: Display) -> None:
        """Take everything over; nothing starts yet."""
        self._setup = setup
        self._cast = setup.cast
        self._folder = folder
        self._display = display
        self._sinks: Mapping[str, Sink] = {}
        self._envs = np.arange(setup.config.run.envs)

    def run(self, start: Checkpoint | None) -> compare.Comparison:
        """Play the rounds that are left, then compare.

        Args:
            start: where to go on; None begins.

        Raises:
            Interrupted: the user asked to stop; the round in play is dropped and repeated on resume.
            RunError: something failed; the message has the last checkpoint.
        """
        failure: str | None = "the process was told to exit"
        try:
            with _stoppable() as stop:
                found = self._recorded(stop, start)
            self._folder.mark("finished")
            failure = None
        except (Interrupted, KeyboardInterrupt) as error:
            failure = None
            with suppress(OSError, RunError):
                self._folder.mark("interrupted")
            raise Interrupted(self._where("stopped")) from error
        except Exception as error:
            expected = isinstance(error, EsperError)
            failure = str(error) if expected else f"{type(error).__name__}: {error}"
            kind = type(error) if expected else RunError
            raise kind(f"{failure}\n{self._where('failed')}") from error
        finally:
            if failure is not None:
                # The disk may be full, which must not hide what came first.
                with suppress(OSError, RunError):
                    self._folder.mark("failed", error=failure)
            self._display.close()
            self._cast.device.close()
        self._display.finish(found, self._cast.program.problem, self._folder)
        return found

    def _recorded(self, stop: _Stop, start: Checkpoint | None) -> compare.Comparison:
        """Play with sinks that are open; closing them after a failure does not hide it."""
        self._sinks = self._setup.sinks(self._folder.path, start.sinks if start is not None else {})
        events = Events(self._setup.config.run.level, self._sinks.values(), self._cast.program)
        hidden: tuple[type[Exception], ...] = (Exception,)
        try:
            found = self._play(events, stop, start)
            hidden = ()
        finally:
            with suppress(*hidden):
                events.close()
        return found

    def _play(self, events: Events, stop: _Stop, start: Checkpoint | None) -> compare.Comparison:
        config = self._setup.config
        if start is None:
            events.send("run", **self._about())
            start = self._checkpoint(RunState(), None, {})
            self._save(start)
        else:
            self._cast.policy.restore(start.policy)
        state = start.state
        episode = None
        self._display.begin(config, self._cast.program, self._folder, start.state.rounds_done)
        for round_index in range(state.rounds_done, config.run.rounds):
            episode = self._round(round_index, events, stop)
            rounds = config.run.rounds
            learning = self._told(self._cast.policy.learn(episode.rollout, round_index, rounds))
            summary = self._summary(episode, learning)
            state = RunState(rounds_done=round_index + 1, history=(*state.history, summary))
            events.send("round", round=round_index, envs=self._envs, **_round_fields(summary))
            self._display.round(summary)
            self._save(self._checkpoint(state, episode.slots, self._cast.device.export(episode.tensors)))
        return self._finish(episode or self._restored(start), events, stop)

    def _round(self, round_index: int, events: Events, stop: _Stop) -> Episode:
        """One episode of every environment."""
        episode = collect.begin(self._cast, self._envs, round_index)
        for _ in range(self._cast.program.train.epochs):
            episode, report = collect.advance(self._cast, episode)
            events.epoch(episode, report)
            self._display.epoch(episode, report)
            if stop.asked:
                raise Interrupted
        return episode

    def _restored(self, start: Checkpoint) -> Episode:
        """The last round's episode after its last epoch, from a checkpoint."""
        if start.slots is None:
            raise RunError("the checkpoint has no round to compare")
        cast, summary = self._cast, start.state.history[-1]
        blank = collect.begin(cast, self._envs, summary.round_index)
        tensors = cast.device.adopt(start.tensors, start.slots, self._envs, summary.round_index)
        known = {"score": np.asarray(summary.score), "committed": np.asarray(summary.committed)}
        return attrs.evolve(
            blank,
            epoch=cast.program.train.epochs,
            slots=start.slots,
            signals=attrs.evolve(blank.signals, **known),
            tensors=tensors,
        )

    def _finish(self, episode: Episode, events: Events, stop: _Stop) -> compare.Comparison:
        """Export the best network, play the other arms, write the report."""
        program, device = self._cast.program, self._cast.device
        env = best_of(episode.signals.committed)
        network = grown.network_of(program, device.export(episode.tensors), episode.slots, env)
        grown.save(self._folder.grown, network, program, episode.slots, env)

        def progress(name: str, played: Episode) -> None:
            self._display.arm(name, played)
            if stop.asked:
                raise Interrupted

        arms = compare.arms(self._cast, self._setup.static, episode, progress)
        found = compare.Comparison(arms=arms, modes=compare.by_mode(self._cast, episode))
        table = {"score": program.problem.score_name, **attrs.asdict(found)}
        write_json(self._folder.report, plain(table))
        events.send("result", **table)
        return found

    def _told(self, learning: Mapping[str, Any]) -> dict[str, float]:
        """What a policy tells, as plain numbers.

        Raises:
            PluginError: it told something else.
        """
        try:
            return {str(name): float(number) for name, number in learning.items()}
        except (AttributeError, TypeError, ValueError) as error:
            name = self._setup.config.policy.name
            raise PluginError(f"policy {name}: 'learn' must return numbers by name: {error}") from error

    def _summary(self, episode: Episode, learning: Mapping[str, float]) -> RoundSummary:
        committed = np.where(episode.slots.stage == Stage.FOSSILIZED, episode.slots.parameters, 0)
        return RoundSummary.of(
            episode.round_index,
            episode.rollout,
            tuple(self._cast.reward.families),
            committed.sum(axis=1),
            learning,
        )

    def _checkpoint(
        self, state: RunState, slots: SlotTable | None, tensors: Mapping[str, Tensor]
    ) -> Checkpoint:
        learned = self._cast.policy.state()
        positions = {name: sink.position() for name, sink in self._sinks.items()}
        return Checkpoint(state=state, slots=slots, tensors=tensors, policy=learned, sinks=positions)

    def _save(self, state: Checkpoint) -> None:
        keep = self._setup.config.run.keep_checkpoints
        checkpoint.save(self._folder.checkpoints, state, keep)
        self._folder.policy.mkdir(exist_ok=True)
        chosen = self._setup.config.policy
        write_tensors(self._folder.policy / "policy.safetensors", state.policy.tensors)
        written = {"name": chosen.name, "state": dict(state.policy.values)}
        write_json(self._folder.policy / "policy.json", written)

    def _about(self) -> dict[str, Any]:
        config, program = self._setup.config, self._cast.program
        return {
            "task": config.task.name,
            "policy": config.policy.name,
            "reward": config.reward.name,
            "modes": config.reward.modes,
            "device": config.device.name,
            "seed": config.run.seed,
            "rounds": config.run.rounds,
            "envs": config.run.envs,
            "epochs": config.train.epochs,
            "host_parameters": self._cast.host_parameters,
            "slots": program.space.slots,
            "blueprints": program.space.blueprints,
            "score": program.problem.score_name,
        }

    def _where(self, what: str) -> str:
        saved = checkpoint.listed(self._folder.checkpoints)
        if not saved:
            return f"{what} before the first checkpoint of {self._folder.path}"
        return (
            f"{what}; the last checkpoint is {saved[-1]}\n"
            f"to go on from there: esper resume {self._folder.path}"
        )


def _round_fields(summary: RoundSummary) -> dict[str, Any]:
    fields = attrs.asdict(summary, filter=attrs.filters.exclude("round_index"))
    return {**fields, "best": summary.best}
