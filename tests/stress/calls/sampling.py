"""Sample calls of the public functions: right ones, and ones with a single mistake in them.

A call is a few lines of Python, which a process executes and a person can read and run again. Call
number n of a seed is a pure function of both.
"""

import random
from collections.abc import Callable

from stress.calls import losses, models, recurrent
from stress.calls.call import Call, Draft, Sampled

X64_SHARE = 0.35
"""Share of calls for which JAX's 64-bit types are on."""
WRONG_TRACED = 0.6
"""Share of calls on shapes alone that may have a mistake."""
WRONG_EXECUTED = 0.4
"""Share of executed calls that may have one; less, because only right ones compute much."""

TRACED: dict[str, tuple[Callable[[Draft], Sampled], int]] = {
    "RNN.apply": (recurrent.rnn_apply, 30),
    "gradient of RNN.apply": (recurrent.rnn_gradient, 15),
    "RNN.init": (recurrent.rnn_init, 8),
    "RNN.initial_carry": (recurrent.initial_carry, 2),
    "recurrence": (recurrent.recurrence, 12),
    "apply_model": (models.apply_model, 12),
    "train_step": (models.train_step, 8),
    "eval_step": (models.eval_step, 8),
    "generate": (models.generate, 6),
    "get_next": (models.get_next, 2),
    "Sampler": (losses.sampler, 4),
    "nll_loss": (losses.nll_loss, 4),
    "nll_loss_seq": (losses.nll_loss_seq, 3),
    "make_state": (models.make_state, 2),
    "repackage": (recurrent.repackage, 1),
}
"""Subjects that can be run on shapes alone: a function that samples calls, and their frequency."""
EXECUTED_ONLY: dict[str, tuple[Callable[[Draft], Sampled], int]] = {
    "evaluate": (models.evaluate, 4),
    "fit": (models.fit, 2),
}
"""Subjects that look at values, and can only be executed."""


def sample_call(seed: int, number: int, *, executed: bool) -> Call:
    """Call number `number` of a seed.

    Args:
        seed: of the sampling.
        number: which call.
        executed: whether the call is to be executed, and not only traced: then some functions are
            sampled that cannot be traced, and no huge arrays.
    """
    rng = random.Random(f"{seed}-{number}-{executed}")
    x64 = rng.random() < X64_SHARE
    wrong = rng.random() < (WRONG_EXECUTED if executed else WRONG_TRACED)
    draft = Draft(rng, x64=x64, wrong=wrong)
    subjects = {**TRACED, **EXECUTED_ONLY} if executed else TRACED
    weights = [weight for _, weight in subjects.values()]
    (subject,) = rng.choices(list(subjects), weights)
    sample, _ = subjects[subject]
    expression, documented = sample(draft)
    of_carry = any("carry" in what for what in draft.what)
    of_inputs = any(what.startswith(("xs", "x_gates", "tokens")) for what in draft.what)
    if of_carry and of_inputs:  # two mistakes may fit each other
        draft.expected = "either"
    return Call(
        number,
        subject,
        ", ".join(draft.what) or "right",
        draft.expected,
        draft.x64,
        tuple(draft.setup),
        expression,
        weights=draft.weights,
        may_be_nan=draft.may_be_nan,
        traced=subject in TRACED,
        **documented,
    )
