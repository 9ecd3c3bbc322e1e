"""Strict structuring: plain TOML values into frozen attrs records, with every problem found at once.

Role: cattrs finds out what a type asks for; the hooks here refuse what it would convert in silence (1.5, true
or "3" for a whole number, a word for a list) and try every field and every validator of a record before
giving up, because a record's own constructor stops at the first.
Neighbours: `config.resolve` says which record a table becomes, `config.report` words the message;
`runner.grown` reads its own file with it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
from cattrs import BaseValidationError, Converter, IterableValidationError
from cattrs.cols import list_structure_factory
from cattrs.dispatch import StructureHook

from esper_core.errors import did_you_mean

Record = TypeVar("Record")
Path = tuple[str, ...]

# mypy sees a function in the first, and no call in the second.
_FACTORY: Any = attrs.Factory
_TAKES_MORE: Any = attrs.Converter


@attrs.frozen
class Problem:
    """One thing that is wrong with a table."""

    path: Path
    """Keys from the table's root to the value."""
    reason: str
    """What is wrong with it, and what was expected."""
    unknown: bool = False
    """There is no such key; whoever knows all keys can name the nearest."""


class RejectedError(ValueError):
    """A value that does not become a record; carries every reason."""

    def __init__(self, problems: list[Problem]) -> None:
        """Carry `problems`."""
        super().__init__("; ".join(f"{'.'.join(p.path)}: {p.reason}" for p in problems))
        self.problems = problems


def structure(table: object, record: type[Record]) -> Record:
    """Make a record from a table.

    Args:
        table: as a TOML parser returns it.
        record: an attrs class.

    Raises:
        RejectedError: with every unknown and missing key, wrong type and violated validator in the table.
    """
    try:
        return _CONVERTER.structure(table, record)
    except (ValueError, TypeError) as error:
        raise RejectedError(list(_problems(error, ()))) from error


def unstructure(record: object) -> Any:
    """The reverse of `structure`; fields that are None stay."""
    return _CONVERTER.unstructure(record)


def without_none(value: Any) -> Any:
    """What TOML can hold of an unstructured value: it has no None, so those keys are left out."""
    if isinstance(value, Mapping):
        return {str(key): without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_none(item) for item in value]
    return value


def leaves(record: type[Any], prefix: Path = ()) -> Iterator[Path]:
    """Every key that a record's table may have, tables first."""
    attrs.resolve_types(record)
    for field in attrs.fields(record):
        path = (*prefix, field.alias)
        yield path
        if isinstance(field.type, type) and attrs.has(field.type):
            yield from leaves(field.type, path)


def show(value: object) -> str:
    """A value as the user wrote it, short enough for a message."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _problems(error: BaseException, path: Path) -> Iterator[Problem]:
    """Flatten what cattrs and the hooks below raise."""
    if isinstance(error, RejectedError):
        for problem in error.problems:
            yield attrs.evolve(problem, path=(*path, *problem.path))
    elif isinstance(error, IterableValidationError):
        noted, others = error.group_exceptions()
        for cause, note in noted:
            yield from _problems(cause, (*path, str(note.index)))
        for cause in others:
            yield from _problems(cause, path)
    elif isinstance(error, BaseValidationError):
        for cause in error.exceptions:
            yield from _problems(cause, path)
    else:
        yield Problem(path, _reason(error, path))


def _reason(error: BaseException, path: Path) -> str:
    """The text of an error, without the attribute's name that attrs puts first."""
    text = str(error.args[0]) if error.args else type(error).__name__
    text = text.removeprefix(f"'{path[-1]}' ") if path else text
    return re.sub(r"( must be (?:in \(|[<>]=? )?\S+): (\S+)$", r"\1, not \2", f" {text}").strip()


def _record_hook(table: object, record: type[Any]) -> object:
    """Structure every field, run every validator, and only then make the record."""
    if not isinstance(table, Mapping):
        raise TypeError(f"must be a table, not {show(table)}")
    attrs.resolve_types(record)
    fields = {field.alias: field for field in attrs.fields(record) if field.init}
    problems = [Problem((str(key),), "unknown key", unknown=True) for key in table if key not in fields]
    given: dict[str, Any] = {}
    for key, field in fields.items():
        if key in table:
            try:
                given[key] = _CONVERTER.structure(table[key], field.type)
            except (ValueError, TypeError, BaseValidationError) as error:
                problems += _problems(error, (key,))
        elif field.default is attrs.NOTHING:
            problems.append(Problem((key,), "is required"))
    problems += _violations(record, given)
    if problems:
        raise RejectedError(problems)
    return record(**given)


def _violations(record: type[Any], given: Mapping[str, Any]) -> Iterator[Problem]:
    """What converters and validators of the given fields say, asked one by one on a record in the making.

    A field that was not given, or was refused, stands at its default; validators may look at it.
    """
    probe: Any = object.__new__(record)
    fields: list[Any] = [field for field in attrs.fields(record) if field.init]
    for field in fields:
        if field.alias not in given and field.default is not attrs.NOTHING:
            object.__setattr__(probe, field.name, _default(field, probe))
    chosen = [field for field in fields if field.alias in given]
    for ask in (_convert, _validate):
        for field in chosen:
            try:
                ask(probe, field, given[field.alias])
            except (ValueError, TypeError) as error:
                yield Problem((field.alias,), _reason(error, (field.name,)))
            except AttributeError:
                # It looked at a field that is not there, which is a problem of that field, told already.
                continue


def _convert(probe: Any, field: Any, value: Any) -> None:
    convert = field.converter
    if convert is not None:
        value = convert(value, probe, field) if isinstance(convert, _TAKES_MORE) else convert(value)
    object.__setattr__(probe, field.name, value)


def _validate(probe: Any, field: Any, _: Any) -> None:
    if field.validator is not None:
        field.validator(probe, field, getattr(probe, field.name))


def _default(field: Any, probe: Any) -> Any:
    default = field.default
    if isinstance(default, _FACTORY):
        return default.factory(probe) if default.takes_self else default.factory()
    return default


def _scalar(kind: Any, words: str) -> Callable[[Any, Any], Any]:
    """A hook that takes exactly `kind`: no truncation, no parsing, no truth values as numbers."""
    accepted = (float, int) if kind is float else (kind,)

    def hook(value: Any, _: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"must be {words}, not {show(value)}")
        try:
            return kind(value)
        except OverflowError:
            raise ValueError(f"must be {words} of double precision, not {show(value)}") from None

    return hook


def _is_literal(kind: Any) -> bool:
    origin: Any = get_origin(kind)
    return origin is Literal


def _literal_hook(value: object, kind: Any) -> Any:
    choices = get_args(kind)
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    hint = did_you_mean(str(value), map(str, choices))
    raise ValueError(f"must be one of {', '.join(map(show, choices))}, not {show(value)}{hint}")


def _is_listed(kind: Any) -> bool:
    """Any number of things of one type."""
    origin: Any = get_origin(kind)
    return origin in (list, frozenset) or (origin is tuple and get_args(kind)[-1] is Ellipsis)


def _listed(kind: Any, converter: Converter) -> StructureHook:
    """A hook factory that takes lists only; cattrs would take a word letter by letter."""
    inner: Any = list_structure_factory(kind, converter)
    collection: Any = get_origin(kind)

    def hook(value: object, _: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise TypeError(f"must be a list, such as [{show(value)}], not {show(value)}")
        return collection(inner(value, kind))

    return hook


def _is_union(kind: Any) -> bool:
    """A choice between scalars; `X | None` and choices between records are left to cattrs."""
    arms = set(get_args(kind)) - {type(None)}
    scalar = all(arm in _SCALARS or _is_literal(arm) for arm in arms)
    return get_origin(kind) in (Union, UnionType) and len(arms) > 1 and scalar


def _union_hook(value: object, kind: Any) -> Any:
    reasons = []
    if value is None and type(None) in get_args(kind):
        return None
    for arm in (arm for arm in get_args(kind) if arm is not type(None)):
        try:
            return _CONVERTER.structure(value, arm)
        except (ValueError, TypeError) as error:
            reasons.append(_reason(error, ()).split(", not ")[0].removeprefix("must be "))
    raise TypeError(f"must be {' or '.join(reasons)}, not {show(value)}")


def _make_converter() -> Converter:
    converter = Converter(unstruct_collection_overrides={frozenset: sorted})
    for kind, words in _SCALARS.items():
        converter.register_structure_hook(kind, _scalar(kind, words))
    converter.register_structure_hook_func(_is_literal, _literal_hook)
    converter.register_structure_hook_func(_is_union, _union_hook)
    converter.register_structure_hook_factory(_is_listed, _listed)
    converter.register_structure_hook_func(attrs.has, _record_hook)
    return converter


_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_CONVERTER = _make_converter()
