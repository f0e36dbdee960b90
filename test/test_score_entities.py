"""Entity recall, precision and false insertions, and errors inside and outside, worked by hand."""

import pytest

from espnet_llmvq.base.errors import UserError
from espnet_llmvq.score.entities import Lexicon, check_entities, entity_counts, inside_errors, read_entities, tokenise
from espnet_llmvq.score.wer import score_utterances


def test_tokens():
    assert tokenise("Dr. O'Neil, 50 mg") == ["Dr", ".", "O", "'", "Neil", ",", "50", "mg"]
    assert tokenise("我住在New York") == ["我", "住", "在", "New", "York"]
    assert tokenise("Jose\u0301, José") == ["José", ",", "José"] and tokenise("हिन्दी हिन्द") == ["हिन्दी", "हिन्द"]
    assert tokenise("2.5 mg, 2.5mg at 10:30.") == ["2.5", "mg", ",", "2.5mg", "at", "10:30", "."]


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (["Lee"], "Lee met Leeds, and lee met Lee.", ["Lee", "Lee"]),  # whole words, case counts
        (["New York", "York"], "New  York, York", ["New York", "York"]),  # the longest first
        (["a b", "b c"], "a b c", ["a b"]),  # the one that starts first
        (["5 mg"], "2.5 mg, 5 mg, 15 mg, 5  mg", ["5 mg", "5 mg"]),  # not within another number
        (["New York"], "New, York; Newport; New York's; new York", ["New York"]),  # in a row, as written
        (["Ann Lee"], "Ann Lee-Moore and AnnLee", ["Ann Lee"]),
        (["Jose", "हिन्द"], "Jose\u0301 हिन्दी", []),
        (["José"], "Jose\u0301 and Jose\u0301s", ["José"]),
        (["北京"], "我在北京工作", ["北 京"]),
        ([""], "a", []),
    ],
)
def test_mentions(values, text, expected):
    found = Lexicon(map(tokenise, values)).find(tokenise(text))
    assert [" ".join(value) for _, _, value in found] == expected


REFS = {"u1": "Dr. Smith gave Smith aspirin.", "u2": "No drug today", "u3": "Take Lipitor in New York"}
ENTITIES = {
    "u1": [("person", "Smith"), ("person", "Smith"), ("drug", "aspirin")],
    "u3": [("drug", "Lipitor"), ("city", "New York")],
}


def test_counts_by_hand():
    hyps = {
        "u1": "Dr. Smith gave him Aspirin.",  # one of two Smiths; case differs
        "u2": "No aspirin today, no aspirin",  # twice made up
        "u3": "Take Lipitor, Lipitor in York",  # once too often; York is not New York
    }
    # (instances, found, mentions of any value, false)
    assert entity_counts(REFS, hyps, ENTITIES) == {"u1": (3, 1, 1, 0), "u2": (0, 0, 2, 2), "u3": (2, 1, 2, 1)}
    lower = {utt: text.lower() for utt, text in hyps.items()}
    refs = {utt: text.lower() for utt, text in REFS.items()}
    values = {u: [(slot, v.lower()) for slot, v in items] for u, items in ENTITIES.items()}
    assert entity_counts(refs, lower, values)["u1"] == (3, 2, 2, 0)


def test_a_perfect_hypothesis_has_no_error():
    for instances, found, _, false in entity_counts(REFS, REFS, ENTITIES).values():
        assert (instances, false) == (found, 0)
    # A value that another set's longer value covers is still found where it is annotated.
    refs = {"a": "at Smith Clinic", "b": "Smith Clinic"}
    marked = {"a": [("p", "Smith")], "b": [("c", "Smith Clinic")]}
    assert entity_counts(refs, refs, marked) == {"a": (1, 1, 1, 0), "b": (1, 1, 1, 0)}


def test_entities_that_the_reference_lacks():
    wrong = {"u1": [("drug", "aspirin"), ("dose", "50 mg")], "u2": [("drug", "Drug")]}
    with pytest.raises(UserError, match="2 entities .*u1 dose=50 mg, u2 drug=Drug.*entity_absent"):
        check_entities(wrong, REFS, "entities")
    notes = []
    kept = check_entities(wrong, REFS, "entities", "drop", notes)
    assert kept == {"u1": [("drug", "aspirin")], "u2": []}
    assert notes == ["entities: 2 entities that their reference does not hold left out"]
    with pytest.raises(UserError, match="not in the reference: u9"):
        check_entities({"u9": []}, REFS, "entities")
    too_often = {"u3": [("city", "New York"), ("city", "New York")]}
    with pytest.raises(UserError, match="1 entities"):
        check_entities(too_often, REFS, "entities")


def test_read_entities(tmp_path):
    path = tmp_path / "entities"
    path.write_text("u1\tdrug=aspirin\tcity=New York\nu2\n")
    assert read_entities(path) == {"u1": [("drug", "aspirin"), ("city", "New York")], "u2": []}
    path.write_text("u1\taspirin\n")
    with pytest.raises(UserError, match="'aspirin' is not <slot>=<value>"):
        read_entities(path)


@pytest.mark.parametrize(
    ("ref", "hyp", "words", "expected"),
    [
        # inside: "new york" (2 words); outside: 3
        ("i saw new york today", "i saw new york today", (), (0, 2, 0, 3)),
        ("i saw new york today", "i was new fork today", (), (1, 2, 1, 3)),
        ("i saw new york today", "i saw today", (), (2, 2, 0, 3)),
        ("i saw new york today", "i saw new old york today", (), (1, 2, 0, 3)),  # between
        ("i saw new york today", "i saw the new york today", (), (0, 2, 1, 3)),  # before
        ("i saw", "i saw york", ("york",), (1, 0, 0, 2)),  # a listed word made up
        ("", "oh", (), (0, 0, 1, 0)),
    ],
)
def test_inside_and_outside(ref, hyp, words, expected):
    lexicon = Lexicon([["new", "york"]])
    (score,) = score_utterances({"": ref.split()}, {"": hyp.split()})
    assert inside_errors(score.pairs, lexicon, words) == expected
