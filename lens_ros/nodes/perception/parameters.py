"""Parameters of the node `perception`."""

from __future__ import annotations

from dataclasses import dataclass

from lens_ros.choices import BACKEND_CHOICES, DECODINGS, PRECISIONS, QUANTIZATIONS
from lens_ros.ros.parameters import parameter


@dataclass(frozen=True)
class PerceptionParameters:
    """Parameters of the node `perception`."""

    autostart: bool = parameter(
        False,
        "Configure and activate at once; otherwise a lifecycle manager does. The launch files do it at once "
        "unless a parameters file says otherwise: take this line out of your copy, or set it to true.",
        when="start",
    )
    model: str = parameter(
        "lens-nano",
        "Name of a model that ships with lens_ros, or path of a checkpoint folder.",
        when="configure",
    )
    device: str = parameter(
        "cpu", "Where the model runs, as torch names it: cpu, cuda, cuda:1.", when="configure"
    )
    backend: str = parameter(
        "auto",
        "What runs the segmenter; auto takes the fastest whose engines are ready, else torch.",
        choices=BACKEND_CHOICES,
        when="configure",
    )
    precision: str = parameter(
        "auto",
        "Precision of the engines; auto takes what passed the self-check.",
        choices=("auto", *PRECISIONS),
        when="configure",
    )
    quantization: str = parameter(
        "none",
        "Quantization of the language model, from a file that `lens quantize` put beside the weights.",
        choices=QUANTIZATIONS,
        when="configure",
    )
    engine_cache_dir: str = parameter(
        "", "Folder of the engines; empty takes the user's cache.", when="configure"
    )
    build_engines: bool = parameter(
        True,
        "Build engines that are missing or stale, in a subprocess, while the next backend serves.",
        when="configure",
    )
    decoding: str = parameter(
        "dynamic",
        "How answers are written; only the speed differs: dynamic (a cache that grows), static (of fixed "
        "size; on a GPU a CUDA graph), compiled (static, by torch.compile: first answers wait for the "
        "compiler), lookup (several tokens at a time where the answer repeats the instruction).",
        choices=DECODINGS,
        when="configure",
    )
    threads: int = parameter(
        0, "CPU threads of the model; 0 takes all cores but one.", bounds=(0, 256), when="configure"
    )
    image_transport: str = parameter(
        "raw",
        "raw subscribes to the topic image (sensor_msgs/Image), compressed to image/compressed (JPEG or "
        "PNG).",
        choices=("raw", "compressed"),
        when="configure",
    )
    depth_transport: str = parameter(
        "none",
        "How depth comes, registered to the image, for poses in three dimensions: raw (sensor_msgs/Image, "
        "16UC1 or 32FC1, on the topic depth), compressedDepth (depth/compressedDepth), or none.",
        choices=("none", "raw", "compressedDepth"),
        when="configure",
    )
    depth_slop_ms: int = parameter(
        40,
        "Largest difference between the stamps of an image and of the depth that belongs to it.",
        bounds=(0, 1000),
    )
    instruction: str = parameter(
        "",
        "Instruction to follow from activation on; empty waits for the topic or the service.",
        when="configure",
    )
    tracking: bool = parameter(
        True,
        "Track objects from image to image between two reasoning passes, publish a segmentation of each "
        "image, and reason again about lost objects. Otherwise only images that were reasoned about get one.",
        when="configure",
    )
    reasoner_interval_s: float = parameter(
        0.0,
        "Seconds between the starts of two answers to one instruction; 0 answers every instruction once.",
        bounds=(0.0, 3600.0),
    )
    max_targets: int = parameter(
        8, "Most instructions that may be active at once (~/set_instruction, ADD).", bounds=(1, 64)
    )
    max_rate_hz: float = parameter(
        0.0,
        "Most camera images per second that are answered about; 0 sets no limit.",
        bounds=(0.0, 1000.0),
    )
    max_image_age_ms: int = parameter(
        0,
        "Camera images that are older by their stamp are not used; 0 sets no limit. Needs clocks that agree.",
        bounds=(0, 3600000),
    )
    score_threshold: float = parameter(
        -1.0,
        "Objects that score below this are rejected, from the next answer on. 0 rejects none for its score; "
        "any negative number takes the model's own threshold.",
        bounds=(-1.0, 1.0),
    )
    max_instances: int = parameter(
        0, "Most objects that are accepted per answer, the best ones; 0 sets no limit.", bounds=(0, 1000)
    )
    think: str = parameter(
        "auto",
        "Whether to reason in words before answering: always, never (faster), or auto, the model's own way.",
        choices=("auto", "always", "never"),
    )
    max_new_tokens: int = parameter(128, "Most tokens that one answer may have.", bounds=(16, 4096))
    reasoning_rate_hz: float = parameter(
        30.0,
        "Most messages per second on the topic reasoning; the first and the last of an answer always go out. "
        "0 publishes every token.",
        bounds=(0.0, 1000.0),
    )
    image_timeout_s: float = parameter(
        5.0,
        "Seconds without an image after which the log says why that may be; 0 never.",
        bounds=(0.0, 3600.0),
    )
    hang_timeout_s: float = parameter(
        120.0,
        "Seconds without a turn of the node's executor after which its process prints where each thread is "
        "and ends with status 1, so that launch restarts it; 0 never, otherwise at least 3. Time in a "
        "debugger counts. Without effect on Humble, whose Python's watchdog goes by the system's clock.",
        bounds=(3.0, 3600.0),
        or_zero=True,
    )
    log_interval_s: float = parameter(
        5.0,
        "Seconds in which lines of the log of the same kind, about images, instructions, goals and requests, "
        "are counted and not logged after the first ones.",
        bounds=(0.0, 3600.0),
        when="configure",
    )
