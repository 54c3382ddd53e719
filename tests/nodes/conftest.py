"""Real processes and a separate ROS graph for each test module.

Without ROS 2 only test_ros.py is collected; it reports what is missing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

HAS_ROS = importlib.util.find_spec("rclpy") is not None
collect_ignore_glob = [] if HAS_ROS else ["test_[!r]*.py"]

if HAS_ROS:
    sys.path.insert(0, str(Path(__file__).parent))  # for `ros_graph`, wherever pytest was started


@pytest.fixture(scope="session", autouse=True)
def _template(template: None) -> None:
    """Start the template before the first test that forks it."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """Save an untrained lens-nano that gives long, unreadable answers to any instruction."""
    import torch

    from lens_ros.model.checkpoint import save_model
    from training.nano import build_nano

    folder = tmp_path_factory.mktemp("models") / "untrained"
    model, tokenizer = build_nano(0)
    model.config = dataclasses.replace(model.config, subjects=None)
    save_model(model, tokenizer, folder, dtype=torch.float16)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """Write three different pictures of 640x480 pixels.

    A raw picture has 0.9 MB, which only arrives with the Fast DDS profile.
    """
    import cv2

    folder = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        picture = np.full((480, 640, 3), (40, 60, 90), np.uint8)
        cv2.circle(picture, (150 + 150 * number, 240), 60, (0, 0, 200), cv2.FILLED)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Yield a ROS graph that no other test module sees, with a node of this process in it.

    See `ros_graph.Graph`.
    """
    from ros_graph import own_graph

    with own_graph(tmp_path_factory) as graph:
        yield graph


@pytest.fixture
def finder():
    """Return the model of the nodes that `make_node` creates."""
    from finder import Finder

    return Finder()


@pytest.fixture
def make_node(graph, finder, monkeypatch):
    """Return a function that creates an active `PerceptionNode` with a `Finder`.

    The node shares the executor of the test's own node.
    """
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    from lens_ros.nodes.perception import model_loading
    from lens_ros.nodes.perception.node import PerceptionNode

    monkeypatch.setattr(model_loading, "load_lens", lambda settings: finder)
    nodes = []

    def make(**parameters) -> PerceptionNode:
        parameters = {"tracking": False, **parameters}  # a `Finder` follows nothing
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = PerceptionNode(context=graph.context, parameter_overrides=overrides)
        nodes.append(node)
        graph.executor.add_node(node)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        return node

    yield make
    finder.go_on.set()
    while nodes:
        graph.end(nodes.pop())


@pytest.fixture
def conversation(graph):
    """Yield a `ros_graph.Conversation` for one test."""
    from ros_graph import Conversation

    conversation = Conversation(graph)
    yield conversation
    conversation.close()


@pytest.fixture
def client(graph):
    """Yield an `action_client.Client` of the node's action."""
    from action_client import Client

    client = Client(graph)
    yield client
    client.client.destroy()


@pytest.fixture
def image(conversation):
    """Send a camera image and return it."""
    return conversation.send_image()
