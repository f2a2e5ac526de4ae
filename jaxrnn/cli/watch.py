"""The progress display of a training run, and a summary of its result."""

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
from jaxrnn.terminal import FAILED, SIGNALLED, Screen, command_name, printable, stop_requests
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Progress, Row

SHORT = {"character": "char", "byte": "byte", "token": "tok"}
"""Abbreviations of units of a text in the table of epochs."""
FEW_UPDATES = 20
"""Number of updates below which hardly anything is learned."""
SHOWN_TEMPERATURE = 0.5
"""Temperature of the sample after training: so low that words are spelled right after a minute."""


def watch(
    run: Run, experiment: Experiment, *, resume: bool = False, debug_nans: bool = False
) -> int:
    """Train with a progress bar and a line an epoch, plot the loss curve, show a sample.

    Args:
        run: the run's folder.
        experiment: what to train.
        resume: whether to resume from the run's last checkpoint.
        debug_nans: whether to look for the operation when something is not finite.

    Returns:
        The exit code.
    """
    epochs = experiment.schedule.epochs
    # An epoch has a step at least, so these epochs show whether there are enough.
    updates = sum(map(experiment.source.steps, range(min(epochs, FEW_UPDATES))))
    unit = SHORT[token_name(experiment.vocabulary)]
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
            emit=screen.notice,
        )
        try:
            for progress in progresses:
                trained = True
                _show(screen, progress, epochs, unit)
                # After the last epoch there is nothing to stop.
                signal = stopping() if progress.position.epoch < epochs else 0
                if signal:
                    progresses.close()  # saves the last checkpoint
                    break
        # Diverged: what is left, and how to go on from there.
        except NonFiniteLossError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            print(printable(what_is_left(run, experiment)), file=sys.stderr)
            return FAILED
        if resume and not trained:
            screen.notice(f"{run.folder} is finished: its schedule has no more epochs to train.")
        warning = _worse(run.history, run.vocabulary.size)
        if warning is not None:
            screen.notice(warning)

    command = command_name()
    if signal:
        print(f"\nStopped and saved. Go on with:\n  {command} train --resume {run.folder}")
        return SIGNALLED + signal
    print(f"\nSample of {run.folder.name}:\n")
    [text] = sample_run(run, None, length=400, sampler=Sampler(temperature=SHOWN_TEMPERATURE))
    print(text)
    print(f"\nThe loss curve is {run.folder / PICTURE}. What to type next:")
    print(f"  {command} sample {run.folder} --prompt {shlex.quote(run.prompt)} --temperature 0.8")
    print(f"  {command} evaluate {run.folder}")
    print(f"  {command} train --corpus FILE.txt")
    return 0


def what_is_left(run: Run, experiment: Experiment) -> str:
    """Which checkpoints are left after a run that diverged, judged by their loss."""
    # The same choice as that of a changed --schedule or --clip.
    good = last_sensible(run, experiment)
    if good is None:
        return (
            "No checkpoint is left whose loss is finite: begin again with a smaller rate or clip."
        )
    kind = "good" if is_sensible(good.nats, experiment.model.vocab_size) else "finite"

    # The best checkpoint may be another one, or damaged, which is no reason to fail.
    path = run.path("best")
    best = "There is no best one yet: no validation came before."
    if path.exists():
        try:
            step, nats = run.best()
            best = f"The best one is {path}: validation loss {_number(nats, '.4f')} at step {step}."
        except ValueError as error:
            best = str(error)
    return (
        f"The last checkpoint with a {kind} loss is {run.path(good.name)}: {good.nats:.4f} nats at "
        f"step {good.step}. {best} Go on from step {good.step} with --clip, or with a "
        "schedule of smaller rates, whose epochs count from the run's first one:\n"
        f"  {command_name()} train --resume {shlex.quote(str(run.folder))} "
        f"--schedule 'EPOCHS x RATE'"
    )


def _number(value: float | None, form: str) -> str:
    """A number in a format; "-", as wide, for one that is missing, NaN or infinite."""
    if value is None or not math.isfinite(value):
        width = re.sub(r"\D.*", "", form)  # the digits that it begins with, if any
        return "-".rjust(int(width or 1))
    return format(value, form)


def _worse(rows: Sequence[Row], tokens: int) -> str | None:
    """A warning about a run that ends worse than it began, or than a guess among V = `tokens`."""
    # Epochs and finite validation losses.
    losses = []
    for row in rows:
        if row.validation is not None and math.isfinite(row.validation):
            losses.append((row.epoch, row.validation))
    if not losses:
        return None
    first, before = losses[0]
    last, after = losses[-1]
    chance = math.log(tokens)
    # With one epoch there is no earlier loss to compare with.
    if len(losses) == 1 and after > chance:
        return (
            f"The run ends worse than chance: validation loss {after:.4f} after epoch {last:g}, "
            f"where a guess among {tokens} tokens has {chance:.4f}. A smaller rate may help."
        )
    if after > before:
        return (
            f"The run ends worse than it began: validation loss {before:.4f} after epoch "
            f"{first:g}, {after:.4f} after epoch {last:g}. A smaller rate may help."
        )
    return None


def _introduction(run: Run, experiment: Experiment) -> str:
    """The lines above the table of epochs, and its head."""
    config = experiment.config
    source = experiment.source
    unit = token_name(experiment.vocabulary)
    count = 0
    for leaf in jax.tree.leaves(jax.eval_shape(experiment.fresh_state).params):
        count += int(np.prod(leaf.shape))
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
    """Show a line where an epoch ends, and the progress bar."""
    position = progress.position
    row = progress.row
    if row is not None and row.validation is not None:
        screen.line(_epoch_line(row))
    # Of the whole training; windows of the epoch are counted as a part of it.
    share = (position.epoch + position.window / max(progress.of, 1)) / epochs
    if progress.validating is not None:
        screen.show("validating", share, f"loss {_number(position.train, '.3f')}")
        return
    # Since the last row, whose sums are begun anew.
    speed = None if row is None else row.characters_per_second
    if speed is None:
        speed = position.characters / max(position.seconds, 1e-9)
    note = f"loss {_number(position.train, '.3f')}  {_number(speed / 1000, ',.0f')}k {unit}s/s"
    screen.show(f"epoch {min(position.epoch + 1, epochs)}/{epochs}", share, note)


def _epoch_line(row: Row) -> str:
    """A line of the table of epochs, as wide as its head."""
    cells = (
        _number(row.epoch, "5g"),
        _number(row.train, "6.3f"),
        _number(row.validation, "10.4f"),
        _number(row.bits_per_character, "9.4f"),
        _number(row.perplexity, "10.3f"),
        _number(row.characters_per_second, "7,.0f"),
    )
    return "  ".join(cells)
