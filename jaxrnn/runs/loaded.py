"""A trained run in hand: its model, and what can be asked of it."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxrnn.checks import check_bool
from jaxrnn.data.corpora import load_corpus
from jaxrnn.data.tokenizers import Document
from jaxrnn.data.vocabulary import Unknown
from jaxrnn.generation.texts import generate_texts, sample
from jaxrnn.runs.checksums import RunError
from jaxrnn.runs.experiment import Experiment, prompt_for
from jaxrnn.runs.exported import AnyRun, ExportedRun, open_run
from jaxrnn.runs.measuring import (
    Measured,
    Unit,
    loss_of_each,
    measure_as_in_training,
    measured_once,
    read_all,
    tokens_of,
)
from jaxrnn.runs.run import Run, RunExistsError
from jaxrnn.training.history import Progress
from jaxrnn.training.records import History

if TYPE_CHECKING:
    from jaxrnn.training.plots import Picture


def load_run(path: Path | str, *, checkpoint: Literal["best", "last"] = "best") -> "LoadedRun":
    """A run of the command line's, with its trained weights.

    Args:
        path: its folder, such as "runs/python-docs", or a file that `jaxrnn export` wrote, such as
            "model.safetensors".
        checkpoint: the checkpoint with the weights: the one with the lowest validation loss, or
            the last. A file has one set of weights, the "best".

    Raises:
        RunError: if it is no run, or it or the checkpoint is damaged.
        TensorFileError: if it is a file of another kind, or damaged.
        NotDefinedError: if it names code that is not there, or that was never run here.
    """
    if not isinstance(path, str | Path):
        raise ValueError(f"path must be the path of a run's folder or file, got {path!r:.40}.")
    if checkpoint not in ("best", "last"):
        raise ValueError(f'checkpoint must be "best" or "last", got {checkpoint!r:.40}.')
    return LoadedRun(open_run(path), checkpoint)


class LoadedRun:
    """A trained run.

    Attributes:
        run: its folder, or its file.
        checkpoint: the checkpoint that is loaded, "best" or "last".
        config: what it was trained on, and how.
        vocabulary: text <-> tokens.
        model: the model.
        state: the training state, from which `fit` goes on; that of a file has a fresh optimizer.
    """

    def __init__(self, run: AnyRun, checkpoint: str = "best") -> None:
        self.run = run
        self.checkpoint = checkpoint
        # A run is read from the disk at each access: once is enough.
        self.config = run.config
        self.vocabulary = run.vocabulary
        self.model = self.config.make_model(self.vocabulary.size)
        self.state = run.load_state(checkpoint)

    @property
    def params(self) -> Any:
        """The trained parameters."""
        return self.state.params

    @cached_property
    def history(self) -> History:
        """The rows of history; a file has none."""
        return self.run.history

    @property
    def prompt(self) -> str:
        """The text that samples begin with when no other is given."""
        return self.run.prompt

    def sample(self, prompt: str | None = None, length: int = 400, **options: Any) -> str:
        """A text that continues a prompt, with the prompt in front.

        Args:
            prompt: the text to continue; the run's own prompt if None.
            length: number of characters to generate.
            options: temperature, top_k, top_p, unknown, seed, stop_at_eos; see `jaxrnn.sample`.
        """
        prompt = self.prompt if prompt is None else prompt
        options = {"window": self.config.bptt} | options
        return sample(self.model, self.params, self.vocabulary, prompt, length, **options)

    def samples(self, prompt: str | None = None, *, length: int, **options: Any) -> list[str]:
        """Several texts; see `generate_texts` for the options."""
        return generate_texts(
            self.model,
            self.params,
            self.vocabulary,
            self.prompt if prompt is None else prompt,
            window=self.config.bptt,
            length=length,
            **options,
        )

    def evaluate(
        self,
        text: str | Path | Sequence[Document] | None = None,
        *,
        unknown: Unknown | None = None,
    ) -> Measured:
        """The mean loss on a text, of which every character is predicted once.

        Args:
            text: the text itself, or several documents; a `Path` names a file or a folder. None
                measures the run's own validation text as training does.
            unknown: treatment of a character that the model does not know; <unk> if it has one,
                else an error.
        """
        if text is None:
            return measure_as_in_training(
                self.model,
                self.params,
                self.experiment().validation,
                Unit.of(self.vocabulary),
                at_most=self.config.validation_tokens,
            )
        documents = _documents(text)
        tokens = tokens_of(self.vocabulary, documents, unknown)
        read = read_all(self.model, self.params, tokens, window=self.config.bptt)
        return measured_once(read, self.model, Unit.of(self.vocabulary, documents, tokens))

    def score(
        self, text: str | Path | Sequence[Document], *, unknown: Unknown | None = None
    ) -> list[tuple[str, float | None]]:
        """Each character of a text and its loss in nats, None where it is only read.

        The first character of a document, before which nothing stands, is only read. With another
        tokenizer than that of characters, it is each token.

        Args:
            text: see `evaluate`.
            unknown: see `evaluate`.
        """
        documents = _documents(text)
        tokens = tokens_of(self.vocabulary, documents, unknown)
        read = read_all(self.model, self.params, tokens, window=self.config.bptt)
        return loss_of_each(self.vocabulary, tokens, read)

    def plot(self) -> "Picture":
        """The loss curves, as a Matplotlib figure that a notebook shows.

        Raises:
            RunError: if the run is a file, which has no history.
        """
        if isinstance(self.run, ExportedRun):
            raise RunError(f"{self.run} has no history to plot: that stays in the run's folder.")
        return self.history.plot(title=self.run.folder.name)

    def train(
        self,
        corpus: Path | str | None = None,
        *,
        folder: Path | str | None = None,
        keep_optimizer: bool = False,
        prompt: str | None = None,
        progress: bool = True,
        callbacks: Sequence[Callable[[Progress], Any]] = (),
        **options: Any,
    ) -> "LoadedRun":
        """Train a new run that begins with these weights, as `jaxrnn train --from` does.

        This run stays as it is. What another text has beyond the vocabulary is added to it. Ctrl-C
        ends the training: what is trained so far is saved and returned.

        Args:
            corpus: the text to train on, see `load_corpus`; the run's own if None.
            folder: the new run's folder; this one's, with a number, if None.
            keep_optimizer: whether the optimizer's state goes on, too, instead of a fresh one.
            prompt: what samples begin with; as before if None.
            progress: see `fit`.
            callbacks: see `fit`.
            options: values of the configuration that are to differ from `config`, such as
                `schedule="1 x 1e-4"`, `steps`, `validate_every`, `optimizer`, `bptt` or `seed`.

        Returns:
            The new run, with its best checkpoint.

        Raises:
            RunError: if the folder exists or cannot be written, or the run's own text has changed.
            NonFiniteLossError: see `training`.
            ValueError: if an option is wrong or contradicts the weights.
        """
        # What trains takes a while to import, and nothing else here needs it.
        from jaxrnn.runs.fine_tuning import fine_tuning
        from jaxrnn.runs.fitting import check_callbacks, train_shown

        check_bool(progress=progress, keep_optimizer=keep_optimizer)
        check_callbacks(callbacks)
        if folder is not None and os.path.lexists(folder):
            raise RunExistsError.at(Path(folder))
        start = fine_tuning(
            self.run,
            options,
            corpus=None if corpus is None else str(corpus),
            checkpoint=self.checkpoint,
            keep_optimizer=keep_optimizer,
        )
        usual = Path(str(self.run))
        if isinstance(self.run, ExportedRun):
            usual = usual.with_suffix("")
        new = Run.create_first(
            numbered(usual) if folder is None else [Path(folder)],
            start.experiment,
            prompt=prompt_for(start.experiment, prompt, self.prompt),
            state=start.state,
            origin=start.origin,
        )
        notes = (start.origin.sentence, *start.notes)
        train_shown(
            new, start.experiment, start.state, progress=progress, callbacks=callbacks, notes=notes
        )
        return LoadedRun(new)

    def experiment(self, *, corpus: str | None = None) -> Experiment:
        """The windows, the optimizer and the schedule of the run, from its text.

        So it is trained on: `fit(run.model, experiment.source, experiment.validation,
        schedule="1 x 1e-4", optimizer=experiment.optimizer, state=run.state)`.

        Args:
            corpus: where the text lies now; for a file, any text, which has to be named unless it
                is one of the project's own.
        """
        return self.run.experiment(corpus=corpus)

    def __repr__(self) -> str:
        config = self.config
        words = (
            f"{config.model} on {config.corpus}, {self.checkpoint} checkpoint at step "
            f"{int(self.state.step):,}"
        )
        if self.run.origin is not None:
            words += f", {self.run.origin.short}"
        return f"LoadedRun({self.run}: {words})"


def _documents(text: Any) -> Sequence[Document]:
    """The documents that a caller gives in one of several ways.

    Raises:
        ValueError: if they are none.
    """
    if isinstance(text, str):
        return (text,)
    if isinstance(text, Path):
        corpus = load_corpus(str(text))
        return (*corpus.documents, *(corpus.validation or ()))
    if hasattr(text, "shape"):  # tokens of one document
        return (text,)
    if not isinstance(text, Sequence) or not text or isinstance(text, bytes):
        raise ValueError(
            f"text must be a text, a list of texts or the Path of a file, got {text!r:.40}."
        )
    return text


def numbered(folder: Path) -> Iterator[Path]:
    """The folders beside one that have its name and a number, from 2 on."""
    for number in count(2):
        yield folder.with_name(f"{folder.name}-{number}")
