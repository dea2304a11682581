"""The rules of `facts`: which predicates state which relation.

One rule a line: relation | marks | pattern. A pattern is matched at the start of a predicate whose verb is in its base
form ("live in Porto" for "lives", "living", "lived"); {x} is the value, {name} one that begins with a capital, {place} a
name or a dwelling, {job} an occupation, {post} a job's name in general, {my} whose it is, {away} a direction. Marks:
one: a newer value ends the older one. many: values stand side by side. ends: it ceased to hold.
past: only of what has happened. now: not in the simple past. doing: only in the progressive ("is reading"). plain: never in it.
also: beside another rule. state: in the simple past it holds no longer ("lived in"). would, can: also after that word.
Where several rules match, the first counts. A rule without a value says the relation holds with nobody named.
"""

from __future__ import annotations

RULES = r"""
lives in         | one ends      | (?:move|get) (?:out of|away from|out from) {x}
lives in         | one past      | (?:move|relocate){away}(?: from {w})?(?: back)?(?: to| into) {place}
lives in         | one past      | settle(?: down)?(?: in| into) {place}
lives in         | one ends past | move (?:here )?(?:out )?from {x}
lives in         | one state     | (?:live|reside|stay permanently)(?: over| out| up| down)? (?:in|at|near|on) {x}
lives in         | one state     | be (?:based|living|located) in {x}
works at         | one ends      | (?:quit|leave|lose|resign from|be (?:fired|laid off|let go) from){my}{post} (?:at|with|for|in) {x}
works at         | one ends      | be (?:fired|laid off|let go) (?:from|by) {x}
works at         | one past      | (?:start|begin|get|land|find|accept|take){my}{post} (?:at|with|for) {x}
works at         | one past      | (?:start|begin)(?: to work| working| work)? (?:at|for) {name}
works at         | one past      | join {name}(?: as\b.*)?
works at         | one past      | be hired (?:by|at) {x}
works at         | one state     | (?:work|be employed|be working) (?:at|for|by) {x}
left             | many ends     | (?:quit|leave|resign from) {name}
works as         | one state     | (?:work|start|start working|be (?:hired|employed)|serve)(?: (?:at|for) {w})? as (?:an? |the )?{job}
works as         | one past      | be promoted to (?:an? |the )?{job}
works as         | one past      | become (?:an?|the) {job}
works as         | one state     | be(?: now)? (?:an?|the) {job}
works at         | one state also | be (?:an?|the) {job0} (?:at|for) {name}
works at         | one state also | (?:work|start|be hired) as (?:an?|the) {job0} (?:at|for|with) {name}
is aged          | one           | (?:be|turn)(?: now)? (?P<x>\d{1,3})(?: years? old| yrs? old| now| already)?(?=$|\W*[|,]| and | today)
is named         | one           | (?:be (?:called|named)|go by) {x}
is married to    | one ends      | (?:divorce|separate from|be divorced from) {x}
is married to    | one state     | be married to {x}
is married to    | one past      | (?:marry|get married to) {x}
is engaged to    | one           | (?:be|get) engaged to {x}
is together with | one ends      | (?:break|split) up with {x}
is together with | one ends      | (?:break|split) up
is together with | one state     | (?:date|go out with|be dating|be in a relationship with|be together with) {name}
marital status   | one           | (?:be|get)(?: now| newly| happily| a)? (?P<x>single|married|engaged|divorced|widowed|separated)
likes            | many now      | (?:like|love|enjoy|adore) {x}
likes            | many now      | be(?: really| so| very)? (?:into|fond of|crazy about|passionate about|keen on) {x}
likes            | many          | be (?:a|an)(?: big| huge| total| great| massive)? (?:fan|lover|admirer) of {x}
dislikes         | many now      | (?:dislike|hate|detest|loathe) {x}
prefers          | many          | prefer {x}
is allergic to   | many          | be(?: very| highly| severely)? (?:allergic|intolerant) to {x}
is allergic to   | many          | have (?:an? )?(?:severe |bad |mild )?allergy to {x}
diet             | one           | (?:be|become|go|turn)(?: an?)?(?: strict)? (?P<x>vegan|vegetarian|pescatarian|pescetarian|omnivore)
was born in      | one           | be born in {x}
was born on      | one           | be born on {x}
was born         | one           | be born
is from          | one           | (?:be|come)(?: originally)? from {name}
grew up in       | one           | (?:grow up|be raised) (?:in|on) {x}
studies at       | one state     | (?:study|be enrolled|be a student) at {x}
studies          | one state     | (?:study|major in|be majoring in) {x}
graduated from   | many past     | graduate from {x}
speaks           | many can      | speak(?: some| a little| a bit of)? {name}
is working on    | one doing     | work on {x}
is training for  | one doing     | train for {x}
is reading       | one doing     | read {x}
is watching      | one doing     | watch {x}
is learning      | many doing    | learn(?: about| how)? {x}
plays            | many now      | play {x}
drives           | one now       | drive (?P<x>(?:an?|my|the) .+)
has              | many          | (?:adopt|rescue) (?P<x>(?:an?|two|three|another|\d+) .+)
has              | many          | (?:get|buy) (?P<x>(?:an?|two|another|\d+)(?: \w+)? (?:dog|cat|puppy|kitten|pet|car|house)s?\b.*)
has              | many now plain | (?:have|own|have got) {x}
wants            | many would    | (?:want|would like|would love) (?!to\b){x}
wants to         | many would    | (?:want|like|love|dream of|wish|long) to {x}
plans to         | many          | (?:plan (?:on|to)|intend to|aim to|decide to) {x}
needs to         | many          | need to {x}
needs            | many          | need {x}
"""

# What somebody's own "my ... is" tells of them; a newer value ends the older one.
ATTRIBUTES = r"""
    name, full name, age, phone number, phone, mobile number, mobile, cell number, cell, number, email, email address,
    e-mail, address, home address, birthday, date of birth, job, job title, occupation, profession, role, nickname,
    hometown, height, weight, salary, budget, goal, main goal, dream, dream job, hobby, blood type, shoe size, major,
    religion, native language, mother tongue, first language, nationality, username, time zone, timezone, diet,
    current project, zodiac sign, star sign, pronouns, plan, deadline, commute, favourite .+
"""
RELATION_OF_ATTRIBUTE = {
    "name": "is named",
    "full name": "is named",
    "age": "is aged",
    "job": "works as",
    "job title": "works as",
    "occupation": "works as",
    "profession": "works as",
    "phone": "phone number",
    "mobile": "phone number",
    "mobile number": "phone number",
    "cell": "phone number",
    "cell number": "phone number",
    "number": "phone number",
    "e-mail": "email",
    "email address": "email",
    "home address": "address",
    "date of birth": "birthday",
    "timezone": "time zone",
    "mother tongue": "native language",
    "first language": "native language",
    "star sign": "zodiac sign",
}
TOLD_MODALS = {"will": "is going to", "have to": "has to"}
# Turns in a life, told even without an object.
TURNS = frozenset(
    "move relocate retire graduate divorce marry propose elope emigrate immigrate quit resign injure".split()
)
NEGATED = {"likes": "dislikes", "dislikes": "likes", "has": "does not have", "plays": "does not play"}

JOBS = """
    accountant actor actress analyst architect artist assistant attorney author baker banker barber barista bartender
    biologist builder bus-driver butcher carer carpenter cashier chef chemist cleaner clerk coach composer consultant
    contractor cook counselor counsellor dancer dentist designer developer dietitian director doctor driver economist
    editor electrician engineer farmer firefighter fisherman florist freelancer gardener geologist guide hairdresser
    historian housekeeper illustrator intern interpreter janitor journalist judge lawyer lecturer librarian lifeguard
    manager marketer mathematician mechanic midwife miner model musician nanny nurse nutritionist optician painter
    paralegal paramedic pediatrician pharmacist photographer physician physicist physiotherapist pilot plumber poet
    policeman producer professor programmer psychiatrist psychologist realtor receptionist recruiter reporter researcher
    sailor salesman salesperson scientist sculptor secretary singer soldier statistician student supervisor surgeon
    surveyor tailor teacher technician therapist trader trainer translator truck-driver tutor vet veterinarian
    videographer waiter waitress welder writer ceo cto cfo founder entrepreneur partner officer agent
"""
KIN = """
    mother mom mum mommy mama father dad daddy papa parents sister brother sibling siblings son daughter child children
    kid kids baby wife husband spouse partner girlfriend boyfriend fiance fiancee grandma grandpa grandmother grandfather
    granny grandparents aunt uncle cousin niece nephew friend friends buddy roommate flatmate neighbor neighbour boss
    manager colleague coworker co-worker teammate coach teacher mentor family stepmother stepfather mother-in-law
    father-in-law sister-in-law brother-in-law dog cat puppy kitten pup pet turtle rabbit hamster parrot horse
"""
SAME_WORD: dict[str, str] = {
    "mom": "mother", "mum": "mother", "mommy": "mother", "mama": "mother", "dad": "father", "daddy": "father",
    "papa": "father", "neighbour": "neighbor", "coworker": "colleague", "co-worker": "colleague", "kids": "children",
    "kid": "child", "grandma": "grandmother", "granny": "grandmother", "grandpa": "grandfather",
    "favorite": "favourite", "fav": "favourite", "color": "colour", "apartment": "flat",
}  # fmt: skip

# Verbs whose statements in the first person tell how somebody talks, not what is so.
SAYS_LITTLE = frozenset(
    """think guess hope wish wonder mean know agree understand bet suppose believe appreciate thank imagine promise see
    hear feel sound seem say tell ask admit doubt swear remember assume suggest recommend let figure""".split()
)
MOODS = frozenset(
    """glad happy sorry sure excited thrilled proud grateful thankful tired good great fine ok okay well afraid curious
    impressed stoked pumped jealous honored amazed surprised here there back ready done able lucky touched sad pleased
    blessed stressed busy swamped nervous delighted confident positive interested down up so very really such awesome amazing cool
    nice wonderful fantastic incredible important easy hard tough fun special right true worth crazy wild super gonna all
    always also inspiring rewarding exciting fascinating beautiful lovely powerful""".split()
)

# Values that only point at something said before.
POINTERS = frozenset("it that this them him her you one those these there here so such some any ever".split())

# Verbs that begin a sentence whose "I" was left out, beside the pasts of irregular ones.
DROPPED_VERBS = frozenset(
    """moved started joined visited finished bought adopted tried booked signed learned watched baked cooked hiked painted
    attended quit been""".split()
)
# Words with a capital at the start of a sentence that are no names.
NO_NAMES = frozenset(
    """I It This That There These Those You What How When Where Why Who The A An If So And But Or Yes No Oh Wow Hey Hi Well
    Thanks Thank Sure Maybe He She They We My Our Your His Her Its Here Not Just Sounds Looks Seems Glad Can Do Did Is Are
    Congrats Congratulations Good Great Nice Cool Awesome Let Please Sorry Have Has Keep Take Make In On At For To With From
    By As After Before Since While Although Though Because Every Everyone Everything Some Someone All Being Having Getting
    Nothing Something Anything One Both Each Most Many Gonna Any Another Still Also Always Never Sometimes""".split()
)
