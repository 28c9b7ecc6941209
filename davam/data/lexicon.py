"""Words of the embedded grammar, most frequent first, and their inflections."""

from dataclasses import dataclass

MALE = ("man", "boy", "father", "gentleman", "grandfather", "brother", "king", "waiter", "uncle", "monk")
FEMALE = ("woman", "girl", "mother", "lady", "grandmother", "sister", "queen", "waitress", "aunt", "nun")
NEUTRAL = (
    "child",
    "person",
    "worker",
    "dancer",
    "student",
    "teacher",
    "artist",
    "farmer",
    "doctor",
    "tourist",
    "singer",
    "runner",
    "player",
    "nurse",
)
ANIMALS = ("dog", "cat", "horse", "bird", "goat", "cow", "elephant", "rabbit", "duck", "monkey")
NUMBERS = ("two", "three", "several", "many", "four", "some", "five")
HUMAN_ADJECTIVES = (
    "young",
    "old",
    "tall",
    "happy",
    "elderly",
    "tired",
    "smiling",
    "little",
    "angry",
    "busy",
    "quiet",
    "athletic",
)
ANIMAL_ADJECTIVES = ("brown", "small", "white", "big", "black", "wet", "hungry", "gray", "old", "enormous")
COLOURS = ("red", "blue", "white", "black", "green", "yellow", "orange", "gray", "pink", "purple")
CLOTHES = ("shirt", "jacket", "hat", "coat", "dress", "sweater", "uniform", "scarf", "vest", "apron")
THING_ADJECTIVES = ("red", "large", "new", "small", "old", "blue", "wooden", "broken", "expensive", "empty")
ADVERBS = ("quickly", "slowly", "quietly", "happily", "together", "alone", "outside", "carefully")
TIMES = (
    "in the morning",
    "at night",
    "during the day",
    "on a sunny day",
    "in the evening",
    "after lunch",
    "before dinner",
    "in winter",
)

STREET = ("on the street", "in the city", "near a bridge", "on the sidewalk", "in front of a shop")
NATURE = ("in the park", "in a field", "on the beach", "near the lake", "in the forest", "by the river", "on a hill")
HOME = ("in the kitchen", "at home", "in the garden", "at the table", "on the porch", "in a small room")
WORK = ("in an office", "at school", "in the library", "at work", "in a hospital")
SPORT = ("in a stadium", "on the grass", "in the gym", "at the playground", "on a court")
STAGE = ("on stage", "at a party", "in a theater", "at a wedding", "in a bar")
WATER = ("in the pool", "in the ocean", "near the dock", "at the beach", "under a waterfall")
SNOW = ("in the snow", "on a mountain", "down a slope", "on the ice")


@dataclass(frozen=True)
class Verb:
    """A verb with the places it goes with and, when transitive, its countable and uncountable objects."""

    base: str
    places: tuple[str, ...]
    objects: tuple[str, ...] = ()
    mass: tuple[str, ...] = ()


INTRANSITIVE = (
    Verb("walk", (*STREET, *NATURE)),
    Verb("run", (*NATURE, *SPORT)),
    Verb("sit", (*HOME, *NATURE)),
    Verb("dance", STAGE),
    Verb("swim", WATER),
    Verb("sleep", HOME),
    Verb("jump", (*SPORT, *WATER)),
    Verb("sing", STAGE),
    Verb("wait", (*STREET, *WORK)),
    Verb("laugh", (*STAGE, *HOME)),
    Verb("ski", SNOW),
    Verb("study", WORK),
    Verb("skate", (*SNOW, *STREET)),
    Verb("climb", SNOW),
)
TRANSITIVE = (
    Verb("play", STAGE, ("guitar", "violin", "piano", "drum", "accordion")),
    Verb("eat", (*HOME, *STREET), ("sandwich", "apple", "pizza", "orange"), ("lunch", "rice", "soup", "bread")),
    Verb("read", (*WORK, *HOME), ("book", "newspaper", "letter", "magazine", "article")),
    Verb("throw", (*SPORT, *NATURE), ("ball", "frisbee", "stick", "rock")),
    Verb("ride", (*STREET, *NATURE), ("bike", "horse", "motorcycle", "scooter")),
    Verb("hold", (*STREET, *STAGE), ("baby", "camera", "umbrella", "flag", "bag", "sign")),
    Verb("wash", HOME, ("car", "dish", "window", "plate", "bicycle")),
    Verb("paint", (*NATURE, *WORK), ("wall", "picture", "boat", "fence", "portrait")),
    Verb("drink", (*HOME, *STREET), ("beer", "cocktail", "soda"), ("coffee", "water", "tea", "juice")),
    Verb("carry", (*STREET, *WORK), ("box", "basket", "ladder", "suitcase", "child")),
    Verb("kick", SPORT, ("ball", "football", "can", "stone")),
    Verb("cook", HOME, ("meal", "egg", "fish", "chicken"), ("dinner", "pasta", "breakfast")),
    Verb("build", (*NATURE, *SNOW), ("sandcastle", "house", "snowman", "tent", "igloo")),
    Verb("fix", (*STREET, *HOME), ("bike", "roof", "engine", "chair", "radio")),
    Verb("sell", STREET, ("flower", "painting", "necklace", "icon"), ("fruit", "honey", "jewelry")),
)
ANIMAL_VERBS = (
    Verb("run", (*NATURE, *SNOW)),
    Verb("sleep", (*HOME, *NATURE)),
    Verb("chase", NATURE, ("ball", "squirrel", "bird", "cat")),
    Verb("swim", WATER),
    Verb("jump", (*NATURE, *WATER)),
    Verb("eat", (*HOME, *NATURE), ("carrot", "bone", "apple"), ("grass", "food", "hay")),
    Verb("drink", (*NATURE, *HOME), (), ("water", "milk")),
    Verb("play", (*NATURE, *HOME)),
    Verb("stand", (*NATURE, *STREET)),
    Verb("catch", NATURE, ("frisbee", "stick", "insect", "fish")),
)

_IRREGULAR_PLURALS = {
    "man": "men",
    "woman": "women",
    "gentleman": "gentlemen",
    "child": "children",
    "person": "people",
    "scarf": "scarves",
}
_DOUBLING = frozenset({"run", "sit", "swim"})


def plural(noun: str) -> str:
    """The plural of a noun of this lexicon."""
    if noun in _IRREGULAR_PLURALS:
        return _IRREGULAR_PLURALS[noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "sh", "ch", "x")) else f"{noun}s"


def third_person(verb: str) -> str:
    """The verb with he, she or it."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "sh", "ch", "x")) else f"{verb}s"


def progressive(verb: str) -> str:
    """The verb's -ing form."""
    if verb in _DOUBLING:
        return f"{verb}{verb[-1]}ing"
    return f"{verb[:-1]}ing" if verb.endswith("e") else f"{verb}ing"
