"""Language models of a user's: logits at every position, and texts with the margin rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import parity
from parity import Transpose, WeightMap, entry

V, F, H = 13, 6, 10
RNG = np.random.default_rng(0)
PROMPT = RNG.integers(0, V, (2, 4))
LENGTH = 8


class TorchLM(torch.nn.Module):
    """An embedding, a GRU and a linear layer; tokens are (B, T)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(V, F)
        self.rnn = torch.nn.GRU(F, H, batch_first=True)
        self.out = torch.nn.Linear(H, V)
        # Far from linear, so that the text is not one token again and again.
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(4)

    def forward(self, tokens):
        return self.out(self.rnn(self.table(tokens))[0])


PARAMS = {
    "table": jnp.zeros((V, F)),
    "rnn": {
        "w_ih": jnp.zeros((3 * H, F)),
        "w_hh": jnp.zeros((3 * H, H)),
        "b_ih": jnp.zeros(3 * H),
        "b_hh": jnp.zeros(3 * H),
    },
    "out": {"kernel": jnp.zeros((H, V)), "bias": jnp.zeros(V)},
}
WEIGHT_MAP = WeightMap(
    [
        entry("table.weight", "table"),
        entry("rnn.weight_ih_l0", "rnn/w_ih"),
        entry("rnn.weight_hh_l0", "rnn/w_hh"),
        entry("rnn.bias_ih_l0", "rnn/b_ih"),
        entry("rnn.bias_hh_l0", "rnn/b_hh"),
        entry("out.weight", "out/kernel", Transpose()),
        entry("out.bias", "out/bias"),
    ]
)


@jax.jit
def gru_step(params, h, token):
    """(B,) tokens and (B, H) to (B, H)."""
    p = params["rnn"]
    x = params["table"][token]
    r_x, z_x, n_x = jnp.split(x @ p["w_ih"].T + p["b_ih"], 3, axis=-1)
    r_h, z_h, n_h = jnp.split(h @ p["w_hh"].T + p["b_hh"], 3, axis=-1)
    z = jax.nn.sigmoid(z_x + z_h)
    return (1 - z) * jnp.tanh(n_x + jax.nn.sigmoid(r_x + r_h) * n_h) + z * h


def logits_of(params, h):
    return h @ params["out"]["kernel"] + params["out"]["bias"]


def jax_logits(params, tokens):
    """(B, T) to (B, T, V)."""

    def step(h, token):
        h = gru_step(params, h, token)
        return h, logits_of(params, h)

    h = jnp.zeros((len(tokens), H), params["table"].dtype)
    return jax.lax.scan(step, h, tokens.T)[1].swapaxes(0, 1)


def generated(params, prompt, length, first=0):
    """A program with a carry of its own, which starts from `first` in every entry."""
    h = jnp.full((len(prompt), H), first, params["table"].dtype)
    for token in prompt.T:
        h = gru_step(params, h, token)
    tokens = []
    for _ in range(length):
        tokens.append(logits_of(params, h).argmax(-1))
        h = gru_step(params, h, tokens[-1])
    return jnp.stack(tokens, 1)


def check(function=jax_logits, module=None, prompt=PROMPT, length=LENGTH, **options):
    module = module or TorchLM()
    return parity.check_generation(
        function, PARAMS, module, WEIGHT_MAP, prompt, length=length, **options
    )


class TimeMajor(TorchLM):
    def forward(self, tokens):
        return super().forward(tokens.T).swapaxes(0, 1)


class OneText(TorchLM):
    def forward(self, tokens):
        return super().forward(tokens[None])[0]


class Named(TorchLM):
    """Several results, as the transformers have them."""

    def forward(self, tokens):
        return super().forward(tokens), None


LAYOUTS = {
    "batch first": (jax_logits, TorchLM, PROMPT, {}),
    "time first": (
        lambda params, tokens: jax_logits(params, tokens.T).swapaxes(0, 1),
        TimeMajor,
        PROMPT.T,
        {"batch_first": False},
    ),
    "one text": (
        lambda params, tokens: jax_logits(params, tokens[None])[0],
        OneText,
        PROMPT[0],
        {},
    ),
    "several results": (jax_logits, Named, PROMPT, {}),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_equal_model_passes(layout):
    function, module, prompt, options = LAYOUTS[layout]
    report = check(function, module(), prompt, **options)
    assert report.passed, report.summary()
    found = {(f.quantity, f.dtype, f.criterion) for f in report.findings}
    assert found == {
        ("forward", "float64", "C0"),
        ("forward", "float64", "C1"),
        ("generation", "float64", "C5"),
        ("forward", "float32", "C0"),
        ("forward", "float32", "C2"),
        ("forward", "float32", "C3"),
        ("generation", "float32", "C5"),
    }


WRONG = {
    "a bias": (lambda p, t: jax_logits(p, t) + 1e-6, "differ at every position"),
    "a later step": (
        lambda p, t: jax_logits(p, t) + 1e-3 * (jnp.arange(t.shape[1]) >= 5)[:, None],
        "differ first at position 6 of 11",
    ),
    "log probabilities": (
        lambda p, t: jax.nn.log_softmax(jax_logits(p, t)),
        "JAX gives log probabilities",
    ),
    "the position before": (
        lambda p, t: jnp.roll(jax_logits(p, t), 1, 1),
        "PyTorch's of the position before",
    ),
    "the position after": (
        lambda p, t: jnp.roll(jax_logits(p, t), -1, 1),
        "PyTorch's of the position after",
    ),
    "temperature": (lambda p, t: jax_logits(p, t) / 0.8, "1.25 times PyTorch's"),
    "the future": (
        lambda p, t: jax_logits(p, t) + 0.1 * jax_logits(p, t).mean(1, keepdims=True),
        "depend on later tokens",
    ),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize("fault", WRONG)
def test_other_logits_fail_and_are_named(fault):
    function, words = WRONG[fault]
    report = check(function, dtypes=("float64",))
    assert not report.passed
    assert words in report.summary()


def test_a_program_of_its_own_passes():
    assert check(jax_generate=generated, dtypes=("float64",)).passed


def test_a_program_that_forgets_fails():
    """The logits agree, the text does not."""

    def forgetful(params, prompt, length):
        return generated(params, prompt[:, -1:], length)

    report = check(jax_generate=forgetful, dtypes=("float64",))
    assert not report.passed
    (wrong,) = (f for f in report.findings if f.outcome.value == "FAIL")
    assert wrong.criterion == "C5"
    assert "first at token" in wrong.note


class Paired(TorchLM):
    """Of every two tokens the second is more likely, by the least that float32 can hold."""

    def __init__(self):
        super().__init__()
        with torch.no_grad():
            for first in range(0, V - 1, 2):
                self.out.weight[first + 1] = self.out.weight[first]
                bias = self.out.bias[first]
                self.out.bias[first + 1] = torch.nextafter(bias, torch.tensor(torch.inf))


@pytest.mark.parametrize(("towards", "outcome"), [(0, "PASS"), (4, "FAIL")])
def test_a_choice_is_a_tie_only_if_the_token_is_as_likely(towards, outcome):
    """JAX always takes the first of two, or always one that is not the most likely."""

    def other(params, tokens):
        logits = jax_logits(params, tokens)
        return logits.at[..., ::2].add(2e-5) if towards == 0 else logits.at[..., towards].add(600)

    report = check(other, Paired(), dtypes=("float32",))
    (choices,) = (f for f in report.findings if f.criterion == "C5")
    assert choices.outcome.value == outcome
    if towards == 0:
        assert " ties; " in choices.note
    else:
        assert choices.value > 0


class Repeating(TorchLM):
    def forward(self, tokens):
        return super().forward(tokens) + 100 * torch.eye(V)[3].to(self.out.weight)


def test_a_text_of_one_token_shows_nothing():
    """The logits pass, and the text says nothing about the choices."""

    def repeating(params, tokens):
        return jax_logits(params, tokens) + 100 * jnp.eye(V)[3]

    report = check(repeating, Repeating(), dtypes=("float64",))
    choices = [f for f in report.findings if f.criterion == "C5"]
    assert {f.outcome.value for f in choices} == {"ABSTAIN"}
    assert all("repeats one token" in f.note for f in choices)
    assert report.passed


class Dropped(TorchLM):
    def forward(self, tokens):
        return torch.nn.functional.dropout(super().forward(tokens), training=self.training)


class Nan(TorchLM):
    def forward(self, tokens):
        return super().forward(tokens) * float("nan")


class Constant(TorchLM):
    def forward(self, tokens):
        return super().forward(tokens) * 0


class Deaf(TorchLM):
    def forward(self, tokens):
        return super().forward(tokens * 0)


class Bidirectional(TorchLM):
    def forward(self, tokens):
        logits = super().forward(tokens)
        return logits + logits.mean(1, keepdim=True)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Dropped, "samples random numbers"),
        (Nan, "NaN or infinite everywhere"),
        (Constant, "the same for every token"),
        (Deaf, "do not depend on the tokens"),
        (Bidirectional, "depend on later tokens, so it is no causal language model"),
    ],
)
def test_what_shows_nothing_does_not_pass(module, words):
    report = check(module=module())
    assert report.outcome.value == "ABSTAIN"
    assert not report.passed
    assert words in report.summary()


def test_dropout_that_is_turned_off_passes():
    assert check(module=Dropped().eval(), dtypes=("float64",)).passed


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        (PROMPT + V, {}, "must have tokens from 0 to 12, got 13 to"),
        (PROMPT / 2, {}, "must be integers of shape"),
        (np.zeros((2, 0), int), {}, "must be integers of shape"),
        (PROMPT, {"length": 0}, "length must be at least 1, got 0"),
        (PROMPT, {"dtypes": "float64"}, "dtypes must be a list of some of float64, float32"),
        (PROMPT, {"jax_generate": lambda p, t, n: t}, "must give the 8 tokens after the prompt"),
    ],
)
def test_what_is_wrong_with_the_arguments_is_said(prompt, options, words):
    with pytest.raises(ValueError, match=words):
        check(prompt=prompt, **options)
