"""Facts: what a text states about somebody or something, each as subject, relation, value and a sentence of its own.

A text is cut into sentences and clauses. Questions, conditions and what somebody only wishes or guesses are left out.
Of each other clause the subject is found ("I" is the speaker; "my sister", a name, "she" where it is clear who), then
the group of the verb, read for tense and negation; the predicate, its verb in the base form, is matched with the table
in `fact_rules`, and where no rule matches the verb itself is the relation. Relative times are resolved by `timeline`.

Rules for standard wordings find what people plainly state; irony, long-range reference and what follows from two
sentences together are beyond them.

Cost: linear in the text, of which the first 20,000 characters are read; about 0.4 ms for a turn of a conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from recollect.store import fact_rules
from recollect.store.clauses import NAME, Clause, Verb, clauses
from recollect.store.english import MAX_CHARS, base_of, is_gerund, third_person
from recollect.store.evidence import stems
from recollect.store.retelling import third_person_of


@dataclass(frozen=True, slots=True)
class Fact:
    """What a sentence states. `first` and `last` are the characters of that sentence in the text."""

    subject: str  # "Ana", "Ana's sister"; "I" for the speaker of a text without one
    relation: str  # "lives in", "works at", "favourite colour", "likes" ...; the verb phrase where no rule knows it
    value: str  # "Porto"; empty when the relation says it all ("broke up")
    text: str  # stands alone, in the third person, dates resolved: "Ana moved from Lisbon to Porto in May 2024."
    single: bool  # a newer value of the same subject and relation ends the older one
    at: datetime | None  # since when it holds or when it happened, as far as the text says
    ends: bool  # says that it ceased to hold
    first: int
    last: int


_JOBS = "|".join(sorted(fact_rules.JOBS.split(), key=len, reverse=True)).replace("-", " ")
_SLOTS = {
    "{x}": "(?P<x>.+)",
    "{my}": r"(?:\s(?:an?|my|the|his|her|their|our))?",
    "{post}": r"(?:\s(?:old|brand|new|full-time|part-time|dream)){0,3}\s(?:job|position|role|post|work)(?:\soffer)?",
    "{away}": r"(?:\s(?:back|over|out|down|up|here|away|in)){0,2}",
    "{w}": r"[^|,;]{1,60}?",
    "{name}": rf"(?P<x>(?-i:(?:the\s)?{NAME}))",
    "{place}": rf"(?P<x>(?-i:(?:the\s)?{NAME})|(?:an?|my|our|the|his|her|their)\s[^|,;]{{0,40}}?\b(?:house|home|flat|apartment|place"
    r"|city|town|village|country|countryside|suburbs|mountains|coast|dorm)\b)",
    "{job0}": rf"(?:[\w-]+\s){{0,4}}?(?:{_JOBS})",
    "{job}": rf"(?P<x>(?:[\w-]+\s){{0,4}}?(?:{_JOBS}))\b",
}  # fmt: skip


def _compiled(line: str) -> tuple[str, frozenset[str], re.Pattern[str]]:
    relation, marks, pattern = (part.strip() for part in line.split("|", 2))
    for slot, meaning in _SLOTS.items():
        pattern = pattern.replace(slot, meaning)
    return relation, frozenset(marks.split()), re.compile(rf"(?:{pattern})(?!\w)", re.IGNORECASE)


_RULES = [_compiled(line) for line in fact_rules.RULES.strip().splitlines()]
_ATTRIBUTE = re.compile(
    r"(?:"
    + "|".join(sorted((item.strip() for item in fact_rules.ATTRIBUTES.split(",")), key=len, reverse=True))
    + r")$"
)
_VALUE_END = re.compile(
    r"\s*(?:[|(;]|\.(?:\s|$)|[!?]|\s--?\s|,\s(?:and\s)?(?=(?:I|we|he|she|it|they|you|my|which|who|where|that|so|but|because|since|when"
    r"|as|then|though|especially|even|just|\w+ing)\b)|,$|,?\s(?:but|because|so that|so (?:I|we|it|he|she|they)|which|who|where|when"
    r"|while|although|though|as well as|as well|too|anymore|and then|and (?:I|we|he|she|it|they|my|have|had|am|is|was|are|do|can)"
    r"|if|until)\b)",
    re.IGNORECASE,
)
_SINGLE_END = re.compile(r",|\s(?:and|with|as|for|on|after|before|from|together|since|right|now)\b", re.IGNORECASE)
_VALUE_TAIL = re.compile(
    r"[\s,]+(?:now|these days|currently|lately|recently|right now|already|again|yet|still|a lot|so much|very much|too|"
    r"at the moment|for now|though|in|on|at|since|for|from|and|to|of|by|around|about|during|just|until)$",
    re.IGNORECASE,
)


def facts(text: str, *, speaker: str | None = None, at: datetime) -> list[Fact]:
    """What `text`, said by `speaker` at `at`, states, in order; relative times are read as of `at`."""
    text = text[:MAX_CHARS].replace("\0", " ")
    who = " ".join((speaker or "").replace("\0", " ").split()) or "I"
    found: dict[tuple[str, str, str], Fact] = {}
    for clause in clauses(text, who, at):
        for relation, value, single, ends in _stated(clause):
            if who != "I":
                value = third_person_of(value, who)
            fact = Fact(
                clause.subject, relation, value, clause.told, single, clause.since, ends, clause.first, clause.last
            )
            found.setdefault((fact.subject, relation, value), fact)
    return list(found.values())


_Stated = tuple[str, str, bool, bool]  # relation, value, single, ends


def _stated(clause: Clause) -> list[_Stated]:
    """What a clause states: by its attribute, by the rules that match, else by its own verb."""
    verb = clause.verb
    if clause.attribute:
        return _attribute(clause.attribute, verb)
    rest = verb.rest.removeprefix("up ") if verb.base == "give" else verb.rest
    stopped = (
        _STOPPED.match(rest) if verb.base in ("quit", "stop", "give") and not (verb.negated or verb.modal) else None
    )
    if stopped and is_gerund(stopped[1]):
        verb = Verb(base_of(stopped[1]), third_person(base_of(stopped[1])), rest[stopped.end() :], ceased=True)
    return list(_by_rules(verb)) or _by_verb(verb, clause)


_STOPPED = re.compile(r"([a-z]{3,20}ing)\b\s*")


def _attribute(attribute: str, verb: Verb) -> list[_Stated]:
    """What "my phone number is ..." states."""
    relation = fact_rules.RELATION_OF_ATTRIBUTE.get(attribute, attribute)
    value = _value(verb.rest, single=relation != "address")
    if verb.base != "be" or verb.modal or not value:
        return []
    return [
        (f"{relation} is not", value, False, False)
        if verb.negated
        else (relation, value, True, verb.past or verb.ceased)
    ]


def _by_rules(verb: Verb) -> Iterator[_Stated]:
    """What the first rule that matches a predicate says, and all rules marked "also"."""
    predicate = f"{verb.base} {verb.rest}"
    found = False
    for relation, marks, pattern in _RULES:
        if (found and "also" not in marks) or not _tense_fits(verb, marks) or (verb.modal and verb.modal not in marks):
            continue
        match = pattern.match(predicate)
        if match is None:
            continue
        has_value = "x" in pattern.groupindex
        value = _value(match["x"], single="one" in marks) if has_value else ""
        if has_value and not value:
            continue
        found = True
        if verb.negated:
            yield fact_rules.NEGATED.get(relation) or _denied(relation), value, False, False
        else:
            ended = "ends" in marks or verb.ceased or ("state" in marks and verb.past)
            yield relation, value, "one" in marks, ended


def _tense_fits(verb: Verb, marks: frozenset[str]) -> bool:
    happened = verb.past or verb.perfect
    return (
        ("past" not in marks or happened)
        and ("now" not in marks or not verb.past or verb.ceased)
        and ("doing" not in marks or (verb.doing and not verb.past))
        and ("plain" not in marks or not verb.doing)
    )


def _by_verb(verb: Verb, clause: Clause) -> list[_Stated]:
    """The verb itself as the relation: "went to" and "a support group"; nothing for what tells nothing."""
    words = verb.rest.lower().split()
    dull = verb.base in fact_rules.SAYS_LITTLE if clause.first_person else False
    mood = verb.base == "be" and words and words[0].strip(",.!") in fact_rules.MOODS
    if verb.modal == "would" or dull or mood:
        return []
    particle = _PARTICLE.match(verb.rest)
    value = _value(verb.rest[particle.end() :] if particle else verb.rest, single=False)
    tells = any(stem not in _SAYS_NOTHING for stem in stems(value))
    if not tells and not (verb.ceased or (verb.past and (clause.since or verb.base in fact_rules.TURNS))):
        return []
    relation = _told_relation(verb)
    if verb.modal and not verb.ceased:
        return [(relation, f"{verb.base} {_value(verb.rest, single=False)}", False, False)] if tells else []
    return [(f"{relation} {particle[1].lower()}" if particle and value else relation, value, False, verb.ceased)]


def _told_relation(verb: Verb) -> str:
    """The group of the verb in the third person: "is going to", "does not eat", "has visited"."""
    if verb.ceased:
        return third_person(verb.base)
    if verb.modal:
        told = fact_rules.TOLD_MODALS.get(verb.modal, verb.modal)
        told = "had to" if told == "has to" and verb.past else told
        return _denied(told) if verb.negated else told
    if verb.negated:
        if verb.base == "be" or verb.perfect:
            return (
                ("has not been" if verb.base == "be" else f"has not {verb.surface}")
                if verb.perfect
                else ("was not" if verb.past else "is not")
            )
        return f"did not {verb.base}" if verb.past else _denied(third_person(verb.base))
    lead = (
        "has been "
        if verb.perfect and verb.doing
        else "has "
        if verb.perfect
        else "was "
        if verb.doing and verb.past
        else "is "
        if verb.doing
        else ""
    )
    return lead + verb.surface


_PARTICLE = re.compile(
    r"((?:(?:up|out|off|down|back|away|over|along|together|on)\s)?(?:to|in|at|on|for|with|from|into|about|of|by|through|as|up|out|off"
    r"|down|back|over|around|after))\s",
    re.IGNORECASE,
)
_SAYS_NOTHING = frozenset(
    stems(
        "thing things lot way time great good nice really chat talk one bit fun point hear know back best better well ok much"
    )
)


def _denied(relation: str) -> str:
    """The relation that says the opposite: "lives in" to "does not live in", "is married to" to "is not married to"."""
    verb, _, rest = relation.partition(" ")
    if verb in ("is", "was", "can") or (verb == "has" and rest):
        return f"{verb} not {rest}".strip()
    return f"does not {base_of(verb)} {rest}".strip()


def _value(rest: str, single: bool) -> str:
    """The words of a value, without what follows it in the sentence."""
    rest = rest.strip()
    end = _VALUE_END.search(rest)
    value = rest[: end.start()] if end else rest
    if single:
        end = _SINGLE_END.search(value)
        value = value[: end.start()] if end else value
    value = value[:200].strip(" ,.!?\"'*~")
    if value.lower() in fact_rules.POINTERS or _POINTS.match(value):
        return ""
    while tail := _VALUE_TAIL.search(value):
        value = value[: tail.start()].rstrip(" ,")
    return value if re.search(r"\w", value) else ""


_ENDED_BY_LEAVING = frozenset({"works at", "lives in", "studies at"})


def contradicts(new: Fact, old: Fact) -> bool:
    """Whether `new`, said later, means that `old` holds no longer.

    So it is when both are single and give the same relation of the same subject another value, when `new` ends what
    `old` says, and when it denies it. A value that only says more or less ("Porto", "Porto, Portugal") is no other one.
    """
    if _subject_key(new) != _subject_key(old) or old.ends:
        return False
    same, overlap = _same_value(new, old), _overlap(new, old)
    if new.ends:
        if new.relation == "left":
            return same and old.relation in _ENDED_BY_LEAVING
        return new.relation == old.relation and (overlap or not new.value)
    if new.relation in (_denied(old.relation), fact_rules.NEGATED.get(old.relation), f"{old.relation} is not"):
        return overlap
    if new.relation == "has" == old.relation:
        return _counted(new) and _counted(old) and same is False and _without_numbers(new) == _without_numbers(old)
    return new.single and old.single and new.relation == old.relation and not overlap


def same_fact(a: Fact, b: Fact) -> bool:
    """Whether two facts say the same about the same subject, in whatever words around it."""
    return _subject_key(a) == _subject_key(b) and a.relation == b.relation and a.ends == b.ends and _same_value(a, b)


def _subject_key(fact: Fact) -> str:
    return fact.subject.casefold().replace("\u2019", "'")


def _key(fact: Fact) -> frozenset[str]:
    """The stems of a value; its words when all are common ones."""
    words = " ".join(fact_rules.SAME_WORD.get(word) or word for word in re.findall(r"[\w'-]+", fact.value.lower()))
    return frozenset(stems(words)) or frozenset(words.split())


def _same_value(a: Fact, b: Fact) -> bool:
    return _key(a) == _key(b)


def _overlap(a: Fact, b: Fact) -> bool:
    """Whether one value says all that the other says."""
    first, second = _key(a), _key(b)
    return first <= second or second <= first


def _counted(fact: Fact) -> bool:
    return bool(_NUMBER.match(fact.value))


def _without_numbers(fact: Fact) -> frozenset[str]:
    return frozenset(stems(_NUMBER.sub("", fact.value)))


_POINTS = re.compile(r"(?:how|when|that|what|why|where|it|them|each other)(?:\s|$)", re.IGNORECASE)
_NUMBER = re.compile(r"\s*(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|an?|no)\b", re.IGNORECASE)
