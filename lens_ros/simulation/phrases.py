"""List every word that an expression or its rationale can contain.

The tables hold templates (`{}` or named slots such as `{noun}`) and plain words, all lower case, separated by
single blanks. `words()` walks them, so a phrase added to a table below is in the vocabulary at once. Not the
phrases that are kept for evaluation (`UNSEEN_...`): those are new sentences of known words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from lens_ros.simulation.catalog import CATEGORIES, COLORS

# --- requests around a noun phrase ------------------------------------------------------------------------

IMPERATIVES = (
    "pick up {}",
    "grasp {}",
    "grab {}",
    "take {}",
    "get {}",
    "fetch {}",
    "hand me {}",
    "give me {}",
    "bring me {}",
    "pass me {}",
    "find {}",
    "segment {}",
    "mark {}",
    "select {}",
    "choose {}",
    "detect {}",
    "highlight {}",
    "locate {}",
    "point to {}",
    "point at {}",
    "show me {}",
    "look at {}",
    "look for {}",
)
STATEMENTS = (
    "i need {}",
    "i want {}",
    "i would like {}",
    "i am looking for {}",
    "where is {}",
    "do you see {}",
    "can you see {}",
)
DEFINITE_QUESTIONS = ("which one is {}",)  # of "the ..." only
POLITE_IMPERATIVES = ("please {}", "can you {}", "could you {}", "{} please")
POLITE_STATEMENTS = ("{} please",)

# --- nouns ------------------------------------------------------------------------------------------------

SYNONYMS = {
    "mug": ("coffee mug",),
    "bottle": ("water bottle",),
    "can": ("tin", "soda can"),
    "box": ("carton",),
    "marker": ("felt pen", "pen"),
    "cube": ("block", "toy block"),
}
COLOR_SPELLINGS = {"gray": "grey"}
ANY_OBJECT = ("object", "thing", "item")
DEFINITE = ("the {}",)
INDEFINITE = ("a {}", "an {}")
COLORED_NOUNS = ("{color} {noun}", "{color} {noun}", "{color} {noun}", "{noun} that is {color}")

# --- relations, nearest, between --------------------------------------------------------------------------

RELATIONS = {
    "left": ("left of", "to the left of", "on the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right of", "on the right side of"),
    "front": ("in front of",),
    "behind": ("behind",),
}
RELATION_FORMS = (
    "the {noun} {relation} {anchor}",
    "the {noun} {relation} {anchor}",
    "the {noun} that is {relation} {anchor}",
)
NEAREST = (
    "the {noun} nearest to {anchor}",
    "the {noun} closest to {anchor}",
    "the {noun} that is closest to {anchor}",
    "the nearest {noun} to {anchor}",
)
NEXT_TO = ("the {noun} next to {anchor}", "the {noun} beside {anchor}", "the {noun} by {anchor}")
BETWEEN = (
    "the {noun} between {anchor} and {other}",
    "the {noun} that is between {anchor} and {other}",
    "the {noun} in between {anchor} and {other}",
)

# --- superlatives -----------------------------------------------------------------------------------------

SUPERLATIVES = {
    "leftmost": (
        "the leftmost {noun}",
        "the {noun} on the far left",
        "the {noun} farthest to the left",
        "the first {noun} from the left",
    ),
    "rightmost": (
        "the rightmost {noun}",
        "the {noun} on the far right",
        "the {noun} farthest to the right",
        "the first {noun} from the right",
    ),
    "closest": (
        "the closest {noun}",
        "the {noun} closest to the camera",
        "the {noun} closest to me",
        "the {noun} nearest to me",
        "the {noun} nearest to the camera",
    ),
    "farthest": (
        "the farthest {noun}",
        "the most distant {noun}",
        "the {noun} farthest from the camera",
        "the {noun} farthest from me",
        "the {noun} farthest away",
    ),
    "largest": ("the largest {noun}", "the biggest {noun}"),
    "smallest": ("the smallest {noun}",),
}
# Said of two objects only.
COMPARATIVES = {
    "leftmost": ("the left {noun}", "the {noun} on the left"),
    "rightmost": ("the right {noun}", "the {noun} on the right"),
    "closest": ("the closer {noun}", "the nearer {noun}"),
    "farthest": ("the farther {noun}", "the {noun} farther away"),
    "largest": ("the larger {noun}", "the bigger {noun}", "the big {noun}"),
    "smallest": ("the smaller {noun}", "the small {noun}", "the little {noun}"),
}

# --- negation ---------------------------------------------------------------------------------------------

NOT_COLOR = (
    "the {noun} that is not {color}",
    "the {noun} but not the {color} one",
    "a {noun} but not the {color} one",
    "a {noun} that is not {color}",
    "the {noun} which is not {color}",
    "any {noun} except the {color} one",
)
NOT_COLOR_OF_TWO = ("the {noun} other than the {color} one", "the other {noun}, not the {color} one")
NOT_CATEGORY = (
    "the {color} {noun} that is not {category}",
    "something {color} that is not {category}",
    "the {color} {noun} which is not {category}",
)

# --- all of them ------------------------------------------------------------------------------------------

_SYNONYMS = tuple(noun for others in SYNONYMS.values() for noun in others)
PLURALS = {**{noun: f"{noun}s" for noun in (*ANY_OBJECT, *CATEGORIES, *_SYNONYMS)}, "box": "boxes"}
ALL_OF = (
    "all {plural}",
    "all the {plural}",
    "all of the {plural}",
    "every {noun}",
    "each {noun}",
    "the {plural}",
)
ALL_COLORED = ("{color} {noun}", "{color} {noun}", "{color} {noun}", "{noun} that are {color}")
EVERYTHING_COLORED = ("everything {color}", "everything that is {color}")
ALL_OF_TWO = ("all {first} and {second}", "all the {first} and {second}", "the {first} and the {second}")
# How a phrase for one thing that serves a purpose becomes one for all of them.
ALL_SERVING = {"something ": "everything ", "a ": "every "}
ALL_STATEMENTS = (
    "i need {}",
    "i want {}",
    "i would like {}",
    "i am looking for {}",
    "do you see {}",
    "can you see {}",
)

# --- what is not there ------------------------------------------------------------------------------------

# Where one of these is in sight, people could take it for what was asked for.
LOOK_ALIKES = {"mug": ("cup",), "cup": ("mug",), "box": ("cube",), "cube": ("box",), "bowl": ("plate",),
               "plate": ("bowl",)}  # fmt: skip
# Things of other worlds. Not in the vocabulary, on purpose: to a small tokenizer they are all the same.
STRANGE_NOUNS = ("giraffe", "laptop", "phone", "book", "candle", "keyboard", "shoe", "lamp", "pillow", "fork")

# --- functions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Affordance:
    """A purpose of objects, and the phrases that ask for it.

    `categories` serve it without doubt; where an object of an `arguable` category is in sight people could
    differ about the answer, so the affordance is not asked for there. `phrases` are noun phrases, `questions`
    whole sentences; `purpose` completes "looking for a mug or cup ...". `makeshift` categories would do where
    there is nothing better: with one of them in sight nobody can say that nothing serves.
    """

    categories: tuple[str, ...]
    purpose: str
    phrases: tuple[str, ...]
    questions: tuple[str, ...] = ()
    arguable: tuple[str, ...] = ()
    makeshift: tuple[str, ...] = ()


AFFORDANCES = (
    Affordance(
        ("mug", "cup"),
        "to drink from",
        (
            "something i could drink from",
            "something i can drink from",
            "something to drink from",
            "a thing to drink from",
        ),
        ("what can i drink from", "what could i drink from"),
        arguable=("bottle", "can", "bowl"),
    ),
    Affordance(
        ("mug", "cup"),
        "for coffee or tea",
        (
            "something to drink coffee from",
            "something i can drink tea from",
            "a thing to drink tea from",
            "something for my coffee",
            "something to pour my tea in",
        ),
        ("what can i drink coffee from",),
        arguable=("bowl",),
        makeshift=("can", "bottle"),
    ),
    Affordance(
        ("banana", "apple"),
        "to eat",
        (
            "something to eat",
            "something i can eat",
            "a piece of fruit",
            "some fruit",
            "something sweet to eat",
            "the fruit",
        ),
        ("what can i eat", "i am hungry"),
        makeshift=("can", "bowl", "box"),
    ),
    Affordance(
        ("banana",),
        "to peel",
        (
            "a fruit to peel",
            "the fruit that i have to peel",
            "the long fruit",
            "something a monkey would eat",
        ),
        arguable=("apple",),
    ),
    Affordance(
        ("screwdriver",),
        "to drive a screw",
        (
            "the tool to drive a screw",
            "something to tighten a screw with",
            "the tool for screws",
            "something to turn a screw with",
            "a tool that fits a screw",
        ),
        ("what can i tighten a screw with",),
        makeshift=("hammer",),
    ),
    Affordance(
        ("hammer",),
        "to drive a nail",
        (
            "the tool to drive a nail",
            "something to hit a nail with",
            "the tool for nails",
            "something to drive a nail with",
            "a tool for hitting nails",
        ),
        ("what can i hit a nail with",),
        makeshift=("screwdriver",),
    ),
    Affordance(
        ("hammer", "screwdriver"),
        "to repair things",
        (
            "a tool",
            "a tool to repair a chair",
            "something to repair a chair with",
            "a tool for the workshop",
        ),
        ("what can i repair a chair with",),
        arguable=("spoon", "marker", "sponge"),
    ),
    Affordance(
        ("marker",),
        "to write with",
        (
            "something to write with",
            "something i can write with",
            "something to draw with",
            "the thing i can draw with",
            "something to write a note with",
        ),
        ("what can i write with", "what can i draw with"),
    ),
    Affordance(
        ("spoon",),
        "to stir with",
        (
            "something to stir coffee with",
            "something to eat soup with",
            "the thing to stir my tea with",
            "something to stir with",
        ),
        ("what can i stir my coffee with",),
        arguable=("marker", "screwdriver"),
    ),
    Affordance(
        ("bowl",),
        "for soup",
        (
            "the dish for soup",
            "something to serve soup in",
            "something to eat soup from",
            "the deep dish",
            "something to eat cereal from",
        ),
        ("what can i eat cereal from",),
        makeshift=("mug", "cup", "plate"),
    ),
    Affordance(
        ("plate",),
        "to serve food on",
        (
            "something flat to serve food on",
            "the flat dish for food",
            "the flat dish",
            "something to put my food on",
            "something to serve cake on",
        ),
        ("what can i serve cake on",),
        makeshift=("bowl", "box"),
    ),
    Affordance(
        ("bowl", "plate"),
        "to eat from",
        ("a dish", "a dish for my food", "something to eat from", "a dish to eat from"),
        ("what can i eat from",),
        arguable=("mug", "cup", "box"),
    ),
    Affordance(
        ("sponge",),
        "to clean with",
        (
            "a thing to clean the table with",
            "something to clean the table with",
            "the thing for washing dishes",
            "something to wipe the table with",
            "something to wash dishes with",
        ),
        ("what can i clean the table with", "what can i wipe the table with"),
    ),
    Affordance(
        ("ball",),
        "to throw and catch",
        (
            "something to throw and catch",
            "the toy that can roll",
            "the round toy",
            "something to play catch with",
            "the toy that bounces",
        ),
        ("what can i play catch with",),
        makeshift=("apple", "cube"),
    ),
    Affordance(
        ("cube",),
        "to build with",
        (
            "something to build a tower with",
            "the toy for building",
            "a building block",
            "a toy to build with",
        ),
        ("what can i build a tower with",),
        arguable=("box",),
    ),
    Affordance(
        ("ball", "cube"),
        "to play with",
        ("a toy", "something to play with", "a toy for a child", "something a child can play with"),
        ("what can a child play with",),
        makeshift=("box", "marker"),
    ),
    Affordance(
        ("bottle",),
        "to carry water",
        (
            "something with a cap that holds water",
            "a water container with a cap",
            "something to carry water in on a trip",
            "the thing with a cap",
        ),
        ("what can i carry water in on a trip",),
        makeshift=("can", "mug", "cup"),
    ),
    Affordance(
        ("can",),
        "with soda",
        ("some soda", "a cold soda", "the metal drink container", "something made of tin", "the soda"),
        arguable=("bottle",),
    ),
    Affordance(
        ("bottle", "can"),
        "with a drink",
        ("a cold drink", "something cold to drink", "a drink"),
        ("i am thirsty",),
        arguable=("mug", "cup"),
    ),
    Affordance(
        ("box",),
        "to pack a gift",
        (
            "something to pack a gift in",
            "something to ship a gift in",
            "the package",
            "the thing to pack a gift in",
        ),
        ("what can i pack a gift in",),
        makeshift=("bowl", "can", "cube"),
    ),
)

# `{f}` is one of the phrases above.
FUNCTION_MODIFIERS = {
    "color": ("{f}, the {color} one", "{f} that is {color}"),
    "not_color": ("{f}, but not the {color} one", "{f}, not the {color} one", "{f} that is not {color}"),
    "leftmost": ("{f}, the leftmost one", "{f}, the one on the far left"),
    "rightmost": ("{f}, the rightmost one", "{f}, the one on the far right"),
    "closest": ("{f}, the closest one", "{f}, the one nearest to me", "{f}, the one closest to the camera"),
    "farthest": ("{f}, the farthest one", "{f}, the one farthest away", "{f}, the most distant one"),
}

# --- kept for evaluation ----------------------------------------------------------------------------------

# Never said in training, in no kind of expression, and made of words that are: do not add them to _TABLES.
UNSEEN_NEAREST = ("nearest to", "closest to")
UNSEEN_FUNCTION = ("{f}, the one {relation} {anchor}", "{f} that is {relation} {anchor}")
UNSEEN_INVERSE = ("the {noun} that {anchor} is {relation}",)
UNSEEN_INVERSE_DEPTH = {
    "front": ("the {noun} with {anchor} in front",),
    "behind": ("the {noun} with {anchor} behind",),
}
UNSEEN_TWO_RELATIONS = (
    "the {noun} {relation} {anchor} and {second} {other}",
    "the {noun} that is {relation} {anchor} and {second} {other}",
)
UNSEEN_NOT_RELATED = (
    "the {noun} that is not {relation} {anchor}",
    "the {noun} which is not {relation} {anchor}",
)
UNSEEN_COMPARISON_FORMS = (
    "the {noun} {more} than the {color} one",
    "the {noun} that is {more} than the {color} one",
)
UNSEEN_COMPARISONS = {
    "leftmost": ("farther to the left",),
    "rightmost": ("farther to the right",),
    "closest": ("closer to me", "closer to the camera", "nearer to me", "nearer to the camera"),
    "farthest": ("farther away", "farther from me", "farther from the camera"),
    "largest": ("larger", "bigger"),
    "smallest": ("smaller",),
}
UNSEEN_WHAT = ("what is {relation} {anchor}",)
# "What is left of the mug" is another question.
UNSEEN_WHAT_RELATIONS = {
    "left": ("to the left of", "on the left side of"),
    "right": ("to the right of", "on the right side of"),
    "front": ("in front of",),
    "behind": ("behind",),
}
UNSEEN_WHAT_BETWEEN = ("what is between {anchor} and {other}", "what is in between {anchor} and {other}")
UNSEEN_WHICH = ("which {noun} is {condition}",)
UNSEEN_WHICH_SUPERLATIVES = {
    "leftmost": ("on the far left", "farthest to the left"),
    "rightmost": ("on the far right", "farthest to the right"),
    "closest": ("closest to me", "nearest to me", "closest to the camera"),
    "farthest": ("farthest away", "farthest from me", "farthest from the camera"),
    "largest": ("the largest", "the biggest"),
    "smallest": ("the smallest",),
}

# --- rationale --------------------------------------------------------------------------------------------

GOAL = "looking for {goal} ."
ANCHORS = "{anchors} ."
OBSERVATION = "{color} {category} ( {x} {y} )"
MEASURED = "{observation} {value} cm"
CONCLUSION = "so the {color} {category} ( {x} {y} )"
OR = "{} or {}"
AND = "{} and {}"
ALL_GOAL = "all {}"
STRANGE_GOAL = "an unknown object"
CONCLUSION_NEXT = " , the {color} {category} ( {x} {y} )"
CONCLUSION_ALL = "so all {count}"
CONCLUSION_NOTHING = "so nothing"
REASONS = {
    "all": "all of them",
    "colors": "the {color} ones",
    "absent": "no {goal} here",
    "strange": "no such object here",
    "none": "none is {condition}",
    "only": "only one",
    "color": "the {color} one",
    "not_color": "not {color}",
    "not_category": "not {category}",
    "left": "left of {anchor}",
    "right": "right of {anchor}",
    "front": "in front of {anchor}",
    "behind": "behind {anchor}",
    "nearest": "nearest to {anchor}",
    "between": "between {anchor} and {other}",
    "superlative": "the {superlative} one",
}

_TABLES = (
    tuple(CATEGORIES), tuple(COLORS),
    IMPERATIVES, STATEMENTS, DEFINITE_QUESTIONS, POLITE_IMPERATIVES, POLITE_STATEMENTS,
    SYNONYMS, COLOR_SPELLINGS, ANY_OBJECT, DEFINITE, INDEFINITE, COLORED_NOUNS,
    RELATIONS, RELATION_FORMS, NEAREST, NEXT_TO, BETWEEN,
    tuple(SUPERLATIVES), SUPERLATIVES, COMPARATIVES, NOT_COLOR, NOT_COLOR_OF_TWO, NOT_CATEGORY,
    AFFORDANCES, FUNCTION_MODIFIERS,
    PLURALS, ALL_OF, ALL_COLORED, EVERYTHING_COLORED, ALL_OF_TWO, ALL_SERVING, ALL_STATEMENTS,
    GOAL, ANCHORS, OBSERVATION, MEASURED, CONCLUSION, OR, AND, ALL_GOAL, STRANGE_GOAL,
    CONCLUSION_NEXT, CONCLUSION_ALL, CONCLUSION_NOTHING, REASONS,
)  # fmt: skip


# Words of affordances and questions that stand for an object.
_STAND_INS = (
    "something", "everything", "one", "ones", "what", "hungry", "thirsty",
    "fruit", "tool", "toy", "dish", "container", "package", "drink", "soda", "piece",
)  # fmt: skip
# Nouns of the tables that name nothing on them, and words for nothing.
OTHER_NOUNS = (
    "table", "chair", "hand", "camera", "workshop", "tower", "trip", "note", "nail", "nails", "screw",
    "screws", "cap", "side", "cake", "cereal", "coffee", "food", "gift", "soup", "tea", "water", "metal",
    "child", "monkey", "nothing", "none", "no", "unknown",
)  # fmt: skip


def object_nouns() -> tuple[str, ...]:
    """Return every word that can stand for an object in an instruction, the categories first."""
    nouns = [*CATEGORIES, *(noun.split()[-1] for noun in (*ANY_OBJECT, *_SYNONYMS)), *_STAND_INS]
    nouns += [plural_noun.split()[-1] for plural_noun in PLURALS.values()]
    return tuple(dict.fromkeys(nouns))


def requests() -> tuple[str, ...]:
    """Return how a request begins, before the noun phrase, the longest first."""
    forms = (*IMPERATIVES, *STATEMENTS, *DEFINITE_QUESTIONS, *POLITE_IMPERATIVES)
    begun = {form.split("{}")[0].strip() for form in forms} - {"", "please"}
    return tuple(sorted(begun, key=lambda each: (-len(each), each)))


def an(words: str) -> str:
    """Return the words with their indefinite article: 'a mug', 'an orange mug'."""
    return INDEFINITE[words[0] in "aeiou"].format(words)


def _strings(table: object) -> Iterator[str]:
    if isinstance(table, str):
        yield table
    elif isinstance(table, Affordance):
        yield from _strings((table.categories, table.purpose, table.phrases, table.questions))
    elif isinstance(table, dict):
        yield from _strings(tuple(table.values()))
    elif isinstance(table, tuple):
        for entry in table:
            yield from _strings(entry)
    else:
        kind = type(table).__name__
        raise TypeError(f"a phrase table holds a {kind}: expected str, tuple, dict or Affordance")


@cache
def words() -> tuple[str, ...]:
    """Return every word of the tables, sorted.

    Slots, numbers and punctuation are left out.
    """
    found: set[str] = set()
    for string in _strings(_TABLES):
        found.update(re.findall(r"[a-z]+", re.sub(r"\{\w*\}", " ", string)))
    return tuple(sorted(found))
