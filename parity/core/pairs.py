"""What is compared: a function in JAX and a module in PyTorch that should be the same.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, L layers,
D directions. All sizes differ, so that a swapped axis or a missing transpose cannot hide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.nn.layers import RNN
from jaxrnn.nn.models import (
    COURSE_MODELS,
    CharLM,
    CharModel,
    CharRnn,
    CharSeqRnn,
    CharSeqStatefulLSTM,
    StatefulModel,
)
from jaxrnn.recurrent.cells import TANH, Cell
from jaxrnn.training.steps import Batch, batch_loss
from parity.core.bridge import named_leaves
from parity.core.references import TORCH_CELLS, CharReference, reference_of


class Sizes(NamedTuple):
    """Sizes of a case: time steps, batch, vocabulary, embedding and hidden size."""

    T: int = 5
    B: int = 3
    V: int = 17
    F: int = 6
    H: int = 10


# Sizes of the cases, unless others are asked for.
SIZES = Sizes()
T, B, V, F, H = SIZES
# A vocabulary of fewer tokens than T * B. There the recurrent layers project the embedding's table
# once, and read the gates of every step from it.
FEW = 11

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two implementations and how to sample their inputs.

    Attributes:
        name: as the report shows it.
        module: makes the PyTorch module; its weights are replaced.
        weight_map: its weights and those in JAX.
        params: makes JAX's tree of parameters from weights by path.
        sample_inputs: makes named inputs; floats among them are rounded to the precision of the
            run.
        jax_outputs: (params, inputs) -> named outputs.
        jax_loss: (params, inputs) -> scalar.
        torch_outputs: (module, inputs) -> named outputs.
        torch_loss: (module, inputs) -> scalar.
        differentiable: the inputs whose gradients are compared too.
        model: the model that can be trained, where the pair is one.
        stack: its recurrent layers, or those that the pair is.
        lengths: whether sequences have lengths of their own.
    """

    name: str
    module: Callable[[], nn.Module]
    weight_map: WeightMap
    params: Callable[[dict[str, Any]], Any]
    sample_inputs: Callable[[np.random.Generator], Mapping[str, np.ndarray]]
    jax_outputs: Callable[[Any, Inputs], dict[str, jax.Array]]
    jax_loss: Callable[[Any, Inputs], jax.Array]
    torch_outputs: Callable[[Any, Inputs], dict[str, torch.Tensor]]
    torch_loss: Callable[[Any, Inputs], torch.Tensor]
    differentiable: tuple[str, ...] = ()
    model: CharModel | None = None
    stack: RNN | None = None
    lengths: bool = False


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
        numbers = np.arange(1, np.prod(y.shape) + 1)
        # Rounded to multiples of 1 / 64, which bfloat16 holds exactly.
        weights = (1 + np.round(32 * np.cos(numbers)) / 64).reshape(y.shape)
        if isinstance(y, torch.Tensor):
            terms = torch.tensor(weights).to(y) * (y + 1.5) ** 2
        else:
            terms = jnp.asarray(weights, y.dtype) * (y + 1.5) ** 2
        total = total + terms.mean()
    return total


# Names of a carry's fields among inputs, outputs and gradients; all but an LSTM's have only the
# first.
CARRY_NAMES = ("carry.h", "carry.c")


def carry_names(cell: Cell) -> tuple[str, ...]:
    """The names of the fields that this cell's carry has."""
    return CARRY_NAMES[: len(cell.carry._fields)]


def named_fields(fields: Sequence[Any]) -> dict[str, Any]:
    """The fields of a carry by name."""
    return dict(zip(CARRY_NAMES, fields, strict=False))


def named_carry_of_jax(carry: Any) -> dict[str, jax.Array]:
    """A stack's carry, one NamedTuple a layer and direction, as torch has it: (L * D, B, H)."""
    if not carry:
        return {}
    stacked = map(jnp.stack, zip(*carry, strict=True))  # (B, H) each to (L * D, B, H)
    return named_fields(tuple(stacked))


def carry_of_jax(cell: Cell, inputs: Inputs) -> tuple[Any, ...]:
    """The way back, from inputs named "carry.h" and "carry.c"."""
    fields = [inputs[name] for name in carry_names(cell)]  # (L * D, B, H) each
    return tuple(cell.carry(*states) for states in zip(*fields, strict=True))


def named_carry_of_torch(carry: Any) -> dict[str, torch.Tensor]:
    """torch's carry, (), h or (h, c), by name."""
    return named_fields((carry,) if isinstance(carry, torch.Tensor) else carry)


def carry_of_torch(inputs: Inputs) -> Any:
    """The way back."""
    return torch_carry([inputs[name] for name in CARRY_NAMES if name in inputs])


def torch_carry(fields: Sequence[torch.Tensor]) -> Any:
    """A carry's fields as torch's layers take them: h, or (h, c)."""
    return fields[0] if len(fields) == 1 else tuple(fields)


def directions(stack: RNN) -> int:
    """In how many directions each layer of a stack runs."""
    return 2 if stack.bidirectional else 1


def sample_carry(rng: np.random.Generator, stack: RNN, batch_size: int) -> dict[str, np.ndarray]:
    """A carry for every layer and direction, by name."""
    shape = (stack.num_layers * directions(stack), batch_size, stack.hidden_size)
    return {name: rng.uniform(-0.9, 0.9, shape) for name in carry_names(stack.cell)}


@dataclass(frozen=True)
class _Model:
    """A character model and its reference: what each of them computes from the same inputs."""

    model: CharModel
    length: int | None
    sizes: Sizes

    @property
    def cell(self) -> Cell | None:
        # The cell of a model with a carry.
        return self.model.stack.cell if isinstance(self.model, StatefulModel) else None

    @property
    def steps(self) -> int:
        # T, or the only number of characters that the model reads.
        return 3 if self.model.reads == "trigrams" else self.sizes.T

    def sample_inputs(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        # Tokens, targets and a carry.
        tokens = rng.integers(0, self.model.vocab_size, (2, self.steps, self.sizes.B))
        tokens[:, 0, 0] = 0  # a padding character is a character like any other
        # Targets are samples of their own, so that a loss of the inputs shows.
        inputs = {"tokens": tokens[0], "targets": tokens[1]}
        if isinstance(self.model, StatefulModel):
            inputs |= sample_carry(rng, self.model.stack, self.sizes.B)
        return inputs

    def carry(self, inputs: Inputs) -> Any:
        # The model's carry among the inputs.
        return carry_of_jax(self.cell, inputs) if self.cell else ()

    def jax_outputs(self, params: Any, inputs: Inputs) -> dict[str, jax.Array]:
        # Log probabilities of the steps that count, and the carry.
        lengths = {}
        if self.length is not None:
            lengths["lengths"] = jnp.full(self.sizes.B, self.length)
        carry, log_probs = apply(
            self.model, params, self.carry(inputs), inputs["tokens"], **lengths
        )
        if self.length is not None:
            log_probs = log_probs[: self.length]  # (T, B, V) to (length, B, V)
        return {"log_probs": log_probs, **named_carry_of_jax(carry)}

    def jax_loss(self, params: Any, inputs: Inputs) -> jax.Array:
        # The loss that training takes the gradient of.
        # As a padded window in training: the steps from `count` on have no loss.
        count = None if self.length is None else jnp.asarray(self.length)
        batch = Batch(inputs["tokens"], inputs["targets"], count)
        return batch_loss(self.model, params, self.carry(inputs), batch)[0]

    def torch_outputs(self, reference: CharReference, inputs: Inputs) -> dict[str, torch.Tensor]:
        # The same of the reference, which gets no steps that do not count.
        carry, log_probs = reference(carry_of_torch(inputs), inputs["tokens"][: self.length])
        return {"log_probs": log_probs, **named_carry_of_torch(carry)}

    def torch_loss(self, reference: CharReference, inputs: Inputs) -> torch.Tensor:
        # torch's own loss.
        return reference_loss(reference, carry_of_torch(inputs), inputs, self.length)[1]


def model_pair(
    name: str, model: CharModel, *, length: int | None = None, sizes: Sizes = SIZES
) -> Pair:
    """A character model and its reference.

    Args:
        name: as the report shows it.
        model: the model.
        length: for a stateful model, how many of the T steps count; the reference gets no others.
        sizes: T and B of the inputs; the model has the other sizes.
    """
    both = _Model(model, length, sizes)
    return Pair(
        name=name,
        module=lambda: reference_of(model),
        weight_map=WeightMap.for_flax(_linen_paths(model, both.steps)),
        params=nested,
        sample_inputs=both.sample_inputs,
        jax_outputs=both.jax_outputs,
        jax_loss=both.jax_loss,
        torch_outputs=both.torch_outputs,
        torch_loss=both.torch_loss,
        differentiable=carry_names(both.cell) if both.cell else (),
        model=model,
        stack=recurrent_layers(model),
        lengths=length is not None,
    )


def recurrent_layers(model: CharModel) -> RNN | None:
    """The recurrent layers of a model, if it has any."""
    if isinstance(model, StatefulModel):
        return model.stack
    return RNN(TANH, model.hidden_size) if isinstance(model, CharRnn | CharSeqRnn) else None


def reference_loss(
    reference: CharReference, carry: Any, inputs: Inputs, length: int | None = None
) -> tuple[Any, torch.Tensor]:
    """The carry after a window, and torch's own loss on it."""
    carry, log_probs = reference(carry, inputs["tokens"][:length])
    targets = inputs["targets"][:length]
    if log_probs.ndim == 2:
        targets = targets[-1]  # only the last step predicts: (T, B) to (B,)
    return carry, nn.functional.nll_loss(log_probs.flatten(0, -2), targets.flatten())


def _linen_paths(model: CharModel, steps: int) -> list[str]:
    # Shapes are enough for the names: nothing is computed.
    tokens = jax.ShapeDtypeStruct((steps, B), jnp.int32)
    carry = model.initial_carry(B)
    shapes = jax.eval_shape(lambda tokens: model.init(jax.random.key(0), carry, tokens), tokens)
    return list(named_leaves(shapes["params"]))


def course_pairs() -> list[Pair]:
    """Every model of the course, and `CharLM` with each cell and with one table."""
    pairs = []
    for kind in COURSE_MODELS:
        # torch samples dropout masks of its own, so here there is no dropout.
        options: dict[str, Any] = {"dropout": 0.0} if kind is CharSeqStatefulLSTM else {}
        pairs.append(model_pair(kind.__name__, kind(V, F, H, **options)))
    # The variants that a model has beside its own form.
    pairs.append(model_pair("CharSeqRnn, identity", CharSeqRnn(V, F, H, identity=True)))
    for name, cell in TORCH_CELLS.items():
        model = CharLM(FEW, F, H, cell=cell, num_layers=2)
        pairs.append(model_pair(f"CharLM, {name}, 2 layers", model, length=T - 1))
    pairs.append(model_pair("CharLM, gru, tied", CharLM(V, H, H, tied=True)))
    return pairs
