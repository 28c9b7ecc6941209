"""The embedded corpus: captions from a stochastic grammar whose probabilities, and so whose entropy, are known exactly.

The grammar is composed from options (probability, word, what follows) and compiled into a deterministic acyclic
automaton over words: options that begin with the same word are merged, with their probabilities added. Hence every
sentence has exactly one path, its probability is the product along it, and entropy and mean length are sums over
the automaton.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from davam.data import lexicon as lx
from davam.errors import DataError
from davam.nn.noise import Stream, generator

CATEGORIES = {
    form: category
    for category, nouns in (("man", lx.MALE), ("woman", lx.FEMALE), ("person", lx.NEUTRAL), ("animal", lx.ANIMALS))
    for noun in nouns
    for form in (noun, lx.plural(noun))
}

END = ""  # the word that ends a sentence
FINAL = -1  # the state after the end


@dataclass(frozen=True)
class Option:
    """One way to go on: with this probability this word, then that state."""

    probability: float
    word: str
    state: int


Options = list[Option]


class Automaton:
    """A deterministic acyclic automaton over words; states are made bottom-up, and FINAL follows the end."""

    def __init__(self) -> None:
        self.arcs: list[dict[str, tuple[float, int]]] = []
        self._merged: dict[tuple[tuple[int, float], ...], int] = {}

    def state(self, options: Iterable[Option]) -> int:
        """The state with these options; those with the same word become one."""
        by_word: dict[str, list[Option]] = {}
        for option in options:
            by_word.setdefault(option.word, []).append(option)
        arcs = {}
        for word, same in by_word.items():
            probability = sum(option.probability for option in same)
            arcs[word] = (probability, self._merge([(o.state, o.probability / probability) for o in same]))
        self.arcs.append(arcs)
        return len(self.arcs) - 1

    def options(self, state: int) -> Options:
        """The state's arcs as options."""
        return [Option(probability, word, to) for word, (probability, to) in self.arcs[state].items()]

    def nats(self, start: int, words: Sequence[str]) -> float | None:
        """-ln p of the words and the end from that state; nothing when they are not accepted."""
        state, total = start, 0.0
        for word in (*words, END):
            arc = self.arcs[state].get(word)
            if arc is None:
                return None
            total -= math.log(arc[0])
            state = arc[1]
        return total

    def expected(self, start: int) -> tuple[float, float]:
        """Entropy in nats, and mean number of words with the end, of what follows the state."""
        values: dict[int, tuple[float, float]] = {FINAL: (0.0, 0.0)}
        for state in range(start + 1):  # bottom-up: a state only leads to earlier ones
            arcs = self.arcs[state].values()
            values[state] = (
                sum(p * (values[to][0] - math.log(p)) for p, to in arcs),
                sum(p * (values[to][1] + 1) for p, to in arcs),
            )
        return values[start]

    def sample(self, start: int, uniforms: Sequence[float]) -> list[str]:
        """The words that the uniform numbers select, one number each."""
        state, words = start, []
        for uniform in uniforms:
            names, bounds = self._cumulative(state)
            word = names[min(bisect_right(bounds, uniform * bounds[-1]), len(names) - 1)]
            if word == END:
                break
            words.append(word)
            state = self.arcs[state][word][1]
        return words

    @cache  # noqa: B019 - the automaton is built once and lives as long as the process
    def _cumulative(self, state: int) -> tuple[list[str], list[float]]:
        names, bounds, total = [], [], 0.0
        for word, (probability, _) in self.arcs[state].items():
            total += probability
            names.append(word)
            bounds.append(total)
        return names, bounds

    def _merge(self, parts: list[tuple[int, float]]) -> int:
        shares: dict[int, float] = {}
        for state, share in parts:
            shares[state] = shares.get(state, 0.0) + share
        if len(shares) == 1:
            return next(iter(shares))
        key = tuple(sorted(shares.items()))
        if key not in self._merged:
            self._merged[key] = self.state(mix([(share, self.options(state)) for state, share in key]))
        return self._merged[key]


def mix(parts: Sequence[tuple[float, Options]]) -> Options:
    """Options chosen first by part: probabilities are scaled by the parts' shares."""
    return [Option(share * o.probability, o.word, o.state) for share, options in parts for o in options]


def choose(words: Sequence[str], state: int) -> Options:
    """One of the words, with probabilities that fall like rank^-0.6, and then the state."""
    weights = [(rank + 1) ** -0.6 for rank in range(len(words))]
    return [Option(weight / sum(weights), word, state) for weight, word in zip(weights, words, strict=True)]


class Captions:
    """The grammar: who, perhaps in what clothes, does what, perhaps to what, where and when."""

    def __init__(self) -> None:
        self.automaton = Automaton()
        self.end = [Option(1.0, END, FINAL)]
        self.phrase = cache(self._phrase)
        self.tail = cache(self._tail)
        self.object = cache(self._object)
        self.predicate = cache(self._predicate)
        self.start = self.automaton.state(mix([(0.62, self._singular()), (0.38, self._plural())]))

    def _phrase(self, words: tuple[str, ...], state: int) -> Options:
        """A fixed phrase, then the state."""
        for word in reversed(words[1:]):
            state = self.automaton.state([Option(1.0, word, state)])
        return [Option(1.0, words[0], state)]

    def _phrases(self, texts: Sequence[str], state: int) -> Options:
        weights = [(rank + 1) ** -0.6 for rank in range(len(texts))]
        return mix(
            [
                (weight / sum(weights), self.phrase(tuple(text.split()), state))
                for weight, text in zip(weights, texts, strict=True)
            ]
        )

    def _tail(self, places: tuple[str, ...]) -> Options:
        """Perhaps a place, perhaps a time, the end."""
        end = self.automaton.state(self.end)
        time = mix([(0.2, self._phrases(lx.TIMES, end)), (0.8, self.end)])
        place = self._phrases(places, self.automaton.state(time))
        return mix([(0.75, place), (0.25, time)])

    def _with_article(self, options: Options) -> Options:
        """`a` or `an` before the options, by their first letter."""
        arcs = []
        for article in ("a", "an"):
            part = [o for o in options if (o.word[0] in "aeiou") == (article == "an")]
            share = sum(o.probability for o in part)
            if part:
                scaled = [Option(o.probability / share, o.word, o.state) for o in part]
                arcs.append(Option(share, article, self.automaton.state(scaled)))
        return arcs

    def _singular(self) -> Options:
        groups = []
        for share, nouns, owner in ((0.27, lx.MALE, "his"), (0.27, lx.FEMALE, "her"), (0.24, lx.NEUTRAL, "their")):
            follow = self._clothed(lx.CLOTHES, self.predicate(owner, "is"), article=True)
            groups.append((share, self._described(lx.HUMAN_ADJECTIVES, nouns, follow)))
        animal = self.automaton.state(self.predicate("its", "is"))
        groups.append((0.22, self._described(lx.ANIMAL_ADJECTIVES, lx.ANIMALS, animal)))
        return self._with_article(mix(groups))

    def _plural(self) -> Options:
        follow = self._clothed([lx.plural(word) for word in lx.CLOTHES], self.predicate("their", "are"), article=False)
        people = [lx.plural(noun) for noun in (*lx.NEUTRAL, *lx.MALE, *lx.FEMALE)]
        animals = self.automaton.state(self.predicate("them", "are"))
        described = mix(
            [
                (0.75, self._described(lx.HUMAN_ADJECTIVES, people, follow)),
                (0.25, self._described(lx.ANIMAL_ADJECTIVES, [lx.plural(a) for a in lx.ANIMALS], animals)),
            ]
        )
        return choose(lx.NUMBERS, self.automaton.state(described))

    def _described(self, adjectives: Sequence[str], nouns: Sequence[str], follow: int) -> Options:
        noun = choose(nouns, follow)
        return mix([(0.4, choose(adjectives, self.automaton.state(noun))), (0.6, noun)])

    def _clothed(self, clothes: Sequence[str], predicate: Options, article: bool) -> int:
        coloured = choose(lx.COLOURS, self.automaton.state(choose(clothes, self.automaton.state(predicate))))
        worn = self._with_article(coloured) if article else coloured
        return self.automaton.state(mix([(0.25, [Option(1.0, "in", self.automaton.state(worn))]), (0.75, predicate)]))

    def _predicate(self, owner: str, auxiliary: str) -> Options:
        """Progressive (is running) or simple (runs, run) forms, agreeing with the subject."""
        animal = owner in ("its", "them")
        singular = auxiliary == "is"
        verbs = lx.ANIMAL_VERBS if animal else (*lx.INTRANSITIVE, *lx.TRANSITIVE)
        weights = [(rank + 1) ** -0.6 for rank in range(len(verbs))]
        progressive, simple = [], []
        for weight, verb in zip(weights, verbs, strict=True):
            follow = self.automaton.state(self._after(verb, owner))
            share = weight / sum(weights)
            progressive.append(Option(share, lx.progressive(verb.base), follow))
            simple.append(Option(share, lx.third_person(verb.base) if singular else verb.base, follow))
        return mix([(0.65, [Option(1.0, auxiliary, self.automaton.state(progressive))]), (0.35, simple)])

    def _after(self, verb: lx.Verb, owner: str) -> Options:
        tail = self.tail(verb.places)
        if verb.objects or verb.mass:
            return self.object(verb, owner)
        return mix([(0.25, choose(lx.ADVERBS, self.automaton.state(tail))), (0.75, tail)])

    def _object(self, verb: lx.Verb, owner: str) -> Options:
        tail = self.automaton.state(self.tail(verb.places))
        parts: list[tuple[float, Options]] = []
        if verb.objects:
            thing = choose(verb.objects, tail)
            coloured = choose(lx.THING_ADJECTIVES, self.automaton.state(thing))
            parts.append((0.65, self._with_article(mix([(0.3, coloured), (0.7, thing)]))))
            possessive = "their" if owner == "them" else owner
            parts.append((0.35, [Option(1.0, possessive, self.automaton.state(thing))]))
        if verb.mass:
            parts.append((0.5, choose(verb.mass, tail)))
        total = sum(share for share, _ in parts)
        return mix([(share / total, options) for share, options in parts])


@cache
def captions() -> Captions:
    """The grammar, built once."""
    return Captions()


def sample_sentences(count: int, seed: int) -> list[str]:
    """Sentences 0..count-1 of the seed; sentence i depends on (seed, i) alone."""
    grammar = captions()
    longest = 32
    draws = (generator(seed, Stream.GRAMMAR, i).random(longest).tolist() for i in range(count))
    return [" ".join(grammar.automaton.sample(grammar.start, uniforms)) for uniforms in draws]


def sentence_nats(text: str) -> float | None:
    """-ln p(text) in nats, the end included; nothing for a text that the grammar does not produce."""
    grammar = captions()
    return grammar.automaton.nats(grammar.start, text.split())


def is_grammatical(text: str) -> bool:
    """Whether the grammar produces the text."""
    return sentence_nats(text) is not None


def entropy_nats() -> float:
    """Entropy per sentence in nats, exactly."""
    return captions().automaton.expected(captions().start)[0]


def mean_tokens() -> float:
    """Mean number of words per sentence plus one for the end, exactly."""
    return captions().automaton.expected(captions().start)[1]


def category(text: str) -> str | None:
    """What the sentence is about, by its first noun: `man`, `woman`, `person` or `animal`; nothing without a noun."""
    return next((CATEGORIES[word] for word in text.split() if word in CATEGORIES), None)


@cache
def category_probabilities() -> dict[str, float]:
    """How probable each category is, exactly."""
    grammar = captions()
    of_state: list[dict[str, float]] = []
    for arcs in grammar.automaton.arcs:  # bottom-up, as states only lead to earlier ones
        found = dict.fromkeys(set(CATEGORIES.values()), 0.0)
        for word, (probability, to) in arcs.items():
            parts = {CATEGORIES[word]: 1.0} if word in CATEGORIES else of_state[to] if to != FINAL else {}
            for name, part in parts.items():
                found[name] += probability * part
        of_state.append(found)
    return of_state[grammar.start]


def ppl_floor() -> float:
    """The perplexity per token that no model can go below on average: exp(entropy / mean tokens)."""
    return math.exp(entropy_nats() / mean_tokens())


def vocabulary() -> list[str]:
    """Every word of the grammar, sorted."""
    return sorted({word for arcs in captions().automaton.arcs for word in arcs} - {END})


def draw_floor(texts: Sequence[str], given_category: bool = False) -> tuple[float, int]:
    """Total nats of the texts under the grammar, given their categories where asked for, and their predicted tokens
    (words, and one end each).

    Raises DataError that names the first text which is not of the grammar.
    """
    total, tokens = 0.0, 0
    for text in texts:
        nats = sentence_nats(text)
        if nats is None:
            raise DataError(f"{text!r} is not a sentence of the embedded grammar, so it has no floor")
        total += nats + (math.log(category_probabilities()[str(category(text))]) if given_category else 0.0)
        tokens += len(text.split()) + 1
    return total, tokens
