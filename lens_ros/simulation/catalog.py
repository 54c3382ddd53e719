"""Define the objects of the simulated tabletop: categories, colors, pairs kept for evaluation."""

from __future__ import annotations

CATEGORIES: tuple[str, ...] = (
    "mug",
    "cup",
    "bowl",
    "plate",
    "bottle",
    "can",
    "ball",
    "box",
    "banana",
    "apple",
    "spoon",
    "screwdriver",
    "hammer",
    "marker",
    "sponge",
    "cube",
)

# RGB albedos 0..1, chosen so that every two names stay apart under dim, bright and warm light.
COLOR_ALBEDO: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.07, 0.07),
    "orange": (0.97, 0.45, 0.04),
    "yellow": (0.94, 0.83, 0.08),
    "green": (0.10, 0.56, 0.15),
    "blue": (0.08, 0.24, 0.80),
    "purple": (0.47, 0.12, 0.64),
    "pink": (0.96, 0.50, 0.66),
    "brown": (0.36, 0.20, 0.09),
    "black": (0.05, 0.05, 0.06),
    "white": (0.92, 0.92, 0.90),
    "gray": (0.46, 0.46, 0.48),
}

COLORS: tuple[str, ...] = tuple(COLOR_ALBEDO)

# Categories that come in some colors only; all others come in every color.
_NATURAL_COLORS: dict[str, tuple[str, ...]] = {
    "banana": ("yellow", "green"),
    "apple": ("red", "green", "yellow"),
    "spoon": ("gray", "brown", "white"),
    "can": tuple(color for color in COLORS if color != "brown"),
    "sponge": ("yellow", "green", "pink", "blue", "orange"),
}

# Never rendered unless asked for: they measure whether a model composes what it knows.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("mug", "red"),
        ("bowl", "blue"),
        ("bottle", "green"),
        ("screwdriver", "yellow"),
        ("cup", "purple"),
        ("ball", "orange"),
        ("cube", "pink"),
        ("box", "white"),
    }
)


def natural_colors(category: str) -> tuple[str, ...]:
    """Return the colors of `category`, held-out pairs included.

    Raises KeyError for an unknown category.
    """
    if category not in CATEGORIES:
        raise KeyError(f"unknown category {category!r}: expected one of {', '.join(CATEGORIES)}")
    return _NATURAL_COLORS.get(category, COLORS)


def training_colors(category: str) -> tuple[str, ...]:
    """Return the colors of `category` that may appear in training scenes."""
    return tuple(color for color in natural_colors(category) if (category, color) not in HELD_OUT_PAIRS)


def held_out_colors(category: str) -> tuple[str, ...]:
    """Return the colors of `category` that only appear when held-out pairs are asked for."""
    return tuple(color for color in natural_colors(category) if (category, color) in HELD_OUT_PAIRS)
