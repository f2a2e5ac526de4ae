"""What is compared: a function in JAX and a module in PyTorch that should be the same.

Shapes: T time steps, B batch, V vocabulary, F embedding size, H hidden size, L layers,
D directions. All sizes differ, so that a swapped axis or a missing transpose cannot hide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
from jaxrnn.recurrent.cells import TANH
from jaxrnn.training.steps import Batch, batch_loss
from parity.core.bridge import named_leaves
from parity.core.reference_layers import by_field, torch_carry
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

# The cells of torch's whose `CharLM` is compared on padded windows; the others' have no padding.
PADDED = ("relu", "lstm")

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
        carry: the NamedTuple of a layer's carry, where one is among inputs and outputs.
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
    carry: Any = None
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
    sum of positive terms, so that its round-off is small and its gradient nowhere zero. What is not
    finite, as behind a mask of -inf, has no part in it.
    """
    total: Any = 0.0
    terms: Any
    for y in outputs.values():
        numbers = np.arange(1, np.prod(y.shape) + 1)
        # Rounded to multiples of 1 / 64, which bfloat16 holds exactly.
        weights = (1 + np.round(32 * np.cos(numbers)) / 64).reshape(y.shape)
        if isinstance(y, torch.Tensor):
            terms = torch.tensor(weights).to(y) * (torch.where(y.isfinite(), y, 0.0) + 1.5) ** 2
        else:
            finite = jnp.where(jnp.isfinite(y), y, 0)
            terms = jnp.asarray(weights, y.dtype) * (finite + 1.5) ** 2
        total = total + terms.mean()
    return total


# A carry by name: "carry.h" and so on, among inputs, outputs and gradients. An array has the field
# of all layers and directions, (L * D, B, H). One whose width differs from layer to layer, as a
# previous input's does, has an array for each: "carry.x[0]", (B, I). The names are those of the
# fields of a NamedTuple, the carry of one layer and direction; a model without a carry has none.


def carry_shapes(stack: RNN, batch_size: int, input_size: int) -> tuple[Any, ...]:
    """The carry of every layer and direction, with shapes for arrays."""
    return jax.eval_shape(lambda: stack.initial_carry(batch_size, input_size=input_size))


def carry_kind(stack: RNN | None, input_size: int) -> Any:
    """The NamedTuple of a layer's carry; None without layers."""
    return None if stack is None else type(carry_shapes(stack, 1, input_size)[0])


def named_fields(kind: Any, fields: Sequence[Any]) -> dict[str, Any]:
    """The fields of a carry by name; each an array, or a sequence of arrays."""
    named: dict[str, Any] = {}
    for name, field in zip(kind._fields, fields, strict=True):
        if isinstance(field, tuple | list):
            named |= {f"carry.{name}[{k}]": array for k, array in enumerate(field)}
        else:
            named[f"carry.{name}"] = field
    return named


def fields_of(kind: Any, named: Inputs) -> list[Any]:
    """The way back, from inputs that have a carry among them."""
    parts = range(len(named["carry.h"]))
    fields = []
    for name in kind._fields:
        if f"carry.{name}" in named:
            fields.append(named[f"carry.{name}"])
        else:
            fields.append(tuple(named[f"carry.{name}[{k}]"] for k in parts))
    return fields


def named_carry_of_jax(carry: Any) -> dict[str, jax.Array]:
    """A stack's carry, one NamedTuple a layer and direction, as torch has it: (L * D, B, H)."""
    return named_fields(carry[0], by_field(carry, jnp.stack)) if carry else {}


def carry_of_jax(kind: Any, inputs: Inputs) -> tuple[Any, ...]:
    """The way back; () without a carry."""
    if kind is None:
        return ()
    return tuple(kind(*states) for states in zip(*fields_of(kind, inputs), strict=True))


def named_carry_of_torch(kind: Any, carry: Any) -> dict[str, torch.Tensor]:
    """torch's carry, (), h or a tuple of fields, by name."""
    if kind is None:
        return {}
    return named_fields(kind, (carry,) if isinstance(carry, torch.Tensor) else carry)


def carry_of_torch(kind: Any, inputs: Inputs) -> Any:
    """The way back; () without a carry."""
    return () if kind is None else torch_carry(fields_of(kind, inputs))


def directions(stack: RNN) -> int:
    """In how many directions each layer of a stack runs."""
    return 2 if stack.bidirectional else 1


def carry_inputs(
    sample_inputs: Callable[[np.random.Generator], Mapping[str, Any]],
) -> tuple[str, ...]:
    """The names of the inputs that are a carry's fields."""
    sampled = sample_inputs(np.random.default_rng(0))
    return tuple(name for name in sampled if name.startswith("carry."))


# Fields are sampled within +-SPREAD around 0, but a normalizer, which divides, around this.
SPREAD = 0.9
NORMALIZER = 1.5


def sample_field(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A field of a carry; that of a normalizer is positive, as it is after any step."""
    middle = NORMALIZER if name == "n" else 0.0
    return middle + rng.uniform(-SPREAD, SPREAD, shape)


def sample_carry(
    rng: np.random.Generator, stack: RNN, batch_size: int, input_size: int
) -> dict[str, np.ndarray]:
    """A carry for every layer and direction, by name."""
    parts = carry_shapes(stack, batch_size, input_size)
    fields: list[Any] = []
    for name, states in zip(parts[0]._fields, zip(*parts, strict=True), strict=True):
        shapes = [state.shape for state in states]
        if len(set(shapes)) == 1:
            fields.append(sample_field(rng, name, (len(parts), *shapes[0])))
        else:
            fields.append([sample_field(rng, name, shape) for shape in shapes])
    return named_fields(parts[0], fields)


@dataclass(frozen=True)
class _Model:
    """A character model and its reference: what each of them computes from the same inputs."""

    model: CharModel
    length: int | None
    sizes: Sizes

    @property
    def kind(self) -> Any:
        # The carry of a layer of a model with a carry.
        stack = self.model.stack if isinstance(self.model, StatefulModel) else None
        return carry_kind(stack, self.model.embedding_size)

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
            inputs |= sample_carry(rng, self.model.stack, self.sizes.B, self.model.embedding_size)
        return inputs

    def jax_outputs(self, params: Any, inputs: Inputs) -> dict[str, jax.Array]:
        # Log probabilities of the steps that count, and the carry.
        lengths = {}
        if self.length is not None:
            lengths["lengths"] = jnp.full(self.sizes.B, self.length)
        carry, log_probs = apply(
            self.model, params, carry_of_jax(self.kind, inputs), inputs["tokens"], **lengths
        )
        if self.length is not None:
            log_probs = log_probs[: self.length]  # (T, B, V) to (length, B, V)
        return {"log_probs": log_probs, **named_carry_of_jax(carry)}

    def jax_loss(self, params: Any, inputs: Inputs) -> jax.Array:
        # The loss that training takes the gradient of.
        # As a padded window in training: the steps from `count` on have no loss.
        count = None if self.length is None else jnp.asarray(self.length)
        batch = Batch(inputs["tokens"], inputs["targets"], count)
        return batch_loss(self.model, params, carry_of_jax(self.kind, inputs), batch)[0]

    def torch_outputs(self, reference: CharReference, inputs: Inputs) -> dict[str, torch.Tensor]:
        # The same of the reference, which gets no steps that do not count.
        carry, log_probs = reference(self.torch_carry(inputs), inputs["tokens"][: self.length])
        return {"log_probs": log_probs, **named_carry_of_torch(self.kind, carry)}

    def torch_loss(self, reference: CharReference, inputs: Inputs) -> torch.Tensor:
        # torch's own loss.
        return reference_loss(reference, self.torch_carry(inputs), inputs, self.length)[1]

    def torch_carry(self, inputs: Inputs) -> Any:
        # The reference's carry among the inputs.
        return carry_of_torch(self.kind, inputs)


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
        differentiable=carry_inputs(both.sample_inputs),
        model=model,
        stack=recurrent_layers(model),
        carry=both.kind,
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


@cache
def _linen_paths(model: CharModel, steps: int) -> tuple[str, ...]:
    # Shapes are enough for the names: nothing is computed.
    tokens = jax.ShapeDtypeStruct((steps, B), jnp.int32)
    carry = model.initial_carry(B)
    shapes = jax.eval_shape(lambda tokens: model.init(jax.random.key(0), carry, tokens), tokens)
    return tuple(named_leaves(shapes["params"]))


def course_pairs() -> list[Pair]:
    """Every model of the course, and `CharLM` with each cell of torch and with one table."""
    pairs = []
    for kind in COURSE_MODELS:
        # torch samples dropout masks of its own, so here there is no dropout.
        options: dict[str, Any] = {"dropout": 0.0} if kind is CharSeqStatefulLSTM else {}
        pairs.append(model_pair(kind.__name__, kind(V, F, H, **options)))
    # The variants that a model has beside its own form.
    pairs.append(model_pair("CharSeqRnn, identity", CharSeqRnn(V, F, H, identity=True)))
    for name, cell in TORCH_CELLS.items():
        model = CharLM(FEW, F, H, cell=cell, num_layers=2)
        # Of some all steps count, so that the last one's share of the table's gradient shows too.
        length = T - 1 if name in PADDED else None
        pairs.append(model_pair(f"CharLM, {name}, 2 layers", model, length=length))
    pairs.append(model_pair("CharLM, gru, tied", CharLM(V, H, H, tied=True)))
    return pairs
