"""Recurrent character models in JAX and Flax, stateful and equal to PyTorch's.

Shapes, everywhere: T time steps, B batch, V vocabulary, F embedding size, H hidden size; time
comes first, and the carry comes first, in and out.
"""

from jaxrnn.data.corpora import Corpus as Corpus
from jaxrnn.data.corpora import load_corpus as load_corpus
from jaxrnn.data.vocabulary import Vocabulary as Vocabulary
from jaxrnn.data.windows import BpttStream as BpttStream
from jaxrnn.data.windows import WindowSet as WindowSet
from jaxrnn.generation.decoding import generate as generate
from jaxrnn.generation.decoding import get_next as get_next
from jaxrnn.generation.sampler import GREEDY as GREEDY
from jaxrnn.generation.sampler import Sampler as Sampler
from jaxrnn.nn.layers import RNN as RNN
from jaxrnn.nn.losses import nll_loss as nll_loss
from jaxrnn.nn.losses import nll_loss_seq as nll_loss_seq
from jaxrnn.nn.models import MODELS as MODELS
from jaxrnn.nn.models import Char3Model as Char3Model
from jaxrnn.nn.models import CharLM as CharLM
from jaxrnn.nn.models import CharLoopConcatModel as CharLoopConcatModel
from jaxrnn.nn.models import CharLoopModel as CharLoopModel
from jaxrnn.nn.models import CharRnn as CharRnn
from jaxrnn.nn.models import CharSeqRnn as CharSeqRnn
from jaxrnn.nn.models import CharSeqStatefulGRU as CharSeqStatefulGRU
from jaxrnn.nn.models import CharSeqStatefulLSTM as CharSeqStatefulLSTM
from jaxrnn.nn.models import CharSeqStatefulRnn as CharSeqStatefulRnn
from jaxrnn.nn.models import CharSeqStatefulRnn2 as CharSeqStatefulRnn2
from jaxrnn.recurrent.cells import CELLS as CELLS
from jaxrnn.recurrent.cells import GRU as GRU
from jaxrnn.recurrent.cells import LSTM as LSTM
from jaxrnn.recurrent.cells import RELU as RELU
from jaxrnn.recurrent.cells import TANH as TANH
from jaxrnn.recurrent.cells import Cell as Cell
from jaxrnn.recurrent.cells import Hidden as Hidden
from jaxrnn.recurrent.cells import HiddenAndCell as HiddenAndCell
from jaxrnn.recurrent.cells import gates_of as gates_of
from jaxrnn.recurrent.recurrence import backend as backend
from jaxrnn.runs.checkpoints import load as load
from jaxrnn.runs.checkpoints import save as save
from jaxrnn.runs.recipes import RECIPES as RECIPES
from jaxrnn.training.evaluation import evaluate as evaluate
from jaxrnn.training.loop import fit as fit
from jaxrnn.training.optimizers import Optimizer as Optimizer
from jaxrnn.training.optimizers import make_optimizer as make_optimizer
from jaxrnn.training.state import TrainState as TrainState
from jaxrnn.training.state import make_state as make_state
from jaxrnn.training.state import repackage as repackage
from jaxrnn.training.steps import Batch as Batch
from jaxrnn.training.steps import eval_step as eval_step
from jaxrnn.training.steps import train_step as train_step

__version__ = "0.1.0"

__all__ = [
    "CELLS",
    "GREEDY",
    "GRU",
    "LSTM",
    "MODELS",
    "RECIPES",
    "RELU",
    "RNN",
    "TANH",
    "Batch",
    "BpttStream",
    "Cell",
    "Char3Model",
    "CharLM",
    "CharLoopConcatModel",
    "CharLoopModel",
    "CharRnn",
    "CharSeqRnn",
    "CharSeqStatefulGRU",
    "CharSeqStatefulLSTM",
    "CharSeqStatefulRnn",
    "CharSeqStatefulRnn2",
    "Corpus",
    "Hidden",
    "HiddenAndCell",
    "Optimizer",
    "Sampler",
    "TrainState",
    "Vocabulary",
    "WindowSet",
    "backend",
    "eval_step",
    "evaluate",
    "fit",
    "gates_of",
    "generate",
    "get_next",
    "load",
    "load_corpus",
    "make_optimizer",
    "make_state",
    "nll_loss",
    "nll_loss_seq",
    "repackage",
    "save",
    "train_step",
]
