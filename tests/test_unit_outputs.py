"""The outputs of functions by name, and the weights of the sum whose gradients are compared."""

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from parity.modules.outputs import by_name, cotangent, leaves_with_paths, named_outputs, paths_of

A, B, C = np.array([1.0]), np.array([2.0]), np.array([3.0])


class Pair(NamedTuple):
    h: Any
    c: Any


@dataclasses.dataclass
class Output:
    logits: Any
    cache: Any = None


@flax.struct.dataclass
class State:
    x: Any
    y: Any


class Unregistered:
    """What neither framework knows as a tree."""


CONTAINERS = {
    "array": (A, {(): A}),
    "tuple": ((A, B), {(0,): A, (1,): B}),
    "list": ([A, [B, C]], {(0,): A, (1, 0): B, (1, 1): C}),
    "dictionary": ({"b": A, "a": B}, {("b",): A, ("a",): B}),
    "ordered": (OrderedDict(z=A, y=(B,)), {("z",): A, ("y", 0): B}),
    "numbers as keys": ({0: A}, {("0",): A}),
    "named tuple": (Pair(A, (B, C)), {("h",): A, ("c", 0): B, ("c", 1): C}),
    "dataclass": (Output(A, {"k": B}), {("logits",): A, ("cache", "k"): B}),
    "none is no output": (Output(A), {("logits",): A}),
    "empty": ((A, (), {}, []), {(0,): A}),
    "registered": (State(A, B), {("x",): A, ("y",): B}),
    "numbers": ((1, 2.0, True), {(0,): 1, (1,): 2.0, (2,): True}),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_leaves_of_a_container_with_their_paths(name):
    container, expected = CONTAINERS[name]
    found = list(leaves_with_paths((container,)))
    assert [path for path, _ in found] == [(0, *path) for path in expected]
    assert [leaf for _, leaf in found] == list(expected.values())
    assert paths_of(container) == [path for path, _ in found]


def test_a_class_is_no_instance_and_an_unknown_object_a_leaf():
    thing = Unregistered()
    assert list(leaves_with_paths((thing, Output))) == [((0,), thing), ((1,), Output)]
    start = list(leaves_with_paths((A,), ("outer",)))
    assert start == [(("outer", 0), A)]


def test_tensors_of_either_framework_are_leaves():
    both = (torch.ones(1), jnp.ones(1))
    assert len(paths_of(both)) == 2


def test_outputs_are_matched_by_name_if_both_sides_have_the_same_ones():
    named = paths_of({"a": A, "b": B})
    assert by_name(named, paths_of({"b": B, "a": A}))
    assert not by_name(named, paths_of({"a": A}))
    assert not by_name(paths_of((A, B)), paths_of((A, B)))
    assert not by_name(named, paths_of((A, B)))
    assert by_name(paths_of(({"a": A}, B)), paths_of(({"a": B}, A)))


def test_outputs_are_called_by_number_or_by_name():
    outputs = {"logits": A, "state": (B, C)}
    assert list(named_outputs(outputs, names=False)) == ["output 0", "output 1", "output 2"]
    assert list(named_outputs(outputs, names=True)) == [
        "output logits",
        "output state/0",
        "output state/1",
    ]
    assert list(named_outputs(A, names=True)) == ["output 0"]
    assert named_outputs((A, B), names=False)["output 1"] is B


@pytest.mark.parametrize("make", [torch.tensor, jnp.asarray], ids=["torch", "jax"])
def test_complex_numbers_become_two_real_ones(make):
    number = make(np.array([1 + 2j, 3 - 4j]))
    (real,) = named_outputs(number, names=False).values()
    np.testing.assert_array_equal(np.asarray(real), [[1, 2], [3, -4]])
    (conjugate,) = named_outputs(number.conj(), names=False).values()
    np.testing.assert_array_equal(np.asarray(conjugate), [[1, -2], [3, 4]])
    same = make(np.array([1.0, 2.0]))
    assert named_outputs(same, names=False)["output 0"] is same


def test_cotangents_are_exact_of_both_signs_and_an_outputs_own():
    one = cotangent("output 0", (30, 40))
    assert one.shape == (30, 40)
    sizes = np.abs(one) * 64
    np.testing.assert_array_equal(sizes, np.round(sizes))
    assert sizes.min() == 16
    assert sizes.max() == 64
    assert 0.4 < (one > 0).mean() < 0.6
    np.testing.assert_array_equal(one, cotangent("output 0", [30, 40]))
    assert (one != cotangent("output 1", (30, 40))).any()
    assert cotangent("output 0", ()).shape == ()
