"""Every class that holds options, of the core and of what Esper brings."""

from esper_core.runner.config.records import PluginSettings, RunSettings
from esper_core.state.settings import GrowthSettings, OptimizerSettings, TrainSettings
from esper_plugins.blueprints.settings import LowRank
from esper_plugins.devices.settings import Single
from esper_plugins.policies.settings import Scripted, ScriptStep
from esper_plugins.rewards.settings import Shipped
from esper_plugins.tasks.settings import Digits, Spirals

SETTINGS = (
    GrowthSettings,
    OptimizerSettings,
    TrainSettings,
    RunSettings,
    PluginSettings,
    LowRank,
    Single,
    Scripted,
    ScriptStep,
    Shipped,
    Digits,
    Spirals,
)
