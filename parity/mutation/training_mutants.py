"""The mutants of what surrounds a model: data, carry, optimizers, rates, initialization."""

from dataclasses import replace

import jax.numpy as jnp

from jaxrnn.data.windows import BpttStream, WindowSet
from jaxrnn.nn import models
from jaxrnn.nn.layers import dense
from jaxrnn.training import loop, optimizers
from parity.mutation.mutants import Mutant
from parity.mutation.tools import recompiled, replaced, wrapped
from parity.mutation.training_mutations import (
    adam_arguments,
    adam_direction,
    adam_with,
    batch_with,
    carry_with,
    clip_with,
    clipped_by_leaf,
    clipped_by_value,
    clipping_the_direction,
    decay_behind_the_momentum,
    forgetful_start,
    interleaved,
    norm_of_the_update_reported,
    rates_one_step_late,
    rms_with,
    small_embed,
    trace_with,
    windows_with,
    without_carry,
    wrong_choice,
)

TRAINING = (
    # The carry from window to window.
    Mutant(
        "carry not carried on",
        lambda: carry_with(lambda old, new: old),
        "trajectory",
        "the carry between windows",
        "not handed on",
    ),
    Mutant(
        "carry reset",
        lambda: carry_with(lambda o, n: jnp.zeros_like(n)),
        "trajectory",
        "the carry between windows",
        "not handed on",
    ),
    # What a window holds.
    Mutant(
        "target off by one",
        lambda: batch_with(lambda b: b._replace(targets=b.inputs)),
        "trajectory",
        "the windows",
        "targets are the inputs",
    ),
    Mutant(
        "padding moves the carry",
        lambda: batch_with(lambda b: b._replace(length=None)),
        "trajectory",
        "the windows",
        "padded steps",
    ),
    Mutant(
        "window off by one",
        lambda: windows_with(BpttStream, lambda w, s: replace(w, starts=w.starts + 1)),
        "trajectory",
        "the windows",
        "one character late",
    ),
    Mutant(
        "streams interleaved",
        lambda: windows_with(BpttStream, interleaved),
        "fit, stream",
        "the windows",
        "interleaved",
    ),
    Mutant(
        "windows off by one",
        lambda: windows_with(WindowSet, lambda w, s: replace(w, starts=w.starts + 1)),
        "fit, windows",
        "the windows",
        "one character late",
    ),
    Mutant(
        "filler rows of the last batch counted",
        lambda: windows_with(WindowSet, lambda w, s: replace(w, rows=w.rows * 0 + s.batch_size)),
        "fit, windows",
        "the windows",
        "filler rows",
    ),
    # The loop around the steps.
    Mutant(
        "carry reset for validation",
        lambda: wrapped(loop, "evaluation", without_carry),
        "fit, stream",
        "the carry between training and validation",
        "starts from zeros",
    ),
    Mutant(
        "learning rate one step late",
        rates_one_step_late,
        "fit, stream",
        "the schedule",
        "the step before",
    ),
    # Optimizers.
    Mutant(
        "Adam: eps inside the root",
        lambda: adam_with(lambda m, v, c1, c2, e: m / c1 / jnp.sqrt(v / c2 + e)),
        "update, Adam",
        "the optimizer",
        "inside the root",
    ),
    Mutant(
        "Adam: no bias correction",
        lambda: adam_with(lambda m, v, c1, c2, e: m / (jnp.sqrt(v) + e)),
        "update, Adam",
        "the optimizer",
        "no bias correction",
    ),
    Mutant(
        "Adam: eps before the bias correction",
        lambda: adam_with(lambda m, v, c1, c2, e: m / c1 / ((jnp.sqrt(v) + e) / jnp.sqrt(c2))),
        "update, Adam",
        "the optimizer",
        "before the bias correction",
    ),
    Mutant(
        "Adam: b2 of 0.99",
        lambda: adam_with(adam_direction, b2=0.99),
        "update, Adam",
        "the optimizer",
        "b2 is 0.99",
    ),
    Mutant(
        "Adam: bias correction in float32",
        lambda: adam_with(adam_direction, dtype="float32"),
        "update, Adam",
        "the optimizer",
        "in float32",
    ),
    Mutant(
        "L2 decoupled",
        lambda: adam_arguments(decoupled=True),
        "update, Adam, L2",
        "the optimizer",
        "is decoupled",
    ),
    Mutant(
        "AdamW coupled",
        lambda: adam_arguments(decoupled=False),
        "update, AdamW",
        "the optimizer",
        "is coupled",
    ),
    Mutant(
        "clip epsilon missing",
        lambda: replaced(optimizers, "CLIP_EPSILON", 0.0),
        "update, SGD, clipped",
        "the optimizer",
        "epsilon of clipping",
    ),
    Mutant(
        "clipped by value",
        lambda: clip_with(clipped_by_value),
        "update, SGD, clipped",
        "the optimizer",
        "every entry",
    ),
    Mutant(
        "clipped by leaf",
        lambda: clip_with(clipped_by_leaf),
        "update, Adam, clipped",
        "the optimizer",
        "every parameter",
    ),
    Mutant(
        "direction clipped, not the gradient",
        clipping_the_direction,
        "update, Adam, clipped",
        "the optimizer",
        "the direction is clipped in place of the gradient",
    ),
    Mutant(
        "SGD: decay behind the momentum",
        decay_behind_the_momentum,
        "update, SGD, momentum",
        "the optimizer",
        "behind the momentum",
    ),
    Mutant(
        "norm of the update reported for the gradient's",
        norm_of_the_update_reported,
        "update, Adam",
        "the metric of the gradient's norm",
        "that of the update",
    ),
    Mutant(
        "Nesterov momentum",
        lambda: trace_with(nesterov=True),
        "update, SGD, momentum",
        "the optimizer",
        "Nesterov",
    ),
    Mutant(
        "RMSprop: eps in the root",
        lambda: rms_with(eps_in_sqrt=True),
        "update, RMSprop",
        "the optimizer",
        "inside the root",
    ),
    Mutant(
        "RMSprop: decay of 0.9",
        lambda: rms_with(decay=0.9),
        "update, RMSprop",
        "the optimizer",
        "squares is 0.9",
    ),
    # Initialization.
    Mutant(
        "identity initialization missing",
        lambda: replaced(models, "identity", None),
        "initialization of CharSeqRnn",
        "rnn.weight_hh_l0",
        "identity matrix",
    ),
    Mutant(
        "forget-gate bias starts at 1",
        forgetful_start,
        "initialization of CharSeqStatefulLSTM",
        "rnn.bias_ih_l0",
        "+1.0 in gate f",
    ),
    Mutant(
        "embedding starts too small",
        lambda: replaced(models, "embed", small_embed),
        "initialization of CharSeqRnn",
        "the start of e.weight",
        "0.1 times",
    ),
    Mutant(
        "tied table starts as an embedding",
        lambda: replaced(models, "uniform", lambda bound: None),
        "initialization of CharLM, tied",
        "the start of e.weight",
        "normal with deviation 1, PyTorch's is uniform between",
    ),
    Mutant(
        "Dense bound from fan out",
        lambda: replaced(models, "dense", lambda n, fan_in, name=None: dense(n, n, name=name)),
        "initialization of CharSeqRnn",
        "the start of l_out",
        "times as far",
    ),
    # Generation.
    Mutant(
        "greedy takes the second",
        lambda: recompiled(wrong_choice()),
        "generation",
        "the choice of the character",
        "number 2",
    ),
)
