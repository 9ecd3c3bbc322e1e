"""What Esper brings along, registered the way a stranger's plugin is.

Role: the registration module behind the entry point `esper`. It names builders and settings by import string
and imports neither torch, numpy nor scikit-learn.
Neighbours: the packages beside it have the builders; `esper_core.plugin` is all of the core that they import.
"""

from collections.abc import Iterator

from esper_core.plugin import Blueprint, Device, Policy, Reward, Sink, Task, Term, hookimpl

ESPER_API = 1

_TERMS = (
    ("esper/score", "esper_plugins.rewards.potentials:score", None, "Potential: the live score"),
    (
        "esper/stage",
        "esper_plugins.rewards.potentials:stage",
        "esper_plugins.rewards.settings:Stages",
        "Potential: how far every seed has come",
    ),
    (
        "esper/rent_log",
        "esper_plugins.rewards.flows:rent_log",
        "esper_plugins.rewards.settings:LogRent",
        "Flow: rent by the logarithm of added parameters",
    ),
    ("esper/rent_linear", "esper_plugins.rewards.flows:rent_linear", None, "Flow: added parameters"),
    (
        "esper/occupancy",
        "esper_plugins.rewards.flows:occupancy",
        "esper_plugins.rewards.settings:Occupancy",
        "Flow: planted seeds beyond the free ones",
    ),
    ("esper/fossils", "esper_plugins.rewards.flows:fossils", None, "Flow: committed seeds"),
    (
        "esper/attribution_level",
        "esper_plugins.rewards.flows:attribution_level",
        "esper_plugins.rewards.settings:Credit",
        "Flow, a baseline: contributions as a level",
    ),
    (
        "esper/synergy",
        "esper_plugins.rewards.flows:synergy",
        None,
        "Flow, a baseline: a bonus for seeds that work together",
    ),
    (
        "esper/acted",
        "esper_plugins.rewards.events:acted",
        "esper_plugins.rewards.settings:Acted",
        "Event: a price for every operation",
    ),
    (
        "esper/refused",
        "esper_plugins.rewards.events:refused",
        None,
        "Event: a decision that could not be carried out",
    ),
    (
        "esper/early_prune",
        "esper_plugins.rewards.events:early_prune",
        "esper_plugins.rewards.settings:EarlyPrune",
        "Event: a seed pruned before it had a chance",
    ),
    (
        "esper/lost_seed",
        "esper_plugins.rewards.events:lost_seed",
        None,
        "Event: a seed that is gone though nobody asked",
    ),
    (
        "esper/shock",
        "esper_plugins.rewards.events:shock",
        "esper_plugins.rewards.settings:Shock",
        "Event: abrupt changes of influence",
    ),
    (
        "esper/shipped",
        "esper_plugins.rewards.events:shipped",
        None,
        "Event: the committed score where a segment ends",
    ),
    (
        "esper/loss_change",
        "esper_plugins.rewards.events:loss_change",
        "esper_plugins.rewards.settings:LossChange",
        "Event: by how much the loss fell",
    ),
    (
        "esper/share",
        "esper_plugins.rewards.accounts:share",
        "esper_plugins.rewards.settings:Share",
        "Account: the Shapley share of a seed",
    ),
    (
        "esper/attribution",
        "esper_plugins.rewards.accounts:attribution",
        "esper_plugins.rewards.settings:Escrow",
        "Account: credit for contribution and progress",
    ),
    (
        "esper/bonus",
        "esper_plugins.rewards.accounts:bonus",
        "esper_plugins.rewards.settings:Bonus",
        "Account: what committed seeds go on contributing",
    ),
    (
        "esper/hindsight",
        "esper_plugins.rewards.accounts:hindsight",
        "esper_plugins.rewards.settings:Hindsight",
        "Account: help for seeds that were committed later",
    ),
    (
        "esper/committed_rent",
        "esper_plugins.rewards.outcomes:committed_rent",
        "esper_plugins.rewards.settings:CommittedRent",
        "Outcome: parameters of committed seeds",
    ),
    ("esper/final_score", "esper_plugins.rewards.outcomes:final_score", None, "Outcome: the live score"),
    (
        "esper/committed_score",
        "esper_plugins.rewards.outcomes:committed_score",
        None,
        "Outcome: the committed score",
    ),
    (
        "esper/gain",
        "esper_plugins.rewards.outcomes:gain",
        None,
        "Outcome: what committed seeds add to the same host",
    ),
    (
        "esper/contributing",
        "esper_plugins.rewards.outcomes:contributing",
        "esper_plugins.rewards.settings:Contributing",
        "Outcome: committed seeds that contribute",
    ),
    (
        "esper/final_loss",
        "esper_plugins.rewards.outcomes:final_loss",
        "esper_plugins.rewards.settings:FinalLoss",
        "Outcome: how far the loss has come down",
    ),
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
        yield Term(name=name, build=build, settings=settings, summary=summary)


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
