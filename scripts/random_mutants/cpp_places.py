"""All places of a C++ source where something can be mutated, token by token.

There is no parser of C++ here: what looks like an operator may belong to a type. Such a mutant does
not compile, and is drawn again.
"""

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from random_mutants.places import Edit, Place

OPERATORS = {"+": "-", "-": "+", "*": "+", "/": "*", "%": "/", "+=": "-=", "-=": "+=", "*=": "+="}
"""Operators between two operands, and what each becomes."""
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
BOOLEANS = {"&&": "||", "||": "&&"}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}
TRUTH = {"true": "false", "false": "true"}

TOKEN = re.compile(
    rb"""
    (?P<blank> \s+ | //[^\n]* | /\*.*?\*/ | \#(?:[^\n\\]|\\.)* ) |
    (?P<string> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)+' ) |
    (?P<number> (?:0x[0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)[fFuUlL]* ) |
    (?P<name> [A-Za-z_]\w* ) |
    (?P<sign> <<=|>>=|->|\+\+|--|\+=|-=|\*=|/=|<=|>=|==|!=|&&|\|\||::|<<|>>|. )
    """,
    re.VERBOSE | re.DOTALL,
)
INTEGER = re.compile(r"^(\d+)([uUlL]*)$")
FLOAT = re.compile(r"^([\d.]+(?:[eE][+-]?\d+)?)([fFlL]?)$")
# After these a minus is a sign and a star reads from an address.
BEFORE_OPERAND = frozenset(["return", *"([{,;=<>+-*/%?:&|!", *OPERATORS, *COMPARISONS])
# What begins a statement follows one of these.
BEFORE_STATEMENT = frozenset("{};")


Ways = list[tuple[Edit, ...]]


class Token(NamedTuple):
    """A token that is neither a blank nor a comment.

    Attributes:
        kind: "string", "number", "name" or "sign".
        text: as it is written.
        start: its first byte.
        end: the byte after its last one.
        line: its line, from 1 on.
    """

    kind: str
    text: str
    start: int
    end: int
    line: int


def tokens_of(source: bytes) -> list[Token]:
    """The tokens of a C++ source, without comments and directives."""
    tokens = []
    line = 1
    for found in TOKEN.finditer(source):
        kind = found.lastgroup or ""
        if kind != "blank":
            tokens.append(Token(kind, found[0].decode(), *found.span(), line))
        line += found[0].count(b"\n")
    return tokens


def cpp_places(source: bytes) -> list[Place]:
    """All places of a C++ source, in order."""
    tokens = tokens_of(source)
    places = []
    for i, token in enumerate(tokens):
        before = tokens[i - 1].text if i else ";"
        # `a < b` is a comparison, `Vec<T>` a type; `a * b` a product, `T* a` a pointer.
        around = source[token.start - 1 : token.start] + source[token.end : token.end + 1]
        is_part_of_type = token.text in COMPARISONS | OPERATORS and around.strip() != b""
        if is_part_of_type and token.text != "-":
            continue
        for kind, ways in _ways(tokens, i, before):
            last = tokens[_end_of_statement(tokens, i)].line
            places.append(Place(kind, token.line, last, tuple(ways)))
    return places


def _ways(tokens: list[Token], i: int, before: str) -> Iterator[tuple[str, Ways]]:
    token = tokens[i]
    text = token.text
    between = before not in BEFORE_OPERAND
    if token.kind == "sign":
        if text in OPERATORS and between:
            yield "operator", [(_replaced(token, OPERATORS[text]),)]
        elif text == "-":
            yield "operator", [(_replaced(token, ""),)]
        elif text in COMPARISONS:
            yield "comparison", [(_replaced(token, COMPARISONS[text]),)]
        elif text in BOOLEANS:
            yield "boolean", [(_replaced(token, BOOLEANS[text]),)]
        elif text == "!":
            yield "boolean", [(_replaced(token, "!!"),)]
    elif token.kind == "number":
        nudged = nudged_numbers(text)
        # In `p[1]` it is an index.
        yield "index" if before == "[" else "constant", [(_replaced(token, n),) for n in nudged]
    elif token.kind == "name":
        following = tokens[i + 1].text if i + 1 < len(tokens) else ""
        if text in TRUTH:
            yield "constant", [(_replaced(token, TRUTH[text]),)]
        elif text in EXTREMES and following in ("(", "<"):
            yield "extreme", [(_replaced(token, EXTREMES[text]),)]
        elif text == "if" and following == "(":
            close = _closing(tokens, i + 1)
            opened = Edit(tokens[i + 1].end, tokens[i + 1].end, "!(")
            closed = Edit(tokens[close].start, tokens[close].start, ")")
            yield "branch", [(opened, closed)]
        elif len(text) == 1 and before == "[" and following == "]":
            yield "index", [(Edit(token.end, token.end, step),) for step in (" + 1", " - 1")]
        yield from _of_call(tokens, i, before, following)


def _of_call(
    tokens: list[Token], i: int, before: str, following: str
) -> Iterator[tuple[str, Ways]]:
    # `name(a, b)`: two arguments exchanged, or, where it is a statement, the call deleted.
    if following != "(" or tokens[i].text in ("if", "for", "while", "switch", "return", "sizeof"):
        return
    close = _closing(tokens, i + 1)
    arguments = _arguments(tokens, i + 1, close)
    exchanges: Ways = []
    for left, right in itertools.pairwise(arguments):
        if left.text != right.text:
            exchanges.append((_replaced(left, right.text), _replaced(right, left.text)))
    if exchanges:
        yield "exchange", exchanges
    if before in BEFORE_STATEMENT and tokens[close + 1].text == ";":
        yield "deletion", [(Edit(tokens[i].start, tokens[close].end, ""),)]


def _arguments(tokens: list[Token], opening: int, close: int) -> list[Token]:
    # Each argument that is one name or number, as it stands between commas.
    found = []
    depth = 0
    for k in range(opening, close + 1):
        text = tokens[k].text
        alone = k < close and tokens[k - 1].text in ("(", ",") and tokens[k + 1].text in (",", ")")
        if depth == 1 and alone and tokens[k].kind in ("name", "number"):
            found.append(tokens[k])
        depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
    return found


def nudged_numbers(text: str) -> list[str]:
    """What a number becomes: an integer moves by 1, a float by half, 0 to 1."""
    integer = INTEGER.match(text)
    if integer:
        return [f"{int(integer[1]) + 1}{integer[2]}", f"{int(integer[1]) - 1}{integer[2]}"]
    number = FLOAT.match(text)
    if number:
        value = float(number[1])
        return [f"{1.5 * value if value else 1.0!r}{number[2]}"]
    return []


def _closing(tokens: list[Token], opening: int) -> int:
    depth = 0
    for k in range(opening, len(tokens)):
        depth += (tokens[k].text == "(") - (tokens[k].text == ")")
        if depth == 0:
            return k
    return len(tokens) - 1


def _end_of_statement(tokens: list[Token], i: int) -> int:
    for k in range(i, len(tokens)):
        if tokens[k].text in BEFORE_STATEMENT:
            return k
    return len(tokens) - 1


def _replaced(token: Token, text: str) -> Edit:
    return Edit(token.start, token.end, text)
