"""Facts: what a text states about somebody or something, each as subject, relation, value and a sentence of its own.

A text is cut into sentences and clauses. Questions, conditions and what somebody only wishes or guesses are left out.
Of each other clause the subject is found ("I" is the speaker; "my sister", a name, "she" where it is clear who), then
the group of the verb, read for tense and negation; the predicate, its verb in the base form, is matched with the table
in `fact_rules`, and where no rule matches the verb itself is the relation. Relative times are resolved by `timeline`.

Rules for standard wordings find what people plainly state; irony, long-range reference and what follows from two
sentences together are beyond them.

Cost: linear in the text, of which the first 20,000 characters are read; about 0.2 ms for a turn of a conversation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from recollect.store import fact_rules
from recollect.store.english import (
    MAX_CHARS,
    MODALS,
    VERBS,
    base_of,
    expand,
    is_adverb,
    is_gerund,
    is_irregular_past,
    is_participle,
    is_past,
    sentences,
    third_person,
)
from recollect.store.evidence import stems
from recollect.store.retelling import third_person_of, with_dates
from recollect.store.timeline import TimeSpan, find_times


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


@dataclass(slots=True)
class _Verb:
    """The group of words that make the verb of a clause, and what follows it."""

    base: str
    surface: str  # as told: "is going to", "went"
    rest: str
    negated: bool = False
    ceased: bool = False  # no longer, used to
    modal: str = ""
    past: bool = False  # the simple past
    perfect: bool = False
    doing: bool = False


_NAME = r"[A-Z][\w'&.-]*(?:\s(?:(?:of|the|and|de|da|do|di|van|von|&)\s){0,2}[A-Z0-9][\w'&.-]*){0,5}"
_JOBS = "|".join(sorted(fact_rules.JOBS.split(), key=len, reverse=True)).replace("-", " ")
_SLOTS = {
    "{x}": "(?P<x>.+)",
    "{w}": r"[^|,;]{1,60}?",
    "{name}": rf"(?P<x>(?-i:(?:the\s)?{_NAME}))",
    "{place}": rf"(?P<x>(?-i:(?:the\s)?{_NAME})|(?:an?|my|our|the|his|her|their)\s[^|,;]{{0,40}}?\b(?:house|home|flat|apartment|place"
    r"|city|town|village|country|countryside|suburbs|mountains|coast|dorm)\b)",
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
_KIN = "|".join(sorted(fact_rules.KIN.split(), key=len, reverse=True))
_LEAD = re.compile(
    r"(?:(?:by the way|btw|as i (?:said|mentioned)(?: before| earlier)?|like i said|to be honest|in fact|of course|guess what"
    r"|you know(?: what)?|no worries|thank you|thanks|good (?:morning|news|question|point)|hey|hi|hello|oh|ooh|wow|whoa|well|yeah|yes|nope|no|yep|yup|sure"
    r"|ok|okay|haha|lol|actually|anyway|also|honestly|so|and|but|then|or|fyi|um|uh|ah|aw|absolutely|definitely|exactly|nice"
    r"|cool|great|awesome|sounds good|unfortunately|luckily|fortunately|plus|because|although|though|while|my news"
    r"|i (?:just )?(?:think|believe|guess|mean|must say|have to say|would say|know|remember|realized|found out)(?: that)?(?= (?:i|my|we|our|he|she)\b)"
    r"|(?:in|to) my (?:opinion|mind))(?![\w'])[\s,.!:-]{0,4})",
    re.IGNORECASE,
)
_VOCATIVE = re.compile(r"[A-Z][a-z]{1,20}[,!]\s{1,3}(?=(?:I|[Mm]y|[Ww]e|[Oo]ur|it|the|this)\b)")
_TAIL = re.compile(
    r"[\s,]+(?:by the way|btw|you know|as i (?:said|mentioned)(?: before| earlier)?|like i said|lol|haha|though|too|as well|now"
    r"|these days|right now|at the moment|currently|again|anyway|thanks|please|so far)[\s.!]*$",
    re.IGNORECASE,
)
_PERSON = r"(?:I|we|he|she|they|my|our|his|her|you|it|there|that|this)"
_CLAUSE = re.compile(
    rf"\s*(?:[;:]|\.\.\.|\s--?\s|\s[\u2013\u2014]\s|[\u2013\u2014])\s*"
    rf"|,?\s(?:and|but|so|because|although|though|while|since|cause|whereas)\s(?={_PERSON}\b)"
    rf"|,\s(?=(?:and|but|so|then|now)?\s?{_PERSON}\b)",
    re.IGNORECASE,
)
_UNREAL = re.compile(
    r"(?:if|unless|whether|imagine|suppose|maybe|perhaps|what if|in case|even if|i wish|wish|i hope|hope|hopefully|let's|let us"
    r"|when(?:ever)?|i wonder|i was wondering|who|why|how|what|where|which)\b",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?:do|does|did|are|is|was|were|have|has|can|could|would|will|should|shall|may)\s(?:you|i|we|he|she|they|it|there|your|my)\b",
    re.IGNORECASE,
)
_CEASED_TAIL = re.compile(r"\s*\b(?:any\s?more|any longer|no more)\b", re.IGNORECASE)
_TOGETHER = (
    rf"(?:[A-Z]\w+|(?:my|our)\s(?:[\w-]+\s)?(?:{_KIN}))\sand\s(?:I|me)\b|(?:me|I)\sand\s(?:my|our)\s(?:{_KIN})\b"
    r"|(?:me|I)\sand\s[A-Z]\w+"
)
_SUBJECT = re.compile(
    rf"(?P<first>{_TOGETHER}|I\b|[Ww]e\b)"
    rf"|(?P<owned>(?:[Mm]y|[Oo]ur)\s(?:[\w-]+\s){{0,3}}?(?:{_KIN})\b(?P<called>,?\s[A-Z][a-z]+\b,?)?(?:'s\s[\w-]+)?)(?=\s)"
    r"|(?P<mine>(?:[Mm]y|[Oo]ur)\s(?:[\w-]+\s?){1,4}?)(?=\s(?:is|are|was|were)\b)"
    r"|(?P<he>[Hh]e|[Ss]he)\b"
    rf"|(?P<name>{_NAME})(?=\s)"
)
_DROPPED_I = re.compile(r"(?:just|recently|finally|also|even|already)\s", re.IGNORECASE)
_DROPPED_VERBS = frozenset(
    """moved started joined visited finished bought adopted tried booked signed learned watched baked cooked hiked painted
    attended quit been""".split()
)
_NO_NAMES = frozenset(
    """I It This That There These Those You What How When Where Why Who The A An If So And But Or Yes No Oh Wow Hey Hi Well
    Thanks Thank Sure Maybe He She They We My Our Your His Her Its Here Not Just Sounds Looks Seems Glad Can Do Did Is Are
    Congrats Congratulations Good Great Nice Cool Awesome Let Please Sorry Have Has Keep Take Make In On At For To With From
    By As After Before Since While Although Though Because Every Everyone Everything Some Someone All Being Having Getting
    Nothing Something Anything One Both Each Most Many Gonna Any Another Still Also Always Never Sometimes""".split()
)
_VALUE_END = re.compile(
    r"\s*(?:[|(;]|\.(?:\s|$)|[!?]|\s--?\s|,\s(?:and\s)?(?=(?:I|we|he|she|it|they|you|my|which|who|where|that|so|but|because|since|when"
    r"|as|then|though|especially|even|just|\w+ing)\b)|,$|,?\s(?:but|because|so that|so|which|who|where|when|while|although|though|"
    r"as well as|as well|too|anymore|and then|and (?:I|we|he|she|it|they|my|have|had|am|is|was|are|do|can)|if|until)\b)",
    re.IGNORECASE,
)
_SINGLE_END = re.compile(r",|\s(?:and|with|as|for|on|after|before|from|together|since|right|now)\b", re.IGNORECASE)
_VALUE_TAIL = re.compile(
    r"[\s,]+(?:now|these days|currently|lately|recently|right now|already|again|yet|still|a lot|so much|very much|too|"
    r"at the moment|for now|though|in|on|at|since|for|from|and|to|of|by|around|about|during|just|until)$",
    re.IGNORECASE,
)
_TIME_MARK = "|"
_BEFORE_TIME = re.compile(
    r"\b(?:in|on|at|since|during|over|around|about|by|for|from|until|before|after|of)\s{1,3}(?:the\s)?$", re.IGNORECASE
)


def facts(text: str, *, speaker: str | None = None, at: datetime) -> list[Fact]:
    """What `text`, said by `speaker` at `at`, states, in order; relative times are read as of `at`."""
    text = text[:MAX_CHARS].replace("\0", " ")
    who = " ".join((speaker or "").replace("\0", " ").split()) or "I"
    spans = find_times(text, at)
    found: dict[tuple[str, str, str], Fact] = {}
    other = ""  # whom "he" or "she" means
    for first, last in sentences(text):
        sentence = text[first:last]
        if sentence.rstrip("\"' )").endswith("?"):
            continue
        times = [span for span in spans if first <= span.start_char and span.end_char <= last]
        for start, end in _clauses(sentence):
            inside = [span for span in times if first + start <= span.start_char and span.end_char <= first + end]
            stated = _state(sentence[start:end], inside, first + start, at, who, other)
            if stated is None:
                continue
            subject, relation, value, single, ends, told = stated
            if subject != who:
                other = subject
            since = inside[0].start if inside else None
            found.setdefault(
                (subject, relation, value), Fact(subject, relation, value, told, single, since, ends, first, last)
            )
    return list(found.values())


def _clauses(sentence: str) -> list[tuple[int, int]]:
    """Where the clauses of a sentence stand, as (first, last) characters."""
    spans, reached = [], 0
    for match in _CLAUSE.finditer(sentence):
        spans.append((reached, match.start()))
        reached = match.end()
    return [(start, end) for start, end in [*spans, (reached, len(sentence))] if end - start > 3]


def _state(
    clause: str, times: list[TimeSpan], offset: int, at: datetime, who: str, other: str
) -> tuple[str, str, str, bool, bool, str] | None:
    """What a clause states: subject, relation, value, single, ends and the sentence told; None when it states nothing."""
    plain = _without_lead(expand(_without_times(clause, times, offset)))
    if not plain or _UNREAL.match(plain) or _ASKS.match(plain):
        return None
    told = _TAIL.sub("", _without_lead(expand(with_dates(clause, times, at, offset)))).strip(' ,.!"')
    match = _SUBJECT.match(plain)
    if match is None and _drops_subject(plain):
        plain, told = f"I {plain}", f"I {told[:1].lower()}{told[1:]}"
        match = _SUBJECT.match(plain)
    if match is None:
        lead = re.match(r"[^,|]{1,60},\s(?=(?:I|we|my|our)\b)", plain)
        match = _SUBJECT.match(plain, lead.end()) if lead else None
    if match is None:
        return None
    subject, attribute = _subject(match, who, other)
    if not subject:
        return None
    verb = _verb(plain[match.end() :], first_person=bool(match["first"]))
    if verb is None or verb.modal in ("might", "may", "could", "should", "must", "shall"):
        return None
    if match["he"]:
        told = re.sub(r"\b(?:he|she)\b", subject, told, count=1, flags=re.IGNORECASE)
    if who != "I":
        told = third_person_of(told, who)
    told = f"{told[:1].upper()}{told[1:]}."
    stated = _attribute(attribute, verb) if attribute else _relation(verb, bool(match["first"]))
    if stated is None:
        return None
    relation, value, single, ends = stated
    if who != "I":
        value = third_person_of(value, who)
    return subject, relation, value, single, ends, told


def _without_lead(clause: str) -> str:
    """A clause without greetings, fillers and names called out at its start."""
    clause = clause.strip(" ,.!|\"'-")
    while match := _LEAD.match(clause) or _VOCATIVE.match(clause):
        clause = clause[match.end() :].lstrip(" ,.!|\"'-")
    return clause


def _without_times(clause: str, times: list[TimeSpan], offset: int) -> str:
    """A clause with a mark in place of each expression of time and the preposition before it."""
    out, reached = "", 0
    for span in times:
        out = _BEFORE_TIME.sub("", out + clause[reached : span.start_char - offset]) + f" {_TIME_MARK} "
        reached = span.end_char - offset
    return out + clause[reached:]


def _drops_subject(plain: str) -> bool:
    """Whether a clause begins with a verb whose "I" was left out: "Went to the beach", "Just moved"."""
    match = _DROPPED_I.match(plain)
    word = re.match(r"[A-Za-z]+", plain[match.end() if match else 0 :])
    if word is None:
        return False
    lower = word[0].lower()
    return is_irregular_past(lower) or lower in _DROPPED_VERBS or plain.lower().startswith(("going to ", "have been "))


def _subject(match: re.Match[str], who: str, other: str) -> tuple[str, str]:
    """Whom a clause speaks of, and the attribute of theirs that is its grammatical subject, if any."""
    if match["first"]:
        return who, ""
    if match["he"]:
        return other, ""
    if match["name"]:
        words = match["name"].split()
        return ("", "") if words[0] in _NO_NAMES else (match["name"], "")
    own = "My" if who == "I" else f"{who}'" if who.endswith("s") else f"{who}'s"
    words = [fact_rules.SAME_WORD.get(word.lower(), word) for word in (match["owned"] or match["mine"]).split()[1:]]
    thing = " ".join(words).strip(" ,")
    if match["mine"] and _ATTRIBUTE.match(thing.lower()):
        return who, thing.lower()
    return f"{own} {thing}", ""


def _verb(predicate: str, first_person: bool) -> _Verb | None:
    """The verb at the start of a predicate; None where no verb stands."""
    words = list(re.finditer(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]", predicate[:200]))
    verb = _Verb("", "", "")
    surface: list[str] = []
    for number, match in enumerate(words):
        word = match[0].lower()
        following = [other[0].lower() for other in words[number + 1 : number + 5]]
        ahead = next((item for item in following if not is_adverb(item) and item != "not"), "")
        if word in ("not", "never", "hardly") or (word == "no" and following[:1] == ["longer"]):
            verb.negated |= word != "no"
            verb.ceased |= word == "no"
        elif (word == "longer" and verb.ceased) or is_adverb(word) or word == _TIME_MARK:
            continue
        elif not word[0].isalpha():
            return None
        elif word in MODALS:
            verb.modal, verb.negated = word.replace("cannot", "can"), verb.negated or word == "cannot"
        elif word == "used" and following[:1] == ["to"]:
            verb.ceased = True
        elif word == "to" and verb.ceased:
            continue
        elif word in ("am", "is", "are", "was", "were", "be", "been") and is_gerund(ahead):
            verb.doing, verb.past = True, verb.past or word in ("was", "were")
        elif word == "going" and verb.doing and following[:1] == ["to"] and len(following) > 1:
            verb.modal, verb.doing = "will", False
        elif word == "to" and verb.modal == "will" and not verb.base:
            continue
        elif word in ("have", "has", "had") and following[:1] == ["to"]:
            verb.modal, verb.past = "have to", word == "had"
        elif word == "to" and verb.modal == "have to":
            continue
        elif word in ("have", "has", "had") and (is_participle(ahead) and ahead != "put"):
            verb.perfect = word != "had"
            verb.past = word == "had"
        elif word in ("do", "does", "did") and ahead and (verb.negated or "not" in following[:1] or ahead in VERBS):
            verb.past |= word == "did"
        else:
            verb.base = base_of(word)
            verb.past |= is_past(word) and not (verb.modal or verb.doing or verb.perfect)
            if not (first_person or word in VERBS or verb.base in VERBS or is_past(word)):
                return None
            verb.rest = predicate[match.end() :].strip()
            surface.append(
                third_person(word)
                if not (verb.past or verb.perfect or verb.doing or verb.negated or verb.modal)
                else word
            )
            verb.surface = surface[-1]
            if _CEASED_TAIL.search(verb.rest) and verb.negated:
                verb.rest = _CEASED_TAIL.sub("", verb.rest)
                verb.ceased, verb.negated = True, False
            return verb
    return None


def _attribute(attribute: str, verb: _Verb) -> tuple[str, str, bool, bool] | None:
    """What "my phone number is ..." states."""
    if verb.base != "be" or verb.modal:
        return None
    relation = fact_rules.RELATION_OF_ATTRIBUTE.get(attribute, attribute)
    value = _value(verb.rest, single=relation != "address")
    if not value:
        return None
    if verb.negated:
        return f"{relation} is not", value, False, False
    return relation, value, not verb.past, verb.ceased


def _relation(verb: _Verb, first_person: bool) -> tuple[str, str, bool, bool] | None:
    """What a predicate states, by the first rule that matches, else by its own verb."""
    if verb.base in ("quit", "stop") or (verb.base == "give" and verb.rest.startswith("up ")):
        rest = verb.rest.removeprefix("up ")
        quits = re.match(r"([a-z]{3,20}ing)\b\s*", rest)
        if quits and is_gerund(quits[1]) and not verb.negated:
            inner = _Verb(base_of(quits[1]), third_person(base_of(quits[1])), rest[quits.end() :], ceased=True)
            return _relation(inner, first_person)
    predicate = f"{verb.base} {verb.rest}"
    if verb.modal in ("", "can", "would"):
        for relation, marks, pattern in _RULES:
            if not _tense_fits(verb, marks) or (verb.modal and verb.modal not in marks):
                continue
            match = pattern.match(predicate)
            if match is None:
                continue
            value = _value(match["x"], single="one" in marks) if "x" in pattern.groupindex else ""
            if not value and "x" in pattern.groupindex:
                continue
            if verb.negated:
                return fact_rules.NEGATED.get(relation) or _denied(relation), value, False, False
            ended = "ends" in marks or verb.ceased or ("state" in marks and verb.past)
            return relation, value, "one" in marks, ended
    return _by_verb(verb, first_person)


def _tense_fits(verb: _Verb, marks: frozenset[str]) -> bool:
    happened = verb.past or verb.perfect
    return (
        ("past" not in marks or happened)
        and ("now" not in marks or not verb.past or verb.ceased)
        and ("doing" not in marks or (verb.doing and not verb.past))
    )


def _by_verb(verb: _Verb, first_person: bool) -> tuple[str, str, bool, bool] | None:
    """The verb itself as the relation: "went to" and "a support group"; None for what tells nothing."""
    if verb.modal == "would" or (first_person and verb.base in fact_rules.SAYS_LITTLE):
        return None
    words = verb.rest.split()
    if (
        verb.base == "be"
        and words
        and words[0].lower().strip(",.!") in fact_rules.MOODS | {"so", "very", "really", "such"}
    ):
        return None
    particle = _PARTICLE.match(verb.rest)
    value = _value(verb.rest[particle.end() :] if particle else verb.rest, single=False)
    if not any(stem not in _SAYS_NOTHING for stem in stems(value)):
        return None
    if verb.modal in _TOLD_MODALS and not verb.ceased:
        told = _TOLD_MODALS[verb.modal]
        return _denied(told) if verb.negated else told, f"{verb.base} {_value(verb.rest, single=False)}", False, False
    if verb.ceased:
        relation = third_person(verb.base)
    elif verb.negated:
        relation = _denied(third_person(verb.base)) if not verb.past else f"did not {verb.base}"
    else:
        lead = "has " if verb.perfect else "was " if verb.doing and verb.past else "is " if verb.doing else ""
        relation = lead + verb.surface
    return f"{relation} {particle[1].lower()}" if particle else relation, value, False, verb.ceased


_TOLD_MODALS = {"will": "is going to", "have to": "has to", "can": "can"}
_PARTICLE = re.compile(
    r"((?:(?:up|out|off|down|back|away|over|along|together|on)\s)?(?:to|in|at|on|for|with|from|into|about|of|by|through|as|up|out|off"
    r"|down|back|over|around|after))\s",
    re.IGNORECASE,
)
_SAYS_NOTHING = frozenset(
    stems("thing things lot way time great good nice really chat talk one bit fun point hear know back")
)


def _denied(relation: str) -> str:
    """The relation that says the opposite: "lives in" to "does not live in", "is married to" to "is not married to"."""
    verb, _, rest = relation.partition(" ")
    if verb in ("is", "was", "can", "has") and rest:
        return f"{verb} not {rest}"
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
    while tail := _VALUE_TAIL.search(value):
        value = value[: tail.start()].rstrip(" ,")
    return value if re.search(r"\w", value) else ""


_OPPOSITE = {"likes": "dislikes", "dislikes": "likes"}
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
    if new.relation in (_denied(old.relation), _OPPOSITE.get(old.relation), f"{old.relation} is not"):
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
    words = " ".join(fact_rules.SAME_WORD.get(word, word) for word in re.findall(r"[\w'-]+", fact.value.lower()))
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


_NUMBER = re.compile(r"\s*(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|an?|no)\b", re.IGNORECASE)
