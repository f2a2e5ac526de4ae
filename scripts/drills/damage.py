"""Flip single bits of a checkpoint, anywhere, and see that it is refused."""

import random
from pathlib import Path

import jax

from jaxrnn import LSTM, CharLM, load, make_optimizer, make_state, save
from jaxrnn.runs.checkpoints import CheckpointError

MODEL = CharLM(30, 8, 24, cell=LSTM, num_layers=2)


def damage_drill(folder: Path, flips: int, seed: int = 0) -> int:
    """How many of `flips` bits, each flipped alone at a random place, were noticed.

    Every tenth flip is in the header, which is a small part of the file.
    """
    path, state = folder / "state.safetensors", _state()
    save(path, state, {"epoch": 3})
    whole, like, rng = path.read_bytes(), jax.eval_shape(_state), random.Random(seed)
    header = 8 + int.from_bytes(whole[:8], "little")
    load(path, like)
    noticed = 0
    for number in range(flips):
        place = rng.randrange(header if number % 10 == 0 else len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            load(path, like)
        except CheckpointError:
            noticed += 1
    return noticed


def _state():  # type: ignore[no-untyped-def]
    return make_state(MODEL, make_optimizer("adam"), 4, jax.random.key(0))
