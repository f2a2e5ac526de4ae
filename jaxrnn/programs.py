"""Compiled programs, in a bounded number.

`jax.jit` stores a program for every value of its static arguments and every shape until the process
ends. A compiled program takes dozens of memory maps, of which Linux allows a process 65,530: a
process that trains model after model dies of it. Here the least recently used programs are evicted.
"""

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial, update_wrapper, wraps
from typing import Any

import jax

# Default number of values of the static arguments whose programs one function stores.
SETS = 8
# Average number of programs, one for each shape, of one value of the static arguments.
PROGRAMS_OF_A_SET = 4
# Number of traces in JAX's cache at which it is emptied. The cache has no bound, takes some 15 KB
# for each function and shape inside of a program, and is needed only to make further programs.
TRACES = 2048


class BoundedJit:
    """`jax.jit` with a bounded cache, from which the least recently used programs are evicted.

    An evicted program is compiled again when it is needed. Static arguments are compared by
    value, as `jax.jit` does.

    Attributes:
        function: the function.
        static_argnames: the names of the static arguments.
        sets: maximum number of values of the static arguments, all together, in the cache.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static_argnames: Sequence[str] = (),
        donate_argnames: Sequence[str] = (),
        sets: int = SETS,
    ) -> None:
        update_wrapper(self, function)
        self.function = function
        self.sets = sets
        self.static_argnames = tuple(static_argnames)
        self._donate_argnames = tuple(donate_argnames)
        # Name, place and default of each static argument, to find its value in a call.
        self._static = []
        for place, parameter in enumerate(inspect.signature(function).parameters.values()):
            if parameter.name in self.static_argnames:
                self._static.append((parameter.name, place, parameter.default))
        self._programs: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function as one program."""
        program = self._program(arguments, options)
        # Only a new program can exceed the bound.
        before = program._cache_size()
        result = program(*arguments, **options)
        if program._cache_size() > before:
            self._evict()
        return result

    def lower(self, *arguments: Any, **options: Any) -> Any:
        """The program for these arguments before it is compiled, as `jax.jit(...).lower` gives."""
        return self._program(arguments, options).lower(*arguments, **options)

    def clear_cache(self) -> None:
        """Evict all programs."""
        with self._lock:
            while self._programs:
                self._evict_oldest()

    def _cache_size(self) -> int:
        """Number of programs in the cache; `jax.jit` has a method of this name."""
        return sum(program._cache_size() for program in list(self._programs.values()))

    def _program(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The jitted function for these static arguments."""
        values = []
        for name, place, default in self._static:
            given = place < len(arguments)
            values.append(arguments[place] if given else options.get(name, default))
        key = tuple(values)
        with self._lock:
            try:
                program = self._programs.get(key)
            except TypeError as error:
                named = " and ".join(self.static_argnames)
                raise ValueError(
                    f"{named} must be hashable, which programs are kept by: {error}."
                ) from error
            if program is None:
                program = jax.jit(
                    _another(self.function),
                    static_argnames=self.static_argnames,
                    donate_argnames=self._donate_argnames,
                )
                self._programs[key] = program
            self._programs.move_to_end(key)  # the most recently used
        return program

    def _evict(self) -> None:
        """Evict the least recently used programs, down to the bounds."""
        with self._lock:
            while (
                len(self._programs) > self.sets
                or self._cache_size() > PROGRAMS_OF_A_SET * self.sets
            ):
                self._evict_oldest()

    def _evict_oldest(self) -> None:
        _, program = self._programs.popitem(last=False)
        # Dropping the jitted function is not enough: JAX's own caches hold its traces.
        program.clear_cache()
        _forget_traces()


def _forget_traces() -> None:
    """Empty JAX's cache of traces if it is large; compiled programs stay."""
    try:
        from jax._src.interpreters import partial_eval  # the cache has no public name
    except ImportError:
        return
    cache: Any = getattr(partial_eval, "trace_to_jaxpr", None)
    if hasattr(cache, "cache_info") and cache.cache_info().currsize > TRACES:
        cache.cache_clear()


def bounded_jit(
    *,
    static_argnames: Sequence[str] = (),
    donate_argnames: Sequence[str] = (),
    sets: int = SETS,
) -> Callable[[Callable[..., Any]], BoundedJit]:
    """A decorator that makes a function a `BoundedJit`.

    Args:
        static_argnames: arguments that the program is compiled for; they must be hashable.
        donate_argnames: arguments whose buffers are donated to the results.
        sets: maximum number of values of the static arguments, all together, in the cache.
    """

    return partial(
        BoundedJit, static_argnames=static_argnames, donate_argnames=donate_argnames, sets=sets
    )


def power_of_two(count: int, least: int = 1) -> int:
    """The smallest power of two that is at least `count` and `least`: few sizes to compile for."""
    return max(least, 1 << (count - 1).bit_length())


def _another(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as another object: `jax.jit` stores programs by function identity."""

    @wraps(function)
    def another(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return another
