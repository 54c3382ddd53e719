"""The node `perception` with a model whose loading never ends: `python -m tests.nodes.endless_loading`."""

from __future__ import annotations

import time

from lens_ros.nodes import loading, perception


def load_lens(settings: object) -> None:
    while True:
        try:
            time.sleep(0.01)
        except Exception:  # as libraries have it
            continue


if __name__ == "__main__":
    loading.load_lens = load_lens  # type: ignore[assignment]
    raise SystemExit(perception.main())
