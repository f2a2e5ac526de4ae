"""The table of which modules of other packages equal PyTorch's: its verdicts and its program."""

import re
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from third_party import jax_cases, linen_cases, nnx_cases
from third_party.cases import RECURRENT_SIZES, Case, Port, Promise, Variant, samples
from third_party.commands import OUTPUT, main
from third_party.evaluate import why_not_float64
from third_party.layers import options_tried
from third_party.operations import (
    DropFirstGate,
    Flip,
    FoldAllButLast,
    JoinColumns,
)
from third_party.packages import BY_NAME, FOLDER, PACKAGES, Package
from third_party.processes import Results, check_packages, start_worker
from third_party.smallest import smallest_case
from third_party.table import BEGIN, END, markdown, rows, write_table
from third_party.verdicts import Verdict, verdict_of

import parity
from parity import Transpose, WeightMap, entry

MODULE, VERDICT, DETAILS = 1, 3, 4
"""Columns of the table."""
IMPORTED = {
    "flax-linen": linen_cases.CASES,
    "flax-nnx": nnx_cases.CASES,
    "jax": jax_cases.CASES,
}
"""The cases of packages that this library needs itself, so that they are always there."""
CASES = {case.module: case for cases in IMPORTED.values() for case in cases}
CHEAPEST_FIRST = sorted(CASES, key=lambda module: module != "linen.gelu")


def committed():
    """The rows of the table in the README."""
    return rows(OUTPUT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0])


def made(package):
    """The rows of a package in the table of the README."""
    own = f"`{package.name.partition('-')[2]}." if package.distribution == "flax" else ""
    found = committed()
    return [
        row
        for row in found
        if row[0].partition(" ")[0] == package.distribution and row[MODULE].startswith(own)
    ]


def made_with(package):
    """The version of a package that the table was made with."""
    return made(package)[0][0].partition(" ")[2]


def skip_unless_made_with(package):
    try:
        found = version(package.distribution)
    except PackageNotFoundError:
        pytest.skip(f"{package.distribution} is not installed")
    if found != made_with(package):
        pytest.skip(f"the table was made with another version of {package.distribution}")


# The verdicts.


@pytest.mark.sample(1)
@pytest.mark.parametrize("module", CHEAPEST_FIRST)
def test_the_table_says_what_is_found(module):
    """Whatever stands in the table is found again, in the versions that it names."""
    (name,) = [name for name, cases in IMPORTED.items() if CASES[module] in cases]
    package = BY_NAME[name]
    skip_unless_made_with(package)
    found = verdict_of(CASES[module])
    (row,) = [row for row in made(package) if row[MODULE] == f"`{module}`"]
    assert row[VERDICT].strip("*") == found.verdict
    assert row[DETAILS] == found.detail


def test_the_linen_lstm_is_equal_after_folding():
    found = verdict_of(CASES["linen.OptimizedLSTMCell"])
    assert found.verdict == "equal after folding"
    assert found.difference < 1e-14
    assert found.dtype == "float64"


def test_the_nnx_gru_is_faulty_and_its_smallest_case_is_that_of_the_missing_bias():
    # From few sizes, so that there is less to shrink; from all of them it is a slow test, above.
    small = replace(CASES["nnx.GRUCell"], sizes={"H": 2, "T": 2, "B": 1, "I": 1})
    found = verdict_of(small)
    assert found.verdict == "faulty"
    assert "b_hn is missing inside the reset gate" in found.detail
    numbers = re.search(
        r"H 1, T 1, B 1, I 1; bias_hh_l0\[2\] 1, all else 0: "
        r"([\d.]+) in JAX, ([\d.]+) in PyTorch",
        found.detail,
    )
    assert numbers, found.detail
    # z = 1 / 2 and r = 1 / 2, so that h' = tanh(r * b_hn) / 2; without the reset gate, tanh(b) / 2.
    in_jax, in_torch = (float(number) for number in numbers.groups())
    assert in_jax == pytest.approx(np.tanh(1.0) / 2, abs=1e-4)
    assert in_torch == pytest.approx(np.tanh(0.5) / 2, abs=1e-4)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("module", "verdict", "words"),
    [
        ("linen.LayerNorm", "equal with `eps=1e-6`", ""),
        ("linen.gelu", "equal with `approximate='tanh'`", ""),
        ("linen.MGUCell", "another equation", "reset and update gates are one"),
        ("linen.BatchNorm, training", "another equation", "`momentum=0.01`"),
    ],
)
def test_what_differs_is_named(module, verdict, words):
    found = verdict_of(CASES[module])
    assert found.verdict == verdict
    assert words in found.detail


# How a verdict is made, on modules of a few lines.


def linear(sizes, function=lambda x: x, reference=None):
    """A dense layer and a function behind it, beside `torch.nn.Linear` or another module."""
    params = {"kernel": jnp.zeros((sizes["I"], sizes["H"])), "bias": jnp.zeros(sizes["H"])}
    weight_map = WeightMap([entry("weight", "kernel", Transpose()), entry("bias", "bias")])

    def run(params, x):
        return function(x @ params["kernel"] + params["bias"])

    module = (reference or torch.nn.Linear)(sizes["I"], sizes["H"])
    return Port(run, params, module, weight_map, (samples(sizes["B"], sizes["I"]),))


class Doubled(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


SIZES = {"H": 3, "B": 5, "I": 4}
FUNCTIONS = {
    "equal": lambda x: x,
    "twice": lambda x: 2 * x,
    "thrice": lambda x: 3 * x,
    "rounds": lambda x: x + 100 * jnp.finfo(x.dtype).eps,
    "half": lambda x: x.astype(jnp.float32).astype(x.dtype),
    "crashes": lambda x: x.no_such_method(),
    "constant": lambda x: 0 * x + 7,
}


def case(name, **options):
    port = partial(linear, function=FUNCTIONS[name])
    return Case(module=name, counterpart="nn.Linear", port=port, sizes=SIZES, **options)


@pytest.mark.parametrize(
    ("name", "verdict", "words"),
    [
        ("equal", "equal", ""),
        ("thrice", "differs", "> "),
        ("rounds", "equal", "rounds worse than PyTorch"),
        ("half", "equal", "compared in float32"),
        ("crashes", "not checked", "AttributeError"),
        ("constant", "differs", "> "),
    ],
)
def test_a_verdict_follows_from_the_numbers(name, verdict, words):
    found = verdict_of(case(name))
    assert (found.verdict, words in found.detail) == (verdict, True), found.detail


def twice_variant(kind):
    port = partial(linear, function=FUNCTIONS["twice"], reference=Doubled)
    wrong = partial(linear, function=FUNCTIONS["twice"])
    return [Variant(kind, "wrong", wrong), Variant(kind, "doubled", port)]


@pytest.mark.parametrize(
    ("kind", "verdict", "detail"),
    [
        ("option", "equal with doubled", ""),
        ("weights", "equal", "doubled"),
        ("equation", "another equation", "doubled"),
    ],
)
def test_the_first_variant_that_passes_is_the_verdict(kind, verdict, detail):
    found = verdict_of(case("twice", variants=twice_variant(kind)))
    assert (found.verdict, found.detail) == (verdict, detail)


@pytest.mark.parametrize("kept", [True, False])
def test_a_difference_is_a_fault_where_the_package_promises_otherwise(kept):
    promise = Promise("a promise", lambda: kept)
    found = verdict_of(case("twice", promise=promise, variants=twice_variant("equation")))
    assert found.verdict == ("faulty" if kept else "another equation")
    assert ("a promise" in found.detail) == kept


def test_the_smallest_case_has_the_fewest_numbers_that_differ():
    small = smallest_case(partial(linear, function=FUNCTIONS["twice"]), SIZES)
    assert small.sizes == {"H": 1, "B": 1, "I": 1}
    # Either a bias of 1, or a weight and an input of 1, is all that it takes.
    assert set(small.numbers.values()) == {1.0}
    assert (small.in_jax, small.in_torch) == (2.0, 1.0)
    assert str(small).startswith("H 1, B 1, I 1; ")


def test_a_part_in_float32_is_found_in_the_trace():
    assert why_not_float64(linear(SIZES)) == ""
    assert "float32" in why_not_float64(linear(SIZES, FUNCTIONS["half"]))
    inside = jax.jit(FUNCTIONS["half"])
    assert "float32" in why_not_float64(linear(SIZES, inside))


@pytest.mark.slow
def test_round_off_of_a_saturated_softmax_in_float32_alone_is_no_mistake():
    """PyTorch's gradient has none there, so that it says nothing of what JAX's own leaves."""
    case = next(case for case in nnx_cases.CASES if case.module == "nnx.MultiHeadAttention")
    report = parity.check(*case.port(case.sizes), dtypes=("float32",))
    assert report.outcome.value == "WARN"
    assert "it rounds otherwise than PyTorch; in float64 both agree" in report.summary()


def test_options_are_tried_on_the_reference():
    port = linen_cases.CASES[7].port
    tried = options_tried(
        port, lambda sizes, **given: torch.nn.LayerNorm(sizes["C"], **given), {"eps": (1e-6, 0.5)}
    )
    assert [variant.words for variant in tried] == ["`eps=1e-6`", "`eps=0.5`"]
    assert [variant.port({"B": 2, "T": 3, "C": 4}).module.eps for variant in tried] == [1e-6, 0.5]


# The operations of the weight maps.

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("operation", "shapes"),
    [
        (Flip((0, 1)), [(2, 3, 4)]),
        (JoinColumns(2), [(4, 2), (4, 3)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_way_back_restores_all(operation, shapes):
    arrays = [RNG.normal(size=shape) for shape in shapes]
    there = operation.from_torch(arrays)
    assert any(not np.array_equal(a, b) for a, b in zip(there, arrays, strict=False))
    for after, before in zip(operation.to_torch(there), arrays, strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-15)


def test_biases_are_folded_but_for_the_last_gate():
    b_ih, b_hh = RNG.normal(size=(2, 6))
    b_r, b_z, b_in, b_hn = FoldAllButLast(3).from_torch([b_ih, b_hh])
    np.testing.assert_array_equal(np.concatenate([b_r, b_z]), (b_ih + b_hh)[:4])
    np.testing.assert_array_equal(b_in, b_ih[4:])
    np.testing.assert_array_equal(b_hn, b_hh[4:])
    back = FoldAllButLast(3).to_torch([b_r, b_z, b_in, b_hn])
    again = FoldAllButLast(3).from_torch(back)
    np.testing.assert_array_equal(np.concatenate(again), np.concatenate([b_r, b_z, b_in, b_hn]))
    of_x, of_h = FoldAllButLast(3).gradients_to_torch([b_r, b_z, b_in, b_hn])
    np.testing.assert_array_equal(of_x[:4], of_h[:4])
    np.testing.assert_array_equal(of_x[4:], b_in)
    np.testing.assert_array_equal(of_h[4:], b_hn)


def test_what_has_no_counterpart_comes_back_as_zeros():
    gates = RNG.normal(size=(6, 2))
    (kept,) = DropFirstGate(3).from_torch([gates])
    (back,) = DropFirstGate(3).to_torch([kept])
    np.testing.assert_array_equal(back[2:], gates[2:])
    assert not back[:2].any()


# The table and the program.


def listed(package):
    """The modules that the program checks of a package; skipped where it is not installed."""
    worker = start_worker(package, FOLDER, "--list")
    try:
        message = worker.receive(120.0)
    finally:
        worker.close()
    if "missing" in message:
        pytest.skip(f"{package.distribution}: {message['missing']}")
    return message["modules"]


@pytest.mark.parametrize("name", IMPORTED)
def test_the_table_has_the_rows_of_the_program(name):
    modules = [case.module for case in IMPORTED[name]]
    assert [row[MODULE] for row in made(BY_NAME[name])] == [f"`{module}`" for module in modules]


@pytest.mark.slow
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_table_has_the_rows_of_packages_in_processes_of_their_own(package):
    modules = listed(package)
    assert [row[MODULE] for row in made(package)] == [f"`{module}`" for module in modules]


def test_the_table_has_every_package_and_two_faulty_modules():
    assert all(made(package) for package in PACKAGES)
    found = committed()
    assert len(found) == sum(len(made(package)) for package in PACKAGES)
    faulty = {row[MODULE]: row[DETAILS] for row in found if row[VERDICT] == "**faulty**"}
    assert list(faulty) == ["`nnx.GRUCell`", "`minLSTM, with a carry, all steps at once`"]
    assert all("smallest case: H 1" in details for details in faulty.values())
    assert not [row for row in found if row[VERDICT] in ("differs", "not checked")]


EXAMPLE = Results(
    Package("a", "A-package", "a_cases"),
    "1.0",
    [
        Verdict(
            module="M | N", counterpart="nn.M", verdict="equal", difference=1e-16, dtype="float64"
        ),
        Verdict(module="O", counterpart="nn.O", verdict="faulty", difference=0.5, dtype="float32"),
        Verdict(module="P", counterpart="nn.P", verdict="equal with `eps=1`"),
    ],
)
ABSENT = Results(Package("b", "B-package", "b_cases"), missing="not installed")


def test_rows_are_sorted_by_package_and_one_that_is_absent_says_so():
    text = markdown([ABSENT, EXAMPLE])
    assert rows(text) == [
        ["A-package 1.0", "`M | N`", "`nn.M`", "equal", "", "1.0e-16"],
        ["A-package 1.0", "`O`", "`nn.O`", "**faulty**", "", "5.0e-01 (float32)"],
        ["A-package 1.0", "`P`", "`nn.P`", "equal with `eps=1`", "", ""],
        ["B-package", "", "", "not installed", "", ""],
    ]
    assert "3 modules: 1 equal, 1 faulty, 1 equal with an option." in text


def test_only_what_stands_between_the_marks_is_replaced(tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
    write_table("new", path)
    content = path.read_text()
    assert content.startswith("Before.\n")
    assert content.endswith("\nAfter.\n")
    assert "new" in content
    assert "old" not in content
    write_table("new", path)
    assert path.read_text() == content


@pytest.mark.parametrize("content", ["no marks", f"{BEGIN}\n", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_file_without_its_marks_is_refused(tmp_path, content):
    path = tmp_path / "page.md"
    path.write_text(content)
    with pytest.raises(ValueError, match="must have one line"):
        write_table("new", path)
    assert path.read_text() == content


def test_one_bad_package_does_not_disturb_the_others(tmp_path, monkeypatch):
    """One whose import fails, and one whose process ends before it says anything."""
    (tmp_path / "flax.py").write_text("raise RuntimeError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    unknown = Package("no-such-name", "nothing", "third_party.nothing")
    logged = []
    found = check_packages(
        [BY_NAME["flax-linen"], unknown], folder=tmp_path, jobs=2, log=logged.append
    )
    assert re.search("version .* cannot be imported: RuntimeError: broken", found[0].missing)
    assert "ended with code" in found[1].missing
    assert len(logged) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flaxx"], "packages must be some of equinox, flax-linen"),
        (["--jobs", "0"], "jobs must be at least 1"),
        (["--output", "/dev/null/table.md"], "Cannot write"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.slow
def test_the_program_writes_its_table(tmp_path, capsys):
    path = tmp_path / "table.md"
    assert main(["jax", "--output", str(path)]) == 0
    assert [row[VERDICT] for row in rows(path.read_text())] == ["equal", "equal"]


def test_equal_cells_have_weights_that_matter():
    """A check of the checks: with a weight map that swaps two gates, no LSTM is equal."""
    port = CASES["linen.LSTMCell"].port(RECURRENT_SIZES)
    first, *others = port.weight_map.entries
    i, f, g, o = first.paths
    swapped = WeightMap([entry(first.keys, (f, i, g, o), first.operation), *others])
    report = parity.check(*port._replace(weight_map=swapped), dtypes=("float64",))
    assert not report.passed
