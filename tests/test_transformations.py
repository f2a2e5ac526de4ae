"""The README's table of transformations says what is so: every backend under each of them."""

import inspect
import json
import os
import subprocess
import sys
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import EXACT, relative
from transformations import (
    ONE_DEVICE,
    SEVERAL_DEVICES,
    B,
    problem_of,
    text_and_numbers,
)

from jaxrnn import (
    CELLS,
    GRU,
    LAYER_NORM_LSTM,
    LSTM,
    MIN_GRU,
    QRNN,
    Batch,
    CharLM,
    CharLoopConcatModel,
    CharSeqStatefulGRU,
    eval_step,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.data.windows import Windows
from jaxrnn.recurrent.recurrence import backend, why_not_compiled
from jaxrnn.training.steps import eval_steps, train_steps

WAYS = ("autodiff", "scan", "compiled", "parallel")
OTHERS = {
    "`jax.export` for CPU, CUDA and TPU",
    "a batch size left open (`symbolic_shape`)",
    "bfloat16, float16",
    "float64",
    "`disable_jit`",
    "`debug_nans`",
}


def table():
    """For each transformation, what the README says of every backend."""
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = text.split("\n### Transformations\n")[1].split("\n## ")[0].split("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(WAYS, words, strict=True)) for name, *words in cells}


def usable(way):
    """Skip where a backend cannot run."""
    if way == "compiled" and (reason := why_not_compiled()):
        pytest.skip(reason)


def cell_of(way):
    return MIN_GRU if way == "parallel" else GRU


def test_every_transformation_has_a_row():
    assert set(table()) == {*ONE_DEVICE, *SEVERAL_DEVICES, *OTHERS}
    assert {word for row in table().values() for word in row.values()} == {"yes", "plain", "scan"}


@lru_cache
def by_autodiff(name, cell):
    """The numbers of a transformation by JAX's own derivatives; made once for all backends."""
    problem = problem_of(cell)
    with backend("autodiff"):
        return jax.jit(partial(ONE_DEVICE[name], problem))(problem.arguments[0])


# In the scan it is the same code as compiled, and takes longest.
THIRD = pytest.param("third derivative", "scan", marks=pytest.mark.slow)
CASES = [(name, way) for name in ONE_DEVICE for way in WAYS[1:]]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "way"), [THIRD if case == ("third derivative", "scan") else case for case in CASES]
)
@pytest.mark.usefixtures("float64")
def test_a_transformation_gives_the_numbers_of_autodiff(name, way):
    usable(way)
    problem = problem_of(cell_of(way))
    params = problem.arguments[0]
    with backend(way):
        text, got = text_and_numbers(partial(ONE_DEVICE[name], problem), params)
    assert relative(got, by_autodiff(name, cell_of(way))) < EXACT
    if way == "compiled":
        assert "jaxrnn_forward" in text
        assert table()[name][way] == "plain" or "jaxrnn_backward" in text or "batches" in name


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.usefixtures("float64")
def test_without_a_program_the_numbers_are_the_same(way):
    usable(way)
    problem = problem_of(cell_of(way))
    for name in ("`grad`, `vjp`, `jacrev`", "`jvp`", "forward over reverse"):
        with backend(way):
            got = ONE_DEVICE[name](problem, problem.arguments[0])
        assert relative(got, by_autodiff(name, cell_of(way))) < EXACT


def test_several_devices_run_their_rows_and_gather_none():
    ways = [way for way in WAYS if way != "compiled" or not why_not_compiled()]
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("transformations.py")), *ways],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout)
    assert len(seen) == len(ways) * 2 * len(SEVERAL_DEVICES)
    for problem, name, way, error, compiled, gathers in seen:
        assert error < EXACT, (problem, name, way)
        # But for a QRNN's previous inputs, as the README says.
        assert gathers == 0 or (problem == "characters" and "Auto" in name), (problem, name, way)
        assert compiled == (way == "compiled" and table()[name][way] == "yes"), (name, way)


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", WAYS)
def test_an_exported_program_runs_everywhere(way):
    """It holds no call into the library, and its carry is saved with it."""
    pytest.importorskip("flatbuffers", reason="jax.export saves programs with flatbuffers")
    usable(way)
    problem = problem_of(cell_of(way), jnp.float32)
    gradient = jax.grad(problem.loss, (0, 1))
    with backend(way):
        for function in (problem.run, gradient):
            expected = jax.jit(function)(*problem.arguments)
            for platforms in (["cpu"], ["cuda"], ["tpu"], ["cpu", "cuda"]):
                program = jax.export.export(jax.jit(function), platforms=platforms)
                exported = program(*problem.arguments)
                assert "jaxrnn_" not in exported.mlir_module()
                again = jax.export.deserialize(exported.serialize())
                if "cpu" in platforms and jax.default_backend() == "cpu":
                    assert relative(again.call(*problem.arguments), expected) < 1e-5


TRAINED = {
    "stateful-gru": CharSeqStatefulGRU(30, 8, 16),
    "windows": CharLoopConcatModel(30, 8, 16),
    "two layers, dropout": CharLM(30, 8, 16, cell=LSTM, num_layers=2, dropout=0.5),
    "qrnn": CharLM(30, 8, 16, cell=QRNN),
    "free cell": CharLM(30, 8, 16, cell=LAYER_NORM_LSTM),
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_for_an_accelerator_on_a_machine_without_one(name):
    """Every program of training; none of them calls into the library, which runs on CPUs."""
    model = TRAINED[name]
    optimizer = make_optimizer("adam", clip=1.0)
    B, T = 4, 8
    state = make_state(model, optimizer, B, jax.random.key(0))
    stateful = bool(jax.tree.leaves(state.carry))
    tokens = jnp.zeros((T, B), int)
    batch = Batch(tokens, tokens)
    windows = Windows(
        tokens=jnp.zeros(100, jnp.uint8),
        starts=np.zeros((2, B), np.int32),
        lengths=np.full(2, T, np.int32),
        rows=np.full(2, B, np.int32),
        sizes=(T,),
        padded=stateful,
    )
    rates = np.ones(2, np.float32)
    step = partial(inspect.unwrap(train_step), model, optimizer)
    programs = [
        (step, (state, batch, 0.1)),
        (partial(inspect.unwrap(train_steps), model, optimizer), (state, windows, rates, 2)),
        (partial(inspect.unwrap(eval_step), model), (state.params, state.carry, batch)),
        (partial(inspect.unwrap(eval_steps), model), (state.params, state.carry, windows, 2)),
    ]
    if stateful:
        programs.append((partial(step, remat_every=4), (state, batch, 0.1)))
    for program, arguments in programs:
        traced = jax.jit(program).trace(*arguments)
        for platform in ("cuda", "tpu"):
            assert "jaxrnn_" not in traced.lower(lowering_platforms=(platform,)).as_text()
        if name == "qrnn" and not why_not_compiled():
            assert "jaxrnn_" in traced.lower().as_text()


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", WAYS)
def test_a_program_with_an_open_batch_size_takes_any(way):
    pytest.importorskip("flatbuffers", reason="jax.export saves programs with flatbuffers")
    usable(way)
    problem = problem_of(cell_of(way), jnp.float32)
    params, carry, xs = problem.arguments
    (rows,) = jax.export.symbolic_shape("rows")

    def opened(array, axis):
        shape = (*array.shape[:axis], rows, *array.shape[axis + 1 :])
        return jax.ShapeDtypeStruct(shape, array.dtype)

    gradient = jax.grad(problem.loss, (0, 1))
    with backend(way):
        for function in (problem.run, gradient):
            like = jax.tree.map(lambda field: opened(field, 0), carry)
            exported = jax.export.export(jax.jit(function))(params, like, opened(xs, 1))
            for count in (B, 2):
                some = jax.tree.map(lambda field: field[:count], carry), xs[:, :count]  # noqa: B023
                got = exported.call(params, *some)
                assert relative(got, jax.jit(function)(params, *some)) < 1e-5


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_gives_the_numbers_of_autodiff(way, dtype):
    usable(way)
    problem = problem_of(cell_of(way), dtype)
    gradient = jax.grad(problem.loss, (0, 1, 2))
    with backend("autodiff"):
        expected = gradient(*problem.arguments)
    with backend(way):
        text, got = text_and_numbers(gradient, *problem.arguments)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
    wide = [jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree) for tree in (got, expected)]
    assert relative(*wide) < 100 * float(jnp.finfo(dtype).eps)
    assert "jaxrnn_" not in text


@pytest.mark.sample(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("option", [jax.disable_jit, jax.debug_nans])
@pytest.mark.usefixtures("float64")
def test_debugging_changes_no_number(way, option):
    usable(way)
    problem = problem_of(cell_of(way))
    gradient = jax.grad(problem.loss, (0, 1, 2))
    with backend(way):
        expected = gradient(*problem.arguments)
        with option(True):
            got = gradient(*problem.arguments)
    assert relative(got, expected) < EXACT


@pytest.mark.usefixtures("float64")
def test_debug_nans_names_the_primitive_of_a_nan():
    problem = problem_of(GRU)
    params, carry, xs = problem.arguments
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        problem.run(params, carry, xs.at[1, 2].set(jnp.nan))


@pytest.mark.parametrize("name", [name for name in CELLS if name not in ("gru", "mingru")])
@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_every_cell_has_derivatives_of_every_mode_and_order(name):
    problem = problem_of(CELLS[name])
    for row, function in ONE_DEVICE.items():
        got = jax.jit(partial(function, problem))(problem.arguments[0])
        assert relative(got, by_autodiff(row, CELLS[name])) < 10 * EXACT, row
