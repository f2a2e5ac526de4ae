"""Compare cells and models: the same data, the same seeds, in worker processes; resumable.

Every contender is `CharLM` with its cell, or a model, and is trained with every seed, on the same
windows. One thing besides is equal, by choice: the characters read, the time, or the number of
parameters. See `jaxrnn.runs.comparison` for what is in the folder.
"""

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from jaxrnn.checks import check_at_least_1, check_bool
from jaxrnn.files import locked
from jaxrnn.output import check_output_folder
from jaxrnn.runs.comparison import (
    COMPARISON,
    FORMAT,
    RESULTS,
    Comparison,
    read_comparison,
    read_json,
    result_path,
    training_id,
    write_json,
)
from jaxrnn.runs.comparison_plan import TASK_CONFIG, Equal, Plan, plan_comparison
from jaxrnn.runs.config import Config
from jaxrnn.runs.environment import available_cores
from jaxrnn.runs.jobs import Job, finish_jobs, introduction
from jaxrnn.runs.recipes import RECIPES, for_text
from jaxrnn.runs.run import RunError
from jaxrnn.runs.settings import named_differences
from jaxrnn.runs.speed import updates_in
from jaxrnn.terminal import Screen, stop_requests

logger = logging.getLogger(__name__)

COMPARISONS = Path("comparisons")
"""Folder of the comparisons that have no folder of their own."""
SECONDS_TO_START = 6.0
"""About how long a process takes to import, to read the text and to compile."""
JOBS = "jaxrnn.runs.comparison_jobs"


def compare(
    contenders: Sequence[Any],
    *,
    corpus: Path | str | None = None,
    recipe: str | None = None,
    seeds: int = 3,
    steps: int | None = None,
    minutes: float | None = None,
    equal: Equal = "characters",
    task: str | None = None,
    task_length: int | None = None,
    folder: Path | str | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **changes: Any,
) -> Comparison:
    """Train cells and models with the same seeds on the same data, in worker processes.

    The same call goes on where it was stopped, and does nothing when all is finished; more seeds
    are added to those that are there. Ctrl-C stops and saves: what is finished is returned.

    Args:
        contenders: at least two: names of cells or models, FILE.py:NAME, or cells and classes of
            models of this package. The first is the baseline of the differences.
        corpus: the text, as for `jaxrnn train`; the recipe's if None.
        recipe: the recipe with all other values; "python-docs" if None.
        seeds: number of seeds, at least 1.
        steps: number of updates of each training; as many as the schedule has if None.
        minutes: minutes of updates on one core, instead of steps; the speed is measured first.
        equal: "characters", the same number of updates for all; "minutes", the same time for each;
            or "parameters", the same number of updates, and hidden_size such that each has about
            as many parameters as the first.
        task: a generated task instead of a text: "adding", "copying" or "brackets".
        task_length: the length of the task; its own if None.
        folder: where everything is kept; comparisons/NAME if None.
        jobs: number of processes at once; one a core if None.
        progress: whether to show a progress bar, and a line for each training.
        changes: other values of the configuration: hidden_size=128, schedule="2 x 1e-3", ...

    Raises:
        ValueError: if an argument does not fit, or the folder has another comparison.
    """
    check_bool(progress=progress)
    _check_names(changes)
    if steps is not None:
        changes["steps"] = steps
    if task is None:
        config = _config_for_text(recipe, corpus, changes)
    elif corpus is not None or recipe is not None:
        raise ValueError("A task is generated: leave corpus and recipe out, or task.")
    else:
        config = replace(TASK_CONFIG, **changes)
    plan = plan_comparison(
        contenders,
        config,
        seeds=seeds,
        minutes=minutes,
        equal=equal,
        task=task,
        task_length=task_length,
    )
    place = COMPARISONS / plan.name if folder is None else Path(folder)
    with contextlib.ExitStack() as stack:
        screen = stack.enter_context(Screen()) if progress else None
        stopping = stack.enter_context(stop_requests(ctrl_c_alone=True))
        comparison = run_comparison(plan, place, stopping, jobs=jobs, screen=screen)
        if stopping():
            logger.warning("Stopped and saved in %s: the same call goes on from there.", place)
    for name, error in comparison.failures.items():
        logger.warning("%s failed: %s", name, error)
    return comparison


def run_comparison(
    plan: Plan,
    folder: Path,
    stopping: Callable[[], int],
    *,
    jobs: int | None = None,
    screen: Screen | None = None,
) -> Comparison:
    """Train what is not finished yet, and write records, table and picture.

    Args:
        plan: what is compared.
        folder: its folder; made if it is not there.
        stopping: when it gives something else than 0, all is saved and the trainings end.
        jobs: number of processes at once; one a core if None.
        screen: shows a bar and a line for each training; nothing is shown if None.

    Returns:
        The comparison, as far as it is finished.

    Raises:
        RunError: if the folder has another comparison, or cannot be read or written.
        LockedError: if another process works in it.
    """
    processes = usual_processes() if jobs is None else jobs
    check_at_least_1(jobs=processes)
    check_output_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            description = _begun(plan, folder)
            failures = _measure(plan, folder, description, stopping, screen)
            if not failures and not stopping():
                if screen is not None:
                    for line in _lines_about(plan, description):
                        screen.line(line)
                failures = _train(plan, folder, description, stopping, screen, processes)
            comparison = read_comparison(folder, failures)
            comparison.save()
            return comparison
    except OSError as error:
        raise RunError(f"Cannot write to {folder}: {error.strerror or error}.") from error


def usual_processes() -> int:
    """One process a core; a single one where JAX_PLATFORMS names an accelerator."""
    platforms = os.environ.get("JAX_PLATFORMS", "cpu")
    return len(available_cores()) if platforms in ("", "cpu") else 1


def _begun(plan: Plan, folder: Path) -> dict[str, Any]:
    """The description of the comparison in a folder, which is made or found there.

    Raises:
        RunError: if the folder has another comparison.
    """
    path = folder / COMPARISON
    description: dict[str, Any]
    if path.exists():
        description = read_json(path)
        other = named_differences(description["settings"], plan.settings)
        if other:
            raise RunError(
                f"{folder} has another comparison, with other {other}: name another folder, or "
                "remove it."
            )
        description["seeds"] = plan.seeds
    else:
        if (folder / RESULTS).exists():
            raise RunError(f"{folder} has results, and no {COMPARISON}: name another folder.")
        task = None
        if plan.task is not None:
            task = {"measure": plan.task.measure, "baseline": plan.task.baseline}
        description = {
            "format": FORMAT,
            "settings": plan.settings,
            "seeds": plan.seeds,
            "unit": plan.unit,
            "task": task,
            "contenders": [
                {
                    "label": one.label,
                    "name": one.name,
                    "hidden_size": plan.hidden_sizes[one.label],
                    "parameters": plan.parameters[one.label],
                    # By the schedule's epochs if None; by minutes, once the speed is measured.
                    "steps": plan.config.steps,
                    "seconds_per_update": None,
                }
                for one in plan.contenders
            ],
        }
    write_json(path, description)
    return description


def _measure(
    plan: Plan,
    folder: Path,
    description: dict[str, Any],
    stopping: Callable[[], int],
    screen: Screen | None,
) -> dict[str, str]:
    """Measure the speed, where minutes are asked for, and fix the numbers of updates.

    Returns:
        The errors of measurements that failed.
    """
    entries = description["contenders"]
    if plan.minutes is None or all(entry["steps"] is not None for entry in entries):
        return {}
    # At equal characters the first one's speed decides for all.
    measured = plan.contenders if plan.equal == "minutes" else plan.contenders[:1]
    waiting = []
    paths = {}
    for one in measured:
        paths[one.label] = folder / "speed" / f"{one.label}.json"
        config = plan.config_of(one, plan.config.seed, None).to_dict()
        arguments = {"config": config, "path": str(paths[one.label])}
        if not paths[one.label].exists():
            waiting.append(Job(one.label, f"the speed of {one.label}", arguments))
    # One after the other, so that all are measured alike.
    failures = finish_jobs(f"{JOBS}:measure", waiting, 1, stopping, screen=screen, threads=1)
    if failures or stopping():
        return failures
    for place, entry in enumerate(entries):
        one = measured[min(place, len(measured) - 1)]
        seconds = read_json(paths[one.label])["seconds_per_update"]
        entry["steps"] = updates_in(plan.minutes, seconds)
        if plan.equal == "minutes":
            entry["seconds_per_update"] = seconds
    write_json(folder / COMPARISON, description)
    return {}


def _train(
    plan: Plan,
    folder: Path,
    description: dict[str, Any],
    stopping: Callable[[], int],
    screen: Screen | None,
    processes: int,
) -> dict[str, str]:
    """Train what is not finished yet; returns the errors of trainings that failed, by id."""
    waiting = []
    seeds = range(plan.config.seed, plan.config.seed + plan.seeds)
    # Seed by seed: what is stopped early has all contenders.
    for seed in seeds:
        for one, entry in zip(plan.contenders, description["contenders"], strict=True):
            if result_path(folder, one.label, seed).exists():
                continue
            seconds = None
            if entry["seconds_per_update"] is not None:
                seconds = SECONDS_TO_START + entry["steps"] * entry["seconds_per_update"]
            arguments = {
                "folder": str(folder),
                "contender": one.label,
                "seed": seed,
                "config": plan.config_of(one, seed, entry["steps"]).to_dict(),
                "parameters": entry["parameters"],
                "task": None if plan.task is None else plan.task.name,
                "task_length": None if plan.task is None else plan.task.length,
            }
            title = f"{one.label}, seed {seed}"
            waiting.append(Job(training_id(one.label, seed), title, arguments, seconds))
    if not waiting:
        return {}
    if screen is not None:
        count = len(seeds) * len(plan.contenders)
        screen.line(introduction(waiting, count, processes))

    def on_done(job: Job) -> None:
        if screen is None:
            return
        result = read_json(result_path(folder, job.arguments["contender"], job.arguments["seed"]))
        loss = result["validation"]
        words = f"diverged: {result['diverged']}" if loss is None else f"loss {loss:.4g}"
        screen.line(f"{job.title}: {words}")

    # One thread each: the time is that of one core, and the bits do not depend on `processes`.
    return finish_jobs(
        f"{JOBS}:train",
        waiting,
        processes,
        stopping,
        screen=screen,
        on_done=on_done,
        threads=1,
    )


def _lines_about(plan: Plan, description: dict[str, Any]) -> list[str]:
    """What was chosen for each contender, where it was not asked for."""
    lines = []
    first = description["contenders"][0]
    for entry in description["contenders"]:
        label = entry["label"]
        if plan.equal == "parameters":
            apart = 100 * (entry["parameters"] / first["parameters"] - 1)
            lines.append(
                f"{label}: hidden_size {entry['hidden_size']}, {entry['parameters']:,} parameters "
                f"({apart:+.2f} %)"
            )
        if plan.minutes is not None:
            lines.append(f"{label}: {entry['steps']:,} updates")
    return lines


def _config_for_text(
    recipe: str | None, corpus: Path | str | None, changes: dict[str, Any]
) -> Config:
    """The configuration of a recipe on a text, with changes."""
    name = "python-docs" if recipe is None else recipe
    config = RECIPES.find(name).config
    if corpus is not None:
        keep_case = recipe is None and "lowercase" not in changes
        config = replace(for_text(config, str(corpus), keep_case=keep_case), corpus=str(corpus))
    # Options of the recipe's model are none of the contenders'.
    return replace(config, **{"model": "CharLM", "identity": False, **changes})


def _check_names(changes: dict[str, Any]) -> None:
    """Refuse options that there are not, and those that the contenders decide."""
    for name in ("model", "cell"):
        if name in changes:
            raise ValueError(f"The contenders say which {name}: name them first, and no {name}=.")
    known = {field.name for field in fields(Config)}
    for name in changes:
        if name not in known:
            raise ValueError(
                f"compare has no option {name!r:.60}; those of a configuration are "
                f"{', '.join(sorted(known))}."
            )
