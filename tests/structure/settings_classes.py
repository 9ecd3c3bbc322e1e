"""Every class that holds options, of the core and of what Esper brings."""

from esper_core.runner.config.records import PluginSettings, RunSettings
from esper_core.state.settings import (
    GovernorSettings,
    GrowthSettings,
    LearnSettings,
    OptimizerSettings,
    TrainSettings,
)
from esper_plugins.blueprints.settings import LowRank
from esper_plugins.devices.settings import Single
from esper_plugins.policies.settings import Heuristic, LowestRank, Lstm, Oracle, Probe, Scripted, ScriptStep
from esper_plugins.rewards.settings import (
    Acted,
    Bonus,
    CommittedRent,
    Contributing,
    Credit,
    EarlyPrune,
    Escrow,
    FinalLoss,
    Hindsight,
    LogRent,
    LossChange,
    Occupancy,
    Share,
    Shock,
    Stages,
)
from esper_plugins.tasks.settings import Digits, Spirals

SETTINGS = (
    GrowthSettings,
    OptimizerSettings,
    TrainSettings,
    LearnSettings,
    GovernorSettings,
    RunSettings,
    PluginSettings,
    LowRank,
    Single,
    Scripted,
    ScriptStep,
    Heuristic,
    LowestRank,
    Probe,
    Oracle,
    Lstm,
    Acted,
    CommittedRent,
    Contributing,
    Credit,
    EarlyPrune,
    Escrow,
    FinalLoss,
    Hindsight,
    LogRent,
    LossChange,
    Occupancy,
    Share,
    Bonus,
    Shock,
    Stages,
    Digits,
    Spirals,
)
