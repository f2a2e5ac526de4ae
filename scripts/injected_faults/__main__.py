"""Change one operation of a net at random, and look whether `parity.compare_models` finds it.

Each line says whether it is found, in which module it is and in which it was looked for, and the
cause; found, placed and explained are marked by x.
"""

import argparse
import time
import warnings
from typing import Any

import jax
import numpy as np

import parity
from injected_faults.faults import Fault, inject
from injected_faults.nets import KINDS, Net
from parity.modules.compare_models import compare_models


def main() -> None:
    """Inject faults, look for them, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = list(KINDS)
    found = placed = explained = 0
    total = 0
    k = options.seed * 100_000
    while total < options.faults:
        name = kinds[total % len(kinds)]
        rng = np.random.default_rng(k)
        k += 1
        net = KINDS[name](rng)
        fault = inject_with_effect(rng, net)
        if fault is None:
            continue
        total += 1
        began = time.perf_counter()
        report = compare(net, fault)
        seconds = time.perf_counter() - began
        first = report.differences[0] if report.differences else None
        is_found = not report.passed
        is_placed = first is not None and first.module == fault.scope.split("/")[-1]
        is_explained = is_placed and bool(first.cause)  # type: ignore[union-attr]
        found += is_found
        placed += is_placed
        explained += is_explained
        mark = "".join("x" if is_it else "-" for is_it in (is_found, is_placed, is_explained))
        line = f"{mark} {seconds:4.1f} s {k - 1} {name} | {fault.scope} | {fault.words}"
        print(line, "->", first, flush=True)
    print(f"{total} faults: found {found}, place {placed}, cause {explained}")


def weights_of(net: Net) -> dict[str, Any]:
    """Weights by PyTorch's keys, of the right shapes."""
    weights = {}
    for key, tensor in net.module.state_dict().items():
        if tensor.is_floating_point():
            weights[key] = np.asarray(tensor.numpy(), np.float64)
    return weights


def inject_with_effect(rng: np.random.Generator, net: Net) -> Fault | None:
    """A fault that changes an output; None if it does not."""
    weights = weights_of(net)
    sampled = {key: rng.normal(size=array.shape) / 2 for key, array in weights.items()}
    for key in sampled:
        if key.endswith("running_var"):
            sampled[key] = 0.5 + sampled[key] ** 2
    with jax.enable_x64(True):
        fault = inject(rng, net.function, sampled, *net.inputs)
        right = jax.tree.leaves(net.function(sampled, *net.inputs))
        wrong = jax.tree.leaves(fault.function(sampled, *net.inputs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pairs = zip(wrong, right, strict=True)
        distance = max(float(np.linalg.norm(w - r) / np.linalg.norm(r)) for w, r in pairs)
    return fault if distance > 1e-8 else None


def compare(net: Net, fault: Fault) -> Any:
    """The report on a net with a fault."""
    entries = [parity.entry(key, key) for key in weights_of(net)]
    for key, tensor in net.module.state_dict().items():
        if not tensor.is_floating_point():
            entries.append(parity.entry(key, (), parity.Absent(tuple(tensor.shape))))
    weight_map = parity.WeightMap(entries)
    return compare_models(
        fault.function, weights_of(net), net.module, weight_map, net.inputs, dtypes=("float64",)
    )


if __name__ == "__main__":
    main()
