"""Fixtures: float64, and the course's corpus where there is one."""

from collections.abc import Iterator

import jax
import pytest

from jaxrnn.data.corpora import Corpus, data_folder, nietzsche

jax.config.update("jax_default_matmul_precision", "highest")  # no TF32 on a GPU


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def course_corpus() -> Corpus:
    if not (data_folder() / "nietzsche.txt").is_file():
        pytest.skip("needs nietzsche.txt in the folder that JAXRNN_DATA names")
    return nietzsche()
