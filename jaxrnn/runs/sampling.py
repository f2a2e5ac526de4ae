"""Texts that the model of a run generates."""

from typing import Any

from jaxrnn.runs.exported import AnyRun
from jaxrnn.runs.loaded import LoadedRun


def sample_run(
    run: AnyRun, prompt: str | None, *, length: int, checkpoint: str = "best", **options: Any
) -> list[str]:
    """Generate texts with a trained model; see `generate_texts` for the options.

    Args:
        run: the run.
        prompt: the text to continue; the run's own prompt if None.
        length: characters to generate.
        checkpoint: the checkpoint with the parameters, "best" or "last".
        options: count, sampler, unknown, seed, stop_at_eos.

    Returns:
        The texts, each with the prompt in front.

    Raises:
        RunError: if the run or the checkpoint cannot be read.
        ValueError: if an option is wrong, or the prompt has unknown characters.
    """
    return LoadedRun(run, checkpoint).samples(prompt, length=length, **options)
