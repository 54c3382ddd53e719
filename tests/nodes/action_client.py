"""Client of the action `~/segment_instruction` that records everything it receives."""

from __future__ import annotations

from typing import Any

from rclpy.action import ActionClient
from ros_graph import TIMEOUT, Graph
from sensor_msgs.msg import Image

from lens_ros.action import SegmentInstruction

Feedback = SegmentInstruction.Feedback
Goal = SegmentInstruction.Goal
STAGES = [Feedback.WAITING, Feedback.ENCODING, Feedback.REASONING, Feedback.DECODING]


class Asked:
    """A sent goal and everything that its client has received about it."""

    def __init__(self, client: Client, goal: Goal) -> None:
        self._client = client
        self.feedback: list[Feedback] = []
        self.result: Any = None  # with .status and .result
        self.handle: Any = None
        sent = client.client.send_goal_async(goal, lambda m: self.feedback.append(m.feedback))
        sent.add_done_callback(self._answered)

    def _answered(self, future: Any) -> None:
        self.handle = future.result()
        if self.handle.accepted:
            self.handle.get_result_async().add_done_callback(self._finished)

    def _finished(self, future: Any) -> None:
        self.result = future.result()

    @property
    def stages(self) -> list[str]:
        """Stages so far, without repetitions."""
        stages = [feedback.stage for feedback in self.feedback]
        return [stage for n, stage in enumerate(stages) if n == 0 or stages[n - 1] != stage]

    def wait(self) -> SegmentInstruction.Result:
        self._client.graph.wait_until(lambda: self.result, TIMEOUT, "a result")
        return self.result.result

    def wait_for_stage(self, stage: str) -> None:
        """Wait until the goal is accepted, its result requested, and the stage reached."""
        self._client.graph.wait_until(
            lambda: self.handle is not None and stage in self.stages, TIMEOUT, f"the stage {stage}"
        )

    def cancel(self) -> None:
        self._client.graph.wait_until(lambda: self.handle, TIMEOUT, "acceptance")
        self.handle.cancel_goal_async()

    @property
    def status(self) -> int:
        return self.result.status


class Client:
    """Client of the action."""

    def __init__(self, graph: Graph, node: Any = None, *, server: str = "perception", **options: Any) -> None:
        self.graph = graph
        self._server, self._met = server, False
        self.client = ActionClient(
            node or graph.node, SegmentInstruction, f"{server}/segment_instruction", **options
        )

    def ask(self, instruction: str, image: Image | None = None) -> Asked:
        """Ask about an image, or about the camera's next one."""
        if not self._met:
            self.graph.meet(self._server, TIMEOUT)
            self._met = True
        self.graph.wait_until(self.client.server_is_ready, TIMEOUT, "the action server")
        goal = Goal(instruction=instruction, use_latest_image=image is None)
        if image is not None:
            goal.image = image
        return Asked(self, goal)
