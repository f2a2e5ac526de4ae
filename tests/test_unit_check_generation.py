"""Language models compared: what is no language model, ties and flips, and known causes.

The two sides are tables of logits, so that nothing is compiled.
"""

import numpy as np
import pytest

from parity.core.compare import NOISE_FACTOR, UNIT_ROUNDOFF, Comparison, Outcome
from parity.modules.generation import (
    PERTURBATIONS,
    ROUNDINGS,
    SAME,
    _gap,
    _generated,
    _Layout,
    _no_language_model,
    _Run,
)

V, B, P, N = 5, 2, 3, 4
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(V, V))


class Sides:
    """Logits are those of the last token alone; `in_jax` may be another function."""

    def __init__(self, in_torch=lambda rows, **_: TABLE[rows], in_jax=None):
        self.layout = _Layout(True, 2)
        self._torch, self._jax = in_torch, in_jax or (lambda rows: TABLE[rows])

    def in_torch(self, rows, dtype, seed=None, samples=0):
        return self._torch(rows, seed=seed, samples=samples)

    def in_jax(self, rows, dtype):
        return self._jax(rows)

    def jax_params(self, dtype):
        return dtype


PROMPT = np.array([[0, 1, 2], [4, 4, 0]])


def test_arrays_are_laid_out_as_the_users():
    rows = np.arange(6).reshape(2, 3)
    assert _Layout(True, 2).rows(rows) is rows
    assert _Layout(True, 2).users(rows) is rows
    np.testing.assert_array_equal(_Layout(False, 2).rows(rows.T), rows)
    np.testing.assert_array_equal(_Layout(False, 2).users(rows), rows.T)
    logits = rows[..., None]
    assert _Layout(False, 2).rows(logits).shape == (3, 2, 1)
    for batch_first in (True, False):
        np.testing.assert_array_equal(_Layout(batch_first, 1).rows(rows[0]), rows[:1])
        np.testing.assert_array_equal(_Layout(batch_first, 1).users(rows[:1]), rows[0])


def causal(change=lambda logits, rows, samples: logits):
    return Sides(lambda rows, seed, samples: change(TABLE[rows], rows, samples))


NONE = {
    "": causal(),
    "PyTorch's module samples random numbers": causal(lambda y, rows, samples: y + samples),
    "PyTorch's logits are NaN or infinite everywhere": causal(lambda y, *_: y * np.nan),
    "PyTorch's logits are the same for every token": causal(lambda y, *_: y * 0 + 1),
    "PyTorch's logits do not depend on the tokens": causal(lambda y, *_: y * 0 + np.arange(V)),
    "PyTorch's logits depend on later tokens": causal(lambda y, rows, _: y + y[:, -1:]),
}


@pytest.mark.parametrize("words", NONE)
def test_what_is_no_language_model(words):
    found = _no_language_model(NONE[words], PROMPT)
    assert found.startswith(words)
    assert bool(found) == bool(words)


def test_a_module_that_looks_ahead_by_round_off_alone_is_causal():
    for factor, causes in ((0.5, False), (2.0, True)):
        # Only the added token changes the earlier logits.
        def change(y, rows, _, factor=factor):
            return y * (1 + factor * SAME * (rows.shape[1] - P))

        assert bool(_no_language_model(causal(change), PROMPT)) == causes


@pytest.mark.parametrize(
    ("change", "prompt", "words"),
    [
        (lambda y, *_: y[:, -1], PROMPT, r"\(B, T, V\) with B, T = \(2, 3\); got \(2, 5\)"),
        (lambda y, *_: y.swapaxes(0, 1), PROMPT, "Is batch_first right"),
        (lambda y, *_: y, PROMPT + 1, "tokens from 0 to 4, got 1 to 5"),
        (lambda y, *_: y, PROMPT - 1, "tokens from 0 to 4, got -1 to 3"),
    ],
)
def test_what_does_not_fit_is_refused(change, prompt, words):
    def in_torch(rows, seed, samples):
        return change(TABLE[np.clip(rows, 0, V - 1)], rows, samples)

    with pytest.raises(ValueError, match=words):
        _no_language_model(Sides(in_torch), prompt)


def text():
    return _generated(Sides(), PROMPT, N)


def test_greedy_text_is_the_likeliest_token_after_each():
    found = text()
    assert found.shape == (B, P + N)
    np.testing.assert_array_equal(found[:, :P], PROMPT)
    for k in range(P, P + N):
        np.testing.assert_array_equal(found[:, k], TABLE[found[:, k - 1]].argmax(-1))
    rows = TABLE[found[:, :-1]]
    gap = _gap(rows, found[:, 1:])
    np.testing.assert_allclose(gap[:, P - 1 :], 0)
    one = _gap(np.array([[[1.0, 4.0, 2.5]]]), np.array([[2]]))
    np.testing.assert_array_equal(one, [[1.5]])


def run(dtype="float64", in_jax=None, sides=None, found=None):
    found = text() if found is None else found
    sides = sides or Sides(in_jax=in_jax)
    return _Run("model", sides, found, P, TABLE[found[:, :-1]], dtype)


def choices(got, allowed, jax_generate=None, **options):
    one = run(**options)
    return one._choices(got, np.full(got.shape[:2], allowed), jax_generate)


def flipped(step, gap):
    """Logits in which another token is `gap` above PyTorch's, at one step of text 1."""
    found = text()
    reference = TABLE[found[:, :-1]].copy()
    row = reference[1, P - 1 + step]
    other = int(np.argsort(row)[-2])
    got = reference.copy()
    got[1, P - 1 + step, other] = row.max() + gap
    return got, float(row.max() - row[other])


def test_a_flip_is_a_tie_below_twice_the_round_off():
    right = TABLE[text()[:, :-1]]
    usual = choices(right, 1e-9)
    assert (usual.outcome, usual.value, usual.array) == (Outcome.PASS, 0.0, f"{B * N} tokens")
    top = np.sort(right[:, P - 1 :], axis=-1)
    margin = (top[..., -1] - top[..., -2]).min()
    assert usual.note == f"margin at least {margin:.1e}, round-off at most 1.0e-09"
    assert (usual.criterion, usual.quantity) == ("C5", "generation")
    got, gap = flipped(2, 0.1)
    wrong = choices(got, gap / 2)
    assert (wrong.outcome, wrong.value) == (Outcome.FAIL, 1.0)
    assert wrong.note.startswith("first at token 3 after the prompt, text 2; margin")
    tie = choices(got, gap / 2 * 1.001)
    assert (tie.outcome, tie.value) == (Outcome.PASS, 0.0)
    assert tie.note.startswith("1 ties; margin")


def test_a_text_of_one_token_shows_nothing():
    table = np.tile(np.arange(V) * 1.0, (V, 1))
    found = _generated(Sides(lambda rows, **_: table[rows]), PROMPT, N)
    one = _Run("model", Sides(), found, P, table[found[:, :-1]], "float64")
    finding = one._choices(table[found[:, :-1]], np.full((B, P + N - 1), 1e-9), None)
    assert finding.outcome is Outcome.ABSTAIN
    assert finding.note.startswith("PyTorch's text repeats one token; margin")
    # Of one token nothing repeats; two are a repetition.
    two = _generated(Sides(lambda rows, **_: table[rows]), PROMPT, 2)
    one = _Run("model", Sides(), two, P, table[two[:, :-1]], "float64")
    finding = one._choices(table[two[:, :-1]], np.full((B, P + 1), 1e-9), None)
    assert finding.outcome is Outcome.ABSTAIN
    short = _generated(Sides(lambda rows, **_: table[rows]), PROMPT, 1)
    one = _Run("model", Sides(), short, P, table[short[:, :-1]], "float64")
    finding = one._choices(table[short[:, :-1]], np.full((B, P), 1e-9), None)
    assert finding.outcome is Outcome.PASS


def generator(wrong=()):
    """A program that generates PyTorch's text, but for some tokens by (text, step)."""
    full = text()
    asked = []

    def generate(params, prompt, count):
        first = prompt.shape[1] - P
        asked.append((params, first, count))
        found = full[:, P + first :].copy()
        for row, step in wrong:
            if step >= first:
                found[row, step - first] = int(np.argsort(TABLE[full[row, P + step - 1]])[-2])
        return found

    return generate, asked


def test_a_program_of_the_users_is_fed_pytorchs_token_after_a_tie():
    right = TABLE[text()[:, :-1]]
    generate, asked = generator()
    assert choices(right, 1e-9, generate).outcome is Outcome.PASS
    assert asked == [("float64", 0, N)]
    generate, asked = generator([(0, 1), (1, 2)])
    finding = choices(right, 100.0, generate)
    assert finding.note.startswith("2 ties;")
    assert [(first, count) for _, first, count in asked] == [(0, 4), (2, 2), (3, 1)]
    generate, asked = generator([(0, 1), (1, 2)])
    finding = choices(right, 1e-9, generate)
    assert (finding.outcome, finding.value) == (Outcome.FAIL, 1.0)
    assert finding.note.startswith("first at token 2 after the prompt, text 1;")
    assert len(asked) == 1
    with pytest.raises(ValueError, match=r"give the 4 tokens .* for 2 texts; got shape \(2, 7\)"):
        choices(right, 1e-9, lambda params, prompt, count: text())


def test_what_round_off_allows():
    one = run("float32")
    reference = one.reference
    smallest = ROUNDINGS * UNIT_ROUNDOFF["float32"] * np.abs(reference).max(-1)
    factor = NOISE_FACTOR["float32"]
    np.testing.assert_allclose(one._allowed(reference, [reference]), factor * smallest)
    others = [reference + 0.25, reference.copy()]
    others[1][0, 0, 0] -= 0.5
    found = one._allowed(reference, others)
    assert found[0, 0] == pytest.approx(factor * 0.5)
    np.testing.assert_allclose(found[1], factor * 0.25)
    peer = reference.copy()
    peer[0, 1, 2] += 3.0
    found = one._allowed(peer, [peer])
    assert found[0, 1] == pytest.approx(factor * 3.0)
    np.testing.assert_allclose(found[1], factor * smallest[1])


REFERENCE = TABLE[text()[:, :-1]]
SHIFTED = np.exp(REFERENCE)
PROBABILITIES = SHIFTED / SHIFTED.sum(-1, keepdims=True)
LATER = np.concatenate([REFERENCE[:, 1:], REFERENCE[:, :1]], axis=1)
EARLIER = np.concatenate([REFERENCE[:, :1], REFERENCE[:, :-1]], axis=1)
CAUSES = {
    "JAX gives log probabilities, PyTorch logits": np.log(PROBABILITIES),
    "JAX gives probabilities, PyTorch logits": PROBABILITIES,
    "JAX's vocabulary is in the opposite order": REFERENCE[..., ::-1],
    "JAX's logits are PyTorch's of the position after": LATER,
    "JAX's logits are PyTorch's of the position before": EARLIER,
    "JAX's logits are 0.5 times PyTorch's, as with another temperature": REFERENCE / 2,
    "JAX's logits depend on later tokens: the causal mask, or the order of time": REFERENCE + 1,
}


@pytest.mark.parametrize("words", CAUSES)
def test_known_causes_of_other_logits(words):
    assert run()._known_cause(CAUSES[words]) == words
    nothing = run(in_jax=lambda rows: TABLE[rows] + 1)._known_cause(REFERENCE + 1)
    assert nothing == ""
    assert run()._known_cause(REFERENCE * (1 + SAME / 2)) == ""


def test_where_the_logits_differ_first():
    got = REFERENCE.copy()
    got[1, 3] += 1.0
    count = P + N - 1
    assert run()._causes(got) == [f"The logits differ first at position 4 of {count}."]
    everywhere = run(in_jax=lambda rows: TABLE[rows] + 1)._causes(REFERENCE + 1)
    assert everywhere == [f"The logits differ at every position of {count}."]
    assert run()._causes(REFERENCE * (1 + SAME / 2)) == []
    first, second = run()._causes(2 * REFERENCE)
    assert second == "JAX's logits are 2 times PyTorch's, as with another temperature."
    assert "every position" in first


def test_a_precision_is_compared_and_the_noise_is_that_of_perturbed_runs():
    seeds = []

    def in_torch(rows, seed, samples):
        seeds.append(seed)
        return TABLE[rows]

    found, remarks = run(sides=Sides(in_torch)).compared(None)
    assert [f.criterion for f in found] == ["C0", "C1", "C5"]
    assert all(f.outcome is Outcome.PASS for f in found)
    assert (remarks, seeds) == ([], list(range(PERTURBATIONS)))
    off = Sides(in_torch, lambda rows: TABLE[rows] * 1.5)
    found, remarks = run(sides=off).compared(None)
    assert [f.outcome for f in found] == [Outcome.PASS, Outcome.FAIL, Outcome.PASS]
    assert remarks[-1].startswith("JAX's logits are 1.5 times")
    other = Sides(in_torch, lambda rows: TABLE[rows][..., 1:])
    found, remarks = run(sides=other).compared(None)
    assert [(f.criterion, f.outcome) for f in found] == [("C0", Outcome.FAIL)]
    low = Sides(
        lambda rows, **_: TABLE[rows].astype(np.float32),
        lambda rows: TABLE[rows].astype(np.float32),
    )
    found, remarks = run("float32", sides=low).compared(None)
    assert [f.criterion for f in found] == ["C0", "C2", "C3", "C5"]
    assert not any(f.outcome is Outcome.FAIL for f in found)
    assert found[0].pair == Comparison("model", "forward", "float32").pair
