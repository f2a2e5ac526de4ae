"""Watch a run: train it before the user's eyes, and say what came of it."""

import shlex
import sys
from collections.abc import Sequence

import jax
import numpy as np

from jaxrnn.generation.sampler import Sampler
from jaxrnn.runs.checkpointing import carry_out
from jaxrnn.runs.experiment import Experiment
from jaxrnn.runs.plots import draw_losses
from jaxrnn.runs.run import Run
from jaxrnn.terminal import (
    FAILED,
    SIGNALLED,
    Screen,
    command_name,
    printable,
    stop_requests,
)
from jaxrnn.training.chunks import Progress
from jaxrnn.training.diagnosis import NonFiniteLossError
from jaxrnn.training.history import Row

FEW_UPDATES = 20
"""Updates below which hardly anything is learned."""
SHOWN_TEMPERATURE = 0.5
"""Of the sample after training: bold enough that words are spelt right after a minute."""


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
                "a smaller --batch or --bptt, or more epochs."
            )
        screen.show("compiling", 0.0)
        progresses = carry_out(
            run, experiment, resume=resume, debug_nans=debug_nans, say=screen.notice
        )
        try:
            for progress in progresses:
                trained = True
                _show(screen, progress, epochs)
                if progress.position.epoch < epochs and (signal := stopping()):
                    progresses.close()
                    break
        except NonFiniteLossError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            print(_what_is_left(run), file=sys.stderr)
            return FAILED
        if resume and not trained:
            screen.notice(f"{run.folder} is finished: its schedule has no more epochs to train.")
        if (sentence := _worse(run.history)) is not None:
            screen.notice(sentence)
    draw_losses(run.history, run.folder / "loss.png", title=run.folder.name)
    command = command_name()
    if signal:
        print(f"\nStopped and saved. Go on with:\n  {command} train --resume {run.folder}")
        return SIGNALLED + signal
    print(f"\n{run.folder.name} writes:\n")
    print(run.write(None, length=400, sampler=Sampler(temperature=SHOWN_TEMPERATURE))[0])
    print(f"\nThe loss curve is {run.folder / 'loss.png'}. What to type next:")
    print(f"  {command} sample {run.folder} --prompt {shlex.quote(run.prompt)} --temperature 0.8")
    print(f"  {command} evaluate {run.folder}")
    print(f"  {command} train --corpus FILE.txt")
    return 0


def _what_is_left(run: Run) -> str:
    """Which checkpoints are left after a run that diverged, judged by their loss."""
    validated = [row for row in run.history if row.validation is not None]
    if not run.path("best").is_file() or not validated:
        return (
            f"No validation came before it: {run.path('last')} holds numbers that are finite, and "
            "may be bad. Begin again with a smaller rate or clip."
        )
    best = min(validated, key=lambda row: row.validation or 0.0)
    return (
        f"The best checkpoint is {run.path('best')}: validation loss {best.validation:.4f} at step "
        f"{best.step}. {run.path('last')} is newer and finite, but not validated."
    )


def _worse(rows: Sequence[Row]) -> str | None:
    """What to say of a run that ends worse than it began."""
    validated = [row for row in rows if row.validation is not None]
    if len(validated) < 2:
        return None
    first, last = validated[0], validated[-1]
    if last.validation <= first.validation:  # type: ignore[operator]
        return None
    return (
        f"The run ends worse than it began: validation loss {first.validation:.4f} after epoch "
        f"{first.epoch:g}, {last.validation:.4f} after epoch {last.epoch:g}. A smaller rate may "
        "help."
    )


def _introduction(run: Run, experiment: Experiment) -> str:
    config, source = experiment.config, experiment.source
    state = jax.eval_shape(experiment.fresh_state)
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(state.params))
    return (
        f"{config.model} with {count:,} parameters on {config.corpus}: "
        f"{len(source.tokens):,} characters, {len(experiment.vocabulary)} different tokens.\n"
        f"{experiment.schedule.epochs} epochs of about {source.steps_per_epoch} steps, "
        f"schedule {config.schedule}; the run is kept in {run.folder}.\n\n"
        "epoch   train  validation  bits/char  perplexity  chars/s"
    )


def _show(screen: Screen, progress: Progress, epochs: int) -> None:
    position, row = progress.position, progress.row
    if row is not None and row.validation is not None:
        screen.line(_epoch_line(row))
    share = (position.epoch + position.window / max(progress.of, 1)) / epochs
    if progress.validating is not None:
        screen.show("validating", share, f"loss {position.train:.3f}")
        return
    speed = None if row is None else row.characters_per_second
    if speed is None:
        speed = position.characters / max(position.seconds, 1e-9)
    note = f"loss {position.train:.3f}  {speed / 1000:,.0f}k chars/s"
    screen.show(f"epoch {min(position.epoch + 1, epochs)}/{epochs}", share, note)


def _epoch_line(row: Row) -> str:
    return (
        f"{row.epoch:5g}  {row.train:6.3f}  {row.validation:10.4f}  {row.bits_per_character:9.4f}"
        f"  {row.perplexity:10.3f}  {row.characters_per_second:7,.0f}"
    )
