"""What a resolved configuration is: one frozen record of everything that determines a run.

Role: the sections and their fields; rules of single fields are validators here.
Neighbours: `state.settings` has the sections that the pure core reads, `config.resolve` makes these records.
"""

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, le

from esper_core.state.settings import GovernorSettings, GrowthSettings, LearnSettings, TrainSettings, distinct


@frozen(kw_only=True)
class RunSettings:
    """How much is run, how it is keyed, and what is written down."""

    seed: int = field(default=0, validator=[ge(0), le(2**63 - 1)])
    """Root of all randomness."""
    rounds: int = field(default=1, validator=ge(1))
    """Rounds of episodes."""
    envs: int = field(default=8, validator=ge(1))
    """Hosts that train side by side; it never changes what one of them does."""
    level: Literal["off", "lifecycle", "normal", "debug"] = "normal"
    """Which events are written."""
    sinks: tuple[str, ...] = field(default=("esper/jsonl",), validator=distinct)
    """Receivers of events."""
    keep_checkpoints: int = field(default=3, validator=ge(1))
    """How many checkpoints are kept, the latest ones."""


@frozen(kw_only=True)
class PluginSettings:
    """Which distributions may bring plugins; decided before any of them is imported."""

    allow: tuple[str, ...] = field(default=(), validator=distinct)
    """Distributions that may be loaded; empty means all that are installed."""
    block: tuple[str, ...] = field(default=(), validator=distinct)
    """Distributions that may not be loaded."""


@frozen(kw_only=True)
class Choice:
    """A plugin's record that was chosen by name."""

    name: str
    """Full name, "namespace/name"."""
    settings: object | None = None
    """Instance of the settings class that the record names; None if it names none."""


@frozen(kw_only=True)
class TermChoice:
    """One term of a reward."""

    component: str
    """Full name of the plugin's record, "namespace/name"."""
    weight: float
    """Factor on its amount."""
    settings: object | None
    """Instance of the settings class that the record names; None if it names none."""


@frozen(kw_only=True)
class RewardChoice:
    """A reward family, with the terms of the modes that are used."""

    name: str
    """Full name, "namespace/name"."""
    modes: tuple[str, ...]
    """Mode of every environment; a single one is that of all."""
    terms: Mapping[str, Mapping[str, TermChoice]]
    """By mode, then by name of the term."""


@frozen(kw_only=True)
class Config:
    """Everything that determines a run; one field for each section of the file.

    Attributes:
        run: how much is run, and what is written down.
        task: data, host, loss and score.
        policy: the controller.
        reward: what it is paid.
        device: what trains and evaluates.
        train: how hosts and seeds are trained.
        growth: what may grow, and when.
        governor: when a host is rolled back.
        learn: how the controller learns.
        plugins: what may be loaded.
    """

    run: RunSettings
    task: Choice
    policy: Choice
    reward: RewardChoice
    device: Choice
    train: TrainSettings
    growth: GrowthSettings
    governor: GovernorSettings
    learn: LearnSettings
    plugins: PluginSettings
    blueprint: Mapping[str, object | None]
    """Settings of every blueprint that may germinate, by full name; None where it takes none."""
    sink: Mapping[str, object | None]
    """Settings of every sink, by full name; None where it takes none."""


SECTIONS: dict[str, type] = {
    "run": RunSettings,
    "train": TrainSettings,
    "growth": GrowthSettings,
    "governor": GovernorSettings,
    "learn": LearnSettings,
    "plugins": PluginSettings,
}
"""Sections that are the same whatever is chosen."""

CHOICES: dict[str, str | None] = {
    "task": None,
    "policy": "esper/static",
    "reward": "esper/shipped",
    "device": "esper/single",
}
"""Sections that choose a plugin's record by `name`, with what they choose unless told otherwise."""

TABLES = {"blueprint": "growth.blueprints", "sink": "run.sinks"}
"""Sections with one table for each chosen record, with the key that chooses."""
