"""Publish `/diagnostics` once a second in every state: activity, rates, backends, troubles.

Four statuses, as `rqt_robot_monitor` and diagnostic_aggregator read them: NODE: state, NODE: images,
NODE: answers, NODE: model. Levels: ERROR where nothing can work, WARN where something is missing or wrong.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.exceptions import InvalidHandle
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.node import Node

from lens_ros.nodes.perception.measurements import Event, Measurements, Series, Trouble
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.worker import InferenceWorker
from lens_ros.ros.endpoints import Endpoints
from lens_ros.ros.reporting import survives
from lens_ros.ros.simulated_time import SimulatedTime
from lens_ros.ros.texts import SENTENCE, shortened
from lens_ros.system.allocator import native_bytes

PERIOD_S = 1.0
SILENCE_S = 30.0  # of a model at work, from which on it is mentioned
# In the order in which the statuses show them.
IMAGE_TROUBLES = (
    Trouble.NO_IMAGES,
    Trouble.IMAGE_LOSS,
    Trouble.UNUSABLE_IMAGE,
    Trouble.IMAGE_CHANGE,
    Trouble.CALIBRATION,
    Trouble.DEPTH,
    Trouble.IMAGE_MISMATCH,
    Trouble.SIMULATED_TIME,
)
ANSWER_TROUBLES = (
    Trouble.FAILED_OTHER,
    Trouble.REFUSED_INSTRUCTION,
    Trouble.FAILED_TARGET,
    Trouble.ANSWER_MISMATCH,
)
STAGES = (Series.PREPROCESS, Series.REASON, Series.DECODE, Series.TOTAL, Series.TRACK)


@dataclass
class Situation:
    """Facts about the node, which the node keeps up to date."""

    state: str = "unconfigured"  # as the lifecycle names it
    failure: str = ""  # why the latest transition failed
    model: str = ""  # empty while none is loaded
    backend: str = ""  # what runs it, and why
    warming: Callable[[], str] | None = None  # how far the making of engines is, while they are made
    engine_trouble: str = ""  # why there are none
    shortfall: str = ""  # which engines should serve and cannot


class Diagnostics:
    """Publishes from construction until `close`."""

    def __init__(
        self,
        node: LifecycleNode,
        situation: Situation,
        settings: Callable[[], PerceptionParameters],
        measured: Measurements,
        worker: Callable[[], InferenceWorker | None],
    ) -> None:
        self.node = node
        self._situation = situation
        self._settings = settings
        self._measured = measured
        self._worker = worker
        self._simulated_time = SimulatedTime(node.get_clock())
        self._logged = ""  # latest troubles that only this module notices
        # Not a lifecycle publisher: that would be silent exactly when somebody asks why nothing happens.
        self._publisher: Any = Node.create_publisher(node, DiagnosticArray, "/diagnostics", 10)
        self._endpoints = Endpoints(node)
        self._endpoints.timer(PERIOD_S, self.publish)

    def close(self) -> None:
        """Stop publishing."""
        self._endpoints.close()

    @survives
    def publish(self) -> None:
        """Publish the present situation."""
        self._look_around()
        message = DiagnosticArray()
        message.header.stamp = self.node.get_clock().now().to_msg()
        message.status = [self._state(), self._images(), self._answers(), self._model()]
        self._publisher.publish(message)

    def _look_around(self) -> None:
        """Note what no message shows: other nodes of this name, simulated time that stands still."""
        name = self.node.get_fully_qualified_name()
        alike = sum(
            f"{space.rstrip('/')}/{each}" == name for each, space in self.node.get_node_names_and_namespaces()
        )
        namesakes = (
            f"{alike} nodes are called {name}: services and parameters reach either of them; start one under "
            "another name or in a namespace (__ns), or wait 20 s if one was killed"
            if alike > 1
            else ""
        )
        simulated = self._simulated_time.trouble()
        self._measured.note(Trouble.NAMESAKES, namesakes)
        self._measured.note(Trouble.SIMULATED_TIME, simulated)
        for trouble in (namesakes, simulated):
            if trouble and trouble not in self._logged:
                self.node.get_logger().warning(shortened(trouble, SENTENCE))
        self._logged = f"{namesakes} {simulated}"

    def _state(self) -> DiagnosticStatus:
        situation, worker = self._situation, self._worker()
        state = self._present_state(worker)
        targets = worker.scheduler.targets if worker is not None else []
        level, text = DiagnosticStatus.OK, state + _next_step(state)
        troubles = self._measured.noted(Trouble.NAMESAKES, Trouble.INSTRUCTION_MISMATCH)
        if troubles:
            level, text = DiagnosticStatus.WARN, "; ".join([text, *troubles])
        if situation.failure:
            level, text = DiagnosticStatus.ERROR, f"{state}: {situation.failure}"
        return self._status(
            "state",
            level,
            text,
            {
                "state": state,
                "active instructions": len(targets),
                "instructions": "; ".join(f"{each.id}: {shortened(each.instruction)}" for each in targets),
                "waiting goals and requests": worker.scheduler.waiting_jobs if worker is not None else 0,
            },
        )

    def _images(self) -> DiagnosticStatus:
        measured, worker = self._measured, self._worker()
        level, text = DiagnosticStatus.OK, "not subscribed: the node is not active"
        state = self._present_state(worker)
        if state == "active":
            troubles = measured.noted(*IMAGE_TROUBLES)
            level = DiagnosticStatus.WARN if troubles else DiagnosticStatus.OK
            text = "; ".join(troubles) or "images arrive"
            if not troubles and measured.quantiles(Series.IMAGE) is None:
                text = "no image yet"
        elif state == "disabled":
            text = "not subscribed: disabled by ~/enable"
        return self._status(
            "images",
            level,
            text,
            {
                "rate in, Hz": measured.rate(Series.IMAGE),
                "received": measured.counted(Event.IMAGE),
                "unusable": measured.counted(Event.UNUSABLE_IMAGE),
                "too old": measured.counted(Event.OLD_IMAGE),
                "stamped in the future": measured.counted(Event.FUTURE_IMAGE),
                "time jumps": measured.counted(Event.TIME_JUMP),
                "changes of form": measured.counted(Event.CHANGE_OF_FORM),
                "dropped while wanted": worker.scheduler.superseded if worker is not None else 0,
                **self._spread("age when received, ms", Series.AGE_RECEIVED),
            },
        )

    def _answers(self) -> DiagnosticStatus:
        measured = self._measured
        troubles = measured.noted(*ANSWER_TROUBLES)
        worker = self._worker()
        if worker is not None and worker.silent_s > SILENCE_S:
            troubles.append(
                f"the model has given no sign of life for {worker.silent_s:.0f} s (it is at "
                f"{worker.whereabouts}); expected a token every now and then: if it does not come back, "
                "deactivate the node, or end it"
            )
        values: dict[str, Any] = {
            "rate out, Hz": measured.rate(Series.TOTAL),
            "answers": measured.counted(Event.ANSWER),
            "followed": measured.counted(Event.TRACKED),
            "failed": measured.counted(Event.FAILURE),
            "refused": measured.counted(Event.REFUSAL),
            "subscribers": self._subscribers(),
            **self._spread("image age when published, ms", Series.AGE_PUBLISHED),
        }
        for stage in STAGES:
            values |= self._spread(f"{stage.value}, ms", stage)
        level = DiagnosticStatus.WARN if troubles else DiagnosticStatus.OK
        return self._status("answers", level, "; ".join(troubles) or "no trouble", values)

    def _model(self) -> DiagnosticStatus:
        situation, settings = self._situation, self._settings()
        loaded = bool(situation.model)
        values: dict[str, Any] = {
            "model": situation.model or settings.model,
            "device": settings.device,
            "backend": situation.backend,
            "quantization": settings.quantization,
            "process memory, MB": resident_bytes() / 1e6,
            "native memory in use, MB": native_bytes() / 1e6,
            "Python's objects in use": sys.getallocatedblocks(),
        }
        values |= {f"{name}, MB": size / 1e6 for name, size in gpu_bytes().items()}
        level, text = DiagnosticStatus.OK, "loaded" if loaded else "not loaded"
        warming = situation.warming
        trouble = situation.engine_trouble or situation.shortfall
        if warming is not None:
            text, trouble = warming(), situation.shortfall
        if trouble:
            level, text = DiagnosticStatus.WARN, f"{text}; {trouble}"
        return self._status("model", level, text, values)

    def _subscribers(self) -> str:
        """Count the subscribers of each topic; pictures are only made for topics that have some."""
        counts = {}
        for publisher in list(self.node.publishers):
            if isinstance(publisher, LifecyclePublisher):
                with contextlib.suppress(InvalidHandle):  # another thread cleans up
                    counts[publisher.topic_name] = publisher.get_subscription_count()
        return ", ".join(f"{topic} {count}" for topic, count in sorted(counts.items()))

    def _present_state(self, worker: InferenceWorker | None) -> str:
        return "disabled" if worker is not None and not worker.scheduler.enabled else self._situation.state

    def _spread(self, name: str, series: Series) -> dict[str, float]:
        quantiles = self._measured.quantiles(series)
        if quantiles is None:
            return {}
        return {f"{name}, p50": quantiles.p50, f"{name}, p95": quantiles.p95}

    def _status(self, part: str, level: Any, text: str, values: dict[str, Any]) -> DiagnosticStatus:
        name = self.node.get_fully_qualified_name().lstrip("/")
        return DiagnosticStatus(
            level=level,
            name=f"{name}: {part}",
            message=shortened(text, SENTENCE),
            hardware_id=shortened(self._settings().device),
            values=[KeyValue(key=key, value=_written(value)) for key, value in values.items()],
        )


def resident_bytes() -> int:
    """Return this process' memory in RAM, in bytes; 0 where Linux' /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_bytes() -> dict[str, int]:
    """Return the GPU memory that torch holds in this process; empty without a GPU in use."""
    # Importing torch takes seconds, and another thread may be about it right now.
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if not getattr(cuda, "is_initialized", bool)():
        return {}
    return {
        "GPU memory in use": cuda.memory_allocated(),
        "GPU memory reserved": cuda.memory_reserved(),
    }


def _next_step(state: str) -> str:
    steps = {
        "unconfigured": "configure and activate it",
        "inactive": "activate it",
        "disabled": "enable it (~/enable)",
    }
    return f"; {steps[state]} to go on" if state in steps else ""


def _written(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else shortened(str(value), SENTENCE)
