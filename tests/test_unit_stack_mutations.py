"""What the mutations of the recurrence and of stacks hand on, seen at what they replace."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrnn.recurrent.layer
import jaxrnn.recurrent.linear
from jaxrnn.nn.layers import RNN
from jaxrnn.recurrent.cells import GRU, LSTM, TANH, Hidden
from jaxrnn.recurrent.compiled.calls import compiled
from jaxrnn.recurrent.handwritten import Arguments
from jaxrnn.recurrent.inputs import Projection, inputs_of
from jaxrnn.recurrent.scan import scanned
from parity.mutation import recurrent_mutants, recurrent_mutations
from parity.mutation.catalog import MUTANTS
from parity.mutation.recurrent_mutations import recurrence_with
from parity.mutation.tools import both, only_in, recompiled, replaced, rows_of, wrapped, zeros

T, B, H, I = 4, 3, 2, 5
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape))


WEIGHT, BIAS, CARRY = normal(2, 2), normal(2), Hidden(normal(B, 2))
X = normal(T, B, 2)
MASK = jnp.asarray(np.arange(T)[:, None] < np.array([4, 2, 1]))


def of(name):
    (found,) = (mutant for mutant in MUTANTS if mutant.name == name)
    return found


class Fake:
    """Stands for the recurrence, and keeps what it was given."""

    def __call__(self, cell, reverse, weight, bias, carry, x, mask, params, resets):
        self.cell, self.reverse, self.weight, self.bias = cell, reverse, weight, bias
        self.carry, self.x, self.mask = carry, x.dense(), mask
        self.params, self.resets = params, resets
        return carry, self.x


USUAL = {"reverse": True, "weight": WEIGHT, "bias": BIAS, "carry": CARRY, "x": X, "mask": MASK}


@pytest.fixture
def fake(monkeypatch):
    found = Fake()
    monkeypatch.setattr(recurrent_mutations, "recurrence", found)
    return found


def run(reverse=True, x=X, **options):
    return jaxrnn.recurrent.layer.recurrence(
        TANH, reverse, WEIGHT, BIAS, CARRY, x, MASK, {"p": 1}, "resets", **options
    )


def checked(fake, **changes):
    for name, expected in {**USUAL, **changes}.items():
        got = getattr(fake, name)
        same = jax.tree.map(lambda a, b: np.array_equal(a, b), got, expected)
        assert jax.tree.all(same), name
        assert (got is None) == (expected is None), name
    assert (fake.cell, fake.params, fake.resets) == (TANH, {"p": 1}, "resets")


def test_without_a_change_everything_is_handed_on(fake):
    with recurrence_with():
        last, ys = run()
        checked(fake)
        assert last is CARRY
        np.testing.assert_array_equal(ys, X)
        projection = Projection(normal(2, I), normal(2))
        xs = normal(T, B, I)
        run(x=xs, projection=projection)
    np.testing.assert_allclose(
        fake.x, xs @ projection.weight_ih.T + projection.bias_ih, rtol=1e-5, atol=1e-6
    )


MUTATED = {
    "bias_hh dropped": {"bias": jnp.zeros(2)},
    "weight_hh transposed": {"weight": WEIGHT.T},
    "carry starts from zeros": {"carry": Hidden(jnp.zeros((B, 2)))},
    "backward runs forward": {"reverse": False},
    "lengths ignored": {"mask": None},
    "one length too many": {"mask": jnp.asarray(np.arange(T)[:, None] < np.array([4, 3, 2]))},
    "biases folded in training": {},
    "backward outputs not turned back": {},
}


@pytest.mark.parametrize("name", MUTATED)
def test_one_argument_of_the_recurrence_is_changed(fake, name):
    with of(name).applied():
        _, ys = run()
    checked(fake, **MUTATED[name])
    turned = name == "backward outputs not turned back"
    np.testing.assert_array_equal(ys, X[::-1] if turned else X)


def test_outputs_that_run_forward_are_not_turned(fake):
    with of("backward outputs not turned back").applied():
        _, ys = run(reverse=False)
    np.testing.assert_array_equal(ys, X)
    assert fake.reverse is False


def test_the_output_in_float32(fake):
    with of("float32 output").applied(), jax.enable_x64(True):
        _, ys = run(x=jnp.asarray(np.asarray(X, float)))
    assert ys.dtype == jnp.float32


def test_a_step_has_no_input_where_there_is_one():
    x = recurrent_mutants._without_step_2(X)
    np.testing.assert_array_equal(x, X.at[2].set(0))
    for count in (1, 2):
        np.testing.assert_array_equal(recurrent_mutants._without_step_2(X[:count]), X[:count])
    assert not recurrent_mutants._without_step_2(X[:3])[2].any()
    np.testing.assert_array_equal(recurrent_mutants._without_step_1(X), X.at[1].set(0))
    assert recurrent_mutants._one_more(None) is None


# Rows of gates: (G * H, ...).
ROWS = normal(6, 2)
PARTS = {
    "layer 0: bias_hh of z dropped": ("l0", "bias", BIAS6 := normal(6), BIAS6.at[2:4].set(0)),
    "layer 1: weight_hh of r transposed": (
        "l1",
        "weight",
        ROWS,
        jnp.concatenate([ROWS[:2].T, ROWS[2:]]),
    ),
    "layer 1: step 2 has no input": ("l1", "x", X, X.at[2].set(0)),
    "layer 1 reverse: carry starts from zeros": (
        "l1_reverse",
        "carry",
        CARRY,
        Hidden(jnp.zeros((B, 2))),
    ),
    "layer 1 reverse: runs forward": ("l1_reverse", "reverse", True, False),
    "layer 1: lengths ignored": ("l1", "mask", MASK, None),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_stack_alone_is_changed(fake, monkeypatch, name):
    part, what, before, after = PARTS[name]
    given = {**USUAL, what: before}

    def inside(self, name, *rest):
        order = ("reverse", "weight", "bias", "carry", "x", "mask")
        jaxrnn.recurrent.layer.recurrence(TANH, *(given[key] for key in order), {"p": 1}, "resets")

    monkeypatch.setattr(RNN, "_run", inside)
    # Unmutated, the layer calls what is replaced too.
    monkeypatch.setattr(
        jaxrnn.recurrent.layer,
        "recurrence",
        lambda cell, reverse, w, b, c, x, *rest: fake(cell, reverse, w, b, c, inputs_of(x), *rest),
    )
    with of(name).applied():
        for other in ("l0", "l1", "l2", "l0_reverse", "l1_reverse"):
            RNN._run(None, other)
            expected = {**given, what: after} if other == part else given
            checked(fake, **expected)


STEPPING = {
    "layer 1: GRU: r and z exchanged": ("l1", GRU),
    "layer 1: GRU: hard sigmoid in z": ("l1", GRU),
    "layer 1: no tanh": ("l1", TANH),
    "layer 0 reverse: LSTM: forget gate + 1": ("l0_reverse", LSTM),
    "layer 2: LSTM: output without tanh": ("l2", LSTM),
}


@pytest.mark.parametrize("name", STEPPING)
def test_the_step_of_one_part_alone_is_another(monkeypatch, name):
    part, cell = STEPPING[name]
    seen = {}

    def inside(self, name, *rest):
        seen[name] = cell.step
        return rest

    monkeypatch.setattr(RNN, "_run", inside)
    before = cell.step
    with of(name).applied():
        for other in ("l0", "l1", "l2", "l0_reverse"):
            assert RNN._run(None, other, 1, 2) == (1, 2)
    assert {other for other, step in seen.items() if step is not before} == {part}


# Backward passes.

GRADIENTS = Arguments(
    weight_hh=normal(6, 2),
    bias_hh=normal(6),
    carry=Hidden(normal(B, 2)),
    x_gates=inputs_of(normal(T, B, 6)),
    params={"p": normal(2)},
)
SQUARE = GRADIENTS._replace(weight_hh=normal(2, 2))
LSTM_ROWS = GRADIENTS._replace(bias_hh=normal(8))
Z_ROWS = jnp.asarray(np.array([1, 1, 2, 2, 1, 1.0])[:, None])
F_ROWS = jnp.asarray(np.array([1, 1, 0, 0, 1, 1, 1, 1.0]))
BACKWARD = {
    "gradient of weight_hh transposed": (SQUARE, {"weight_hh": SQUARE.weight_hh.T}, None),
    "gradient of bias_hh averaged over the batch": (
        GRADIENTS,
        {"bias_hh": GRADIENTS.bias_hh / B},
        None,
    ),
    "gradient of the carry lost": (GRADIENTS, {"carry": Hidden(jnp.zeros((B, 2)))}, None),
    "gradient of the peepholes lost": (GRADIENTS, {"params": {"p": jnp.zeros(2)}}, None),
    "layer 0: gradient of weight_hh lost": (GRADIENTS, {"weight_hh": jnp.zeros((6, 2))}, "l0"),
    "layer 1: gradient of weight_hh doubled in z": (
        GRADIENTS,
        {"weight_hh": Z_ROWS * GRADIENTS.weight_hh},
        "l1",
    ),
    "layer 0 reverse: gradient of bias_hh lost in f": (
        LSTM_ROWS,
        {"bias_hh": F_ROWS * LSTM_ROWS.bias_hh},
        "l0_reverse",
    ),
    "layer 1 reverse: gradient of the carry lost": (
        GRADIENTS,
        {"carry": Hidden(jnp.zeros((B, 2)))},
        "l1_reverse",
    ),
    "layer 1: gradient of the gates lost at step 1": (
        GRADIENTS,
        {"x_gates": inputs_of(GRADIENTS.x_gates.values.at[1].set(0))},
        "l1",
    ),
}


@pytest.mark.parametrize("runs", [scanned, compiled], ids=["scan", "compiled"])
@pytest.mark.parametrize("name", BACKWARD)
def test_a_gradient_is_changed_on_either_backend(monkeypatch, name, runs):
    before, changes, part = BACKWARD[name]
    monkeypatch.setattr(runs, "backward", lambda *args: before)
    monkeypatch.setattr(RNN, "_run", lambda self, name, *rest: runs.backward())
    parts = ("l0", "l1", "l0_reverse", "l1_reverse")
    with of(name).applied():
        found = {other: RNN._run(None, other) for other in parts}
    for other, got in found.items():
        expected = before._replace(**changes) if part in (None, other) else before
        for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-6)


def test_states_in_parallel_are_late_or_lose_the_gradient_of_their_carry(monkeypatch):
    def late(a, b, first, *, reverse):
        assert (a, first, reverse) == ("a", "first", True)
        return b

    monkeypatch.setattr(jaxrnn.recurrent.linear, "linear_scan", late)
    with of("parallel: one step late").applied():
        got = jaxrnn.recurrent.linear.linear_scan("a", X, "first", reverse=True)
    np.testing.assert_array_equal(got[1:], X[:-1])
    monkeypatch.setattr(jaxrnn.recurrent.linear, "_backward", lambda *args: (1, 2, X[0]))
    with of("parallel: gradient of the carry lost").applied():
        a, b, first = jaxrnn.recurrent.linear._backward("all", "of", "them")
    assert (a, b) == (1, 2)
    assert first.shape == X[0].shape
    assert not first.any()


def test_the_input_before_the_window_is_taken_for_zero(monkeypatch):
    monkeypatch.setattr(
        jaxrnn.recurrent.layer, "previous", lambda *args, **options: (args, options)
    )
    with of("QRNN: the input before is lost").applied():
        (xs, last, mask), options = jaxrnn.recurrent.layer.previous(X, X[0], "mask", reverse=True)
    assert (mask, options) == ("mask", {"reverse": True})
    assert xs is X
    assert last.shape == X[0].shape
    assert not last.any()


# Stacks.


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setattr(RNN, "__call__", lambda self, carry, xs, **options: (carry, 2 * xs))
    return RNN(LSTM, 3, 2, bidirectional=True, dropout=0.25)


def test_directions_carries_and_masks_of_a_stack(call):
    xs = jnp.asarray(RNG.normal(size=(T, B, 6)))
    with of("directions exchanged").applied():
        carry, ys = call((1, 2, 3, 4), xs)
    assert carry == (1, 2, 3, 4)
    np.testing.assert_array_equal(ys, 2 * jnp.concatenate([xs[..., 3:], xs[..., :3]], -1))
    with of("carries of layers exchanged").applied():
        carry, ys = call((1, 2, 3, 4), xs)
    assert carry == (4, 3, 2, 1)
    np.testing.assert_array_equal(ys, 2 * xs)
    kept = jnp.asarray(RNG.random(xs.shape) < 0.5)
    with of("dropout after the last layer").applied():
        _, ys = call(None, xs, dropout_masks=[~kept, kept])
    np.testing.assert_allclose(ys, np.where(kept, 2 * xs / 0.75, 0), rtol=1e-6)


DROPS = {
    "dropout without rescaling": lambda xs, mask: np.where(mask, xs, 0),
    "dropout of what should stay": lambda xs, mask: np.where(mask, 0, xs / 0.75),
    "outputs scaled between layers": lambda xs, mask: 1.5 * xs,
    "gradient cut where layers meet": lambda xs, mask: xs,
}


@pytest.mark.parametrize("name", DROPS)
def test_dropout_is_another(name):
    stack = RNN(LSTM, 3, 2, dropout=0.25)
    kept = jnp.asarray(RNG.random(X.shape) < 0.5)
    with of(name).applied():
        got, pullback = jax.vjp(lambda x: stack._drop(x, kept), X)
        (slope,) = pullback(got)
    np.testing.assert_allclose(got, DROPS[name](X, kept), rtol=1e-6)
    assert bool(slope.any()) == (name != "gradient cut where layers meet")


def test_no_gradient_flows_below_the_first_layer(monkeypatch):
    monkeypatch.setattr(RNN, "_run", lambda self, name, carry, xs, *rest: (xs**2).sum())
    with of("gradient cut between layers").applied():
        slopes = {
            name: jax.grad(lambda x, name=name: RNN._run(None, name, None, x))(X).any()
            for name in ("l0", "l0_reverse", "l1", "l1_reverse")
        }
    assert slopes == {"l0": True, "l0_reverse": True, "l1": False, "l1_reverse": False}


def test_the_weights_of_two_layers_change_places(monkeypatch):
    monkeypatch.setattr(nn.Module, "param", lambda self, name, *rest, **options: (name, rest))
    names = ("weight_hh_l0", "weight_hh_l1", "weight_hh_l2", "bias_hh_l0")
    with of("layer order").applied():
        read = [nn.Module.param(None, name, "init") for name in names]
    assert read == [
        ("weight_hh_l1", ("init",)),
        ("weight_hh_l0", ("init",)),
        ("weight_hh_l2", ("init",)),
        ("bias_hh_l0", ("init",)),
    ]


# Tools.


class Owner:
    name = "before"


class Heir(Owner):
    own = "before"


def test_a_name_is_replaced_within_and_put_back_behind_an_error():
    with replaced(Owner, "name", "after"):
        assert Owner.name == "after"
    assert Owner.name == "before"
    with pytest.raises(RuntimeError), replaced(Owner, "name", "after"):
        raise RuntimeError
    assert Owner.name == "before"
    with wrapped(Owner, "name", lambda name: f"not {name}"):
        assert Owner.name == "not before"
    with both(replaced(Owner, "name", "after"), replaced(Heir, "own", "after")):
        assert (Owner.name, Heir.own) == ("after", "after")
    assert (Owner.name, Heir.own) == ("before", "before")
    for missing in ((Owner, "other"), (Heir, "name")):
        with pytest.raises(LookupError, match=f"{missing[0].__name__} has no {missing[1]}"):
            wrapped(*missing, lambda value: value)


def test_a_mutation_that_does_not_fit_is_refused_before_any_part_runs():
    with pytest.raises(LookupError):
        only_in("l0", lambda: replaced(Owner, "other", 1))


def test_programs_are_forgotten_before_and_after(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(Owner.name))
    with recompiled(replaced(Owner, "name", "after")):
        assert cleared == ["before"]
    assert cleared == ["before", "before"]


def test_the_rows_of_one_gate():
    changed = rows_of(1, 3, lambda rows: 10 * rows)(jnp.arange(6.0))
    np.testing.assert_array_equal(changed, [0, 1, 20, 30, 4, 5])
    np.testing.assert_array_equal(zeros((jnp.ones(2),))[0], [0, 0])
