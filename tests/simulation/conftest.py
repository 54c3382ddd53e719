from collections.abc import Iterator

import pytest

from lens_ros.simulation.renderer import TabletopSimulator


@pytest.fixture(scope="session")
def simulator(opengl: None) -> Iterator[TabletopSimulator]:
    with TabletopSimulator() as opened:
        yield opened


@pytest.fixture
def second_simulator(opengl: None) -> Iterator[TabletopSimulator]:
    with TabletopSimulator() as opened:
        yield opened
