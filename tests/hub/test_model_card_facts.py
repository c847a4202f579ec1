"""What a model card says beyond a checkpoint's files: read from a file of strangers, and shown as plain text."""

import json

import pytest

from llava_next_video import DEMO_CHECKPOINT
from llava_next_video.hub.model_card_facts import CardFacts, facts_of, plain, with_facts, write_facts
from llava_next_video.modeling.checkpoint_settings import CheckpointError


def test_facts_come_back_as_they_were_written(tmp_path):
    facts = CardFacts(license="mit", language=("en", "de"), limits=("It is small.",), images=False)
    write_facts(tmp_path, facts)
    assert facts_of(tmp_path) == facts
    assert json.loads((tmp_path / "model_card.json").read_text()) == {
        "license": "mit",
        "language": ["en", "de"],
        "limits": ["It is small."],
        "images": False,
    }


def test_nothing_said_is_no_file(tmp_path):
    write_facts(tmp_path, CardFacts())
    assert list(tmp_path.iterdir()) == []
    assert facts_of(tmp_path) == CardFacts()


def test_later_facts_replace_earlier_ones_and_none_says_nothing():
    facts = with_facts(CardFacts(license="mit", language=("en",)), {"license": None, "language": "de"}, "here")
    assert facts == CardFacts(license="mit", language=("de",))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"licence": "mit"}, r"model_card\.json says 'licence' of a checkpoint, which a model card has no place for"),
        ({"license": 3}, r"cannot say license: 3, as in .*; it has to be a line of up to 500 characters"),
        ({"origin": "a\nb"}, r"cannot say origin: .*; it has to be a line"),
        ({"subject": " "}, r"cannot say subject: ' '"),
        ({"subject": "x" * 501}, r"cannot say subject: 'xxx"),
        ({"images": "no"}, r"cannot say images: 'no', .*; it has to be true or false"),
        ({"limits": {"a": "b"}}, r"cannot say limits: .*up to 50 lines of up to 500 characters"),
        ({"limits": ["a", 3]}, r"cannot say limits"),
        ({"limits": ["a"] * 51}, r"cannot say limits"),
    ],
)
def test_error_when_a_fact_is_none(tmp_path, said, message):
    (tmp_path / "model_card.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=message):
        facts_of(tmp_path)


def test_error_when_the_file_is_damaged(tmp_path):
    (tmp_path / "model_card.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"model_card\.json is damaged"):
        facts_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It knows 4 shapes, in six colours.", "It knows 4 shapes, in six colours."),
        ("# Title", "\\# Title"),
        ("- a  b", "\\- a b"),
        ("1. first", "1\\. first"),
        ("```", "\\`\\`\\`"),
        ("<script>", "\\<script\\>"),
        ("[x](https://evil.example)", "\\[x\\](https://evil.example)"),
        ("a | b", "a \\| b"),
        ("--- ", "\\---"),
        ("&lt;", "\\&lt;"),
    ],
)
def test_text_stays_text_in_markdown(text, shown):
    assert plain(text) == shown


def test_facts_of_the_demonstration():
    facts = facts_of(DEMO_CHECKPOINT)
    assert (facts.license, facts.language, facts.images) == ("apache-2.0", ("en",), True)
    assert len(facts.limits) >= 2
    assert facts.origin
