"""A weight map as Python code to paste."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence

from jaxrnn.exchange.operations import Chain, Identity, Operation
from jaxrnn.exchange.weights import Entry


def operation_code(operation: Operation) -> str:
    """The call that makes an operation, such as "Chain((SplitGates(4), Transpose()))"."""
    arguments = []
    positional = True
    for field in dataclasses.fields(operation):  # type: ignore[arg-type]  # all are dataclasses
        value = getattr(operation, field.name)
        # What is lost follows from the operation; what is as by default needs no words.
        if field.name == "inexact" or value == field.default:
            positional = False
            continue
        text = _value_code(value)
        arguments.append(text if positional else f"{field.name}={text}")
    return f"{type(operation).__name__}({', '.join(arguments)})"


def _value_code(value: object) -> str:
    if isinstance(value, Operation):
        return operation_code(value)
    if isinstance(value, tuple):
        parts = [_value_code(part) for part in value]
        return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
    return f'"{value}"' if isinstance(value, str) else repr(value)


LINE = 100
"""Characters of the longest line."""


def call_code(name: str, arguments: Sequence[str], indent: str, note: str = "") -> str:
    """A call with a comma behind it: on one line, or with an argument a line."""
    comment = f"  # {note}" if note else ""
    line = f"{indent}{name}({', '.join(arguments)}),"
    if len(line) <= LINE:
        # A comment that is too long for the line stands above it.
        if len(line + comment) <= LINE:
            return line + comment
        return f"{indent}{comment.strip()}\n{line}"
    lines = [f"{indent}{name}("]
    for argument in arguments:
        line = f"{indent}    {argument},"
        if argument.startswith('("') and len(line) > LINE:
            names = argument.strip("()").split(", ")
            inner = [f"{indent}        {one}," for one in names]
            lines += [f"{indent}    (", *inner, f"{indent}    ),"]
        else:
            lines.append(line)
    above = [f"{indent}{comment.strip()}"] if note else []
    return "\n".join([*above, *lines, f"{indent}),"])


def entry_arguments(entry: Entry) -> list[str]:
    """The arguments of the call that makes an entry."""
    arguments = [_names_code(entry.keys), _names_code(entry.paths)]
    if entry.operation != Identity():
        arguments.append(operation_code(entry.operation))
    return arguments


def _names_code(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f'"{names[0]}"'
    quoted = ", ".join(f'"{name}"' for name in names)
    return f"({quoted})"


def map_code(entries: Sequence[Entry], remarks: Sequence[str], notes: Mapping[Entry, str]) -> str:
    """A program that makes `weight_map` of these entries.

    Args:
        entries: in this order.
        remarks: a comment each, above the map.
        notes: a comment for an entry.
    """
    used = {"WeightMap", "entry"}
    for one in entries:
        if one.operation != Identity():
            used |= _classes(one.operation)
    # Classes first, as isort has them.
    names = sorted(used, key=lambda name: (name.islower(), name))
    imports = f"from parity import {', '.join(names)}"
    if len(imports) > LINE:
        imports = "\n".join(["from parity import (", *(f"    {name}," for name in names), ")"])
    lines = []
    for remark in remarks:
        lines += textwrap.wrap(remark, LINE, initial_indent="# ", subsequent_indent="#   ")
    lines += [imports, "", "weight_map = WeightMap(", "    ["]
    for one in entries:
        lines.append(call_code("entry", entry_arguments(one), " " * 8, notes.get(one, "")))
    return "\n".join([*lines, "    ]", ")"])


def _classes(operation: Operation) -> set[str]:
    """The names of the classes in the code of an operation."""
    found = {type(operation).__name__}
    if isinstance(operation, Chain):
        for step in operation.operations:
            found |= _classes(step)
    for field in dataclasses.fields(operation):  # type: ignore[arg-type]
        value = getattr(operation, field.name)
        if isinstance(value, Operation) and value != field.default:
            found |= _classes(value)
    return found
