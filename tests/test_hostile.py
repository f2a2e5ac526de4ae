"""Hostile and odd input: it works, or gives one clear line and exit code 2. Nothing is executed.

The properties run a few cases each here, and 10,000 in all in the long form (`-m slow`).
"""

import ast
import contextlib
import io
import json
import re
import string
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import jaxrnn
from jaxrnn import (
    Batch,
    BpttStream,
    CharLM,
    Vocabulary,
    WindowSet,
    cli,
    evaluate,
    fit,
    generate,
    get_next,
    load_corpus,
    make_optimizer,
    make_state,
    train_step,
)
from jaxrnn.data.vocabulary import SPECIAL
from jaxrnn.generation import read_prompt
from jaxrnn.training import checkpoints
from jaxrnn.training.checkpoints import CheckpointError, load, pack, read, seal
from jaxrnn.training.config import Config
from jaxrnn.training.experiment import prepare
from jaxrnn.training.runs import Run, checked_name
from jaxrnn.training.schedules import parse_schedule
from jaxrnn.training.sealed import make_sealed

V = 5
MODEL = CharLM(V, 3, 4)
ADAM = make_optimizer("adam")

SHORT = 40
LONG = {"texts": 2000, "configurations": 2000, "prompts": 2500, "schedules": 1000}
LONG |= {"command-lines": 500, "checkpoints": 1000, "folders": 1000}
EXAMPLES = [SHORT, pytest.param(0, marks=pytest.mark.slow, id="long")]
"""How many examples: 0 stands for the number in `LONG`."""


def hold(what, examples, property_, **strategies):
    """Try a property on many cases; the same ones in every short run."""
    chosen = settings(
        max_examples=examples or LONG[what],
        deadline=None,
        derandomize=bool(examples),
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    chosen(given(**strategies)(property_))()


@contextlib.contextmanager
def refusing(kind=ValueError):
    """Lets a mistake pass if it is told in one clear line."""
    try:
        yield
    except kind as error:
        message = str(error)
        assert 10 < len(message) < 3000
        assert "\n" not in message
        assert "Traceback" not in message


ODD = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("ab\r\n\0\ufeff\u202e\u0301\u05d0😀İΣ", max_size=300),
    st.text("ab c\n", min_size=50, max_size=400),
)
FILES = st.one_of(
    st.binary(max_size=200),
    ODD.map(str.encode),
    ODD.map(lambda text: text.encode("utf-8-sig")),
    ODD.map(lambda text: text.encode("utf-16")),
)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_file_is_read_to_the_character_or_refused(tmp_path, examples):
    path = tmp_path / "text"

    def property_(data, model, lowercase, batch, bptt):
        path.write_bytes(data)
        with refusing():
            experiment = prepare(
                Config(
                    model=model, corpus=str(path), lowercase=lowercase, batch=batch, bptt=bptt,
                    min_frequency=1, hidden=2, embedding=2,
                )
            )  # fmt: skip
            text, vocabulary = load_corpus(str(path)).documents[0], experiment.vocabulary
            assert text == data.decode().removeprefix("\ufeff")
            known = vocabulary.encode(text, unknown="skip")
            if vocabulary.unknown is None:
                assert vocabulary.decode(known) == text
            assert max(known) < len(vocabulary)
            assert max(experiment.source.tokens) < len(vocabulary)

    models = st.sampled_from(["CharSeqStatefulRnn", "CharRnn", "CharSeqRnn"])
    numbers = st.integers(1, 9)
    hold(
        "texts", examples, property_, data=FILES, model=models, lowercase=st.booleans(),
        batch=numbers, bptt=numbers,
    )  # fmt: skip


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NUMBERS = st.integers(-2, 2**70) | st.sampled_from([0, 1, 2, 8, 64, 10**6, 2**31, 2**63])


def configurations():
    """A configuration as JSON holds it, with up to three fields of any value."""
    default = Config().to_dict()
    changed = st.dictionaries(st.sampled_from(sorted(default)), ANYTHING | NUMBERS, max_size=3)
    return changed.map(lambda fields: default | fields)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_configuration_makes_a_model_or_is_refused(examples):
    def property_(values):
        with refusing():
            config = Config.from_dict(values)
            assert config.make_model(7).vocabulary == 7
            assert parse_schedule(config.schedule).epochs >= 1
            json.dumps(config.to_dict())

    hold("configurations", examples, property_, values=configurations())


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_prompt_is_read_or_refused(examples):
    vocabularies = [
        Vocabulary.from_frequency(["aab b\r\n\0é😀 e\u0301" * 3]),
        Vocabulary.from_characters(["ab\ud800"]),
    ]

    def property_(prompt, vocabulary, window, unknown):
        with refusing():
            tokens = read_prompt(MODEL, vocabulary, prompt, window=window, unknown=unknown)
            assert 0 < len(tokens) <= 3 * len(prompt)
            assert max(tokens) < len(vocabulary)
            if unknown == "error":
                lowered = prompt.lower() if vocabulary.lowercase else prompt
                assert vocabulary.decode(tokens) == lowered

    hold(
        "prompts", examples, property_,
        prompt=ODD | st.text() | st.text("ab\ud800\udcff"),
        vocabulary=st.sampled_from(vocabularies), window=st.integers(1, 9),
        unknown=st.sampled_from(["error", "replace", "skip"]),
    )  # fmt: skip


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_schedule_gives_finite_rates_or_is_refused(examples):
    def property_(text):
        with refusing():
            schedule = parse_schedule(text)
            for epoch in {0, schedule.epochs - 1}:
                phase, first = schedule.phase(epoch)
                rates = phase.rates(np.arange(3) + 3 * (epoch - first), 3)
                assert np.isfinite(rates).all()
                assert (rates >= 0).all()

    words = ["1 x 1e-3", "sgdr(", "one-cycle(", "2", ",", ")", "1e-2", " x ", "nan", "-1", "1e309"]
    texts = st.lists(st.sampled_from(words), max_size=8).map("".join)
    hold("schedules", examples, property_, text=texts | st.text(string.printable, max_size=30))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_command_line_starts_a_whole_run_or_gives_one_line(tmp_path, monkeypatch, examples):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("the quick brown fox\n" * 30)
    monkeypatch.setattr(cli, "watch", lambda run, experiment, **options: 0)
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)  # leave the cache alone

    def property_(pairs):
        before = set(tmp_path.glob("runs/*"))
        errors = io.StringIO()
        arguments = [word for pair in pairs for word in pair]
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(["train", "--corpus", "text.txt", "--batch", "2", *arguments])
        made = set(tmp_path.glob("runs/*")) - before
        if code == 0:
            (folder,) = made
            assert Run(folder).experiment().model is not None
        else:
            assert code == 2
            assert re.fullmatch(r"error: [^\n]{10,3000}\n", errors.getvalue()), errors.getvalue()
            assert not made

    flags = ["batch", "bptt", "hidden", "layers", "dropout", "schedule", "name", "prompt", "model"]
    flags += ["corpus", "seed", "clip", "momentum", "min-frequency", "validation", "colour"]
    values = [
        "0",
        "1",
        "-1",
        "1e999",
        "nan",
        "x",
        "",
        "..",
        "a/b",
        "😀",
        "\udcff",
        "\x1b[2J",
        "lstm",
    ]
    values += ["CharLM", "text.txt", "/", "/dev/zero", "99999999999999999999", "1 x 1e-3"]
    pair = st.tuples(st.sampled_from([f"--{flag}" for flag in flags]), st.sampled_from(values))
    hold("command-lines", examples, property_, pairs=st.lists(pair, max_size=3))


def sealed_bytes(header, body=b""):
    """A checkpoint with any header, whose checksum is right: as an attacker would make it."""
    described = {"sha256": "0" * 64, "format": checkpoints.FORMAT, "metadata": {}}
    begin = {"__metadata__": {"jaxrnn": json.dumps(described)}}
    text = json.dumps(begin | header, separators=(",", ":")).encode()
    return seal(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_sealed_checkpoint_is_read_or_refused(tmp_path, examples):
    path, like = tmp_path / "state", {"a": jnp.ones((2, 3)), "key": jax.random.key(0)}
    whole = pack(like)

    def property_(header, body, at, bit):
        for data in (sealed_bytes(header, body), body):
            path.write_bytes(data)
            with refusing(CheckpointError):
                load(path, like)
        damaged = bytearray(whole)
        damaged[at % len(whole)] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load(path, like)

    kinds = st.sampled_from(["F32", "U32", "I64", "F8_E4M3", "BF16", "BOOL", "?"])
    offsets = st.lists(st.integers(0, 2**64) | st.integers(0, 30), min_size=2, max_size=2)
    shapes = st.lists(st.integers(-1, 2**62) | st.integers(0, 3), max_size=3)
    tensor = st.fixed_dictionaries({"dtype": kinds, "shape": shapes, "data_offsets": offsets})
    headers = st.dictionaries(st.sampled_from(["a", "key", "../b"]), tensor | ANYTHING, max_size=3)
    hold(
        "checkpoints", examples, property_, header=headers, body=st.binary(max_size=40),
        at=st.integers(0, 10**6), bit=st.integers(0, 7),
    )  # fmt: skip


@pytest.mark.parametrize("examples", EXAMPLES)
def test_any_run_folder_is_read_or_refused(tmp_path, examples):
    numbers = iter(range(10**9))

    def property_(described, listed, history):
        run = Run(tmp_path / str(next(numbers)))
        make_sealed(
            run.folder,
            {"config.json": json.dumps(described), "vocabulary.json": json.dumps(listed)},
        )
        (run.folder / "history.jsonl").write_text(history)
        for look in ("config", "vocabulary", "prompt", "history"):
            with refusing():
                getattr(run, look)
        with refusing():
            run.load_params()

    described = ANYTHING | configurations().map(lambda c: {"config": c, "corpus_sha256": ""})
    tokens = st.lists(st.text(max_size=2) | st.sampled_from(SPECIAL) | ANYTHING, max_size=5)
    listed = ANYTHING | st.fixed_dictionaries({"itos": tokens, "lowercase": ANYTHING})
    lines = ANYTHING.map(lambda value: json.dumps(value) + "\n") | st.text(max_size=20)
    hold("folders", examples, property_, described=described, listed=listed, history=lines)


DEEP = "[" * 100_000


def test_deep_json_is_refused(tmp_path):
    make_sealed(tmp_path / "deep", {"config.json": DEEP, "vocabulary.json": "{}"})
    with refusing():
        _ = Run(tmp_path / "deep").config


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}, b""),
        ({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**64 - 1]}}, b""),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}, bytes(12)),
        ({"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
    ],
    ids=["huge", "overflow", "overlap", "hole", "objects"],
)
def test_crafted_headers_are_refused(tmp_path, header, body):
    path = tmp_path / "state"
    path.write_bytes(sealed_bytes(header, body))
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        read(path)


@pytest.mark.parametrize("length", [2**60, 2**64 - 1, 10**6])
def test_a_header_longer_than_the_file_is_refused(tmp_path, length):
    path, data = tmp_path / "state", pack({"a": jnp.ones(3)})
    path.write_bytes(seal(length.to_bytes(8, "little") + data[8:]))
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        read(path)


def test_a_file_larger_than_the_model_is_refused_before_it_is_read(tmp_path):
    path, like = tmp_path / "state", {"a": jnp.ones(3)}
    with open(path, "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    with pytest.raises(CheckpointError, match="no checkpoint of this model is so large"):
        load(path, like)


def test_other_formats_are_refused_with_a_remedy(tmp_path, monkeypatch):
    path, like = tmp_path / "state", {"a": jnp.ones(3)}
    for number, message in (
        (3, "written by a newer jaxrnn.* format 3, .* reads format 2"),
        (1, "has checkpoint format 1, and this jaxrnn reads format 2"),
    ):
        monkeypatch.setattr(checkpoints, "FORMAT", number)
        path.write_bytes(pack(like))
        monkeypatch.undo()
        with pytest.raises(CheckpointError, match=message):
            load(path, like)


@pytest.mark.parametrize(
    "text",
    [
        "😀👩‍👩‍👧🏽 ",
        "e\u0301a\u0308 ",
        "שלום עליכם ",
        "a\0b\0 ",
        "\ufeffone\r\ntwo\r\n",
        "x" * 9 + "y",
    ],
    ids=["emoji", "combining", "right-to-left", "NUL", "BOM and CRLF", "one line"],
)
def test_odd_texts_are_learnt_and_written(text):
    vocabulary = Vocabulary.from_frequency([text * 20], min_frequency=1)
    tokens = vocabulary.encode(text * 20)
    assert vocabulary.decode(tokens) == (text * 20).lower()
    model = CharLM(40, 3, 4)  # one size for all, so that it is compiled once
    state = make_state(model, ADAM, 2, jax.random.key(0))
    inputs, targets = BpttStream(tokens, 2, 8).window(0, 0)
    _, metrics = train_step(model, ADAM, state, Batch(inputs, targets), 1e-2)
    assert np.isfinite(metrics.loss)


def test_a_megabyte_on_one_line_is_one_corpus(tmp_path):
    path = tmp_path / "line"
    path.write_text("the quick brown fox " * 52_429)
    experiment = prepare(Config(corpus=str(path)))
    total = len(experiment.source.tokens) + len(experiment.validation.tokens)
    assert total >= 2**20


def test_a_vocabulary_of_100000_characters_trains():
    characters = [chr(c) for c in range(0x20, 0x20000) if not 0xD800 <= c < 0xE000][:100_000]
    vocabulary = Vocabulary.from_frequency(["".join(characters)], min_frequency=1, lowercase=False)
    assert len(vocabulary) == 100_003
    tokens = vocabulary.encode("".join(characters[-40:]))
    model = CharLM(len(vocabulary), 2, 2)
    state = make_state(model, ADAM, 2, jax.random.key(0))
    batch = Batch(*BpttStream(tokens, 2, 4).window(0, 0))
    _, metrics = train_step(model, ADAM, state, batch, 1e-2)
    assert float(metrics.loss) == pytest.approx(np.log(len(vocabulary)), rel=0.2)


BAD = np.array([[0, 1], [V, 2], [1, 1]])


def test_tokens_out_of_range_are_refused_on_the_host():
    state = make_state(MODEL, ADAM, 2, jax.random.key(0))
    message = r"tokens must be in \[0, 5\), got 5"
    with pytest.raises(ValueError, match=message):
        train_step(MODEL, ADAM, state, Batch(BAD, BAD), 1e-2)
    with pytest.raises(ValueError, match=message):
        generate(MODEL, state.params, BAD, 2, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        get_next(MODEL, state.params, jnp.asarray(BAD))
    source = BpttStream(np.resize(BAD, 60), 2, 4)
    with pytest.raises(ValueError, match=message):
        evaluate(MODEL, state.params, source)
    with pytest.raises(ValueError, match=message):
        fit(MODEL, source, schedule="1 x 1e-2")
    with pytest.raises(ValueError, match="tokens must be at least 0, got -1"):
        BpttStream(np.arange(60) - 1, 2, 4)
    with pytest.raises(ValueError, match="tokens must be integers, got float64"):
        WindowSet(np.zeros(60), np.arange(3), 4, 2)
    with pytest.raises(ValueError, match="lies outside the 60 tokens"):
        WindowSet(np.zeros(60, int), np.array([56]), 4, 2)


@pytest.mark.parametrize(
    "name", ["..", ".", "a/b", "/tmp/x", "a\\b", "", "a\0", "a\n", "ä", "-" * 101]
)
def test_names_cannot_leave_their_folder(name):
    with pytest.raises(ValueError, match="A run's name has"):
        checked_name(name)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin"])
def test_what_is_no_regular_file_is_never_read(path):
    with pytest.raises(ValueError, match="is no regular file"):
        load_corpus(path)


def test_a_model_that_cannot_fit_into_memory_is_refused(tmp_path):
    (tmp_path / "text").write_text("the quick brown fox " * 50)
    with pytest.raises(ValueError, match=r"needs at least .* GB of memory, .* smaller hidden"):
        prepare(Config(model="CharLM", corpus=str(tmp_path / "text"), hidden=60_000, batch=2))


def test_nothing_is_unpickled_or_executed():
    banned = {"pickle", "marshal", "shelve", "eval", "exec", "compile", "dill", "yaml"}
    banned |= {"__import__", "import_module", "runpy", "joblib", "allow_pickle"}
    for path in Path(jaxrnn.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            if isinstance(node, ast.Name):
                names = {node.id}
            if isinstance(node, ast.keyword):
                names = {node.arg}
            assert not names & banned, f"{path}, line {node.lineno}"
