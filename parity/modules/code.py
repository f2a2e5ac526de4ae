"""A weight map as Python code to paste."""

import dataclasses
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
    return repr(value)


def entry_code(entry: Entry) -> str:
    """The call that makes an entry."""
    arguments = [_names_code(entry.keys), _names_code(entry.paths)]
    if entry.operation != Identity():
        arguments.append(operation_code(entry.operation))
    return f"entry({', '.join(arguments)})"


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
        notes: a comment behind an entry.
    """
    used = {"WeightMap", "entry"}
    for one in entries:
        used |= _classes(one.operation)
    used.discard("Identity" if "Identity(" not in " ".join(map(entry_code, entries)) else "")
    # Classes first, as isort has them.
    names = sorted(used, key=lambda name: (name.islower(), name))
    lines = [f"# {remark}" for remark in remarks]
    lines += [f"from parity import {', '.join(names)}", "", "weight_map = WeightMap(", "    ["]
    for one in entries:
        note = f"  # {notes[one]}" if one in notes else ""
        lines.append(f"        {entry_code(one)},{note}")
    return "\n".join([*lines, "    ]", ")"])


def _classes(operation: Operation) -> set[str]:
    found = {type(operation).__name__}
    parts = operation.operations if isinstance(operation, Chain) else ()
    for field in dataclasses.fields(operation):  # type: ignore[arg-type]
        value = getattr(operation, field.name)
        if isinstance(value, Operation) and value != field.default:
            found |= _classes(value)
    for part in parts:
        found |= _classes(part)
    return found
