"""How much work a unit is, roughly: what a progress bar over many units is weighed by."""

from functools import lru_cache

from jaxrnn.data.corpora import load_corpus
from jaxrnn.recurrent.cells import CELLS
from jaxrnn.reproduction.units import Unit

GATES = {
    "CharSeqStatefulGRU": len(CELLS["gru"].gates),
    "CharSeqStatefulLSTM": len(CELLS["lstm"].gates),
}
"""Of the models whose recurrent layer has several; all others have one."""
TRAINING_SHARE = 0.8
MULTIPLICATIONS_A_SECOND = 1e10
"""Forward and backward, of one core with AVX-512. The announced minutes depend on it; the bar only
on its ratio to the next two numbers."""
SECONDS_A_STEP = 1e-3
SECONDS_TO_START = 6.0
SLOWER = {"jax": 1.0, "torch": 1.2, "float32": 1.0, "float64": 2.0}


def expected_seconds(unit: Unit) -> float:
    """About how long a unit takes on one core."""
    config = unit.config
    reads = config.make_model(1).reads
    windows = TRAINING_SHARE * _characters(config.corpus)
    if reads != "overlapping":
        windows /= config.bptt
    gates = GATES.get(config.model, 1)
    inputs = config.embedding + (config.layers - 1) * config.hidden
    weights = gates * config.hidden * (inputs + config.layers * config.hidden)
    seconds = windows * config.bptt * weights / MULTIPLICATIONS_A_SECOND
    seconds += windows / config.batch * SECONDS_A_STEP
    factor = SLOWER[unit.framework] * SLOWER[unit.dtype]
    return SECONDS_TO_START + unit.epochs * seconds * factor


@lru_cache
def _characters(corpus: str) -> int:
    return sum(map(len, load_corpus(corpus).documents))
