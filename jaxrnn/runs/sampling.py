"""Texts that the model of a run generates."""

from typing import Any

from jaxrnn.generation.texts import generate_texts
from jaxrnn.runs.run import Run


def sample_run(
    run: Run, prompt: str | None, *, length: int, checkpoint: str = "best", **options: Any
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
    # A run is read from the disk at each access: once is enough.
    config = run.config
    vocabulary = run.vocabulary
    return generate_texts(
        config.make_model(vocabulary.size),
        run.load_params(checkpoint),
        vocabulary,
        run.prompt if prompt is None else prompt,
        window=config.bptt,
        length=length,
        **options,
    )
