"""The story grammar: its stories are right, varied and repeatable, and its parser finds planted mistakes."""

import re
import time

import numpy as np
import pytest

from tiny.training.text import stories
from tiny.training.text.stories import split

NAMES = stories.BOYS + stories.GIRLS + stories.HE_ANIMALS + stories.SHE_ANIMALS


@pytest.fixture(scope="module")
def written():
    """Return 2,000 stories, one for each seed."""
    return [stories.generate(np.random.default_rng(seed)) for seed in range(2000)]


def opening_of(story):
    """Return the story's (hero, friend, place, thing), read back from its opening."""
    state = {}
    for sentence in split(story.opening):
        phrase, bind, errors = stories.read(sentence, state)
        assert errors == []
        stories.happen(phrase, bind, state)
    return state["A"], state["B"], state["P"], state["T"]


def assert_rejected(mutants, kind, *, consistent=False, at_least=50):
    """Assert that every mutant fails the check with an error of this kind (at its sentence, if given)."""
    mutants = list(mutants)
    assert len(mutants) >= at_least, f"only {len(mutants)} mutants were made"
    for text, number in mutants:
        report = stories.check_story(text)
        wanted = f"{kind}: sentence {number}:" if number else f"{kind}: "
        assert any(error.startswith(wanted) for error in report.errors), (text, wanted, report.errors)
        assert (report.consistent if not consistent else report.accepted) is False, text


def test_every_generated_story_is_accepted_and_consistent(written):
    for story in written:
        report = stories.check_story(story.text)
        assert report.errors == [], story.text
        assert report.accepted and report.consistent and report.who_and_where, story.text


def test_held_out_stories_are_accepted_and_consistent():
    for seed in range(200):
        story = stories.generate(np.random.default_rng(seed), held_out=True)
        assert stories.check_story(story.text).errors == [], story.text


def test_held_out_and_training_openings_are_disjoint(written):
    held = [stories.generate(np.random.default_rng(seed), held_out=True) for seed in range(300)]
    assert all(stories.is_held_out(*opening_of(story)) for story in held)
    assert not any(stories.is_held_out(*opening_of(story)) for story in written)
    assert not {story.opening for story in held} & {story.opening for story in written}


def test_one_opening_in_twenty_is_held_out():
    rng = np.random.default_rng(0)
    pairs = rng.choice(NAMES, (20000, 2)).tolist()
    places = rng.choice(list(stories.PLACES), 20000).tolist()
    drawn = [stories.is_held_out(*pair, place, "red kite") for pair, place in zip(pairs, places)]
    assert 0.03 < np.mean(drawn) < 0.07


def test_the_opening_is_the_first_two_sentences(written):
    for story in written:
        assert story.opening == " ".join(split(story.text)[:2])
        assert story.text.startswith(story.opening + " ")


def test_size_and_variety(written):
    lengths = [len(story.text) for story in written]
    words = {word for story in written for word in re.findall(r"[a-z]+", story.text.lower())}
    assert all(6 <= len(split(story.text)) <= 10 for story in written)
    assert 350 < np.mean(lengths) < 430 and max(lengths) < 650
    assert 250 < len(words) < 450
    assert len({story.opening for story in written}) > 1950
    assert len({story.text for story in written}) == len(written)
    assert all(story.text.isascii() and story.text == " ".join(story.text.split()) for story in written)


def test_spelling_of_articles_and_capitals(written):
    for story in written:
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", story.text), story.text
        assert all(re.match(r'"?[A-Z]', sentence) for sentence in split(story.text)), story.text


def test_every_phrasing_is_used(written):
    used = set()
    for story in written:
        state = {}
        for sentence in split(story.text):
            phrase, bind, _ = stories.read(sentence, state)
            stories.happen(phrase, bind, state)
            used.add(phrase.pattern.pattern)
    unused = {phrase.pattern.pattern for phrases in stories.PHRASES.values() for phrase in phrases} - used
    assert not unused


def test_the_same_seed_gives_the_same_story():
    first, second = ([stories.generate(rng) for _ in range(50)] for rng in map(np.random.default_rng, (7, 7)))
    assert first == second
    assert stories.generate(np.random.default_rng(8)) != first[0]


def test_speed():
    rng = np.random.default_rng(0)
    start = time.process_time()
    for _ in range(1000):
        stories.generate(rng)
    assert 1000 / (time.process_time() - start) > 2000


def replaced(sentences, index, old, new):
    """Return the story with one word of one sentence replaced, and the number of the sentence."""
    changed = re.sub(rf"\b{re.escape(old)}\b", new, sentences[index], count=1)
    return " ".join(sentences[:index] + [changed] + sentences[index + 1:]), index + 1


def test_mutant_a_stranger_from_nowhere(written):
    def mutants():
        for story in written[:300]:
            sentences = split(story.text)
            hero, friend, _, _ = opening_of(story)
            stranger = next(name for name in NAMES if name not in (hero, friend))
            for index in range(2, len(sentences)):
                if re.search(rf"\b{hero}\b", sentences[index]):
                    yield replaced(sentences, index, hero, stranger)
    assert_rejected(mutants(), "who")


def test_mutant_given_by_one_who_does_not_have_it(written):
    def mutants():
        for story in written:
            sentences = split(story.text)
            for index in range(2, len(sentences)):
                match = (re.fullmatch(r"(?:Then )?(\w+) gave the \w+ (?:back )?to (\w+)\.", sentences[index])
                         or re.fullmatch(r"(\w+) gave (\w+) the .* with a \w+\.", sentences[index]))
                if match:
                    giver, taker = match.groups()
                    sentence = sentences[index].replace(giver, "#").replace(taker, giver).replace("#", taker)
                    yield " ".join(sentences[:index] + [sentence] + sentences[index + 1:]), index + 1
    assert_rejected(mutants(), "whose")


def test_mutant_suddenly_elsewhere(written):
    def mutants():
        for story in written[:500]:
            sentences = split(story.text)
            for index in range(2, len(sentences)):
                match = re.match(r"(?:In|On|By|At) the (\w+),", sentences[index])
                if match and match[1] in stories.PLACES and "they" not in sentences[index]:
                    here = next(place for place, word in stories.PLACES.items()
                                if place != match[1] and word == sentences[index][:2].lower())
                    yield replaced(sentences, index, match[1], here)
    assert_rejected(mutants(), "where")


def test_mutant_pronoun_of_the_wrong_sex(written):
    other = dict(He="She", She="He", his="her", he="she", she="he")

    def mutants():
        for story in written[:500]:
            sentences = split(story.text)
            for index, sentence in enumerate(sentences):
                found = re.findall(r"\b(?:He|She|his|he|she)\b", sentence)
                if found:
                    yield replaced(sentences, index, found[0], other[found[0]])
    assert_rejected(mutants(), "pronoun")


def test_mutant_an_unknown_word(written):
    texts = [split(story.text) for story in written[:500]]
    mutants = [replaced(sentences, 2, "the", "thee") for sentences in texts if " the " in sentences[2]]
    assert_rejected(mutants, "grammar")
    assert "unknown word thee" in " ".join(stories.check_story(mutants[0][0]).errors)


def test_mutant_a_missing_ending(written):
    texts = (" ".join(split(story.text)[:-1]) for story in written[:300])
    assert_rejected(((text, None) for text in texts), "ending", consistent=True)


def test_mutant_unfinished_text(written):
    for story in written[:100]:
        for text in (story.text[:-10], story.text + " Then", story.text + " " + split(story.text)[2]):
            assert not stories.check_story(text).accepted, text


def test_mutant_four_sentences(written):
    stories_of_four = (" ".join(split(story.text)[:3] + split(story.text)[-1:]) for story in written[:300])
    assert_rejected(((text, None) for text in stories_of_four), "length", consistent=True)


def test_mutant_swapped_opening(written):
    def mutants():
        for story in written[:300]:
            first, second, *rest = split(story.text)
            yield " ".join([second, first, *rest]), 1
    assert_rejected(mutants(), "order")


def test_mutant_swapped_sentences(written):
    rejected = []
    for story in written[:500]:
        sentences = split(story.text)
        for index in range(1, len(sentences) - 1):
            swapped = sentences[:index] + [sentences[index + 1], sentences[index]] + sentences[index + 2:]
            report = stories.check_story(" ".join(swapped))
            rejected.append(not (report.accepted and report.consistent))
    assert np.mean(rejected) > 0.75


@pytest.mark.parametrize("text", ["", "Hello", "Tom gave the kite to Anna.", '"', "the " * 1000, "\n"])
def test_other_text_is_rejected_without_failing(text):
    report = stories.check_story(text)
    assert not report.accepted and not report.consistent and report.errors
