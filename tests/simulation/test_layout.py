import cv2
import numpy as np
import pytest

from lens_ros.simulation import catalog
from lens_ros.simulation.layout import TABLE_HALF_SIZE, Layout, Pool, sample_layout, sample_pool
from lens_ros.simulation.meshes import make_shape
from lens_ros.simulation.scene import SceneObject, mirror

# Of seed 1, block 0 and its scene 0, as they were when the shipped weights were trained on them.
REPEATS = [1.590645906, 1.507430565, 2.594921552, 1.579687039, 2.909683674, 1.782907109]
TONES = [155.76, 187.15, 132.98, 66.92, 81.03, 83.98, 188.6, 174.75, 169.37,
         118.79, 77.02, 48.73, 213.86, 213.86, 202.17, 141.36, 155.33, 161.8]  # fmt: skip
PLACED = [("bowl", "black"), ("plate", "white"), ("can", "purple"), ("cup", "blue"), ("screwdriver", "red"),
          ("can", "white")]  # fmt: skip
POSITION = (0.0137695867, -0.1144089426)  # meters, of the bowl
LIGHT_AT_MOST = 1.16  # exposure above which a white table would clip


@pytest.fixture(scope="module")
def pool() -> Pool:
    return sample_pool(1, 0)


def pairs_of(layout: Layout) -> set[tuple[str, str]]:
    return {(placement.category, placement.color) for placement in layout.placements}


@pytest.mark.parametrize("category", catalog.CATEGORIES)
def test_shapes_stand_on_the_table_and_are_of_everyday_size(category: str) -> None:
    shape = make_shape(category, np.random.default_rng(3))
    points = np.concatenate([part.surface.vertices for part in shape.parts])
    assert abs(points[:, 2].min()) < 0.004
    assert 0.03 < shape.extent < 0.30
    assert 0.01 < shape.height < 0.30
    assert all(part.surface.faces.max() < len(part.surface.vertices) for part in shape.parts)


def test_size_scales_the_whole_shape() -> None:
    small, large = (make_shape("mug", np.random.default_rng(3), size) for size in (0.8, 1.2))
    assert large.extent / small.extent == pytest.approx(1.5)
    assert large.height / small.height == pytest.approx(1.5)


def test_closed_surfaces_face_outwards() -> None:
    for category in catalog.CATEGORIES:
        for part in make_shape(category, np.random.default_rng(0)).parts:
            a, b, c = part.surface.vertices[part.surface.faces].transpose(1, 0, 2)
            assert np.einsum("ij,ij->", a, np.cross(b, c)) / 6 > 0, f"{category}: inside out"


def test_same_seed_same_layout(pool: Pool) -> None:
    assert sample_layout(pool, 1, 5).placements == sample_layout(sample_pool(1, 0), 1, 5).placements
    assert sample_layout(pool, 1, 5).placements != sample_layout(pool, 1, 6).placements


def test_held_out_pairs_appear_only_when_asked_for(pool: Pool) -> None:
    ordinary = set().union(*(pairs_of(sample_layout(pool, 1, i)) for i in range(150)))
    special = set().union(*(pairs_of(sample_layout(pool, 1, i, held_out_pairs=True)) for i in range(150)))
    assert not ordinary & catalog.HELD_OUT_PAIRS
    assert catalog.HELD_OUT_PAIRS <= special
    assert {category for category, _ in ordinary} == set(catalog.CATEGORIES)
    assert {color for _, color in ordinary} == set(catalog.COLORS)


def test_counts_and_repeated_categories(pool: Pool) -> None:
    layouts = [sample_layout(pool, 2, i) for i in range(100)]
    sizes = [len(layout.placements) for layout in layouts]
    assert max(sizes) == 9 and np.mean(sizes) > 5
    repeated = [len({p.category for p in layout.placements}) < len(layout.placements) for layout in layouts]
    assert np.mean(repeated) > 0.6
    assert max(len(sample_layout(pool, 2, i, count=(10, 13)).placements) for i in range(20)) >= 12


def test_objects_stay_on_the_table_without_touching(pool: Pool) -> None:
    for index in range(50):
        placements = sample_layout(pool, 4, index, count=(10, 13)).placements
        centers = np.array([p.position[:2] for p in placements])
        assert (np.abs(centers) < TABLE_HALF_SIZE).all()
        gaps = np.linalg.norm(centers[:, None] - centers[None], axis=-1)[np.triu_indices(len(centers), 1)]
        assert gaps.min() > 0.02


def test_light_never_exceeds_what_a_white_table_can_take(pool: Pool) -> None:
    for index in range(100):
        light = sample_layout(pool, 1, index).lighting
        key = np.array(light.key_position)
        on_table = light.key[0] * key[2] / np.linalg.norm(key)
        assert light.ambient + light.headlight + light.fill + on_table < LIGHT_AT_MOST


@pytest.mark.parametrize("count", [(0, 3), (5, 4), (3, 1000)])
def test_impossible_counts_are_refused(pool: Pool, count: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected 1 <= fewest <= most"):
        sample_layout(pool, 1, 0, count=count)


def test_mirror_twice_gives_the_same_objects() -> None:
    seen = SceneObject(
        1, "mug", "blue", 0.1, (0.1, 0.0, 0.0), 0.3, (10, 20, 50, 60), 900, 1.0, 0.12, 0.6, 0.8
    )
    hidden = SceneObject(2, "cup", "red", 0.1, (0.2, 0.0, 0.0), 0.3, (0, 0, 0, 0), 0, 0.0, -0.2, 0.7, 0.9)
    flipped = mirror((seen, hidden), 320)
    assert flipped[0].box == (270, 20, 310, 60)
    assert flipped[0].lateral == -0.12
    assert flipped[1].box == (0, 0, 0, 0)
    assert mirror(flipped, 320) == (seen, hidden)


def test_unknown_category_is_named() -> None:
    with pytest.raises(KeyError, match="teapot"):
        catalog.training_colors("teapot")


def test_unseen_textures_change_the_surfaces_and_nothing_else(pool: Pool) -> None:
    other = sample_pool(1, 0, unseen_textures=True)
    assert other.textures.shape == pool.textures.shape and other.textures.dtype == np.uint8
    assert not (other.textures == pool.textures).all(axis=(1, 2, 3)).any()
    assert np.array_equal(other.textures, sample_pool(1, 0, unseen_textures=True).textures)
    assert np.array_equal(other.texture_repeat, pool.texture_repeat)
    assert (other.glossy, other.image_size) == (pool.glossy, pool.image_size)
    assert sample_layout(other, 1, 5).placements == sample_layout(pool, 1, 5).placements
    means = sample_pool(2, 0, unseen_textures=True).textures.mean(axis=(1, 2, 3)) / 255
    assert means.min() > 0.1 and means.max() < 0.86


def test_unseen_textures_are_bolder_than_those_of_training() -> None:
    """Contrast is a share of the mean: training's is 6 to 15 % of the albedo."""

    def contrasts(unseen: bool) -> np.ndarray:
        pools = [sample_pool(3, block, unseen_textures=unseen).textures.astype(float) for block in range(4)]
        blurred = [cv2.GaussianBlur(texture, (0, 0), 2) for texture in np.concatenate(pools)]
        return np.array([texture.mean(-1).std() / texture.mean() for texture in blurred])

    assert np.median(contrasts(True)) > 1.5 * np.median(contrasts(False))


def test_seeds_keep_the_scenes_that_training_rendered() -> None:
    """The scenes that the weights were trained on can be rendered again; the numbers were measured then."""
    pool = sample_pool(1, 0)
    assert pool.texture_repeat == pytest.approx(REPEATS, rel=1e-6)
    assert pool.textures.mean(axis=(1, 2)).ravel() == pytest.approx(TONES, abs=0.05)
    first = sample_layout(pool, 1, 0)
    assert [(p.category, p.color) for p in first.placements] == PLACED
    assert first.placements[0].position[:2] == pytest.approx(POSITION, rel=1e-6)
