"""What is known of a PyTorch module's weights: classes, names, recurrent layers, ties."""

import re
from collections.abc import Mapping

import torch
from torch import nn

from parity.modules.mapping.candidates import Weight
from parity.modules.mapping.matching import TorchSide
from parity.modules.mapping.names import role_of, taken_apart
from parity.modules.mapping.recurrent import Layer

RECURRENT = re.compile(
    r"(?P<module>.*?)(?P<kind>weight|bias)_(?P<of>ih|hh|hr)(?P<layer>_l\d+)?"
    r"(?P<reverse>_reverse)?"
)
"""A key of a recurrent layer, as `torch.nn.LSTM` and `torch.nn.LSTMCell` name them."""
NORMS = ("BatchNorm", "LayerNorm", "GroupNorm", "InstanceNorm", "RMSNorm", "SyncBatchNorm")


def torch_side(module: nn.Module, *, tied: Mapping[str, tuple[str, ...]]) -> TorchSide:
    """What is known of a module's weights; numbers without a fraction are left out.

    Args:
        module: PyTorch's.
        tied: all keys of each weight that counts as one, by the first.
    """
    state = module.state_dict()
    first_keys = {key: keys[0] for keys in tied.values() for key in keys}
    weights = {}
    kinds = {}
    roles = {}
    for key, tensor in state.items():
        if not tensor.is_floating_point() or first_keys.get(key, key) != key:
            continue
        owner = _owner(module, key)
        kind = type(owner).__name__
        weights[key] = Weight(tuple(tensor.shape), kind, getattr(owner, "groups", 1))
        # A module of the user's that bears no known name says nothing but its own name.
        kinds[key] = kind if type(owner).__module__.startswith("torch.") else ""
        roles[key] = _role(kind, key)
    parts = {key: tuple(key.split(".")) for key in weights}

    def kind_of(path: tuple[str, ...]) -> object:
        found: object = module
        for part in path:
            found = getattr(found, part, None)
        return type(found)

    layers, layer_parts = _layers(weights)
    layer_kinds = {name: kinds[layer.weights[0]] for name, layer in layers.items()}
    return TorchSide(
        weights,
        taken_apart(parts, kind_of, roles, kinds),
        layers,
        taken_apart(layer_parts, kind_of, {}, layer_kinds),
        dict(tied),
    )


def tied_keys(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """All keys of each tensor that has several, by the first."""
    by_tensor: dict[object, list[str]] = {}
    for key, tensor in state.items():
        if tensor.numel():
            by_tensor.setdefault((tensor.data_ptr(), tensor.shape), []).append(key)
    return {keys[0]: tuple(keys) for keys in by_tensor.values() if len(keys) > 1}


def _owner(module: nn.Module, key: str) -> nn.Module:
    # The module that holds a weight; the closest that can be found, behind a wrapper.
    found = module
    for part in key.split(".")[:-1]:
        inner = getattr(found, part, None)
        if not isinstance(inner, nn.Module):
            break
        found = inner
    return found


def _role(kind: str, key: str) -> str:
    name = key.rpartition(".")[2]
    if kind.startswith(NORMS) and name == "weight":
        return "scale"
    if kind.startswith("Embedding") and name == "weight":
        return "embed"
    return role_of(name)


def _layers(
    weights: Mapping[str, Weight],
) -> tuple[dict[str, Layer], dict[str, tuple[str, ...]]]:
    """Recurrent layers by name, and the parts of their names."""
    keys: dict[tuple[str, str, str], dict[str, str]] = {}
    for key in weights:
        match = RECURRENT.fullmatch(key)
        if match:
            place = (match["module"], match["layer"] or "", match["reverse"] or "")
            keys.setdefault(place, {})[f"{match['kind']}_{match['of']}"] = key
    both_ways = any(reverse for _, _, reverse in keys)
    layers = {}
    names = {}
    for (module, layer, reverse), found in keys.items():
        # A projection of the hidden state is none of the known layouts.
        if "weight_hr" in found or not {"weight_ih", "weight_hh"} <= found.keys():
            continue
        rows, hidden_size = weights[found["weight_hh"]].shape
        into = weights[found["weight_ih"]].shape
        biases = tuple(found[name] for name in ("bias_ih", "bias_hh") if name in found)
        if rows % hidden_size or into[0] != rows or len(biases) == 1:
            continue
        name = f"{module}weight_ih{layer}{reverse}"
        layers[name] = Layer(
            (found["weight_ih"], found["weight_hh"]),
            biases,
            rows // hidden_size,
            hidden_size,
            into[1],
        )
        direction = (("reverse",) if reverse else ("forward",)) if both_ways else ()
        prefix = tuple(module.rstrip(".").split(".")) if module else ()
        numbered = (layer.strip("_"),) if layer else ()
        names[name] = (*prefix, *numbered, *direction, "weight")
    return layers, names
