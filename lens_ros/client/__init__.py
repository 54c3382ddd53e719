"""Ask the node `perception` from other nodes and scripts.

`LensClient` lives in a node that somebody else spins. It never waits: every question gives a future of
rclpy, to `await` in a coroutine callback or to watch with `add_done_callback`. It is safe in callbacks of any
executor, also a single-threaded one: what it needs lies in a callback group of its own. (Up to Kilted, rclpy
polls an awaiting coroutine at the load of one core; a done callback costs nothing.)

`BlockingLensClient` is for scripts: it brings a node and a thread of its own, and its methods wait.

Every failure is a `LensError` that says what to do. Examples that run: docs/guides/client.md.
"""

from lens_ros.client.blocking import Answers, BlockingLensClient
from lens_ros.client.decoded import Answer, Found
from lens_ros.client.errors import (
    LensCancelledError,
    LensError,
    LensInputError,
    LensRefusedError,
    LensTimeoutError,
    LensUnavailableError,
)
from lens_ros.client.lens_client import LensClient, Question, Subscription

__all__ = [
    "Answer",
    "Answers",
    "BlockingLensClient",
    "Found",
    "LensCancelledError",
    "LensClient",
    "LensError",
    "LensInputError",
    "LensRefusedError",
    "LensTimeoutError",
    "LensUnavailableError",
    "Question",
    "Subscription",
]
