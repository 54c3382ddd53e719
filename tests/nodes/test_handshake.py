"""Handshake with a stand-in for rclpy's client, since real requests cannot be lost on demand."""

from __future__ import annotations

from rclpy.task import Future

from lens_ros.ros.workarounds import handshake
from lens_ros.ros.workarounds.handshake import Handshake


class Client:
    def __init__(self) -> None:
        self.ready = True
        self.futures: list[Future] = []

    def service_is_ready(self) -> bool:
        return self.ready

    def call_async(self, request) -> Future:
        self.futures.append(Future())
        return self.futures[-1]

    def remove_pending_request(self, future) -> None:
        future.cancel()


def test_it_asks_until_it_is_answered_and_anew_when_the_server_was_gone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(handshake.time, "monotonic", lambda: now[0])
    client = Client()
    client.ready = False
    known = Handshake(client, "who is there?")
    assert not known() and not client.futures
    client.ready = True
    assert not known() and not known() and len(client.futures) == 1
    now[0] = handshake.REPEAT_S + 0.1  # the first request was lost
    assert not known() and len(client.futures) == 2
    client.futures[1].set_result("me")
    assert known() and known.response == "me" and len(client.futures) == 2
    assert client.futures[0].cancelled()
    client.ready = False
    assert not known() and known.response is None
    client.ready = True
    assert not known() and len(client.futures) == 3
