"""Watch a run: train it before the user's eyes, and say what came of it."""

import math
import re
import shlex
import sys
from collections.abc import Sequence

import jax
import numpy as np

from jaxrnn.data.tokenizers import token_name
from jaxrnn.generation.sampler import Sampler
from jaxrnn.runs.checkpointing import PICTURE, train_run
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.judging import is_sensible, last_sensible
from jaxrnn.runs.run import Run
from jaxrnn.runs.sampling import sample_run
from jaxrnn.terminal import (
    FAILED,
    SIGNALLED,
    Screen,
    command_name,
    printable,
    stop_requests,
)
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Progress, Row

SHORT = {"character": "char", "byte": "byte", "token": "tok"}
"""Units of a text as the table of epochs abbreviates them."""
FEW_UPDATES = 20
"""Updates below which hardly anything is learned."""
SHOWN_TEMPERATURE = 0.5
"""Of the sample after training: bold enough that words are spelled right after a minute."""


def watch(
    run: Run, experiment: Experiment, *, resume: bool = False, debug_nans: bool = False
) -> int:
    """Train with a progress bar and a line an epoch, draw the loss curve, show a sample.

    Args:
        run: the run's folder.
        experiment: what to train.
        resume: whether to go on from the run's last checkpoint.
        debug_nans: whether to look for the operation when something is not finite.

    Returns:
        The exit code.
    """
    epochs = experiment.schedule.epochs
    updates = sum(experiment.source.steps(epoch) for epoch in range(min(epochs, FEW_UPDATES)))
    trained = False
    signal = 0
    with Screen() as screen, stop_requests() as stopping:
        screen.line(_introduction(run, experiment))
        if updates < FEW_UPDATES:
            screen.notice(
                f"The text is so short that training makes only {updates} updates: give more text, "
                "a smaller --batch-size or --bptt, or more epochs."
            )
        screen.show("compiling", 0.0)
        progresses = train_run(
            run,
            experiment,
            resume=resume,
            debug_nans=debug_nans,
            picture=True,
            say=screen.notice,
        )
        try:
            for progress in progresses:
                trained = True
                _show(screen, progress, epochs, SHORT[token_name(experiment.vocabulary)])
                if progress.position.epoch < epochs and (signal := stopping()):
                    progresses.close()
                    break
        except NonFiniteLossError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            print(printable(what_is_left(run, experiment)), file=sys.stderr)
            return FAILED
        if resume and not trained:
            screen.notice(f"{run.folder} is finished: its schedule has no more epochs to train.")
        if (sentence := _worse(run.history, run.vocabulary.size)) is not None:
            screen.notice(sentence)
    command = command_name()
    if signal:
        print(f"\nStopped and saved. Go on with:\n  {command} train --resume {run.folder}")
        return SIGNALLED + signal
    print(f"\n{run.folder.name} writes:\n")
    print(sample_run(run, None, length=400, sampler=Sampler(temperature=SHOWN_TEMPERATURE))[0])
    print(f"\nThe loss curve is {run.folder / PICTURE}. What to type next:")
    print(f"  {command} sample {run.folder} --prompt {shlex.quote(run.prompt)} --temperature 0.8")
    print(f"  {command} evaluate {run.folder}")
    print(f"  {command} train --corpus FILE.txt")
    return 0


def what_is_left(run: Run, experiment: Experiment) -> str:
    """Which checkpoints are left after a run that diverged, judged by their loss."""
    good = last_sensible(run, experiment)
    if good is None:
        return (
            "No checkpoint is left whose loss is finite: begin again with a smaller rate or clip."
        )
    kind = "good" if is_sensible(good.nats, experiment.model.vocab_size) else "finite"
    return (
        f"The last checkpoint with a {kind} loss is {run.path(good.name)}: {good.nats:.4f} nats at "
        f"step {good.step}. {_best_of(run)} Go on from step {good.step} with --clip, or with a "
        "schedule of smaller rates, whose epochs count from the run's first one:\n"
        f"  {command_name()} train --resume {shlex.quote(str(run.folder))} "
        f"--schedule 'EPOCHS x RATE'"
    )


def _best_of(run: Run) -> str:
    """The best checkpoint and its loss, in a sentence."""
    path = run.path("best")
    if not path.exists():
        return "There is no best one yet: no validation came before."
    try:
        step, nats = run.best()
    except ValueError as error:
        return str(error)
    return f"The best one is {path}: validation loss {_number(nats, '.4f')} at step {step}."


def _number(value: float | None, form: str) -> str:
    """A number as `form` has it; "-" for one that is missing, NaN or infinite."""
    if value is None or not math.isfinite(value):
        width = re.match(r"\d*", form)
        return "-".rjust(int(width[0]) if width and width[0] else 1)
    return format(value, form)


def _worse(rows: Sequence[Row], tokens: int) -> str | None:
    """What to say of a run that ends worse than it began, or than a guess among V = `tokens`."""
    losses = [(row.epoch, row.validation) for row in rows if row.validation is not None]
    finite = [(epoch, loss) for epoch, loss in losses if math.isfinite(loss)]
    if not finite:
        return None
    if len(finite) == 1:
        [(epoch, loss)] = finite
        if loss <= math.log(tokens):
            return None
        return (
            f"The run ends worse than chance: validation loss {loss:.4f} after epoch {epoch:g}, "
            f"where a guess among {tokens} tokens has {math.log(tokens):.4f}. A smaller rate may "
            "help."
        )
    (first, before), (last, after) = finite[0], finite[-1]
    if after <= before:
        return None
    return (
        f"The run ends worse than it began: validation loss {before:.4f} after epoch {first:g}, "
        f"{after:.4f} after epoch {last:g}. A smaller rate may help."
    )


def _introduction(run: Run, experiment: Experiment) -> str:
    config, source = experiment.config, experiment.source
    unit = token_name(experiment.vocabulary)
    state = jax.eval_shape(experiment.fresh_state)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))
    return (
        f"{config.model} with {count:,} parameters on {config.corpus}: "
        f"{len(source.tokens):,} {unit}s, {experiment.vocabulary.size} different tokens.\n"
        f"{experiment.schedule.epochs} epochs of about {source.steps_per_epoch} steps, "
        f"schedule {config.schedule}; the run is kept in {run.folder}.\n"
        + "".join(f"{change.sentence}\n" for change in run.changes)
        + "\n"
        f"epoch   train  validation  bits/{SHORT[unit]:4}  perplexity  {SHORT[unit] + 's/s':>7}"
    )


def _show(screen: Screen, progress: Progress, epochs: int, unit: str) -> None:
    position, row = progress.position, progress.row
    if row is not None and row.validation is not None:
        screen.line(_epoch_line(row))
    share = (position.epoch + position.window / max(progress.of, 1)) / epochs
    if progress.validating is not None:
        screen.show("validating", share, f"loss {_number(position.train, '.3f')}")
        return
    speed = None if row is None else row.characters_per_second
    if speed is None:
        speed = position.characters / max(position.seconds, 1e-9)
    note = f"loss {_number(position.train, '.3f')}  {_number(speed / 1000, ',.0f')}k {unit}s/s"
    screen.show(f"epoch {min(position.epoch + 1, epochs)}/{epochs}", share, note)


def _epoch_line(row: Row) -> str:
    cells = (
        _number(row.epoch, "5g"),
        _number(row.train, "6.3f"),
        _number(row.validation, "10.4f"),
        _number(row.bits_per_character, "9.4f"),
        _number(row.perplexity, "10.3f"),
        _number(row.characters_per_second, "7,.0f"),
    )
    return "  ".join(cells)
