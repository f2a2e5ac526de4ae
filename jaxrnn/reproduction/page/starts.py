"""JAX and PyTorch from the same weights: how far apart they end, how long they can be followed."""

import itertools
from collections.abc import Sequence

from jaxrnn.reproduction.page.commands import HORIZON_COMMAND, recipe_command
from jaxrnn.reproduction.page.markdown import image, not_run, power, table
from jaxrnn.reproduction.page.records import Findings, Horizon, Start
from jaxrnn.reproduction.units import Unit
from jaxrnn.runs.recipes import RECIPES

PICTURE = "horizon.png"
LIMITS: dict[str, tuple[float | None, float]] = {
    "float64": (1e-10, 1e-12),
    "float32": (None, 1e-4),
}
"""Of the weights (relL2) and of every validation loss (nats), by precision."""
PROMISED = ("stateful-rnn", "stateful-gru")
"""Recipes of which the project promises that the limits hold."""
ABOUT = """Each run of jaxrnn's and its twin in PyTorch start from the same weights and read the
same windows, so what separates them is round-off and what training makes of it. `weights` is the
largest relative distance |ours - theirs|₂ / |theirs|₂ of any tensor at the end, `val` the largest
difference, either way, of any epoch's validation loss; both are the largest over the seeds. Recipes
without a published validation loss are left out."""
HEADS = ("recipe", "precision", "seeds", "steps", "weights", "limit", "val", "limit", "both hold")


def section(findings: Findings) -> str:
    """The pairs, then the horizon."""
    judged = [start for start in findings.starts if RECIPES[start.recipe].validation]
    groups = [
        list(group) for _, group in itertools.groupby(judged, key=lambda s: (s.dtype, s.recipe))
    ]
    groups.sort(key=lambda group: group[0].dtype, reverse=True)
    pieces = ["## From identical starts", ABOUT]
    if groups:
        rows = [_row(findings, group) for group in groups]
        pieces += [table(HEADS, rows, words=2), _remarks(groups), _promised_epochs(groups)]
    have = {(start.recipe, start.dtype) for start in findings.starts}
    for dtype in LIMITS:
        if missing := [recipe for recipe in PROMISED if (recipe, dtype) not in have]:
            pieces.append(f"{dtype}, {not_run(recipe_command(' '.join(missing), dtype))}")
    return "\n\n".join(piece for piece in [*pieces, _horizon(findings.horizons)] if piece)


def _row(findings: Findings, group: Sequence[Start]) -> list[str]:
    recipe, dtype = group[0].recipe, group[0].dtype
    weights, val = _worst(group)
    limits = LIMITS[dtype]
    (*_, record) = findings.of(recipe, dtype=dtype)
    cells = [_shown(recipe), dtype, str(len(group)), str(record.steps)]
    cells += [power(weights), _limit(limits[0]), power(val), _limit(limits[1])]
    return [*cells, "other masks" if _drops(recipe) else "yes" if _holds(group) else "no"]


def _shown(recipe: str) -> str:
    return f"**{recipe}**" if recipe in PROMISED else recipe


def _limit(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:.0e}"


def _worst(group: Sequence[Start]) -> tuple[float, float]:
    """The largest distance of the weights, and of the validation losses."""
    pairs = [start.pair for start in group]
    return max(pair.weights for pair in pairs), max(pair.farthest for pair in pairs)


def _holds(group: Sequence[Start]) -> bool:
    """Whether both limits hold for every seed."""
    limits = LIMITS[group[0].dtype]
    return all(
        limit is None or found <= limit for found, limit in zip(_worst(group), limits, strict=True)
    )


def _drops(recipe: str) -> bool:
    return Unit(recipe=recipe).config.dropout > 0


def _remarks(groups: Sequence[Sequence[Start]]) -> str:
    """Whose limits hold, and of whom that was not to be expected."""
    promised = [group for group in groups if group[0].recipe in PROMISED]
    held = sum(map(_holds, promised))
    text = "The limits are a promise for the recipes in bold, and a comparison for the others."
    text += (
        f" Of the {len(PROMISED) * len(LIMITS)} that are promised, {len(promised)} "
        f"{'has' if len(promised) == 1 else 'have'} been run, and {held} "
        f"{'holds' if held == 1 else 'hold'}."
    )
    if any(_drops(group[0].recipe) for group in groups):
        text += " Where there is dropout, PyTorch draws other masks, and nothing is promised."
    return text


def _promised_epochs(groups: Sequence[Sequence[Start]]) -> str:
    """The differences of the promised recipes, epoch by epoch."""
    promised = [group for group in groups if group[0].recipe in PROMISED]
    if not promised:
        return ""
    most = max(len(start.pair.validation) for group in promised for start in group)
    rows = []
    for group in promised:
        losses = [start.pair.validation for start in group]
        largest = [power(max(abs(found[epoch]) for found in losses)) for epoch in losses[0]]
        blank = [""] * (most - len(largest))
        rows.append([f"{group[0].recipe}, {group[0].dtype}", *largest, *blank])
    heads = ["difference of the validation losses after epoch", *map(str, range(1, most + 1))]
    return table(heads, rows)


def _horizon(horizons: Sequence[Horizon]) -> str:
    """How many steps runs stay together."""
    title = "### How long a chaotic recipe can be followed"
    missing = [dtype for dtype in LIMITS if dtype not in {h.dtype for h in horizons}]
    lines = [not_run(f"{HORIZON_COMMAND} --dtype {dtype}") for dtype in missing]
    if not horizons:
        return "\n\n".join([title, *lines])
    about = (
        f"{' and '.join(dict.fromkeys(h.recipe for h in horizons))} at its first learning rate, "
        "without dropout: any round-off grows exponentially, within PyTorch as much as between it "
        "and JAX. Two runs count as apart when all their weights together differ by more than "
        f"{' or '.join(dict.fromkeys(f'{h.limit:g}' for h in horizons))} (relL2). PyTorch beside "
        "itself started from weights one unit in the last place (1 ulp) apart."
    )
    heads = ("precision", "JAX and PyTorch together for", "PyTorch and PyTorch, 1 ulp off, for")
    ends = ("JAX - PyTorch at the end", "1 ulp at the end", "steps followed")
    rows = [_horizon_row(horizon) for horizon in horizons]
    picture = image(PICTURE, "distance of the weights against steps")
    return "\n\n".join([title, about, table([*heads, *ends], rows), picture, *lines])


def _horizon_row(horizon: Horizon) -> list[str]:
    distances = (horizon.jax_torch, horizon.torch_ulp)
    return [
        f"{horizon.recipe}, {horizon.dtype}",
        *(_together(horizon, found) for found in distances),
        *(power(found[-1]) for found in distances),
        str(horizon.steps[-1]),
    ]


def _together(horizon: Horizon, distances: Sequence[float]) -> str:
    step = horizon.within(distances)
    if step is None:
        return f"less than {horizon.steps[0]} step"
    every = "all " if step == horizon.steps[-1] else ""
    return f"{every}{step} {'step' if step == 1 else 'steps'}"
