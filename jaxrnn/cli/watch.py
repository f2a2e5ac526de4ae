"""The progress display of a training run, and a summary of its result."""

import math
import shlex
import sys
from collections.abc import Sequence

import jax
import numpy as np

from jaxrnn.data.tokenizers import token_name
from jaxrnn.generation.sampler import Sampler
from jaxrnn.runs.checkpointing import PICTURE, train_run
from jaxrnn.runs.config import LARGEST_BUDGET
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.judging import is_sensible, last_sensible
from jaxrnn.runs.run import Run
from jaxrnn.runs.sampling import sample_run
from jaxrnn.terminal import FAILED, SIGNALLED, Screen, command_name, printable, stop_requests
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.display import SHORT, Display, number
from jaxrnn.training.history import Row
from jaxrnn.training.schedules import Block

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
    budget = experiment.config.budget
    updates = _updates(experiment)
    unit = SHORT[token_name(experiment.vocabulary)]
    trained = False
    signal = 0
    with Screen() as screen, stop_requests() as stopping:
        screen.line(_introduction(run, experiment))
        display = Display(screen, experiment.schedule, budget, unit)
        display.begin()
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
                display.show(progress)
                # After the last validation there is nothing to stop.
                over = progress.share >= 1 and progress.ends_section
                signal = 0 if over else stopping()
                if signal:
                    progresses.close()  # saves the last checkpoint
                    break
        # Diverged: what is left, and how to go on from there.
        except NonFiniteLossError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            print(printable(what_is_left(run, experiment)), file=sys.stderr)
            return FAILED
        if resume and not trained:
            screen.notice(how_to_train_on(run, experiment))
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


def how_to_train_on(run: Run, experiment: Experiment) -> str:
    """That a run is finished, and commands that train it further, in one line."""
    config = experiment.config
    resume = f"{command_name()} train --resume {shlex.quote(str(run.folder))}"
    last = experiment.schedule.phases[-1]
    # What ends with nearly no rate goes on with a tenth of its highest one.
    rate = getattr(last, "rate", 0.0)
    if not isinstance(last, Block):
        rate = rate / 10
    shown = np.format_float_scientific(rate, trim="-", exp_digits=1)
    if config.steps is None:
        left = "its schedule has no more epochs to train"
        further = f"{resume} --schedule {shlex.quote(f'{config.schedule}, 1 x {shown}')}"
    else:
        left = f"all of its {config.steps:,} updates are made"
        more = min(config.steps + max(config.steps // 2, 1), LARGEST_BUDGET)
        further = f"{resume} --steps {more}"
    again = f"{command_name()} train --from {shlex.quote(str(run.folder))}"
    return (
        f"{run.folder} is finished: {left}. To go on: {further}; a new run from its weights: "
        f"{again} --schedule '1 x {shown}'"
    )


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
            best = f"The best one is {path}: validation loss {number(nats, '.4f')} at step {step}."
        except ValueError as error:
            best = str(error)
    return (
        f"The last checkpoint with a {kind} loss is {run.path(good.name)}: {good.nats:.4f} nats at "
        f"step {good.step}. {best} Go on from step {good.step} with --clip, or with a "
        "schedule of smaller rates, whose epochs count from the run's first one:\n"
        f"  {command_name()} train --resume {shlex.quote(str(run.folder))} "
        f"--schedule 'EPOCHS x RATE'"
    )


def _updates(experiment: Experiment) -> int:
    """Number of updates of a training, counted up to what is few."""
    if experiment.config.steps is not None:
        return experiment.config.steps
    # An epoch has a step at least, so these epochs show whether there are enough.
    epochs = min(experiment.schedule.epochs, FEW_UPDATES)
    return sum(map(experiment.source.steps, range(epochs)))


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
    """The lines above the table of epochs."""
    config = experiment.config
    origin = run.origin
    source = experiment.source
    length = f"{experiment.schedule.epochs} epochs of about {source.steps_per_epoch} steps"
    if config.steps is not None:
        length = f"{config.steps:,} updates, an epoch has about {source.steps_per_epoch:,}"
    unit = token_name(experiment.vocabulary)
    count = 0
    for leaf in jax.tree.leaves(jax.eval_shape(experiment.fresh_state).params):
        count += int(np.prod(leaf.shape))
    return (
        f"{config.model} with {count:,} parameters on {config.corpus}: "
        f"{len(source.tokens):,} {unit}s, {experiment.vocabulary.size} different tokens.\n"
        f"{length}, schedule {config.schedule}; the run is kept in {run.folder}.\n"
        + (f"{origin.sentence}\n" if origin is not None else "")
        + "".join(f"{change.sentence}\n" for change in run.changes)
    )
