"""`LensClient` in a node with a single-threaded executor, over real messages: answers, errors, ends."""

from __future__ import annotations

import threading
import time

import numpy as np
import PIL.Image
import pytest
import rclpy
from action_msgs.msg import GoalInfo
from rclpy.executors import SingleThreadedExecutor
from rclpy.task import Future
from ros_graph import TIMEOUT
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from lens_ros.client import (
    LensCancelledError,
    LensClient,
    LensError,
    LensInputError,
    LensRefusedError,
    LensTimeoutError,
    LensUnavailableError,
    lens_client,
)
from lens_ros.client.given import image_message
from lens_ros.ros import conversions
from lens_ros.srv import Segment

RGB = np.full((64, 96, 3), 90, np.uint8)


@pytest.fixture
def client(graph):
    client = LensClient(graph.node, server_timeout_s=20.0)
    yield client
    client.close()


@pytest.fixture
def wait(graph):
    """Return a function that spins until a future is done and returns its result."""

    def wait(future):
        graph.wait_until(future.done, TIMEOUT, "an answer")
        return future.result()

    return wait


@pytest.mark.parametrize(
    ("image", "text", "told"),
    [
        ("no/such.png", "the mug", "no such file"),
        (PIL.Image.new("RGB", (4, 4)), "the mug", "4x4 pixels"),
        (RGB, "the gr\udcfcn mug", "not UTF-8"),
        (RGB, None, "the instruction is NoneType"),
    ],
)
def test_what_cannot_be_sent_is_named(client, image, text, told):
    with pytest.raises(LensError, match=told):
        client.segment(image, text)
    with pytest.raises(LensError, match=told):
        client.ask(text, image=image)


def test_one_image_and_one_instruction(make_node, client, wait, conversation):
    make_node()
    for image in (RGB, conversation.send_image()):
        answer = wait(client.segment(image, "the red mug"))
        assert answer.message.instruction == "the red mug"
        assert [found.message.rejected for found in answer.instances] == ["", "disagrees"]
        (mug,) = answer.accepted
        expected = np.zeros((64, 96), bool)
        expected[10:20, 30:50] = True
        assert (mug.mask == expected).all() and (answer.mask == expected).all()
        assert mug.box == (30, 10, 50, 20) and mug.message.label == "red mug"
    assert answer.message.header == image.header


def test_asking_about_the_next_camera_image_tells_the_progress(
    graph, make_node, finder, client, wait, conversation
):
    make_node()
    heard = []
    question = client.ask("the mug with late masks", on_feedback=heard.append)
    graph.wait_until(lambda: heard, TIMEOUT, "feedback")
    image = conversation.send_image()
    graph.wait_until(lambda: heard[-1].stage == "decoding", TIMEOUT, "the last stage")
    assert not question.done()
    finder.go_on.set()
    answer = wait(question.future)
    assert answer.message.header == image.header and answer.mask.sum() == 200
    assert heard[0].stage == "waiting" and heard[-1].partial_reasoning


@pytest.fixture
def busy(graph):
    """Yield a client in a process that reads only now and then, and the function that reads."""
    node = rclpy.create_node("busy", context=graph.node.context)
    executor = SingleThreadedExecutor(context=graph.node.context)
    executor.add_node(node)
    client = LensClient(node, server_timeout_s=TIMEOUT)

    def read(condition):
        graph.wait_until(
            lambda: executor.spin_once(timeout_sec=0) or condition(), TIMEOUT, "an answer to the busy one"
        )

    yield client, read
    client.close()
    executor.shutdown()
    node.destroy_node()


def test_an_answer_waits_while_the_node_answers_others(make_node, client, busy, wait, conversation):
    """Each client receives the responses to all clients; those to others must not push its own out."""
    make_node()
    own, read = busy
    ready = own.wait_for_server()
    read(ready.done)
    listed = own.list()
    question = own.ask("the red mug", image=RGB)
    for _ in range(20):
        wait(client.list())
        wait(client.ask("the red mug", image=RGB).future)
    read(lambda: listed.done() and question.done())
    assert listed.result() == {} and question.future.result().mask.any()


def test_a_busy_subscriber_hears_of_all_targets(graph, make_node, client, busy, wait, conversation):
    make_node()
    conversation.wait_until_heard()
    own, read = busy
    ready, heard = own.wait_for_server(), []
    read(ready.done)
    own.subscribe(heard.append)
    ids = [wait(client.add(f"the red mug, {number}")) for number in range(8)]
    conversation.send_image()
    graph.wait_until(lambda: len(conversation.of("segmentation")) == 8, TIMEOUT, "eight answers")
    read(lambda: len(heard) >= 8)
    assert [answer.message.target_id for answer in heard] == ids


def test_goals_leave_nothing_with_the_executor(graph, make_node, client, wait):
    make_node()
    for _ in range(3):
        wait(client.ask("the mug", image=RGB).future)
    cancelled = client.ask("the mug with late masks", image=RGB)
    cancelled.cancel()
    with pytest.raises(LensCancelledError):
        wait(cancelled.future)
    # On Jazzy, what removes a future that an executor awaits from the client runs in one of its next turns.
    graph.wait_until(lambda: client._goals._futures == [], TIMEOUT, "no future that is left")


def test_a_response_may_come_before_the_request_has_returned(graph, make_node, client, wait, monkeypatch):
    """This happens in a program that sends requests in one thread and spins in another."""
    make_node()
    wait(client.wait_for_server())
    made, asked = [], []

    class Late(Future):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            made.append(self)
            if len(made) == 2:
                time.sleep(0.5)

    monkeypatch.setattr("rclpy.action.client.Future", Late)
    thread = threading.Thread(target=lambda: asked.append(client.ask("the mug", image=RGB)))
    thread.start()
    graph.wait_until(lambda: asked and asked[0].done(), TIMEOUT, "an answer")
    thread.join()
    assert asked[0].future.result().mask.any()


@pytest.mark.parametrize("lost", [1, 3])
def test_a_request_for_the_result_that_is_lost_is_made_again(
    lost, graph, make_node, client, wait, conversation, monkeypatch
):
    node = make_node()
    server, taken = node._goals._server, []
    execute = server._execute_get_result_request

    async def lossy(request):
        taken.append(request)
        if len(taken) > lost:
            await execute(request)

    monkeypatch.setattr(server, "_execute_get_result_request", lossy)
    monkeypatch.setattr(lens_client, "RESULT_AGAIN_S", 0.2)
    answer = wait(client.ask("the mug", image=RGB).future)
    assert answer.mask.any() and len(taken) == lost + 1


def test_a_result_that_is_kept_no_longer_is_an_error(graph, make_node, client, wait, monkeypatch):
    node = make_node()
    server = node._goals._server
    execute = server._execute_get_result_request

    async def late(request):
        uuid = request[1].goal_id.uuid.tobytes()
        if uuid in server._goal_handles:
            await server._result_futures[uuid]  # the client asks before there is one
            await server._execute_expire_goals((GoalInfo(goal_id=request[1].goal_id),))
        await execute(request)

    monkeypatch.setattr(server, "_execute_get_result_request", late)
    with pytest.raises(LensError, match="lost on its way"):
        wait(client.ask("the mug", image=RGB).future)


def test_a_coroutine_callback_awaits_beside_others(graph, make_node, client, conversation):
    """The asking node's only executor thread is not blocked meanwhile."""
    make_node()

    async def callback(request, response):
        answers = [await client.segment(RGB, "the mug"), await client.ask("the bowl", image=RGB)]
        response.message = ", ".join(answer.message.instruction for answer in answers)
        return response

    service = graph.node.create_service(Trigger, "~/both", callback)
    response = graph.call(Trigger, f"{graph.node.get_name()}/both", Trigger.Request(), TIMEOUT)
    assert response.message == "the mug, the bowl"
    graph.node.destroy_service(service)


def test_instructions_and_their_answers_by_target(graph, make_node, client, wait, conversation):
    make_node(reasoner_interval_s=0.01)
    conversation.wait_until_heard()
    wait(client.wait_for_server())
    everything, second = [], []
    everywhere = client.subscribe(everything.append)
    red = wait(client.set_instruction("the red mug"))
    blue = wait(client.add("the blue mug on the left"))
    assert wait(client.list()) == {red: "the red mug", blue: "the blue mug on the left"}
    client.subscribe(second.append, blue)

    def come() -> bool:
        conversation.send_image()
        return len(second) > 2 and {a.message.target_id for a in everything} == {red, blue}

    graph.wait_until(come, TIMEOUT, "answers to both")
    assert {answer.message.target_id for answer in second} == {blue}
    assert second[-1].mask[10:20, 20:40].all() and second[-1].mask.sum() == 200
    assert wait(client.remove(red)) == red and list(wait(client.list())) == [blue]
    everywhere.close()
    heard = len(everything)
    graph.wait_until(lambda: come() and len(second) > 4, TIMEOUT, "more answers")
    assert len(everything) == heard
    wait(client.clear())
    assert wait(client.list()) == {}


def test_what_the_node_refuses_is_said(make_node, client, wait):
    node = make_node(max_targets=1)
    wait(client.set_instruction("the mug"))
    with pytest.raises(LensRefusedError, match="max_targets"):
        wait(client.add("the bowl"))
    with pytest.raises(LensRefusedError, match="no active instruction has the id 7"):
        wait(client.remove(7))
    for ask in (client.segment, lambda image, text: client.ask(text, image=image).future):
        with pytest.raises(LensRefusedError, match="instruction"):
            wait(ask(RGB, " "))
    node.trigger_deactivate()
    with pytest.raises(LensRefusedError, match="inactive"):
        wait(client.ask("the mug").future)
    with pytest.raises(LensRefusedError, match="inactive"):
        wait(client.list())


def test_an_array_that_is_no_image_is_refused_at_once(client):
    with pytest.raises(ValueError, match="uint8"):
        client.segment(RGB.astype(float), "the mug")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (None, "the image is NoneType; expected sensor_msgs/Image"),
        (7, "the image is int"),
        ([[0]], "the image is list"),
        (np.zeros((0, 0, 3), np.uint8), "shape .0, 0, 3., uint8"),
        (np.zeros((64, 96, 4), np.uint8), "shape .64, 96, 4."),
        (np.zeros(64, np.uint8), "shape .64,."),
        (np.zeros((64, 96), np.uint16), "uint16"),
        (np.full((64, 96, 3), 1.5), "values from 1.5 to 1.5"),
        (np.full((64, 96), np.nan), "values from nan"),
        (np.zeros((4, 4), np.uint8), "4x4 pixels"),
        ("no/such.png", "no such file"),
        (CompressedImage(format="jpeg", data=b"no picture"), "."),
        (CompressedImage(), "."),
    ],
)
def test_what_is_no_image_is_refused_at_once_in_words(image, said, client):
    with pytest.raises(LensInputError, match=said):
        client.segment(image, "the mug")
    if image is not None:  # of `ask`: the camera's next one
        with pytest.raises(LensInputError, match=said):
            client.ask("the mug", image=image)


@pytest.mark.parametrize("instruction", [None, 7, b"mug", ["mug"]])
def test_what_is_no_text_is_refused_at_once_in_words(instruction, client):
    for ask in (lambda: client.segment(RGB, instruction), lambda: client.ask(instruction),
                lambda: client.set_instruction(instruction), lambda: client.add(instruction)):  # fmt: skip
        with pytest.raises(LensInputError, match="expected text"):
            ask()


def test_pictures_of_every_kind_become_the_same_message(tmp_path):
    gray = np.arange(64 * 96, dtype=np.uint8).reshape(64, 96)
    rgb = np.repeat(gray[..., None], 3, axis=2)
    PIL.Image.fromarray(rgb).save(tmp_path / "picture.png")
    header = Header(frame_id="eye")
    compressed = CompressedImage(header=header, format="png", data=(tmp_path / "picture.png").read_bytes())
    given = [
        rgb, gray, gray[..., None], rgb / 255, gray / np.float32(255), rgb[:, ::-1][:, ::-1],
        PIL.Image.fromarray(rgb), PIL.Image.fromarray(gray), tmp_path / "picture.png",
        str(tmp_path / "picture.png"), compressed,
    ]  # fmt: skip
    for image in given:
        assert (conversions.image_to_rgb(image_message(image)) == rgb).all(), type(image)
    assert image_message(compressed).header == header


def test_a_request_without_an_image_is_about_the_latest_one(graph, make_node, conversation):
    make_node()
    conversation.wait_until_heard()

    def call(instruction="the red mug"):
        request = Segment.Request(instruction=instruction)
        return graph.call(Segment, "perception/segment", request, TIMEOUT)

    refused = call()
    assert not refused.success and "no recent one has come on /image" in refused.message
    sent = conversation.send_image()
    graph.wait_until(lambda: call().success, TIMEOUT, "the image to arrive")
    for _ in range(2):  # it may be asked about more than once
        answer = call()
        assert answer.success and answer.segmentation.header == sent.header
        assert answer.segmentation.tokens > 0
    assert "is empty" in call("").message


def test_cancelling(graph, make_node, finder, client, wait):
    make_node()
    stages = []
    question = client.ask("the mug, slowly", image=RGB, on_feedback=lambda f: stages.append(f.stage))
    graph.wait_until(lambda: "reasoning" in stages, TIMEOUT, "reasoning")
    question.cancel()
    with pytest.raises(LensCancelledError, match="cancelled by its client"):
        wait(question.future)
    assert wait(client.segment(RGB, "the mug")).accepted  # the model is free again


def test_cancelling_before_there_is_a_node(graph):
    client = LensClient(graph.node, "/nobody/perception")
    question = client.ask("the mug")
    question.cancel()
    with pytest.raises(LensCancelledError):
        question.future.result()
    client.close()


def test_an_error_of_on_feedback_cancels_the_goal_and_comes_out(graph, make_node, finder, client, wait):
    make_node()

    def broken(feedback) -> None:
        if feedback.stage == "reasoning":
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        wait(client.ask("the mug, slowly", image=RGB, on_feedback=broken).future)
    assert wait(client.segment(RGB, "the mug")).accepted


def test_no_answer_in_time_cancels_the_goal(graph, make_node, finder, client, wait):
    make_node()
    wait(client.wait_for_server())
    with pytest.raises(LensTimeoutError, match="did not answer within 0.3 s"):
        wait(client.ask("the mug, slowly", image=RGB, timeout_s=0.3).future)
    assert wait(client.segment(RGB, "the mug")).accepted  # only if the slow goal has ended


def test_nobody_there_is_said_with_what_is(graph, client, wait):
    other = rclpy.create_node("somebody", context=graph.context)
    graph.wait_until(lambda: "somebody" in graph.node.get_node_names(), TIMEOUT, "the other node")
    lost = LensClient(graph.node, "/robot/perception", server_timeout_s=0.2)
    for future in (lost.segment(RGB, "the mug"), lost.ask("the mug").future, lost.wait_for_server()):
        with pytest.raises(LensUnavailableError, match="no node '/robot/perception'.*/somebody"):
            wait(future)
    assert issubclass(LensUnavailableError, LensError)
    lost.close()
    other.destroy_node()


def test_a_node_that_is_not_configured_is_told_apart(graph, wait, make_node):
    make_node().trigger_deactivate()
    nodes = [node for node in graph.executor.get_nodes() if node.get_name() == "perception"]
    nodes[0].trigger_cleanup()
    impatient = LensClient(graph.node, server_timeout_s=0.3)
    graph.spin(0.5)
    with pytest.raises(LensUnavailableError, match="ros2 lifecycle set /perception configure"):
        wait(impatient.segment(RGB, "the mug"))
    impatient.close()


def test_the_order_of_starting_does_not_matter(make_node, client, wait):
    asked = client.segment(RGB, "the mug")
    make_node()
    assert wait(asked).accepted


def test_it_leaves_nothing_behind(graph, make_node, wait):
    make_node()

    def counts() -> list[int]:
        node = graph.node
        return [len(list(each)) for each in (node.timers, node.clients, node.subscriptions, node.waitables)]

    before = counts()
    client = LensClient(graph.node)
    client.subscribe(lambda answer: None)
    wait(client.segment(RGB, "the mug"))
    wait(client.ask("the mug", image=RGB).future)
    client.close()
    assert counts() == before
