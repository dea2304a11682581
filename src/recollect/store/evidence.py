"""Evidence: how well each recalled sentence speaks to a question, and whether all of it is enough to answer.

A sentence is weighed by the share of the question's content words in it and in its turn (a word counts the more, the
fewer hits hold it), by whether it speaks of the person asked for ("I" in that person's turn, "you" in the other's), by
whether it holds the kind of thing that is asked for, by what it says beside the question's own words, and by its rank.
A logistic model of four of these signals says how likely an answer is.

Tuned on five LoCoMo conversations with the ten best turns of the default method; the logistic model was fitted to tell
answerable questions from adversarial ones and from questions of other conversations with the names exchanged. Left-one-
conversation-out, at the threshold 0.5, it answers 84% of the answerable and abstains on 61% of the adversarial and 65%
of the foreign ones (area under the curve 0.83 for both).

Cost: linear in the text of the hits, of which at most `MAX_CHARS` each are read.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

from recollect.store.lexical import STOP_WORDS, terms
from recollect.store.records import Hit
from recollect.store.timeline import NUMBER, UNIT

MAX_CHARS = 4_000  # read of one hit, around its excerpt

# What makes a sentence good evidence, tuned on LoCoMo.
OWN_SHARE = 0.6  # of the words found: those in the sentence itself, against those in the whole turn
FITS_WEIGHT = 0.2  # for holding the kind of thing that is asked for
DOUBT = 1.0  # weight of words that a fuller question would have had, so that one word found is no proof
PERSON_SHARE = 0.7  # lost by evidence that speaks of somebody else
TELLS_SHARE = 0.4  # lost by a sentence that says nothing beside the question's own words
RANK_WEIGHT = 0.4  # for having been recalled first, a half of it for second ...

# Logistic model of "this is answered", fitted on LoCoMo's questions (adversarial ones are the unanswerable).
BIAS = -2.08
WEIGHTS = {"support": 5.37, "person": 1.37, "others_lead": -5.29, "missing": -0.35}
THRESHOLD = 0.5

# Words that tell of the state that the question's word asks for, often of its change: "moved to Porto", asked for "live".
_SAME_STATE = {
    "live": "move relocate settle home apartment rent",
    "work": "job hire join employ position company start",
    "job": "work hire position employer promotion career",
    "married": "wedding husband wife",
    "drive": "car buy",
    "favorite": "fave fav favourite love prefer",
    "pet": "dog cat turtle puppy kitten",
    "kids": "children child son daughter",
    "children": "kid son daughter",
    "picture": "photo pic",
    "photo": "pic picture",
    "business": "biz company",
    "buy": "purchase",
    "attend": "join participate",
    "visit": "trip travel",
}
# Questions ask "did she buy", turns tell "I bought".
_PAST_AND_BASE = """began begin bought buy brought bring built build broke break came come caught catch chose choose drank
    drink drew draw drove drive ate eat fell fall felt feel fought fight found find flew fly forgot forget gave give grew
    grow heard hear held hold kept keep knew know led lead left leave lost lose made make meant mean met meet paid pay
    ran run rode ride sang sing sat sit saw see sent send slept sleep sold sell spent spend spoke speak stood stand stole
    steal struck strike swam swim taught teach thought think threw throw told tell took take understood understand went
    go woke wake won win wore wear wrote write hid hide shook shake became become gone go seen see done do taken take
    given give written write known know grown grow drawn draw driven drive eaten eat chosen choose broken break"""
_BASES: dict[str, str] = {}
for _past, _base in zip(_PAST_AND_BASE.split()[::2], _PAST_AND_BASE.split()[1::2], strict=True):
    _BASES.update(zip(terms(_past), terms(_base), strict=False))
_STATES = {terms(word)[0]: frozenset(terms(others)) for word, others in _SAME_STATE.items()}
_WORD = re.compile(r"[^\W_]+")
_PRESENT = re.compile(
    r"\b(?:is|are|am|does|do|has|have|currently|now|(?:what|where|who|how)['\u2019]s)\b", re.IGNORECASE
)
_PAST = re.compile(r"\b(?:did|was|were|had)\b", re.IGNORECASE)
_GENERIC = frozenset(  # they say what kind of answer is asked for, not what it is about
    terms(
        "type kind sort thing many much name call year month day week time date long old person someone according mention"
        " said say tell told happen recently currently"
    )
)
_FIRST = re.compile(r"\b(?:i|my|me|mine|we|our|us|myself|i['\u2019](?:m|ve|d|ll))\b", re.IGNORECASE)
_SECOND = re.compile(r"\b(?:you|your|yours|yourself|u|you['\u2019](?:re|ve|d|ll))\b", re.IGNORECASE)
_REACTION = re.compile(  # said about the other's news
    r"(?:oh|wow|whoa|ah|yay|aw+)?[\s,!]*(?:congrat|that['\u2019]?s|that (?:is|sounds|looks|must)|those|sounds|looks|must"
    r"|way to go|(?:great|good|nice) (?:job|work|luck)|nice|awesome|amazing|cool|great|sweet|thanks|thank|sorry|glad"
    r"|happy to hear|what an?|how)\b",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?]{1,9}[\"'\u201d)\]]{0,3}(?=\s|$)|\n|$")


@dataclass(frozen=True, slots=True)
class Evidence:
    """A sentence of a hit and how well it speaks to the question."""

    hit: Hit
    rank: int  # 0 for the hit that was recalled first
    sentence: str
    coverage: float  # share of the question's words, by weight, in the sentence and its hit
    person: float  # 1 when it speaks of the person asked for, towards 0 when of another
    tells: float  # 1 when it says three words or more beside the question's, 0 when none
    score: float


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: the words to be found, the people asked for, and the kind of answer."""

    text: str
    words: frozenset[str]  # stems, without the names of speakers
    people: frozenset[str]  # speakers that the question names
    kind: str  # see `question_kind`
    present: bool  # asks for how things are, so that the newest counts


def stems(text: str) -> list[str]:
    """The stems of a text's content words in order, irregular pasts brought to their base: bought, buy."""
    return [_BASES.get(term, term) for term in terms(text)]


def question_kind(question: str) -> str:
    """The kind of answer that a question asks for: when, how_long, how_many, where, who, how, yes_no or what."""
    text = " ".join(question.lower().split())
    for kind, pattern in _KINDS:
        if re.search(pattern, text):
            return kind
    return "what"


_KINDS = (
    ("how_long", r"\bhow long\b|\bhow many (?:minutes|hours|days|weeks|months|years)\b"),
    ("how_many", r"\bhow (?:many|much|old|often|far|big|tall)\b|\bwhat (?:number|age|price)\b"),
    ("when", r"^(?:and |so )?when\b|\b(?:what|which) (?:day|date|month|year|week|season|time)\b|^since when\b"),
    ("where", r"^where\b|\b(?:what|which) (?:city|country|town|place|state|location|village)\b"),
    ("who", r"^(?:who|whom|whose)\b"),
    ("how", r"^(?:how|why)\b"),
    ("yes_no", r"^(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should)\b"),
)


def weigh(question: str, hits: Sequence[Hit]) -> list[Evidence]:
    """Each sentence of the hits as evidence for the question, the best first; questions and empty ones left out."""
    asked = read_question(question, hits)
    texts = [text_read(hit) for hit in hits]
    words_of = [set(stems(text)) for text in texts]
    weights = _word_weights(asked, words_of)
    total = sum(weights.values())
    evidence = []
    for rank, (hit, text, words) in enumerate(zip(hits, texts, words_of, strict=True)):
        whole = _found(weights, words)
        for sentence in sentences_of(text):
            if sentence.endswith("?"):
                continue
            said = set(stems(sentence))
            own = _found(weights, said)
            coverage = (OWN_SHARE * own + (1 - OWN_SHARE) * whole) / (total + DOUBT)
            person = _person(asked, hit, sentence)
            form = FITS_WEIGHT if fits(asked.kind, sentence) else 0.0
            tells = min(1.0, len(said - asked.words) / 3)
            score = (coverage + form) * (1 - PERSON_SHARE + PERSON_SHARE * person) + RANK_WEIGHT / (1 + rank)
            score *= 1 - TELLS_SHARE + TELLS_SHARE * tells
            evidence.append(Evidence(hit, rank, sentence, coverage, person, tells, score))
    return sorted(evidence, key=lambda item: (-item.score, item.rank))


def signals(question: str, hits: Sequence[Hit], evidence: Sequence[Evidence]) -> dict[str, float]:
    """What the decision to answer rests on, each 0 to 1.

    support: the question's words in the best evidence about the person asked for. person: whether the sentence to be
    quoted is about that person. others_lead: how much better evidence about somebody else is. missing: share of the
    question's words, by weight, that no hit holds.
    """
    weights = _word_weights(read_question(question, hits), words_of := [set(stems(text_read(hit))) for hit in hits])
    support = max(item.coverage * item.person * (0.5 + 0.5 * item.tells) for item in evidence)
    others = max((item.coverage * (0.5 + 0.5 * item.tells) for item in evidence if item.person < 0.5), default=0.0)
    found = _found(weights, set().union(*words_of))
    return {
        "support": support,
        "person": evidence[0].person,
        "others_lead": max(0.0, others - support),
        "missing": 1.0 - found / (sum(weights.values()) or 1.0),
    }


def confidence_of(values: dict[str, float]) -> float:
    """How likely `signals` make an answer, 0 to 1."""
    return 1 / (1 + exp(-BIAS - sum(weight * values[name] for name, weight in WEIGHTS.items())))


def read_question(question: str, hits: Sequence[Hit]) -> Question:
    """What a question asks for, in the light of who speaks in the hits."""
    people = {hit.speaker for hit in hits if hit.speaker and _names(question, hit.speaker)}
    if not people:
        people = _roles(question, {hit.speaker for hit in hits if hit.speaker})
    own = {stem for name in people for stem in stems(name)}
    own |= {
        stem for word in _WORD.findall(question) for stem in stems(word) if any(_calls(word, name) for name in people)
    }
    words = frozenset(stem for stem in stems(question) if stem not in own and stem not in _GENERIC)
    present = bool(_PRESENT.search(question)) and not _PAST.search(question)
    return Question(question, words, frozenset(people), question_kind(question), present)


def _names(question: str, speaker: str) -> bool:
    return any(_calls(word, speaker, first=place == 0) for place, word in enumerate(_WORD.findall(question)))


def _calls(word: str, speaker: str, first: bool = False) -> bool:
    """Whether a word of a question calls a speaker: the first name in any case, or a short form of it with a capital.

    A name that is a common word too, such as Will, counts only with a capital inside the sentence.
    """
    name = next(iter(_WORD.findall(speaker)), "").casefold()
    folded = word.casefold()
    if not name or folded in STOP_WORDS:
        return folded == name and word[0].isupper() and not first
    return folded == name or (len(word) > 2 and word[0].isupper() and not first and name.startswith(folded))


def _roles(question: str, speakers: set[str]) -> set[str]:
    """Whom "I" and "you" mean in a talk between a user and an assistant."""
    found = set()
    for speaker in speakers:
        if (speaker.casefold() in ("user", "human", "me") and _FIRST.search(question)) or (
            speaker.casefold() in ("assistant", "ai", "bot") and _SECOND.search(question)
        ):
            found.add(speaker)
    return found


def _word_weights(asked: Question, words_of: Sequence[set[str]]) -> dict[str, float]:
    """How much each word of the question counts: the rarer among the hits, the more."""
    num_hits = len(words_of)
    counts = Counter(word for words in words_of for word in words if word in asked.words)
    return {word: log(1 + (num_hits - counts[word] + 0.5) / (counts[word] + 0.5)) + 0.3 for word in asked.words}


def _found(weights: dict[str, float], words: set[str]) -> float:
    """The weight of the question's words among `words`; a word of the same state counts 0.7."""
    found = 0.0
    for word, weight in weights.items():
        if word in words:
            found += weight
        elif words & _STATES.get(word, frozenset()):
            found += 0.7 * weight
    return found


def _person(asked: Question, hit: Hit, sentence: str) -> float:
    """Whether a sentence speaks of the person asked for: 1 yes, 0.5 cannot be said, towards 0 of somebody else."""
    if not asked.people or hit.speaker is None:
        return 1.0
    first, second = bool(_FIRST.search(sentence)), bool(_SECOND.search(sentence))
    named = any(re.search(rf"\b{re.escape(name.split()[0])}\b", sentence, re.IGNORECASE) for name in asked.people)
    if hit.speaker in asked.people:
        return 0.4 if not first and (second or _REACTION.match(sentence)) else 1.0
    if named:
        return 0.7
    return 0.1 if first and not second else 0.5 if second else 0.3


def text_read(hit: Hit) -> str:
    """The part of a hit's text that is read: all of it, or what lies around the best passage of a long one."""
    if len(hit.text) <= MAX_CHARS:
        return hit.text
    start, end = hit.excerpt or (0, MAX_CHARS)
    room = max(0, MAX_CHARS - (end - start)) // 2
    first = max(0, start - room)
    return hit.text[first : first + MAX_CHARS]


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each a part of it word for word; cut after . ! ? and at line ends."""
    ends = [0, *(match.end() for match in _SENTENCE_END.finditer(text))]
    pieces = (text[start:end].strip() for start, end in itertools.pairwise(ends))
    return [piece for piece in pieces if re.search(r"\w", piece)]


def fits(kind: str, sentence: str) -> bool:
    """Whether a sentence holds the kind of thing that is asked for, as far as its form tells."""
    pattern = FORMS.get(kind)
    return bool(pattern and pattern.search(sentence))


FORMS = {
    "when": re.compile(
        r"\b(?:yesterday|today|tonight|tomorrow|ago|last|next|this (?:week|weekend|month|year|morning)|weekend|just|since"
        r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|april|june|july|august|september|october|november"
        r"|december|(?:19|20)\d\d)\b|\b(?:in|since|on|of|by) (?:May|March)\b",
        re.IGNORECASE,
    ),
    "how_long": re.compile(rf"\b{NUMBER}\s{{1,3}}{UNIT}\b|\bsince\b", re.IGNORECASE),
    "how_many": re.compile(rf"\b{NUMBER}\b|\b(?:once|twice|both)\b", re.IGNORECASE),
    "where": re.compile(r"\b(?:in|at|to|from|near|around|through|visited|of)\s(?:the\s)?(?:[A-Z]\w|my\s|a\s|the\s)"),
}
