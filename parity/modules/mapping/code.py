"""A weight map as Python code to paste."""

import dataclasses
import re
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
NUMBER = re.compile(r"\d+")


def map_code(entries: Sequence[Entry], remarks: Sequence[str], notes: Mapping[Entry, str]) -> str:
    """A program that makes `weight_map` of these entries.

    Entries that repeat from block to block, with another number, are written once.

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
        lines += _comment(remark, "")
    lines += [imports, "", "weight_map = WeightMap(", "    ["]
    rest = list(entries)
    while rest:
        blocks, size = _repeated(rest, notes)
        if blocks > 1:
            lines += _loop(rest[:size], blocks)
        else:
            lines += _call("entry", _arguments(rest[0]), " " * 8, notes.get(rest[0], ""))
        rest = rest[blocks * size :]
    return "\n".join([*lines, "    ]", ")"])


def _repeated(entries: Sequence[Entry], notes: Mapping[Entry, str]) -> tuple[int, int]:
    """How many blocks the list begins with that differ in their number alone, and their size."""
    if _template(entries[0], 0) is None:
        return 1, 1
    size = 0
    while size < len(entries) and _template(entries[size], 0) is not None:
        size += 1
    first = [_template(one, 0) for one in entries[:size]]
    blocks = 1
    while True:
        following = entries[blocks * size : (blocks + 1) * size]
        if len(following) < size or [_template(one, blocks) for one in following] != first:
            break
        blocks += 1
    # A comment belongs to one of them.
    if any(one in notes for one in entries[: blocks * size]):
        return 1, 1
    return (blocks, size) if blocks > 1 else (1, 1)


def _template(one: Entry, number: int) -> Entry | None:
    """The entry with {k} for the first number of each name; None if that is another."""
    if not one.paths or not one.keys:
        return None
    names = [*one.keys, *one.paths]
    found = []
    for name in names:
        match = NUMBER.search(name)
        if match is None or match[0] != str(number) or "{" in name or "}" in name:
            return None
        found.append(f"{name[: match.start()]}{{k}}{name[match.end() :]}")
    return Entry(tuple(found[: len(one.keys)]), tuple(found[len(one.keys) :]), one.operation)


def _loop(block: Sequence[Entry], blocks: int) -> list[str]:
    """The entries of all blocks, from those of the first."""
    inner = []
    for one in block:
        template = _template(one, 0)
        assert template is not None
        inner += _call("entry", _arguments(template, "f"), " " * 16, "")
    return [
        " " * 8 + "*(",
        " " * 12 + "one",
        " " * 12 + f"for k in range({blocks})",
        " " * 12 + "for one in (",
        *inner,
        " " * 12 + ")",
        " " * 8 + "),",
    ]


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        LINE,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _call(name: str, arguments: Sequence[str], indent: str, note: str) -> list[str]:
    """A call with a comma behind it: on one line, or with an argument a line."""
    line = f"{indent}{name}({', '.join(arguments)}),"
    if note and len(f"{line}  # {note}") <= LINE:
        return [f"{line}  # {note}"]
    # A comment that is too long for the line stands above it.
    lines = _comment(note, indent) if note else []
    if len(line) <= LINE:
        return [*lines, line]
    lines.append(f"{indent}{name}(")
    for argument in arguments:
        whole = f"{indent}    {argument},"
        if len(whole) > LINE and argument.startswith(("('", '("', '(f"')):
            names = argument.strip("()").split(", ")
            lines.append(f"{indent}    (")
            lines += [f"{indent}        {one}," for one in names]
            lines.append(f"{indent}    ),")
        else:
            lines.append(whole)
    return [*lines, f"{indent}),"]


def _arguments(one: Entry, prefix: str = "") -> list[str]:
    """The arguments of the call that makes an entry; names are strings with this prefix."""
    arguments = [_names_code(one.keys, prefix), _names_code(one.paths, prefix)]
    if one.operation != Identity():
        arguments.append(operation_code(one.operation))
    return arguments


def _names_code(names: Sequence[str], prefix: str) -> str:
    quoted = [f'{prefix}"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"({', '.join(quoted)})"


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
