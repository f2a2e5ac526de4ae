"""Names that begin alike stay apart: renamed, left out, shortened, under keys, numbered, mapped."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn.exchange.contents import Contents, Stored
from jaxrnn.exchange.names import renamed, short_names, without
from jaxrnn.exchange.recurrent_layers import sizes_of, take_layers

# A name, and another one that it is the beginning of.
BEGINNINGS = [
    ("rnn.1", "rnn.10"),
    ("layer", "layers"),
    ("layer", "layer_norm"),
    ("l", "l_out"),
    ("encoder.rnn", "encoder.rnn2"),
    ("e", "encoder.e"),
]
alike = pytest.mark.parametrize(("name", "longer"), BEGINNINGS)
LEAVES = ("weight", "bias")
LAYERS = 12
"""With a layer 10, which begins as layer 1 does and comes before layer 2 in alphabetical order."""


def stored(names, shape=(1,)):
    """Tensors by their names, each with a number of its own."""
    return {
        name: Stored(name, "float32", shape, lambda n=n: np.full(shape, n, np.float32))
        for n, name in enumerate(names)
    }


def origins(tensors):
    """For each name, the name in the file."""
    return {name: tensor.name for name, tensor in tensors.items()}


def names_of(*modules):
    """The weights of modules beside one of another name, so that all have nothing in common."""
    return [f"{module}.{leaf}" for module in (*modules, "decoder") for leaf in LEAVES]


def under(**modules):
    """For each weight of a new module, the weight that it was."""
    return {f"{new}.{leaf}": f"{old}.{leaf}" for new, old in modules.items() for leaf in LEAVES}


@alike
def test_a_new_name_is_for_one_of_them(name, longer):
    found = origins(renamed(stored(names_of(name, longer)), {name: "new"}))
    assert found == under(new=name, decoder="decoder") | under(**{longer: longer})


@alike
@pytest.mark.parametrize("turned", [False, True], ids=["in order", "turned"])
def test_each_gets_its_own_new_name(name, longer, turned):
    new_names = {name: "one", longer: "other"}
    if turned:
        new_names = dict(reversed(new_names.items()))
    found = origins(renamed(stored(names_of(name, longer)), new_names))
    assert found == under(one=name, other=longer, decoder="decoder")


@alike
def test_one_of_them_is_left_out(name, longer):
    kept = without(stored(names_of(name, longer)), [name])
    assert list(kept) == names_of(longer)


@alike
def test_short_names_take_off_whole_parts_alone(name, longer):
    names = names_of(name, longer)
    assert short_names(f"model.{full}" for full in names) == {
        f"model.{full}": full for full in names
    }
    beside = [f"{outer}.{full}" for outer in (name, longer) for full in names_of("rnn")]
    first = name.partition(".")[0]
    # What both begin with is a part of its own in some of the pairs.
    shared = f"{first}." if longer.startswith(f"{first}.") else ""
    assert short_names(beside) == {full: full.removeprefix(shared) for full in beside}


@alike
def test_keys_of_a_file_hold_their_own_tensors(name, longer):
    tables = {tuple(key.split(".")): stored([key]) for key in (name, longer)}
    contents = Contents("a file", tables)
    for key in (name, longer):
        assert origins(contents.at(key)) == {key: key}


@pytest.mark.parametrize("form", ["rnn.weight_{kind}_l{layer}", "rnns.{layer}.weight_{kind}_l0"])
def test_layers_are_told_apart_by_their_whole_number(form):
    width = 2
    # In alphabetical order, in which layer 10 comes before layer 2.
    names = sorted(
        form.format(kind=kind, layer=layer) for kind in ("ih", "hh") for layer in range(LAYERS)
    )
    layers = take_layers(stored(names, (width, width)), [])
    assert origins(layers) == {
        f"rnn.weight_{kind}_l{layer}": form.format(kind=kind, layer=layer)
        for kind in ("ih", "hh")
        for layer in range(LAYERS)
    }
    assert sizes_of(layers)["num_layers"] == LAYERS


@alike
def test_a_suggested_map_keeps_them_apart(name, longer):
    """Linear layers, and recurrent ones, whose weights have names and shapes of their own."""
    torch = pytest.importorskip("torch")
    parity = pytest.importorskip("parity")
    size = 4

    def nested(modules):
        # Modules by dotted names.
        top = torch.nn.Module()
        for path, module in modules.items():
            *parts, last = path.split(".")
            owner = top
            for part in parts:
                if not hasattr(owner, part):
                    owner.add_module(part, torch.nn.Module())
                owner = getattr(owner, part)
            owner.add_module(last, module)
        return top

    for make in (lambda: torch.nn.Linear(size, size), lambda: torch.nn.GRU(size, size)):
        # In JAX the longer one comes first: order says the opposite of names.
        module = nested({name: make(), longer: make()})
        params = {}
        for path in (longer, name):
            owner = params
            for part in path.split("."):
                owner = owner.setdefault(part, {})
            for leaf, tensor in make().state_dict().items():
                owner[leaf] = jnp.zeros(tensor.shape)
        found = parity.suggest_map(params, module)
        assert {entry.keys: entry.paths for entry in found.entries} == {
            (key,): (key.replace(".", "/"),) for key in module.state_dict()
        }
