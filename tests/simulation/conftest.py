from collections.abc import Iterator

import pytest

from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator


def open_simulator() -> TabletopSimulator:
    """The one place where tests are skipped for want of OpenGL."""
    try:
        return TabletopSimulator()
    except SimulatorUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def simulator() -> Iterator[TabletopSimulator]:
    with open_simulator() as opened:
        yield opened


@pytest.fixture
def second_simulator() -> Iterator[TabletopSimulator]:
    with open_simulator() as opened:
        yield opened
