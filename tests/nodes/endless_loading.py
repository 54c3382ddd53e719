"""Run `perception` with a model that never finishes loading: `python -m tests.nodes.endless_loading`.

It loses the first interruption, as can happen in an import while Python runs a finaliser.
"""

from __future__ import annotations

import sys
import time

from lens_ros.nodes.perception import model_loading, node


class Finalised:
    """Object that loses exceptions raised while it is finalised: Python reports them and continues."""

    def __del__(self) -> None:
        while True:
            time.sleep(0.01)


def load_lens(settings: object) -> None:
    sys.unraisablehook = lambda lost: print("lost:", lost.exc_type.__name__, flush=True)
    Finalised()
    while True:
        try:
            time.sleep(0.01)
        except Exception:  # as libraries have it
            continue


if __name__ == "__main__":
    model_loading.load_lens = load_lens  # type: ignore[assignment]
    raise SystemExit(node.main())
