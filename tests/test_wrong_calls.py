"""Wrong calls of a newcomer's: each is one line that says what to do, and no tracer's message."""

from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxrnn
from jaxrnn import (
    GRU,
    LAYER_NORM_LSTM,
    LSTM,
    QRNN,
    RNN,
    ZONEOUT_LSTM,
    Batch,
    BpttStream,
    ByteTokenizer,
    Cell,
    CharLM,
    CharRnn,
    CharSeqStatefulGRU,
    CharSeqStatefulLSTM,
    FreeCell,
    Hidden,
    IntegerTokenizer,
    LinearCell,
    Optimizer,
    RNNCell,
    Sampler,
    SequenceModel,
    Sequences,
    TrainState,
    Vocabulary,
    WindowSet,
    apply_model,
    eval_step,
    evaluate,
    fit,
    fit_sequences,
    generate,
    load_corpus,
    load_run,
    make_optimizer,
    make_sequence_state,
    make_state,
    nll_loss,
    overlapping_starts,
    predict_sequences,
    sample,
    split_starts,
    train_step,
    zoneout,
)

V, F, H, B = 9, 4, 8, 4
PACKAGE = str(Path(jaxrnn.__file__).parent)
TOKENS = np.random.default_rng(0).integers(0, V, 200)
STREAM = BpttStream(TOKENS, B, 20)
STARTS = overlapping_starts(200, 8)
BATCH = Batch(TOKENS[:20].reshape(5, B), TOKENS[:20].reshape(5, B))
VOCABULARY = Vocabulary.from_characters(["abcdefgh"])
MODEL = CharLM(V, F, H, cell="tanh")
OTHER = CharLM(V, F, 2 * H, cell="tanh")
DEEP = CharLM(V, F, H, cell="tanh", num_layers=2, dropout=0.5)
ADAM = make_optimizer("adam")
KEY = jax.random.key(0)
ONE = np.ones((6, 5, 3), np.float32)
DATA = Sequences(ONE, np.zeros(6, int))
SERIES = SequenceModel(2, hidden_size=4)
STACK = RNN(GRU, H)
XS = np.zeros((3, 2, F), np.float32)


def params_of(model):
    """Parameters of a model's shapes, without a program that makes them."""
    tokens = jax.ShapeDtypeStruct((3, B), jnp.int32)
    carry = jax.eval_shape(lambda: model.initial_carry(B))
    params = jax.eval_shape(model.init, KEY, carry, tokens)["params"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)


PARAMS = params_of(MODEL)
CARRY = (Hidden(np.zeros((B, H), np.float32)),)
LSTM_CARRY = RNN(LSTM, H).initial_carry(B)
STATE = TrainState(PARAMS, ADAM.init(PARAMS), CARRY, jnp.zeros((), jnp.int32), KEY)
OF_OTHERS = params_of(OTHER)

training = partial(fit, MODEL, STREAM, schedule="1 x 1e-3", progress=False)
going_on = lambda **fields: training(state=STATE._replace(**fields))  # noqa: E731
text = partial(sample, MODEL, PARAMS, VOCABULARY, "abc")
step = partial(train_step, MODEL, ADAM, STATE, BATCH, 1e-3)
one_step = partial(train_step, MODEL, ADAM)
with_batch = lambda **fields: one_step(STATE, BATCH._replace(**fields), 1e-3)  # noqa: E731
tokens_on = partial(generate, MODEL, PARAMS)
series = partial(fit_sequences, SERIES, DATA, loss="cross_entropy", schedule="1 x 1e-3")
layer = partial(STACK.init, KEY, None)
same = lambda carry, x, h: carry  # noqa: E731
vectors = lambda key, inputs, hidden: {"w": jnp.zeros(hidden)}  # noqa: E731


def decides(outputs, targets, model):
    return outputs.mean() if outputs.mean() > 0 else -outputs.mean()


WRONG = {
    # fit
    "fit: no model": (lambda: fit(None, STREAM), "model such as CharLM, .*got a NoneType"),
    "fit: another vocabulary": (
        lambda: fit(MODEL, BpttStream(TOKENS + 5, B, 20), schedule="1 x 1e-3", state=STATE),
        r"tokens must be in \[0, 9\), got 13. Encode the text",
    ),
    "fit: a list": (lambda: fit(MODEL, [1, 2]), "windows of tokens, got a list: take jaxrnn.Bptt"),
    "fit: sequences": (lambda: fit(MODEL, DATA), "windows of tokens, got a Sequences"),
    "fit: a rate": (lambda: training(schedule=1e-3), 'for example "4 x 1e-3'),
    "fit: half a step": (lambda: training(steps=1.5), "steps must be an integer of at least 1"),
    "fit: no seed": (lambda: training(seed=None), r"seed must lie in \[0, 2\*\*32\), got None"),
    "fit: parameters": (lambda: training(state=PARAMS), "a TrainState, got a dict: for parameters"),
    "fit: a key": (lambda: going_on(key=3), r"one random key, as jax.random.key\(0\) .*got int"),
    "fit: a step": (lambda: going_on(step=1.5), "the state's step must have integers, got float32"),
    "fit: others' parameters": (lambda: going_on(params=OF_OTHERS), "not those of CharLM: .*"),
    "fit: a loss by name": (lambda: training(loss="mse"), "loss must be a function of"),
    "fit: a loss with if": (
        lambda: training(state=STATE, loss=decides),
        "decides by a value.* take jnp.where",
    ),
    "fit: a loss of nothing": (
        lambda: training(state=STATE, loss=lambda o, t, m: None),
        "loss must return",
    ),
    "fit: progress": (
        lambda: training(progress="yes"),
        "progress must be True or False, got 'yes'",
    ),
    "fit: no callbacks": (
        lambda: training(callbacks=None),
        "callbacks must be a list of functions",
    ),
    "fit: checkpoints": (lambda: training(checkpoints=3), "checkpoints must be a path, got 3"),
    # text
    "sample: a state": (
        lambda: sample(MODEL, STATE, VOCABULARY, "a"),
        "a whole state: state.params",
    ),
    "sample: others'": (lambda: sample(MODEL, OF_OTHERS, VOCABULARY, "a"), "not those of CharLM"),
    "sample: no vocabulary": (
        lambda: sample(MODEL, PARAMS, None, "a"),
        "must be a tokenizer: it has",
    ),
    "sample: a class": (lambda: sample(MODEL, PARAMS, Vocabulary, "a"), "the class Vocabulary"),
    "sample: another vocabulary": (
        lambda: sample(MODEL, PARAMS, ByteTokenizer(), "abc"),
        "vocabulary has 256 tokens and the model 9: take the one",
    ),
    "sample: tokens": (lambda: sample(MODEL, PARAMS, VOCABULARY, TOKENS), "prompt must be a text"),
    "sample: length": (lambda: text(1.5), "length must be an integer of at least 1, got 1.5"),
    "sample: temperature": (
        lambda: text(temperature="1"),
        "temperature must be at least 0, got '1'",
    ),
    "sample: top_k": (lambda: text(top_k=1.5), "top_k must be an integer of at least 1, got 1.5"),
    "sample: top_p": (lambda: text(top_p="x"), r"top_p must lie in \(0, 1\], got 'x'"),
    "sample: window": (lambda: text(window=-1), "window must be at least 1, got -1"),
    "sample: stop": (lambda: text(stop_at_eos="x"), "stop_at_eos must be True or False"),
    "generate: a text": (lambda: tokens_on("abc", 5, KEY), "take jaxrnn.sample"),
    "generate: a seed": (lambda: tokens_on(BATCH.inputs, 5, 0), "one random key, .*got int"),
    "generate: a sampler": (
        lambda: tokens_on(BATCH.inputs, 5, KEY, sampler=3),
        "sampler must be a jaxrnn.Sampler, got 3",
    ),
    "generate: a class": (lambda: generate(CharLM, PARAMS, BATCH.inputs, 5, KEY), "not its class"),
    "Sampler: banned": (lambda: Sampler(banned=3), "banned must be a tuple of tokens, got 3"),
    "Sampler: a seed": (lambda: Sampler()(0, np.zeros((2, V))), "one random key, .*got int"),
    "load_run: no path": (lambda: load_run(3), "must be the path of a run's folder or file, got 3"),
    # layers and models
    "RNN: a number": (lambda: RNN(3, H), "one of the kinds Cell, LinearCell, FreeCell, .* got 3"),
    "RNNCell: a number": (lambda: RNNCell(3, H), "one of the kinds Cell, .* got 3"),
    "RNNCell: a stack": (lambda: RNNCell(STACK, H), r"one of the kinds Cell, .* got RNN\("),
    "RNN: a class of Flax's": (lambda: RNN(nn.GRUCell, H), "jaxrnn.from_linen and from_nnx make"),
    "RNN: hidden_size": (lambda: RNN(GRU, "8"), "hidden_size must be an integer .* got '8'"),
    "RNN: num_layers": (lambda: RNN(GRU, H, num_layers=0), "num_layers must be at least 1, got 0"),
    "RNN: dropout": (lambda: RNN(GRU, H, dropout="x"), r"dropout must lie in \[0, 1\), got 'x'"),
    "RNN: bidirectional": (
        lambda: RNN(GRU, H, bidirectional="no"),
        "bidirectional must be True or",
    ),
    "RNN: proj_size": (lambda: RNN(LSTM, H, proj_size=H), "less than hidden_size, 8, got 8"),
    "RNN: recurrent_init": (lambda: RNN(GRU, H, recurrent_init="identity"), "jaxrnn.identity; got"),
    "RNN: not for it": (
        lambda: RNN(LAYER_NORM_LSTM, H, recurrent_init=jaxrnn.identity),
        "recurrent_init is for gated cells",
    ),
    "RNN: a text": (lambda: layer("abc"), r"xs must be an array \(T, B, I\), got a str"),
    "RNN: integers": (lambda: layer(XS.astype(int)), "xs must have floating numbers, got int32"),
    "RNN: a carry": (lambda: STACK.init(KEY, LSTM_CARRY, XS), r"carry must be \(Hidden\(h=float32"),
    "RNN: lengths": (lambda: layer(XS, lengths=np.ones(2)), "lengths must have integers"),
    "RNN: masks": (lambda: layer(XS, dropout_masks=3), "one mask for each layer but the last"),
    "RNN: zoneout": (
        lambda: RNN(ZONEOUT_LSTM, H).init(KEY, None, XS, zoneout_masks=3),
        "one mask for each layer and direction, 1, got 3",
    ),
    "RNN: no inputs": (lambda: RNN(QRNN, H).initial_carry(2), "initial_carry needs input_size"),
    "CharLM: a vocabulary": (
        lambda: CharLM(VOCABULARY),
        r"vocab_size must be an integer of at least 1, got Vocabulary\(",
    ),
    "CharLM: tied": (lambda: CharLM(V, F, H, tied=True), "needs embedding_size = hidden_size"),
    "CharLM: cell": (lambda: CharLM(V, F, H, cell=3), "one of the kinds Cell, .* got 3"),
    "CharLM: layers": (lambda: CharLM(V, F, H, num_layers=1.5), "num_layers must be an integer"),
    "LSTM: dropout": (lambda: CharSeqStatefulLSTM(V, dropout=2), r"dropout must lie in \[0, 1\)"),
    "GRU: hidden_size": (lambda: CharSeqStatefulGRU(V, F, -3), "hidden_size must be at least 1"),
    "CharRnn: vocab_size": (lambda: CharRnn("x"), "vocab_size must be an integer"),
    "make_state: a seed": (lambda: make_state(MODEL, ADAM, B, 0), "one random key, .*got int"),
    "make_state: keys": (
        lambda: make_state(MODEL, ADAM, B, jax.random.split(KEY, 3)),
        r"one random key, .*got key<fry>\[3\]",
    ),
    "make_state: half a row": (
        lambda: make_state(MODEL, ADAM, 4.0, KEY),
        "batch_size must be an in",
    ),
    # cells
    "Cell: gates": (lambda: Cell("a", None, same), "gates must be a tuple of names .* got None"),
    "Cell: params": (lambda: Cell("a", ("f",), same, params=3), "params must be a tuple of names"),
    "Cell: recurrent": (
        lambda: Cell("a", ("f",), same, recurrent_gates=3),
        "recurrent_gates must be a tuple of names",
    ),
    "Cell: param_init": (
        lambda: Cell("a", ("f",), same, param_init={"p": nn.initializers.ones}),
        r"by the names of its params, \(\); got",
    ),
    "FreeCell: carry_init": (
        lambda: FreeCell("a", vectors, lambda p, c, x: (c, c.h), carry_init=3),
        "carry_init of the cell 'a' fails",
    ),
    "LinearCell: window": (
        lambda: LinearCell("a", ("z",), coefficients=lambda gates: (gates, gates), window="2"),
        "window must be 1 or 2",
    ),
    "zoneout: a rate": (lambda: zoneout(GRU, h="x"), r"The rate of h must lie in \[0, 1\)"),
    "gates_of": (lambda: jaxrnn.gates_of(np.zeros((2, 7)), 3), r"3 gates .* got float64\[2,7\]"),
    # data
    "BpttStream: a text": (
        lambda: BpttStream("abc", 4, 8),
        r"a text: take vocabulary.encode\(text",
    ),
    "BpttStream: floats": (lambda: BpttStream(TOKENS / 2, 4, 8), "integers, got float64"),
    "BpttStream: two axes": (lambda: BpttStream(TOKENS.reshape(2, 100), 4, 8), "must have 1 axis"),
    "BpttStream: ragged": (lambda: BpttStream([[1], [2, 3]], 1, 8), "rows of different lengths"),
    "BpttStream: random": (lambda: BpttStream(TOKENS, 4, 8, "no"), "random_bptt must be True or"),
    "BpttStream: seed": (lambda: BpttStream(TOKENS, 4, 8, True, "x"), "seed must be an integer"),
    "WindowSet: starts": (lambda: WindowSet(TOKENS, "abc", 8, 4), "starts must be integers"),
    "WindowSet: floats": (lambda: WindowSet(TOKENS, np.ones(2), 8, 4), "starts must be integers"),
    "WindowSet: outside": (lambda: WindowSet(TOKENS, [500], 8, 4), "at 500, lies outside the 200"),
    "WindowSet: shuffled": (lambda: WindowSet(TOKENS, STARTS, 8, 4, 3), "shuffled must be True or"),
    "starts: tokens": (lambda: overlapping_starts(TOKENS), r"n must be an integer .*got array\("),
    "split: a name": (lambda: split_starts(STARTS, 8, "no"), "one of random, contiguous, last"),
    "split: too many": (
        lambda: split_starts(STARTS, 8, "random", sampled_from=1000),
        "at most the 191 windows, got 1000",
    ),
    "Sequences: two axes": (lambda: Sequences(ONE[0], [0]), r"is inputs\[:, :, None\]"),
    "Sequences: ragged": (lambda: Sequences([[1.0], [1.0, 2.0]], [0, 1]), "of different lengths"),
    "Sequences: classes": (lambda: Sequences(ONE, list("abcdef")), "must be numbers or classes"),
    "Sequences: seed": (lambda: Sequences(ONE, np.zeros(6), seed=-1), "seed must be at least 0"),
    "Vocabulary: one text": (lambda: Vocabulary.from_frequency("abcabc"), r"write \[text\]"),
    "Vocabulary: numbers": (lambda: Vocabulary.from_characters([1]), "must be a text, got a int"),
    "Vocabulary: a list": (lambda: VOCABULARY.encode(["a"]), "text must be a text, got a list"),
    "Vocabulary: floats": (
        lambda: VOCABULARY.decode(np.ones(2)),
        "integers on one axis, got float",
    ),
    "integers: floats": (lambda: IntegerTokenizer(5).encode([1.5]), "integers, got float64"),
    "encode: nothing": (lambda: jaxrnn.encode(None, "x"), "vocabulary must be a tokenizer"),
    "load_corpus: a list": (lambda: load_corpus(["x"]), "named by a text or a path"),
    "split: a text": (lambda: load_corpus("python-docs").split("x"), r"must lie in \(0, 1\)"),
    # optimizers
    "make_optimizer: optax": (lambda: make_optimizer(optax.adam(1e-3)), "name must be a text"),
    "make_optimizer: decay": (lambda: make_optimizer("adam", weight_decay=np.nan), "got nan"),
    "make_optimizer: clip": (lambda: make_optimizer("adam", clip="x"), "clip must be above 0"),
    "Optimizer: made": (lambda: Optimizer(optax.adam(1e-3)), "such as optax.scale_by_lion, got"),
    "Optimizer: options": (
        lambda: Optimizer(optax.scale_by_lion, {"b1": 0.9}),
        r'such as \(\("b1", 0.9\),\), got',
    ),
    # steps
    "train_step: a class": (lambda: train_step(CharLM, ADAM, STATE, BATCH, 1e-3), "not its class"),
    "train_step: parameters": (lambda: one_step(PARAMS, BATCH, 1e-3), "a TrainState, got a dict"),
    "train_step: a tuple": (lambda: one_step(STATE, tuple(BATCH), 1e-3), "got a tuple"),
    "train_step: rates": (lambda: one_step(STATE, BATCH, np.ones(3)), r"shape \(\), got \(3,\)"),
    "train_step: remat": (lambda: step(remat_every=1.5), "remat_every must be an integer"),
    "train_step: optimizer": (
        lambda: train_step(MODEL, make_optimizer("sgd", momentum=0.9), STATE, BATCH, 1e-3),
        "The state is that of another optimizer",
    ),
    "train_step: a model": (lambda: train_step(OTHER, ADAM, STATE, BATCH, 1e-3), "not those of"),
    "train_step: a carry": (
        lambda: one_step(STATE._replace(carry=LSTM_CARRY), BATCH, 1e-3),
        r"carry must be \(Hidden",
    ),
    "train_step: no key": (lambda: one_step(STATE._replace(key=None), BATCH, 1e-3), "got None"),
    "train_step: length": (lambda: with_batch(length="x"), "length of the batch must be an array"),
    "train_step: rows": (lambda: with_batch(rows=np.ones(3, int)), r"must have shape \(\), got"),
    "train_step: targets": (
        lambda: with_batch(targets=BATCH.targets[:3]),
        "targets must have shape",
    ),
    "eval_step: no carry": (lambda: eval_step(MODEL, PARAMS, None, BATCH), r"carry must be \(Hid"),
    "eval_step: a text": (lambda: eval_step("x", PARAMS, CARRY, BATCH), "model such as CharLM"),
    "evaluate: no model": (lambda: evaluate(None, PARAMS, STREAM), "model such as CharLM"),
    "evaluate: a list": (lambda: evaluate(MODEL, [1, 2], STREAM), "not those of CharLM"),
    "evaluate: a carry": (lambda: evaluate(MODEL, PARAMS, STREAM, 3), r"carry must be \(Hidden"),
    "apply_model: lengths": (
        lambda: apply_model(MODEL, PARAMS, CARRY, BATCH.inputs, lengths="x"),
        r"lengths must be an array \(4,\)",
    ),
    "apply_model: a seed": (
        lambda: apply_model(DEEP, params_of(DEEP), 2 * CARRY, BATCH.inputs, dropout_key=3),
        "dropout_key must be one random key",
    ),
    "nll_loss: nothing": (
        lambda: nll_loss(None, TOKENS),
        r"an array \(\.\.\., V\), got a NoneType",
    ),
    "length_mask": (lambda: jaxrnn.length_mask(np.ones(2), 3), "lengths must have integers"),
    # sequences
    "fit_sequences: tokens": (
        lambda: fit_sequences(MODEL, DATA, loss="mse", schedule="1 x 1e-3"),
        "CharLM reads tokens: train it with jaxrnn.fit",
    ),
    "fit_sequences: a state": (lambda: series(state=3), "must be a TrainState, got a int"),
    "fit_sequences: another's": (lambda: series(state=STATE), "not those of SequenceModel"),
    "fit_sequences: a loss": (lambda: series(loss=lambda one: one), "a function of .outputs, targ"),
    "predict: a state": (lambda: predict_sequences(SERIES, STATE, DATA), "state.params"),
    "predict: another's": (
        lambda: predict_sequences(SERIES, PARAMS, DATA),
        "not those of Sequence",
    ),
    "sequences: a seed": (lambda: make_sequence_state(SERIES, ADAM, DATA, 0), "one random key"),
    "SequenceModel": (lambda: SequenceModel(2, hidden_size=0), "hidden_size must be at least 1"),
    # files
    "save: a text": (
        lambda: jaxrnn.save("x", {"a": "b"}),
        r"tree\['a'\] must be an array, got str",
    ),
    "load: a number": (lambda: jaxrnn.load("x", 3), "like must be an array, got int"),
    "repackage": (lambda: jaxrnn.repackage("x"), "carry must be an array, got str"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_call_is_one_line_of_ours(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = WRONG[kind]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "racer" not in str(caught.value)
    # Raised by us, and not by what we would have called with it.
    assert str(caught.traceback[-1].path).startswith(PACKAGE)
