"""Compiled programs, in a bounded number.

`jax.jit` keeps a program for every value of its static arguments and every shape until the process
ends. A compiled program takes dozens of memory maps, of which Linux allows a process 65,530: a
process that trains model after model dies of it. Here the programs that were used last are kept,
and the others are let go.
"""

import inspect
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import update_wrapper, wraps
from typing import Any

import jax

# Values of the static arguments whose programs one function keeps, unless it asks for more.
SETS = 8
# Programs, one for each shape, that a function keeps for each of its sets, on average.
PROGRAMS_OF_A_SET = 4
# Traces that JAX keeps before they are forgotten. It keeps them without a bound, some 15 KB for
# each function and shape inside of a program, and needs them only to make further programs.
TRACES = 2048


class BoundedJit:
    """`jax.jit` of a function of which only the programs used last are kept.

    A program that was let go is compiled again when it is needed. Static arguments are compared by
    value, as `jax.jit` does.

    Attributes:
        function: the function.
        static_argnames: the names of the static arguments.
        sets: the values of the static arguments, all together, whose programs are kept.
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
        parameters = inspect.signature(function).parameters
        places = {name: place for place, name in enumerate(parameters)}
        self._static = [
            (name, places[name], parameters[name].default) for name in self.static_argnames
        ]
        self._programs: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function as one program."""
        program = self._program(arguments, options)
        before = program._cache_size()
        result = program(*arguments, **options)
        if program._cache_size() > before:
            self._let_go()
        return result

    def lower(self, *arguments: Any, **options: Any) -> Any:
        """The program for these arguments before it is compiled, as `jax.jit(...).lower` gives."""
        return self._program(arguments, options).lower(*arguments, **options)

    def clear_cache(self) -> None:
        """Let all programs go."""
        with self._lock:
            while self._programs:
                self._let_oldest_go()

    def _cache_size(self) -> int:
        """How many programs are kept, by the name that `jax.jit` gives it."""
        return sum(program._cache_size() for program in list(self._programs.values()))

    def _program(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The jitted function for these static arguments."""
        key = tuple(
            arguments[place] if place < len(arguments) else options.get(name, default)
            for name, place, default in self._static
        )
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
            self._programs.move_to_end(key)
        return program

    def _let_go(self) -> None:
        """Let the programs go that were used longest ago, down to the bounds."""
        with self._lock:
            while len(self._programs) > self.sets:
                self._let_oldest_go()
            while self._cache_size() > PROGRAMS_OF_A_SET * self.sets:
                self._let_oldest_go()

    def _let_oldest_go(self) -> None:
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
        donate_argnames: arguments whose buffers are given up.
        sets: the values of the static arguments, all together, whose programs are kept.
    """

    def decorate(function: Callable[..., Any]) -> BoundedJit:
        return BoundedJit(
            function,
            static_argnames=static_argnames,
            donate_argnames=donate_argnames,
            sets=sets,
        )

    return decorate


def _another(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as another object: `jax.jit` keeps programs by the function's identity."""

    @wraps(function)
    def another(*arguments: Any, **options: Any) -> Any:
        return function(*arguments, **options)

    return another
