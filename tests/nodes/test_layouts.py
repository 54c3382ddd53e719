"""The layouts for RViz and Foxglove show topics that a running node really offers, with matching QoS."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.qos import (
    QoSCompatibility,
    QoSDurabilityPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_check_compatible,
)

ROOT = Path(__file__).resolve().parents[2]
RVIZ, FOXGLOVE = ROOT / "rviz" / "lens.rviz", ROOT / "foxglove" / "lens.json"
SHOWN = {"Image": "sensor_msgs/msg/Image", "MarkerArray": "visualization_msgs/msg/MarkerArray"}
TOPIC_KEYS = {"imageTopic", "topicPath", "topicName", "topicToRender", "value"}


@pytest.fixture
def offered(graph, make_node) -> dict[str, str]:
    """Return the type of each topic that the node publishes or subscribes to."""
    node = make_node()
    names = node.get_name(), node.get_namespace()
    ends = node.get_publisher_names_and_types_by_node(*names)
    ends += node.get_subscriber_names_and_types_by_node(*names)
    return {topic: types[0] for topic, types in ends}


def displays() -> list[dict[str, Any]]:
    return yaml.safe_load(RVIZ.read_text())["Visualization Manager"]["Displays"]


def strings(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a layout with its key."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from strings(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from strings(value, key)
    elif isinstance(tree, str):
        yield key, tree


def test_rviz_shows_what_the_node_has(offered):
    assert len(displays()) >= 4
    for display in displays():
        package, _, kind = display["Class"].partition("/")
        assert package == "rviz_default_plugins" and kind in SHOWN
        assert offered[display["Topic"]["Value"]] == SHOWN[kind]


def test_rviz_receives_them(graph, offered):
    for display in displays():
        topic = display["Topic"]
        reads = QoSProfile(
            depth=topic["Depth"],
            reliability=QoSReliabilityPolicy[topic["Reliability Policy"].upper().replace(" ", "_")],
            durability=QoSDurabilityPolicy[topic["Durability Policy"].upper()],
        )
        publishers = graph.node.get_publishers_info_by_topic(topic["Value"])
        for publisher in publishers:
            assert qos_check_compatible(publisher.qos_profile, reads)[0] != QoSCompatibility.ERROR
        if not publishers:  # the camera's, of which any driver must do
            assert reads.reliability == QoSReliabilityPolicy.BEST_EFFORT


def test_foxglove_names_topics_that_the_node_has(offered):
    layout = json.loads(FOXGLOVE.read_text())
    topics = [
        re.match(r"/[\w/]+", text).group()
        for key, text in strings(layout["configById"])
        if key in TOPIC_KEYS and text.startswith("/")
    ]
    assert len(topics) >= 8 and set(topics) <= set(offered)
    for panel, config in layout["configById"].items():
        if panel.startswith("Image!"):
            kind = offered[config["imageMode"]["imageTopic"]]
            assert kind in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
        if panel.startswith("Publish!"):
            assert config["datatype"] == offered[config["topicName"]]
            assert set(json.loads(config["value"])) == {"data"}


def test_foxglove_plots_fields_that_the_messages_have(offered):
    from lens_ros.msg import Segmentation

    layout = json.loads(FOXGLOVE.read_text())
    paths = [text for key, text in strings(layout["configById"]) if key == "value" and text.startswith("/")]
    assert paths
    for path in paths:
        topic, name = path.split(".")
        assert offered[topic] == "lens_ros/msg/Segmentation"
        assert name in Segmentation.get_fields_and_field_types()


def test_every_panel_of_foxglove_has_its_place():
    layout = json.loads(FOXGLOVE.read_text())
    placed = [text for key, text in strings(layout["layout"]) if key != "direction"]
    assert sorted(placed) == sorted(layout["configById"])


def test_both_are_installed():
    installed = re.search(
        r"install\(DIRECTORY (config .*) DESTINATION", (ROOT / "CMakeLists.txt").read_text()
    )
    assert {RVIZ.parent.name, FOXGLOVE.parent.name} <= set(installed.group(1).split())
