"""The mutants of what surrounds a model: data, carry, optimizers, rates, initialisation."""

import jax.numpy as jnp

from jaxrnn.data.windows import BpttStream, WindowSet
from jaxrnn.nn.layers import dense
from parity import faults as f
from parity import faults_training as t
from parity.mutants import Mutant

TRAINING = (
    Mutant("carry not carried on", lambda: t.carry_with(lambda old, new: old), "trajectory"),
    Mutant("carry reset", lambda: t.carry_with(lambda o, n: jnp.zeros_like(n)), "trajectory"),
    Mutant(
        "target off by one",
        lambda: t.batch_with(lambda b: b._replace(targets=b.inputs)),
        "trajectory",
    ),
    Mutant(
        "padding moves the carry",
        lambda: t.batch_with(lambda b: b._replace(length=None)),
        "trajectory",
    ),
    Mutant(
        "window off by one",
        lambda: t.windows_with(BpttStream, lambda w, s: w._replace(starts=w.starts + 1)),
        "trajectory",
    ),
    Mutant("streams interleaved", lambda: t.windows_with(BpttStream, t.interleaved), "fit, stream"),
    Mutant(
        "windows off by one",
        lambda: t.windows_with(WindowSet, lambda w, s: w._replace(starts=w.starts + 1)),
        "fit, windows",
    ),
    Mutant(
        "filler rows of the last batch counted",
        lambda: t.windows_with(WindowSet, lambda w, s: w._replace(rows=w.rows * 0 + s.batch)),
        "fit, windows",
    ),
    Mutant(
        "carry reset for validation",
        lambda: f.wrapped(t.loop, "evaluation", t.without_carry),
        "fit, stream",
    ),
    Mutant("learning rate one step late", t.rates_one_step_late, "fit, stream"),
    Mutant(
        "Adam: eps inside the root",
        lambda: t.adam_with(lambda m, v, c1, c2, e: m / c1 / jnp.sqrt(v / c2 + e)),
        "update, Adam",
    ),
    Mutant(
        "Adam: no bias correction",
        lambda: t.adam_with(lambda m, v, c1, c2, e: m / (jnp.sqrt(v) + e)),
        "update, Adam",
    ),
    Mutant(
        "Adam: eps before the bias correction",
        lambda: t.adam_with(lambda m, v, c1, c2, e: m / c1 / ((jnp.sqrt(v) + e) / jnp.sqrt(c2))),
        "update, Adam",
    ),
    Mutant("Adam: b2 of 0.99", lambda: t.adam_with(t.adam_direction, b2=0.99), "update, Adam"),
    Mutant(
        "Adam: bias correction in float32",
        lambda: t.adam_with(t.adam_direction, dtype="float32"),
        "update, Adam",
    ),
    Mutant("L2 decoupled", lambda: t.adam_arguments(decoupled=True), "update, Adam, L2"),
    Mutant("AdamW coupled", lambda: t.adam_arguments(decoupled=False), "update, AdamW"),
    Mutant(
        "clip epsilon missing",
        lambda: f.replaced(t.optimizers, "CLIP_EPSILON", 0.0),
        "update, SGD, clipped",
    ),
    Mutant("clipped by value", lambda: t.clip_with(t.clipped_by_value), "update, SGD, clipped"),
    Mutant("clipped by leaf", lambda: t.clip_with(t.clipped_by_leaf), "update, Adam, clipped"),
    Mutant("Nesterov momentum", lambda: t.trace_with(nesterov=True), "update, SGD, momentum"),
    Mutant("RMSprop: eps in the root", lambda: t.rms_with(eps_in_sqrt=True), "update, RMSprop"),
    Mutant("RMSprop: decay of 0.9", lambda: t.rms_with(decay=0.9), "update, RMSprop"),
    Mutant(
        "identity initialisation missing",
        lambda: t.initialiser("identity", None),
        "initialisation of CharSeqRnn",
    ),
    Mutant(
        "forget-gate bias starts at 1",
        t.forgetful_start,
        "initialisation of CharSeqStatefulLSTM",
    ),
    Mutant(
        "embedding starts too small",
        lambda: t.initialiser("embed", t.small_embed),
        "initialisation of CharSeqRnn",
    ),
    Mutant(
        "Dense bound from fan out",
        lambda: t.initialiser("dense", lambda n, fan_in, name=None: dense(n, n, name=name)),
        "initialisation of CharSeqRnn",
    ),
    Mutant("greedy takes the second", lambda: t.recompiled(t.wrong_choice()), "generation"),
)
