"""Where the values of two programs part, and by what mistake.

Every output of every call of the PyTorch module is looked for among all results of the JAX
function, in any layout. A call differs if its output is nowhere there and nothing that depends on
it is, while what it was made from is. There mistakes are tried, one after the other: the one whose
numbers are among JAX's is the cause. PyTorch's side then goes on with that mistake, so that the
next difference shows by itself; where no cause is found, JAX goes on with PyTorch's numbers.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from parity.core.bridge import tensor_of
from parity.core.compare import MEANING_LIMIT, relative_l2
from parity.tracing.differences import Difference
from parity.tracing.jax_trace import Value
from parity.tracing.layouts import Lookup, is_trivial, laid_out, same_values, sorted_values
from parity.tracing.recurrent_causes import recurrent_causes
from parity.tracing.replay import Graph, Outputs
from parity.tracing.torch_trace import Call, Source
from parity.tracing.variants import (
    Family,
    Variant,
    behind,
    families,
    families_behind,
    fitted,
    tried,
    variants,
)

# Relative 2-norm of an output that differs; round-off that a deep net magnifies stays below.
DIFFERENT = 1e-11
# Differences that are looked for, one after the other.
MOST_DIFFERENCES = 32
# Calls from the first one that differs on for which mistakes are tried.
MOST_CALLS = 24
# Calls after one with a mistake at which its numbers are looked for in JAX: what one framework
# computes in one operation the other may compute in several.
DEPTH = 6
# JAX's results that a number is fitted to, and that PyTorch's numbers are put in for.
NEAREST = 4

# Calls from the first that differs on for whose outputs JAX's counterparts are looked for.
MOST_CLAMPED = 2
# JAX's results that a call may read in place of what it should.
MOST_READ = 256

# (results to put in) -> the outputs by name, and all results.
RunJax = Callable[[Mapping[int, np.ndarray]], tuple[dict[str, np.ndarray], list[Value]]]


class _Explanation(NamedTuple):
    """A mistake whose numbers JAX has.

    Attributes:
        call: where it is.
        words: what it is.
        outputs: what the call gives with it.
        jax: where JAX has the numbers.
        wrong: how many values stay wrong with it.
        is_seen: whether JAX has the very output of the call, and not only what follows from it.
        next: the next call that differs with it; None if there is none.
    """

    call: Call
    words: str
    outputs: list[np.ndarray]
    jax: str
    wrong: int
    is_seen: bool
    next: Call | None

    @property
    def rank(self) -> tuple[int, bool, int]:
        """Lower is better: of mistakes that explain as much, what is seen, and what comes first."""
        return self.wrong, not self.is_seen, self.call.index


class ForwardSearch:
    """The search through the values.

    Args:
        graph: the calls of the PyTorch module.
        run_jax: runs the JAX function.
        ordered: whether values that stand in an order that no layout has count as others.
    """

    def __init__(self, graph: Graph, run_jax: RunJax, *, ordered: bool = False) -> None:
        self._graph = graph
        self._run_jax = run_jax
        self._ordered = ordered
        self._names = {source: name for name, source in graph.finals.items()}
        self._replaced: dict[int, np.ndarray] = {}
        self._run()

    def _run(self) -> None:
        """Run JAX, and look everything up anew."""
        self._outputs, self._values = self._run_jax(self._replaced)
        self._lookup = Lookup([value.array for value in self._values], ordered=self._ordered)
        self._match()

    @contextlib.contextmanager
    def _as_before(self) -> Iterator[None]:
        """Within it something is tried; behind it everything is as it was."""
        values = self._graph.values.copy()
        state = vars(self).copy()
        try:
            yield
        finally:
            vars(self).update(state)
            self._graph.restore(values)

    def _match(self) -> None:
        """Look every output of every call up."""
        self._found: dict[Source, list[int]] = {}
        claimed: set[int] = set()
        for source, array in self._graph.values.items():
            numbers = self._lookup.find(array)
            claimed.update(numbers)
            self._found[source] = numbers
        self._unclaimed = set(range(len(self._values))) - claimed
        self._wrong = self._wrong_values()

    def _wrong_values(self) -> set[Source]:
        """The values that JAX does not have, nor anything that depends on them."""
        wrong: set[Source] = set()
        finals = self.wrong_outputs()
        for call in reversed(self._graph.calls):
            for source in self._graph.outputs(call):
                # JAX may have the right output in passing, and give another.
                if source in finals and (self._ordered or not self._is_reordered(source)):
                    wrong.add(source)
                    continue
                if self._found[source] or is_trivial(self._graph.values[source]):
                    continue
                read_by = self._graph.readers.get(source, ())
                if source in finals or any(self._is_wrong(reader, wrong) for reader in read_by):
                    wrong.add(source)
        return wrong

    def _is_wrong(self, index: int, wrong: set[Source]) -> bool:
        return any(source in wrong for source in self._graph.outputs(self._graph.calls[index]))

    def wrong_outputs(self) -> dict[Source, str]:
        """The outputs of the module that differ in JAX, and their names."""
        wrong = {}
        for name, source in self._graph.finals.items():
            got = self._outputs.get(name)
            expected = self._graph.values[source]
            if got is None or not _is_near(got, expected):
                wrong[source] = name
        return wrong

    def _is_reordered(self, source: Source) -> bool:
        """Whether JAX's output has the numbers of the module's, in whatever order."""
        got = self._outputs.get(self._names[source])
        expected = sorted_values(self._graph.values[source])
        return got is not None and same_values(sorted_values(got), expected)

    def errors(self) -> dict[str, float]:
        """For each module, how far its last output is from the nearest of JAX's results.

        The relative 2-norm of the sorted values; NaN where JAX has no result of that size.
        """
        found = {}
        for call in self._graph.calls:
            source = self._graph.outputs(call)[0]
            array = self._graph.values[source]
            if is_trivial(array):
                continue
            number = next(iter(self._found[source] or self._lookup.alike(array)), None)
            error = float("nan")
            if number is not None:
                expected = sorted_values(array)
                other: Any = self._lookup.sorted[number]
                error = float(np.linalg.norm(other.values - expected.values) / expected.norm)
            found[call.module or self._graph.kinds[""]] = error
        return found

    def differences(self) -> Iterator[Difference]:
        """The differences, in the order of execution."""
        for _ in range(MOST_DIFFERENCES):
            if not self.wrong_outputs():
                return
            chain = self._chain()
            if not chain:
                yield from self._at_the_end()
                return
            found = self._explained(chain) or self._read_elsewhere(chain)
            if found is not None:
                yield found
                continue
            if any(self._found[source] for source in self._graph.outputs(chain[0])):
                yield from self._at_the_end()
                return
            found, goes_on = self._clamped(chain)
            yield found
            if not goes_on:
                return

    def _chain(self) -> list[Call]:
        """The calls from the first that differs on, as far as they differ."""
        calls = [call for call in self._graph.calls if self._is_wrong(call.index, self._wrong)]
        for k, call in enumerate(calls):
            if not any(source in self._wrong for source in call.sources):
                inside = [each for each in calls[k:] if each.module == call.module]
                # What one framework does in a module the other may do right behind it.
                near = {each.index for each in inside[:MOST_CALLS] + calls[k : k + DEPTH]}
                return [each for each in calls[k:] if each.index in near]
        return []

    def _at_the_end(self) -> Iterator[Difference]:
        # All values are there, but the outputs are others, or laid out otherwise.
        for source, name in self.wrong_outputs().items():
            call = self._graph.calls[source.call]
            numbers = self._found[source]
            expected = sorted_values(self._graph.values[source])
            cause, jax, error = f"{name} is another value", "", float("nan")
            if name in self._outputs:
                got = sorted_values(self._outputs[name])
                if same_values(got, expected):
                    cause, error = f"{name} has the right numbers in another order or shape", 0.0
                elif len(got.values) == len(expected.values):
                    cause = f"{name} is another value: JAX has the right one, and goes on from it"
                    error = float(np.linalg.norm(got.values - expected.values) / expected.norm)
            if numbers:
                jax = self._values[numbers[0]].place
            yield replace(self._difference(call, cause, jax, error), is_vague=True)

    def _difference(self, call: Call, cause: str, jax: str, error: float) -> Difference:
        return Difference("forward", call.module, call.kind, call.name, cause, jax, error)

    # Causes.

    def _explained(self, chain: Sequence[Call]) -> Difference | None:
        """The mistake that explains most; PyTorch's side then goes on with it."""
        best: _Explanation | None = None
        # JAX may have the right output of a call beside the wrong one that it goes on with.
        for call in [*chain, *self._producers(chain[0])]:
            # What explained a part of a module is not given up for another module's mistake.
            if best is not None and call.module != best.call.module:
                break
            for explanation in self._explanations(call):
                if best is None or self._is_better(explanation, best):
                    best = explanation
                # The order of an output and of a weight that it meets may explain the same.
                if explanation.next is None and not self._ordered:
                    break
            if best is not None and self._is_enough(best):
                break
        if best is None:
            return None
        error = self._error(best.call, best.outputs)
        self._graph.adopt(self._by_source(best.call, best.outputs))
        self._match()
        return self._difference(best.call, best.words, best.jax, error)

    def _is_better(self, one: _Explanation, other: _Explanation) -> bool:
        return one.rank < other.rank if self._ordered else one.wrong < other.wrong

    def _producers(self, call: Call) -> list[Call]:
        """The calls whose outputs a call reads."""
        sources = [source.call for source in call.sources if source is not None]
        return [self._graph.calls[index] for index in dict.fromkeys(sources)]

    def _explanations(self, call: Call) -> Iterator["_Explanation"]:
        """The mistakes in a call whose numbers JAX has."""
        for where, variant in self._mistakes(call):
            outputs = tried(variant.run)
            if outputs is None or not self._is_other(where, outputs):
                continue
            number = self._seen(where, outputs)
            if number is None:
                continue
            jax = self._values[number].place
            with self._as_before():
                self._graph.adopt(self._by_source(where, outputs))
                self._match()
                wrong, head = len(self._wrong), next(iter(self._chain()), None)
                all_right = not self.wrong_outputs()
            # What explains no more than its own number is a coincidence: JAX may compute that for
            # another purpose, and go on with another.
            own = sum(source in self._wrong for source in self._graph.outputs(where))
            if wrong < len(self._wrong) - own or (head is None and all_right):
                is_seen = self._unclaimed_number(outputs[0]) is not None
                yield _Explanation(where, variant.words, outputs, jax, wrong, is_seen, head)

    def _is_enough(self, explanation: "_Explanation") -> bool:
        """Whether no other mistake is needed beside this one for the call and its module."""
        head = explanation.next
        if head is None:
            return True
        # JAX may have a number in passing and go on with another.
        follows = any(source in head.sources for source in self._graph.outputs(explanation.call))
        return head.module != explanation.call.module and not follows

    def _mistakes(self, call: Call) -> Iterator[tuple[Call, Variant]]:
        """The mistakes in a call, and in what becomes of its inputs on their way to it."""
        given = self._graph.inputs(call)
        for variant in variants(call, given):
            yield call, variant
        for source in dict.fromkeys(call.sources):
            if source is not None:
                producer = self._graph.calls[source.call]
                for variant in self._behind(producer):
                    yield producer, variant
        for family in families(call, given):
            for variant in self._fitted(call, family):
                yield call, variant
        targets = [self._values[number].array for number in self._near(call)]
        for variant in recurrent_causes(call, given, targets):
            yield call, variant
        for variant in self._behind(call):
            yield call, variant

    def _behind(self, call: Call) -> Iterator[Variant]:
        """Mistakes behind a call: something more is done to its output."""
        if len(call.outputs) != 1:
            return
        output = self._graph.values[Source(call.index, 0)]
        yield from behind(call, output)
        for family in families_behind(call, output):
            yield from self._fitted(call, family)

    def _read_elsewhere(self, chain: Sequence[Call]) -> Difference | None:
        """A call that is right in JAX, but reads something else there.

        The difference lies between the call and the one whose output it should read.
        """
        call = chain[0]
        given = self._graph.inputs(call)
        for number, source in enumerate(call.sources):
            if source is None:
                continue
            expected = self._graph.values[source]
            near = self._candidates(source)
            for value in [self._values[n] for n in near[:MOST_READ]]:
                for candidate in self._into(value.array, expected):
                    tensor = tensor_of(candidate, "float64")
                    outputs = tried(partial(call.again, {**given, number: tensor}))
                    if outputs is None or self._unclaimed_number(outputs[0]) is None:
                        continue
                    producer = self._graph.calls[source.call]
                    error = relative_l2(candidate, expected)
                    self._graph.adopt(self._by_source(call, outputs))
                    self._match()
                    return self._between(producer, call, value.place, error)
        return None

    def _candidates(self, source: Source) -> list[int]:
        """JAX's results that may stand in for an output of PyTorch's, the likeliest first."""
        numbers = self._lookup.alike(self._graph.values[source])
        near = [number for number in numbers if number in self._unclaimed]
        found = self._found[source]
        # What JAX goes on with is computed near the number that it has in passing.
        return sorted(near, key=lambda number: abs(number - found[0])) if found else near

    def _into(self, array: np.ndarray, like: np.ndarray) -> list[np.ndarray]:
        """An array in the layout of the other framework's: as it stands, then the nearest two."""
        candidates = list(laid_out(array, like))
        nearest = sorted(candidates, key=lambda candidate: relative_l2(candidate, like))
        return [candidates[0], *nearest[:2]]

    def _between(self, producer: Call, call: Call, jax: str, error: float) -> Difference:
        cause = (
            f"{call.name} reads something else than the output of {producer.name} "
            f"in {producer.place}"
        )
        outer = _common(producer.module, call.module)
        kind = self._graph.kinds.get(outer, call.kind)
        function = f"between {producer.name} and {call.name}"
        return Difference("forward", outer, kind, function, cause, jax, error, is_vague=True)

    def _fitted(self, call: Call, family: Family) -> Iterator[Variant]:
        """The mistake with the number that brings the norm of the output to that of a result."""

        def norm(x: float) -> float:
            return sorted_values(family.run(x)[0]).norm

        for number in self._near(call):
            wanted = self._lookup.sorted[number]
            x = None if wanted is None else fitted(norm, family.start, wanted.norm)
            if x is not None:
                yield Variant(family.words(x), lambda x=x: family.run(x))  # type: ignore[misc]

    def _near(self, call: Call) -> list[int]:
        """JAX's results that no call of PyTorch gives and that are nearest to the call's output."""
        numbers = self._lookup.alike(self._graph.values[self._graph.outputs(call)[0]])
        return [number for number in numbers if number in self._unclaimed][:NEAREST]

    def _is_other(self, call: Call, outputs: Sequence[np.ndarray]) -> bool:
        """Whether outputs have the shapes of a call's, and other numbers."""
        right = [self._graph.values[source] for source in self._graph.outputs(call)]
        if [array.shape for array in outputs] != [array.shape for array in right]:
            return False
        pairs = zip(outputs, right, strict=True)
        return any(_differs(got, expected) for got, expected in pairs)

    def _by_source(self, call: Call, outputs: Sequence[np.ndarray]) -> Outputs:
        return dict(zip(self._graph.outputs(call), outputs, strict=True))

    def _seen(self, call: Call, outputs: Sequence[np.ndarray]) -> int | None:
        """The number of JAX's result that shows that the call gave `outputs`; None if there is
        none among what would follow from them."""
        number = self._unclaimed_number(outputs[0])
        if number is not None:
            return number
        following = self._graph.after(self._by_source(call, outputs))
        for _ in range(DEPTH):
            try:
                after = next(following, None)
            except (RuntimeError, IndexError, ValueError):
                return None  # the numbers do not fit what follows
            if after is None:
                return None
            number = self._unclaimed_number(after[1][0])
            if number is not None:
                return number
        return None

    def _unclaimed_number(self, array: np.ndarray) -> int | None:
        if is_trivial(array):
            return None
        return next((n for n in self._lookup.find(array) if n in self._unclaimed), None)

    def _error(self, call: Call, outputs: Sequence[np.ndarray]) -> float:
        expected = self._graph.values[self._graph.outputs(call)[0]]
        # What is finite on one side alone is infinitely far.
        if not np.array_equal(np.isfinite(outputs[0]), np.isfinite(expected)):
            return float("inf")
        return relative_l2(outputs[0], expected)

    # Clamping.

    def _clamped(self, chain: Sequence[Call]) -> tuple[Difference, bool]:
        """The difference at the head of the chain, and whether JAX can go on behind it.

        PyTorch's numbers are put in for a result of JAX's. If what follows is then found, that
        result is the counterpart.
        """
        first = chain[0]
        before = len(self._wrong)
        for call in chain[:MOST_CLAMPED]:
            source = self._graph.outputs(call)[0]
            expected = self._graph.values[source]
            for number in self._near(call):
                value = self._values[number]
                for candidate in self._into(expected, value.array):
                    trial = {**self._replaced, value.number: candidate}
                    if self._wrong_with(trial) < before:
                        error = relative_l2(value.array, candidate)
                        self._replaced = trial
                        self._run()
                        return self._difference(first, "", value.place, error), True
        near = self._near(first)
        value_place = self._values[near[0]].place if near else ""
        return self._difference(first, "", value_place, self._distance(first, near)), False

    def _wrong_with(self, replaced: Mapping[int, np.ndarray]) -> int:
        """How many values stay wrong with PyTorch's numbers in JAX's program.

        The value that is put in is found in any case, so it has to be more than that one.
        """
        with self._as_before():
            self._replaced = dict(replaced)
            self._run()
            return len(self._wrong) + 1

    def _distance(self, call: Call, near: Sequence[int]) -> float:
        if not near:
            return float("nan")
        expected = sorted_values(self._graph.values[self._graph.outputs(call)[0]])
        other: Any = self._lookup.sorted[near[0]]
        return float(np.linalg.norm(other.values - expected.values) / expected.norm)


def _differs(got: np.ndarray, expected: np.ndarray) -> bool:
    # Masks differ in what is not finite.
    if not np.array_equal(np.isfinite(got), np.isfinite(expected)):
        return True
    return not relative_l2(got, expected) <= MEANING_LIMIT["forward"]


def _is_near(got: np.ndarray, expected: np.ndarray) -> bool:
    return got.shape == expected.shape and relative_l2(got, expected) <= DIFFERENT


def _common(one: str, other: str) -> str:
    """The innermost module that holds two."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    return ".".join(name for name, _ in shared)
