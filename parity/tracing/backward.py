"""Where the gradients of two programs part whose values are the same.

The gradient of every output of every call of PyTorch's is compared with that of the results of
JAX's that have its values. The search goes from the outputs to the inputs: the first gradient that
is wrong, while those of all that was made from it are right, is wrong by the derivative of what was
made from it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.core.compare import MEANING_LIMIT, Arrays, relative_l2
from parity.tracing.differences import Difference
from parity.tracing.jax_trace import Value
from parity.tracing.layouts import SAME, Lookup, is_trivial, laid_out, same_values, sorted_values
from parity.tracing.replay import Graph
from parity.tracing.torch_trace import Call, Source

# (indices of results) -> their gradients.
Gradients = Callable[[Sequence[int]], Sequence[np.ndarray]]

# A rule of derivation by another formula is far from this; magnified round-off is not near.
WRONG = 1e-9


class BackwardSearch:
    """The search through the gradients.

    Args:
        graph: the calls of the PyTorch module, with their gradients.
        values: JAX's results.
        gradients: gives the gradients of some of them.
        got: JAX's gradients of weights and inputs, by PyTorch's names.
        expected: PyTorch's.
    """

    def __init__(
        self,
        graph: Graph,
        values: Sequence[Value],
        gradients: Gradients,
        got: Arrays,
        expected: Arrays,
    ) -> None:
        self._graph = graph
        self._values = values
        self._expected = expected
        self._got = got
        self._wrong_leaves = _differing(got, expected)
        self._counterparts = self._look_up()
        numbers = sorted({n for found in self._counterparts.values() for n in found})
        arrays = gradients([values[n].number for n in numbers])
        self._gradients = dict(zip(numbers, map(np.asarray, arrays), strict=True))
        self._wrong = self._wrong_sources()

    def _look_up(self) -> dict[Source, list[int]]:
        """The results of JAX's with the values of each output that has a gradient."""
        lookup = Lookup([value.array for value in self._values])
        found = {}
        for call in self._graph.calls:
            for source, gradient in zip(self._graph.outputs(call), call.gradients, strict=True):
                if gradient is not None:
                    found[source] = lookup.find(self._graph.values[source])
        return found

    def _expected_gradient(self, source: Source) -> np.ndarray:
        gradient = self._graph.calls[source.call].gradients[source.output]
        assert gradient is not None
        return gradient

    def _is_right(self, source: Source) -> bool:
        expected = self._expected_gradient(source)
        return any(_same(self._gradients[n], expected) for n in self._counterparts[source])

    def _wrong_sources(self) -> set[Source]:
        """The outputs whose gradients JAX does not have, nor any that follow from them."""
        wrong: set[Source] = set()
        for call in self._graph.calls:
            onwards = any(source in wrong for source in call.sources) or any(
                leaf in self._wrong_leaves for leaf in call.leaves
            )
            for source in self._graph.outputs(call):
                unseen = source in self._counterparts and not self._is_right(source)
                if unseen and onwards:
                    wrong.add(source)
        return wrong

    def difference(self) -> Difference | None:
        """The first difference from the outputs on; None if there is none."""
        if not self._wrong_leaves:
            return None
        for call in reversed(self._graph.calls):
            if any(source in self._wrong for source in self._graph.outputs(call)):
                continue
            # The gradients of what this call gave are right.
            for source in call.sources:
                if source in self._wrong and self._is_first(source):
                    return self._explained(source)
            for leaf in call.leaves:
                if leaf in self._wrong_leaves and self._is_firsts(leaf):
                    return self._of_leaf(call, leaf)
        return None

    def _is_first(self, source: Source | None) -> bool:
        assert source is not None
        readers = self._graph.readers[source]
        return not any(self._has_wrong_output(self._graph.calls[index]) for index in readers)

    def _is_firsts(self, leaf: str) -> bool:
        calls = [call for call in self._graph.calls if leaf in call.leaves]
        return not any(self._has_wrong_output(call) for call in calls)

    def _has_wrong_output(self, call: Call) -> bool:
        return any(source in self._wrong for source in self._graph.outputs(call))

    def _explained(self, source: Source) -> Difference:
        """Which of the calls that read an output has another derivative, and which."""
        expected = self._expected_gradient(source)
        readers = [self._graph.calls[index] for index in sorted(self._graph.readers[source])]
        for number in self._counterparts[source]:
            got = self._in_layout(number, source)
            if got is None:
                continue
            for call in readers:
                cause = self._cause(call, source, got, expected)
                if cause:
                    place = self._values[number].place
                    return _difference(call, cause, place, relative_l2(got, expected))
        call = readers[0]
        counterparts = self._counterparts[source]
        place = self._values[counterparts[0]].place if counterparts else ""
        return _difference(call, "", place, float("nan"))

    def _in_layout(self, number: int, source: Source) -> np.ndarray | None:
        """The gradient of a result of JAX's in the layout of PyTorch's."""
        value = self._values[number].array
        like = self._graph.values[source]
        both = zip(laid_out(value, like), laid_out(self._gradients[number], like), strict=True)
        for values, gradient in both:
            if relative_l2(values, like) <= SAME:
                return gradient
        return None

    def _cause(self, call: Call, source: Source, got: np.ndarray, expected: np.ndarray) -> str:
        """What the gradient through one call is, if the others are right; empty if unknown."""
        numbers = [k for k, read in enumerate(call.sources) if read == source]
        pulled = [call.pulled_back(k) for k in numbers]
        own = sum((array for array in pulled if array is not None), np.zeros_like(expected))
        # What JAX has in place of this call's own part.
        part = got - (expected - own)
        upstream = call.gradients[0] if len(call.outputs) == 1 else None
        return gradient_cause(part, own, upstream)

    def _of_leaf(self, call: Call, leaf: str) -> Difference:
        got = self._got[leaf]
        expected = self._expected[leaf]
        words = gradient_cause(got, expected, None) or _rows(got, expected)
        cause = f"gradient of {leaf}: {words}" if words else f"the gradient of {leaf} is another"
        return _difference(call, cause, "", relative_l2(got, expected))


def gradient_cause(got: np.ndarray, expected: np.ndarray, upstream: np.ndarray | None) -> str:
    """What a wrong gradient is, in words; empty if it is nothing known.

    Args:
        got: JAX's.
        expected: PyTorch's.
        upstream: the gradient of the output of the call, where it has one.
    """
    size = np.linalg.norm(expected)
    if np.linalg.norm(got) <= WRONG * size:
        return "no gradient flows back (as behind stop_gradient)"
    factor = float(np.vdot(got, expected) / size**2) if size else np.nan
    if np.isfinite(factor) and relative_l2(factor * expected, got) <= WRONG:
        return f"the gradient is multiplied by {factor:.6g}"
    if upstream is not None and upstream.shape == got.shape:
        if relative_l2(got, upstream) <= WRONG:
            return "the gradient goes through unchanged (a straight-through estimator)"
        if relative_l2(got, -upstream) <= WRONG:
            return "the gradient goes through with the other sign"
    largest = float(np.abs(got).max())
    if relative_l2(np.clip(expected, -largest, largest), got) <= WRONG:
        return f"the gradient is clipped to {largest:.6g}"
    if same_values(sorted_values(got), sorted_values(expected), WRONG):
        return "the gradient has the right numbers in another order"
    return ""


def _rows(got: np.ndarray, expected: np.ndarray) -> str:
    """The rows in which a gradient differs, where they are few."""
    if got.ndim < 2:
        return ""
    different = [k for k in range(len(got)) if relative_l2(got[k], expected[k]) > WRONG]
    if not different or len(different) > len(got) // 2:
        return ""
    rows = ", ".join(map(str, different))
    if not np.any(expected[different]):
        return f"PyTorch gives row {rows} none, as for a padding index; JAX does"
    if not np.any(got[different]):
        return f"JAX gives row {rows} none, as for a padding index; PyTorch does"
    return f"only row {rows} differs"


def _same(got: np.ndarray, expected: np.ndarray) -> bool:
    if is_trivial(expected) or is_trivial(got):
        both = is_trivial(expected) and is_trivial(got)
        return both and bool(np.allclose(got.flat[0], expected.flat[0], rtol=WRONG, atol=0))
    return same_values(sorted_values(got), sorted_values(expected), WRONG)


def _differing(got: Arrays, expected: Mapping[str, np.ndarray]) -> set[str]:
    wrong = set()
    for name, array in expected.items():
        if name not in got or got[name].shape != array.shape:
            continue
        if not relative_l2(got[name], array) <= max(MEANING_LIMIT["gradients"], WRONG):
            wrong.add(name)
    return wrong


def _difference(call: Call, cause: str, jax_place: str, error: float) -> Difference:
    return Difference("backward", call.module, call.kind, call.name, cause, jax_place, error)


def gradients_of(
    run: Callable[[Sequence[int]], Callable[..., Any]], values: Sequence[Value]
) -> Gradients:
    """The gradients of some results of JAX's.

    Args:
        run: (indices) -> a function of zeros that are added to these results, giving the loss.
        values: the results.
    """
    shapes = {value.number: value.array for value in values}

    def gradients(indices: Sequence[int]) -> Sequence[np.ndarray]:
        zeros = [jnp.zeros_like(shapes[index]) for index in indices]
        return [np.asarray(array) for array in jax.grad(run(indices))(zeros)]

    return gradients
