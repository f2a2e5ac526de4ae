"""A look at a command line before it is parsed, for flags that decide on the defaults of others."""

from collections.abc import Sequence
from itertools import zip_longest

from jaxrnn.runs.config import Config
from jaxrnn.runs.recipes import RECIPES, for_text

SHORT_NAMES = {
    "--hidden": "--hidden-size",
    "--layers": "--num-layers",
    "--embedding": "--embedding-size",
    "--batch": "--batch-size",
}
"""Short names of flags, and the fields of `Config` that they set."""


def with_full_names(given: Sequence[str]) -> list[str]:
    """The same command line, in which no flag is written by its short name."""
    full = []
    for argument in given:
        flag, equals, value = argument.partition("=")
        full.append(f"{SHORT_NAMES.get(flag, flag)}{equals}{value}")
    return full


def flags_in(given: Sequence[str]) -> set[str]:
    """The names of the flags on a command line, without their values."""
    return {argument.split("=")[0] for argument in given if argument.startswith("--")}


def value_of(flag: str, given: Sequence[str]) -> str | None:
    """The value of a flag on a command line, or None where it is not given."""
    # Both forms: --flag value and --flag=value.
    for argument, following in zip_longest(given, given[1:]):
        name, equals, value = argument.partition("=")
        if name == flag and equals:
            return value
        if argument == flag and following is not None:
            return following
    return None


def recipe_in(given: Sequence[str]) -> str:
    """The name of the recipe on a command line.

    Raises:
        ValueError: if there is no such recipe, or it is none.
    """
    name = value_of("--recipe", given) or "python-docs"
    RECIPES.find(name)
    return name


def config_in(given: Sequence[str]) -> Config:
    """The values of the recipe on a command line, for what is trained there.

    A text that is the user's, and not one of ours, keeps its letter case. A .npy file holds tokens.
    """
    # tyro parses with these defaults, so they must be known before it does.
    config = RECIPES.find(recipe_in(given)).config
    corpus = value_of("--corpus", given)
    if corpus is None:
        return config
    keep_case = flags_in(given).isdisjoint({"--recipe", "--lowercase", "--no-lowercase"})
    return for_text(config, corpus, keep_case=keep_case)
