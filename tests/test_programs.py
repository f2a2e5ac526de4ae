"""Compiled programs: few are kept, those used last, and a training lets its own go."""

import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stress.endurance import CompilationCounter, memory_maps, train_many

import jaxrnn.training
from jaxrnn import TANH, BpttStream, CharLM, Optimizer, fit, make_optimizer
from jaxrnn.programs import PROGRAMS_OF_A_SET, BoundedJit, bounded_jit

TOKENS = np.random.default_rng(0).integers(0, 5, 60).astype(np.uint8)
JITTED = type(jax.jit(lambda x: x))


def power(x, n, *, m=1):
    return x ** (n * m)


def test_the_result_is_the_functions_and_statics_may_be_given_in_any_way():
    program = bounded_jit(static_argnames=("n", "m"))(power)
    x = jnp.arange(3.0)
    for result in (program(x, 3), program(x, n=3), program(n=3, x=x, m=1), program(x, 3, m=1)):
        np.testing.assert_array_equal(result, x**3)
    assert len(program._programs) == 1
    assert program.lower(x, 2).compile()(x).tolist() == [0, 1, 4]
    assert program.__name__ == "power"


def test_the_sets_used_last_are_kept():
    program = bounded_jit(static_argnames=("n", "m"), sets=3)(power)
    x = jnp.ones(2)
    for n in (1, 2, 3, 1, 4):  # 2 was used longest ago
        program(x, n)
    with CompilationCounter() as counter:
        for n in (1, 3, 4):
            program(x, n)
        assert counter.count == 0
        program(x, 2)
        assert counter.count == 1


def test_programs_are_few_whatever_the_shapes_and_static_arguments():
    program = bounded_jit(static_argnames=("n", "m"), sets=4)(power)
    bound, seen = 4 * PROGRAMS_OF_A_SET, []
    for number in range(60):
        x = np.ones(1 + number, np.float32)
        program(x, number // 3)
        assert program._cache_size() <= bound
        seen.append(memory_maps())
    assert max(seen[20:]) < max(seen[:20]) + 20  # each has some 5
    program.clear_cache()
    assert program._cache_size() == 0


def test_a_static_argument_that_cannot_be_hashed_is_refused():
    program = bounded_jit(static_argnames=("n", "m"))(power)
    with pytest.raises(ValueError, match="n and m must be hashable"):
        program(jnp.ones(2), [1])


def modules():
    found = pkgutil.walk_packages(jaxrnn.training.__path__, "jaxrnn.training.")
    return [importlib.import_module(module.name) for module in found]


def test_no_program_of_training_is_kept_without_a_bound():
    members = [member for module in modules() for member in vars(module).values()]
    assert sum(isinstance(member, BoundedJit) for member in members) >= 8
    assert not [member for member in members if isinstance(member, JITTED)]


def test_a_second_training_of_the_same_kind_compiles_nothing():
    def train(seed):
        source = BpttStream(TOKENS, 2, 4)
        optimizer = make_optimizer("sgd", momentum=0.5)
        return fit(CharLM(5, 3, 4), source, optimizer=optimizer, schedule="1 x 0.1", seed=seed)

    train(0)
    with CompilationCounter() as counter:
        train(1)
    assert counter.count == 0


@pytest.mark.slow
def test_trainings_that_differ_leave_no_memory_maps_behind(monkeypatch):
    for module in modules():
        for member in vars(module).values():
            if isinstance(member, BoundedJit):
                member.clear_cache()
                monkeypatch.setattr(member, "sets", 1)
    source, maps = BpttStream(TOKENS, 2, 4), []
    for number in range(4):
        model = CharLM(5, 3, 4 + number, cell=TANH)
        if number % 2:
            fit(model, source, optimizer=optax.sgd(0.1), epochs=1)
        else:
            own = Optimizer(optax.scale_by_sign, clip=1.0 + number)
            fit(model, source, optimizer=own, schedule="1 x 0.1")
        maps.append(memory_maps())
    # a training has about 300
    assert max(maps[2:]) <= max(maps[:2]) + 100


@pytest.mark.slow
def test_hundreds_of_trainings_in_one_process():
    trained = train_many(60)
    assert trained.flat, trained
