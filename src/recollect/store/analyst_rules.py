"""The lexicon of `analyst.tags`: words that speak of a domain, and forms of what is said.

A line of DOMAINS is domain: words; their stems are compared. FORMS are patterns, tried on the whole text in any case.
"""

from __future__ import annotations

DOMAINS = """
family: family mother mom mum father dad parent sister brother son daughter child kid baby grandma grandmother grandpa
    grandfather aunt uncle cousin niece nephew wife husband spouse marriage
relationship: friend friendship date boyfriend girlfriend partner wedding engaged divorce breakup love romantic relationship
work: work job career office boss colleague coworker company business client meeting project promotion salary hire interview
    manager team deadline employer startup resume profession internship
education: school college university class course teacher student study exam degree lesson learn homework professor tutor
    scholarship graduate thesis
travel: travel trip vacation holiday flight airport hotel tour visit abroad passport journey backpack itinerary tourist
    beach cruise train
home: home house apartment flat rent mortgage move furniture kitchen garden roommate neighbor renovate decorate clean
food: food eat cook recipe restaurant meal dinner lunch breakfast bake cake coffee tea pizza pasta vegetarian vegan dish
    chef ingredient snack dessert
health: health doctor hospital sick illness allergy allergic medicine pain injury surgery therapy diet sleep weight disease
    symptom treatment mental anxiety stress depression
sport: sport gym run marathon football soccer basketball tennis swim yoga workout exercise hike climb cycling bike race coach
    fitness match athlete ski surf
music: music song band guitar piano concert sing album violin festival melody singer drum orchestra instrument playlist
film: film movie actor actress director cinema television show series episode documentary netflix
reading: book novel read author library poem poetry story writer magazine bookstore
games: game videogame console chess boardgame xbox playstation nintendo gaming tournament
art: art paint painting draw sketch photo photography sculpture gallery museum exhibition pottery design craft dance theater
money: money budget pay price cost bank loan invest investment stock save debt tax income insurance dollar finance
technology: computer software app phone laptop internet website code programming python data algorithm robot digital server
science: science research physics chemistry biology experiment theory laboratory mathematics space planet
nature: nature animal tree forest mountain lake river ocean flower bird wildlife climate weather plant hike sunset camping
pets: pet dog cat puppy kitten turtle hamster rabbit parrot vet leash
shopping: buy shop store purchase sale discount mall brand clothes shoes dress jacket
politics: government president election law vote policy minister parliament politics military war army
history: century empire king queen ancient dynasty historical founded medieval kingdom
place: city town village district county province located population municipality region capital state country
community: volunteer charity community donate donation support group church religion faith activism pride rights shelter
feelings: happy sad angry excited grateful proud afraid worried lonely nervous emotion feel
"""

FORMS = (
    ("question", r"\?\s*(?:$|\n)|^(?:what|who|where|when|why|how|which|do you|are you|can you|could you)\b"),
    (
        "plan",
        r"\b(?:going to|gonna|plan(?:ning)? (?:to|on)|will be|next (?:week|month|year|weekend)|tomorrow|can't wait|i'll|hope to)\b",
    ),
    (
        "preference",
        r"\b(?:favou?rite|i (?:really |just )?(?:like|love|prefer|enjoy|hate|dislike)|i'd rather|i'm into|fan of)\b",
    ),
    (
        "advice",
        r"\b(?:you should|you could|i(?:'d)? (?:recommend|suggest)|make sure|try to|why don't you|remember to|consider|tips?)\b",
    ),
    ("instruction", r"(?:^|\n)\s*(?:\d+[.)]|[-*])\s|\bstep \d"),
    ("code", r"```|\bdef \w+\(|\bimport \w+|;\s*\n|\{\s*\n"),
    ("thanks", r"\b(?:thank you|thanks|appreciate)\b"),
    (
        "event",
        r"\b(?:yesterday|last (?:night|week|month|year|weekend)|ago|went|visited|attended|happened|celebrated|in (?:19|20)\d\d)\b",
    ),
    ("opinion", r"\b(?:i think|i believe|in my opinion|i feel|i guess)\b"),
)
