"""The commands that give what is on the page, as they are typed."""

from collections.abc import Sequence

from jaxrnn.reproduction.page.markdown import COMMAND
from jaxrnn.reproduction.page.records import Findings, Horizon, Record
from jaxrnn.reproduction.studies import STUDIES

HORIZON_COMMAND = "./scripts/parity horizon"


def training_commands(findings: Findings) -> list[str]:
    """What trains the units on the page; those that are done are not trained again."""
    groups: dict[str, list[str]] = {}
    for recipe, dtype in dict.fromkeys(
        (r.unit.recipe, r.unit.dtype) for r in findings.records if not r.unit.study
    ):
        ours, theirs = (findings.of(recipe, name, dtype=dtype) for name in ("jax", "torch"))
        groups.setdefault(_flags(ours, theirs, dtype), []).append(recipe)
    commands = [f"{COMMAND} {' '.join(recipes)} {flags}" for flags, recipes in groups.items()]
    studies = dict.fromkeys(r.unit.study for r in findings.records if r.unit.study)
    if studies:
        commands.append(studies_command(*studies))
    return commands + [horizon_command(horizon) for horizon in findings.horizons]


def _flags(ours: Sequence[Record], theirs: Sequence[Record], dtype: str) -> str:
    framework = "both" if ours and theirs else "torch" if theirs else "jax"
    seeds = 1 + max(record.unit.seed for record in (*ours, *theirs))
    words = [f"--seeds {seeds}", f"--framework {framework}", f"--dtype {dtype}"]
    return " ".join(word for word in words if word not in ("--framework jax", "--dtype float32"))


def recipe_command(recipe: str, dtype: str = "float32") -> str:
    """What trains a recipe in both frameworks."""
    if dtype == "float64":
        return f"{COMMAND} {recipe} --seeds 1 --framework both --dtype float64"
    return f"{COMMAND} {recipe} --framework both"


def studies_command(*studies: str) -> str:
    """What trains studies; it trains their recipes as they are, too."""
    recipes = dict.fromkeys(recipe for study in studies for recipe in STUDIES[study].recipes)
    return f"{COMMAND} {' '.join(recipes)} --studies"


def horizon_command(horizon: Horizon) -> str:
    """What follows runs until they part."""
    return (
        f"{HORIZON_COMMAND} --recipe {horizon.recipe} --dtype {horizon.dtype} "
        f"--steps {horizon.steps[-1]} --seed {horizon.seed}"
    )
