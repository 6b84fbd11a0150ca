"""Little stories from a grammar, for a model too small to be coherent about more, and their parser.

One TABLE serves generator and parser. An entry is one thing that can happen, `name: needs -> does`; below it
stand its phrasings, separated by line ends or " / ". `[a|b]` is a free choice, `{view.V}` shows variable V:

    A, B  the hero and the friend         X, Y     whoever acts, and the other of the two
    C     someone met on the way          K        the kind of animal the friend is
    T, U  the thing; something to eat     P, Q, R  the place where X is, another place, a place seen before

A world is a dict of facts: `at.Tom` (a place), `has` and `own` (who holds and who owns the thing), `lies`
(where it is while nobody has it), `gave` (who gave it to the stranger), `gift` (who has the food),
`mood.Tom`, `owes` (who has a friend to thank), `topic` (who acted last), `been` (places). `needs` lists
`fact=value` and `fact!=value`; `does` lists `fact=value` and `+V`, which brings V into the story. Three rules
are not written in the table and hold everywhere: P is where X is, and Q is not; X and Y, or X and C, are in
the same place (unless the entry needs `at.Y`); a sentence that says only "he" or "she" means who acted last.
The hero and the friend are never of the same sex, so that pronouns are clear.
"""

import re
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

BOYS = "Tom Ben Sam Jack Leo Max Finn Noah Adam Luke Oscar Hugo Peter Paul Theo Will".split()
GIRLS = "Anna Lily Mia Rose Emma Zoe Ella Ruby Clara Nina Sara Lucy Kate Eva Molly June".split()
HE_ANIMALS = "Pip Rex Bruno Otto Toby Biscuit".split()
SHE_ANIMALS = "Mimi Luna Daisy Bella Coco Tilly".split()
ANIMALS = "dog cat rabbit mouse duck fox frog goat bear pony".split()
PLACES = dict(river="by", lake="by", pond="by", sea="by", forest="in", garden="in", park="in", meadow="in",
              barn="in", village="in", market="at", farm="at", mill="at", hill="on", bridge="on", beach="on")
COLOURS = "red blue green yellow white black pink brown orange silver golden purple".split()
THINGS = "kite ball hat scarf cup bell book key ring shell boat ribbon drum lamp feather spoon".split()
FOODS = "cake pie bun pear plum cookie apple orange pancake peach".split()
STRANGERS = ("old man", "old woman", "farmer", "baker", "old owl", "lonely donkey", "little hedgehog",
             "young shepherd", "tired horse")

TABLE = """
open: -> +A +P at.A=P
    One [sunny|windy|cold|warm|rainy|quiet] [day|morning|afternoon], {kid.A} [went|walked|ran] to {P}.
    [Early one morning|Late one afternoon|After breakfast|After school], {kid.A} [went|walked|ran] to {P}.
    Once there was a [kind|shy|brave|merry|little] {boy.A} named {kid.A} who [liked|loved] to play {in.P}.
    One day, a [kind|shy|brave|merry|little] {boy.A} named {kid.A} was [playing|sitting|walking] {in.P}.
meet: -> +B +T at.B=P has=A own=A
    {he.A} had {a.T}, and {his.A} friend {kid.B} was there too.
    {his.A} friend {kid.B} came along, and {A} had {a.T}.
    There {he.A} met {his.A} friend {kid.B} and showed {him.B} {a.T}.
meet: -> +B +T at.B=P has=B own=B
    {his.A} friend {kid.B} was there with {a.T}. / Soon {his.A} friend {kid.B} came along with {a.T}.
    There {he.A} met {his.A} friend {kid.B}, who had {a.T}.
meet: -> +B +K +T at.B=P has=A own=A
    {he.A} had {a.T} and a [small|clever|brave] {K} named {pet.B}.
    {his.A} {K} {pet.B} came too, and {A} had {a.T} to play with.
meet: -> +B +K +T at.B=P has=B own=B
    There {he.A} met a [small|shy|clever] {K} named {pet.B}, who had {a.T}.
    {his.A} {K} {pet.B} was there too and had {a.T}.
play: own=X has=X ->
    {X} [liked|loved] {his.X} {T} more than anything. / "It is the best {T} in the world," said {X}.
    {X} and {Y} played with the {red.T}. / {in.P}, {X} showed {Y} a [new|funny] game with the {T}.
admire: own=Y has=Y ->
    "What a [lovely|fine|pretty] {T}!" said {X}. / {X} looked at the {red.T} and [smiled|clapped for joy].
    "I wish I had {a.T} too," said {X}. / "May I hold your {T}, {Y}?" asked {X}.
lend: own=X has=X -> has=Y owes=Y mood.Y=glad
    {X} let {Y} play with the {T}. / "Here, you may try it," said {X}, and gave the {T} to {Y}.
    {X} was kind and gave {Y} the {T} for a while.
enjoy: own=Y has=X ->
    {X} played with the {red.T} and laughed. / {in.P}, {X} ran around with the {T}.
    "This is fun!" [said|called] {X}, and held the {red.T} up high.
return: own=Y has=X -> has=Y
    Then {X} gave the {T} back to {Y}. / "Here is your {red.T}," said {X}, and gave it back to {Y}.
lose: own=X has=X -> has=nobody lies=P mood.X=sad
    [Then|But then] {X} dropped the {T} and could not see it. / Suddenly {X} saw that {his.X} {T} was gone.
    [Then|But then] {X} put the {T} down and forgot where it was.
taken: own=X has=X -> has=nobody lies=Q mood.X=sad
    [Suddenly|Then] a [big|black|cheeky] bird took the {T} from {X} and dropped it {in.Q}.
    [Suddenly|Then] a strong wind took the {T} from {X} and blew it to {Q}.
cry: own=X has=nobody mood.X=sad ->
    "Oh no, my {red.T} is gone!" [said|cried] {X}. / "Where is my {T}?" cried {X}.
    {X} was so sad that {he.X} began to cry. / {he.X} [sat down and cried|felt like crying|was very sad].
comfort: own=Y has=nobody mood.Y=sad ->
    "[Do not cry|Do not be sad|Do not worry], {Y}," said {X}. / "I will help you find your {T}," said {X}.
    {X} hugged {Y} and said, "We will find it."
search: has=nobody lies=P ->
    {X} and {Y} looked [everywhere|for a long time] {in.P}.
    They looked [high and low|here and there] {in.P}.
find: own=Y has=nobody lies=P -> has=X
    [At last|Soon|Then] {X} found the {red.T} [behind a stone|under a leaf|behind a basket|near a wall].
    "Look, here is the {T}!" [called|cried] {X}, and picked it up.
    {in.P}, {X} saw something {colour.T} and picked up the {T}.
find_own: own=X has=nobody lies=P -> has=X mood.X=glad owes=X
    [At last|Soon|Then] {X} found {his.X} {red.T} [behind a stone|under a leaf|behind a basket|near a wall].
    "Look, here is my {T}!" [called|cried] {X}, and picked it up.
    {in.P}, {X} saw something {colour.T}, and it was {his.X} {T}.
give_back: own=Y has=X -> has=Y mood.Y=glad owes=Y
    {X} gave the {T} to {Y}. / {X} gave {Y} the {red.T} with a [smile|laugh].
    "Here is your {T}, {Y}," said {X}, and gave it to {him.Y}.
thank: owes=X -> owes=nobody
    "Thank you, {Y}," said {X}. / "You are a good friend, {Y}," said {X}. / {X} [thanked|hugged] {Y}.
    {X} thanked {Y} and danced with {him.Y} {in.P}.
glad: mood.X=glad ->
    {X} was [very|so] happy. / {X} [smiled and jumped for joy|laughed and sang a song|felt warm and happy].
    {X} [smiled|laughed] and clapped {his.X} hands.
go: -> at.A=Q at.B=Q
    Together they [ran|walked] to {Q}. / Then {X} and {Y} [went|walked|ran] to {Q}.
    "Let us go to {Q}," said {X}, and off they went.
fetch: own=Y has=nobody -> at.X=Q
    {X} ran to {Q} alone, and {Y} waited {in.P}. / "Wait here, {Y}," said {X}, and ran to {Q}.
come_back: at.Y=Q has=X -> at.X=Q
    {X} ran back to {Q}, where {Y} was waiting. / Then {X} came back to {Y} {in.Q}.
stranger: -> +C at.C=P mood.C=sad
    {in.P} they met {a.C} who looked [very|so] sad. / {in.P}, {X} saw {a.C} who was sad and alone.
    There they saw {a.C} sitting all alone {in.P}.
wish: mood.C=sad ->
    "I have never had {a.T}," said {C}. / "Nobody ever gives me anything," said {C}.
    "Why are you sad?" asked {X}, and {C} said nothing.
give_away: own=X has=X mood.C=sad -> has=C own=C gave=X mood.X=glad
    {X} gave {his.X} {red.T} to {C}. / "You may have my {T}," said {X}, and gave it to {C}.
reward: has=C gave=X -> +U gift=X
    {C} [smiled|laughed] and gave {X} {a.U}. / "Thank you," said {C}, and gave {X} {a.U}.
share: gift=X -> gift=nobody
    {X} and {Y} [shared|ate] the {U} {in.P}. / {X} gave {Y} half of the {U}.
    "Let us share the {U}," said {X} to {Y}, and they did.
end: has=X -> end=yes
    They went home, and {X} carried the {red.T}. / {X} took the {red.T}, and they walked home together.
end: has!=nobody -> end=yes
    When the sun went down, {X} and {Y} walked home. / Then they went home, and it was the best day of all.
    {X} and {Y} laughed all the way home. / It was late, and {X} and {Y} went home happy.
end: has=C gave=X -> end=yes
    {X} and {Y} waved to {C} and went home. / {C} kept the {red.T}, and {X} and {Y} went home happy.
home: has!=nobody -> at.A=home at.B=home
    In the evening, {X} and {Y} went home. / "It is late," said {X}, and they went home.
    When the stars came out, they went home.
bed: own=X has=X at.X=home -> end=yes
    At home, {X} put the {red.T} by {his.X} bed and fell asleep.
    That night, {X} slept with the {T} by {his.X} side.
bed: has!=nobody at.X=home -> end=yes
    In bed, {X} thought of {R} and smiled. / That night, {X} dreamed of {R}.
    "Good night, {Y}," said {X}, and they both fell asleep.
"""
PLOTS = [plot.split() for plot in (  # What happens in a story, in order; a question mark: perhaps.
    "open meet play? lose cry? comfort? search? find give_back thank? glad?",
    "open meet play? lose cry? comfort? search? find_own thank glad?",
    "open meet play? taken cry? comfort? go search? find give_back thank?",
    "open meet taken cry? fetch find come_back give_back thank?",
    "open meet play? admire? lend enjoy? return thank go? glad?",
    "open meet play? admire? go stranger wish? give_away glad?",
    "open meet admire? go stranger wish? give_away reward share")]
KIND = dict(A="who", B="who", X="who", Y="who", P="place", Q="place", R="place", T="thing", U="food",
            C="stranger", K="animal")
NAMING = ("", "kid", "pet", "in", "a")     # The views from which the parser learns a new variable's value.


class Story(NamedTuple):
    """One story: `text` is one ASCII paragraph, `opening` its first two sentences: who is where with what."""
    text: str
    opening: str


@dataclass(frozen=True)
class Report:
    """What `check` found: errors of kind grammar, length, ending, who, pronoun, where, whose and order."""
    accepted: bool          # Every sentence was read, there are 6 to 10, the last and no other is an ending.
    consistent: bool        # Every sentence was read; who, where, whose and in what order never contradict.
    who_and_where: bool     # Every sentence was read; who and where never contradict.
    errors: list[str]       # "kind: sentence number: what is wrong: sentence"


class Phrase(NamedTuple):
    """One phrasing of one entry: `parts` (strings, choices, slots) to write it, `pattern` to read it."""
    beat: str
    needs: list             # [(fact, "=" or "!=", value)]
    does: list              # [(fact, value)]
    new: set                # The variables that it brings into the story.
    parts: list
    slots: list             # [(view, variable)], in the order of the pattern's groups.
    pattern: re.Pattern
    variables: set
    unnamed: bool           # X is spoken of by a pronoun only.
    together: bool          # "they": the hero and the friend are both meant.


def article(words):
    """Return the words with "a" or "an" before them."""
    return ("an " if words[0] in "aeiou" else "a ") + words


def capital(text):
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def spellings():
    """Return {(kind, view): {value: how it is written}}; the view "" is the plain one."""
    boys, girls, show = BOYS + HE_ANIMALS, GIRLS + SHE_ANIMALS, {}
    for he, she in (("he", "she"), ("him", "her"), ("his", "her"), ("boy", "girl")):
        show["who", he] = dict.fromkeys(boys, he) | dict.fromkeys(girls, she)
    for view, names in (("", boys + girls), ("kid", BOYS + GIRLS), ("pet", HE_ANIMALS + SHE_ANIMALS)):
        show["who", view] = {name: name for name in names}
    show["place", ""] = {place: f"the {place}" for place in PLACES}
    show["place", "in"] = {place: f"{word} the {place}" for place, word in PLACES.items()}
    show["animal", ""] = {animal: animal for animal in ANIMALS}
    show["stranger", ""] = {who: f"the {who if 'old' in who else who.split()[-1]}" for who in STRANGERS}
    show["stranger", "a"] = {who: article(who) for who in STRANGERS}
    show["food", ""] = {food: food for food in FOODS}
    show["food", "a"] = {food: article(food) for food in FOODS}
    things = [f"{colour} {thing}" for colour in COLOURS for thing in THINGS]
    show["thing", "red"], show["thing", "a"] = {t: t for t in things}, {t: article(t) for t in things}
    show["thing", "colour"], show["thing", ""] = ({t: t.split()[part] for t in things} for part in (0, 1))
    return show


def compile_phrase(beat, needs, does, text):
    """Return the Phrase of one phrasing of an entry."""
    parts: list = []
    pattern = ""
    for piece in filter(None, re.split(r"(\{[^}]+\}|\[[^\]]+\])", text)):
        if piece[0] == "{":
            view, _, variable = piece[1:-1].rpartition(".")
            written = sorted(set(SHOW[KIND[variable], view].values()), key=lambda word: (-len(word), word))
            pattern += f"({'|'.join(written if parts else map(capital, written))})"
            parts.append((view, variable))
        elif piece[0] == "[":
            parts.append(piece[1:-1].split("|"))
            pattern += f"(?:{'|'.join(parts[-1])})"
        else:
            parts.append(piece)
            pattern += re.escape(piece)
    slots = [part for part in parts if isinstance(part, tuple)]
    variables = {variable for _, variable in slots}
    return Phrase(beat, re.findall(r"([\w.]+?)(!?=)(\w+)", needs),
                  [tuple(fact.split("=")) for fact in does.split() if fact[0] != "+"],
                  set(re.findall(r"\+(\w)", does)), parts, slots, re.compile(pattern), variables,
                  "X" in variables and ("", "X") not in slots,
                  re.search(r"\bthey\b", text, re.IGNORECASE) is not None)


def compile_table():
    """Return {name of what happens: [Phrase, ...]}."""
    phrases: dict = {}
    for line in TABLE.strip().splitlines():
        if line[0] != " ":
            beat, needs, does = re.findall(r"^(\w+): (.*?) ?->(.*)$", line)[0]
        else:
            texts = line.strip().split(" / ")
            phrases.setdefault(beat, []).extend(compile_phrase(beat, needs, does, text) for text in texts)
    return phrases


def words():
    """Return the set of all words of the grammar, in lower case."""
    texts = [re.sub(r"(?m)\{.*?\}|^\w.*", "", TABLE)]
    texts += [text for written in SHOW.values() for text in written.values()]
    return set(re.findall(r"[a-z]+", " ".join(texts).lower()))


SHOW = spellings()
PHRASES = compile_table()
WORDS = words()


def meaning(name, bind, state):
    """Return what a fact's value stands for: a variable's value (None if it has none), or the word itself."""
    return (bind.get(name) or state.get(name)) if name in KIND else name


def fact_name(fact, bind, state):
    """Return the fact with its variable replaced: "at.X" becomes "at.Tom"."""
    head, dot, variable = fact.partition(".")
    return f"{head}.{meaning(variable, bind, state)}" if dot else fact


def cast_faults(phrase, bind, state):
    """Return what is wrong with who takes part in a sentence."""
    if not state and phrase.beat != "open":
        return ["who: nobody has been introduced"]
    old = sorted(phrase.variables - phrase.new)
    wrong = [f"who: {bind[v]} is brought in twice" for v in sorted(phrase.new) if v in state]
    wrong += [f"who: there is no {KIND[v]} to speak of" for v in old if not meaning(v, bind, state)]
    wrong += [f"who: {bind[v]} is not in this story" for v in sorted({"X", "Y"} & phrase.variables)
              if bind[v] and bind[v] not in (state["A"], state.get("B"))]
    if phrase.variables >= {"X", "Y"} and bind["X"] == bind["Y"]:
        wrong.append(f"who: {bind['X']} is two people here")
    return wrong


def faults(phrase, bind, state):
    """Return what is wrong with a sentence in this world, as ["kind: what"]: who, where, whose or order."""
    wrong = cast_faults(phrase, bind, state)
    if wrong or phrase.beat == "open":
        return wrong
    actor = bind.get("X") or state["A"]
    here = state.get(f"at.{actor}")
    if "P" in phrase.variables and bind["P"] != here or "Q" in phrase.variables and bind["Q"] == here:
        wrong.append(f"where: {actor} is at {here}")
    if "R" in phrase.variables and bind["R"] not in state["been"]:
        wrong.append(f"where: nobody has been at {bind['R']}")
    apart = ("at.Y", "=", "Q") in phrase.needs
    beside = [bind["Y"]] if "Y" in phrase.variables and not apart else []
    beside += [state["C"]] if "C" in phrase.variables - phrase.new else []
    beside += [state["A"], state.get("B")] if phrase.together else []
    wrong += [f"where: {who} is not where {actor} is" for who in beside if state.get(f"at.{who}") != here]
    kinds = dict(at="where", lies="where", mood="order", owes="order")
    for fact, relation, value in phrase.needs:
        fact, wanted = fact_name(fact, bind, state), meaning(value, bind, state)
        if (wanted is not None and state.get(fact) == wanted) != (relation == "="):
            kind = kinds.get(fact.partition(".")[0], "whose")
            not_ = " not" if relation == "!=" else ""
            wrong.append(f"{kind}: {fact} is {state.get(fact)}, and should{not_} be {wanted}")
    return wrong


def happen(phrase, bind, state):
    """Change the world as the sentence says."""
    state |= {variable: bind[variable] for variable in phrase.new}
    for fact, value in phrase.does:
        state[fact_name(fact, bind, state)] = meaning(value, bind, state)
        if fact.startswith("at."):
            state["been"] = [*state.get("been", ()), meaning(value, bind, state)]
    state["topic"] = bind["X"] if "X" in phrase.variables else None


def is_held_out(hero, friend, place, thing):
    """Return whether stories that open with this combination are kept from training (about 1 in 20)."""
    return zlib.crc32(f"{hero} {friend} {place} {thing}".encode("ascii")) % 20 == 0


def choose_opening(draw, held_out):
    """Return {variable: value} for hero A, friend B, animal K (None for a child), place P and thing T."""
    while True:
        hero, animal = draw(BOYS + GIRLS), draw(ANIMALS) if draw((False, False, True)) else None
        boys, girls = (HE_ANIMALS, SHE_ANIMALS) if animal else (BOYS, GIRLS)
        friend, place = draw(girls if hero in BOYS else boys), draw(list(PLACES))
        thing = f"{draw(COLOURS)} {draw(THINGS)}"
        if is_held_out(hero, friend, place, thing) == held_out:
            return dict(A=hero, B=friend, K=animal, P=place, T=thing)


def choose_plot(draw):
    """Return the happenings of a story of 6 to 10 sentences, in order."""
    while True:
        plot = draw(PLOTS) + draw((["end"], ["home", "bed"]))
        plot = [beat.rstrip("?") for beat in plot if beat[-1] != "?" or draw((True, False, False))]
        if 6 <= len(plot) <= 10:
            return plot


def bindings(phrase, opening, state, draw):
    """Yield ways to give the phrase's variables values in this world."""
    if "B" not in state:
        yield opening
        return
    new = dict(C=draw(STRANGERS), U=draw(FOODS))
    visited = [place for place in state["been"] if place != "home"]
    unseen = draw([place for place in PLACES if place not in visited])
    elsewhere = state["lies"] if state["has"] == "nobody" else unseen
    for x, y in (("A", "B"), ("B", "A"))[::draw((1, -1))]:
        x, y = state[x], state[y]
        goal = state[f"at.{y}"] if ("at.Y", "=", "Q") in phrase.needs else elsewhere
        yield dict(X=x, Y=y, P=state[f"at.{x}"], Q=goal, R=draw(visited)) | {v: new[v] for v in phrase.new}


def fits(phrase, bind, state):
    """Return whether the sentence may come next: it can be written, nothing is wrong, "he" is clear."""
    return (all(meaning(v, bind, state) in SHOW[KIND[v], view] for view, v in phrase.slots)
            and not faults(phrase, bind, state) and (not phrase.unnamed or state["topic"] == bind["X"]))


def write(phrase, bind, state, draw):
    """Return the sentence."""
    words = [part if isinstance(part, str) else draw(part) if isinstance(part, list)
             else SHOW[KIND[part[1]], part[0]][meaning(part[1], bind, state)] for part in phrase.parts]
    return capital("".join(words))


def generate(rng: np.random.Generator, held_out: bool = False) -> Story:
    """Return one Story drawn with a NumPy generator; held-out ones have openings that no other story has.

    Order: opening, plot, then sentence by sentence; a generator in the same state gives the same story.
    """
    numbers = (number for _ in iter(int, 1) for number in rng.random(128).tolist())

    def draw(options):
        return options[int(next(numbers) * len(options))]

    state: dict = {}
    opening, sentences = choose_opening(draw, held_out), []
    for beat in choose_plot(draw):
        phrases = sorted(PHRASES[beat], key=lambda _: next(numbers))
        phrase, bind = next((phrase, bind) for phrase in phrases
                            for bind in bindings(phrase, opening, state, draw) if fits(phrase, bind, state))
        sentences.append(write(phrase, bind, state, draw))
        happen(phrase, bind, state)
    return Story(" ".join(sentences), " ".join(sentences[:2]))


def understand(phrase, groups, state):
    """Return ({variable: value}, errors) of a sentence that matched, from what stands in its slots."""
    bind = {"X": state.get("topic")} if phrase.unnamed else {}
    for (view, v), group in zip(phrase.slots, groups):
        if view in NAMING and v not in bind and (v in phrase.new or v in "XYPQR"):
            values = SHOW[KIND[v], view].items()
            bind[v] = next(value for value, written in values if group in (written, capital(written)))
    if "Y" not in bind:
        bind["Y"] = state.get("B") if bind.get("X") == state.get("A") else state.get("A")
    bind.setdefault("P", state.get(f"at.{bind.get('X') or state.get('A')}"))
    wrong = []
    for (view, v), group in zip(phrase.slots, groups):
        value = meaning(v, bind, state)
        if value and SHOW[KIND[v], view].get(value, "").lower() != group.lower():
            kind = dict(who="pronoun", place="where").get(KIND[v], "whose")
            wrong.append(f'{kind}: "{group}" is not said of {value}')
    return bind, wrong


def read(sentence, state):
    """Return (phrase, bind, errors) of the reading with the fewest errors, or None if no phrase matches."""
    readings = []
    for phrase in (phrase for phrases in PHRASES.values() for phrase in phrases):
        match = phrase.pattern.fullmatch(sentence)
        if match:
            bind, wrong = understand(phrase, match.groups(), state)
            readings.append((phrase, bind, wrong + faults(phrase, bind, state)))
    return min(readings, key=lambda reading: len(reading[2]), default=None)


def split(text):
    """Return the sentences of a text."""
    return re.split(r"(?:(?<=[.!?])|(?<=[.!?]\")) (?=[A-Z\"])", text)


def check_story(text: str) -> Report:
    """Return a Report on a text: is it a story of this grammar, and does it keep to its own facts?"""
    state: dict = {}
    sentences, errors = split(text), []
    if not 6 <= len(sentences) <= 10:
        errors.append(f"length: {len(sentences)} sentences, not 6 to 10")
    for number, sentence in enumerate(sentences, 1):
        reading = read(sentence, state)
        if reading is None:
            unknown = sorted(set(re.findall(r"[a-z]+", sentence.lower())) - WORDS)
            why = f"unknown word {', '.join(unknown)}" if unknown else "no such sentence in the grammar"
            errors.append(f"grammar: sentence {number}: {why}: {sentence}")
            continue
        phrase, bind, wrong = reading
        if (number == 1) != (phrase.beat == "open") or (number == 2) != (phrase.beat == "meet"):
            wrong = [*wrong, "order: the opening is two sentences that say who is where, and with whom"]
        if "end" in state:
            wrong = [*wrong, "ending: the story has already ended"]
        errors += [f"{fault.replace(': ', f': sentence {number}: ', 1)}: {sentence}" for fault in wrong]
        if "A" in state or phrase.beat == "open":
            happen(phrase, bind, state)
    if "end" not in state:
        errors.append("ending: the story does not end")
    kinds = {error.partition(":")[0] for error in errors}
    who_and_where = not kinds & {"grammar", "who", "pronoun", "where"}
    consistent = who_and_where and not kinds & {"whose", "order"}
    return Report(not kinds & {"grammar", "length", "ending"}, consistent, who_and_where, errors)
