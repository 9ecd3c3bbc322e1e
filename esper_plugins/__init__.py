"""What Esper brings along, registered the way a stranger's plugin is.

Role: the registration module behind the entry point `esper`. It names builders and settings by import string
and imports neither torch, numpy nor scikit-learn.
Neighbours: the packages beside it have the builders; `esper_core.plugin` is all of the core that they import.
"""

from collections.abc import Iterator

from esper_core.plugin import Blueprint, Device, Policy, Reward, Sink, Task, Term, hookimpl

ESPER_API = 1

_TERMS = (
    ("score", "potentials:score", None, "Potential: the live score"),
    ("stage", "potentials:stage", "Stages", "Potential: how far every seed has come"),
    ("rent_log", "flows:rent_log", "LogRent", "Flow: rent by the logarithm of added parameters"),
    ("rent_linear", "flows:rent_linear", None, "Flow: added parameters"),
    ("occupancy", "flows:occupancy", "Occupancy", "Flow: planted seeds beyond the free ones"),
    ("fossils", "flows:fossils", None, "Flow: committed seeds"),
    ("attribution_level", "flows:attribution_level", "Credit", "Flow, a baseline: contributions as a level"),
    ("synergy", "flows:synergy", "Credit", "Flow, a baseline: a bonus for seeds that work together"),
    ("acted", "events:acted", "Acted", "Event: a price for every operation"),
    ("refused", "events:refused", None, "Event: a decision that could not be carried out"),
    ("early_prune", "events:early_prune", "EarlyPrune", "Event: a seed pruned before it had a chance"),
    ("lost_seed", "events:lost_seed", None, "Event: a seed that is gone though nobody asked"),
    ("fossilized", "events:fossilized", "Fossilized", "Event: a bonus for a seed that was committed"),
    ("shock", "events:shock", "Shock", "Event: abrupt changes of influence"),
    ("shipped", "events:shipped", None, "Event: the committed score where a segment ends"),
    ("loss_change", "events:loss_change", "LossChange", "Event: by how much the loss fell"),
    ("share", "accounts:share", "Share", "Account: the Shapley share of a seed"),
    ("attribution", "accounts:attribution", "Escrow", "Account: credit for contribution and progress"),
    ("drip", "accounts:drip", "Drip", "Account: what committed seeds contribute, little by little"),
    ("hindsight", "accounts:hindsight", "Hindsight", "Account: help for seeds that were committed later"),
    ("committed_rent", "outcomes:committed_rent", "CommittedRent", "Outcome: parameters of committed seeds"),
    ("final_score", "outcomes:final_score", None, "Outcome: the live score"),
    ("committed_score", "outcomes:committed_score", None, "Outcome: the committed score"),
    ("gain", "outcomes:gain", None, "Outcome: what committed seeds add to the same host"),
    ("contributing", "outcomes:contributing", "Contributing", "Outcome: committed seeds that contribute"),
    ("final_loss", "outcomes:final_loss", "FinalLoss", "Outcome: how far the loss has come down"),
)
"""Name, builder, settings and summary of every term."""


@hookimpl
def esper_blueprints() -> Iterator[Blueprint]:
    """Seeds for vectors and for maps."""
    yield Blueprint(
        name="esper/linear",
        build="esper_plugins.blueprints.vector:linear",
        fits={"vector"},
        summary="Linear map of a vector",
    )
    yield Blueprint(
        name="esper/lowrank",
        build="esper_plugins.blueprints.vector:lowrank",
        settings="esper_plugins.blueprints.settings:LowRank",
        fits={"vector"},
        summary="Linear map of a vector through a narrow middle",
    )
    yield Blueprint(
        name="esper/norm",
        build="esper_plugins.blueprints.maps:norm",
        fits={"map"},
        summary="Normalisation of a map, channel by channel",
    )
    yield Blueprint(
        name="esper/depthwise",
        build="esper_plugins.blueprints.maps:depthwise",
        fits={"map"},
        summary="Depthwise separable convolution",
    )
    yield Blueprint(
        name="esper/conv_light",
        build="esper_plugins.blueprints.maps:conv_light",
        fits={"map"},
        summary="Light convolution",
    )


@hookimpl
def esper_terms() -> Iterator[Term]:
    """Terms that rewards are made of."""
    for name, build, settings, summary in _TERMS:
        yield Term(
            name=f"esper/{name}",
            build=f"esper_plugins.rewards.{build}",
            settings=f"esper_plugins.rewards.settings:{settings}" if settings else None,
            summary=summary,
        )


@hookimpl
def esper_rewards() -> Iterator[Reward]:
    """Reward families."""
    yield Reward(
        name="esper/shipped",
        build="esper_plugins.rewards:shipped.toml",
        summary="Score of the network that ships, minus rent",
    )
    yield Reward(
        name="esper/shapley",
        build="esper_plugins.rewards:shapley.toml",
        summary="Shapley shares of the seeds, kept once they are committed",
    )
    yield Reward(
        name="esper/contribution",
        build="esper_plugins.rewards:contribution.toml",
        summary="Contributions of the seeds, in seven modes, some of them baselines",
    )
    yield Reward(
        name="esper/loss",
        build="esper_plugins.rewards:loss.toml",
        summary="Falls of the validation loss",
    )


@hookimpl
def esper_policies() -> Iterator[Policy]:
    """Controllers."""
    yield Policy(
        name="esper/lstm",
        build="esper_plugins.policies.lstm:build",
        settings="esper_plugins.policies.settings:Lstm",
        summary="Learns when, where and what to grow, from round to round",
    )
    yield Policy(
        name="esper/static",
        build="esper_plugins.policies.static:build",
        summary="Never grows anything",
    )
    yield Policy(
        name="esper/scripted",
        build="esper_plugins.policies.scripted:build",
        settings="esper_plugins.policies.settings:Scripted",
        summary="Follows a schedule from the configuration",
    )
    yield Policy(
        name="esper/random",
        build="esper_plugins.policies.random:build",
        summary="Chooses among the actions that would succeed",
    )
    yield Policy(
        name="esper/heuristic",
        build="esper_plugins.policies.heuristic:build",
        settings="esper_plugins.policies.settings:Heuristic",
        summary="Plants when the score stops rising, slot after slot",
    )
    yield Policy(
        name="esper/plant-lowest-rank",
        build="esper_plugins.policies.lowest_rank:build",
        settings="esper_plugins.policies.settings:LowestRank",
        summary="Plants where the features have the lowest effective rank",
    )
    yield Policy(
        name="esper/probe-and-switch",
        build="esper_plugins.policies.probe:build",
        settings="esper_plugins.policies.settings:Probe",
        summary="Tries the slots by effective rank until a seed contributes enough",
    )
    yield Policy(
        name="esper/oracle",
        build="esper_plugins.policies.oracle:build",
        settings="esper_plugins.policies.settings:Oracle",
        summary="Plants where the task says that help is needed",
    )


@hookimpl
def esper_devices() -> Iterator[Device]:
    """Device strategies."""
    yield Device(
        name="esper/single",
        build="esper_plugins.devices.single:build",
        settings="esper_plugins.devices.settings:Single",
        summary="All environments on one device",
    )


@hookimpl
def esper_tasks() -> Iterator[Task]:
    """Tasks that need no download."""
    yield Task(
        name="esper/digits",
        build="esper_plugins.tasks.digits:build",
        settings="esper_plugins.tasks.settings:Digits",
        preset="esper_plugins.tasks:digits.toml",
        summary="Handwritten digits, 8x8 pixels",
    )
    yield Task(
        name="esper/spirals",
        build="esper_plugins.tasks.spirals:build",
        settings="esper_plugins.tasks.settings:Spirals",
        preset="esper_plugins.tasks:spirals.toml",
        summary="Interleaved spirals in the plane, made in place",
    )


@hookimpl
def esper_sinks() -> Iterator[Sink]:
    """Receivers of events."""
    yield Sink(
        name="esper/jsonl",
        build="esper_plugins.sinks.jsonl:build",
        summary="Lossless file, one event a line",
    )
