"""PyTorch's own sample inputs of its recurrent modules, run by PyTorch, as arrays in a file.

    python tests/torch_samples.py FILE.npz

It is a program of its own, because to import PyTorch's test suite changes PyTorch for the whole
process: its global flags are locked afterwards.
"""

import inspect
import json
import sys
import types
import unittest

import numpy as np
import torch

# PyTorch's test suite derives its test classes, none of which is used here, from this package's.
if "expecttest" not in sys.modules:
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase
    sys.modules["expecttest"] = stand_in

from torch.testing._internal.common_modules import module_db

CELLS = (torch.nn.RNNCell, torch.nn.GRUCell, torch.nn.LSTMCell)
STACKS = (torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM)
STATES = ("h", "c")
BATCH = 3
SEED = 17


def samples():
    """For each sample its module, the arguments by name, the input, and the states or nothing."""
    for info in module_db:
        if info.module_cls not in CELLS + STACKS:
            continue
        made = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=True, training=True
        )
        for sample in made:
            given = sample.constructor_input
            settings = arguments(info.module_cls, given.args, given.kwargs)
            module = info.module_cls(*given.args, **given.kwargs, dtype=torch.float64)
            x, *rest = sample.forward_input.args
            states = rest[0] if rest else ()
            states = (states,) if isinstance(states, torch.Tensor) else states
            yield module, settings, x, states


def arguments(module_cls, args, kwargs):
    """The arguments of a constructor by their names."""
    names = [n for n in inspect.signature(module_cls).parameters if n not in ("args", "kwargs")]
    if issubclass(module_cls, torch.nn.RNNBase):
        names = ["input_size", "hidden_size", "num_layers"]
    return dict(zip(names, args, strict=False)) | kwargs


def batched(module, x, states):
    """A batch of other numbers in the shapes of a sample, which has no batch axis."""
    stack = isinstance(module, STACKS)
    axis = 1 if stack and not module.batch_first else 0
    more = [
        torch.randn((*array.shape[:place], BATCH, *array.shape[place:]), dtype=array.dtype)
        for array, place in [(x, axis), *((state, 1 if stack else 0) for state in states)]
    ]
    for array in more:
        array.requires_grad_(True)
    return more[0], tuple(more[1:])


def run(module, x, states):
    """Inputs, results, and the gradients of all results times random numbers, by name."""
    hx = None
    if states:
        hx = states if len(states) > 1 else states[0]
    results = module(x, hx)
    if isinstance(module, STACKS):
        ys, after = results
        outputs = {"ys": ys}
    else:
        after = results
        outputs = {}
    after = (after,) if isinstance(after, torch.Tensor) else after
    outputs |= {f"after.{name}": state for name, state in zip(STATES, after, strict=False)}
    inputs = {"x": x}
    inputs |= {f"before.{name}": state for name, state in zip(STATES, states, strict=False)}
    weights = dict(module.named_parameters())
    factors = {name: torch.randn_like(array) for name, array in outputs.items()}
    loss = sum((factors[name] * array).sum() for name, array in outputs.items())
    wanted = {**inputs, **weights}
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    groups = {
        "input": inputs,
        "weight": weights,
        "output": outputs,
        "factor": factors,
        "gradient": dict(zip(wanted, gradients, strict=True)),
    }
    return {
        f"{group} {name}": array.detach().numpy()
        for group, arrays in groups.items()
        for name, array in arrays.items()
    }


def main():
    torch.manual_seed(SEED)
    arrays = {}
    described = []
    for number, (module, settings, x, states) in enumerate(samples()):
        described.append({"module": type(module).__name__, "settings": settings})
        forms = {"as it stands": (x, states), "in a batch": batched(module, x, states)}
        for form, call in forms.items():
            for name, array in run(module, *call).items():
                arrays[f"{number} {form}: {name}"] = array
    np.savez(sys.argv[1], samples=json.dumps(described), **arrays)


if __name__ == "__main__":
    main()
