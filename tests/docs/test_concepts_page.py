"""`docs/concepts.md`: stages, operations, gates, blends and arms are those of the code."""

import re
from pathlib import Path

import pytest
from pages import NAMES, ROOT, code, page, words_of_code

from esper_core.plugin.loader import load
from esper_core.rules import gates
from esper_core.runner.compare import ARMS
from esper_core.runner.config.records import SECTIONS
from esper_core.runner.strict import leaves
from esper_core.state.actions import HEADS_OF, Blend, Op, name_of
from esper_core.state.governor import Verdict
from esper_core.state.slots import LIVE, Stage

PAGE = page("docs/concepts.md")
CODE_NAMES = ("Kasmina", "Leyline", "Tamiyo", "Tolaria", "Simic", "Nissa", "Karn")


def test_the_stages_are_those_of_the_slot_table() -> None:
    table = PAGE.table("The life of a seed")
    assert [row[0] for row in table.rows] == [stage.name for stage in Stage]
    assert f"({', '.join(stage.name for stage in LIVE)}) are called live" in " ".join(PAGE.text.split())


def test_the_table_of_stages_names_operations_and_settings_that_exist() -> None:
    words = {
        word for row in PAGE.table("The life of a seed").rows for cell in row for word in words_of_code(cell)
    }
    settings = {path[-1] for path in leaves(SECTIONS["growth"])}
    assert words <= {name_of(op) for op in Op} | settings
    assert {"germinate", "advance", "fossilize", "prune", "set-alpha-target"} <= words


def test_the_operations_use_the_heads_that_the_page_says() -> None:
    written = {
        code(op): re.findall(r"`(\w+)`", heads)
        for op, heads, _ in PAGE.table("Controller, decision, evidence").rows
    }
    assert written == {name_of(op): list(heads[1:]) for op, heads in HEADS_OF.items()}


def test_every_gate_of_the_code_is_in_the_table() -> None:
    """Docstrings in `rules.gates` and `rules.lifecycle` number the gates; the page has the same numbers."""
    sources = [Path(gates.__file__), Path(gates.__file__).with_name("lifecycle.py")]
    numbered = set(re.findall(r"\bG\d\b", "".join(path.read_text() for path in sources)))
    table = PAGE.table("Gates and evidence")
    assert {row[0] for row in table.rows} == numbered
    assert all(row[1] in Stage.__members__ for row in table.rows)


def test_every_key_on_the_page_exists() -> None:
    known = {".".join(path) for name, record in SECTIONS.items() for path in leaves(record, (name,))}
    catalogue = load(no_plugins=True)
    record = catalogue.find("policy", "esper/lstm").settings()
    assert record is not None
    known |= {".".join(path) for path in leaves(record, ("policy",))}
    sections = {path.partition(".")[0] for path in known}
    used = {word for word in words_of_code(PAGE.text) if re.fullmatch(rf"({'|'.join(sections)})\.\w+", word)}
    assert {"growth", "governor", "learn", "policy"} <= {path.partition(".")[0] for path in used}
    assert used <= known


def test_the_blends_and_the_arms_are_those_of_the_code() -> None:
    assert [code(row[0]) for row in PAGE.table("Blends").rows] == [name_of(blend) for blend in Blend]
    assert tuple(code(row[0]) for row in PAGE.table("The comparison").rows) == ARMS


def test_the_controllers_are_those_that_esper_brings() -> None:
    names = [code(row[0]) for row in PAGE.table("Controllers").rows]
    assert sorted(names) == sorted(load(no_plugins=True).names("policy"))


def test_the_verdicts_are_those_of_the_governor() -> None:
    table = PAGE.table("The governor")
    assert [code(row[0]) for row in table.rows] == [name_of(v) for v in Verdict if v != Verdict.NONE]


@pytest.mark.parametrize("name", CODE_NAMES)
def test_a_code_name_of_the_predecessor_appears_once(name: str) -> None:
    files = [ROOT / page_name for page_name in NAMES]
    files += [path for package in ("esper_core", "esper_plugins") for path in (ROOT / package).rglob("*.py")]
    found = [path for path in files for _ in re.findall(name, path.read_text(), re.IGNORECASE)]
    assert found == [PAGE.path]


def test_the_table_of_code_names_points_at_modules_that_exist() -> None:
    rows = PAGE.table("Names in the predecessor").rows
    assert [row[0] for row in rows] == list(CODE_NAMES)
    for row in rows:
        for word in words_of_code(row[2]):
            path = ROOT / word.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), word
