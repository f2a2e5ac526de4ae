"""The list of all mutants."""

from parity.mutation.model_mutants import MODELS
from parity.mutation.recurrent_mutants import RECURRENT
from parity.mutation.training_mutants import TRAINING

MUTANTS = (*RECURRENT, *MODELS, *TRAINING)
