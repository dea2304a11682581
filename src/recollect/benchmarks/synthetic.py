"""Made-up histories in LongMemEval's schema: months of chats with an assistant, and one question about each.

A user mentions facts in passing while asking for something else; around these evidence sessions lie sessions of plain
talk, some of which mention the user's other facts or those of other people. A question shares at most one content word
with any statement that answers it, so matching words is not enough. Kinds of questions, in turn:
    single-session-user   one fact, said once
    multi-session         a count over two to five sessions
    knowledge-update      a fact that changed; the newest value counts
    temporal-reasoning    the days between two events
    unanswerable          a fact that was never told, though somebody else's was ("_abs" in the question's id)

All text here was written for this package. Everything follows from the seed.
Cost: a history of the default size has about 42 sessions, 250 turns and 16,000 characters; a thousand take 3 s.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

KINDS = ("single", "count", "update", "temporal", "unanswerable")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something about a user that has one value at a time; {v} stands for the value."""

    question: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    other: str  # the same about somebody else


FACTS = (
    Fact(
        "What is my dog called?",
        ("Biscuit", "Otto", "Pickle", "Juno", "Waffles", "Bruno", "Nala", "Tofu", "Marzipan", "Rufus"),
        (
            "Sorry for the slow reply, {v} carried a muddy stick through the whole kitchen again.",
            "I have to be back by six because {v} needs the evening round, no dog minds rain less.",
            "The vet says {v} should lose two kilos, so no more cheese rinds for that retriever of mine.",
            "{v} barked at the postman for ten minutes, louder than any dog in the street.",
            "We picked up {v} from the shelter and the sofa has not been the same since.",
        ),
        "My colleague Priya brought her spaniel to the office, a sleepy fellow by the name of Hector.",
    ),
    Fact(
        "Which city do I live in?",
        ("Porto", "Leeds", "Ghent", "Tampere", "Bologna", "Halifax", "Lyon", "Gdansk", "Graz", "Valparaiso"),
        (
            "Rent in {v} keeps climbing, no landlord in this city knows any shame.",
            "I signed the lease for a flat in {v} and the keys are on my table.",
            "The tram below my window in {v} starts rattling at five.",
            "My new neighbours here in {v} practise the trumpet on Sundays.",
            "I unpacked the last box, so {v} finally feels like a place to live.",
        ),
        "An old school friend wrote that he bought a house in Aberdeen.",
    ),
    Fact(
        "What do I do for a living?",
        ("a pastry chef", "a land surveyor", "a court clerk", "a piano tuner", "a school nurse", "a tram driver"),
        (
            "Being {v} means I am up before sunrise most days.",
            "My boss wants a second person on the team, I was the only one trained as {v}.",
            "After nine years of earning a living as {v} my knees tell me about every shift.",
            "People at parties always have questions once they hear that I am {v}.",
            "They gave me a raise, which does not happen often to {v}.",
        ),
        "My brother in law retrained and is an optician now.",
    ),
    Fact(
        "Which food am I allergic to?",
        ("peanuts", "shellfish", "celery", "sesame", "kiwi", "hazelnuts", "mustard", "lupin"),
        (
            "The waiter forgot and put {v} in the sauce, my throat swelled within minutes.",
            "I carry an adrenaline pen, that is how allergic I am to {v}.",
            "Even a trace of {v} sends me to the emergency room.",
            "I read labels like a detective until I find food without {v}.",
            "Grandma baked a cake with {v} again, so I only had tea while the others ate.",
        ),
        "The boy next door cannot have milk, his mother told me.",
    ),
    Fact(
        "How do I usually get to work?",
        ("by ferry", "by bicycle", "on the night bus", "by cable car", "on a scooter", "in a car pool"),
        (
            "Going to work {v} takes me forty minutes on a good morning.",
            "I answer most of my mail while I travel to the office {v}.",
            "I was soaked again, that is what comes of arriving {v} in April.",
            "My colleagues laugh because I show up {v} as usual, thermos in hand.",
            "I have worked out that I save ninety a month since I started coming in {v}.",
        ),
        "My flatmate takes the regional train to the university.",
    ),
    Fact(
        "Which instrument am I learning to play?",
        ("cello", "banjo", "oboe", "accordion", "harp", "clarinet", "ukulele", "double bass"),
        (
            "My fingertips are sore from an hour with the {v}.",
            "My teacher says I hold the instrument like a shovel, poor {v}.",
            "Somebody downstairs complained about my {v} after ten at night.",
            "I rented a {v} for three months to learn it properly or not at all.",
            "Scales on the {v} are all I managed this week.",
        ),
        "The neighbours' girl has taken up the drums, we hear all of it.",
    ),
    Fact(
        "Where do I like to go out for dinner?",
        ("the Blue Lantern", "Casa Amparo", "the Copper Pot", "Lotus Yard", "Old Mill Tavern", "Trattoria Nove"),
        (
            "We have our usual table for dinner at {v} on Friday, by the window.",
            "The dumplings at {v} are worth any queue.",
            "I celebrated my birthday at {v}, where else.",
            "The cook at {v} knows me by my first name by now.",
            "I dream of the almond tart they serve at {v}.",
        ),
        "My parents swear by a fish place called Harbour Nine.",
    ),
    Fact(
        "What kind of car do I drive?",
        ("a grey Skoda", "a yellow Fiat", "a red Volvo", "an old Saab", "a blue Dacia", "a white Toyota"),
        (
            "The mechanic asks four hundred for new brakes on {v}, and I have just paid the insurance.",
            "I sat in {v} for two hours on the ring road, what a drive.",
            "{v} has a flat tyre again, I was late for everything.",
            "I finally cleaned my car, {v} with a boot full of sand from the beach.",
            "Parking {v} in front of the house has cost me two wing mirrors so far.",
        ),
        "The man upstairs has ordered a green Citroen.",
    ),
    Fact(
        "What is my sister's name?",
        ("Marlene", "Tova", "Ines", "Philippa", "Ruth", "Zofia", "Carmen", "Aiko"),
        (
            "{v} and I shared a bunk bed until I was twelve.",
            "Mum keeps comparing me with my sister {v}, who is two years older.",
            "I need a present for {v}, she turns thirty and our parents are flying in.",
            "{v} got the curls in the family, I got the nose.",
            "I spoke when my sister {v} got married, Dad cried all through it.",
        ),
        "My manager's twin Odette works on the floor below us.",
    ),
    Fact(
        "On which day of the week do I go swimming?",
        ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
        (
            "I keep my {v} evenings free to swim laps.",
            "My shoulders ache every {v} night after forty lengths.",
            "The lifeguard nods at me, I am there each {v}.",
            "My hair smells of chlorine all through {v} supper.",
            "They close the baths for repairs, so there is no swimming on {v} for a while.",
        ),
        "Our receptionist has her judo class on Sundays.",
    ),
    Fact(
        "What is my shoe size?",
        ("36", "37", "38", "41", "43", "45", "46"),
        (
            "The boots in {v} pinched at the toes, though that is what I always take.",
            "Nobody ever has nice shoes in {v} when I need them.",
            "I sent the trainers back, my size is {v} and has been since school.",
            "My feet stopped growing at {v}, thank heavens.",
            "The bowling alley had only one pair of {v} left for me.",
        ),
        "My nephew is eleven and already wears a 40.",
    ),
    Fact(
        "Which language am I studying?",
        ("Finnish", "Korean", "Arabic", "Portuguese", "Turkish", "Welsh", "Greek", "Swahili"),
        (
            "I spent the whole train ride on {v} verbs, what a language.",
            "I study {v} with flash cards, they have reached a thousand.",
            "I ordered soup in {v} and got soup, a triumph.",
            "My tutor says my {v} accent is improving, my grammar not so much.",
            "I put my phone into {v} and now I cannot find the settings.",
        ),
        "My aunt teaches Latin at a boarding school.",
    ),
    Fact(
        "How much money am I saving each month?",
        ("150 euros", "220 euros", "300 euros", "350 euros", "410 euros", "500 euros"),
        (
            "The standing order to my rainy day account is {v} from now on.",
            "I moved money around so that {v} goes straight to the deposit pot on payday.",
            "With {v} put aside on the first, I could afford the roof in two years.",
            "My rule is that {v} leaves the current account before I see it.",
            "I raised my transfer to the building society, so I save {v}.",
        ),
        "My cousin spends 80 euros on comics every payday.",
    ),
    Fact(
        "What is my personal best over ten kilometres?",
        ("47:20", "49:05", "51:40", "53:15", "55:30", "58:10"),
        (
            "I crossed the line in {v} at the harbour run, my best on that distance.",
            "My watch stopped at {v} for the 10k and I nearly hugged a stranger.",
            "I ran the river loop twice, which makes ten, in {v}, a record for me.",
            "The official list has me at {v} for the city run, I framed it.",
            "I knocked half a minute off, so it stands at {v} for the 10k.",
        ),
        "Our neighbour finished a marathon in 3:58.",
    ),
    Fact(
        "Who is my dentist?",
        ("Dr Okafor", "Dr Lindqvist", "Dr Brandt", "Dr Sandoval", "Dr Huang", "Dr Mercier"),
        (
            "{v} found a cavity behind the last molar, so I chew on the left.",
            "The dentist I trust, {v}, wants to look at my molars on the third.",
            "{v} says I grind at night and wants to make me a splint.",
            "No dentist scares me any more since {v} took over the practice.",
            "I still cannot feel my lip, {v} was generous with the needle.",
        ),
        "My mother sees a Dr Quill about her hip.",
    ),
    Fact(
        "What have I named my sailing boat?",
        ("Petrel", "Second Wind", "Gull Song", "Little Anchor", "Meltemi", "Sea Thrift"),
        (
            "I scraped barnacles off {v} all weekend, my back is finished.",
            "The mast of my boat {v} comes down for the winter, I have nowhere to put it.",
            "I went sailing with {v} past the lighthouse, hardly any waves.",
            "The harbour master wants the mooring fee for {v} by Friday.",
            "I painted {v} in green letters on the stern, a bit crooked.",
        ),
        "A man at the marina calls his motor yacht Lady Astrid.",
    ),
)


@dataclass(frozen=True, slots=True)
class Countable:
    """Something that happens several times; {v} stands for what was different each time."""

    question: str
    values: tuple[str, ...]
    statements: tuple[str, ...]


COUNTABLES = (
    Countable(
        "How many plants have I bought?",
        ("a fern", "a monstera", "a lemon tree", "a rubber fig", "an aloe", "a peace lily"),
        (
            "I came home from the market with another plant, {v} in a clay pot.",
            "There is {v} on my window sill now, the florist talked me into it.",
            "I carried {v} back on the tram and everybody stared at the leaves.",
        ),
    ),
    Countable(
        "How many weddings did I attend?",
        ("Lena and Max", "Sofia and Tom", "Ada and Jon", "Mia and Paul", "Noor and Sam", "Eva and Luis"),
        (
            "{v} said yes to each other on Saturday, I danced until two.",
            "My feet hurt from the wedding of {v}.",
            "I cried when {v} exchanged rings, as I always do.",
        ),
    ),
    Countable(
        "How many museums did I visit?",
        ("old tram cars", "Roman glass", "marine clocks", "puppets", "Flemish portraits", "dinosaur eggs"),
        (
            "We spent the rainy afternoon in the museum, among {v}.",
            "The exhibition of {v} was worth the entrance fee.",
            "The guide who led us past the {v} had a wonderful dry humour.",
        ),
    ),
    Countable(
        "How many new recipes have I tried?",
        ("lentil moussaka", "saffron risotto", "plum dumplings", "leek tart", "pumpkin gnocchi", "fish stew"),
        (
            "I cooked {v} for the first time and licked the pot.",
            "My attempt at {v} came out of the oven a bit dark, but good.",
            "I followed a recipe on video and made {v}, my first ever.",
        ),
    ),
    Countable(
        "How many mountains have I climbed?",
        ("Mount Arbel", "the Kestrel", "Black Tor", "the Hornli", "Pico Alto", "Ben Farrar"),
        (
            "I stood on top of {v} at noon, with cloud below me.",
            "My legs are still shaking, I climbed {v}, twelve hundred metres up and down again.",
            "We reached the summit of {v} just before the storm.",
        ),
    ),
    Countable(
        "How many concerts did I go to?",
        ("the Hollow Pines", "a string quartet", "the Night Ferries", "a gospel choir", "Velvet Otter", "a brass band"),
        (
            "My ears are ringing from the concert of {v} in the old brewery.",
            "I stood in the front row for {v} and lost my voice.",
            "We had balcony seats for {v}, two encores.",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens once, on the day of the session in which it is told."""

    clause: str  # for the question, after "I"
    statements: tuple[str, ...]


EVENTS = (
    Event(
        "started the pottery course",
        (
            "Tonight was my first evening at the wheel, clay up to the elbows.",
            "The pottery teacher let me throw my first bowl tonight.",
        ),
    ),
    Event(
        "had my wisdom tooth out",
        (
            "My cheek is the size of a melon, the surgeon pulled it this morning.",
            "The tooth came out this morning, I may only eat soup.",
        ),
    ),
    Event(
        "passed the driving test",
        (
            "The examiner shook my hand today, I may take the wheel alone now!",
            "I passed, the examiner shook my hand an hour ago!",
        ),
    ),
    Event(
        "moved into the new flat",
        (
            "The van has just left, my mattress lies on the bare floor between the boxes.",
            "First evening in the flat, I am eating pizza on a box.",
        ),
    ),
    Event(
        "handed in my thesis",
        (
            "I put the two bound copies on the professor's desk an hour ago.",
            "The thesis lies on the professor's desk since noon, I can hardly believe it.",
        ),
    ),
    Event(
        "adopted the cat",
        (
            "A tabby from the rescue centre is hiding under my bed since this afternoon.",
            "The cat that the rescue centre gave me today will not come out from under the bed.",
        ),
    ),
    Event(
        "quit smoking",
        (
            "I threw my last packet of cigarettes into the river today.",
            "No smoking for me from today, I have chewed six carrots already.",
        ),
    ),
    Event(
        "broke my wrist",
        (
            "They put my arm in plaster this morning, I slipped on the icy steps.",
            "My wrist is in plaster since this morning, the steps were icy.",
        ),
    ),
    Event(
        "planted the apple tree",
        (
            "My spade is worn out, but the sapling stands in the orchard since this morning.",
            "The little tree stands in the orchard since this morning, tied to a stake.",
        ),
    ),
    Event(
        "launched my web shop",
        (
            "The site went live at noon and the first order for my candles is in.",
            "My shop went live at noon and somebody in Norway wants candles.",
        ),
    ),
    Event(
        "ran the half marathon",
        (
            "Twenty one kilometres are in my legs since this morning, I got a medal.",
            "I ran twenty one kilometres this morning and they hung a medal around my neck.",
        ),
    ),
    Event(
        "got the bicycle back from repair",
        (
            "The mechanic called, my two wheeler has new gears since today.",
            "I picked up my bicycle today, it has new gears and a bell.",
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Topic:
    """Plain talk; {a} is one of `slots`. Turns are drawn in any number, user and assistant alternating."""

    slots: tuple[str, ...]
    openers: tuple[str, ...]
    follow_ups: tuple[str, ...]
    replies: tuple[str, ...]


TOPICS = (
    Topic(
        ("a leaking tap", "a squeaky door", "a drafty window", "a blocked drain", "a loose tile", "a dead socket"),
        ("Can you tell me how to deal with {a}?", "I have {a} and no tools to speak of. Where do I begin?"),
        ("Which tools would that take?", "And if that does not help?", "Is this something to leave to a professional?"),
        (
            "For {a}, look for the cause first: wear, dirt, or a part that has come loose. Then change one thing at a time.",
            "Take photos before you take anything apart, keep the screws in a cup, and turn off water or power first.",
            "If it comes back within a week, the part behind it is worn and a craftsman will be quicker than you.",
        ),
    ),
    Topic(
        ("a cover letter", "a complaint to an airline", "a toast", "a condolence card", "a product description"),
        ("Help me write {a}, not too stiff please.", "I am stuck on {a}. Give me a first draft?"),
        ("Could it be shorter?", "Make the ending warmer.", "What would a stricter version look like?"),
        (
            "Start {a} with what you want the reader to do, give one reason with a detail, and close in a single line.",
            "Here is a tighter version: three sentences, one picture, no adjectives that could be left out.",
            "Read it aloud once; wherever you run out of breath, put a full stop.",
        ),
    ),
    Topic(
        ("a Python script", "a spreadsheet formula", "a regular expression", "a database query", "a small web page"),
        ("I need {a} that sorts names by surname. Any idea?", "What is a good way to test {a}?"),
        ("It fails on empty rows.", "Can that be made faster?", "Why does the order change between runs?"),
        (
            "With {a}, begin with three example inputs and the outputs that you expect, then write the simplest thing that fits.",
            "Empty rows give empty strings, so guard for those before you split.",
            "Sorting is stable here; the order changes because the input order does. Sort by a second key.",
        ),
    ),
    Topic(
        ("tomatoes", "basil", "roses", "carrots", "raspberries", "a lawn"),
        ("When should I water {a} in a dry summer?", "Something is eating my {a}. What might it be?"),
        ("Does the soil matter much?", "How would I notice too much water?", "Would a pot do as well?"),
        (
            "Water {a} early in the day and at the root, seldom but thoroughly.",
            "Look under the leaves at night with a lamp; slugs and caterpillars leave quite different traces.",
            "A deep pot with drainage works, as long as it does not stand in a saucer of water.",
        ),
    ),
    Topic(
        ("Iceland", "Slovenia", "Morocco", "Vietnam", "Uruguay", "Estonia"),
        ("What would you see in {a} in six days?", "Is {a} a good idea in November?"),
        ("How much should one plan for food?", "Is it easy without a car?", "What would you leave out?"),
        (
            "For {a} take one base in the capital and one in the countryside, and leave a day without plans.",
            "Off season many inns close, but those that stay open are half the price and glad of company.",
            "Buses run between the larger towns; for the rest share a taxi, it is common there.",
        ),
    ),
    Topic(
        ("inflation", "tides", "vaccines", "black holes", "compound interest", "plate tectonics"),
        ("Explain {a} to me as if I were twelve.", "I have to give a short talk about {a}. What matters most?"),
        ("Is there a good comparison?", "What do most people get wrong about it?", "How do we know that?"),
        (
            "The heart of {a} is a slow push that adds up: small steps, one on top of the other, in the same direction.",
            "Most people mix up the cause with what sets it off. The cause was there long before.",
            "We know because several independent measurements, made in different ways, agree.",
        ),
    ),
    Topic(
        ("back pain", "poor sleep", "stiff neck", "dry eyes", "low energy in the afternoon"),
        ("What helps against {a} when one sits all day?", "Give me a five minute routine for {a}."),
        ("How often a day?", "Does it matter what time?", "When should one see somebody about it?"),
        (
            "For {a}, short and often beats long and seldom: two minutes every hour.",
            "Put it after something you do anyway, such as making tea, and it will stick.",
            "If it lasts more than three weeks or wakes you up, have it looked at.",
        ),
    ),
    Topic(
        ("a quiz night", "a birthday for a six year old", "a street party", "a farewell lunch", "a film evening"),
        ("I am organising {a}. What do people forget?", "How many weeks ahead does {a} need planning?"),
        ("What about rain?", "How do I keep it cheap?", "Who should be asked to help?"),
        (
            "For {a} make two lists, what must be there and what would be nice, and stop when the first is done.",
            "Borrow chairs and glasses; buy ice, tape and bin bags, twice as many as you think.",
            "Give each helper one thing that is theirs alone, with a time written next to it.",
        ),
    ),
    Topic(
        ("chess openings", "watercolours", "bird watching", "knitting", "juggling", "film photography"),
        ("How does a beginner get started with {a}?", "Recommend one book on {a}?"),
        ("How long until it is fun?", "What should I not buy yet?", "Is it better alone or in a group?"),
        (
            "With {a} the first ten hours are play: no plan, no purchases, just see what you come back to.",
            "Borrow the equipment. Those who buy first stop first.",
            "A group that meets at a fixed time does half of the discipline for you.",
        ),
    ),
    Topic(
        ("sourdough", "pickles", "fresh pasta", "yoghurt", "stock", "jam"),
        ("My {a} went wrong, too runny. Why?", "How long does homemade {a} keep?"),
        ("Can it be frozen?", "What is the smallest amount worth making?", "Does the brand of flour or sugar matter?"),
        (
            "Runny {a} mostly wants more time, not more ingredients. Wait, then judge.",
            "In a clean jar in the fridge a week is safe; trust your nose after that.",
            "Weigh everything once and write it down; next time you will know what to change.",
        ),
    ),
    Topic(
        ("rental contract", "phone bill", "tax form", "parking fine", "warranty", "insurance letter"),
        ("What should I look for in a {a}?", "I do not understand this {a}. Where do I start?"),
        ("Is there a deadline?", "Should that be in writing?", "What if they do not reply?"),
        (
            "In a {a} look for dates first, then amounts, then who has to act if nothing happens.",
            "Send it in writing and keep a copy; a phone call is worth nothing later.",
            "If there is no answer in two weeks, send the same letter once more with the first date in it.",
        ),
    ),
    Topic(
        ("a podcast about history", "a crime series", "a quiet album", "a board game for two", "a long novel"),
        ("Suggest {a} for the weekend.", "I am looking for {a}, nothing too dark."),
        ("Anything a little older?", "What is it like compared with the famous ones?", "How long does it take?"),
        (
            "For {a} I would pick something slow that trusts its audience, from the nineties perhaps.",
            "It starts slowly; give it an hour before you decide.",
            "It is lighter than the famous ones and does not need you to take notes.",
        ),
    ),
)

USER_TAILS = (
    "I have until {day} to decide.",
    "It should not cost more than {amount}.",
    "{person} asked me the same thing last week.",
    "I tried it once in {month} and gave up.",
    "I have about {minutes} minutes a day for this.",
    "Please keep it under {minutes} lines.",
    "{person} thinks it is a waste of time.",
    "I read something about it in {month} but forgot all of it.",
    "There are {minutes} people waiting for an answer.",
    "Last time it took me until {day}.",
)
REPLY_TAILS = (
    "Set yourself {minutes} minutes and stop there.",
    "Shall I put this in a list that you can send to {person}?",
    "If {day} is too soon, say so now rather than later.",
    "Put {amount} aside in case something goes wrong.",
    "Come back in {month} and tell me how it went.",
    "It is worth asking {person}, who may have done it before.",
    "You can skip this step if you have less than {minutes} minutes.",
    "That is the part most people underestimate.",
)
FILL = {
    "day": ("the weekend", "tomorrow", "the end of the month", "next week", "the first frost", "the holidays"),
    "amount": ("twenty", "sixty", "a hundred", "a hundred and fifty", "four hundred", "a thousand"),
    "person": ("Gregor", "Anneke", "my uncle", "the caretaker", "Yusuf", "a neighbour", "Beatriz", "my godmother"),
    "month": ("January", "March", "May", "June", "August", "October", "November"),
    "minutes": ("5", "10", "12", "15", "20", "30", "40"),
}


def generate(
    num_users: int, seed: int = 0, *, num_filler_sessions: int = 40, share_with_asides: float = 0.3
) -> Iterator[dict[str, Any]]:
    """`num_users` records in LongMemEval's official schema, kinds of questions in turn (KINDS).

    Each history has `num_filler_sessions` sessions of plain talk and one to five with evidence, over about ten months.
    `share_with_asides` of the plain sessions mention another fact about the user or somebody else's. The n-th record
    depends on the seed and n only.
    """
    for number in range(num_users):
        yield _Writer(random.Random(f"{seed}/{number}"), number, num_filler_sessions, share_with_asides).record()


class _Writer:
    """Writes one user's history and question."""

    def __init__(self, rng: random.Random, number: int, num_filler_sessions: int, share_with_asides: float):
        self.rng = rng
        self.number = number
        self.kind = KINDS[number % len(KINDS)]
        self.num_filler = num_filler_sessions
        self.share_with_asides = share_with_asides
        self.asked: Fact | None = None

    def record(self) -> dict[str, Any]:
        """The record: question first, since fillers must not answer it."""
        question, answer, told = getattr(self, f"_{self.kind}")()
        times = self._times(self.num_filler + len(told))
        places = sorted(self.rng.sample(range(len(times)), len(told)))
        sessions: list[list[dict[str, Any]]] = []
        ids: list[str] = []
        for place in range(len(times)):
            if place in places:
                index = places.index(place)
                sessions.append(self._session(told[index], evidence=self.kind != "unanswerable"))
                ids.append(f"answer_{self.number:04d}_{index + 1}")
            else:
                sessions.append(self._session(self._aside(), evidence=False))
                ids.append(f"talk_{self.number:04d}_{place:03d}")
        if self.kind == "temporal":
            days = (times[places[1]].date() - times[places[0]].date()).days
            answer = f"{days} days" if days > 1 else "1 day"
        types = {"count": "multi-session", "update": "knowledge-update", "temporal": "temporal-reasoning"}
        asked_at = times[-1] + timedelta(days=self.rng.randint(1, 20))
        return {
            "question_id": f"made_{self.number:04d}" + ("_abs" if self.kind == "unanswerable" else ""),
            "question_type": types.get(self.kind, "single-session-user"),
            "question": question,
            "answer": answer,
            "question_date": _date(asked_at),
            "haystack_session_ids": ids,
            "haystack_dates": [_date(time) for time in times],
            "haystack_sessions": sessions,
            "answer_session_ids": [ids[place] for place in places],
        }

    def _single(self) -> tuple[str, str, list[str]]:
        self.asked = self.rng.choice(FACTS)
        value = self.rng.choice(self.asked.values)
        return self.asked.question, value, [_say(self.rng.choice(self.asked.statements), value)]

    def _update(self) -> tuple[str, str, list[str]]:
        self.asked = self.rng.choice(FACTS)
        old, new = self.rng.sample(self.asked.values, 2)
        first, second = self.rng.sample(self.asked.statements, 2)
        return self.asked.question, new, [_say(first, old), _say(second, new)]

    def _count(self) -> tuple[str, str, list[str]]:
        countable = self.rng.choice(COUNTABLES)
        values = self.rng.sample(countable.values, self.rng.randint(2, 5))
        return (
            countable.question,
            str(len(values)),
            [_say(self.rng.choice(countable.statements), value) for value in values],
        )

    def _temporal(self) -> tuple[str, str, list[str]]:
        first, second = self.rng.sample(EVENTS, 2)
        question = f"How many days after I {first.clause} was it that I {second.clause}?"
        return question, "", [self.rng.choice(first.statements), self.rng.choice(second.statements)]

    def _unanswerable(self) -> tuple[str, str, list[str]]:
        self.asked = self.rng.choice(FACTS)
        reason = f"The user never said. They only mentioned somebody else: {self.asked.other}"
        return self.asked.question, reason, [self.asked.other]

    def _aside(self) -> str:
        """Something in passing that does not bear on the question; mostly nothing."""
        if self.rng.random() >= self.share_with_asides:
            return ""
        fact = self.rng.choice([fact for fact in FACTS if fact is not self.asked])
        if self.rng.random() < 0.3:
            return fact.other
        return _say(self.rng.choice(fact.statements), fact.values[self.number % len(fact.values)])

    def _session(self, aside: str, evidence: bool) -> list[dict[str, Any]]:
        """Two to five rounds about a topic; `aside` goes into one of the user's turns."""
        topic = self.rng.choice(TOPICS)
        slot = self.rng.choice(topic.slots)
        num_rounds = self.rng.randint(2, min(5, 1 + len(topic.follow_ups), len(topic.replies) + 1))
        asked = [self.rng.choice(topic.openers), *self.rng.sample(topic.follow_ups, num_rounds - 1)]
        replies = [self.rng.choice(topic.replies) for _ in asked]
        place = self.rng.randrange(num_rounds) if aside else -1
        turns: list[dict[str, Any]] = []
        for index, (question, reply) in enumerate(zip(asked, replies, strict=True)):
            text = self._extended(question.replace("{a}", slot), USER_TAILS)
            if index == place:
                text = f"{aside} {text}" if self.rng.random() < 0.6 else f"{text} {aside}"
            turn: dict[str, Any] = {"role": "user", "content": text}
            if index == place and evidence:
                turn["has_answer"] = True
            turns += [turn, {"role": "assistant", "content": self._extended(reply.replace("{a}", slot), REPLY_TAILS)}]
        return turns

    def _extended(self, text: str, tails: tuple[str, ...]) -> str:
        """The text, two times in three with a sentence more."""
        if self.rng.random() < 1 / 3:
            return text
        filled = {name: self.rng.choice(choices) for name, choices in FILL.items()}
        return f"{text} {_capital(self.rng.choice(tails).format(**filled))}"

    def _times(self, num_sessions: int) -> list[datetime]:
        """As many distinct days in order, at a waking hour, over about ten months."""
        start = datetime(2023, 1, 1) + timedelta(days=self.rng.randrange(365))
        days = sorted(self.rng.sample(range(max(300, 2 * num_sessions)), num_sessions))
        return [
            start + timedelta(days=day, hours=self.rng.randint(7, 22), minutes=self.rng.randrange(60)) for day in days
        ]


def _say(statement: str, value: str) -> str:
    """The statement with its value, its first letter a capital."""
    return _capital(statement.replace("{v}", value))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _date(time: datetime) -> str:
    weekday = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[time.weekday()]
    return f"{time:%Y/%m/%d} ({weekday}) {time:%H:%M}"
