"""Settings for the whole suite: a fixed seed before each test, and the threads given back as they were."""

import os

import hypothesis
import pytest

import imgrec_engine as ie

hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=int(os.environ.get("IMGREC_TEST_EXAMPLES", "40"))
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _fresh_state():
    threads = ie.get_num_threads()
    ie.manual_seed(0)
    yield
    ie.set_num_threads(threads)
