"""Clauses of conversation: who a clause speaks of, its verb, and the clause told so that it stands alone.

A text is cut into sentences and clauses. Questions, conditions and what is only wished or guessed are left out. Of each
other clause the subject is found ("I" is the speaker; "my sister", a name, "she" where it is clear who) and the group of
words that make the verb, read for tense and negation. Relative times are resolved by `timeline`.

Cost: linear in the text; 1,000 characters of a clause are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from recollect.store import fact_rules
from recollect.store.english import (
    IRREGULAR_PASTS,
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
from recollect.store.retelling import third_person_of, with_dates
from recollect.store.timeline import TimeSpan, find_times

MAX_CLAUSE_CHARS = 1_000
TIME_MARK = "|"  # stands in a predicate for an expression of time
NAME = r"[A-Z][\w'&.-]*(?:\s(?:(?:of|the|de|da|do|di|van|von|&)\s){0,2}[A-Z0-9][\w'&.-]*){0,5}"


@dataclass(slots=True)
class Verb:
    """The group of words that make the verb of a clause, and what follows it."""

    base: str = ""
    surface: str = ""  # as told: "went", "lives"
    rest: str = ""
    negated: bool = False
    ceased: bool = False  # no longer, used to
    modal: str = ""
    past: bool = False  # the simple past
    perfect: bool = False
    doing: bool = False


@dataclass(slots=True)
class Clause:
    """A clause that states something."""

    subject: str  # "Ana", "Ana's sister"
    attribute: str  # "favourite colour" in "my favourite colour is ..."
    first_person: bool
    verb: Verb
    told: str  # in the third person, dates resolved, with a capital and a full stop
    since: datetime | None  # the first time that it tells
    first: int  # characters of its sentence in the text
    last: int


_ATTRIBUTE = re.compile(
    r"(?:"
    + "|".join(sorted((item.strip() for item in fact_rules.ATTRIBUTES.split(",")), key=len, reverse=True))
    + r")$"
)
_KIN = "|".join(sorted(fact_rules.KIN.split(), key=len, reverse=True))
_LEAD = re.compile(
    r"(?:(?:by the way|btw|as i (?:said|mentioned)(?: before| earlier)?|like i said|to be honest|in fact|of course|guess what"
    r"|you know(?: what)?|no worries|thank you|thanks|good (?:morning|news|question|point)"
    r"|hey|hi|hello|oh|ooh|wow|whoa|well|yeah|yes|nope|no|yep|yup|sure"
    r"|ok|okay|haha|lol|actually|anyway|also|honestly|so|and|but|then|or|fyi|um|uh|ah|aw|absolutely|definitely|exactly|nice"
    r"|cool|great|awesome|sounds good|unfortunately|luckily|fortunately|plus|because|although|though|while|my news"
    r"|(?:since|after|now that)(?= (?:i|we|my)\b)"
    r"|i (?:just )?(?:think|believe|guess|mean|must say|have to say|would say|know|remember|realized|found out)(?: that)?"
    r"(?= (?:i|my|we|our|he|she)\b)"
    r"|(?:in|to) my (?:opinion|mind))(?![\w'])[\s,.!:-]{0,4})",
    re.IGNORECASE,
)
_VOCATIVE = re.compile(r"[A-Z][a-z]{1,20}[,!]\s{1,3}(?=(?:I|[Mm]y|[Ww]e|[Oo]ur|it|the|this)\b)")
_TAIL = re.compile(
    r"[\s,]+(?:by the way|btw|you know|as i (?:said|mentioned)(?: before| earlier)?|like i said|lol|haha|though|too|as well|now"
    r"|these days|right now|at the moment|currently|again|anyway|thanks|please|so far)[\s.!]*$",
    re.IGNORECASE,
)
_PERSON = r"(?:I|we|me and|he|she|they|my|our|his|her|you|it|there|that|this)"
_AND_DID = "|".join(sorted({*fact_rules.DROPPED_VERBS, *IRREGULAR_PASTS}))
_CLAUSE = re.compile(
    rf"\s*(?:[;:](?=\s)|\.\.\.|\s--?\s|\s?[\u2013\u2014]\s?)\s*"
    rf"|,?\s(?:and|but|so|because|although|though|cause|whereas)\s(?={_PERSON}\b)"
    rf"|,\s(?=(?:(?:and|but|so|then|now)\s)?{_PERSON}\b)"
    rf"|,?\s(?P<same>and|but)\s(?=(?:then\s|also\s|just\s|recently\s)?(?:{_AND_DID})\s)",
    re.IGNORECASE,
)
_DASH = re.compile(r"\s--?\s|[;\u2013\u2014]")
_IF = re.compile(r"\s*(?:(?:and|but|so)\s)?(?:if|unless|in case|suppose)\b", re.IGNORECASE)
_ADVERBIAL = re.compile(  # "Last May", "On Friday" before ", I moved"
    r"\s*(?:(?:oh|well|so|and|but|then)\W{1,3})?(?:on|in|at|last|next|this|yesterday|today|tomorrow|tonight|after|before|during|since"
    r"|over|recently|earlier|a|an|two|three|\d+|back|one|the (?:day|week|month|year|other))\b(?:(?!\b(?:I|we|my)\b)[^,]){0,50}$",
    re.IGNORECASE,
)
_CALLED_LAST = re.compile(r"(?<=[a-z]), [A-Z][a-z]{1,20}[\s.!]*$")
_UNREAL = re.compile(
    r"(?:if|unless|whether|we all|imagine|suppose|maybe|perhaps|what if|in case|even if|i wish|wish|i hope|hope|hopefully|let's|let us"
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
    rf"|(?P<owned>(?:[Mm]y|[Oo]ur|[A-Z][a-z]+'s)\s(?:[\w-]+\s){{0,3}}?(?:{_KIN})\b(?P<called>,?\s[A-Z][a-z]+\b,?)?(?:'s\s[\w-]+)?)(?=\s)"
    r"|(?P<mine>(?:[Mm]y|[Oo]ur)\s(?:[\w-]+\s?){1,4}?)(?=\s(?:is|are|was|were|has|had|\w{2,20}ed)\b)"
    r"|(?P<he>[Hh]e|[Ss]he)\b"
    rf"|(?P<name>{NAME})(?=\s)"
)
_DROPPED_I = re.compile(r"(?:just|recently|finally|also|even|already|then)\s", re.IGNORECASE)
_BEFORE_TIME = re.compile(
    r"\b(?:in|on|at|since|during|over|around|about|by|for|from|until|before|after|of)\s{1,3}(?:the\s)?$", re.IGNORECASE
)


def clauses(text: str, who: str, at: datetime) -> Iterator[Clause]:
    """The clauses of `text`, said by `who` ("I" when nobody is named) at `at`, that state something, in order."""
    spans = find_times(text, at)
    other = ""  # whom "he" or "she" means
    for first, last in sentences(text):
        sentence = text[first:last]
        if sentence.rstrip("\"' )").endswith("?"):  # "I moved - do you like it?" states something before it asks
            sentence = sentence[: max((match.start() for match in _DASH.finditer(sentence)), default=0)]
        phrase = ""  # the subject of the clause before, as it was said
        times = [span for span in spans if first <= span.start_char < last] if spans else []
        for start, end, same in _pieces(sentence):
            inside = [span for span in times if first + start <= span.start_char and span.end_char <= first + end]
            said = _Said(sentence[start:end], inside, first + start, at, phrase if same else "")
            phrase = ""
            read = _read(said, who, other)
            if read is None:
                continue
            phrase, subject, attribute, is_first, verb, told = read
            if subject != who and not (subject.endswith("s") and "'s " not in subject):
                other = subject
            yield Clause(subject, attribute, is_first, verb, told, inside[0].start if inside else None, first, last)


def _pieces(sentence: str) -> list[tuple[int, int, bool]]:
    """Where the clauses of a sentence stand, as (first, last, whether the subject is that of the clause before).

    A sentence with a condition has none.
    """
    spans, reached, same = [], 0, False
    conditional = False
    for match in _CLAUSE.finditer(sentence):
        before = sentence[reached : match.start()]
        if _IF.match(before):
            conditional = True
        elif _ADVERBIAL.match(before) and match[0].startswith(","):
            continue
        spans.append((reached, match.start(), same))
        reached, same = match.end(), bool(match["same"])
    spans.append((reached, len(sentence), same))
    if conditional:
        return []
    return [(start, min(end, start + MAX_CLAUSE_CHARS), same) for start, end, same in spans if end - start > 3]


@dataclass(slots=True)
class _Said:
    """A piece of a sentence, the times in it, and the subject to put before it, if any."""

    text: str
    times: list[TimeSpan]
    offset: int
    at: datetime
    subject: str


def _read(said: _Said, who: str, other: str) -> tuple[str, str, str, bool, Verb, str] | None:
    """The subject as said and as meant, attribute, whether it is the speaker, verb and telling; None for no statement."""
    plain = _TAIL.sub("", _without_lead(expand(_without_times(said.text, said.times, said.offset))))
    if not plain or _UNREAL.match(plain) or _ASKS.match(plain):
        return None
    told = _without_lead(expand(with_dates(said.text, said.times, said.at, said.offset)))
    told = _CALLED_LAST.sub("", _TAIL.sub("", told).strip(' ,.!"'))
    plain = _CALLED_LAST.sub("", plain)
    dropped = said.subject or _dropped_subject(plain)
    if dropped:
        plain, told = f"{dropped} {_lowered(plain)}", f"{dropped} {_lowered(told)}"
    match = _SUBJECT.match(plain)
    if match is None:
        lead = re.match(r"[^,|]{1,60},\s(?=(?:I|we|my|our)\b)", plain)
        match = _SUBJECT.match(plain, lead.end()) if lead else None
    if match is None:
        return None
    subject, attribute = _subject(match, who, other)
    if not subject:
        return None
    verb = _verb(
        plain[match.end() :], bool(match["first"]), plural=bool(match["owned"] and match["owned"].endswith("s"))
    )
    if verb is None or verb.modal in ("might", "may", "could", "should", "must", "shall"):
        return None
    if match["he"]:
        told = re.sub(r"\b(?:he|she)\b", subject, told, count=1, flags=re.IGNORECASE)
    if who != "I":
        told = third_person_of(told, who)
    phrase = match[0].strip(" ,")
    return phrase, subject, attribute, bool(match["first"]), verb, f"{told[:1].upper()}{told[1:]}."


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


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
        out = _BEFORE_TIME.sub("", out + clause[reached : span.start_char - offset]) + f" {TIME_MARK} "
        reached = span.end_char - offset
    return out + clause[reached:]


def _dropped_subject(plain: str) -> str:
    """What was left out before a verb at the start of a clause: "Went to the beach", "Just moved", "Going to move"."""
    if re.match(r"(?:going to|looking forward)\s", plain, re.IGNORECASE):
        return "I am"
    match = _DROPPED_I.match(plain)
    word = re.match(r"[A-Za-z]+(?=\s)", plain[match.end() if match else 0 :])
    lower = word[0].lower() if word else ""
    known = is_irregular_past(lower) or lower in fact_rules.DROPPED_VERBS or (match is not None and is_past(lower))
    if lower == "been":
        return "I have"
    if lower in ("was", "were", "did"):  # more often "it was", "did you"
        return ""
    return "I" if known else ""


def _subject(match: re.Match[str], who: str, other: str) -> tuple[str, str]:
    """Whom a clause speaks of, and the attribute of theirs that is its grammatical subject, if any."""
    if match["first"]:
        return who, ""
    if match["he"]:
        return other, ""
    if match["name"]:
        words = match["name"].split()
        bad = (
            words[0] in fact_rules.NO_NAMES
            or words[-1].endswith(("'s", "'", "'ve", "'d", "'re", "'ll"))
            or is_adverb(words[0].lower())
        )
        return ("", "") if bad or is_gerund(words[0].lower()) else (match["name"], "")
    owner = (match["owned"] or "").split("'")[0]
    if match["owned"] and owner != match["owned"] and owner[:1].isupper() and " " not in owner:
        who = owner
    own = "My" if who == "I" else f"{who}'" if who.endswith("s") else f"{who}'s"
    words = [fact_rules.SAME_WORD.get(word.lower(), word) for word in (match["owned"] or match["mine"]).split()[1:]]
    thing = " ".join(words).strip(" ,")
    if match["mine"] and _ATTRIBUTE.match(thing.lower()):
        return who, thing.lower()
    return f"{own} {thing}", ""


def _verb(predicate: str, first_person: bool, plural: bool) -> Verb | None:
    """The verb at the start of a predicate; None where no verb stands."""
    words = list(re.finditer(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]", predicate[:200]))
    verb = Verb()
    for number, match in enumerate(words):
        word = match[0].lower()
        following = [other[0].lower() for other in words[number + 1 : number + 5]]
        ahead = next((item for item in following if not is_adverb(item) and item != "not"), "")
        if word in ("not", "never", "hardly") or (word == "no" and following[:1] == ["longer"]):
            verb.negated |= word != "no"
            verb.ceased |= word == "no"
        elif (word == "longer" and verb.ceased) or is_adverb(word) or word == TIME_MARK:
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
            helped = verb.perfect or verb.doing or verb.modal or verb.negated or verb.ceased
            inflected = word != verb.base and (verb.base in VERBS or is_past(word)) and not is_gerund(word)
            if not (first_person or helped or inflected or (plural and verb.base in VERBS)):
                return None
            verb.rest = predicate[match.end() :].strip()
            plain_form = not (verb.past or verb.perfect or verb.doing or verb.negated or verb.modal)
            verb.surface = third_person(word) if first_person and (plain_form or word == "were") else word
            if _CEASED_TAIL.search(verb.rest) and verb.negated:
                verb.rest = _CEASED_TAIL.sub("", verb.rest)
                verb.ceased, verb.negated = True, False
            return verb
    return None
