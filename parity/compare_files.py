"""The command `parity compare`: a port in one file, the module that it should equal in another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn
from tyro.conf import Positional, arg

from jaxrnn.exchange.weights import WeightMap
from jaxrnn.output import check_output_folder, write_output
from jaxrnn.registry import is_reference, load_object
from jaxrnn.terminal import FAILED
from parity.modules.compare_models import ModelReport, compare_models
from parity.modules.suggest import suggest_map
from parity.report.page import html_page

# Names of the function in JAX and of the module in PyTorch, where none are given.
FUNCTION = "apply"
MODULE = "module"


@dataclass(frozen=True, kw_only=True)
class CompareFiles:
    """Compare a port in JAX with the PyTorch module that it should equal; say where they differ.

    The file in JAX defines a function of parameters and inputs, and `params`, a tree of arrays or a
    function that makes it. One of the files defines `inputs`, a list of arrays. A `WeightMap` named
    `weight_map` is taken from either; without one it is suggested, and printed. Both files are run.

    Exits with 1 if the two are not equal.
    """

    port: Annotated[Positional[str], arg(metavar="JAX.py[:NAME]")]
    """File and name of the function; it is called `apply` if none is given."""
    original: Annotated[Positional[str], arg(metavar="TORCH.py[:NAME]")]
    """File and name of the module, or of a function that makes it; `module` if none is given."""
    weights: Literal["sampled", "given", "both"] = "sampled"
    """Compare with sampled weights, with the parameters as they are, or with both."""
    dtypes: tuple[str, ...] = ("float64", "float32")
    """Precisions: float64, float32, bfloat16."""
    output: Path | None = None
    """A folder for report.json and report.html, a page to look at; it is made if need be."""

    def __call__(self) -> int:
        """Print the report; returns the exit code."""
        if self.output is not None:
            check_output_folder(self.output, ("report.json", "report.html"))
        report = self._report()
        print(report.summary())
        if self.output is not None:
            write_output(self.output / "report.json", report.to_json(), parents=True)
            write_output(self.output / "report.html", html_page(report), parents=True)
            print(f"\nOpen {self.output / 'report.html'} in a browser to look at every number.")
        return 0 if report.passed else FAILED

    def _report(self) -> ModelReport:
        function, port = _named(self.port, FUNCTION)
        module, original = _named(self.original, MODULE)
        if not isinstance(module, nn.Module):
            module = _made(module, self.original)
        if not isinstance(module, nn.Module):
            raise ValueError(f"{self.original} must be a torch.nn.Module, got {type(module)}.")
        if not callable(function):
            raise ValueError(f"{self.port} must be a function of parameters and inputs.")
        params = _made(_defined("params", self.port, port), self.port)
        either = {**original, **port}
        inputs: Sequence[Any] = _made(
            _defined("inputs", f"{self.port} and {self.original}", either), self.port
        )
        weight_map = either.get("weight_map")
        if weight_map is None:
            weight_map = _suggested(params, module, function, inputs)
        return compare_models(
            function,
            params,
            module,
            weight_map,
            inputs,
            weights=self.weights,
            dtypes=self.dtypes,
        )


def _named(reference: str, usual: str) -> tuple[Any, Mapping[str, Any]]:
    """What FILE.py:NAME names, and all that the file defines."""
    if not is_reference(reference):
        reference = f"{reference}:{usual}"
    if not is_reference(reference):
        raise ValueError(f"Files are named as FILE.py or FILE.py:NAME, got {reference!r:.60}.")
    path = reference.rpartition(":")[0]
    definitions: Mapping[str, Any] = load_object(f"{path}:__dict__")
    return load_object(reference), definitions


def _defined(name: str, where: str, definitions: Mapping[str, Any]) -> Any:
    if name not in definitions:
        raise ValueError(f"{name} is not defined in {where}.")
    return definitions[name]


def _made(value: Any, where: str) -> Any:
    """A value, or what a function without arguments gives."""
    if not callable(value):
        return value
    try:
        return value()
    except Exception as error:  # anything can go wrong in the user's code
        raise ValueError(f"{where} cannot be made: {type(error).__name__}: {error}") from error


def _suggested(
    params: Any, module: nn.Module, function: Callable[..., Any], inputs: Sequence[Any]
) -> WeightMap:
    weight_map = suggest_map(params, module, jax_function=function, inputs=inputs)
    print(f"The weight map is a suggestion:\n\n{weight_map}\n")
    return weight_map
