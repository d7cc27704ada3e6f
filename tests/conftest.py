"""Two virtual devices for all tests, and the fixtures that many of them share."""

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)

from tests import oracles  # noqa: E402


@pytest.fixture(scope="session")
def linear():
    return oracles.linear()


@pytest.fixture(scope="session")
def small_cnn():
    return oracles.small_cnn()


@pytest.fixture(scope="session")
def tiny():
    return oracles.tiny()
