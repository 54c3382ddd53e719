"""Object ids and acceptance of objects, without ROS."""

from __future__ import annotations

import numpy as np

from lens_ros.instances import Instance, union
from lens_ros.nodes.perception import object_ids
from lens_ros.nodes.perception.inference import limited
from lens_ros.nodes.perception.object_ids import ObjectIds
from lens_ros.segmentation import Segmentation


def thing(x: float, *, score: float = 0.9, rejected: str = "") -> Instance:
    mask = np.zeros((20, 200), bool)
    mask[5:15, int(x) : int(x) + 10] = True
    return Instance(mask, (x, 5.0, x + 10.0, 15.0), score, "mug", 1.0, rejected)


def answer(*instances: Instance) -> Segmentation:
    mask = union(instances, (20, 200))
    return Segmentation("mugs", instances, mask, "", "", True, "", 0.0, 0.0, 0.0, 3, "test")


def test_ids_follow_objects_not_their_order():
    known = ObjectIds()
    first, second = known.assign("mugs", [thing(0), thing(100)])
    assert known.assign("mugs", [thing(102), thing(3)]) == [second, first]
    third = known.assign("mugs", [thing(50), thing(100)])[0]
    assert third not in (first, second)


def test_two_that_overlap_one_do_not_share_its_id():
    known = ObjectIds()
    (first,) = known.assign("mugs", [thing(0)])
    near, far = known.assign("mugs", [thing(4), thing(1)])
    assert far == first and near != first


def test_targets_do_not_share_ids_and_a_miss_is_forgiven():
    known = ObjectIds()
    (mug,) = known.assign("mugs", [thing(0)])
    (cup,) = known.assign("cups", [thing(0)])
    assert mug != cup
    assert known.assign("mugs", []) == []
    assert known.assign("mugs", [thing(0)]) == [mug]


def test_ids_come_round_without_taking_one_in_use(monkeypatch):
    monkeypatch.setattr(object_ids, "LAST_ID", 3)
    known = ObjectIds()
    assert known.assign("a", [thing(0)]) == [1]
    assert known.assign("b", [thing(0), thing(100)]) == [2, 3]
    known.forget("b")
    assert known.assign("c", [thing(0), thing(100)]) == [2, 3]
    known.clear()
    assert known.assign("a", [thing(0)]) == [1]


def test_the_best_come_first_and_those_beyond_the_number_are_rejected_with_the_reason():
    given = answer(thing(0, score=0.6), thing(50, score=0.9, rejected="disagrees"), thing(100, score=0.8))
    for most in (0, 2, 3):
        chosen = limited(given, max_instances=most)
        assert [instance.score for instance in chosen.instances] == [0.8, 0.6, 0.9]
        assert [instance.rejected for instance in chosen.instances] == ["", "", "disagrees"]
        assert chosen.mask is given.mask
    chosen = limited(given, max_instances=1)
    assert [instance.rejected for instance in chosen.instances] == [
        "", "better ones were found (max_instances is 1)", "disagrees",
    ]  # fmt: skip
    assert chosen.mask.sum() == 100 and (chosen.mask == given.instances[2].mask).all()
    nothing = answer(thing(0, rejected="disagrees"))
    assert limited(nothing, max_instances=1).instances == nothing.instances
