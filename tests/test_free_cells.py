"""The free cells of the literature against their equations, as a loop over steps and layers.

The equations are written gate by gate. NumPy runs them for the values, PyTorch for the gradients:
`xp` is one of both.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, random_tree, relative

from jaxrnn import (
    CELLS,
    GRU_RESET_BEFORE,
    LAYER_NORM_LSTM,
    LSTM,
    MOGRIFIER_LSTM,
    MULTIPLICATIVE_LSTM,
    PAPER_MGU,
    RNN,
    BpttStream,
    CharLM,
    FreeCell,
    HiddenAndCell,
    cli,
    fit,
    generate,
    mogrifier_lstm,
)
from jaxrnn.recurrent.free_cells import FREE_CELLS

T, B, I, H, V = 6, 3, 4, 5, 7
every_cell = pytest.mark.parametrize("cell", FREE_CELLS, ids=lambda cell: cell.name)


def sigmoid(xp, x):
    return 1 / (1 + xp.exp(-x))


def gate(array, number, width=H):
    """The rows of one gate."""
    return array[number * width : (number + 1) * width]


def layer_norm(xp, x, gain, bias):
    mean = x.sum(-1)[..., None] / x.shape[-1]
    variance = ((x - mean) ** 2).sum(-1)[..., None] / x.shape[-1]
    return gain * (x - mean) / xp.sqrt(variance + 1e-5) + bias


def layer_norm_lstm(xp, p, carry, x):
    h, c = carry
    before = layer_norm(xp, x @ p["weight_ih"].T, p["gain_ih"], p["bias_ih"])
    before = before + layer_norm(xp, h @ p["weight_hh"].T, p["gain_hh"], p["bias_hh"])
    i, f, g, o = (before[:, k * H : (k + 1) * H] + gate(p["bias"], k) for k in range(4))
    c = sigmoid(xp, f) * c + sigmoid(xp, i) * xp.tanh(g)
    return sigmoid(xp, o) * xp.tanh(layer_norm(xp, c, p["gain_c"], p["bias_c"])), c


def gru_reset_before(xp, p, carry, x):
    (h,) = carry

    def total(number, h):
        of_x = x @ gate(p["weight_ih"], number).T + gate(p["bias_ih"], number)
        return of_x + h @ gate(p["weight_hh"], number).T + gate(p["bias_hh"], number)

    r, z = sigmoid(xp, total(0, h)), sigmoid(xp, total(1, h))
    return ((1 - z) * xp.tanh(total(2, r * h)) + z * h,)


def lstm(xp, of_x, of_h, c):
    i, f, g, o = (of_x(k) + of_h(k) for k in range(4))
    c = sigmoid(xp, f) * c + sigmoid(xp, i) * xp.tanh(g)
    return sigmoid(xp, o) * xp.tanh(c), c


def multiplicative_lstm(xp, p, carry, x):
    h, c = carry
    m = (x @ p["weight_mx"].T) * (h @ p["weight_mh"].T)
    return lstm(
        xp,
        lambda k: x @ gate(p["weight_ih"], k).T,
        lambda k: m @ gate(p["weight_hm"], k).T + gate(p["bias"], k),
        c,
    )


def mogrifier(xp, p, carry, x):
    """Three rounds and more are written out: x, h, x, ..."""
    h, c = carry
    x = 2 * sigmoid(xp, h @ p["weight_q1"].T) * x
    h = 2 * sigmoid(xp, x @ p["weight_r2"].T) * h
    x = 2 * sigmoid(xp, h @ p["weight_q3"].T) * x
    h = 2 * sigmoid(xp, x @ p["weight_r4"].T) * h
    x = 2 * sigmoid(xp, h @ p["weight_q5"].T) * x
    return lstm(
        xp,
        lambda k: x @ gate(p["weight_ih"], k).T + gate(p["bias_ih"], k),
        lambda k: h @ gate(p["weight_hh"], k).T + gate(p["bias_hh"], k),
        c,
    )


def paper_mgu(xp, p, carry, x):
    (h,) = carry
    b_f = gate(p["bias_ih"], 0) + gate(p["bias_hh"], 0)
    b_n = gate(p["bias_ih"], 1) + gate(p["bias_hh"], 1)
    f = sigmoid(xp, x @ gate(p["weight_ih"], 0).T + h @ gate(p["weight_hh"], 0).T + b_f)
    n = xp.tanh(x @ gate(p["weight_ih"], 1).T + (f * h) @ gate(p["weight_hh"], 1).T + b_n)
    return ((1 - f) * h + f * n,)


EQUATIONS = {
    LAYER_NORM_LSTM: layer_norm_lstm,
    GRU_RESET_BEFORE: gru_reset_before,
    MULTIPLICATIVE_LSTM: multiplicative_lstm,
    MOGRIFIER_LSTM: mogrifier,
    PAPER_MGU: paper_mgu,
}


def stack_oracle(xp, equation, params, carries, xs, lengths, *, bidirectional):
    """Each sequence, layer and direction alone; the steps behind a sequence's end give zeros."""
    directions = ("", "_reverse") if bidirectional else ("",)
    rows, afters = [], []
    for row, length in enumerate(lengths):
        ys = [xs[t, row][None] for t in range(length)]  # (1, I) each
        after = []
        for number in range(len(carries)):
            layer, direction = divmod(number, len(directions))
            end = f"_l{layer}{directions[direction]}"
            own = {name[: -len(end)]: p for name, p in params.items() if name.endswith(end)}
            carry = tuple(field[row][None] for field in carries[number])
            outputs = [None] * length
            for t in reversed(range(length)) if direction else range(length):
                carry = equation(xp, own, carry, ys[t])
                outputs[t] = carry[0]
            after.append(carry)
            if direction == 0:
                forward = outputs
            if direction == len(directions) - 1:
                both = [forward, outputs] if bidirectional else [outputs]
                ys = [xp.concatenate(list(step), -1) for step in zip(*both, strict=True)]
        padding = xp.zeros((T - length, 1, H * len(directions)), dtype=xp.float64)
        rows.append(xp.concatenate([xp.stack(ys), padding]) if ys else padding)
        afters.append(after)
    carry = [
        [xp.concatenate(list(rows)) for rows in zip(*layer, strict=True)]
        for layer in zip(*afters, strict=True)
    ]
    return carry, xp.concatenate(rows, 1)  # (T, B, D * H)


def example(cell, num_layers=2, *, bidirectional=False):
    """A stack in float64 with parameters, carry and inputs of which none is zero."""
    stack = RNN(cell, H, num_layers, bidirectional=bidirectional)
    keys = jax.random.split(jax.random.key(0), 3)
    carry = random_tree(keys[0], stack.initial_carry(B, jnp.float64))
    xs = jax.random.normal(keys[1], (T, B, I), jnp.float64)
    params = stack.init(keys[2], carry, xs)["params"]
    params = jax.tree.map(lambda p: p.astype(jnp.float64), params)
    # Zeros and ones at the start would hide a bias or a gain that is left out.
    noise = random_tree(keys[2], params)
    params = jax.tree.map(lambda p, e: p + 0.3 * e, params, noise)
    return stack, params, carry, xs


ENDS = [T, 2, 0]


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@every_cell
def test_values_are_those_of_the_equation(cell):
    stack, params, carry, xs = example(cell, bidirectional=True)
    got = jax.jit(stack.apply)({"params": params}, carry, xs, lengths=jnp.array(ENDS))
    given = jax.tree.map(np.asarray, (params, carry, xs))
    expected = stack_oracle(np, EQUATIONS[cell], *given, ENDS, bidirectional=True)
    assert relative(jax.tree.leaves(got), jax.tree.leaves(expected)) < EXACT


@pytest.mark.sample(1)
@pytest.mark.usefixtures("float64")
@every_cell
def test_gradients_are_those_of_torch_through_the_equation(cell):
    torch = pytest.importorskip("torch")
    stack, params, carry, xs = example(cell)

    def loss(params, carry, xs):
        after, ys = stack.apply({"params": params}, carry, xs, lengths=jnp.array(ENDS))
        return sum(jnp.cos(leaf).sum() for leaf in jax.tree.leaves((after, ys)))

    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(params, carry, xs)
    leaves, tree = jax.tree.flatten((params, carry, xs))
    tensors = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in leaves]
    given = jax.tree.unflatten(tree, tensors)
    results = stack_oracle(torch, EQUATIONS[cell], *given, ENDS, bidirectional=False)
    sum(torch.cos(leaf).sum() for leaf in jax.tree.leaves(results)).backward()
    expected = [tensor.grad.numpy() for tensor in tensors]
    assert relative(jax.tree.leaves(got), expected) < EXACT


@pytest.mark.sample(2)
@pytest.mark.usefixtures("float64")
@every_cell
def test_the_carry_goes_on_from_window_to_window(cell):
    stack, params, carry, xs = example(cell)
    whole = stack.apply({"params": params}, carry, xs)
    between, first = stack.apply({"params": params}, carry, xs[:2])
    after, second = stack.apply({"params": params}, between, xs[2:])
    assert relative((after, jnp.concatenate([first, second])), whole) < EXACT


def of_gates(array, order):
    """The blocks of H rows in another order."""
    return np.concatenate([gate(np.asarray(array), number) for number in order])


@pytest.mark.usefixtures("float64")
def test_gru_that_resets_before_is_that_of_onnx():
    """The formulas of ONNX's GRU with `linear_before_reset` 0, whose gates are z, r, h."""
    torch = pytest.importorskip("torch")
    stack, params, carry, xs = example(GRU_RESET_BEFORE, 1)
    after, ys = stack.apply({"params": params}, carry, xs)
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    W, R, Wb, Rb = (torch.tensor(of_gates(params[name], (1, 0, 2))) for name in names)
    Wz, Wr, Wh = W.split(H)
    Rz, Rr, Rh = R.split(H)
    Wbz, Wbr, Wbh = Wb.split(H)
    Rbz, Rbr, Rbh = Rb.split(H)
    Ht = torch.tensor(np.asarray(carry[0].h))
    outputs = []
    for Xt in torch.tensor(np.asarray(xs)):
        zt = torch.sigmoid(Xt @ Wz.T + Ht @ Rz.T + Wbz + Rbz)
        rt = torch.sigmoid(Xt @ Wr.T + Ht @ Rr.T + Wbr + Rbr)
        ht = torch.tanh(Xt @ Wh.T + (rt * Ht) @ Rh.T + Rbh + Wbh)
        Ht = (1 - zt) * ht + zt * Ht
        outputs.append(Ht)
    assert relative((after[0].h, ys), (Ht.numpy(), torch.stack(outputs).numpy())) < EXACT


@pytest.mark.usefixtures("float64")
def test_gru_that_resets_before_is_that_of_haiku():
    """Haiku has one bias, the order z, r, a, and 1 - z for our z: the negative of its parts."""
    hk = pytest.importorskip("haiku")
    stack, params, carry, xs = example(GRU_RESET_BEFORE, 1)
    _, ys = stack.apply({"params": params}, carry, xs)
    sign = np.repeat([-1.0, 1.0, 1.0], H)
    w_i, w_h, b_i, b_h = (
        of_gates(params[f"{name}_l0"], (1, 0, 2)).T * sign
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    run = hk.without_apply_rng(hk.transform(lambda xs, h: hk.dynamic_unroll(hk.GRU(H), xs, h)[0]))
    theirs = run.apply({"gru": {"w_i": w_i, "w_h": w_h, "b": b_i + b_h}}, xs, carry[0].h)
    assert relative(ys, theirs) < EXACT


@pytest.mark.usefixtures("float64")
def test_gru_that_resets_before_is_another_function_than_torchs():
    stack, params, carry, xs = example(GRU_RESET_BEFORE, 1)
    _, ys = stack.apply({"params": params}, carry, xs)
    _, others = RNN(CELLS["gru"], H).apply({"params": params}, carry, xs)
    assert relative(ys, others) > 1e-3


@pytest.mark.usefixtures("float64")
def test_layer_norms_are_torchs():
    functional = pytest.importorskip("torch").nn.functional
    torch = pytest.importorskip("torch")
    stack, params, carry, xs = example(LAYER_NORM_LSTM, 1)
    after, _ = stack.apply({"params": params}, carry, xs[:1])
    p = {name: torch.tensor(np.asarray(value)) for name, value in params.items()}
    h, c, x = (torch.tensor(np.asarray(a)) for a in (carry[0].h, carry[0].c, xs[0]))
    gates = p["bias_l0"]
    for weight, read, name in (("weight_ih_l0", x, "ih"), ("weight_hh_l0", h, "hh")):
        gain, bias = p[f"gain_{name}_l0"], p[f"bias_{name}_l0"]
        gates = gates + functional.layer_norm(read @ p[weight].T, (4 * H,), gain, bias)
    i, f, g, o = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    normed = functional.layer_norm(c, (H,), p["gain_c_l0"], p["bias_c_l0"])
    assert relative(after[0].c, c.numpy()) < EXACT
    assert relative(after[0].h, (o.sigmoid() * normed.tanh()).numpy()) < EXACT


@pytest.mark.usefixtures("float64")
def test_mogrifier_without_rounds_is_the_lstm():
    stack, params, carry, xs = example(mogrifier_lstm(0))
    assert set(params) == {
        f"{kind}_{of}_l{layer}"
        for kind in ("weight", "bias")
        for of in ("ih", "hh")
        for layer in range(2)
    }
    expected = RNN(LSTM, H, 2).apply({"params": params}, carry, xs)
    assert relative(stack.apply({"params": params}, carry, xs), expected) < EXACT


@pytest.mark.usefixtures("float64")
def test_a_round_with_zero_weights_changes_nothing():
    """2 sigmoid(0) is 1: the sixth round, and any other, is the identity then."""
    stack, params, carry, xs = example(MOGRIFIER_LSTM, 1)
    more = {**params, "weight_r6_l0": jnp.zeros((H, I))}
    six = RNN(mogrifier_lstm(6), H).apply({"params": more}, carry, xs)
    assert relative(six, stack.apply({"params": params}, carry, xs)) < EXACT
    fewer = {**params, "weight_q5_l0": jnp.zeros((I, H))}
    four = RNN(mogrifier_lstm(4), H)
    without = {name: p for name, p in params.items() if name != "weight_q5_l0"}
    expected = four.apply({"params": without}, carry, xs)
    assert relative(stack.apply({"params": fewer}, carry, xs), expected) < EXACT


def test_mogrifiers_of_the_same_rounds_are_one_cell():
    """So that a program that is compiled for one serves the other."""
    assert mogrifier_lstm(3) is mogrifier_lstm(3)
    assert mogrifier_lstm(3) != mogrifier_lstm(2)
    assert mogrifier_lstm(2, name="short").name == "short"
    with pytest.raises(ValueError, match="rounds must be at least 0, got -1"):
        mogrifier_lstm(-1)


@pytest.mark.usefixtures("float64")
def test_the_papers_mgu_is_a_gru_with_one_gate_for_both():
    """r = f and z = 1 - f, whose argument is the negative of that of f."""
    stack, params, carry, xs = example(PAPER_MGU, 1)
    both = {
        name: jnp.concatenate([gate(p, 0), -gate(p, 0), gate(p, 1)]) for name, p in params.items()
    }
    expected = RNN(GRU_RESET_BEFORE, H).apply({"params": both}, carry, xs)
    assert relative(stack.apply({"params": params}, carry, xs), expected) < EXACT


def started(cell, input_size, hidden_size):
    params = cell.init(jax.random.key(0), input_size, hidden_size)
    return {name: np.asarray(p) for name, p in params.items()}


def is_orthogonal(matrix):
    rows, columns = matrix.shape
    product = matrix.T @ matrix if rows >= columns else matrix @ matrix.T
    return np.allclose(product, np.eye(len(product)), atol=1e-5)


def test_layer_norm_lstm_starts_as_its_authors_program():
    p = started(LAYER_NORM_LSTM, 30, 20)
    assert all(is_orthogonal(gate(p["weight_hh"], k, 20)) for k in range(4))
    assert 0.095 < np.abs(p["weight_ih"]).max() <= 0.1
    assert abs(p["weight_ih"].std() / (0.1 / np.sqrt(3)) - 1) < 0.1
    assert all((p[name] == 1).all() for name in ("gain_ih", "gain_hh", "gain_c"))
    assert not any(p[name].any() for name in ("bias", "bias_ih", "bias_hh", "bias_c"))
    square = started(LAYER_NORM_LSTM, 20, 20)["weight_ih"]
    assert all(is_orthogonal(gate(square, k, 20)) for k in range(4))
    assert not np.array_equal(gate(square, 0, 20), gate(square, 1, 20))


def test_gru_reset_before_starts_as_its_paper_says():
    p = started(GRU_RESET_BEFORE, 300, 20)
    assert all(is_orthogonal(gate(p["weight_hh"], k, 20)) for k in range(3))
    assert abs(p["weight_ih"].std() / 0.01 - 1) < 0.05  # 18,000 numbers
    assert not p["bias_ih"].any()
    assert not p["bias_hh"].any()


def test_multiplicative_lstm_starts_as_its_authors_program():
    p = started(MULTIPLICATIVE_LSTM, 30, 20)
    assert all(is_orthogonal(matrix) for name, matrix in p.items() if name != "bias")
    assert p["bias"].reshape(4, 20).tolist() == [[0] * 20, [3] * 20, [0] * 20, [0] * 20]


def test_mogrifier_lstm_starts_as_its_authors_program():
    p = started(mogrifier_lstm(2), 100, 400)
    for name, fan_in in (("weight_ih", 100), ("weight_hh", 400), ("weight_q1", 400)):
        assert abs(p[name].std() * np.sqrt(fan_in) - 1) < 0.05
    assert p["weight_q1"].shape == (100, 400)
    assert p["weight_r2"].shape == (400, 100)
    assert abs(p["weight_r2"].std() * np.sqrt(100) - 1) < 0.05
    biases = p["bias_ih"].reshape(4, 400)
    # Standard errors of a mean are 1 / 400.
    np.testing.assert_allclose(biases.mean(axis=1), [0, 1, 0, 0], atol=5 / 400)
    np.testing.assert_allclose(biases.std(axis=1), 1 / 20, rtol=0.15)
    assert not p["bias_hh"].any()


def test_the_papers_mgu_starts_as_torchs_cells():
    p = started(PAPER_MGU, 30, 400)
    assert {name: matrix.shape for name, matrix in p.items()} == {
        "weight_ih": (800, 30),
        "weight_hh": (800, 400),
        "bias_ih": (800,),
        "bias_hh": (800,),
    }
    for matrix in p.values():
        assert 0.95 / 20 < np.abs(matrix).max() <= 1 / 20


@pytest.mark.slow  # one of them trains on the command line in every run
@every_cell
def test_a_free_cell_trains_and_generates(cell):
    tokens = np.arange(900) % V
    model = CharLM(V, 4, 8, cell=cell, num_layers=2)
    state, history = fit(model, BpttStream(tokens, 4, 8), None, schedule="4 x 3e-2")
    assert history[-1].train < history[0].train
    assert history[-1].train < 0.5 * np.log(V)
    _, generated = generate(model, state.params, np.array([[0], [1]]), 6, jax.random.key(0))
    assert generated.shape == (6, 1)


def test_they_are_in_the_registry_by_name():
    assert {name for name, cell in CELLS.items() if isinstance(cell, FreeCell)} == {
        "layer-norm-lstm",
        "gru-reset-before",
        "multiplicative-lstm",
        "mogrifier-lstm",
        "paper-mgu",
    }
    assert all(CELLS.find(cell.name) is cell for cell in FREE_CELLS)
    assert MOGRIFIER_LSTM.carry is HiddenAndCell


@pytest.mark.slow
def test_one_trains_and_samples_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("the cat sat on the mat, the dog on the log.\n" * 40)
    flags = ["--corpus", "text.txt", "--embedding", "4", "--hidden", "8", "--batch", "4"]
    flags += [
        "--no-random-bptt",
        "--bptt",
        "400",
        "--model",
        "CharLM",
        "--cell",
        "mogrifier-lstm",
        "--name",
        "mog",
    ]
    assert cli.main(["train", *flags, "--schedule", "1 x 1e-2"]) == 0
    assert cli.main(["sample", "runs/mog", "--prompt", "the cat", "--length", "5"]) == 0
