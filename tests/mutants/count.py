"""Counts the mutants of the last run of mutmut, and holds the survivors against `equivalent.toml`.

    python tests/mutants/count.py [PATTERN ...]     the patterns that `mutmut run` was given

An entry of `equivalent.toml` says why no test can tell some mutants of a statement from the original:

    [[equivalent]]
    function = "esper_core.phases.advantage.normalise"
    before = "count = counted.sum().clamp(min=1)"
    after = ["count = counted.sum().clamp(min=None)"]
    reason = "..."

Statements are compared as Python prints their syntax tree: neither lines that move nor other line breaks
touch an entry. Every `after` explains one survivor and must find one, so that the list stays true.
"""

import ast
import difflib
import json
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

RUN = Path("mutants")
"""Where mutmut works: a copy of the sources, and beside each file that it changed the exit codes."""
ENTRIES = Path(__file__).with_name("equivalent.toml")
KILLED = {1, 3, -24, 24, 36, 152, 255}
"""Exit codes of pytest after a failure, and what mutmut notes of a mutant that never comes to an end."""
MUTANT = re.compile(r"(?P<module>.+)\.x(?:_|ǁ(?P<owner>\w+)ǁ)(?P<function>\w+)__mutmut_\d+")
"""How mutmut names a mutant of a function, and of a method."""
LEFT_OUT = "has a decorator, and mutmut leaves it out; use `with` in its body"
SEEN_THROUGH = {"staticmethod", "classmethod", "_mutmut_mutated", "property"}
"""Decorators of functions that mutmut changes, its own, and that of properties, which it may leave alone."""


class Change(NamedTuple):
    """What a mutant is: a function, a statement of it, and what became of the statement."""

    function: str
    before: str
    after: str


def main(patterns: list[str]) -> int:
    """Print what is wrong, then one line that counts; 0 if nothing is wrong."""
    codes: dict[str, int | None] = {}
    survivors: dict[str, Change] = {}
    wrong = []
    for meta in sorted(RUN.rglob("*.meta")):
        file = meta.with_suffix("")
        tree = ast.parse(file.read_text(encoding="utf-8"))
        wrong += [f"{file.relative_to(RUN)}: {name} {LEFT_OUT}" for name in decorated(tree)]
        own = {name: code for name, code in _codes(meta) if _is_asked_for(name, patterns)}
        codes |= own
        survivors |= changes(tree, (name for name, code in own.items() if code not in {None, *KILLED}))
    untried = [name for name, code in codes.items() if code is None]
    wrong += [f"{name} was not run" for name in untried]

    tried = {function_of(name) for name in codes}
    entries = explained(ENTRIES.read_text(encoding="utf-8"))
    unexplained, idle = compare(survivors, [e for e in entries if not patterns or e.function in tried])
    for name in unexplained:
        print(f"# {name} survived (exit code {codes[name]}): write a test, or say why none can see it")
    print(as_entries(unexplained.values()))
    if idle:
        print(f"# no survivor is like these entries of {ENTRIES.name}: killed, or gone; remove them")
        print(as_entries(idle))
    for line in wrong:
        print(line)
    print(
        f"{len(codes)} mutants: {len(codes) - len(survivors) - len(untried)} killed, "
        f"{len(survivors) - len(unexplained)} survived and explained, {len(unexplained)} survived unexplained"
    )
    return int(bool(unexplained or idle or wrong or not codes))


def explained(text: str) -> Iterator[Change]:
    """The mutants that entries explain; every entry needs a reason."""
    for entry in tomllib.loads(text).get("equivalent", []):
        if not entry["reason"].strip():
            raise ValueError(
                f"{entry['function']}: no reason why nobody sees a change of {entry['before']!r}"
            )
        yield from (Change(entry["function"], entry["before"], after) for after in entry["after"])


def compare(
    survivors: Mapping[str, Change], entries: Iterable[Change]
) -> tuple[dict[str, Change], list[Change]]:
    """Survivors that no entry explains, by name, and entries that explain none; an entry explains one."""
    left = Counter(entries)
    unexplained = {}
    for name, change in survivors.items():
        if left[change]:
            left[change] -= 1
        else:
            unexplained[name] = change
    return unexplained, list(left.elements())


def changes(tree: ast.Module, names: Iterable[str]) -> dict[str, Change]:
    """What the mutants of these names change, from the file that mutmut put them in."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = {}
    for name in names:
        mutant = name.rpartition(".")[2]
        original = f"{mutant.rpartition('_')[0]}_orig"
        lines = difflib.ndiff(_lines(functions[original]), _lines(functions[mutant]))
        told = [(line[0], line[2:].strip()) for line in lines]
        before, after = ("\n".join(text for sign, text in told if sign == wanted) for wanted in "-+")
        found[name] = Change(function_of(name), before, after)
    return found


def decorated(tree: ast.Module) -> list[str]:
    """Functions and methods that mutmut leaves out because of a decorator."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        if not {ast.unparse(d).partition("(")[0] for d in node.decorator_list} <= SEEN_THROUGH
    ]


def function_of(name: str) -> str:
    """The qualified name of the function or method that a mutant is one of."""
    match = MUTANT.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not like the names of mutants that this script knows; correct MUTANT")
    return ".".join(filter(None, match.group("module", "owner", "function")))


def as_entries(found: Iterable[Change]) -> str:
    """Changes as `equivalent.toml` has them, each statement once; JSON's strings are TOML's too."""
    statements: dict[tuple[str, str], list[str]] = {}
    for function, before, after in found:
        statements.setdefault((function, before), []).append(f"    {_quoted(after)},\n")
    return "\n".join(
        f"[[equivalent]]\nfunction = {_quoted(function)}\nbefore = {_quoted(before)}\n"
        f'after = [\n{"".join(after)}]\nreason = ""\n'
        for (function, before), after in statements.items()
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _codes(meta: Path) -> Iterable[tuple[str, int | None]]:
    """Names of a file's mutants with their exit codes, None where there is none yet."""
    codes: dict[str, int | None] = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes.items()


def _is_asked_for(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatch(name, pattern) for pattern in patterns)


def _lines(node: ast.FunctionDef) -> list[str]:
    """One line for every statement, after the name."""
    return ast.unparse(node).split("(", 1)[1].splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
