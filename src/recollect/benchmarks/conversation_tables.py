"""Words for made conversations: what people do, in several surface forms, and small talk around it. Data only.

An object has at least three names without a content word in common, an action three ways to be told and three to be
asked about; a question takes other forms than the turn that answers it. All text here was written for this package.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a person does with an object, {o}."""

    past: str  # after the person's name, for answers
    told: tuple[str, ...]  # in the first person
    asked: tuple[str, ...]  # infinitives, the object follows


@dataclass(frozen=True, slots=True)
class Theme:
    """A field of life: its objects, each by all its names, and what people do with them; {x} stands for a person."""

    kind: str  # after "Which"
    objects: tuple[tuple[str, ...], ...]
    actions: tuple[Action, ...]
    what: tuple[str, ...]  # asks for the action
    many: tuple[str, ...]  # asks for all objects of one person
    both: tuple[str, ...]  # asks for those of two people, {x} and {y}
    suits: str  # what somebody who does such things would probably like, after "Would {x}"


@dataclass(frozen=True, slots=True)
class Trait:
    """Something that stays true of a person; {v} stands for the value."""

    values: tuple[str, ...]
    told: tuple[str, ...]
    asked: tuple[str, ...]
    fact: str  # for observations


THEMES = (
    Theme(
        "belonging",
        (
            ("the bicycle", "the two-wheeler", "the push bike"),
            ("the sofa", "the couch", "the settee"),
            ("the record player", "the turntable", "the deck for vinyl"),
            ("the telescope", "the stargazing tube", "the device for looking at planets"),
            ("the wardrobe", "the armoire", "the big clothes cupboard"),
            ("the typewriter", "the Olivetti", "the clattering keyboard from the attic"),
            ("the kayak", "the paddle boat", "the one-seat canoe"),
            ("the caravan", "the camper", "the motor home"),
            ("the grandfather clock", "the tall timepiece", "the pendulum in the hall"),
            ("the accordion", "the squeezebox", "the bellows instrument"),
        ),
        (
            Action(
                "sold {o}",
                (
                    "I finally found a buyer for {o}.",
                    "Somebody put cash on my table and drove off with {o}.",
                    "I advertised {o} in the paper and the phone rang within the hour.",
                ),
                ("sell", "make money with", "part with"),
            ),
            Action(
                "repaired {o}",
                (
                    "I sat with screws and glue all evening until {o} worked again.",
                    "I replaced every worn bit of {o}, as good as new.",
                    "After two days of tinkering I got {o} going again.",
                ),
                ("repair", "fix", "mend"),
            ),
            Action(
                "painted {o}",
                (
                    "I gave {o} a coat of sky blue, my fingers too.",
                    "My brushes are ruined, but nobody would know {o} any more, bright yellow all over.",
                    "I covered {o} in three layers of green lacquer.",
                ),
                ("paint", "decorate", "change the colour of"),
            ),
            Action(
                "gave {o} away",
                (
                    "I left {o} with the charity on the corner.",
                    "A student carried off {o} and I did not want a cent for it.",
                    "A young family was so happy when I let them have {o} for nothing.",
                ),
                ("donate", "give away", "make a present of"),
            ),
        ),
        (
            "What did {x} do with {o}?",
            "What became of {o} in {x}'s hands?",
            "How did the matter of {o} end for {x}?",
        ),
        (
            "Which belongings did {x} deal with over the months?",
            "What household things has {x} passed on or improved?",
            "Name the possessions that {x} did something about.",
        ),
        (
            "Which belongings did {x} and {y} deal with?",
            "What household things did {x} and {y} do something about?",
            "Name the possessions that {x} and {y} passed on or improved.",
        ),
        "enjoy an afternoon at a flea market",
    ),
    Theme(
        "animal",
        (
            ("the kitten", "the tabby", "the little cat"),
            ("the parrot", "the macaw", "the talking bird"),
            ("the greyhound", "the lanky hunting dog", "the retired sprinter on four legs"),
            ("the tortoise", "the shelled reptile", "the slow crawler in armour"),
            ("the rabbit", "the bunny", "the long-eared hopper"),
            ("the donkey", "the mule", "the braying beast"),
            ("the hedgehog", "the spiny visitor", "the prickly ball"),
            ("the goldfish", "the orange swimmer", "the fish in the bowl"),
            ("the goose", "the honking guard", "the white gander"),
            ("the ferret", "the masked weasel", "the sleek burrower"),
        ),
        (
            Action(
                "adopted {o}",
                (
                    "I signed the papers at the shelter, so from now on I share my rooms with {o}.",
                    "I could not resist, there is a basket next to my bed and {o} sleeps there for good.",
                    "They asked who wanted {o}, and my hand went up before I could think.",
                ),
                ("adopt", "take in", "offer a home to"),
            ),
            Action(
                "took {o} to the vet",
                (
                    "I sat in a waiting room for hours because {o} had a fever.",
                    "They put a bandage on {o}, poor thing, and the bill made me gasp.",
                    "There had to be an operation on {o}, all is well again.",
                ),
                ("have a vet look at", "get medical help for", "call a doctor for"),
            ),
            Action(
                "trained {o}",
                (
                    "On my command {o} gave me a high five!",
                    "After weeks of biscuits {o} finally came when I whistled.",
                    "I got {o} to jump through a hoop, three times in a row.",
                ),
                ("train", "teach tricks to", "educate"),
            ),
            Action(
                "rescued {o}",
                (
                    "I climbed up a ladder in the rain and got {o} down.",
                    "I crawled under a fence to free {o} from the wire.",
                    "I worked with bare hands for an hour because {o} was stuck in a drain.",
                ),
                ("rescue", "save", "pull out of danger"),
            ),
        ),
        (
            "What did {x} do for {o}?",
            "What happened between {x} and {o}?",
            "How did {x} deal with {o}?",
        ),
        (
            "Which animals played a part in {x}'s life?",
            "What pets and other creatures has {x} had to do with?",
            "Name the living creatures that {x} looked after.",
        ),
        (
            "Which animals played a part in the lives of {x} and {y}?",
            "What pets and other creatures have {x} and {y} had to do with?",
            "Name the living creatures that {x} and {y} looked after.",
        ),
        "be likely to subscribe to a magazine about pets",
    ),
    Theme(
        "skill",
        (
            ("pottery", "ceramics", "throwing bowls on a wheel"),
            ("Spanish", "Castilian", "the language of Madrid"),
            ("chess", "the royal game", "checkmates"),
            ("welding", "fusing iron with a torch", "hot steel work"),
            ("calligraphy", "fancy handwriting", "lettering with a quill"),
            ("salsa", "Cuban dancing", "those Latin steps"),
            ("beekeeping", "apiculture", "looking after hives"),
            ("archery", "bow and arrow", "shooting at targets"),
            ("first aid", "emergency care", "bandaging and reviving"),
            ("origami", "paper folding", "the art of making cranes from a sheet"),
        ),
        (
            Action(
                "began a course in {o}",
                (
                    "I signed the form for {o}, the opening evening was great fun.",
                    "I am a complete novice as of now, my hour of {o} left me worn out but happy.",
                    "I bought all the kit for {o} and the teacher only laughed.",
                ),
                ("take up", "begin lessons in", "enrol for"),
            ),
            Action(
                "gave up {o}",
                (
                    "I cancelled the rest of {o}, it was not for me.",
                    "No more {o} for me, I sent all the gear back.",
                    "I told the instructor that I am through with {o}.",
                ),
                ("give up", "stop learning", "abandon"),
            ),
            Action(
                "got a certificate in {o}",
                (
                    "They handed me a diploma for {o}!",
                    "I passed the final test in {o}, my hands were shaking.",
                    "Top marks in {o}, I still cannot believe it.",
                ),
                ("earn a certificate in", "qualify in", "graduate in"),
            ),
            Action(
                "taught {o}",
                (
                    "Twelve beginners showed up to hear me explain {o}.",
                    "I stood in front of a whole class for {o}.",
                    "I showed a bunch of kids the basics of {o}.",
                ),
                ("teach", "coach others in", "run a workshop on"),
            ),
        ),
        (
            "How did things go for {x} with {o}?",
            "What step did {x} take in {o}?",
            "What was {x}'s news about {o}?",
        ),
        (
            "Which skills did {x} spend time on?",
            "What subjects has {x} studied or dropped?",
            "Name the hobbies that {x} had lessons about.",
        ),
        (
            "Which skills did {x} and {y} spend time on?",
            "What subjects have {x} and {y} studied or dropped?",
            "Name the hobbies that {x} and {y} had lessons about.",
        ),
        "be interested in an evening school's programme",
    ),
    Theme(
        "place",
        (
            ("the lighthouse", "the old beacon", "the tower by the sea"),
            ("the castle", "the fortress", "the ruined keep"),
            ("the waterfall", "the cascades", "the spot where the river drops"),
            ("the glacier", "the ice field", "the frozen valley"),
            ("the vineyard", "the wine estate", "the slopes full of grapes"),
            ("the monastery", "the abbey", "the home of the monks"),
            ("the salt mine", "the underground galleries", "the deep shaft"),
            ("the botanical garden", "the palm house", "the park with the greenhouses"),
            ("the observatory", "the dome on the hill", "the astronomers' station"),
            ("the windmill", "the tall sails", "the flour grinder on the dyke"),
        ),
        (
            Action(
                "visited {o}",
                (
                    "I was at {o} from morning to evening, my camera is full.",
                    "I bought a ticket and walked all around {o}.",
                    "The queue took an hour, but {o} left me speechless.",
                ),
                ("visit", "see", "make a trip to"),
            ),
            Action(
                "sketched {o}",
                (
                    "I sat on a wall with charcoal and paper in front of {o}.",
                    "Four pages of my notebook are about {o}, and I am fond of two of them.",
                    "My pencils were worn down before I had got {o} right.",
                ),
                ("draw", "sketch", "make a picture of"),
            ),
            Action(
                "volunteered at {o}",
                (
                    "I swept floors and carried boxes at {o} for nothing but soup.",
                    "I gave up my day off to assist the staff of {o}.",
                    "They handed me a vest and a broom at {o}, no pay of course.",
                ),
                ("volunteer at", "help out at", "work for free at"),
            ),
            Action(
                "camped near {o}",
                (
                    "I pitched my tent next to {o}.",
                    "I woke up under canvas and the first thing I saw was {o}.",
                    "The stars above {o} kept me up until three, in my bag on the grass.",
                ),
                ("camp near", "spend a night at", "sleep outdoors by"),
            ),
        ),
        (
            "What did {x} do at {o}?",
            "What drew {x} to {o}?",
            "How did {x} pass the time at {o}?",
        ),
        (
            "Which places did {x} go to?",
            "What sights and landmarks has {x} been to?",
            "Name the destinations of {x}'s outings.",
        ),
        (
            "Which places did {x} and {y} go to?",
            "What sights and landmarks have {x} and {y} been to?",
            "Name the destinations of the outings that {x} and {y} made.",
        ),
        "be glad of a travel guide as a present",
    ),
    Theme(
        "dish",
        (
            ("the lasagne", "the layered pasta", "the baked sheets with ragout"),
            ("the plum cake", "the fruit tart", "the pastry with the purple filling"),
            ("the dumplings", "the gyoza", "the steamed parcels"),
            ("the goulash", "the paprika stew", "the Hungarian pot"),
            ("the sourdough loaf", "the bread", "the crusty boule"),
            ("the curry", "the coconut masala", "the spicy Indian pan"),
            ("the paella", "the saffron rice", "the Valencian speciality"),
            ("the cheesecake", "the curd dessert", "the New York sweet"),
            ("the borscht", "the beetroot soup", "the Ukrainian bowl"),
            ("the falafel", "the fried chickpeas", "the Levantine balls"),
        ),
        (
            Action(
                "cooked {o}",
                (
                    "I stood at the stove for four hours over {o}.",
                    "Eight guests asked for seconds of {o}, my apron is past saving.",
                    "My grandmother's notes were hard to read, but {o} tasted as it should.",
                ),
                ("cook", "prepare", "make from scratch"),
            ),
            Action(
                "burnt {o}",
                (
                    "The smoke alarm went off because of {o}.",
                    "I forgot {o} in the oven, pure charcoal.",
                    "I had to scrape {o} into the bin, black as night.",
                ),
                ("ruin", "spoil", "fail badly with"),
            ),
            Action(
                "won a prize with {o}",
                (
                    "The jury pinned a ribbon on me for {o}.",
                    "With {o} I beat eleven rivals at the village fair.",
                    "There is a medal on my shelf thanks to {o}.",
                ),
                ("win a prize with", "come first with", "get an award for"),
            ),
            Action(
                "brought {o} to the office",
                (
                    "The plates came back empty from our staff lunch, {o} was gone in minutes.",
                    "My whole department lined up for {o}.",
                    "I carried {o} past the boss's desk and suddenly everyone was my friend.",
                ),
                ("treat colleagues to", "take to work", "feed the co-workers with"),
            ),
        ),
        (
            "What happened when {x} made {o}?",
            "How did it go for {x} with {o}?",
            "What was the story of {x} and {o}?",
        ),
        (
            "Which dishes did {x} try a hand at?",
            "What food has {x} made?",
            "Name the recipes that {x} used.",
        ),
        (
            "Which dishes did {x} and {y} try a hand at?",
            "What food have {x} and {y} made?",
            "Name the recipes that {x} and {y} used.",
        ),
        "be happy about a new set of kitchen knives",
    ),
    Theme(
        "work of art",
        (
            ("the mural", "the wall painting", "the giant fresco"),
            ("the poem", "the verses", "the rhymes"),
            ("the song", "the ballad", "the tune with the sad chorus"),
            ("the short film", "the movie", "the ten-minute reel"),
            ("the sculpture", "the statue", "the marble figure"),
            ("the quilt", "the patchwork", "the blanket of scraps"),
            ("the novel", "the book", "the three-hundred-page manuscript"),
            ("the radio play", "the audio drama", "the piece for voices"),
            ("the puppet show", "the marionettes", "the strings and wooden heads"),
            ("the stained glass", "the coloured window", "the leaded panes"),
        ),
        (
            Action(
                "finished {o}",
                (
                    "The last touch is done, {o} is out of my hands.",
                    "After eleven months I could call {o} ready.",
                    "I put down my tools for good, not one more change to {o}.",
                ),
                ("finish", "complete", "bring to an end"),
            ),
            Action(
                "showed {o} in public",
                (
                    "Fifty people filled the room on opening night because of {o}.",
                    "There was a standing ovation for {o}.",
                    "They gave {o} the best spot at the festival.",
                ),
                ("exhibit", "present to an audience", "show in public"),
            ),
            Action(
                "sold {o}",
                (
                    "A collector wrote me a cheque for {o}.",
                    "I signed a contract, so {o} belongs to a company now.",
                    "An agent snapped up {o} the very same hour.",
                ),
                ("get paid for", "find a taker for", "earn money from"),
            ),
            Action(
                "destroyed {o}",
                (
                    "In a fit of rage I tore {o} to bits.",
                    "I could not stand it any longer, so I set fire to {o}.",
                    "Nothing is left of {o}, I begin again from zero.",
                ),
                ("destroy", "throw away", "scrap"),
            ),
        ),
        (
            "What did {x} do with {o}?",
            "What became of {o} that {x} was busy with?",
            "How did things turn out with {o} of {x}'s?",
        ),
        (
            "Which works of art came from {x}?",
            "What has {x} created as an artist?",
            "Name the creative projects of {x}.",
        ),
        (
            "Which works of art came from {x} and {y}?",
            "What have {x} and {y} created as artists?",
            "Name the creative projects of {x} and {y}.",
        ),
        "be likely to apply for an arts grant",
    ),
    Theme(
        "plant",
        (
            ("the tomatoes", "the beefsteak vines", "the red salad crop"),
            ("the roses", "the thorny climbers", "the fragrant blooms"),
            ("the cherry tree", "the blossom sapling", "the orchard seedling"),
            ("the lavender", "the purple shrubs", "the Provence herb"),
            ("the pumpkins", "the giant gourds", "the orange squashes"),
            ("the sunflowers", "the tall yellow heads", "the row of helianthus"),
            ("the fern", "the shade fronds", "the green feathers"),
            ("the chillies", "the hot peppers", "the fiery pods"),
            ("the bonsai", "the miniature pine", "the tiny Japanese maple"),
            ("the rhubarb", "the sour stalks", "the pink compote stems"),
        ),
        (
            Action(
                "planted {o}",
                (
                    "My knees are muddy, I dug holes for {o} along the fence.",
                    "I raked the new bed twice and then {o} went into fresh soil.",
                    "I watered {o} for the first time, all labels in place.",
                ),
                ("plant", "grow", "sow or set"),
            ),
            Action(
                "pruned {o}",
                (
                    "I took the shears to {o}, no mercy.",
                    "I snipped away at {o} until my thumb was sore.",
                    "There is a whole heap of clippings from {o} in my yard.",
                ),
                ("prune", "trim", "cut back"),
            ),
            Action(
                "protected {o}",
                (
                    "Aphids everywhere, I sprayed {o} with soap.",
                    "There was frost in the forecast, so I wrapped {o} in fleece.",
                    "I sat guard over {o} with a torch because of the slugs.",
                ),
                ("protect", "defend", "keep from harm"),
            ),
            Action(
                "moved {o} to another spot",
                (
                    "I dug out {o}, roots and all, and found a sunnier corner.",
                    "I dragged {o} over to the south side.",
                    "I bought a bigger pot and now {o} can breathe.",
                ),
                ("transplant", "relocate", "choose a new site for"),
            ),
        ),
        (
            "What did {x} do with {o}?",
            "What gardening work did {x} do on {o}?",
            "What was {x} up to with {o}?",
        ),
        (
            "Which plants did {x} tend?",
            "What has {x} had in the garden?",
            "Name the crops and flowers that {x} cared for.",
        ),
        (
            "Which plants did {x} and {y} tend?",
            "What have {x} and {y} had in their gardens?",
            "Name the crops and flowers that {x} and {y} cared for.",
        ),
        "be pleased with a voucher for a nursery",
    ),
    Theme(
        "sporting event",
        (
            ("the half marathon", "the twenty-one kilometre run", "the long road race"),
            ("the triathlon", "the swim-bike-run", "the three-part ordeal"),
            ("the regatta", "the sailing cup", "the dash across the bay"),
            ("the bouldering final", "the climbing championship", "the contest on the wall"),
            ("the table tennis tournament", "the ping-pong open", "the small-ball knockout"),
            ("the judo league", "the mat fights", "the black-belt series"),
            ("the cycling tour", "the pedal stages", "the five-day ride"),
            ("the slalom", "the gates on the snow", "the skiing day"),
            ("the rowing meet", "the eights on the canal", "the oar battle"),
            ("the orienteering", "the map and compass hunt", "the forest checkpoints"),
        ),
        (
            Action(
                "took part in {o}",
                (
                    "I had a number on my chest for {o}, what an atmosphere.",
                    "My legs are jelly after {o}.",
                    "Dead last but grinning, that was me at {o}.",
                ),
                ("compete in", "take part in", "enter"),
            ),
            Action(
                "won {o}",
                (
                    "Gold! Nobody was better than me at {o}.",
                    "They poured champagne over me after {o}.",
                    "I hold the trophy of {o} in my hands as I write.",
                ),
                ("win", "triumph in", "come out on top in"),
            ),
            Action(
                "dropped out of {o}",
                (
                    "A cramp ended {o} for me after an hour.",
                    "I had to stop halfway at {o} and take the bus.",
                    "My knee gave in, so {o} was over early.",
                ),
                ("drop out of", "withdraw from", "quit"),
            ),
            Action(
                "organised {o}",
                (
                    "All the permits for {o} went over my desk.",
                    "Three hundred people and one megaphone, that was me at {o}.",
                    "I handed out numbers and water at {o} until my voice was gone.",
                ),
                ("organise", "help to run", "be in charge of"),
            ),
        ),
        (
            "How did {x} fare at {o}?",
            "What was {x}'s part in {o}?",
            "What came of {o} for {x}?",
        ),
        (
            "Which sporting events was {x} part of?",
            "What competitions has {x} been involved in?",
            "Name the athletic contests in {x}'s year.",
        ),
        (
            "Which sporting events were {x} and {y} part of?",
            "What competitions have {x} and {y} been involved in?",
            "Name the athletic contests in the year of {x} and {y}.",
        ),
        "be likely to own a pair of worn running shoes",
    ),
    Theme(
        "celebration",
        (
            ("the wedding", "the marriage of two school friends", "the big day of bride and groom"),
            ("the housewarming", "the party in the new flat", "the moving-in bash"),
            ("the reunion", "the get-together of the class", "the evening with former pupils"),
            ("the carnival", "the masked parade", "the costume weekend"),
            ("the christening", "the baptism", "the baby's church ceremony"),
            ("the retirement do", "the farewell for the boss", "the goodbye to a colleague"),
            ("the silver anniversary", "the twenty-five years together", "the quarter century as a couple"),
            ("the harvest festival", "the village thanksgiving", "the autumn fair"),
            ("the graduation", "the degree ceremony", "the gowns and square caps"),
            ("the street party", "the neighbourhood feast", "the long tables on the road"),
        ),
        (
            Action(
                "gave a speech at {o}",
                (
                    "My hands shook with the microphone at {o}.",
                    "I told three old stories at {o} and people wept.",
                    "I raised my glass at {o} and talked for ten minutes.",
                ),
                ("give a speech at", "say a few words at", "address the guests of"),
            ),
            Action(
                "played music at {o}",
                (
                    "I had my guitar with me at {o} and nobody let me stop.",
                    "My band did two encores at {o}.",
                    "I was the DJ of {o} until dawn.",
                ),
                ("play music at", "perform at", "provide the entertainment for"),
            ),
            Action(
                "missed {o}",
                (
                    "I sat in a broken train for the whole of {o}.",
                    "Flu kept me in bed all through {o}.",
                    "I got the date wrong, so {o} went by without me.",
                ),
                ("miss", "fail to attend", "be absent from"),
            ),
            Action(
                "photographed {o}",
                (
                    "Nine hundred shots of {o} are on my memory card.",
                    "I ran around with two lenses at {o}.",
                    "I was behind the camera for all of {o}.",
                ),
                ("photograph", "take pictures at", "film"),
            ),
        ),
        (
            "What did {x} do at {o}?",
            "What was {x}'s role in {o}?",
            "How was {o} for {x}?",
        ),
        (
            "Which celebrations were part of {x}'s year?",
            "What festive occasions has {x} had to do with?",
            "Name the social gatherings in {x}'s calendar.",
        ),
        (
            "Which celebrations were part of the year of {x} and {y}?",
            "What festive occasions have {x} and {y} had to do with?",
            "Name the social gatherings in the calendars of {x} and {y}.",
        ),
        "be likely to say yes to a dinner with strangers",
    ),
)

TRAITS = (
    Trait(
        ("a land surveyor", "a court clerk", "a piano tuner", "a school nurse", "a tram driver", "an optician"),
        (
            "Being {v} has its days, my desk looks like a battlefield.",
            "They gave me a small raise, which does not happen often to {v}.",
            "Nine years as {v} and my back tells me about each of them.",
        ),
        ("What does {x} do for a living?", "What is {x}'s profession?", "Which job does {x} hold?"),
        "works as {v}",
    ),
    Trait(
        ("Porto", "Leeds", "Ghent", "Tampere", "Bologna", "Halifax", "Gdansk", "Graz"),
        (
            "The tram below my window in {v} starts rattling at five.",
            "Rent in {v} keeps climbing, landlords know no shame.",
            "You should see the fog over {v} from my balcony.",
        ),
        ("Which city does {x} live in?", "Where is {x}'s home?", "What town is {x} based in?"),
        "lives in {v}",
    ),
    Trait(
        ("spiders", "lifts", "thunderstorms", "snakes", "dentists", "balloons"),
        (
            "My heart goes like a drum whenever there are {v}, at my age!",
            "I will walk a mile to avoid {v}, do not laugh.",
            "I still get cold sweat from {v}, ever since I was small.",
        ),
        ("What is {x} afraid of?", "Which fear does {x} have?", "What scares {x}?"),
        "is afraid of {v}",
    ),
    Trait(
        ("a bookshop", "a guest house", "a bakery", "a sailing school", "a cinema", "a goat farm"),
        (
            "One day I will open {v}, mark my words.",
            "I keep sums on a napkin for {v} of my own.",
            "If I ever come into money it will be {v}, nothing else.",
        ),
        ("What is {x}'s dream?", "Which ambition does {x} have?", "What business does {x} hope to start?"),
        "dreams of having {v}",
    ),
    Trait(
        ("the oboe", "the banjo", "the double bass", "the harp", "the clarinet", "the ukulele"),
        (
            "The people downstairs have complained about me and {v} again.",
            "Scales on {v} are all that I managed this week.",
            "My fingertips are sore from an hour with {v}.",
        ),
        ("Which instrument does {x} play?", "What does {x} make music on?", "What is {x} practising as a musician?"),
        "plays {v}",
    ),
)

NAMES = (
    "Marta",
    "Jonas",
    "Priya",
    "Owen",
    "Leila",
    "Tomas",
    "Ines",
    "Felix",
    "Nadia",
    "Ruben",
    "Clara",
    "Anton",
    "Sofia",
    "Milo",
    "Greta",
    "Hugo",
    "Zora",
    "Emil",
    "Paula",
    "Dario",
)
COMPANIONS = (
    "Walt from next door",
    "Beatriz from the choir",
    "Yusuf from the gym",
    "Anneke from school",
    "Gregor from the bank",
    "Odette from upstairs",
    "Hector from the bakery",
    "Ruth from the library",
    "Casimir from the garage",
    "Philippa from the hospital",
    "Lorenz from the ferry",
    "Tova from the market",
    "Basil from the post office",
    "Carmen from the theatre",
    "Ned from the allotment",
    "Aiko from the museum",
)
JOINED = (  # {c} is a companion
    "{c} was at my side.",
    "I had {c} with me.",
    "{c} lent me a hand.",
)
ASKED_WHO = (  # {a} is an infinitive with its object
    "Who kept {x} company to {a}?",
    "Which person did {x} have as support to {a}?",
    "Whose help did {x} have to {a}?",
)
CAUSES = (  # {o} is what the cause was about
    "None of it would have come about without {o}.",
    "You know what pushed me to it? That whole story with {o}.",
    "It all goes back to {o}, if you ask me.",
    "After what I went through with {o} it had to be.",
)
ASKED_ROOT = (
    "Which earlier event was at the root of a chain that led {x} to {a}?",
    "Going back two steps, what made {x} {a}?",
    "What first set things in motion, in the end causing {x} to {a}?",
)
ASKED_WHEN = ("When did {x} {a}?", "On which date did {x} {a}?", "Which day saw {x} {a}?")
ASKED_ORDER = (
    "Which came first for {x}: to {a} or to {b}?",
    "Did {x} {a} or {b} earlier?",
    "What was earlier for {x}, to {a} or to {b}?",
)
TOLD_WHEN = ("That was {w}.", "It happened {w}.", "All of this {w}.")
NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

GREETINGS = (
    "Hi {y}! Good to hear from you, how is everything?",
    "Hey {y}, it has been a while. What is new?",
    "Hello {y}! I was just thinking of you.",
    "{y}! Perfect timing, I have just put the kettle on.",
    "Hey there {y}, how are you holding up?",
    "Hi {y}, do you have a minute to chat?",
)
ANSWERS = (
    "Hi {y}! All fine here, a bit tired.",
    "Hey {y}! Busy as ever, you know me.",
    "Hello {y}, so nice of you to ask. No complaints.",
    "{y}, hi! I have been meaning to write for days.",
    "Oh hi {y}! Things are good, mostly.",
)
REACTIONS = (
    "Oh wow, I did not see that coming!",
    "You never do things by halves, do you?",
    "That must have taken some nerve.",
    "Ha, I can picture your face.",
    "I am so proud of you, really.",
    "Oh no, and how do you feel about it now?",
    "Tell me more, I want every detail.",
    "That is quite something. Did you sleep afterwards?",
    "I would have done exactly the same.",
    "Seriously? You kept that quiet.",
    "What a week you are having!",
    "And what did your family say?",
    "Sounds like a story for the grandchildren.",
    "Good for you! I could never.",
    "Hm, that sounds like a lot. Are you all right?",
    "I am a little jealous, I admit.",
)
GOODBYES = (
    "I have to run, talk soon {y}!",
    "Lovely to chat, take care {y}.",
    "My battery is dying, bye for now {y}!",
    "Let us do this more often, {y}. Bye!",
    "Time for bed here. Good night {y}!",
)
SMALL_TALK = (
    "The weather has been {mood} here, I never know what to wear.",
    "I have started a new series about {topic} and cannot stop watching.",
    "My phone has been acting up since {day}.",
    "Traffic was {mood} on {day}, I almost turned around.",
    "I read an article about {topic} and thought of you.",
    "My night was {mood} again, it must be the full moon.",
    "{person} asked me how you are, by the way.",
    "Do you ever think about {topic}? I do, more than I should.",
    "I tried to call {person} on {day}, no luck.",
    "The coffee at my usual corner has become {mood}.",
    "I need a haircut, it looks {mood}.",
    "I promised {person} to stop talking about {topic}.",
    "There is a strange noise in the stairwell since {day}.",
    "My calendar is {mood} this month, is yours too?",
    "{person} and I had a long debate about {topic}.",
    "I have three books about {topic} on my night table and opened none.",
    "The music next door was {mood} on {day}, I wore ear plugs.",
    "I cleaned out a drawer on {day} and found letters from {person}.",
    "I am trying to drink more water, with {mood} results.",
    "The bus driver told me everything about {topic}, unasked.",
    "My inbox is {mood}, I answer what is on fire.",
    "They are digging up our street again, so {day} was {mood}.",
    "{person} sends me jokes about {topic} every morning.",
    "I forgot my keys on {day} and had to wait for {person}.",
    "The radio said something about {topic}, did you hear?",
    "I had a dream about {topic}, of all things.",
    "Our lift is out of order since {day}, my calves are thankful.",
    "I keep mixing up {person} and the man from the kiosk.",
    "It got dark so early on {day}, and the light was {mood}.",
    "Prices at the corner shop are {mood} lately, I keep the receipts.",
)
FOLLOW_UPS = (
    "How about you?",
    "Anyway.",
    "Does that happen to you too?",
    "I should not complain though.",
    "What do you make of that?",
    "But never mind me.",
    "One gets used to everything, I suppose.",
    "It could be worse.",
    "Perhaps I am getting old.",
    "You would have laughed.",
    "I will let you know how it goes.",
    "Some things never change.",
)
FILL = {
    "mood": ("dreadful", "wonderful", "so-so", "rather wild", "dull", "better than expected", "terrible", "odd"),
    "topic": (
        "the deep sea",
        "old trains",
        "volcanoes",
        "the Vikings",
        "handwriting",
        "bridges",
        "robots",
        "space travel",
        "deserts",
        "medieval kings",
        "sleep research",
        "old maps",
    ),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "the weekend"),
    "person": ("Gustav", "my aunt", "Harriet", "the caretaker", "my cousin Lou", "Benny", "my godmother", "Silas"),
}
VIEWS = (
    "a sunset over rooftops",
    "a cup of tea on a window sill",
    "an empty road in the rain",
    "a cloudy sky",
    "a crowded platform",
    "a pair of muddy shoes",
)
