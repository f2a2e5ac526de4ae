"""What is compared: a function in JAX and a module in PyTorch that should be the same.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, L layers,
D directions. All sizes differ, so that a swapped axis or a missing transpose cannot hide.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.nn.cells import CELLS, Cell
from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import (
    COURSE_MODELS,
    CharLM,
    CharModel,
    CharSeqRnn,
    CharSeqStatefulLSTM,
    StatefulModel,
)
from jaxrnn.training.steps import Batch, batch_loss
from parity.bridge import named_leaves
from parity.twins import LAYERS, CharTwin, twin_of

T, B, V, F, H = 5, 3, 17, 6, 10
"""Sizes of the cases."""
LAYER_DROPOUT = 0.4
"""Share of the outputs that the dropout cases drop."""

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """Two implementations and what to feed them.

    Attributes:
        name: as the report shows it.
        module: makes the PyTorch module; its weights are replaced.
        weight_map: its weights and those of the JAX side.
        params: makes the JAX side's tree of parameters from weights by path.
        draw: makes named inputs; floats among them are rounded to the precision of the run.
        jax_outputs: (params, inputs) -> named outputs.
        jax_loss: (params, inputs) -> scalar.
        torch_outputs: (module, inputs) -> named outputs.
        torch_loss: (module, inputs) -> scalar.
        differentiable: the inputs whose gradients are compared too.
        model: the model that can be trained, where the subject is one.
    """

    name: str
    module: Callable[[], nn.Module]
    weight_map: WeightMap
    params: Callable[[dict[str, Any]], Any]
    draw: Callable[[np.random.Generator], dict[str, np.ndarray]]
    jax_outputs: Callable[[Any, Inputs], dict[str, jax.Array]]
    jax_loss: Callable[[Any, Inputs], jax.Array]
    torch_outputs: Callable[[Any, Inputs], dict[str, torch.Tensor]]
    torch_loss: Callable[[Any, Inputs], torch.Tensor]
    differentiable: tuple[str, ...] = ()
    model: CharModel | None = None


def nested(weights: dict[str, Any]) -> Any:
    """Linen's tree of parameters from weights by path."""
    return flax.traverse_util.unflatten_dict(weights, sep="/")


def apply(module: Any, params: Any, *inputs: Any, **options: Any) -> Any:
    """What a Linen module computes with these parameters."""
    return module.apply({"params": params}, *inputs, **options)


def projection(outputs: Mapping[str, Any]) -> Any:
    """A scalar that depends on every output, each with a weight of its own.

    The mean of w * (y + 1.5) ** 2, with weights w in [0.5, 1.5] that every precision can hold: a
    sum of positive terms, so that its round-off is small and its gradient nowhere zero.
    """
    total: Any = 0.0
    for y in outputs.values():
        weights = 1 + np.round(32 * np.cos(np.arange(1, np.prod(y.shape) + 1))) / 64
        weights = weights.reshape(y.shape)
        weight = torch.tensor(weights).to(y) if isinstance(y, torch.Tensor) else weights
        terms = weight * (y + 1.5) ** 2 if isinstance(y, torch.Tensor) else _weighed(y, weights)
        total = total + terms.mean()
    return total


def _weighed(y: jax.Array, weights: np.ndarray) -> jax.Array:
    return jnp.asarray(weights, y.dtype) * (y + 1.5) ** 2


def named_carry_of_jax(carry: Any) -> dict[str, jax.Array]:
    """A stack's carry, one NamedTuple a layer and direction, as torch has it: (L * D, B, H)."""
    fields = carry[0]._fields if carry else ()
    return {f"carry.{f}": jnp.stack([getattr(c, f) for c in carry]) for f in fields}


def carry_of_jax(cell: Cell, inputs: Inputs) -> tuple[Any, ...]:
    """The way back, from inputs named "carry.h" and "carry.c"."""
    fields = [inputs[f"carry.{f}"] for f in cell.carry._fields]
    return tuple(cell.carry(*states) for states in zip(*fields, strict=True))


def named_carry_of_torch(carry: Any) -> dict[str, torch.Tensor]:
    """torch's carry, (), h or (h, c), by name."""
    states = (carry,) if isinstance(carry, torch.Tensor) else carry
    return {f"carry.{f}": state for f, state in zip("hc"[: len(states)], states, strict=True)}


def carry_of_torch(inputs: Inputs) -> Any:
    """The way back."""
    states = tuple(inputs[name] for name in ("carry.h", "carry.c") if name in inputs)
    return states[0] if len(states) == 1 else states


def model_subject(name: str, model: CharModel, *, length: int | None = None) -> Subject:
    """A character model and its twin.

    Args:
        name: as the report shows it.
        model: the model, of the sizes above.
        length: for a stateful model, how many of the T steps count; the twin gets no others.
    """
    cell = model.stack.cell if isinstance(model, StatefulModel) else None
    steps = 3 if model.reads == "trigrams" else T

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        tokens = rng.integers(0, model.vocabulary, (2, steps, B))
        tokens[:, 0, 0] = 0  # a padding character is a character like any other
        inputs = {"tokens": tokens[0], "targets": tokens[1]}
        return inputs | (_draw_carry(rng, cell, model.stack, B) if cell else {})

    def jax_outputs(params: Any, inputs: Inputs) -> dict[str, jax.Array]:
        carry = carry_of_jax(cell, inputs) if cell else ()
        lengths = {} if length is None else {"lengths": jnp.full(B, length)}
        carry, log_probs = apply(model, params, carry, inputs["tokens"], **lengths)
        shown = log_probs if length is None else log_probs[:length]
        return {"log_probs": shown, **named_carry_of_jax(carry)}

    def jax_loss(params: Any, inputs: Inputs) -> jax.Array:
        carry = carry_of_jax(cell, inputs) if cell else ()
        count = None if length is None else jnp.asarray(length)
        batch = Batch(inputs["tokens"], inputs["targets"], count)
        return batch_loss(model, params, carry, batch)[0]

    def torch_outputs(twin: CharTwin, inputs: Inputs) -> dict[str, torch.Tensor]:
        carry, log_probs = twin(carry_of_torch(inputs), inputs["tokens"][:length])
        return {"log_probs": log_probs, **named_carry_of_torch(carry)}

    def torch_loss(twin: CharTwin, inputs: Inputs) -> torch.Tensor:
        return twin_loss(twin, carry_of_torch(inputs), inputs, length)[1]

    return Subject(
        name=name,
        module=lambda: twin_of(model),
        weight_map=WeightMap.for_flax(_linen_paths(model, steps)),
        params=nested,
        draw=draw,
        jax_outputs=jax_outputs,
        jax_loss=jax_loss,
        torch_outputs=torch_outputs,
        torch_loss=torch_loss,
        differentiable=tuple(f"carry.{f}" for f in cell.carry._fields) if cell else (),
        model=model,
    )


def twin_loss(
    twin: CharTwin, carry: Any, inputs: Inputs, length: int | None = None
) -> tuple[Any, torch.Tensor]:
    """The carry after a window, and torch's own loss on it."""
    carry, log_probs = twin(carry, inputs["tokens"][:length])
    targets = inputs["targets"][:length]
    targets = targets if log_probs.ndim == 3 else targets[-1]
    return carry, nn.functional.nll_loss(log_probs.flatten(0, -2), targets.flatten())


def _linen_paths(model: CharModel, steps: int) -> list[str]:
    tokens = jax.ShapeDtypeStruct((steps, B), jnp.int32)
    shapes = jax.eval_shape(
        lambda tokens: model.init(jax.random.key(0), model.initial_carry(B), tokens), tokens
    )
    return list(named_leaves(shapes["params"]))


def _draw_carry(
    rng: np.random.Generator, cell: Cell, stack: RNN, batch: int
) -> dict[str, np.ndarray]:
    count = stack.layers * (2 if stack.bidirectional else 1)
    shape = (count, batch, stack.hidden)
    return {f"carry.{f}": rng.uniform(-0.9, 0.9, shape) for f in cell.carry._fields}


def layer_subject(stack: RNN, *, lengths: bool = False) -> Subject:
    """A recurrent stack and torch's; with lengths, torch's on a packed sequence.

    With dropout, torch's own masks, drawn again from the same seed, are injected on the JAX side.
    """
    directions = 2 if stack.bidirectional else 1
    torch_seed = 20

    def make() -> nn.Module:
        options: dict[str, Any] = {"bidirectional": stack.bidirectional, "dropout": stack.dropout}
        return LAYERS[stack.cell.name](F, stack.hidden, stack.layers, **options)

    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        inputs = {"xs": rng.uniform(-1.5, 1.5, (T, B, F))}
        inputs |= _draw_carry(rng, stack.cell, stack, B)
        return inputs | ({"lengths": np.array([T - 2, T, 1])} if lengths else {})

    def masks() -> list[jax.Array] | None:
        if not stack.dropout:
            return None
        torch.manual_seed(torch_seed)
        ones = torch.ones(T, B, directions * stack.hidden)
        drawn = (nn.functional.dropout(ones, stack.dropout) for _ in range(stack.layers - 1))
        return [jnp.asarray((mask != 0).numpy()) for mask in drawn]

    def jax_outputs(params: Any, inputs: Inputs) -> dict[str, jax.Array]:
        carry = carry_of_jax(stack.cell, inputs)
        carry, ys = apply(
            stack, params, carry, inputs["xs"], lengths=inputs.get("lengths"), dropout_masks=masks()
        )
        return {"ys": ys, **named_carry_of_jax(carry)}

    def torch_outputs(module: nn.Module, inputs: Inputs) -> dict[str, torch.Tensor]:
        xs, carry = inputs["xs"], carry_of_torch(inputs)
        torch.manual_seed(torch_seed)
        if lengths:
            counts = inputs["lengths"].cpu()
            xs = nn.utils.rnn.pack_padded_sequence(xs, counts, enforce_sorted=False)
        ys, carry = module(xs, carry)
        if lengths:
            ys, _ = nn.utils.rnn.pad_packed_sequence(ys, total_length=T)
        return {"ys": ys, **named_carry_of_torch(carry)}

    return Subject(
        name=_layer_name(stack, lengths),
        module=make,
        weight_map=WeightMap.for_flax(name for name, _ in make().named_parameters()),
        params=nested,
        draw=draw,
        jax_outputs=jax_outputs,
        jax_loss=lambda params, inputs: projection(jax_outputs(params, inputs)),
        torch_outputs=torch_outputs,
        torch_loss=lambda module, inputs: projection(torch_outputs(module, inputs)),
        differentiable=("xs", *(f"carry.{f}" for f in stack.cell.carry._fields)),
    )


def _layer_name(stack: RNN, lengths: bool) -> str:
    parts = [stack.cell.name, f"{stack.layers} layer{'s' if stack.layers > 1 else ''}"]
    parts += ["both directions"] if stack.bidirectional else []
    parts += ["lengths"] if lengths else []
    parts += ["dropout"] if stack.dropout else []
    return ", ".join(parts)


def course_subjects() -> list[Subject]:
    """Every model of the course, and `CharLM` with each cell and with one table."""
    subjects = []
    for kind in COURSE_MODELS:
        model: CharModel = CharSeqStatefulLSTM(V, F, H, dropout=0.0)
        model = model if kind is CharSeqStatefulLSTM else kind(V, F, H)
        subjects.append(model_subject(kind.__name__, model))
    subjects.append(model_subject("CharSeqRnn, identity", CharSeqRnn(V, F, H, identity=True)))
    for name, cell in CELLS.items():
        model = CharLM(V, F, H, cell=cell, layers=2)
        subjects.append(model_subject(f"CharLM, {name}, 2 layers", model, length=T - 1))
    tied = CharLM(V, H, H, tied=True)
    return [*subjects, model_subject("CharLM, gru, tied", tied)]


def layer_subjects(*, quick: bool) -> list[Subject]:
    """Recurrent stacks: cells x layers x directions, with lengths and with dropout."""
    subjects = [
        layer_subject(RNN(cell, H, 2, bidirectional=True), lengths=True) for cell in CELLS.values()
    ]
    dropped = [RNN(cell, H, 3, dropout=LAYER_DROPOUT) for cell in CELLS.values()]
    subjects += [layer_subject(stack) for stack in dropped[-1 if quick else 0 :]]
    if quick:
        return subjects
    for cell, layers, both in product(CELLS.values(), (1, 3), (False, True)):
        subjects.append(layer_subject(RNN(cell, H, layers, bidirectional=both)))
    return subjects
