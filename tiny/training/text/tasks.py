"""Little `[INST]` tasks with exact answers: repeat, reverse, sort, a fact asked back, and small sums."""
import zlib
from typing import NamedTuple

import numpy as np

KINDS = ("repeat", "reverse", "sort", "fact", "sum")

# Common words of many lengths, so that copying is learnt as an operation and not as a list.
WORDS = """
air ant apple arm arrow autumn baby back bag baker ball banana bank barn basket bath beach bean bear bed bee
bell bench berry bicycle bird birthday blanket boat body bone book boot bottle bowl box boy branch brave
bread breakfast brick bridge bright broken brother brown brush bucket bus butter butterfly button cake calm
camel camera candle captain car carpet carrot castle cat cave chair chalk cheese cherry chicken child church
circle city clean clever clock cloud coat coffee coin cold cook corn corner cotton country cousin cow cream
crown cup curtain dance danger dark daughter day deep deer desk dinner dirty dish doctor dog door dragon
dream dress drink drum dry duck dust eagle ear early earth east egg elephant empty engine evening eye face
family farm farmer fast father feather fence field finger fire fish flag flat flower fly foot forest fork
fox friend frog fruit full garden gate gentle giant giraffe girl glass glove goat gold goose grain
grandmother grape grass green ground guitar hair half hammer hand happy hard hat head heart heavy hen hill
hole holiday honey horse hot hotel hour house hungry ice ink insect iron island jacket jar juice jump kettle
key kind king kitchen kite kitten knee knife ladder lake lamb lamp land large late leaf leather left lemon
lesson letter library light lion lip little lock long loud lucky lunch machine magic map market meadow meat
melon metal milk minute mirror money monkey month moon morning mother mountain mouse mouth mud music nail
name narrow neck needle nest net new night noise north nose nurse nut ocean office oil old onion open orange
orchard oven owl page paint palace pan paper parrot party path pear pen pencil penguin people pepper picture
pig pigeon pillow pipe plane plant plate pocket poem pony pool poor potato present prince princess proud
puppy purple purse quick quiet rabbit radio rain rainbow red rice rich right ring river road roof room root
rope rose round rug sad sail salt sand school scissors sea season seat seed shadow shallow sharp sheep shell
ship shirt shoe shop short shoulder silent silver sister skin sky sleep slow small smile snail snow soap
sock soft soldier song soup south spider spoon spring square squirrel stable star station stone storm story
strange straw street strong sugar summer sun sweet table tail tall tea teacher tent thick thin thread
thunder ticket tiger tired toast tomato tooth tower town toy train tree triangle turtle umbrella uncle
valley vegetable village violin visitor voice wagon wall warm watch water wave weather wedding week west wet
wheat wheel whistle white wide wild wind window wing winter wise wolf woman wood wool word world worm yard
year yellow young zebra
""".split()
NAMES = """
Adam Alice Amy Anna Ben Beth Carl Clara Dan David Emma Eva Fred George Grace Hugo Ivan Jack Jane John Julia
Kate Leo Lily Lucy Mark Mary Max Mia Nina Noah Oscar Paul Peter Rosa Ruth Sam Sara Tom Will
""".split()
COLOURS = "red blue green yellow black white brown pink grey purple".split()
THINGS = """
kite ball hat coat book cup boat drum lamp scarf bag bike car box pen ring bell chair shirt clock
""".split()
FOODS = "apples bread cheese soup rice pears eggs honey grapes fish cake beans corn plums milk nuts".split()
COUNTED = "apples pears eggs books coins shells stones cups stamps nuts plums pens cards keys".split()
ANIMALS = "cat dog hen pig cow fox goat duck horse mouse rabbit sheep frog owl bear".split()
PLACES = """
garden kitchen barn house forest field shop park school river cave yard street station castle market
""".split()

REPEAT = ("Repeat the words: {}", "Say these words again: {}", "Copy this: {}", "Repeat after me: {}",
          "Write down: {}")
REVERSE = ("Reverse the words: {}", "Say these words backwards: {}", "Write in reverse order: {}",
           "Turn around: {}")
SORT_NUMBERS = ("Sort the numbers: {}", "Put these numbers in order: {}", "From small to large: {}")
SORT_WORDS = ("Sort the words: {}", "Put these words in order: {}", "From A to Z: {}")
PLUS = ("What is {} plus {}?", "Add {} and {}.", "{} + {} =", "How much is {} and {}?")
MINUS = ("What is {} minus {}?", "From {} take away {}.", "{} - {} =", "How much is {} less {}?")


class Task(NamedTuple):
    """One turn of a chat: its kind, what the user says, and the only right answer."""

    kind: str
    prompt: str
    answer: str


def generate(rng: np.random.Generator, kind: str | None = None, held_out: bool = False) -> Task:
    """Draw a task of the given kind, or of any, from the training prompts or from the held-out ones.

    Raises: ValueError for an unknown kind.
    """
    if kind is not None and kind not in MAKERS:
        raise ValueError(f"unknown kind of task {kind!r}: give one of {', '.join(KINDS)}, or None for any")
    chosen = kind if kind is not None else _one(rng, KINDS)
    while True:
        prompt, answer = MAKERS[chosen](rng)
        if is_held_out(prompt) == held_out:
            return Task(chosen, prompt, answer)


def is_held_out(prompt: str) -> bool:
    """Say whether a prompt belongs to the held-out twentieth, by its text alone, the same everywhere."""
    return zlib.crc32(prompt.encode("utf-8")) % 20 == 0


def _one(rng, items):
    return items[int(rng.integers(len(items)))]


def _some(rng, items, count: int) -> list:
    """Draw `count` different items in random order."""
    chosen: list = []
    while len(chosen) < count:
        item = _one(rng, items)
        if item not in chosen:
            chosen.append(item)
    return chosen


def repeat(rng) -> tuple[str, str]:
    """Two to six words, to be said again."""
    words = " ".join(_some(rng, WORDS, int(rng.integers(2, 7))))
    return _one(rng, REPEAT).format(words), words


def reverse(rng) -> tuple[str, str]:
    """Two to four words, to be said backwards."""
    words = _some(rng, WORDS, int(rng.integers(2, 5)))
    return _one(rng, REVERSE).format(" ".join(words)), " ".join(words[::-1])


def sort(rng) -> tuple[str, str]:
    """Three or four numbers below 100, or words with different first letters."""
    count = int(rng.integers(3, 5))
    if rng.integers(2):
        numbers = _some(rng, range(100), count)
        shown, answer = (" ".join(map(str, row)) for row in (numbers, sorted(numbers)))
        return _one(rng, SORT_NUMBERS).format(shown), answer
    words = _some(rng, WORDS, count)
    while len({word[0] for word in words}) < count:
        words = _some(rng, WORDS, count)
    return _one(rng, SORT_WORDS).format(" ".join(words)), " ".join(sorted(words))


def add(rng) -> tuple[str, str]:
    """A sum or a difference of numbers up to 20; no result is negative."""
    a, b = int(rng.integers(21)), int(rng.integers(21))
    if rng.integers(2):
        return _one(rng, PLUS).format(a, b), str(a + b)
    return _one(rng, MINUS).format(max(a, b), min(a, b)), str(abs(a - b))


def fact(rng) -> tuple[str, str]:
    """Facts about two or three, and a question about one of them."""
    return _one(rng, (owned, counted, placed, liked, introduced))(rng)


def _join(sentences: list[str]) -> str:
    """Join two or three statements into a sentence: `a and b.`, `a, b and c.`"""
    return ", ".join(sentences[:-1]) + " and " + sentences[-1] + "."


def _people(rng) -> tuple[int, list[str], int]:
    """How many people, who they are, and which of them the question is about."""
    count = int(rng.integers(2, 4))
    return count, _some(rng, NAMES, count), int(rng.integers(count))


def owned(rng) -> tuple[str, str]:
    """`Tom has a red kite and Ann has a blue ball. What colour is Ann's ball?`"""
    count, names, i = _people(rng)
    colours, things = _some(rng, COLOURS, count), _some(rng, THINGS, count)
    facts = _join([f"{n} has a {c} {t}" for n, c, t in zip(names, colours, things, strict=True)])
    question, answer = _one(rng, (
        (f"What colour is {names[i]}'s {things[i]}?", colours[i]),
        (f"What colour is the {things[i]}?", colours[i]),
        (f"Who has the {things[i]}?", names[i]),
        (f"Who has something {colours[i]}?", names[i]),
        (f"What does {names[i]} have?", f"a {colours[i]} {things[i]}"),
    ))
    return f"{facts} {question}", answer


def counted(rng) -> tuple[str, str]:
    """`Sam has 3 apples and Eva has 7 pears. How many pears does Eva have?`"""
    count, names, i = _people(rng)
    numbers, things = _some(rng, range(2, 21), count), _some(rng, COUNTED, count)
    facts = _join([f"{n} has {k} {t}" for n, k, t in zip(names, numbers, things, strict=True)])
    question, answer = _one(rng, (
        (f"How many {things[i]} does {names[i]} have?", str(numbers[i])),
        (f"How many {things[i]} are there?", str(numbers[i])),
        (f"Who has the {things[i]}?", names[i]),
        (f"What does {names[i]} have?", f"{numbers[i]} {things[i]}"),
    ))
    return f"{facts} {question}", answer


def placed(rng) -> tuple[str, str]:
    """`The cat is in the garden and the dog is in the kitchen. Where is the dog?`"""
    count, _, i = _people(rng)
    animals, places = _some(rng, ANIMALS, count), _some(rng, PLACES, count)
    facts = _join([f"the {a} is in the {p}" for a, p in zip(animals, places, strict=True)])
    question, answer = _one(rng, (
        (f"Where is the {animals[i]}?", f"in the {places[i]}"),
        (f"Who is in the {places[i]}?", f"the {animals[i]}"),
    ))
    return f"T{facts[1:]} {question}", answer


def liked(rng) -> tuple[str, str]:
    """`Tom likes apples and Mia likes bread. Who likes bread?`"""
    count, names, i = _people(rng)
    foods = _some(rng, FOODS, count)
    facts = _join([f"{n} likes {f}" for n, f in zip(names, foods, strict=True)])
    question, answer = _one(rng, (
        (f"What does {names[i]} like?", foods[i]),
        (f"Who likes {foods[i]}?", names[i]),
    ))
    return f"{facts} {question}", answer


def introduced(rng) -> tuple[str, str]:
    """`My name is Tom, I like soup and I live near the river. What is my name?`"""
    name, food, place, colour = _one(rng, NAMES), _one(rng, FOODS), _one(rng, PLACES), _one(rng, COLOURS)
    facts = f"My name is {name}, I like {food}, I live near the {place} and my coat is {colour}."
    question, answer = _one(rng, (
        ("What is my name?", name),
        ("What do I like?", food),
        ("Where do I live?", f"near the {place}"),
        ("What colour is my coat?", colour),
    ))
    return f"{facts} {question}", answer


MAKERS = {"repeat": repeat, "reverse": reverse, "sort": sort, "fact": fact, "sum": add}
