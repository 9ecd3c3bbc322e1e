"""How pages write the default and the values of a setting."""

import json
import tomllib
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import attrs

WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
OWN_CHECKS = {
    "finite": "finite",
    "distinct": "no entry twice",
    "_even": "even",
    "_reachable": "<= `window`",
    "_not_before": ">= `begins`",
    "_below_start": "< `start`",
}
"""Validators that are functions, and how the page says what they ask for."""


def default_of(field: Any) -> str:
    """A default as TOML writes it."""
    default = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        return "its defaults"
    if default is None:
        return "not set"
    text = f"`{json.dumps(default)}`"
    assert tomllib.loads(f"x = {text[1:-1]}")["x"] == (
        list(default) if isinstance(default, tuple) else default
    )
    return text


def values_of(field: Any) -> str:
    return ", ".join([kind_of(field.type), *constraints(field.validator)])


def kind_of(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(kind_of(arm) for arm in get_args(kind) if arm is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(f"`{json.dumps(choice)}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return f"list of {kind_of(get_args(kind)[0])}"
    return "table" if isinstance(kind, type) and attrs.has(kind) else WORDS[kind]


def constraints(validator: Any) -> Iterator[str]:
    """What a validator asks for, in the order in which it asks."""
    kind = type(validator).__name__
    if validator is None:
        return
    if kind == "_AndValidator":
        for each in validator._validators:
            yield from constraints(each)
    elif kind == "_OptionalValidator":
        yield from constraints(validator.validator)
    elif kind == "_DeepIterable":
        yield from (f"each {text}" for text in constraints(validator.member_validator))
    elif kind == "_NumberValidator":
        yield f"{validator.compare_op} {validator.bound}"
    elif kind == "_MinLengthValidator":
        yield f"at least {validator.min_length}"
    elif kind == "_InValidator":
        yield f"in {min(validator.options)} to {max(validator.options)}"
    else:
        yield OWN_CHECKS[validator.__name__]
