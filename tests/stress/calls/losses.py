"""Calls of losses and of the sampler. Each function samples one.

Shapes: T time steps, B batch, V vocabulary.
"""

from stress.calls.arguments import sample_lengths, sample_tokens
from stress.calls.call import NO_FLOATS, Draft, Sampled, Shape


def sampler(d: Draft) -> Sampled:
    """`Sampler`."""
    batch = d.one(1, 3)
    vocabulary = d.one(2, 9, 30)
    settings = d.one(
        "", "temperature=0.0", "top_k=2", "top_p=0.5", "banned=(0,)", "temperature=1e9"
    )
    shape: Shape = (batch, vocabulary)
    dtype = d.one("float32", "float64", "float16", "bfloat16")
    if d.wrong:
        mistake = d.one("setting", "axes", "dtype", "banned")
        if mistake == "setting":
            settings = d.one("temperature=-1.0", "top_k=0", "top_p=0.0", "top_p=1.5")
            d.mistake(f"Sampler({settings})")
        elif mistake == "banned":
            settings = d.one("banned=(99,)", "banned=(-1,)", f"banned=tuple(range({vocabulary}))")
            d.mistake(f"Sampler({settings})")
        elif mistake == "axes":
            shape = d.one((vocabulary,), (1, *shape), ())
            d.mistake(f"log_probs of shape {shape}")
        else:
            dtype = d.one(*NO_FLOATS)
            d.mistake(f"log_probs of {dtype}")
    d.define("log_probs", d.array(shape, dtype))
    call = f"Sampler({settings})(key({d.seed()}), log_probs)"
    return call, {"shapes": ((batch,),), "jitted": d.chance(0.5)}


def nll_loss(d: Draft) -> Sampled:
    """`nll_loss`."""
    steps = d.one(1, 4)
    batch = d.one(1, 3)
    vocabulary = d.one(2, 9)
    shape: Shape = d.one((batch,), (steps, batch))
    dtype = d.one("float32", "float32", "float64", "bfloat16", "float16")
    targets_shape = shape
    weights_shape = shape
    targets_dtype = None
    if d.wrong:
        mistake = d.one("targets", "weights", "targets' dtype", "log_probs' dtype")
        d.mistake(f"wrong {mistake}")
        if mistake == "targets":
            targets_shape = d.other_shape(shape)
        elif mistake == "weights":
            weights_shape = d.other_shape(shape)
        elif mistake == "targets' dtype":
            targets_dtype = d.one("float32", "bool")
        else:
            dtype = d.one(*NO_FLOATS)
        weighted = mistake == "weights"
    else:
        weighted = d.chance(0.5)
    d.define("log_probs", d.array((*shape, vocabulary), dtype))
    if targets_dtype:
        d.define("targets", d.array(targets_shape, targets_dtype, "jax"))
    else:
        d.define("targets", d.integers(0, vocabulary, targets_shape))
    options = f", jnp.abs(jnp.asarray({d.floats(weights_shape)})) + 1" if weighted else ""
    return f"nll_loss(log_probs, targets{options})", {"shapes": ((),), "jitted": d.chance(0.5)}


def nll_loss_seq(d: Draft) -> Sampled:
    """`nll_loss_seq`."""
    steps = d.one(1, 4)
    batch = d.one(1, 3)
    vocabulary = d.one(2, 9)
    d.define("log_probs", d.floats((steps, batch, vocabulary)))
    d.define("targets", sample_tokens(d, steps, batch, vocabulary, name="targets"))
    d.define("lengths", sample_lengths(d, batch, steps))
    d.may_be_nan = True  # where all lengths are 0, as documented
    return "nll_loss_seq(log_probs, targets, lengths)", {"shapes": ((),)}
