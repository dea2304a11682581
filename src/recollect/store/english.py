"""English as the built-in analyst reads it: sentences with their places, contractions, forms of verbs, little words.

Everything here is a table or a rule of a line or two; what no table knows is treated as a regular verb or left alone,
so that text in other languages passes through unchanged.
"""

from __future__ import annotations

import re
from functools import lru_cache

from recollect.store.evidence import sentences_of

MAX_CHARS = 20_000  # read of one text

# base, past, participle; the past alone where both are the same
_IRREGULAR = """
    arise arose arisen, awake awoke awoken, be was been, bear bore born, beat beat beaten, become became become,
    begin began begun, bend bent, bet bet, bind bound, bite bit bitten, bleed bled, blow blew blown, break broke broken,
    breed bred, bring brought, build built, burn burnt, burst burst, buy bought, catch caught, choose chose chosen,
    cling clung, come came come, cost cost, creep crept, cut cut, deal dealt, dig dug, do did done, draw drew drawn,
    dream dreamt, drink drank drunk, drive drove driven, eat ate eaten, fall fell fallen, feed fed, feel felt,
    fight fought, find found, flee fled, fly flew flown, forget forgot forgotten, forgive forgave forgiven,
    freeze froze frozen, get got gotten, give gave given, go went gone, grow grew grown, hang hung, have had,
    hear heard, hide hid hidden, hit hit, hold held, hurt hurt, keep kept, kneel knelt, know knew known, lay laid,
    lead led, lean leant, leap leapt, learn learnt, leave left, lend lent, let let, lie lay lain, light lit, lose lost,
    make made, mean meant, meet met, overcome overcame overcome, pay paid, put put, quit quit, read read,
    ride rode ridden, ring rang rung, rise rose risen, run ran run, say said, see saw seen, seek sought, sell sold,
    send sent, set set, sew sewed sewn, shake shook shaken, shine shone, shoot shot, show showed shown, shrink shrank
    shrunk, shut shut, sing sang sung, sink sank sunk, sit sat, sleep slept, slide slid, speak spoke spoken,
    spend spent, spill spilt, spin spun, split split, spread spread, spring sprang sprung, stand stood,
    steal stole stolen, stick stuck, sting stung, strike struck, swear swore sworn, sweep swept, swim swam swum,
    swing swung, take took taken, teach taught, tear tore torn, tell told, think thought, throw threw thrown,
    understand understood, undergo underwent undergone, upset upset, wake woke woken, wear wore worn,
    weave wove woven, win won, wind wound, withdraw withdrew withdrawn, write wrote written
"""
_BASE: dict[str, str] = {
    "am": "be", "is": "be", "are": "be", "were": "be", "being": "be", "has": "have", "having": "have", "does": "do",
    "doing": "do", "goes": "go", "going": "go", "dying": "die", "lying": "lie", "died": "die", "tied": "tie",
    "lied": "lie", "said": "say",
}  # fmt: skip
_PASTS: set[str] = {"were"}
_PARTICIPLES: set[str] = set()
for _forms in _IRREGULAR.replace("\n", " ").split(","):
    _base, _past, *_participle = _forms.split()
    _BASE.setdefault(_past, _base)
    _PASTS.add(_past)
    for _form in _participle or [_past]:
        _BASE.setdefault(_form, _base)
        _PARTICIPLES.add(_form)
BASES = frozenset(_BASE.values())
IRREGULAR_PASTS = frozenset(_PASTS - BASES)
_ENDS_IN_ED = frozenset("need feed speed breed bleed succeed proceed exceed shed wed seed weed embed bed red".split())
_NO_GERUND = frozenset(
    """thing something anything nothing everything morning evening king ring spring string wing during sibling ceiling
    wedding building darling pudding interesting amazing exciting boring charming stunning willing bring sing swing fling
    cling sting outstanding challenging inspiring rewarding relaxing missing""".split()
)
_KEEPS_E = re.compile(
    r"(?:[^aeiou]at|ut|[iu]at|[vcuz]|[aiou]s|[rn]s|[ck]l|[bdfgptz]l|dg|rg|ng|[aio]r|u[lmnt]|[^aeo]id|ad|ok|ak|ik|ag|chang|creat|[ai][kmnp]|[^e]et|[io][pt])$"
)
_LOSES_E = re.compile(
    r"(?:visit|edit|limit|invit|focus|offer|bring|rain|train|join|explain|gain|clean|paint|load|read|book|look|cook|walk|talk|work|park|ask|pack|check|pick|kick|thank|drink|think|listen|open|happen|develop|suffer|order|fear|hear|appear|wear|clear|repair|ski|cancel|travel|plan|stop|chat|adopt|start|help|accept|attempt|act|add|end)$"
)

# Verbs that are seldom nouns in their form with -s, so that one of them ends the subject of a sentence.
VERBS = frozenset(
    """be have do go live work like love enjoy hate want need own play study teach run make take get give keep know think
    say tell speak write read sing eat drink drive ride sleep wake wear buy sell build cook bake grow help hope plan prefer
    seem look feel become begin start stop move stay travel visit collect run manage lead own use learn practice paint
    draw dance swim hike volunteer believe remember remind mean contain include offer serve provide represent
    describe follow consist belong lie stand stretch star feature hold bring come leave meet send suffer miss attend
    join celebrate spend save earn pay cost require allow depend smoke train coach adore dislike""".split()
)
NEGATIONS = frozenset("not never no nobody nothing none neither nor without cannot nowhere hardly".split())
MODALS = frozenset("will would can could may might must shall should cannot".split())
ADVERBS = frozenset(
    """all each last also just still always often usually sometimes even now once only already both either ever never soon then
    recently finally actually really currently presently lately definitely absolutely totally basically kind of sort
    of pretty quite so very too almost nearly mostly mainly generally normally typically occasionally rarely seldom
    again though however therefore thus maybe perhaps probably certainly surely truly deeply simply first long since
    officially initially originally eventually ultimately later newly formerly previously widely largely primarily
    partly fully""".split()
) - {"of", "kind", "sort", "so", "long", "first", "since"}
_ADVERB_ENDING = re.compile(r"[a-z]{3,20}ly$")
_NOT_ADVERBS = frozenset("family only reply apply supply rely fly italy july fully belly bully jelly ally lily".split())

_CONTRACTIONS = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"\bwon't\b", "will not"),
        (r"\bcan't\b|\bcant\b", "cannot"),
        (r"\bshan't\b", "shall not"),
        (r"\bain't\b", "is not"),
        (r"\b(do|does|did|is|are|was|were|has|have|had|would|could|should|must|need)n'?t\b", r"\1 not"),
        (r"\b(I)'?m\b", r"\1 am"),
        (r"\b(I|you|we|they|who|there|would|could|should|might)'ve\b", r"\1 have"),
        (r"\bive\b", "I have"),
        (r"\b(you|we|they|who|there|what)'re\b", r"\1 are"),
        (r"\b(I|you|we|they|he|she|it|that|there|who|this)'ll\b", r"\1 will"),
        (r"\b(I|you|we|they|he|she|it|that|there|who)'d(?= (?:better|been|had|never|already|just)\b)", r"\1 had"),
        (r"\b(I|you|we|they|he|she|it|that|there|who)'d\b", r"\1 would"),
        (r"\b(he|she|it|that|there|here|what|who|where|how|this)'s(?= (?:been|got|gone|had|become|\w{3,20}ed)\b)", r"\1 has"),
        (r"\b(he|she|it|that|there|here|what|who|where|how|this)'s\b", r"\1 is"),
        (r"\b((?:my|our) (?:name|age|job|email|birthday|mom|mum|dad|sister|brother|wife|husband|son|daughter|partner"
         r"|friend|boss|dog|cat))'s(?= (?:a|an|the|in|at|on|from|called|named|not|now|[A-Z]\w+ *[.!,]|\d)|\s[A-Z]\w+$)", r"\1 is"),
        (r"\b(have|has) got(?= (?!to\b|used\b|better\b))", r"\1"),
        (r"\b(?:have|has) got to\b", "have to"),
        (r"\bgonna\b", "going to"),
        (r"\bwanna\b", "want to"),
        (r"\b(?:have |has )?gotta\b", "have to"),
        (r"\b(\w{2,20}in)'(?= )", r"\1g"),
    )
]  # fmt: skip
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Prof|Gen|Col|Lt|Sgt|Rev|Capt|Gov|Sen|Rep|vs|No|Mt|Ft|c|ca)|(?<![\w'])[A-HJ-Z]|\b[A-Z]\.[A-Z])\.$"
)
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def sentences(text: str) -> list[tuple[int, int]]:
    """Where the sentences of a text stand, as (first, last) characters; "Dr." and initials end none."""
    spans: list[tuple[int, int]] = []
    reached = 0
    for piece in sentences_of(text[:MAX_CHARS]):
        first = text.index(piece, reached)
        reached = first + len(piece)
        if spans:
            before, joint = text[spans[-1][0] : spans[-1][1]], text[spans[-1][1] : first]
            goes_on = piece[:1].islower() and before.endswith(".") and not before.endswith("..")
            if "\n" not in joint and (_ABBREVIATION.search(before[-12:]) or (goes_on and len(before.split()) > 2)):
                spans[-1] = (spans[-1][0], reached)
                continue
        spans.append((first, reached))
    return spans


def words_of(text: str) -> list[str]:
    """The words of a text as they are written, apostrophes and hyphens inside them kept."""
    return _WORD.findall(text)


def expand(text: str) -> str:
    """Contractions written out: "I'm" to "I am", "don't" to "do not", "gonna" to "going to"; straight apostrophes."""
    text = text.replace("\u2019", "'").replace("\u2018", "'")
    if "'" not in text and not _SLANG.search(text):
        return text
    for pattern, replacement in _CONTRACTIONS:
        text = pattern.sub(replacement, text)
    return text


_SLANG = re.compile(
    r"\b(?:im|ive|dont|didnt|doesnt|cant|gonna|wanna|gotta|isnt|wasnt|has got|have got)\b", re.IGNORECASE
)


@lru_cache(maxsize=1 << 14)
def base_of(word: str) -> str:
    """The base form of a verb in lower case: "moved" to "move", "lives" to "live", "bought" to "buy"."""
    if word in _BASE:
        return _BASE[word]
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    stem = ""
    if word.endswith("ed") and len(word) > 3 and word not in _ENDS_IN_ED:
        stem = word[:-2]
    elif word.endswith("ing") and len(word) > 4 and word not in _NO_GERUND:
        stem = word[:-3]
    if not re.search(r"[aeiouy]", stem):
        return word
    if stem in BASES or _LOSES_E.search(stem):
        return stem
    if len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] not in "lsz":
        return stem[:-1]
    return stem + "e" if stem + "e" in BASES or _KEEPS_E.search(stem) else stem


def is_past(word: str) -> bool:
    """Whether a lower-case word has the form of a verb's past or participle."""
    if word in _PASTS or word in _PARTICIPLES:
        return True
    return len(word) > 3 and word.endswith("ed") and word not in _ENDS_IN_ED


def is_participle(word: str) -> bool:
    """Whether a lower-case word can follow "have": "been", "moved", "bought"."""
    return word in _PARTICIPLES or (len(word) > 3 and word.endswith("ed") and word not in _ENDS_IN_ED)


def is_irregular_past(word: str) -> bool:
    """Whether a lower-case word is the past of an irregular verb and no base form: "went", not "put"."""
    return word in IRREGULAR_PASTS


def is_gerund(word: str) -> bool:
    """Whether a lower-case word is a verb's form in -ing."""
    return len(word) > 4 and word.endswith("ing") and word not in _NO_GERUND


def is_adverb(word: str) -> bool:
    """Whether a lower-case word may stand between a subject and its verb."""
    return word in ADVERBS or (word not in _NOT_ADVERBS and bool(_ADVERB_ENDING.match(word)))


def third_person(word: str) -> str:
    """A verb after "I" as it stands after a name: "have" to "has", "try" to "tries"; pasts and modals unchanged."""
    lower = word.lower()
    if lower in ("am", "are", "be"):
        return "is"
    if lower == "were":
        return "was"
    if lower in ("have", "do", "go"):
        return {"have": "has", "do": "does", "go": "goes"}[lower]
    if lower in MODALS or lower in ("is", "has", "does", "was", "not") or is_past(lower) or lower.endswith("ing"):
        return word
    if re.search(r"[^aeiou]y$", lower):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(?:s|sh|ch|x|z|[^aeiou]o)$", lower) else "s")
