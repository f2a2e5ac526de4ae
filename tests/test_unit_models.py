"""Place and cause of a model's difference, where JAX's results are PyTorch's with a mistake."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from jaxrnn.nn.models import CharLM, CharLoopModel, CharSeqStatefulRnn
from jaxrnn.recurrent.cells import GRU
from parity.core.pairs import model_pair
from parity.core.runners import run_torch
from parity.diagnosis import models
from parity.diagnosis.causes import Diagnosis

V, F, H = 9, 4, 5
LAST = model_pair("last", CharLoopModel(V, F, H))
EVERY = model_pair("every", CharSeqStatefulRnn(V, F, H))
SHORT = model_pair("short", CharSeqStatefulRnn(V, F, H), length=3)
TIED = model_pair("tied", CharLM(V, V, V, cell=GRU, tied=True))


@pytest.fixture
def diagnosed(monkeypatch):
    """The diagnosis where JAX's results are those of PyTorch's, changed."""

    def of(pair, change):
        def in_jax(pair, dtype):
            return lambda *case: change(run_torch(pair, dtype)(*case), *case)

        monkeypatch.setattr(models, "run_jax", in_jax)
        monkeypatch.setattr(models, "localize", lambda case: None)
        return models.diagnose_values(pair)

    return of


def logs(x, axis=-1):
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def with_weights(pair, change):
    """The results of the reference with other weights."""

    def changed(results, weights, inputs):
        return run_torch(pair, "float64")({**weights, **change(weights)}, inputs)

    return changed


def outputs(change):
    def changed(results, weights, inputs):
        forward = results["forward"]
        changed = {**forward, "log_probs": change(forward["log_probs"])}
        return {**results, "forward": changed}

    return changed


def test_nothing_is_found_where_nothing_differs(diagnosed):
    for pair in (LAST, EVERY, SHORT, TIED):
        assert diagnosed(pair, lambda results, *case: results) is None


def test_what_the_layers_show_comes_first(monkeypatch):
    seen = []

    def found(case):
        seen.append(case)
        return Diagnosis("layer 0", "a cause")

    monkeypatch.setattr(models, "localize", found)
    model = CharLM(V, F, H, cell=GRU, num_layers=3, dropout=0.2)
    assert models.diagnose_values(model_pair("m", model, length=2)) == ("layer 0", "a cause")
    (case,) = seen
    assert (case.stack.cell.name, case.stack.num_layers, case.stack.dropout) == ("gru", 3, 0.2)
    assert case.lengths is not None
    assert len(case.masks) == 2
    models.diagnose_values(EVERY)
    assert seen[1].lengths is None


def embedding(change):
    return lambda w: {"e.weight": change(w["e.weight"])}


def padded(e):
    e = e.copy()
    e[0] = 0
    return e


LINEAR = ("l_in", "l_hidden", "l_out")
WEIGHTS = {
    "l_out": ("its bias is missing", lambda w: {"l_out.bias": 0 * w["l_out.bias"]}),
    "l_in": ("its bias is missing", lambda w: {"l_in.bias": 0 * w["l_in.bias"]}),
    "l_hidden": ("its weight is transposed", lambda w: {"l_hidden.weight": w["l_hidden.weight"].T}),
    "every Dense": (
        "its bias is missing",
        lambda w: {f"{layer}.bias": 0 * w[f"{layer}.bias"] for layer in LINEAR},
    ),
}
TABLES = {
    "its rows are shifted by one": lambda e: np.roll(e, 1, axis=0),
    "its rows are shifted by minus one": lambda e: np.roll(e, -1, axis=0),
    "its row 0 is zero, as if for padding": padded,
    "it is scaled by the root of its width": lambda e: e * 2,  # of 4
}


@pytest.mark.parametrize("place", WEIGHTS)
def test_a_layer_with_another_weight_is_the_place(place, diagnosed):
    words, change = WEIGHTS[place]
    assert diagnosed(LAST, with_weights(LAST, change)) == (place, words)


@pytest.mark.parametrize("words", TABLES)
def test_an_embedding_with_another_table_is_the_place(words, diagnosed):
    assert diagnosed(LAST, with_weights(LAST, embedding(TABLES[words]))) == ("e", words)


def test_square_layers_may_all_be_transposed(diagnosed):
    pair = model_pair("square", CharLoopModel(H, H, H))
    change = {f"{layer}.weight" for layer in LINEAR}
    found = diagnosed(pair, with_weights(pair, lambda w: {key: w[key].T for key in change}))
    assert found == ("every square Dense", "its weight is transposed")


def test_the_last_step_may_be_another(diagnosed, monkeypatch):
    for pair, axes in ((LAST, {0: "the batch"}), (EVERY, {0: "time", 1: "the batch"})):
        # Log probabilities that are logits: with log_softmax left out.
        def logits(results, weights, inputs, pair=pair):
            raw = models.reference_outputs(
                pair, models.Case(weights, inputs), output_of=lambda model: model.logits
            )
            return outputs(lambda log_probs: raw)(results, weights, inputs)

        assert diagnosed(pair, logits) == ("log_softmax", "it is left out")
        for axis, name in axes.items():

            def over(results, weights, inputs, axis=axis, pair=pair):
                raw = models.reference_outputs(
                    pair, models.Case(weights, inputs), output_of=lambda model: model.logits
                )
                return outputs(lambda log_probs: logs(raw, axis))(results, weights, inputs)

            assert diagnosed(pair, over) == ("log_softmax", f"it is taken over {name}")


def test_a_tied_table_may_be_turned(diagnosed):
    def turned(results, weights, inputs):
        def output_of(reference):
            table = reference.e.weight
            return lambda ys: torch.log_softmax(ys @ table + reference.bias_out, dim=-1)

        case = models.Case(weights, inputs)
        changed = models.reference_outputs(TIED, case, output_of=output_of)
        return outputs(lambda log_probs: changed)(results, weights, inputs)

    place = "the output layer, whose weight is the tied table"
    assert diagnosed(TIED, turned) == (place, "its weight is transposed")


def test_what_no_change_explains_is_the_forward_pass(diagnosed):
    change = outputs(lambda log_probs: log_probs * 1.1)
    assert diagnosed(LAST, change) == ("the forward pass, log_probs", "")
    assert diagnosed(replace(LAST, model=None), change) == ("the outputs log_probs", "")


# Losses of equal log probabilities.


def nll(log_probs, targets):
    rows = log_probs.reshape(-1, log_probs.shape[-1])
    return -np.mean([row[k] for row, k in zip(rows, targets.ravel(), strict=True)])


def whole(log_probs, weights, inputs):
    """Over all steps, of which those beyond the length have the bias as their outputs."""
    targets = inputs["targets"]
    empty = logs(weights["l_out.bias"])
    rest = np.tile(empty, (len(targets) - len(log_probs), targets.shape[1], 1))
    return nll(np.concatenate([log_probs, rest]), targets)


PLACE = "the loss, from equal log probabilities"
LOSSES = {
    "it is summed": (EVERY, lambda y, w, i, loss: loss * 15),
    "it is summed over the batch, averaged over time only": (EVERY, lambda y, w, i, loss: loss * 3),
    "it is summed over time, averaged over the batch only": (EVERY, lambda y, w, i, loss: loss * 5),
    "its sign is wrong": (LAST, lambda y, w, i, loss: -loss),
    "the targets are the inputs": (EVERY, lambda y, w, i, loss: nll(y, i["tokens"])),
    "time and batch of the targets are exchanged": (
        EVERY,
        lambda y, w, i, loss: nll(y, i["targets"].T.ravel()),
    ),
    "steps beyond the length count": (SHORT, lambda y, w, i, loss: whole(y, w, i)),
    "": (EVERY, lambda y, w, i, loss: loss * 1.1),
}


@pytest.mark.parametrize("words", LOSSES)
def test_another_loss_is_named(words, diagnosed):
    pair, other = LOSSES[words]

    def change(results, weights, inputs):
        loss = other(results["forward"]["log_probs"], weights, inputs, results["loss"]["loss"])
        return {**results, "loss": {"loss": np.asarray(loss)}}

    assert diagnosed(pair, change) == (PLACE, words)
    assert diagnosed(replace(pair, model=None), change) == ("the loss", "")


@pytest.mark.parametrize("pair", [LAST, SHORT], ids=lambda pair: pair.name)
def test_targets_are_those_of_the_steps_that_predict(pair, diagnosed):
    """Of the last step where that alone predicts, and of those within the length."""

    def change(results, weights, inputs):
        log_probs = results["forward"]["log_probs"]
        tokens = inputs["tokens"]
        tokens = tokens[-1] if log_probs.ndim == 2 else tokens[: len(log_probs)]
        return {**results, "loss": {"loss": np.asarray(nll(log_probs, tokens))}}

    assert diagnosed(pair, change) == (PLACE, "the targets are the inputs")


# Gradients of an equal loss.


def gradients(change):
    def changed(results, weights, inputs):
        found = dict(results["gradients"])
        found |= change(found)
        return {**results, "gradients": found}

    return changed


def without_row_0(g):
    g = g.copy()
    g[0] = 0
    return g


GRADIENTS = {
    "it is zero: nothing flows back": lambda g: 0 * g,
    "its sign is wrong": lambda g: -g,
    "it is 3 times what it should be": lambda g: 3 * g,
    "it is 0.333 times what it should be": lambda g: g / 3,
    "row 0 is not trained, as if for padding": without_row_0,
    "": lambda g: g**2,
}


@pytest.mark.parametrize("words", GRADIENTS)
def test_a_gradient_that_is_wrong_is_named_with_its_cause(words, diagnosed):
    change = GRADIENTS[words]
    keys = ["l_out.weight"]
    place = "the gradient of {}, from an equal loss"
    for keys in (["l_out.weight"], ["l_in.weight", "l_hidden.weight"]):
        found = diagnosed(LAST, gradients(lambda g, keys=keys: {k: change(g[k]) for k in keys}))
        assert found == (place.format(", ".join(keys)), words)
    # One cause has to explain them all.
    found = diagnosed(
        LAST, gradients(lambda g: {"l_in.bias": -g["l_in.bias"], "l_out.bias": 7 * g["l_out.bias"]})
    )
    assert found == (place.format("l_out.bias, l_in.bias"), "")


def test_a_carry_that_is_not_cut_has_a_gradient(diagnosed):
    place = "the gradient of input carry.h, from an equal loss"
    found = diagnosed(EVERY, gradients(lambda g: {"input carry.h": g["input carry.h"] + 1}))
    assert found == (place, "the carry is not cut: it flows into the window before")


TABLE = "the gradient of e.weight, the embedding's table"


def test_a_table_that_misses_a_part_is_the_place(diagnosed):
    """A tied one misses a part, whose other part is JAX's gradient."""

    def part(of_embedding):
        def changed(results, weights, inputs):
            case = models.Case(weights, inputs)
            whole = results["gradients"]
            from parity.diagnosis import tables

            output = tables._output_part(TIED, case)
            mine = whole["e.weight"] - output if of_embedding else output
            return {**results, "gradients": {**whole, "e.weight": mine}}

        return changed

    assert diagnosed(TIED, part(True)) == (TABLE, "the output layer has no part in it")
    assert diagnosed(TIED, part(False)) == (TABLE, "the embedding has no part in it")


def reads(count):
    """The gradients where only some reads of the table's rows count: `count(t, b)`."""

    def changed(results, weights, inputs):
        tokens = inputs["tokens"]
        table = torch.tensor(weights["e.weight"])
        keys = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        w = {key: torch.tensor(weights[f"rnn.{key}_l0"]) for key in keys}
        h = torch.tensor(inputs["carry.h"][0])
        of_x = table[torch.tensor(tokens)] @ w["weight_ih"].T + w["bias_ih"]
        of_x.requires_grad_()
        ys = []
        for t in range(len(tokens)):
            h = torch.tanh(of_x[t] + h @ w["weight_hh"].T + w["bias_hh"])
            ys.append(h)
        logits = torch.stack(ys) @ torch.tensor(weights["l_out.weight"]).T
        logits = logits + torch.tensor(weights["l_out.bias"])
        targets = torch.tensor(inputs["targets"]).flatten()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets).backward()
        d_gates = of_x.grad.numpy()
        found = {
            k: np.zeros_like(weights[k]) for k in ("e.weight", "rnn.weight_ih_l0", "rnn.bias_ih_l0")
        }
        for t, b in np.ndindex(tokens.shape):
            times, row = count(tokens, t, b)
            d = times * d_gates[t, b]
            found["e.weight"][row] += d @ weights["rnn.weight_ih_l0"]
            found["rnn.weight_ih_l0"] += np.outer(d, weights["e.weight"][row])
            found["rnn.bias_ih_l0"] += d
        return {**results, "gradients": {**results["gradients"], **found}}

    return changed


def last_read(tokens, t, b):
    flat = tokens.ravel()
    k = t * tokens.shape[1] + b
    return not np.any(flat[k + 1 :] == flat[k]), tokens[t, b]


READS = {
    "the first step of the window has no part in it": lambda x, t, b: (t != 0, x[t, b]),
    "step 2 of the window has no part in it": lambda x, t, b: (t != 2, x[t, b]),
    "the last step of the window has no part in it": lambda x, t, b: (t != len(x) - 1, x[t, b]),
    "row 1 of the batch has no part in it": lambda x, t, b: (b != 1, x[t, b]),
    "a row that is read several times counts once": last_read,
    "its rows are shifted by one": lambda x, t, b: (1, (x[t, b] + 1) % V),
    "its rows are shifted by minus one": lambda x, t, b: (1, (x[t, b] - 1) % V),
}


@pytest.mark.parametrize("words", READS)
def test_reads_of_a_table_that_do_not_count_are_named(words, diagnosed):
    assert diagnosed(EVERY, reads(lambda x, t, b: (1, x[t, b]))) is None
    assert diagnosed(EVERY, reads(READS[words])) == (TABLE, words)
