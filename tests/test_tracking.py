"""Tracking masks from image to image: lens-nano on simulated tabletops in motion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from lens_ros.evaluation.tracking import Step, step_of
from lens_ros.instances import Instance, box_of, union
from lens_ros.lens import Lens
from lens_ros.segmentation import Segmentation
from lens_ros.simulation.motion import Motion, moments, moving_frames
from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Frame
from lens_ros.tracking.tracker import Checks, Tracker

SEED = 9701
UNCHECKED = Checks(
    likeness=0, overlap=0, score=0, growth=float("inf"), apart=1, regain=0, regain_growth=float("inf")
)


@pytest.fixture(scope="module")
def lens() -> Lens:
    return Lens.from_pretrained("lens-nano")


@pytest.fixture(scope="module")
def simulator(opengl: None) -> Iterator[TabletopSimulator]:
    with TabletopSimulator() as opened:
        yield opened


def frames_of(
    simulator: TabletopSimulator, index: int, target: int, motion: Motion, *, every: int, until: int = 100
) -> list[Frame]:
    """Return every ``every``-th frame of a motion of 100 frames."""
    layout = simulator.layout(SEED, index, count=(4, 9))
    rng = np.random.default_rng([SEED, index])
    story = moments(simulator.pool(SEED, index), layout, target, motion, rng)
    return list(moving_frames(simulator, SEED, index, story[:until:every]))


def answer_of(masks: list[np.ndarray]) -> Segmentation:
    """Return the answer of a reasoner that meant these masks."""
    instances = tuple(Instance(mask, box_of(mask), 0.9, "thing", 1.0) for mask in masks)
    size = masks[0].shape
    return Segmentation("the thing", instances, union(instances, size), "", "", True, "", 0, 0, 0, 0, "")


def followed(tracker: Tracker, frames: list[Frame], target: int) -> list[Step]:
    """Track from the true mask on the first frame and return the steps."""
    tracker.start("it", frames[0].rgb, answer_of([frames[0].instances == target]))
    steps = []
    for number, frame in enumerate(frames[1:], start=1):
        carried = tracker.update(frame.rgb)["it"]
        visible = frame.objects[target - 1].visible_fraction
        mask = carried.segmentation.mask
        assert mask.any() == carried.tracked  # what is lost has no mask
        for each in carried.segmentation.instances:
            assert each.rejected or each.box == box_of(each.mask)  # messages look for the mask there alone
        steps.append(
            step_of(mask, frame.instances, target, progress=number / len(frames), visible=visible,
                    asked=False, seconds=0.0)
        )  # fmt: skip
    return steps


def mean_iou(steps: list[Step]) -> float:
    return float(np.mean([s.iou for s in steps if s.visible > 0.5]))


@pytest.mark.parametrize(
    ("index", "target", "motion"),
    [(18, 1, "handheld"), (13, 4, "handheld"), (18, 3, "pushed"), (6, 3, "wrist")],
)
def test_follows_while_camera_and_objects_move(
    lens: Lens, simulator: TabletopSimulator, index: int, target: int, motion: Motion
) -> None:
    steps = followed(Tracker(lens), frames_of(simulator, index, target, motion, every=5), target)
    assert mean_iou(steps) > 0.8
    assert not any(s.wrong for s in steps)


@pytest.mark.parametrize(("index", "target"), [(13, 1), (13, 2), (7, 2)])
def test_does_not_slide_to_what_is_carried_before_it(
    lens: Lens, simulator: TabletopSimulator, index: int, target: int
) -> None:
    """It does so without the checks, so the test can fail."""
    frames = frames_of(simulator, index, target, "carried", every=3)
    slid = followed(Tracker(lens, UNCHECKED), frames, target)
    assert sum(s.wrong for s in slid) > 5
    steps = followed(Tracker(lens), frames, target)
    assert not any(s.wrong for s in steps)
    assert not any(s.masked for s in steps if s.visible == 0)
    assert all(s.masked for s in steps[-3:])  # found again where it was


def test_does_not_take_what_stands_where_it_stood(lens: Lens, simulator: TabletopSimulator) -> None:
    first = simulator.render(SEED, 18, simulator.layout(SEED, 18, count=(4, 9)), depth=False)
    layout = simulator.layout(SEED, 18, count=(4, 9))
    lens_frames = [first]
    here, there = layout.placements[0], layout.placements[3]  # a green bowl, a blue sponge
    swapped = list(layout.placements)
    swapped[0] = replace(here, position=there.position)
    swapped[3] = replace(there, position=here.position)
    lens_frames.append(simulator.render(SEED, 18, replace(layout, placements=tuple(swapped)), depth=False))
    tracker = Tracker(lens)
    tracker.start("it", first.rgb, answer_of([first.instances == 1]))
    carried = tracker.update(lens_frames[1].rgb)["it"]
    bowl, sponge = lens_frames[1].instances == 1, lens_frames[1].instances == 4
    mask = carried.segmentation.mask
    assert not (mask & sponge).any()
    assert carried.tracked == bool((mask & bowl).any())


def test_what_is_lost_says_why_and_has_no_mask(lens: Lens, simulator: TabletopSimulator) -> None:
    frames = frames_of(simulator, 13, 1, "leaving", every=8)
    tracker = Tracker(lens)
    tracker.start("it", frames[0].rgb, answer_of([frames[0].instances == 1]))
    told = [tracker.update(frame.rgb)["it"] for frame in frames[1:]]
    away = [c for c, frame in zip(told, frames[1:], strict=True) if frame.objects[0].area == 0]
    assert away
    for carried in away:
        answer, (lost,) = carried.segmentation, carried.lost
        assert lost and not carried.tracked
        assert answer.instances[0].rejected == f"lost: {lost}" == answer.reason
        assert not answer.mask.any() and not answer.instances[0].mask.any()
        assert answer.instances[0].score == 0 and not answer.reasoned


def test_several_targets_and_instances_cost_one_encoding_and_one_decoding(
    lens: Lens, simulator: TabletopSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(simulator, 18, 1, "handheld", every=5, until=11)
    masks = [frames[0].instances == k for k in (1, 2, 3)]
    tracker = Tracker(lens)
    tracker.start("two", frames[0].rgb, answer_of(masks[:2]))
    tracker.start("one", frames[0].rgb, answer_of(masks[2:]))
    tracker.start("none", frames[0].rgb, replace(answer_of(masks[:1]), instances=(), reason="nothing"))
    calls: list[str] = []
    segmenter = lens.model.segmenter
    for name in ("encode", "decode"):
        real = getattr(segmenter, name)
        monkeypatch.setattr(segmenter, name, lambda *a, real=real, name=name: calls.append(name) or real(*a))

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the language model was used")

    monkeypatch.setattr(lens.model, "reason", never)
    carried = tracker.update(frames[1].rgb)
    assert calls == ["encode", "decode"]
    assert list(carried) == list(tracker.targets) == ["two", "one", "none"]
    assert [len(c.segmentation.instances) for c in carried.values()] == [2, 1, 0]
    assert carried["none"].segmentation.reason == "nothing"
    for mask, truth in zip(
        [i.mask for name in ("two", "one") for i in carried[name].segmentation.instances],
        [frames[1].instances == k for k in (1, 2, 3)],
        strict=True,
    ):
        assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_two_instances_never_share_an_object(lens: Lens, simulator: TabletopSimulator) -> None:
    frames = frames_of(simulator, 18, 1, "handheld", every=1, until=2)
    mask = frames[0].instances == 1
    tracker = Tracker(lens)
    tracker.start("it", frames[0].rgb, answer_of([mask, mask]))
    carried = tracker.update(frames[1].rgb)["it"]
    assert sorted(map(bool, carried.lost)) == [False, True]
    assert "another instance" in max(carried.lost)


def test_goes_on_when_the_image_changes_size_and_refuses_another_answer(
    lens: Lens, simulator: TabletopSimulator
) -> None:
    frames = frames_of(simulator, 18, 1, "handheld", every=1, until=2)
    tracker = Tracker(lens)
    truth = frames[0].instances == 1
    with pytest.raises(ValueError, match="image that was reasoned about"):
        tracker.start("it", frames[0].rgb[::2], answer_of([truth]))
    tracker.start("it", frames[0].rgb, answer_of([truth]))
    larger = frames[0].rgb.repeat(2, axis=0).repeat(2, axis=1)
    carried = tracker.update(larger)["it"]
    assert carried.tracked
    mask, big = carried.segmentation.mask, truth.repeat(2, axis=0).repeat(2, axis=1)
    assert (mask & big).sum() / (mask | big).sum() > 0.8
    tracker.stop("it")
    assert tracker.targets == () and tracker.update(larger) == {}
    with pytest.raises(KeyError):
        tracker.stop("it")


def test_mask_prompts_reach_the_segmenter(lens: Lens, simulator: TabletopSimulator) -> None:
    frames = frames_of(simulator, 18, 1, "handheld", every=1, until=2)
    seen = lens.look(frames[0].rgb)
    mask = frames[0].instances == 1
    features = seen.view.features
    given: list[torch.Tensor] = []
    real = lens.model.segmenter.decode
    lens.model.segmenter.decode = lambda f, p, m=None: given.append(m) or real(f, p, m)  # type: ignore
    try:
        lens.decode_boxes(seen, [box_of(mask)], [mask])
    finally:
        del lens.model.segmenter.decode
    (previous,) = given
    assert previous.shape == (1, 1, features.embedding.shape[-1] * 4, features.embedding.shape[-1] * 4)
    share = (previous[0, 0] > 0).float().mean().item()
    assert share == pytest.approx(mask.mean(), rel=0.2)
