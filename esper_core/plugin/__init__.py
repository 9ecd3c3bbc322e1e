"""The public surface for plugin authors.

Role: every name that a plugin may use, each loaded on first use, so that a registration module imports
neither torch nor numpy. The records that hooks yield are here (`Policy` describes a policy); the interfaces
that built objects fulfil are in `esper_core.plugin.protocols` (`protocols.Policy` is one).
Neighbours: `esper_plugins` and strangers' plugins import this package and nothing else of the core.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esper_core.errors import ConfigError as ConfigError
    from esper_core.errors import EsperError as EsperError
    from esper_core.errors import PluginError as PluginError
    from esper_core.errors import RunError as RunError
    from esper_core.model.categorical import entropy as entropy
    from esper_core.model.categorical import log_probability as log_probability
    from esper_core.model.categorical import probabilities as probabilities
    from esper_core.model.categorical import sample as sample
    from esper_core.model.hosts import Host as Host
    from esper_core.model.hosts import Site as Site
    from esper_core.model.network import Planted as Planted
    from esper_core.model.network import features as features
    from esper_core.model.network import fold as fold
    from esper_core.model.parts import Part as Part
    from esper_core.model.problem import Problem as Problem
    from esper_core.model.problem import Split as Split
    from esper_core.model.program import Program as Program
    from esper_core.model.program import is_sound as is_sound
    from esper_core.model.program import keyed_generator as keyed_generator
    from esper_core.model.seeds import Seed as Seed
    from esper_core.model.trie import distinct as distinct
    from esper_core.model.trie import fold_all as fold_all
    from esper_core.phases.advantage import gae as gae
    from esper_core.phases.advantage import lambda_returns as lambda_returns
    from esper_core.phases.update import Judged as Judged
    from esper_core.phases.update import experience as experience
    from esper_core.phases.update import improve as improve
    from esper_core.plugin.hooks import hookimpl as hookimpl
    from esper_core.plugin.protocols import Choice as Choice
    from esper_core.plugin.protocols import Learned as Learned
    from esper_core.plugin.protocols import PolicyContext as PolicyContext
    from esper_core.plugin.protocols import Rule as Rule
    from esper_core.plugin.protocols import SinkContext as SinkContext
    from esper_core.plugin.protocols import View as View
    from esper_core.plugin.rewards import MEASUREMENTS as MEASUREMENTS
    from esper_core.plugin.rewards import Account as Account
    from esper_core.plugin.rewards import Event as Event
    from esper_core.plugin.rewards import Flow as Flow
    from esper_core.plugin.rewards import Memory as Memory
    from esper_core.plugin.rewards import Outcome as Outcome
    from esper_core.plugin.rewards import Potential as Potential
    from esper_core.plugin.rewards import Standing as Standing
    from esper_core.plugin.rewards import Transition as Transition
    from esper_core.plugin.specs import API_LEVEL as API_LEVEL
    from esper_core.plugin.specs import Blueprint as Blueprint
    from esper_core.plugin.specs import Command as Command
    from esper_core.plugin.specs import Device as Device
    from esper_core.plugin.specs import Policy as Policy
    from esper_core.plugin.specs import Reward as Reward
    from esper_core.plugin.specs import Sink as Sink
    from esper_core.plugin.specs import Task as Task
    from esper_core.plugin.specs import Term as Term
    from esper_core.rules.features import HOST_FEATURES as HOST_FEATURES
    from esper_core.rules.features import SLOT_FEATURES as SLOT_FEATURES
    from esper_core.rules.features import host_features as host_features
    from esper_core.rules.features import slot_features as slot_features
    from esper_core.rules.lifecycle import Edits as Edits
    from esper_core.rules.lifecycle import Refusal as Refusal
    from esper_core.rules.ramps import influence as influence
    from esper_core.rules.randomness import Purpose as Purpose
    from esper_core.rules.randomness import bits as bits
    from esper_core.rules.randomness import permutations as permutations
    from esper_core.rules.randomness import uniforms as uniforms
    from esper_core.state.actions import HEADS as HEADS
    from esper_core.state.actions import HEADS_OF as HEADS_OF
    from esper_core.state.actions import ActionSpace as ActionSpace
    from esper_core.state.actions import Blend as Blend
    from esper_core.state.actions import Curve as Curve
    from esper_core.state.actions import Decision as Decision
    from esper_core.state.actions import Masks as Masks
    from esper_core.state.actions import Op as Op
    from esper_core.state.actions import name_of as name_of
    from esper_core.state.arrays import Bools as Bools
    from esper_core.state.arrays import Floats as Floats
    from esper_core.state.arrays import Ints as Ints
    from esper_core.state.attribution import Attribution as Attribution
    from esper_core.state.evidence import Evidence as Evidence
    from esper_core.state.learner import Moments as Moments
    from esper_core.state.plans import EXPLODING as EXPLODING
    from esper_core.state.plans import MEASURES as MEASURES
    from esper_core.state.plans import VANISHING as VANISHING
    from esper_core.state.plans import EvalCounts as EvalCounts
    from esper_core.state.plans import EvalPlan as EvalPlan
    from esper_core.state.plans import GradientStatistics as GradientStatistics
    from esper_core.state.plans import TrainCounts as TrainCounts
    from esper_core.state.plans import TrainPlan as TrainPlan
    from esper_core.state.rollout import Rollout as Rollout
    from esper_core.state.settings import GrowthSettings as GrowthSettings
    from esper_core.state.settings import LearnSettings as LearnSettings
    from esper_core.state.settings import OptimizerSettings as OptimizerSettings
    from esper_core.state.settings import TrainSettings as TrainSettings
    from esper_core.state.settings import finite as finite
    from esper_core.state.signals import HostSignals as HostSignals
    from esper_core.state.slots import BLENDED as BLENDED
    from esper_core.state.slots import LIVE as LIVE
    from esper_core.state.slots import PLANTED as PLANTED
    from esper_core.state.slots import SlotTable as SlotTable
    from esper_core.state.slots import Stage as Stage

_HOME = {
    "ConfigError": "esper_core.errors",
    "EsperError": "esper_core.errors",
    "PluginError": "esper_core.errors",
    "RunError": "esper_core.errors",
    "entropy": "esper_core.model.categorical",
    "log_probability": "esper_core.model.categorical",
    "probabilities": "esper_core.model.categorical",
    "sample": "esper_core.model.categorical",
    "Host": "esper_core.model.hosts",
    "Site": "esper_core.model.hosts",
    "Planted": "esper_core.model.network",
    "features": "esper_core.model.network",
    "fold": "esper_core.model.network",
    "Part": "esper_core.model.parts",
    "Problem": "esper_core.model.problem",
    "Split": "esper_core.model.problem",
    "Program": "esper_core.model.program",
    "is_sound": "esper_core.model.program",
    "keyed_generator": "esper_core.model.program",
    "Seed": "esper_core.model.seeds",
    "distinct": "esper_core.model.trie",
    "fold_all": "esper_core.model.trie",
    "Judged": "esper_core.phases.update",
    "gae": "esper_core.phases.advantage",
    "lambda_returns": "esper_core.phases.advantage",
    "experience": "esper_core.phases.update",
    "improve": "esper_core.phases.update",
    "hookimpl": "esper_core.plugin.hooks",
    "Choice": "esper_core.plugin.protocols",
    "Learned": "esper_core.plugin.protocols",
    "PolicyContext": "esper_core.plugin.protocols",
    "Rule": "esper_core.plugin.protocols",
    "SinkContext": "esper_core.plugin.protocols",
    "View": "esper_core.plugin.protocols",
    "Account": "esper_core.plugin.rewards",
    "Event": "esper_core.plugin.rewards",
    "Flow": "esper_core.plugin.rewards",
    "MEASUREMENTS": "esper_core.plugin.rewards",
    "Memory": "esper_core.plugin.rewards",
    "Outcome": "esper_core.plugin.rewards",
    "Potential": "esper_core.plugin.rewards",
    "Standing": "esper_core.plugin.rewards",
    "Transition": "esper_core.plugin.rewards",
    "API_LEVEL": "esper_core.plugin.specs",
    "Blueprint": "esper_core.plugin.specs",
    "Command": "esper_core.plugin.specs",
    "Device": "esper_core.plugin.specs",
    "Policy": "esper_core.plugin.specs",
    "Reward": "esper_core.plugin.specs",
    "Sink": "esper_core.plugin.specs",
    "Task": "esper_core.plugin.specs",
    "Term": "esper_core.plugin.specs",
    "HOST_FEATURES": "esper_core.rules.features",
    "SLOT_FEATURES": "esper_core.rules.features",
    "host_features": "esper_core.rules.features",
    "slot_features": "esper_core.rules.features",
    "Edits": "esper_core.rules.lifecycle",
    "Refusal": "esper_core.rules.lifecycle",
    "influence": "esper_core.rules.ramps",
    "Purpose": "esper_core.rules.randomness",
    "bits": "esper_core.rules.randomness",
    "permutations": "esper_core.rules.randomness",
    "uniforms": "esper_core.rules.randomness",
    "ActionSpace": "esper_core.state.actions",
    "Blend": "esper_core.state.actions",
    "Curve": "esper_core.state.actions",
    "Decision": "esper_core.state.actions",
    "HEADS": "esper_core.state.actions",
    "HEADS_OF": "esper_core.state.actions",
    "Masks": "esper_core.state.actions",
    "Op": "esper_core.state.actions",
    "name_of": "esper_core.state.actions",
    "Bools": "esper_core.state.arrays",
    "Floats": "esper_core.state.arrays",
    "Ints": "esper_core.state.arrays",
    "Attribution": "esper_core.state.attribution",
    "Evidence": "esper_core.state.evidence",
    "Moments": "esper_core.state.learner",
    "EXPLODING": "esper_core.state.plans",
    "EvalCounts": "esper_core.state.plans",
    "EvalPlan": "esper_core.state.plans",
    "GradientStatistics": "esper_core.state.plans",
    "MEASURES": "esper_core.state.plans",
    "TrainCounts": "esper_core.state.plans",
    "TrainPlan": "esper_core.state.plans",
    "VANISHING": "esper_core.state.plans",
    "Rollout": "esper_core.state.rollout",
    "GrowthSettings": "esper_core.state.settings",
    "LearnSettings": "esper_core.state.settings",
    "OptimizerSettings": "esper_core.state.settings",
    "TrainSettings": "esper_core.state.settings",
    "finite": "esper_core.state.settings",
    "HostSignals": "esper_core.state.signals",
    "BLENDED": "esper_core.state.slots",
    "LIVE": "esper_core.state.slots",
    "PLANTED": "esper_core.state.slots",
    "SlotTable": "esper_core.state.slots",
    "Stage": "esper_core.state.slots",
}
"""Where each public name lives; a test holds this table equal to the imports above."""


def __getattr__(name: str) -> object:
    """Load a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOME)
