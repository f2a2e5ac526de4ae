"""Calls of models: one step, training, evaluation, generation. Each function samples one.

Shapes: T time steps, B batch, V vocabulary, H hidden size.
"""

from typing import Any

from stress.calls.arguments import sample_carry, sample_lengths, sample_tokens
from stress.calls.call import Draft, Sampled

MODELS = (
    "Char3Model",
    "CharLoopModel",
    "CharLoopConcatModel",
    "CharRnn",
    "CharSeqRnn",
    "CharSeqStatefulRnn",
    "CharSeqStatefulRnn2",
    "CharSeqStatefulGRU",
    "CharSeqStatefulLSTM",
    "CharLM",
)
LAST_ONLY = ("Char3Model", "CharLoopModel", "CharLoopConcatModel", "CharRnn")
"""Models that predict only the next character."""


def _sample_model(d: Draft, batch: int) -> dict[str, Any]:
    """The lines of a model, its weights and a carry.

    Returns:
        Its name, sizes, and what is documented of its results.
    """
    name = d.one(*MODELS, "CharLM", "CharLM")
    hidden_size = d.one(1, 4, 8)
    vocabulary = d.one(2, 9, 30)
    embedding_size = d.one(1, 5)
    num_layers = 1
    cell = "TANH"
    options = ""
    if name == "CharLM":
        cell = d.one("TANH", "RELU", "GRU", "LSTM", "OWN")
        num_layers = d.one(1, 2)
        tied = d.chance(0.2)
        embedding_size = hidden_size if tied else embedding_size
        options = f", cell={cell}, num_layers={num_layers}, tied={tied}"
    if name == "CharSeqStatefulGRU":
        cell = "GRU"
    if name == "CharSeqStatefulLSTM":
        cell = "LSTM"
        num_layers = d.one(1, 2)
        options = f", num_layers={num_layers}"
    d.weights = dtype = d.one("float32", "float32", "float64", "bfloat16", "float16")
    stateful = "Stateful" in name or name == "CharLM"
    d.define("model", f"{name}({vocabulary}, {embedding_size}, {hidden_size}{options})")
    d.define("params", f"model_weights(model, {dtype!r}, seed={d.seed()})")
    if stateful:
        d.define("carry", sample_carry(d, cell, num_layers, batch, hidden_size))
    elif d.wrong and d.chance(0.2):
        d.mistake("a carry for a model without one")
        d.define("carry", sample_carry(d, cell, 1, batch, hidden_size, single=True))
    else:
        d.define("carry", "()")
    arrays = num_layers * (2 if cell == "LSTM" else 1)
    return {
        "name": name,
        "stateful": stateful,
        "steps": 3 if name == "Char3Model" else d.one(1, 2, 5, 8),
        "vocabulary": vocabulary,
        "dtype": dtype,
        "carry": [(batch, hidden_size)] * arrays if stateful else [],
    }


def apply_model(d: Draft) -> Sampled:
    """`apply_model`."""
    batch = d.one(1, 3, 6)
    made = _sample_model(d, batch)
    steps = made["steps"]
    vocabulary = made["vocabulary"]
    d.define("tokens", sample_tokens(d, steps, batch, vocabulary))
    options = ""
    if made["stateful"] and d.chance(0.5):
        options += f", lengths={sample_lengths(d, batch, steps)}"
    if d.chance(0.3):
        options += f", dropout_key=key({d.seed()})"
    outputs = (batch, vocabulary) if made["name"] in LAST_ONLY else (steps, batch, vocabulary)
    return f"apply_model(model, params, carry, tokens{options})", {
        "jitted": True,
        "shapes": (*made["carry"], outputs),
        "dtype": made["dtype"],
    }


def _sample_batch(d: Draft, made: dict[str, Any], batch: int) -> None:
    """The line of a batch."""
    steps = made["steps"]
    vocabulary = made["vocabulary"]
    inputs = sample_tokens(d, steps, batch, vocabulary, name="inputs", host=True)
    targets = sample_tokens(d, steps, batch, vocabulary, name="targets", host=True)
    if d.wrong and d.chance(0.2):
        shape = d.other_shape((steps, batch))
        d.mistake(f"targets of shape {shape}")
        targets = d.integers(0, vocabulary, shape)
    options = ""
    if made["stateful"] and d.chance(0.4):
        options += f", length=jnp.asarray({d.one(1, steps)})"
    if d.chance(0.3):
        options += f", rows=jnp.asarray({d.one(1, batch)})"
    d.define("batch", f"Batch({inputs}, {targets}{options})")
    # A carry of another batch size starts from zeros, as documented.
    only_carry = all("carry" in what for what in d.what)
    if d.what and only_carry and d.expected == "error":
        d.expected = "either"


def train_step(d: Draft) -> Sampled:
    """`train_step`."""
    batch = d.one(1, 3, 6)
    made = _sample_model(d, batch)
    _sample_batch(d, made, batch)
    d.define("optimizer", "make_optimizer('sgd')")
    d.define("state", "train_state(model, params, optimizer, carry)")
    options = ""
    if made["stateful"] and d.chance(0.3):
        remat_every = d.one(1, 2, 100)
        if d.wrong and d.chance(0.3):
            remat_every = d.one(0, -1)
            d.mistake("remat_every below 1")
        options = f", remat_every={remat_every}"
    return f"step_results(train_step(model, optimizer, state, batch, 0.1{options}))", {}


def eval_step(d: Draft) -> Sampled:
    """`eval_step`."""
    batch = d.one(1, 3, 6)
    made = _sample_model(d, batch)
    _sample_batch(d, made, batch)
    shapes = (*made["carry"], ())
    return "eval_step(model, params, carry, batch)", {"shapes": shapes, "dtype": made["dtype"]}


def generate(d: Draft) -> Sampled:
    """`generate`."""
    batch = d.one(1, 2, 4)
    length = d.one(1, 2, 5, 20)
    made = _sample_model(d, batch)
    prompt = sample_tokens(d, made["steps"], batch, made["vocabulary"], name="prompt", host=True)
    d.define("prompt", prompt)
    options = ""
    if made["stateful"] and "carry is None" not in d.what and d.chance(0.6):
        options += ", carry=carry"
    else:
        _without_carry(d)
    if d.wrong and d.chance(0.3):
        length = d.one(0, -5)
        d.mistake("length below 1")
    if d.chance(0.5):
        sampler = d.one("temperature=0.0", "top_k=2", "top_p=0.7", "temperature=0.5", "banned=(1,)")
        options += f", sampler=Sampler({sampler})"
    shapes = ((length, batch),) if d.expected == "result" else None
    call = f"generate(model, params, prompt, {length}, key({d.seed()}){options})[1]"
    return call, {"shapes": shapes}


def get_next(d: Draft) -> Sampled:
    """`get_next`."""
    batch = d.one(1, 2, 4)
    made = _sample_model(d, batch)
    _without_carry(d)
    prompt = sample_tokens(d, made["steps"], batch, made["vocabulary"], name="prompt", host=True)
    d.define("prompt", prompt)
    return "get_next(model, params, prompt)", {"shapes": ((batch,),)}


def _without_carry(d: Draft) -> None:
    """The carry is not used, so that a mistake in it is none: generation starts from zeros."""
    d.what = [what for what in d.what if "carry" not in what]
    if not d.what:
        d.expected = "result"


def make_state(d: Draft) -> Sampled:
    """`make_state`."""
    name = d.one(*MODELS)
    optimizer = d.one("adam", "sgd")
    batch = d.one(1, 4)
    if d.wrong:
        batch = -1
        d.mistake("a negative batch")
    d.define("model", f"{name}(9, 5, 4)")
    return f"make_state(model, make_optimizer({optimizer!r}), {batch}, key(0)).params", {}


def _sample_source(d: Draft, made: dict[str, Any], batch: int) -> None:
    """The lines of a text and of windows of it."""
    vocabulary = made["vocabulary"]
    d.define("text", f"integers(0, {vocabulary}, (80,), 'int32', 'numpy', seed={d.seed()})")
    if made["stateful"]:
        d.define("source", f"BpttStream(text, {batch}, {made['steps']})")
    else:
        starts = f"np.arange(0, 70, {d.one(3, 7)})"
        d.define("source", f"WindowSet(text, {starts}, {made['steps']}, {batch})")


def evaluate(d: Draft) -> Sampled:
    """`evaluate`."""
    batch = d.one(1, 3)
    made = _sample_model(d, batch)
    _sample_source(d, made, batch)
    if any("carry" in what for what in d.what):
        d.expected = "either"
    return "evaluate(model, params, source, carry)", {}


def fit(d: Draft) -> Sampled:
    """`fit`."""
    batch = d.one(1, 3)
    made = _sample_model(d, batch)
    _sample_source(d, made, batch)
    d.define("optimizer", "make_optimizer('sgd')")
    if any("carry" in what for what in d.what):
        d.expected = "either"
    state = "train_state(model, params, optimizer, carry)"
    call = f"fit(model, source, schedule='1 x 1e-2', optimizer=optimizer, state={state})"
    return f"fit_results({call})", {}
