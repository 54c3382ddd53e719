"""Each problem is reported with its own reason, under its own topic, for as long as it lasts."""

from __future__ import annotations

import gc
import logging
import warnings
from pathlib import Path

import pytest
import rclpy
from action_client import Client
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log as LogMessage
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from ros_graph import ROOT, TIMEOUT, Log
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from lens_ros.engine.cache import default_root
from lens_ros.inputs import PathError
from lens_ros.msg import Segmentation
from lens_ros.nodes.camera.sources import SourceError, open_source
from lens_ros.nodes.perception import model_loading
from lens_ros.nodes.perception.node import PerceptionNode
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.services import request_objection
from lens_ros.ros import conversions
from lens_ros.ros.reporting import PythonWarnings
from lens_ros.srv import Segment

NANO = ROOT / "models" / "lens-nano"
OK, WARN = b"\x00", b"\x01"
WARN_IN_LOG = 30


@pytest.fixture
def stranger(graph):
    """Yield a node of another participant, since one participant cannot have two types on one topic."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=graph.context.get_domain_id())
    node = rclpy.create_node("stranger", context=context)
    yield node
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def statuses(graph):
    """Yield the latest diagnostics: part -> status."""
    latest: dict[str, DiagnosticStatus] = {}

    def listen(message: DiagnosticArray) -> None:
        latest.update({status.name.split(": ")[1]: status for status in message.status})

    subscription = graph.node.create_subscription(DiagnosticArray, "/diagnostics", listen, 10)
    yield latest
    graph.node.destroy_subscription(subscription)


@pytest.fixture
def rosout(graph):
    """Yield the messages on /rosout at level WARN."""
    # Of two nodes with one name, the end of the first takes the second's messages off /rosout too.
    gc.collect()
    told: list[str] = []

    def listen(message: LogMessage) -> None:
        if message.level == WARN_IN_LOG:
            told.append(f"{message.name}: {message.msg}")

    kept = QoSProfile(
        depth=1000, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
    )  # also from before it matched
    subscription = graph.node.create_subscription(LogMessage, "/rosout", listen, kept)
    yield told
    graph.node.destroy_subscription(subscription)


def wait_for(graph, statuses, part: str, *texts: str) -> DiagnosticStatus:
    graph.wait_until(
        lambda: part in statuses and all(text in statuses[part].message for text in texts),
        TIMEOUT,
        f"{texts} in {part}",
    )
    return statuses[part]


# Types -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "foreign", "own", "part", "advice"),
    [
        (
            "image",
            CompressedImage,
            Image,
            "images",
            "image_transport to compressed, and remap /image to NAME",
        ),
        ("image", CameraInfo, Image, "images", "remap `image` to the topic of a camera"),
        ("camera_info", Image, CameraInfo, "images", "remap the topic, or change the publisher"),
        ("instruction", CameraInfo, String, "state", "remap the topic, or change the publisher"),
    ],
)
def test_publishers_of_another_type_are_named(
    topic, foreign, own, part, advice, graph, make_node, stranger, statuses, rosout
):
    publisher = stranger.create_publisher(foreign, topic, 5)
    graph.wait_until(lambda: graph.node.count_publishers(topic), TIMEOUT, "the publisher's discovery")
    make_node(image_timeout_s=1.0)
    said = (
        f"/stranger sends sensor_msgs/msg/{foreign.__name__} on /{topic}, and this node reads",
        f"/msg/{own.__name__}: nothing is received from there; ",
        advice,
    )
    assert wait_for(graph, statuses, part, *said).level == WARN
    graph.wait_until(lambda: any(said[0] in text for text in rosout), TIMEOUT, "the warning on /rosout")
    if topic == "image":
        wait_for(graph, statuses, "images", "no image on /image for", said[0])
        assert statuses["images"].message.count(said[0]) == 1
        assert not any("Fast DDS" in text or "fastdds" in text for text in rosout)
        (silence,) = [text for text in rosout if "no image on /image for" in text]
        assert said[0] in silence and advice in silence
    stranger.destroy_publisher(publisher)
    graph.wait_until(lambda: said[0] not in statuses[part].message, TIMEOUT, "the end of the warning")


def test_a_raw_camera_where_compressed_images_are_expected_is_named(graph, make_node, stranger, statuses):
    publisher = stranger.create_publisher(Image, "image/compressed", 5)
    graph.wait_until(lambda: graph.node.count_publishers("image/compressed"), TIMEOUT, "its discovery")
    make_node(image_transport="compressed", image_timeout_s=1.0)
    wait_for(
        graph, statuses, "images", "no image on /image/compressed", "/stranger sends sensor_msgs/msg/Image"
    )
    wait_for(graph, statuses, "images", "image_transport to raw, and remap `image` to /image/compressed")
    stranger.destroy_publisher(publisher)


def test_images_of_the_other_transport_are_pointed_out(graph, make_node, statuses):
    publisher = graph.node.create_publisher(CompressedImage, "image/compressed", 5)
    make_node(image_timeout_s=0.5)
    said = (
        "s; sensor_msgs/msg/CompressedImage is published on /image/compressed by /tests: to use that, "
        "set the parameter"
    )
    wait_for(graph, statuses, "images", "no image on /image for", said, "image_transport to compressed")
    graph.node.destroy_publisher(publisher)


def test_two_types_on_one_topic_of_a_process_do_not_blame_qos(graph, monkeypatch, finder, capfd):
    log = Log(capfd)
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: finder)
    publisher = graph.node.create_publisher(String, "image", 5)
    node = PerceptionNode(context=graph.context)
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
    said = r"cannot activate: the topic /image has the type std_msgs/msg/String \(/tests\) already, and this "
    assert log.count(said + r"node needs sensor_msgs/msg/Image there: remap one") == 1
    graph.node.destroy_publisher(publisher)
    graph.wait_until(
        lambda: node.trigger_activate() == TransitionCallbackReturn.SUCCESS, TIMEOUT, "activation"
    )
    graph.end(node)
    assert log.count("qos_overrides") == 0


def test_two_types_of_one_service_do_not_blame_qos(graph, monkeypatch, finder, capfd):
    log = Log(capfd)
    monkeypatch.setattr(model_loading, "load_lens", lambda settings: finder)
    service = graph.node.create_service(Trigger, "perception/segment", lambda request, response: response)
    node = PerceptionNode(context=graph.context)
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert (
        log.count(r"cannot configure: the service /perception/segment has the type std_srvs/srv/Trigger al")
        == 1
    )
    assert log.count("qos_overrides") == 0
    graph.node.destroy_service(service)
    graph.end(node)


# Quality of service ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("topic", "kind", "part"), [("instruction", String, "state"), ("image", Image, "images")]
)
def test_a_publisher_that_does_not_match_is_reported_with_both_sides(
    topic, kind, part, graph, make_node, statuses, rosout
):
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    publisher = graph.node.create_publisher(kind, topic, best_effort)
    make_node(image_timeout_s=1.0, **{"qos_overrides./image.subscription.reliability": "reliable"})
    said = (
        f"a publisher on /{topic} offers a quality of service that does not match (RELIABILITY): /tests "
        "offers reliability BEST_EFFORT, this node asks for reliability RELIABLE"
    )
    status = wait_for(graph, statuses, part, said, f"qos_overrides./{topic}.subscription.*")
    assert status.level == WARN
    graph.wait_until(lambda: any(said in text for text in rosout), TIMEOUT, "the warning on /rosout")
    if topic == "image":
        wait_for(graph, statuses, "images", "no image on /image for")
        assert not any("astdds" in text or "Fast DDS" in text for text in rosout)
    for other in {"state", "images", "answers"} - {part}:
        assert "does not match" not in statuses[other].message
    graph.node.destroy_publisher(publisher)
    graph.wait_until(
        lambda: "does not match" not in statuses[part].message, TIMEOUT, "the end of the warning"
    )


def test_a_subscription_that_does_not_match_is_reported_with_both_sides(graph, make_node, statuses):
    make_node()
    profile = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    topics = {"segmentation": Segmentation, "mask": Image}
    subscriptions = [graph.node.create_subscription(k, t, print, profile) for t, k in topics.items()]
    for topic in topics:
        said = f"a subscription on /{topic} asks for a quality of service that does not match (DURABILITY): "
        both = "/tests asks for durability TRANSIENT_LOCAL, this node offers durability VOLATILE"
        assert wait_for(graph, statuses, "answers", said + both).level == WARN
    assert "qos_overrides" not in statuses["answers"].message  # durability cannot be overridden
    assert "does not match" not in statuses["images"].message + statuses["state"].message
    for subscription in subscriptions:
        graph.node.destroy_subscription(subscription)
    graph.wait_until(lambda: statuses["answers"].level == OK, TIMEOUT, "the end of the warning")


# Requests --------------------------------------------------------------------------------------------------


def test_a_goal_without_an_image_is_told_so(graph, make_node, conversation):
    make_node()
    conversation.wait_until_heard()
    image = Image()
    image.header.frame_id = "a header is no image"
    message = Client(graph).ask("the mug", image).wait().message
    assert "holds no image" in message and "use_latest_image" in message and "encoding" not in message


def test_an_image_without_an_encoding_is_told_so():
    image = Image(height=16, width=16, step=48, data=bytes(768))
    said = request_objection(Segment.Request(image=image, instruction="the mug"))
    assert said.startswith("image has no encoding (an empty field); expected one of rgb8")
    with pytest.raises(conversions.ConversionError, match="depth image has no encoding"):
        conversions.depth_to_metres(image)


# Paths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["engine_cache_dir", "model"])
def test_a_path_of_an_unknown_user_names_its_parameter(name, graph, capfd):
    log = Log(capfd)
    node = PerceptionNode(
        context=graph.context, parameter_overrides=[Parameter(name, value="~nobody_here/x")]
    )
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    said = r"cannot configure: .*'~nobody_here/x' begins with ~nobody_here, and there is no such user"
    assert log.count(said) == 1 and log.count(rf"cannot configure: .*parameter {name}") == 1
    other = {"engine_cache_dir": "model", "model": "engine_cache_dir"}[name]
    assert log.count(rf"cannot configure: .*parameters? {other}") == log.count("Traceback") == 0
    node.destroy_node()


def test_a_folder_that_cannot_exist_names_its_setting(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "engines"):
        settings = PerceptionParameters(engine_cache_dir=str(path))
        with pytest.raises(
            PathError, match=rf"parameter engine_cache_dir: '{path}' cannot be a folder"
        ) as caught:
            model_loading.load_lens(settings)
        assert (
            model_loading.load_failure(caught.value, settings)
            == f"{caught.value}; then configure the node again"
        )
        monkeypatch.setenv("LENS_ENGINE_CACHE", str(path))
        with pytest.raises(PathError, match="environment variable LENS_ENGINE_CACHE: "):
            default_root()
    assert model_loading.engine_folder(
        PerceptionParameters(engine_cache_dir=str(tmp_path / "new" / "engines"))
    )


def test_a_source_of_an_unknown_user_names_its_parameter():
    with pytest.raises(SourceError, match="^parameter source: '~nobody_here/bag' begins with ~nobody_here"):
        open_source("~nobody_here/bag")


# Warnings of Python ----------------------------------------------------------------------------------------


def test_engines_that_cannot_serve_are_a_warning_as_long_as_they_do_not(graph, statuses, rosout, tmp_path):
    values = {
        "model": str(NANO),
        "backend": "onnxruntime",
        "engine_cache_dir": str(tmp_path),
        "build_engines": False,
    }
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = PerceptionNode(context=graph.context, parameter_overrides=overrides)
    graph.executor.add_node(node)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        said = "backend onnxruntime was asked for, and cannot serve: encoder torch: onnxruntime fp32: no onnx"
        assert wait_for(graph, statuses, "model", "loaded", said).level == WARN
        graph.wait_until(
            lambda: any(t.startswith("perception: engine: segmenter of") and said in t for t in rosout),
            TIMEOUT,
            "the warning on /rosout",
        )
        assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
        node.set_parameters([Parameter("backend", value="torch")])
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        graph.wait_until(lambda: statuses["model"].message == "loaded", TIMEOUT, "the end of the warning")
        assert statuses["model"].level == OK
    finally:
        graph.end(node)


def test_warnings_of_our_modules_are_logged_by_the_node_and_others_as_before(monkeypatch):
    class Log:
        def __init__(self) -> None:
            self.told: list[tuple[str, str]] = []

        def warning(self, text: str) -> None:
            self.told.append(("warning", text))

        def error(self, text: str) -> None:
            self.told.append(("error", text))

    passed = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *rest, **named: passed.append(str(message)))
    monkeypatch.setattr(warnings, "filters", [("always", None, Warning, None, 0)])
    log = Log()
    ours, others = str(ROOT / "lens_ros" / "model" / "sam.py"), str(Path(logging.__file__))
    reporting = PythonWarnings(log)
    try:
        warnings.warn_explicit("too wide", UserWarning, ours, 12)
        warnings.warn_explicit("too long", UserWarning, others, 13)
        logging.getLogger("lens_ros.model").warning("%s of %d", "one", 3)
        logging.getLogger("lens_ros.engine").error("lost")
        logging.getLogger("lens_ros.engine").info("well")
        logging.getLogger("somebody.else").error("not ours")
    finally:
        reporting.close()
        reporting.close()
    warnings.warn_explicit("too late", UserWarning, ours, 14)
    assert log.told == [
        ("warning", "model/sam.py:12: UserWarning: too wide"),
        ("warning", "model: one of 3"),
        ("error", "engine: lost"),
    ]
    assert passed == ["too long", "too late"]
    assert reporting not in logging.getLogger("lens_ros").handlers
