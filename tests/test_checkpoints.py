"""Checkpoints: everything comes back, nothing else gets in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from stress.damage import flip_bits

from jaxrnn import LSTM, CharLM, load, make_optimizer, make_state, save
from jaxrnn.runs.checkpoints import CheckpointError, pack

MODEL, ADAM = CharLM(11, 5, 7, cell=LSTM, num_layers=2), make_optimizer("adam", clip=1.0)


def state_of(batch_size=3, model=MODEL):
    return make_state(model, ADAM, batch_size, jax.random.key(4))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def test_every_leaf_comes_back_as_it_was(path):
    state = state_of()._replace(step=jnp.asarray(12))
    save(path, state, {"epoch": 3, "note": "äöü"})
    read, metadata = load(path, jax.eval_shape(state_of))
    assert metadata == {"epoch": 3, "note": "äöü"}
    assert jax.tree.structure(read) == jax.tree.structure(state)
    for got, expected in zip(jax.tree.leaves(read), jax.tree.leaves(state), strict=True):
        assert got.dtype == expected.dtype
        if not jnp.issubdtype(got.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(jax.random.key_data(read.key), jax.random.key_data(state.key))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_carry_of_another_batch_size_is_read(path):
    save(path, state_of(batch_size=2))
    read, _ = load(path, jax.eval_shape(state_of))
    assert read.carry[0].h.shape == (2, 7)


def test_all_that_does_not_fit_is_named_at_once(path):
    save(path, state_of(model=CharLM(12, 5, 7, cell=LSTM)))
    with pytest.raises(CheckpointError) as caught:
        load(path, jax.eval_shape(state_of))
    message = str(caught.value)
    assert "params/rnn/weight_hh_l1 is missing" in message
    assert "params/e/embedding: expected float32[11, 5], got float32[12, 5]" in message
    assert "\n" not in message


def test_what_is_no_checkpoint_is_refused(path):
    like = jax.eval_shape(state_of)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load(path, like)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        load(path, like)
    save_file({"a": np.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        load(path, like)
    save(path, state_of())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged: expected sha256"):
        load(path, like)


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    save(path, {"a": jnp.ones(3)})
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        save(path, {"a": jnp.zeros(3)})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_one_bit_flipped_anywhere_is_noticed_1000_times_of_1000(tmp_path):
    assert flip_bits(tmp_path, flips=1000) == 1000


def test_the_same_state_makes_the_same_bytes_and_any_reader_reads_them(path):
    assert pack(state_of(), {"epoch": 1}) == pack(state_of(), {"epoch": 1})
    save(path, state_of())
    np.testing.assert_array_equal(
        load_file(path)["params/e/embedding"], state_of().params["e"]["embedding"]
    )
