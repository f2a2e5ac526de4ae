"""Ports of PyTorch modules to JAX, each with what `suggest_map` gets: for tests of weight maps.

A port is (function, params, module, inputs). Shapes: T time steps, B batch, I inputs, H hidden
size, E embedding size, V vocabulary.
"""

import os

# Read when keras is imported.
os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from jax import lax
from torch import nn

T, B, I, H, E, V = 5, 3, 4, 6, 8, 11
HEADS = 2
KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(B, E))
BATCHES = RNG.normal(size=(B, T, E))
XS = RNG.normal(size=(T, B, I))
IMAGES = RNG.normal(size=(2, 3, 8, 7))  # (B, C, height, width)
SERIES = RNG.normal(size=(2, 3, 9))  # (B, C, length)
TOKENS = RNG.integers(0, V, (B, T))
PORTS = {}
IN_FLOAT32 = {
    *("keras_attention", "keras_mlp", "keras_lstm", "keras_gru", "keras_simple_rnn"),
    "keras_transposed_convolution",
    "nnx_attention_as_a_state",
}
"""Ports that compute in float32 inside, whatever they get."""


def port(make):
    """Put a port on the list, by its name."""
    PORTS[make.__name__] = make
    return make


def linen_port(network, module, *inputs, collections=False, turn=lambda x: x):
    """A Linen module as a port; `turn` brings an input to its layout."""
    turned = [turn(jnp.asarray(x)) for x in inputs]
    variables = network.init(KEY, *turned)
    if collections:
        return lambda p, *xs: network.apply(p, *map(turn, xs)), variables, module, inputs
    params = variables["params"]
    return lambda p, *xs: network.apply({"params": p}, *map(turn, xs)), params, module, inputs


def mlp():
    """Four layers, three of them square."""
    layers = []
    for _ in range(3):
        layers += [nn.Linear(E, E), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(E, 4))


class LinenMLP(linen.Module):
    """The same in Linen."""

    @linen.compact
    def __call__(self, x):
        for _ in range(3):
            x = jnp.tanh(linen.Dense(E)(x))
        return linen.Dense(4)(x)


@port
def linen_mlp():
    return linen_port(LinenMLP(), mlp(), ROWS)


def plain_mlp(layers, x):
    """The same from (weight, bias) of each layer, with weights (in, out)."""
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def plain_layers():
    return [(np.zeros((E, E)), np.zeros(E)) for _ in range(3)] + [(np.zeros((E, 4)), np.zeros(4))]


@port
def mlp_as_a_list_of_pairs():
    return plain_mlp, plain_layers(), mlp(), (ROWS,)


@port
def mlp_in_one_flat_dictionary():
    params = {}
    for k, (weight, bias) in enumerate(plain_layers(), start=1):
        params |= {f"W{k}": weight, f"b{k}": bias}

    def run(p, x):
        return plain_mlp([(p[f"W{k}"], p[f"b{k}"]) for k in range(1, 5)], x)

    return run, params, mlp(), (ROWS,)


@port
def mlp_with_names_in_another_order_and_weights_both_ways_round():
    names = ("gamma_ray", "delta", "beta_ray", "alpha")
    params = {
        name: {"m": weight, "t": bias}
        for name, (weight, bias) in zip(names, plain_layers(), strict=True)
    }

    def run(p, x):
        layers = [(p[name]["m"], p[name]["t"]) for name in names]
        layers[1] = (layers[1][0].T, layers[1][1])  # (out, in), as PyTorch has it
        return plain_mlp(layers, x)

    return run, params, mlp(), (ROWS,)


class ConvNet1d(nn.Module):
    """Two convolutions, the first with a norm behind it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)
        self.conv2, self.head = nn.Conv1d(6, 6, 1), nn.Linear(6, 4)

    def forward(self, x):
        x = torch.tanh(self.bn1(self.conv1(x)))
        return self.head(self.conv2(x).mean(-1))


class LinenConvNet1d(linen.Module):
    """The same, channels last."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(6, (3,), padding="VALID")(x)
        x = jnp.tanh(linen.BatchNorm(use_running_average=True, epsilon=1e-5)(x))
        x = linen.Conv(6, (1,))(x)
        return linen.Dense(4)(x.mean(-2))


def channels_last(x):
    return jnp.moveaxis(x, 1, -1)


@port
def linen_convolutions_1d_with_batch_norm():
    return linen_port(
        LinenConvNet1d(), ConvNet1d().eval(), SERIES, collections=True, turn=channels_last
    )


class LinenConvNet2d(linen.Module):
    """Convolutions in groups, and group norm."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(6, (3, 2), padding="VALID")(x)
        x = jnp.tanh(linen.GroupNorm(num_groups=2, epsilon=1e-5)(x))
        x = linen.Conv(6, (3, 3), padding="VALID", feature_group_count=2)(x)
        return linen.Dense(4)(x.mean((1, 2)))


class ConvNet2d(nn.Module):
    """The same."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, (3, 2)), nn.GroupNorm(2, 6), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=2)
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.features(x).mean((2, 3)))


@port
def linen_convolutions_2d_in_groups():
    return linen_port(LinenConvNet2d(), ConvNet2d(), IMAGES, turn=channels_last)


class Turned(nn.Module):
    """A module of PyTorch's with its output channels last."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x).movedim(1, -1)


@port
def linen_transposed_convolution():
    network = linen.ConvTranspose(5, (3, 2), strides=(2, 2), padding="VALID")
    module = Turned(nn.ConvTranspose2d(3, 5, (3, 2), stride=2))
    return linen_port(network, module, IMAGES, turn=channels_last)


@port
def linen_transposed_convolution_with_transposed_kernel():
    network = linen.ConvTranspose(3, (3, 3), strides=(2, 2), padding="VALID", transpose_kernel=True)
    module = Turned(nn.ConvTranspose2d(3, 3, 3, stride=2))
    return linen_port(network, module, IMAGES, turn=channels_last)


@port
def keras_transposed_convolution():
    return keras_port(
        lambda keras: keras.layers.Conv2DTranspose(5, (3, 2), strides=2),
        Turned(nn.ConvTranspose2d(3, 5, (3, 2), stride=2)),
        IMAGES,
        lambda x: (channels_last(x),),
    )


@port
def haiku_transposed_convolution():
    haiku = pytest.importorskip("haiku")

    def network(x):
        layer = haiku.Conv2DTranspose(5, (3, 2), stride=1, padding="VALID")
        return layer(channels_last(x))

    transformed = haiku.without_apply_rng(haiku.transform(network))
    params = transformed.init(KEY, jnp.asarray(IMAGES))
    return transformed.apply, params, Turned(nn.ConvTranspose2d(3, 5, (3, 2))), (IMAGES,)


class TorchBlock(nn.Module):
    """A block of a transformer, with PyTorch's attention."""

    def __init__(self):
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(E), nn.LayerNorm(E)
        self.attn = nn.MultiheadAttention(E, HEADS, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(E, E), nn.Linear(E, E)

    def forward(self, x):
        y = self.ln1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.fc2(torch.tanh(self.fc1(self.ln2(x))))


class TorchTransformer(nn.Module):
    """Embeddings, blocks, a norm, an output layer."""

    def __init__(self, count=3, block=TorchBlock):
        super().__init__()
        self.embed = nn.Embedding(V, E)
        self.pos = nn.Parameter(torch.randn(T, E))
        self.blocks = nn.ModuleList(block() for _ in range(count))
        self.ln_f, self.head = nn.LayerNorm(E), nn.Linear(E, V, bias=False)

    def forward(self, tokens):
        x = self.embed(tokens) + self.pos
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class LinenBlock(linen.Module):
    """The block in Linen."""

    @linen.compact
    def __call__(self, x):
        y = linen.LayerNorm(epsilon=1e-5)(x)
        x = x + linen.MultiHeadDotProductAttention(num_heads=HEADS)(y, y)
        y = linen.LayerNorm(epsilon=1e-5)(x)
        return x + linen.Dense(E)(jnp.tanh(linen.Dense(E)(y)))


class LinenTransformer(linen.Module):
    """The transformer in Linen."""

    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(V, E)(tokens) + self.param("pos", linen.initializers.ones, (T, E))
        for _ in range(3):
            x = LinenBlock()(x)
        return linen.Dense(V, use_bias=False)(linen.LayerNorm(epsilon=1e-5)(x))


@port
def linen_transformer():
    return linen_port(LinenTransformer(), TorchTransformer(), TOKENS)


class ScannedTransformer(linen.Module):
    """The transformer with one scan over all blocks, whose weights are stacked."""

    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(V, E)(tokens) + self.param("pos", linen.initializers.ones, (T, E))
        blocks = linen.scan(
            lambda block, x, _: (block(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = blocks(LinenBlock(name="blocks"), x, None)
        return linen.Dense(V, use_bias=False)(linen.LayerNorm(epsilon=1e-5)(x))


@port
def linen_transformer_scanned_over_layers():
    return linen_port(ScannedTransformer(), TorchTransformer(), TOKENS)


def attended(q, k, v):
    """Attention with heads of (B, T, heads, size)."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    y = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    return y.reshape(*y.shape[:2], -1)


class FusedBlock(nn.Module):
    """Attention by hand, with queries, keys and values from one layer."""

    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(E, 3 * E), nn.Linear(E, E)

    def forward(self, x):
        q, k, v = self.c_attn(x).chunk(3, -1)
        return x + self.c_proj(torch_attention(q, k, v))


class SplitBlock(nn.Module):
    """The same from three layers."""

    def __init__(self):
        super().__init__()
        # A bias of the keys changes nothing, and its gradient is round-off.
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(E, E, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(E, E)

    def forward(self, x):
        y = torch_attention(self.q_proj(x), self.k_proj(x), self.v_proj(x))
        return x + self.o_proj(y)


def torch_attention(q, k, v):
    q, k, v = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k, v))
    y = nn.functional.scaled_dot_product_attention(q, k, v)
    return y.transpose(1, 2).flatten(2)


def attention_of(p, x, form):
    """The block from JAX's weights, with or without biases of queries, keys and values."""
    if form == "split":
        parts = [x @ p[f"w{name}"] + p.get(f"b{name}", 0) for name in "qkv"]
        parts = [y.reshape(*x.shape[:2], HEADS, -1) for y in parts]
    else:
        y = x @ p["wqkv"] + p.get("bqkv", 0)
        shape = (3, HEADS) if form == "fused" else (HEADS, 3)
        y = y.reshape(*x.shape[:2], *shape, -1)
        parts = [jnp.take(y, k, axis=-2 if form == "by head" else -3) for k in range(3)]
    return x + attended(*parts) @ p["wo"] + p["bo"]


def attention_weights(form, biases):
    weights = {"wo": np.zeros((E, E)), "bo": np.zeros(E)}
    if form == "split":
        weights |= {f"w{name}": np.zeros((E, E)) for name in "qkv"}
        return weights | {f"b{name}": np.zeros(E) for name in "qkv" if biases}
    weights["wqkv"] = np.zeros((E, 3 * E))
    return weights | ({"bqkv": np.zeros(3 * E)} if biases else {})


def attention_port(form, block, count=2):
    params = [attention_weights(form, issubclass(block, FusedBlock)) for _ in range(count)]

    def run(p, x):
        for weights in p:
            x = attention_of(weights, x, form)
        return x

    return run, params, nn.Sequential(*(block() for _ in range(count))), (BATCHES,)


@port
def attention_fused_in_torch_split_in_jax():
    return attention_port("split", FusedBlock)


class Conv1D(nn.Module):
    """A dense layer with weights (in, out), as the original code of GPT-2 has it."""

    def __init__(self, outputs, inputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs))

    def forward(self, x):
        return x @ self.weight + self.bias


class Gpt2Block(FusedBlock):
    """The block with such layers."""

    def __init__(self):
        super().__init__()
        self.c_attn, self.c_proj = Conv1D(3 * E, E), Conv1D(E, E)


@port
def attention_of_gpt2_split_in_jax():
    return attention_port("split", Gpt2Block)


@port
def attention_split_in_torch_fused_in_jax():
    return attention_port("fused", SplitBlock)


@port
def attention_split_in_both():
    return attention_port("split", SplitBlock)


@port
def attention_fused_head_by_head():
    return attention_port("by head", FusedBlock)


class TorchAttention(nn.Module):
    """PyTorch's attention of an array to itself."""

    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(E, HEADS, batch_first=True)

    def forward(self, x):
        return self.mha(x, x, x, need_weights=False)[0]


@port
def nnx_attention_as_a_state():
    layer = nnx.MultiHeadAttention(HEADS, E, decode=False, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer, nnx.Param)
    return lambda p, x: nnx.merge(graph, p)(x), params, TorchAttention(), (BATCHES,)


@port
def equinox_attention():
    eqx = pytest.importorskip("equinox")
    biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
    layer = eqx.nn.MultiheadAttention(HEADS, E, **biases, key=KEY)
    params, rest = eqx.partition(layer, eqx.is_array)

    def run(p, x):
        return jax.vmap(lambda x: eqx.combine(p, rest)(x, x, x))(x)

    return run, params, TorchAttention(), (BATCHES,)


@port
def haiku_batch_norm():
    haiku = pytest.importorskip("haiku")

    def network(x, training):
        norm = haiku.BatchNorm(True, True, 0.9)
        return haiku.Linear(3)(norm(haiku.Linear(H)(x), training))

    transformed = haiku.without_apply_rng(haiku.transform_with_state(network))
    params, state = transformed.init(KEY, ROWS, True)
    averages = {"mean": "batch_norm/~/mean_ema", "var": "batch_norm/~/var_ema"}

    def run(p, x):
        # Counters and sums stay; in evaluation only the averages count.
        filled = dict(state)
        for name, module in averages.items():
            filled[module] = {**state[module], "average": p["averages"][name]}
        return transformed.apply(p["params"], filled, x, False)[0]

    tree = {name: state[module]["average"] for name, module in averages.items()}
    module = nn.Sequential(nn.Linear(E, H), nn.BatchNorm1d(H), nn.Linear(H, 3)).eval()
    return run, {"params": params, "averages": tree}, module, (ROWS,)


@port
def haiku_attention():
    haiku = pytest.importorskip("haiku")

    def attention(x):
        layer = haiku.MultiHeadAttention(HEADS, E // HEADS, w_init=haiku.initializers.Constant(1))
        return layer(x, x, x)

    network = haiku.without_apply_rng(haiku.transform(attention))
    return network.apply, network.init(KEY, BATCHES), TorchAttention(), (BATCHES,)


def keras_port(layer, module, x, called=None):
    """A Keras layer, whose variables stand in a list.

    Some of its functions compute in float32 whatever they get, so all of it does here.
    """
    keras = pytest.importorskip("keras")
    called = called or (lambda x: (x,))
    layer = layer(keras)
    layer(*called(np.float32(x)))
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def run(p, x):
        p, x = jax.tree.map(lambda array: array.astype(jnp.float32), (p, x))
        return layer.stateless_call(p, fixed, *called(x))[0]

    return run, layer.trainable_variables, module, (x,)


@port
def keras_attention():
    return keras_port(
        lambda keras: keras.layers.MultiHeadAttention(HEADS, E // HEADS),
        TorchAttention(),
        BATCHES,
        lambda x: (x, x),
    )


@port
def keras_mlp():
    def layer(keras):
        dense = keras.layers.Dense
        layers = [dense(E, "tanh") for _ in range(3)]
        return keras.Sequential([*layers, dense(4)])

    return keras_port(layer, mlp(), ROWS)


class LastOutput(nn.Module):
    """The outputs of a recurrent layer of PyTorch's, without its carry."""

    def __init__(self, layer):
        super().__init__()
        self.rnn = layer

    def forward(self, x):
        return self.rnn(x)[0]


TORCH_LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


def keras_recurrent(kind, name):
    return keras_port(
        lambda keras: getattr(keras.layers, name)(H, return_sequences=True),
        LastOutput(TORCH_LAYERS[kind](I, H, batch_first=True)),
        XS.swapaxes(0, 1),
    )


@port
def keras_lstm():
    return keras_recurrent("lstm", "LSTM")


@port
def keras_gru():
    return keras_recurrent("gru", "GRU")


@port
def keras_simple_rnn():
    return keras_recurrent("rnn", "SimpleRNN")


def over_time(cell, xs, kind, **options):
    """A Linen cell over (T, B, I), from zeros in the precision of its input."""
    zeros = jnp.zeros((xs.shape[1], H), xs.dtype)
    carry = (zeros, zeros) if kind == "lstm" else zeros
    return linen.RNN(cell, time_major=True)(xs, initial_carry=carry, **options)


def linen_recurrent(kind, cells, **options):
    """Linen cells one above the other."""

    class Stack(linen.Module):
        @linen.compact
        def __call__(self, x):
            for cell in cells:
                x = over_time(cell(H), x, kind)
            return x

    module = TORCH_LAYERS[kind](I, H, len(cells), **options)
    return linen_port(Stack(), LastOutput(module), XS)


@port
def linen_lstm():
    return linen_recurrent("lstm", [linen.OptimizedLSTMCell] * 2)


@port
def linen_gru():
    return linen_recurrent("gru", [linen.GRUCell] * 2)


@port
def linen_simple_cell():
    return linen_recurrent("rnn", [linen.SimpleCell])


@port
def linen_bidirectional_lstm():
    class Both(linen.Module):
        @linen.compact
        def __call__(self, x):
            forward = over_time(linen.LSTMCell(H, name="forward_cell"), x, "lstm")
            cell = linen.LSTMCell(H, name="backward_cell")
            backward = over_time(cell, x, "lstm", reverse=True, keep_order=True)
            return jnp.concatenate([forward, backward], -1)

    return linen_port(Both(), LastOutput(nn.LSTM(I, H, bidirectional=True)), XS)


def nnx_recurrent(kind, cell, **options):
    with jax.enable_x64(True):
        graph, state = nnx.split(cell(I, H, rngs=nnx.Rngs(0), **options), nnx.Param)
    params = nnx.to_pure_dict(state)

    def run(p, xs):
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, p)
        cell = nnx.merge(graph, filled)
        zeros = jnp.zeros((xs.shape[1], H), xs.dtype)
        carry = (zeros, zeros) if kind == "lstm" else zeros
        return lax.scan(lambda carry, x: cell(carry, x), carry, xs)[1]

    return run, params, LastOutput(TORCH_LAYERS[kind](I, H)), (XS,)


@port
def nnx_lstm():
    return nnx_recurrent("lstm", nnx.LSTMCell)


@port
def nnx_optimized_lstm():
    return nnx_recurrent("lstm", nnx.OptimizedLSTMCell)


@port
def nnx_simple_cell():
    return nnx_recurrent("rnn", nnx.SimpleCell, dtype=jnp.float64)


def haiku_recurrent(kind, name, **options):
    haiku = pytest.importorskip("haiku")

    def over_time(xs):
        core = getattr(haiku, name)(H)
        return haiku.dynamic_unroll(core, xs, core.initial_state(xs.shape[1]))[0]

    network = haiku.without_apply_rng(haiku.transform(over_time))
    params = network.init(KEY, XS)
    return network.apply, params, LastOutput(TORCH_LAYERS[kind](I, H, **options)), (XS,)


@port
def haiku_lstm():
    return haiku_recurrent("lstm", "LSTM")


@port
def haiku_vanilla_rnn():
    return haiku_recurrent("rnn", "VanillaRNN", nonlinearity="relu")


@port
def haiku_convolution_norm_and_embedding():
    haiku = pytest.importorskip("haiku")

    def network(tokens):
        x = haiku.Embed(V, E)(tokens)  # (B, T, E)
        x = haiku.Conv1D(E, 3, padding="VALID")(x)
        x = haiku.LayerNorm(-1, True, True)(x)
        return haiku.nets.MLP([E, E, 3], activation=jnp.tanh)(x)

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.conv = nn.Embedding(V, E), nn.Conv1d(E, E, 3)
            self.norm = nn.LayerNorm(E)
            self.mlp = nn.Sequential(
                nn.Linear(E, E), nn.Tanh(), nn.Linear(E, E), nn.Tanh(), nn.Linear(E, 3)
            )

        def forward(self, tokens):
            x = self.conv(self.embed(tokens).mT).mT
            return self.mlp(self.norm(x))

    transformed = haiku.without_apply_rng(haiku.transform(network))
    params = transformed.init(KEY, jnp.asarray(TOKENS))
    return transformed.apply, params, Module(), (TOKENS,)


def equinox_recurrent(kind, name):
    eqx = pytest.importorskip("equinox")
    params, rest = eqx.partition(getattr(eqx.nn, name)(I, H, key=KEY), eqx.is_array)

    def run(p, xs):
        cell = eqx.combine(p, rest)

        def step(carry, x):
            carry = cell(x, carry)
            return carry, carry[0] if kind == "lstm" else carry

        def sequence(xs):
            zeros = jnp.zeros(H, xs.dtype)
            return lax.scan(step, (zeros, zeros) if kind == "lstm" else zeros, xs)[1]

        return jax.vmap(sequence, 1, 1)(xs)

    return run, params, LastOutput(TORCH_LAYERS[kind](I, H)), (XS,)


@port
def equinox_lstm():
    return equinox_recurrent("lstm", "LSTMCell")


@port
def equinox_gru():
    return equinox_recurrent("gru", "GRUCell")


@port
def equinox_mlp():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(E, 4, E, 3, activation=jnp.tanh, key=KEY)
    params, rest = eqx.partition(model, eqx.is_array)
    return lambda p, x: jax.vmap(eqx.combine(p, rest))(x), params, mlp(), (ROWS,)


@port
def equinox_convolutions():
    eqx = pytest.importorskip("equinox")
    keys = jax.random.split(KEY, 2)
    model = [
        eqx.nn.Conv2d(3, 6, 3, key=keys[0]),
        eqx.nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2, key=keys[1]),
    ]
    params, rest = eqx.partition(model, eqx.is_array)

    def run(p, x):
        first, second = eqx.combine(p, rest)
        return jax.vmap(lambda x: second(jnp.tanh(first(x))))(x)

    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Tanh(), nn.ConvTranspose2d(6, 4, 3, stride=2, groups=2)
    )
    return run, params, module, (IMAGES,)


@port
def nnx_mlp_as_a_state():
    class Network(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(E, E, rngs=rngs) for _ in range(3)])
            self.out = nnx.Linear(E, 4, rngs=rngs)

        def __call__(self, x):
            for layer in self.layers:
                x = jnp.tanh(layer(x))
            return self.out(x)

    graph, params = nnx.split(Network(nnx.Rngs(0)))
    return lambda p, x: nnx.merge(graph, p)(x), params, mlp(), (ROWS,)


class TiedTorch(nn.Module):
    """A language model whose output layer has the weights of its embedding."""

    def __init__(self):
        super().__init__()
        self.embed, self.hidden = nn.Embedding(V, E), nn.Linear(E, E)
        self.head = nn.Linear(E, V, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.hidden(self.embed(tokens))))


class TiedLinen(linen.Module):
    """The same."""

    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(V, E)
        return embed.attend(jnp.tanh(linen.Dense(E)(embed(tokens))))


@port
def tied_embedding():
    return linen_port(TiedLinen(), TiedTorch(), TOKENS)


def lstm_by_hand(p, xs):
    """An LSTM whose gates are in the order g, i, o, f."""

    def step(carry, x):
        h, c = carry
        g, i, o, f = jnp.split(x @ p["wx"] + h @ p["wh"] + p["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((xs.shape[1], H), xs.dtype)
    ys = lax.scan(step, (zeros, zeros), xs)[1]
    return ys @ p["out_w"] + p["out_b"]


class LstmAndLinear(nn.Module):
    """An LSTM and an output layer."""

    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(I, H), nn.Linear(H, 3)

    def forward(self, xs):
        return self.fc(self.lstm(xs)[0])


@port
def lstm_by_hand_with_another_order_of_gates():
    shapes = {"wx": (I, 4 * H), "wh": (H, 4 * H), "b": (4 * H,), "out_w": (H, 3), "out_b": (3,)}
    params = {name: np.zeros(shape) for name, shape in shapes.items()}
    return lstm_by_hand, params, LstmAndLinear(), (XS,)


def stacked_lstm(p, xs):
    """Three layers in one scan over layers, of weights that are stacked."""

    def layer(xs, weights):
        def step(carry, x):
            h, c = carry
            gates = weights["w_ih"] @ x + weights["w_hh"] @ h + weights["b_ih"] + weights["b_hh"]
            i, f, g, o = jnp.split(gates, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zeros = jnp.zeros(H, xs.dtype)
        return lax.scan(step, (zeros, zeros), xs)[1], None

    return jax.vmap(lambda xs: lax.scan(layer, xs, p)[0], 1, 1)(xs)


@port
def lstm_by_hand_with_stacked_layers():
    rows = 4 * H
    shapes = {"w_ih": (rows, H), "w_hh": (rows, H), "b_ih": (rows,), "b_hh": (rows,)}
    params = {name: np.zeros((3, *shape)) for name, shape in shapes.items()}
    xs = RNG.normal(size=(T, B, H))
    return stacked_lstm, params, LastOutput(nn.LSTM(H, H, 3)), (xs,)


@port
def branches_that_differ_behind_their_first_layer():
    """Two branches of equal shapes, named so that order says the wrong thing."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(E, E), nn.Linear(E, E)
            self.third, self.fourth = nn.Linear(E, E), nn.Linear(E, E)

        def forward(self, x):
            upper = self.third(torch.tanh(self.first(x)))
            return upper + self.fourth(torch.sigmoid(self.second(x)))

    def dense(p, x):
        return x @ p["w"] + p["b"]

    def run(p, x):
        upper = dense(p["a"], jnp.tanh(dense(p["d"], x)))
        return upper + dense(p["b"], jax.nn.sigmoid(dense(p["c"], x)))

    params = {name: {"w": np.zeros((E, E)), "b": np.zeros(E)} for name in "abcd"}
    return run, params, Branches(), (ROWS,)
