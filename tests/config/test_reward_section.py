"""`[reward]`: a family's file below, changes and modes of one's own above, and what is wrong, in words."""

import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from distributions import plugin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_core.errors import ConfigError, EsperError, PluginError
from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load
from esper_core.runner import config

HEAD = "--set: reward"
FAMILY = "reward 'esper/shipped' of esper-morph 9.9"


def loaded(catalogue: Catalogue, *sets: str, **reward: Any) -> config.Config:
    table = {"task": {"name": "digits"}, **({"reward": reward} if reward else {})}
    return config.load(table, sets=sets, catalogue=catalogue)


def refusal(catalogue: Catalogue, *sets: str, **reward: Any) -> EsperError:
    with pytest.raises(EsperError) as caught:
        loaded(catalogue, *sets, **reward)
    return caught.value


def settings_of(term: Any) -> dict[str, Any]:
    return attrs.asdict(term.settings)


# what is chosen


def test_the_first_mode_of_the_default_family_pays_everybody(catalogue: Catalogue) -> None:
    reward = loaded(catalogue).reward
    assert (reward.name, reward.modes) == ("esper/shipped", ("shipped",))
    assert list(reward.terms) == ["shipped"], "modes that nobody uses are left out"
    score, rent = (reward.terms["shipped"][name] for name in ("score", "rent"))
    assert (score.component, score.weight, score.settings) == ("esper/score", 1.0, None)
    assert (rent.component, rent.weight, settings_of(rent)) == (
        "esper/rent",
        -0.1,
        {"begins": 0.25, "full": 0.75},
    )


def test_a_term_is_changed_key_by_key(catalogue: Catalogue) -> None:
    """Whoever changes one key leaves the others to the family."""
    rent = loaded(catalogue, "reward.shipped.rent.begins=0.5").reward.terms["shipped"]["rent"]
    assert (rent.weight, settings_of(rent)) == (-0.1, {"begins": 0.5, "full": 0.75})
    rent = loaded(catalogue, shipped={"rent": {"weight": 0.0}}).reward.terms["shipped"]["rent"]
    assert (rent.weight, settings_of(rent)) == (0.0, {"begins": 0.25, "full": 0.75})


def test_a_term_and_a_mode_of_ones_own(catalogue: Catalogue) -> None:
    again = {"component": "rent", "weight": 2}
    reward = loaded(catalogue, shipped={"again": again}).reward
    assert list(reward.terms["shipped"]) == ["score", "rent", "again"]
    assert reward.terms["shipped"]["again"].component == "esper/rent"
    reward = loaded(catalogue, mode="mine", mine={"only": {"component": "score"}}).reward
    assert (reward.modes, list(reward.terms), list(reward.terms["mine"])) == (("mine",), ["mine"], ["only"])


@pytest.mark.parametrize(("component", "full"), [("esper/score", None), ("rent", 0.75), ("esper/rent", 0.75)])
def test_another_component_forgets_the_settings_of_the_one_below(
    component: str, full: float | None, catalogue: Catalogue
) -> None:
    """The weight stays: it says whether this is a cost. The same one, however spelt, forgets nothing."""
    rent = loaded(catalogue, shipped={"rent": {"component": component}}).reward.terms["shipped"]["rent"]
    if full is None:
        assert (rent.weight, rent.settings) == (-0.1, None)
    else:
        assert (rent.weight, rent.settings.full) == (-0.1, full)  # type: ignore[union-attr]


def test_a_replaced_term_can_be_set_by_the_layer_that_replaces_it(catalogue: Catalogue) -> None:
    reward = loaded(
        catalogue,
        "reward.shipped.score.begins=0.5",
        shipped={"score": {"component": "rent", "weight": 3.0}},
    ).reward
    score = reward.terms["shipped"]["score"]
    assert (score.weight, settings_of(score)) == (3.0, {"begins": 0.5, "full": 0.5})


@pytest.mark.acceptance("AB-07")
def test_every_environment_can_have_its_mode(catalogue: Catalogue) -> None:
    reward = loaded(catalogue, "run.envs=3", 'reward.modes=["cheap", "shipped", "cheap"]').reward
    assert reward.modes == ("cheap", "shipped", "cheap")
    assert list(reward.terms) == ["cheap", "shipped"], "in the order in which environments name them"
    one = loaded(catalogue, "run.envs=1", 'reward.modes=["cheap"]').reward
    assert (one.modes, list(one.terms)) == (("cheap",), ["cheap"])


OTHER = """
@hookimpl
def esper_rewards():
    yield Reward(name="acme/other", build="acme_esper:other.toml")
"""


def other(site: Path, text: str, body: str = OTHER) -> Catalogue:
    """The catalogue with a stranger's family whose file has a text."""
    plugin(site, "acme-esper", body)
    (site / "other.toml").write_text(text)
    # a module has no folder of resources: the stranger is a package
    (site / "acme_esper.py").rename(site / "acme.py")
    (site / "acme_esper").mkdir()
    (site / "acme.py").rename(site / "acme_esper" / "__init__.py")
    (site / "other.toml").rename(site / "acme_esper" / "other.toml")
    return load()


@pytest.mark.usefixtures("catalogue")
def test_another_family_forgets_what_was_said_of_the_one_below(site: Path) -> None:
    """A preset that changes its own choice says nothing about another one; the file and `--set` do."""
    preset = site / "fake_esper" / "preset.toml"
    preset.write_text(
        '[reward]\nname = "shipped"\nmode = "cheap"\n[reward.cheap.score]\nweight = 7.0\n'
        + preset.read_text()
    )
    found = other(site, "[even.one]\ncomponent = 'score'\n[odd.one]\ncomponent = 'rent'\n")
    reward = config.load("digits", catalogue=found).reward
    assert reward.modes == ("cheap",)
    assert reward.terms["cheap"]["score"].weight == 7.0
    reward = config.load("digits", sets=["reward.name=other"], catalogue=found).reward
    assert (reward.name, reward.modes, list(reward.terms)) == ("acme/other", ("even",), ["even"])
    reward = loaded(found, "reward.odd.one.weight=2", name="other", mode="odd").reward
    assert reward.terms["odd"]["one"].weight == 2.0


# what is written down


@pytest.mark.acceptance("CF-03", "CF-04")
@pytest.mark.parametrize(
    "sets",
    [
        [],
        ["reward.mode=cheap"],
        ["run.envs=2", 'reward.modes=["cheap", "shipped"]'],
        ["run.envs=1", 'reward.modes=["cheap"]'],
        ["reward.shipped.rent.weight=0.0", "reward.shipped.more.component=score"],
        ["reward.mode=mine", 'reward.mine={odd = {component = "esper/rent", full = 3}}'],
    ],
)
def test_it_loads_back_equal(sets: list[str], catalogue: Catalogue) -> None:
    """With the family below and without it: what was written is whole."""
    first = config.load("digits", sets=sets, catalogue=catalogue)
    text = tomllib.loads(config.dumps(first))
    for preset in (True, False):
        again = config.load(text, catalogue=catalogue, preset=preset)
        assert again == first
        assert config.dumps(again) == config.dumps(first)


@pytest.mark.property
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(
    weights=st.dictionaries(
        st.from_regex(r"[a-z_]{1,6}", fullmatch=True).filter(lambda k: k not in ("name", "mode", "modes")),
        st.floats(allow_nan=False, allow_infinity=False),
        min_size=1,
        max_size=4,
    )
)
def test_any_mode_of_ones_own_loads_back_equal(weights: dict[str, float], catalogue: Catalogue) -> None:
    terms = {name: {"component": "score", "weight": weight} for name, weight in weights.items()}
    first = loaded(catalogue, mode="mine", mine=terms)
    assert {name: term.weight for name, term in first.reward.terms["mine"].items()} == weights
    assert config.load(tomllib.loads(config.dumps(first)), catalogue=catalogue, preset=False) == first


def test_what_is_written_has_one_table_per_term(catalogue: Catalogue) -> None:
    sets = ["run.envs=2", 'reward.modes=["shipped", "cheap"]']
    assert tomllib.loads(config.dumps(config.load("digits", sets=sets, catalogue=catalogue)))["reward"] == {
        "name": "esper/shipped",
        "modes": ["shipped", "cheap"],
        "shipped": {
            "score": {"component": "esper/score", "weight": 1.0},
            "rent": {"component": "esper/rent", "weight": -0.1, "begins": 0.25, "full": 0.75},
        },
        "cheap": {"score": {"component": "esper/score", "weight": 2.0}},
    }


def test_origins_tell_the_family_from_what_was_changed(catalogue: Catalogue) -> None:
    found = config.origins("digits", sets=["reward.shipped.rent.full=0.5"], catalogue=catalogue)
    assert {key: origin for key, origin in found.items() if key.startswith("reward.")} == {
        "reward.name": "reward esper/shipped",
        "reward.mode": "default",
        "reward.shipped.score.component": "reward esper/shipped",
        "reward.shipped.score.weight": "default",
        "reward.shipped.rent.component": "reward esper/shipped",
        "reward.shipped.rent.weight": "reward esper/shipped",
        "reward.shipped.rent.begins": "default",
        "reward.shipped.rent.full": "--set",
    }


# what is refused


@pytest.mark.acceptance("AB-06", "CF-06")
@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["reward=shipped"], f'{HEAD}: must be a table; choose with reward.name = "..."'),
        (
            ["reward.name=3"],
            f"{HEAD}.name: there is no reward '3' (rewards that are installed: esper/shipped)",
        ),
        (
            ["reward.mode=shiped"],
            f"{HEAD}.mode: reward 'esper/shipped' has no mode 'shiped'; did you mean 'shipped'?; "
            "its modes are shipped, cheap",
        ),
        (
            ["run.envs=2", 'reward.modes=["shipped", "cheep"]'],
            f"{HEAD}.modes: reward 'esper/shipped' has no mode 'cheep'; did you mean 'cheap'?; "
            "its modes are shipped, cheap",
        ),
        (
            ["run.envs=2", "reward.modes=['zz', 'cheap']"],
            f"{HEAD}.modes: reward 'esper/shipped' has no mode 'zz'; its modes are shipped, cheap",
        ),
        (
            ["run.envs=3", 'reward.modes=["shipped", "cheap"]'],
            f"{HEAD}.modes: must name one mode for each of the 3 environments (run.envs), not 2",
        ),
        (
            ["run.envs=1", "reward.modes=[]"],
            f"{HEAD}.modes: must name one mode for each of the 1 environments (run.envs), not 0",
        ),
        (["reward.modes=cheap"], f"{HEAD}.modes: must be a list of modes, not 'cheap'"),
        (
            ["run.envs=1", 'reward.modes=["cheap"]', "reward.mode=shipped"],
            f"{HEAD}.modes: contradicts reward.mode = 'shipped'; one of them is enough",
        ),
        (
            ["reward.rent=0.5"],
            f"{HEAD}.rent: must be a table of terms, because it is none of name, mode, modes",
        ),
        (
            ["reward.shipped.rent=0.5"],
            f"{HEAD}.shipped: must be a table of terms, because it is none of name, mode, modes",
        ),
        (
            ["reward.shipped.rant.weight=0.5"],
            f"{HEAD}.shipped.rant: names no component, so it is no term; did you mean 'rent'?",
        ),
        (
            ["reward.shipped.zz.weight=0.5"],
            f"{HEAD}.shipped.zz: names no component, so it is no term",
        ),
        (
            ["reward.shipped.panic.component=score"],
            f"{HEAD}.shipped.panic: the name is taken by what panics cost; choose another",
        ),
        (["reward.mine={}", "reward.mode=mine"], f"{HEAD}.mine: has no terms"),
        (
            ["reward.mine.one.component=score"],
            f"{HEAD}.mine: would be ignored: no environment is paid by the mode 'mine'",
        ),
        (
            ["reward.shipped.rent.weight=inf"],
            f"{HEAD}.shipped.rent.weight: must be finite, not inf",
        ),
        (
            ["reward.shipped.rent.weight=much"],
            f"{HEAD}.shipped.rent.weight: must be a number, not 'much'",
        ),
        (
            ["reward.shipped.rent.component=3"],
            f"{HEAD}.shipped.rent.component: must be text, not 3",
        ),
        (
            ["reward.shipped.rent.component=rant"],
            f"{HEAD}.shipped.rent.component: there is no term 'rant'; did you mean 'rent'? "
            "(terms that are installed: esper/rent, esper/score)",
        ),
        (
            ["reward.shipped.rent.begin=0.5"],
            f"{HEAD}.shipped.rent.begin: unknown key of term 'esper/rent'; "
            "did you mean reward.shipped.rent.begins?",
        ),
        (
            ["reward.shipped.score.begins=0.5"],
            f"{HEAD}.shipped.score.begins: unknown key of term 'esper/score'; "
            "did you mean reward.shipped.rent.begins?",
        ),
        (
            ["reward.shipped.rent.begins=-1.0"],
            f"{HEAD}.shipped.rent.begins: must be >= 0.0, not -1.0",
        ),
        (
            ["reward.mode=cheap", "reward.cheap.score.zzz=1"],
            f"{HEAD}.cheap.score.zzz: unknown key of term 'esper/score'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(sets: list[str], line: str, catalogue: Catalogue) -> None:
    error = refusal(catalogue, *sets)
    assert str(error) == line
    assert isinstance(error, ConfigError)


@pytest.mark.acceptance("AB-06", "CF-04")
def test_everything_that_is_wrong_is_said_at_once(catalogue: Catalogue) -> None:
    sets = [
        "run.envs=3",
        'reward.modes=["cheap", "shipped", "chep", "cheap"]',
        "reward.cheap.score.weight=nan",
        "reward.shipped.rent.begins=-1.0",
    ]
    head, *lines = str(refusal(catalogue, *sets)).splitlines()
    assert head == "4 things are wrong with the configuration:"
    assert [line.split(": ")[1] for line in lines] == [
        "reward.modes",
        "reward.modes",
        "reward.shipped.rent.begins",
        "reward.cheap.score.weight",
    ]


def test_a_family_that_is_not_installed_names_its_keys_without_complaint(catalogue: Catalogue) -> None:
    """One line for the name; nothing is said about what cannot be known."""
    error = refusal(catalogue, name="othr", odd={"one": {"weight": 2}})
    assert str(error).startswith("mapping: reward.name: there is no reward 'othr'")
    assert "\n" not in str(error)


TAKEN = """
import attrs

@attrs.frozen
class Heavy:
    weight: float = 1.0

@hookimpl
def esper_terms():
    yield Term(name="acme/heavy", build="acme_esper:x", settings="acme_esper:Heavy")
    yield Term(name="acme/lost", build="acme_esper:x", settings="acme_esper:Nowhere")
"""


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("heavy", "term 'acme/heavy' of acme-esper 1.0: its settings class must not have a field 'weight'"),
        ("lost", "term 'acme/lost' of acme-esper 1.0: cannot load "),
    ],
)
def test_a_term_whose_settings_cannot_be_read_is_its_plugins_fault(name: str, line: str, site: Path) -> None:
    plugin(site, "acme-esper", TAKEN)
    error = refusal(load(), f"reward.shipped.more.component={name}")
    assert isinstance(error, PluginError)
    assert str(error).startswith(f"{HEAD}.shipped.more.component: {line}")


@pytest.mark.usefixtures("catalogue")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[shipped", "its file is broken: fake_esper:shipped.toml: is not valid TOML"),
        ("", "its file 'fake_esper:shipped.toml' must hold a table for each of its modes"),
        ("weight = 3", "its file 'fake_esper:shipped.toml' must hold a table for each of its modes"),
        (
            "[mode.score]\ncomponent = 'score'",
            "its file 'fake_esper:shipped.toml' must hold a table for each of its modes",
        ),
    ],
)
def test_a_broken_file_is_its_plugins_fault(text: str, reason: str, site: Path) -> None:
    (site / "fake_esper" / "shipped.toml").write_text(text)
    error = refusal(load())
    assert isinstance(error, PluginError)
    assert str(error).startswith(f"{FAMILY}: {reason}")


@pytest.mark.usefixtures("catalogue")
def test_a_file_that_is_missing_is_its_plugins_fault(site: Path) -> None:
    (site / "fake_esper" / "shipped.toml").unlink()
    error = refusal(load())
    assert isinstance(error, PluginError)
    assert str(error).startswith(f"{FAMILY}: ")
    assert "shipped.toml" in str(error)


@pytest.mark.usefixtures("catalogue")
def test_a_wrong_value_in_a_familys_file_names_the_family(site: Path) -> None:
    (site / "fake_esper" / "shipped.toml").write_text("[only.rent]\ncomponent = 'rent'\nbegins = -1.0\n")
    assert str(refusal(load())) == "reward esper/shipped: reward.only.rent.begins: must be >= 0.0, not -1.0"
