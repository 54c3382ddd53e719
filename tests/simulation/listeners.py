"""Independent listeners that parse an expression and find its only right answer in a scene; and scenes.

They share the conventions of the code that generates the expressions, but none of its lines.
"""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np

from lens_ros.simulation.catalog import CATEGORIES, COLORS
from lens_ros.simulation.expressions import Expression, sample_expression
from lens_ros.simulation.scene import SceneObject

SIZES = ((256, 256), (320, 240), (384, 216), (640, 480))
TOKEN = re.compile(r"[a-z]+|\d+|[^\sa-z\d]")
COLOR = "(?:" + "|".join(COLORS) + ")"
CATEGORY = "(?:" + "|".join(CATEGORIES) + ")"
ANCHOR = rf"(the (?:{COLOR} )?{CATEGORY})"
ANYTHING = {"object", "thing", "item"}
SYNONYMS = {
    "felt pen": "marker",
    "pen": "marker",
    "toy block": "cube",
    "block": "cube",
    "soda can": "can",
    "tin": "can",
    "carton": "box",
    "water bottle": "bottle",
    "coffee mug": "mug",
}
REQUEST = re.compile(
    r"^(?:(?:please|can you(?! see)|could you) )?"
    r"(?:(?:pick up|grasp|grab|take|get|fetch|hand me|give me|bring me|pass me|find|segment"
    r"|mark|select|choose|detect|highlight|locate|point to|point at|show me|look at|look for"
    r"|i need|i want|i would like|i am looking for|where is|do you see|can you see|which one is) )?"
    r"(.*?)(?: please)?$"
)
# What a listener understands by a function, first match wins: (pattern, answers, arguable).
FUNCTIONS: tuple[tuple[str, set[str], set[str]], ...] = (
    ("stir|soup with", {"spoon"}, {"marker", "screwdriver"}),
    ("screw", {"screwdriver"}, set()),
    ("nail", {"hammer"}, set()),
    ("tool|repair", {"hammer", "screwdriver"}, set()),
    ("write|draw", {"marker"}, set()),
    ("wash|clean|wipe", {"sponge"}, set()),
    ("soup|cereal|deep", {"bowl"}, set()),
    ("flat|cake|food on", {"plate"}, set()),
    ("coffee|tea", {"mug", "cup"}, {"bowl"}),
    ("drink from", {"mug", "cup"}, {"bottle", "can", "bowl"}),
    ("dish|eat from", {"bowl", "plate"}, set()),
    ("peel|long fruit|monkey", {"banana"}, {"apple"}),
    ("eat|fruit|hungry", {"banana", "apple"}, set()),
    ("catch|roll|round|bounces", {"ball"}, set()),
    ("build", {"cube"}, {"box"}),
    ("toy|play", {"ball", "cube"}, set()),
    ("water|with a cap", {"bottle"}, set()),
    ("soda|metal|tin", {"can"}, {"bottle"}),
    ("drink|thirsty", {"bottle", "can"}, {"mug", "cup"}),
    ("gift|package", {"box"}, set()),
)


STRANGE = {*"giraffe laptop phone book candle keyboard shoe lamp pillow fork".split()}
STRANGE |= {f"{noun}s" for noun in STRANGE}
# Where one is in sight, nobody can say that the other is not there.
ALIKE = {"mug": "cup", "cup": "mug", "box": "cube", "cube": "box", "bowl": "plate", "plate": "bowl"}
MAKESHIFT = {
    "spoon": {"marker", "screwdriver"},
    "hammer": {"screwdriver"},
    "screwdriver": {"hammer"},
    "bowl": {"mug", "cup", "plate"},
    "plate": {"bowl", "box"},
    "ball": {"apple", "cube"},
    "cube": {"box"},
    "bottle": {"can", "mug", "cup"},
    "can": {"bottle"},
}


def without_synonyms(words: str) -> str:
    """Replace synonyms by the plain name of the category, plurals too."""
    for spoken, category in SYNONYMS.items():
        plural = "boxes" if category == "box" else f"{category}s"
        words = re.sub(rf"\b{spoken}s\b", plural, words)
        words = re.sub(rf"\b{spoken}\b", category, words)
    return words


# --- scenes -----------------------------------------------------------------------------------------------


def make_object(index: int, category: str, color: str, **changes: object) -> SceneObject:
    values: dict = {
        "index": index,
        "category": category,
        "color": color,
        "extent": 0.1,
        "position": (0.0, 0.0, 0.0),
        "yaw": 0.0,
        "box": (100, 100, 140, 140),
        "area": 1200,
        "visible_fraction": 1.0,
        "lateral": 0.0,
        "forward": 0.8,
        "distance": 1.0,
    }
    return SceneObject(**{**values, **changes})


def random_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[SceneObject, ...]:
    """Return objects scattered over a table below a camera, with look-alikes, some partly or fully hidden."""
    width, height = size
    count = int(rng.integers(1, 14))
    categories = rng.choice(CATEGORIES, size=max(1, round(count * rng.uniform(0.4, 1.0))))
    colors = rng.choice(COLORS, size=int(rng.integers(2, len(COLORS))))
    objects = []
    for index in range(1, count + 1):
        x, y = rng.uniform(-0.35, 0.35), rng.uniform(-0.3, 0.3)
        distance = math.hypot(x, 0.8 + y, 0.55)
        half = rng.uniform(0.03, 0.1)
        u, v = width * (0.5 + 1.1 * x / distance), height * (0.5 - 0.8 * y / distance)
        reach = 0.7 * width * half / distance
        left, top = max(0, int(u - reach)), max(0, int(v - reach))
        box = (left, top, min(width, int(u + reach)), min(height, int(v + reach)))
        fraction = 1.0 if rng.random() < 0.7 else float(rng.uniform(0, 1)) if rng.random() < 0.8 else 0.0
        area = int(fraction * max(0, box[2] - box[0]) * max(0, box[3] - box[1]) * 0.7)
        objects.append(
            make_object(
                index,
                str(rng.choice(categories)),
                str(rng.choice(colors)),
                extent=2 * half,
                position=(x, y, 0.0),
                box=box if area else (0, 0, 0, 0),
                area=area,
                visible_fraction=fraction if area else 0.0,
                lateral=x,
                forward=0.8 + y,
                distance=distance,
            )
        )
    return tuple(objects)


def flipped(objects: tuple[SceneObject, ...], width: int) -> tuple[SceneObject, ...]:
    return tuple(
        dataclasses.replace(
            o,
            box=(width - o.box[2], o.box[1], width - o.box[0], o.box[3]) if o.area else o.box,
            lateral=-o.lateral,
        )
        for o in objects
    )


def samples(count: int, seed: int = 0, kind: str | None = None):
    """Yield (objects, size, expression) from random scenes, until there were `count` expressions."""
    rng = np.random.default_rng(seed)
    said = 0
    while said < count:
        size = SIZES[int(rng.integers(len(SIZES)))]
        objects = random_scene(rng, size)
        expression = sample_expression(objects, size, rng, kind=kind)
        if expression is not None:
            said += 1
            yield objects, size, expression


# --- the listener -----------------------------------------------------------------------------------------


class Listener:
    """Parse an instruction and find what it means; assert that the answer is clear by the margins."""

    def __init__(self, objects: tuple[SceneObject, ...], size: tuple[int, int]) -> None:
        self.seen = [o for o in objects if o.area > 0]
        self.width, self.height = size

    def x(self, o: SceneObject) -> float:
        return (o.box[0] + o.box[2]) / 2

    def named(self, noun: str) -> list[SceneObject]:
        """Return every visible object that '[color] noun' or 'noun that is [color]' covers."""
        if match := re.fullmatch(rf"(.+) that is ({COLOR})", noun):
            noun = f"{match[2]} {match[1]}"
        color, _, rest = noun.partition(" ")
        if color not in COLORS:
            color, rest = "", noun
        assert rest in ANYTHING or rest in CATEGORIES, f"no such noun: {rest!r}"
        return [o for o in self.seen if color in ("", o.color) and (rest in ANYTHING or o.category == rest)]

    def only(self, group: list[SceneObject]) -> SceneObject:
        assert len(group) == 1, f"{len(group)} objects match"
        return group[0]

    def anchor(self, words: str) -> SceneObject:
        anchor = self.only(self.named(words.removeprefix("the ")))
        assert anchor.visible_fraction >= 0.45
        return anchor

    def understand(self, expression: Expression) -> SceneObject:
        words = REQUEST.sub(r"\1", expression.text.replace("grey", "gray"))
        if not expression.kind.startswith("function"):
            words = without_synonyms(words)
        return getattr(self, expression.kind)(words)

    def match(self, pattern: str, words: str) -> re.Match:
        found = re.fullmatch(pattern, words)
        assert found, f"not understood: {words!r}"
        return found

    def plain(self, words: str) -> SceneObject:
        found = self.match(r"(the|an?) (.+)", words)
        if found[1] != "the":
            assert found[1] == ("an" if found[2][0] in "aeiou" else "a")
        return self.only(self.named(found[2]))

    category = attribute = color = plain

    def relation(self, words: str) -> SceneObject:
        found = self.match(
            r"the (.+?)(?: that is)? "
            rf"(?:(?:to |on )?(?:the )?(left|right)(?: side)? of|in (front) of|(behind)) {ANCHOR}",
            words,
        )
        relation = found[2] or found[3] or found[4]
        anchor = self.anchor(found[5])
        leads = []
        for o in self.named(found[1]):
            if o is anchor:
                continue
            if relation in ("left", "right"):
                lead = (self.x(anchor) - self.x(o)) / (12 * self.width / 256)
            else:
                lead = (anchor.forward - o.forward) / 0.04
            leads.append((lead if relation in ("left", "front") else -lead, o))
        assert all(abs(lead) >= 1 for lead, _ in leads), "within the margin"
        return self.only([o for lead, o in leads if lead > 0])

    def nearest(self, words: str) -> SceneObject:
        found = self.match(
            rf"the (?:nearest )?(.+?)(?: that is)? (nearest to|closest to|to|next to|beside|by) {ANCHOR}",
            words,
        )
        anchor = self.anchor(found[3])
        group = [o for o in self.named(found[1]) if o is not anchor]
        distances = sorted(math.dist(o.position[:2], anchor.position[:2]) for o in group)
        if found[2] in ("next to", "beside", "by"):
            assert distances[0] <= 0.2 and distances[1] >= 1.5 * distances[0], "both are next to it, or none"
        return self.extreme(group, lambda o: math.dist(o.position[:2], anchor.position[:2]), 0.05)

    def extreme(self, group: list[SceneObject], key, margin: float) -> SceneObject:
        assert len(group) > 1, "nothing to compare with"
        ranked = sorted(group, key=key)
        assert key(ranked[1]) - key(ranked[0]) >= margin - 1e-9, "within the margin"
        return ranked[0]

    def between(self, words: str) -> SceneObject:
        found = self.match(rf"the (.+?)(?: that is)?(?: in)? between {ANCHOR} and {ANCHOR}", words)
        a, b = self.anchor(found[2]), self.anchor(found[3])
        start, end = np.array(a.position[:2]), np.array(b.position[:2])
        length = np.linalg.norm(end - start)
        assert length > 0.15
        inside = []
        for o in self.named(found[1]):
            if o is a or o is b:
                continue
            offset = np.array(o.position[:2]) - start
            along = offset @ (end - start) / length**2
            off = np.linalg.norm(offset - along * (end - start))
            if 0.1 < along < 0.9 and off < 0.3 * length:
                assert 0.2 <= along <= 0.8 and off <= 0.0801, "beside rather than between"
                inside.append(o)
        return self.only(inside)

    def superlative(self, words: str) -> SceneObject:
        noun = self.match(
            r"the (?:leftmost |rightmost |first |left |right "
            r"|closest |closer |nearer |farthest |farther |most distant )?"
            r"(.+?)(?: (?:on|from|closest|nearest|farthest|farther) .*| farther away)?",
            words,
        )[1]
        return self.most(words, self.named(noun))

    def most(self, words: str, group: list[SceneObject]) -> SceneObject:
        pixels = 12 * self.width / 256
        if re.search("left", words):
            return self.extreme(group, self.x, pixels)
        if re.search("right", words):
            return self.extreme(group, lambda o: -self.x(o), pixels)
        if re.search("clos|near", words):
            return self.extreme(group, lambda o: o.distance, 0.035)
        assert re.search("far|distant", words)
        return self.extreme(group, lambda o: -o.distance, 0.035)

    def size(self, words: str) -> SceneObject:
        found = self.match(r"the (larg|bigg?|small|little)(?:er|est|e)? (.+)", words)
        sign = -1 if found[1] in ("larg", "big", "bigg") else 1
        group = self.named(found[2])
        assert len({o.category for o in group}) == 1
        return self.extreme(group, lambda o: sign * math.log(o.extent), math.log(1.12))

    def function(self, words: str) -> SceneObject:
        return self.only(self.serving(words))

    def serving(self, words: str) -> list[SceneObject]:
        for pattern, answers, arguable in FUNCTIONS:
            if re.search(pattern, words):
                assert not arguable & {o.category for o in self.seen}, f"people could differ about {words!r}"
                return [o for o in self.seen if o.category in answers]
        raise AssertionError(f"not understood: {words!r}")

    def function_modified(self, words: str) -> SceneObject:
        what, condition = self.match(r"(.+?)(?:,| that is) ((?:not |but not )?[a-z ]+)", words).groups()
        group = self.serving(what)
        assert len(group) > 1
        if negated := re.fullmatch(rf"(?:but )?not (?:the )?({COLOR})(?: one)?", condition):
            return self.only([o for o in group if o.color != negated[1]])
        if color := re.fullmatch(rf"(?:the )?({COLOR})(?: one)?", condition):
            return self.only([o for o in group if o.color == color[1]])
        return self.most(condition, group)

    def negation(self, words: str) -> SceneObject:
        thing = rf"(?:the|something) ({COLOR})(?: \w+)? (?:that|which) is not an? (.+)"
        if found := re.fullmatch(thing, words):
            return self.only([o for o in self.seen if o.color == found[1] and o.category != found[2]])
        found = self.match(
            rf"(?:the other|the|any|an?) ({CATEGORY})"
            r"(?: that is not| which is not| but not the|, not the| except the| other than the)"
            rf" ({COLOR})(?: one)?",
            words,
        )
        return self.only([o for o in self.seen if o.category == found[1] and o.color != found[2]])


class SetListener(Listener):
    """Find everything that an instruction covers: one object, several or none."""

    side = re.compile(
        r"(.+?)(?: that is)? (?:(?:to |on )?(?:the )?(left|right)(?: side)? of|in (front) of|(behind)) "
        rf"{ANCHOR}"
    )
    near = re.compile(rf"(?:the )?(?:nearest )?(.+?)(?: that is)? (?:nearest to|closest to|to) {ANCHOR}")
    most_of = re.compile(
        r"(?:leftmost|rightmost|first|closest|most distant|farthest|largest|biggest|smallest) "
        r"(.+?)(?: from the left| from the right)?"
        r"|(.+?) (?:on the far|farthest|closest to|nearest to) "
        r"(?:left|right|to the left|to the right|from the camera|from me|away|the camera|me)"
    )

    def covered(self, text: str) -> list[SceneObject]:
        spoken = REQUEST.sub(r"\1", text.replace("grey", "gray"))
        words = without_synonyms(spoken)
        if set(words.split()) & STRANGE:
            return []
        words = re.sub(r"^(all of the|all the|all|every|each|the|an?) ", "", words)
        if found := self.side.fullmatch(words):
            return self.beside(found)
        if found := self.near.fullmatch(words):
            self.anchor(found[2])
            return self.plain_group(found[1])
        if found := self.most_of.fullmatch(words):
            try:
                return self.plain_group(found[1] or found[2])
            except LookupError:
                pass
        try:
            return self.plain_group(words)
        except LookupError:
            return self.functional(spoken)

    def plain_group(self, words: str) -> list[SceneObject]:
        """Return the objects of a plain phrase.

        The forms are '[color] noun(s)', 'noun(s) that is/are [color]', 'everything [that is] color', 'a and
        b'.
        """
        if found := re.fullmatch(rf"everything (?:that is )?({COLOR})", words):
            return [o for o in self.seen if o.color == found[1]]
        if found := re.fullmatch(r"(\w+) and (?:the )?(\w+)", words):
            return self.plain_group(found[1]) + self.plain_group(found[2])
        if found := re.fullmatch(rf"(\w+) that (?:is|are) ({COLOR})", words):
            words = f"{found[2]} {found[1]}"
        noun = re.sub(r"boxes$", "box", words)
        nouns = "|".join((*ANYTHING, *CATEGORIES))
        found = re.fullmatch(rf"((?:{COLOR} )?(?:{nouns}))s?", noun)
        if not found:
            raise LookupError(words)
        return self.named(found[1])

    def beside(self, found: re.Match) -> list[SceneObject]:
        anchor, relation = self.anchor(found[5]), found[2] or found[3] or found[4]
        group = []
        for o in self.plain_group(found[1]):
            if relation in ("left", "right"):
                lead = (self.x(anchor) - self.x(o)) / (12 * self.width / 256)
            else:
                lead = (anchor.forward - o.forward) / 0.04
            assert o is anchor or abs(lead) >= 1, "within the margin"
            if o is not anchor and (lead > 0) == (relation in ("left", "front")):
                group.append(o)
        return group

    def functional(self, words: str) -> list[SceneObject]:
        what, _, condition = words.partition(",")
        color = re.search(rf"(?:the|that is) ({COLOR})(?: one)?$", words)
        return [o for o in self.serving(what) if not color or o.color == color[1]]

    def understand_all(self, expression: Expression) -> list[SceneObject]:
        return sorted(self.covered(expression.text), key=lambda o: (self.x(o), o.index))


class DoubtingListener(SetListener):
    """Listener that also accepts anything that could be mistaken for the named object."""

    def named(self, noun: str) -> list[SceneObject]:
        *color, name = noun.split()
        alike = [" ".join([*color, ALIKE[name]])] if name in ALIKE else []
        return [o for each in [noun, *alike] for o in super(DoubtingListener, self).named(each)]

    def anchor(self, words: str) -> SceneObject:
        return SetListener([], (1, 1)).only(super().named(words.removeprefix("the ")))

    def serving(self, words: str) -> list[SceneObject]:
        served = super().serving(words)
        answers = next(answers for pattern, answers, _ in FUNCTIONS if re.search(pattern, words))
        makeshift = {c for answer in answers if len(answers) == 1 for c in MAKESHIFT.get(answer, ())}
        return served + [o for o in self.seen if o.category in makeshift]
