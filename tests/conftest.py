"""Settings for the whole suite: the devices, a fixed seed before each test, the threads given back as they were."""

import os

import hypothesis
import pytest

import imgrec_engine as ie
from imgrec_engine import device as devices

hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=int(os.environ.get("IMGREC_TEST_EXAMPLES", "40"))
)
hypothesis.settings.load_profile("suite")


@pytest.fixture(params=devices.names())
def device(request):
    """Every device present, in turn."""
    return request.param


@pytest.fixture(autouse=True)
def _fresh_state():
    threads = ie.get_num_threads()
    ie.manual_seed(0)
    yield
    ie.set_num_threads(threads)
