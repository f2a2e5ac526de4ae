"""All places of a Python source where something can be mutated.

Left out is what does not run or what nothing follows from: docstrings and the text of messages,
annotations and what only a type checker reads, `__all__`, log lines, errors' arguments, decorators
of data classes, and keywords that assert or promise (`PROMISED`).
"""

import ast
import itertools
import re
from collections.abc import Iterator, Sequence

from random_mutants.places import Edit, Place

OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}
"""Each operator as it is written, and what it becomes."""

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}

EXTREMES = {
    "min": "max",
    "max": "min",
    "minimum": "maximum",
    "maximum": "minimum",
    "argmin": "argmax",
    "argmax": "argmin",
}

# The names of what emits text for a reader, and nothing else.
LOGS = re.compile(
    r"^(_?log|logger|logging)\.|^_warn_once$|^warnings\.(warn|simplefilter|filterwarnings)$"
)
# Decorators whose options are promises, which change nothing that runs.
PROMISES = ("dataclass", "dataclasses.dataclass", "cache", "lru_cache", "functools.lru_cache")
PROMISED = frozenset(
    ("strict", "repr", 'mode="promise_in_bounds"', "indices_are_sorted", "unique_indices")
)
"""Keywords, some with their value, that change no result of what is right: assertions of `zip`,
what a debugger shows, promises to XLA."""
SMALL = 1e-2
"""A float below it is a tolerance or an epsilon. Those stand between numbers that are orders of
magnitude apart, so they are changed by `FAR`."""
FAR = 1000.0
# A name of one lower-case letter is an index; `Sequence[Step]` is a type.
LOOP_INDEX = re.compile(r"^[a-z]$")

Ways = list[tuple[Edit, ...]]


def python_places(source: bytes) -> list[Place]:
    """All places of a Python source, in the order of the syntax tree."""
    return list(_Finder(source).places())


class _Finder:
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._tree = ast.parse(source)
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def places(self) -> Iterator[Place]:
        yield from self._of_statements(self._tree.body)

    def _of_statements(self, statements: Sequence[ast.stmt]) -> Iterator[Place]:
        for statement in statements:
            if _is_left_out(statement):
                continue
            yield from self._of_statement(statement)
            for name in ("body", "orelse", "finalbody"):
                yield from self._of_statements(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from self._of_statements(handler.body)
            for case in getattr(statement, "cases", []):
                yield from self._of_statements(case.body)

    def _of_statement(self, statement: ast.stmt) -> Iterator[Place]:
        # The places of a statement itself, without the statements within it.
        first, last = _lines(statement)
        for kind, ways in self._ways_of_statement(statement):
            if ways:
                yield Place(kind, first, last, tuple(ways))
        for node in _expressions(statement):
            for kind, ways in self._ways_of_expression(node):
                if ways:
                    yield Place(kind, first, last, tuple(ways))

    def _ways_of_statement(self, statement: ast.stmt) -> Iterator[tuple[str, Ways]]:
        if isinstance(statement, ast.AugAssign):
            yield "deletion", [(self._replace(statement, "pass"),)]
            yield "operator", self._operator(statement.op, statement.target, statement.value)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield "deletion", [(self._replace(statement, "pass"),)]
        elif isinstance(statement, ast.If):
            yield "branch", [self._negated(statement.test)]
        elif isinstance(statement, ast.Return) and isinstance(statement.value, ast.Tuple):
            yield "result", self._exchanges(statement.value.elts)

    def _ways_of_expression(self, node: ast.AST) -> Iterator[tuple[str, Ways]]:
        match node:
            case ast.BinOp():
                yield "operator", self._binary(node)
            case ast.UnaryOp(op=ast.USub()) if not isinstance(node.operand, ast.Constant):
                yield "operator", [(self._replace(node, self._text(node.operand)),)]
            case ast.UnaryOp(op=ast.Not()):
                yield "boolean", [(self._replace(node, f"bool({self._text(node.operand)})"),)]
            case ast.BoolOp():
                yield "boolean", self._boolean(node)
            case ast.Compare():
                yield "comparison", self._comparison(node)
            case ast.Constant():
                yield "constant", self._constant(node)
            case ast.Subscript():
                yield "index", self._index(node.slice)
            case ast.IfExp():
                yield "branch", [self._negated(node.test)]
            case ast.Call():
                yield "exchange", self._exchanges(node.args)
                yield "keyword", self._left_out(node)
                yield "extreme", self._extreme(node.func)
            case ast.comprehension():
                for test in node.ifs:
                    yield "branch", [self._negated(test)]

    def _binary(self, node: ast.BinOp) -> Ways:
        ways = self._operator(node.op, node.left, node.right)
        if not isinstance(node.op, ast.Mult | ast.Pow):
            return ways
        # What binds less than it did is put in brackets.
        start, end = self._span(node)
        return [(Edit(start, start, "("), *edits, Edit(end, end, ")")) for edits in ways]

    def _operator(self, op: ast.operator, left: ast.expr, right: ast.expr) -> Ways:
        if type(op) not in OPERATORS or _is_text(left) or _is_text(right):
            return []
        return self._between(left, right, *OPERATORS[type(op)])

    def _boolean(self, node: ast.BoolOp) -> Ways:
        written, becomes = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        edits: list[Edit] = []
        for left, right in zip(node.values[:-1], node.values[1:], strict=True):
            for (edit,) in self._between(left, right, written, becomes):
                edits.append(edit)
        return [tuple(edits)]

    def _comparison(self, node: ast.Compare) -> Ways:
        ways = []
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands[:-1], node.ops, operands[1:], strict=True):
            ways += self._between(left, right, *COMPARISONS[type(op)])
        return ways

    def _constant(self, node: ast.Constant) -> Ways:
        value = node.value
        if isinstance(value, bool):
            return [(self._replace(node, str(not value)),)]
        if isinstance(value, int):
            return [(self._replace(node, str(value + step)),) for step in (1, -1)]
        if isinstance(value, float):
            if 0 < value < SMALL:
                changed = [value * FAR, value / FAR]
            else:
                changed = [1.5 * value if value else 1.0]
            return [(self._replace(node, repr(number)),) for number in changed]
        return []

    def _index(self, index: ast.expr) -> Ways:
        ways: Ways = []
        for part in index.elts if isinstance(index, ast.Tuple) else [index]:
            is_loop_index = isinstance(part, ast.Name) and LOOP_INDEX.match(part.id)
            if is_loop_index or isinstance(part, ast.BinOp):
                ways += self._shifted(part)
            elif isinstance(part, ast.Slice):
                for bound in (part.lower, part.upper):
                    # Constants are mutated by themselves.
                    if bound is not None and not isinstance(bound, ast.Constant):
                        ways += self._shifted(bound)
        return ways

    def _shifted(self, node: ast.expr) -> Ways:
        _, end = self._span(node)
        return [(Edit(end, end, text),) for text in (" + 1", " - 1")]

    def _exchanges(self, arguments: Sequence[ast.expr]) -> Ways:
        ways: Ways = []
        for left, right in itertools.pairwise(arguments):
            if isinstance(left, ast.Starred) or isinstance(right, ast.Starred):
                continue
            if _is_text(left) or _is_text(right) or ast.dump(left) == ast.dump(right):
                continue
            ways.append(
                (self._replace(left, self._text(right)), self._replace(right, self._text(left)))
            )
        return ways

    def _left_out(self, call: ast.Call) -> Ways:
        ways: Ways = []
        for keyword in call.keywords:
            start, end = self._span(keyword)
            if keyword.arg is None or not PROMISED.isdisjoint((keyword.arg, self._text(keyword))):
                continue
            # With the comma behind it, or else with the one before it.
            behind = re.match(rb"\s*(#[^\n]*\n\s*)*,\s?", self._source[end:])
            if behind:
                ways.append((Edit(start, end + len(behind[0]), ""),))
                continue
            before = re.search(rb",\s*$", self._source[:start])
            ways.append((Edit(start - len(before[0]) if before else start, end, ""),))
        return ways

    def _extreme(self, function: ast.expr) -> Ways:
        if isinstance(function, ast.Name) and function.id in EXTREMES:
            return [(self._replace(function, EXTREMES[function.id]),)]
        if isinstance(function, ast.Attribute) and function.attr in EXTREMES:
            _, end = self._span(function)
            start = end - len(function.attr)
            return [(Edit(start, end, EXTREMES[function.attr]),)]
        return []

    def _negated(self, test: ast.expr) -> tuple[Edit, ...]:
        start, end = self._span(test)
        return (Edit(start, start, "not ("), Edit(end, end, ")"))

    def _between(self, left: ast.expr, right: ast.expr, written: str, becomes: str) -> Ways:
        # The operator between two operands; brackets, comments and blanks are there, too.
        _, start = self._span(left)
        end, _ = self._span(right)
        gap = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), self._source[start:end])
        at = gap.find(written.encode())
        if at < 0:  # "not  in", over two lines
            return []
        return [(Edit(start + at, start + at + len(written), becomes),)]

    def _replace(self, node: ast.AST, text: str) -> Edit:
        return Edit(*self._span(node), text)

    def _text(self, node: ast.AST) -> str:
        start, end = self._span(node)
        return self._source[start:end].decode()

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self._starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        end = self._starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        return start, end


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _is_left_out(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Import | ast.ImportFrom | ast.Raise):
        return True
    if isinstance(statement, ast.Expr):
        value = statement.value
        return _is_text(value) or (isinstance(value, ast.Call) and _is_log(value))
    if isinstance(statement, ast.If):
        return "TYPE_CHECKING" in ast.unparse(statement.test) or _is_main(statement.test)
    if isinstance(statement, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id == "__all__" for t in statement.targets)
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        return any(ast.unparse(d).endswith("overload") for d in statement.decorator_list)
    return False


def _is_log(call: ast.Call) -> bool:
    return bool(LOGS.match(ast.unparse(call.func)))


def _is_main(test: ast.expr) -> bool:
    return "__name__" in ast.unparse(test)


def _lines(statement: ast.stmt) -> tuple[int, int]:
    # Of a statement with others within it, its head.
    first = statement.lineno
    decorators = getattr(statement, "decorator_list", [])
    if decorators:
        first = min(decorator.lineno for decorator in decorators)
    body = getattr(statement, "body", None)
    cases = getattr(statement, "cases", None)
    if cases:
        return first, statement.lineno
    if body:
        return first, max(body[0].lineno - 1, statement.lineno)
    return first, statement.end_lineno or first


def _expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement that run, the outer ones first."""
    for name, value in ast.iter_fields(statement):
        if name in ("body", "orelse", "finalbody", "handlers", "cases", "returns", "annotation"):
            continue
        nodes = value if isinstance(value, list) else [value]
        for node in nodes:
            if name == "decorator_list" and ast.unparse(node).partition("(")[0] in PROMISES:
                continue
            if isinstance(node, ast.AST):
                yield from _running(node)


def _running(node: ast.AST) -> Iterator[ast.AST]:
    # Not what an f-string shows, nor what a parameter or a type is annotated with.
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Call) and _is_log(node)):
        return
    if isinstance(node, ast.keyword) and node.arg in PROMISED:
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name == "annotation":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _running(child)
