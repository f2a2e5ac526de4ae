"""Random calls of the public functions, right and wrong, on every backend; and how they are made.

The long form is `./scripts/stress calls`.
"""

import os
import re

import jax
import pytest
from stress.calls.judging import faults_of
from stress.calls.run import make_calls
from stress.calls.sampling import TRACED, sample_call
from stress.paths import python_path
from stress.sanitize import parse_report, sanitize_tests, sanitized_calls

from jaxrnn.recurrent import recurrence

SEED = 9


@pytest.fixture
def all_frames():
    """Tracebacks in which JAX hides none of its frames: they tell whose message an error is."""
    before = jax.config.jax_traceback_filtering
    jax.config.update("jax_traceback_filtering", "off")
    yield
    jax.config.update("jax_traceback_filtering", before)


@pytest.mark.usefixtures("all_frames")
def test_random_calls_on_shapes_do_the_same_on_every_backend():
    calls = [sample_call(SEED, number, executed=False) for number in range(30)]
    for call in calls:
        assert faults_of(call, executed=False) == [], call.program()
    assert len({call.subject for call in calls}) >= 10
    assert 10 < sum(call.what == "right" for call in calls) < 25


@pytest.mark.slow
def test_random_calls_that_are_executed_do_the_same_on_every_backend():
    called = make_calls(0, 6, SEED)
    assert called.executed == 6
    assert called.report() == ""


def test_a_call_is_the_same_lines_every_time():
    """A number and a seed are enough to make a call again."""
    for number in range(50):
        call = sample_call(SEED, number, executed=False)
        assert call == sample_call(SEED, number, executed=False)
        compile(call.program(), "call", "exec")
    assert (
        sample_call(SEED, 0, executed=False).program()
        != sample_call(SEED + 1, 0, executed=False).program()
    )


@pytest.mark.usefixtures("all_frames")
def test_a_check_that_is_left_out_is_found(monkeypatch):
    """Without the check of the carry, wrong ones are taken, or the backends differ.

    The scan's check of the step still refuses some.
    """
    wrong = [
        call
        for call in (sample_call(SEED, number, executed=False) for number in range(2000))
        if call.subject == "recurrence" and re.fullmatch(r"carry of shape \([^()]*\)", call.what)
    ][:4]
    assert [faults_of(call, executed=False) for call in wrong] == [[]] * 4
    monkeypatch.setattr(recurrence, "as_carry", lambda carry, like: carry)
    # The step's dry run says in words what a wrong carry does to it.
    monkeypatch.setattr(recurrence, "check_step", lambda *arguments: None)
    assert any(faults_of(call, executed=False) for call in wrong)


def test_every_public_function_of_arrays_is_sampled():
    subjects = {sample_call(0, number, executed=False).subject for number in range(800)}
    assert subjects == set(TRACED)


def test_a_report_of_a_sanitizer_is_one_line_and_its_places():
    report = (
        "=================================================================\n"
        "==123==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x602000000014\n"
        "WRITE of size 4 at 0x602000000014 thread T0\n"
        "    #0 0x7f in jaxrnn::Generate::run() /src/jaxrnn/recurrent/csrc/generation.h:57\n"
        "    #1 0x7f in jaxrnn::generate() /src/jaxrnn/recurrent/csrc/recurrence.cc:120:3\n"
        "    #2 0x7f in xla::ffi::Invoke (libjax_common.so+0x3b973b0)\n"
    )
    fault = parse_report(report, "a test")
    assert fault.what == "ERROR: AddressSanitizer: heap-buffer-overflow on address"
    assert fault.where == ("generation.h:57", "recurrence.cc:120")


DYING = """
import os, signal, jax
real, left = jax.eval_shape, 12
def dying(*arguments, **options):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(*arguments, **options)
jax.eval_shape = dying
"""


@pytest.mark.slow
def test_a_call_that_ends_its_process_is_found_and_the_others_go_on(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(DYING)
    paths = os.pathsep.join([str(tmp_path), python_path()])
    called = make_calls(12, 0, SEED, variables={"PYTHONPATH": paths})
    ended = [wrong for wrong in called.wrong if "ended the process with -11" in wrong.fault]
    assert ended
    assert called.traced + len(ended) == 12
    assert ended[0].call.setup[0] in called.report()


@pytest.mark.slow
def test_many_random_calls():
    assert make_calls(1000, 100, 1).report() == ""


@pytest.mark.slow
def test_the_sanitizers_report_nothing(tmp_path):
    sanitized = sanitize_tests(tmp_path, ["tests/test_native_gradients.py"])
    assert sanitized.faults == []
    assert sanitized.failed == []
    assert sanitized.passed > 50
    called, reported = sanitized_calls(tmp_path, 20)
    assert called.report() == ""
    assert reported == []
