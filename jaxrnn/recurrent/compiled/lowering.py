"""Which of two functions a program runs is chosen where it is lowered, not where it is traced.

The compiled library is called where a program runs on a single CPU device: there, and within
`jax.shard_map`, where each device runs its own rows. Everywhere else the same results come from
JAX's own operations, which every platform runs, which an exported program holds whole, and which
XLA shares out among devices by rows.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxrnn.recurrent.transposition import alike, result_of, tangents_of

_choice = Primitive("jaxrnn_choice")
_choice.multiple_results = True


class _Functions(NamedTuple):
    """Two functions of the same leaves, with the same results.

    Attributes:
        compiled: `compiled(*static, *arguments)`, with calls into the library.
        otherwise: the same in JAX's own operations.
        static: what is no array.
        tree: the structure of the arguments.
        mapped: for each `jax.vmap` around it, the innermost first, the axis of every leaf.
    """

    compiled: Callable[..., Any]
    otherwise: Callable[..., Any]
    static: tuple[Any, ...]
    tree: Any
    mapped: tuple[tuple[int | None, ...], ...] = ()

    def flat(self, *, native: bool) -> Callable[..., list[Any]]:
        """One of the two, from leaves to leaves."""
        chosen = self.compiled if native else self.otherwise

        def run(*leaves: Any) -> list[Any]:
            return jax.tree.leaves(chosen(*self.static, *self.tree.unflatten(leaves)))

        for axes in self.mapped:
            run = jax.vmap(run, axes)
        return run


def chosen_at_lowering(
    compiled: Callable[..., Any],
    otherwise: Callable[..., Any],
    static: tuple[Any, ...],
    *arguments: Any,
) -> Any:
    """`compiled(*static, *arguments)` where it can run, and `otherwise` with the same arguments.

    Its derivatives are those of `otherwise`.

    Args:
        compiled: a function with calls into the library.
        otherwise: one in JAX's own operations with the same results.
        static: hashable values.
        arguments: arrays in any structure.
    """
    leaves, tree = jax.tree.flatten(alike(arguments))
    functions = _Functions(compiled, otherwise, static, tree)
    like = jax.eval_shape(partial(compiled, *static), *arguments)
    results_tree: Any = jax.tree.structure(like)
    return results_tree.unflatten(_choice.bind(*leaves, functions=functions))


def runs_natively(context: Any) -> bool:
    """Whether what is lowered here may call into the library: it runs on one CPU, in this process.

    Args:
        context: the context of a lowering rule.
    """
    module = context.module_context
    if tuple(module.platforms) != ("cpu",) or module.lowering_parameters.for_export:
        return False
    axes = module.axis_context
    if hasattr(axes, "num_devices"):
        return bool(axes.num_devices == 1)
    # Within shard_map; an axis of the mesh that is not its own is shared out by XLA.
    shared = [size for name, size in axes.mesh.shape.items() if name not in axes.manual_axes]
    return all(size == 1 for size in shared)


@partial(jax.jit, static_argnums=0)
def _jitted(functions: _Functions, *leaves: Any) -> Any:
    return _choice.bind(*leaves, functions=functions)


def _evaluated(*leaves: Any, functions: _Functions) -> Any:
    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        shared = any(len(leaf.devices()) > 1 for leaf in leaves)
        return functions.flat(native=not shared)(*leaves)
    return _jitted(functions, *leaves)


def _shapes(*leaves: Any, functions: _Functions) -> list[ShapedArray]:
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    results = jax.eval_shape(functions.flat(native=True), *like)
    return [result_of(leaves, result.shape, result.dtype) for result in results]


def _lowered(context: Any, *leaves: Any, functions: _Functions) -> Any:
    run = functions.flat(native=runs_natively(context))
    return mlir.lower_fun(run, multiple_results=True)(context, *leaves)


def _differentiated(leaves: Any, dots: Any, *, functions: _Functions) -> Any:
    results = _choice.bind(*leaves, functions=functions)
    return results, tangents_of(functions.flat(native=False), leaves, dots)


def _batched(leaves: Any, axes: Any, *, functions: _Functions) -> Any:
    functions = functions._replace(mapped=(*functions.mapped, tuple(axes)))
    results = _choice.bind(*leaves, functions=functions)
    return results, [0] * len(results)


_choice.def_impl(_evaluated)
_choice.def_abstract_eval(_shapes)
mlir.register_lowering(_choice, _lowered)
ad.primitive_jvps[_choice] = _differentiated
batching.primitive_batchers[_choice] = _batched
