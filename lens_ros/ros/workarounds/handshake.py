"""Find out whether a server knows this client; a request sent before that is lost.

Symptom: the first request to a service that is just being discovered never arrives (for seconds, on loaded
    machines).
Upstream: https://github.com/ros2/rmw_fastrtps/issues/842 (discovery is not symmetric).
Versions: Fast DDS of Humble, Jazzy and Kilted.
Test: tests/nodes/test_handshake.py::test_it_asks_until_it_is_answered_and_anew_when_the_server_was_gone
May go: when `service_is_ready` means that the server has matched the client.
"""

from __future__ import annotations

import threading
import time
from typing import Any

REPEAT_S = 2.0  # after which a request without an answer is sent once more


class Handshake:
    """True once the server has answered a harmless `request` of `client`; to be polled, by any thread.

    Discovery in DDS is not symmetric: a client may see a service that does not see the client yet, and a
    request sent then never arrives (on loaded machines, seconds; ros2/rmw_fastrtps, issue 842). Endpoints are
    announced in the order in which they were made, so whoever answers this client knows all those that the
    process made before it.
    """

    def __init__(self, client: Any, request: Any) -> None:
        self.response: Any = None
        self._client = client
        self._request = request
        self._lock = threading.Lock()
        self._futures: list[Any] = []
        self._asked_at = float("-inf")

    def __call__(self) -> bool:
        """Return whether the server has answered; ask if that is due. One that vanished must answer again."""
        with self._lock:
            if not self._client.service_is_ready():
                self._forget()
                self.response = None
                return False
            if self.response is not None:
                return True
            for future in self._futures:
                if future.done() and future.exception() is None:
                    self.response = future.result()
                    self._forget()
                    return True
            if time.monotonic() - self._asked_at > REPEAT_S:
                self._asked_at = time.monotonic()
                self._futures.append(self._client.call_async(self._request))
            return False

    def _forget(self) -> None:
        for future in self._futures:
            self._client.remove_pending_request(future)
        self._futures.clear()
        self._asked_at = float("-inf")
