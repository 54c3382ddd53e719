"""Build missing engines while the node works, and switch to them between two inferences."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from rclpy.lifecycle import LifecycleNode

from lens_ros.nodes.perception import model_loading
from lens_ros.nodes.perception.diagnostics import Situation
from lens_ros.nodes.perception.parameters import PerceptionParameters
from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.ros.reporting import described
from lens_ros.system.memory import give_back

if TYPE_CHECKING:
    from lens_ros.engine.backends import Engines
    from lens_ros.engine.background_build import Wanted, Warming
    from lens_ros.lens import Lens


class EngineUpgrade:
    """Build missing engines while another backend serves; `scheduler()` is None while the node is inactive.

    The state "warming" is in `Situation.warming`; what went wrong in `Situation.engine_trouble`.
    """

    def __init__(
        self, node: LifecycleNode, situation: Situation, scheduler: Callable[[], Scheduler | None]
    ) -> None:
        self._node = node
        self._situation = situation
        self._scheduler = scheduler
        self._lock = threading.Lock()
        self._closed = False
        self._lens: Lens | None = None
        self._settings = PerceptionParameters()
        self._warming: Warming | None = None
        self._fresh: Engines | None = None  # ready to take over

    def configured(self, lens: Lens, settings: PerceptionParameters) -> None:
        """Start building the engines that a newly loaded model lacks."""
        self._lens, self._settings, self._fresh = lens, settings, None
        self._situation.engine_trouble = ""
        self._situation.shortfall = model_loading.shortfall(lens, settings)
        self._begin()

    def activated(self) -> None:
        """Continue building engines for the new scheduler, after a check of those that were opened."""
        scheduler, engines = self._scheduler(), getattr(self._lens, "engines", None)
        if scheduler is not None:
            scheduler.between(self._take_over)
        if engines is None or self._situation.engine_trouble:
            return
        then = "it is made anew" if self._settings.build_engines else "make it anew (lens build-engine)"
        for fault in engines.faults:
            self._node.get_logger().warning(
                f"{fault}. What was loaded of it goes on serving; {then} for the next start"
            )
        self._begin(anew=bool(engines.faults))

    def end(self) -> None:
        """Stop building engines."""
        with self._lock:
            warming, self._warming = self._warming, None
        if warming is not None:
            warming.cancel()
            self._node.get_logger().info("the engines are not made any further: the node does not need them")
        self._situation.warming = None

    def released(self) -> None:
        """Forget the model."""
        self._lens = self._fresh = None
        self._situation.engine_trouble = self._situation.shortfall = ""

    def close(self) -> None:
        """Stop for good."""
        self._closed = True
        self.end()

    def failed(self, error: Exception) -> None:
        """Note that opened engines do not run and torch takes over.

        Called by the worker's thread.
        """
        from lens_ros.engine.backends import torch_alone

        trouble = f"the engines fail: {error}; torch goes on"
        self._situation.engine_trouble = trouble
        self._node.get_logger().error(
            f"{trouble}. Make them anew (lens build-engine --force), then clean up and configure the node"
        )
        self._exchange(torch_alone(f"the engines failed: {error}"))

    def _begin(self, *, anew: bool = False) -> None:
        lens, settings = self._lens, self._settings
        if not settings.build_engines or getattr(lens, "engines", None) is None or self._fresh is not None:
            return
        assert lens is not None and lens.engines is not None
        from lens_ros.engine.background_build import Warming

        wanted = _wanted(lens, settings, anew=anew)
        if wanted is None:
            return
        with self._lock:
            if self._closed or self._warming is not None:
                return
            warming = self._warming = Warming(
                wanted,
                told=self._log,
                ended=lambda failure: self._ended(wanted, failure),
            )
            labels = lens.engines.labels
            self._situation.warming = lambda: f"warming: {warming.progress}; meanwhile {labels}"
            warming.start()
        self._node.get_logger().info(
            f"warming: {wanted.backend} engines are being made, in a process of their own and at low "
            f"priority; meanwhile {labels} serves (parameter build_engines)"
        )

    def _log(self, text: str) -> None:
        self._node.get_logger().info(f"engines: {text}")

    def _ended(self, wanted: Wanted, failure: str) -> None:
        """Note the end of a build.

        Called by the build's thread.
        """
        if not failure:
            failure = self._open(wanted)
        self._situation.warming = None
        with self._lock:
            self._warming = None
        lens = self._lens
        if failure and lens is not None and lens.engines is not None:
            trouble = f"no {wanted.backend} engines: {failure}; {lens.engines.labels} goes on serving"
            self._situation.engine_trouble = trouble
            self._node.get_logger().error(
                f"{trouble}. Remedy that, then clean up and configure the node; by hand: "
                f"lens build-engine {wanted.folder} --backend {wanted.backend}"
            )
        scheduler = self._scheduler()
        if scheduler is not None:
            scheduler.between(self._take_over)

    def _open(self, wanted: Wanted) -> str:
        """Open what was built; return what prevents that, or the empty string."""
        lens, settings = self._lens, self._settings
        if lens is None:
            return "the model was released"
        from lens_ros.engine.backends import open_engines

        try:
            engines = open_engines(
                wanted.folder,
                lens.model.config,
                backend=wanted.backend,
                precision=wanted.precision,
                device=settings.device,
                cache=wanted.cache,
            )
        except Exception as error:  # the folder may have gone, memory may be short
            return described(error)
        if not engines.are(wanted.backend):
            return str(engines)
        self._fresh = engines
        return ""

    def _take_over(self) -> None:
        """Put new engines to use between two inferences.

        Called by the worker's thread.
        """
        engines, self._fresh = self._fresh, None
        if engines is not None:
            self._exchange(engines)
            self._node.get_logger().info(f"engines took over: {engines}")

    def _exchange(self, engines: Engines) -> None:
        lens = self._lens
        if lens is not None:
            lens.use(engines)
            self._situation.backend = str(engines)
            self._situation.shortfall = model_loading.shortfall(lens, self._settings)
            give_back()


def _wanted(lens: Lens, settings: PerceptionParameters, *, anew: bool) -> Wanted | None:
    """Return what to build; None if nothing is missing.

    `anew`: files of the opened engines are gone or damaged.
    """
    from lens_ros.engine.backends import to_be_made, torch_alone
    from lens_ros.engine.background_build import Wanted
    from lens_ros.engine.cache import EngineCache

    engines = torch_alone("") if anew else lens.engines
    assert engines is not None and lens.folder is not None
    backend = to_be_made(engines, settings.backend, settings.device)  # type: ignore[arg-type]
    if backend is None:
        return None
    folder = model_loading.engine_folder(settings)
    cache = EngineCache() if folder is None else EngineCache(folder)
    precision = None if settings.precision == "auto" else settings.precision
    return Wanted(lens.folder, lens.model_id, backend, precision, cache, settings.device)  # type: ignore[arg-type]
