"""Two virtual devices for all tests, and the fixtures that many of them share."""

from pathlib import Path

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
if not jax.config.jax_compilation_cache_dir:  # what one worker has compiled serves the other, and the next run
    jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache" / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

hypothesis.settings.register_profile(
    "any_machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any_machine")

from robustbench_jax.ops.runtime import make_room  # noqa: E402
from tests import oracles  # noqa: E402


def pytest_collection_modifyitems(items):
    """Marks slow what slow.txt lists. The laws of one attack follow one another: what is compiled for one of them
    serves the others.
    """
    slow = set(Path(__file__).with_name("slow.txt").read_text().splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker(pytest.mark.slow)
    laws = [number for number, item in enumerate(items) if item.path.name == "test_laws.py"]
    turns = sorted((items[number] for number in laws), key=lambda item: item.name.partition("[")[2])
    for number, item in zip(laws, turns, strict=True):
        items[number] = item


@pytest.fixture(autouse=True)
def room():
    make_room()


@pytest.fixture(scope="session")
def linear():
    return oracles.linear()


@pytest.fixture(scope="session")
def small_cnn():
    return oracles.small_cnn()


@pytest.fixture(scope="session")
def tiny():
    return oracles.tiny()
