import os

import pytest

import ropeway

MODEL = os.environ["ROPEWAY_TEST_MODEL"]


@pytest.fixture(scope="session")
def engine():
    return ropeway.Engine(MODEL, device="cpu")
