"""The code of a suggested weight map: it makes the same map, and is laid out to be read."""

import pytest

import parity
from jaxrnn.exchange.layouts import (
    InterleaveHeads,
    Inverse,
    OffsetGate,
    PermuteAxes,
    Reshape,
    TransposedConvolution,
)
from jaxrnn.exchange.operations import Chain, Identity, PermuteGates, SplitGates, Transpose
from jaxrnn.exchange.weights import entry
from parity.modules.mapping.code import LINE, map_code, operation_code


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (Transpose(), "Transpose()"),
        (Chain((SplitGates(4), Transpose())), "Chain((SplitGates(4), Transpose()))"),
        (Chain((Transpose(),)), "Chain((Transpose(),))"),
        (TransposedConvolution("OIk", False, 2), 'TransposedConvolution("OIk", False, 2)'),
        (Inverse(SplitGates(3)), "Inverse(SplitGates(3))"),
        (OffsetGate(2, 4), "OffsetGate(2, 4)"),
        (PermuteGates((1, 0)), "PermuteGates((1, 0))"),
    ],
)
def test_the_code_of_an_operation_makes_it_again(operation, code):
    assert operation_code(operation) == code
    assert eval(code, vars(parity)) == operation


def made(code):
    found = {}
    exec(code, found)
    return found["weight_map"].entries


def block(k):
    return [
        entry(f"b.{k}.weight", f"b_{k}/kernel", Transpose()),
        entry((f"b.{k}.x", f"b.{k}.y"), f"b_{k}/bias"),
    ]


LONG = "x" * 60
MAPS = {
    "one": [entry("a", "b")],
    "blocks": [entry("a", "b"), *block(0), *block(1), *block(2), entry("c", "d")],
    "blocks first": [*block(0), *block(1)],
    "one block": [*block(0), entry("a.1", "a_1")],
    "other numbers": [entry("a.1", "a_1"), entry("a.2", "a_2")],
    "no block": [entry("a.0", "a_0"), entry("a.1", "a_1", Transpose())],
    "long": [entry((f"{LONG}1", f"{LONG}2"), f"{LONG}3", Chain((SplitGates(2), Transpose())))],
    "long blocks": [entry(f"{LONG}.{k}.a", (f"{LONG}_{k}", f"b_{k}", f"c_{k}")) for k in range(2)],
    "braces": [entry("a{.0", "b_0"), entry("a{.1", "b_1")],
    "nothing": [entry((), "a_0", Identity()), entry("b_0", (), Identity())],
}


@pytest.mark.parametrize("name", MAPS)
def test_the_code_of_a_map_makes_it_again(name):
    code = map_code(MAPS[name], ["A remark."], {})
    assert list(made(code)) == MAPS[name]
    assert code.startswith("# A remark.\nfrom parity import ")
    assert all(len(line) <= LINE for line in code.splitlines())
    assert ("for k in range" in code) == (name in ("blocks", "blocks first", "long blocks"))


def test_repeated_blocks_are_a_loop_and_one_line_each():
    assert map_code(MAPS["blocks"], [], {}) == "\n".join(
        [
            "from parity import Transpose, WeightMap, entry",
            "",
            "weight_map = WeightMap(",
            "    [",
            '        entry("a", "b"),',
            "        *(",
            "            one",
            "            for k in range(3)",
            "            for one in (",
            '                entry(f"b.{k}.weight", f"b_{k}/kernel", Transpose()),',
            '                entry((f"b.{k}.x", f"b.{k}.y"), f"b_{k}/bias"),',
            "            )",
            "        ),",
            '        entry("c", "d"),',
            "    ]",
            ")",
        ]
    )


def test_notes_stand_behind_their_entry_or_above_it():
    one = entry("a.0", "b_0")
    other = entry("a.1", "b_1")
    code = map_code([one, other], [], {other: "short"})
    assert '        entry("a.1", "b_1"),  # short\n' in code
    assert "for k" not in code  # a note belongs to one of them
    # On one line up to the last character that fits.
    room = LINE - len('        entry("a.1", "b_1"),  # ')
    assert f'"b_1"),  # {"n" * room}\n' in map_code([other], [], {other: "n" * room})
    above = map_code([other], [], {other: "n" * (room + 1)})
    assert f'        # {"n" * (room + 1)}\n        entry("a.1", "b_1"),\n' in above


def test_remarks_are_wrapped_and_imports_broken():
    words = "word " * 30
    code = map_code([entry("a", "b")], [words], {})
    first, second, *_ = code.splitlines()
    assert first.startswith("# word")
    assert second.startswith("#   word")
    assert LINE - 6 < len(first) <= LINE
    classes = Chain((SplitGates(2), Transpose(), PermuteAxes((1, 0, 2)), Reshape((1,), (1, 1))))
    more = Chain(
        (classes, TransposedConvolution("kIO"), InterleaveHeads(2), Inverse(SplitGates(2)))
    )
    lines = map_code([entry("a", "b", more)], [], {}).splitlines()
    assert lines[0] == "from parity import ("
    names = [line.strip(" ,") for line in lines[1 : lines.index(")")]]
    assert names == [*sorted(names[:-1]), "entry"]
    assert {"Chain", "SplitGates", "Inverse", "InterleaveHeads", "PermuteAxes"} <= set(names)
