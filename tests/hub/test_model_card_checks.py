"""Cards that the Hub would refuse are refused before they are written."""

import pytest
from huggingface_hub import ModelCardData

from llava_next_video.hub.model_card_checks import LANGUAGES_OF_TWO_LETTERS, LICENSES, check_card


def card(text: str = "# A model\n", **data) -> str:
    data = {"pipeline_tag": "video-text-to-text", "library_name": "transformers", **data}
    return f"---\n{ModelCardData(**data).to_yaml()}\n---\n\n{text}"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"license": "apache-2.0", "language": "en", "base_model": "owner/name"},
        {"license": "llama3.1", "language": ["no", "yue", "multilingual"], "base_model": ["a/b", "gpt2"]},
        {"license": "other", "license_name": "mine"},
    ],
)
def test_card_that_the_hub_takes_passes(data):
    check_card(card(**data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"license": "Apache-2.0"}, r"license 'Apache-2\.0', which the Hub does not know \(but 'apache-2\.0'\)"),
        ({"license": "free for all who ask"}, r"which the Hub does not know\. Take one of https"),
        ({"license": "other"}, r"the license 'other' without its name: say `license_name` in model_card\.json"),
        ({"language": "English"}, r"the language 'English', which is not a code of ISO 639"),
        ({"language": ["en", "xx"]}, r"the language 'xx', which is not a code"),
        ({"language": "en-US"}, r"the language 'en-US'"),
        (
            {"base_model": "https://huggingface.co/a/b"},
            r"the base model 'https.*which is not an id of the Hub: .*owner/name",
        ),
        ({"pipeline_tag": "text-generation"}, r"pipeline_tag 'text-generation' and library_name 'transformers'; those"),
        ({"library_name": None}, r"library_name None"),
    ],
)
def test_error_when_the_hub_would_refuse_the_metadata(data, message):
    with pytest.raises(ValueError, match=message):
        check_card(card(**data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# No metadata\n", "has no metadata: it has to begin with"),
        ("---\n- a\n---\n", "has no metadata"),
        ("---\na: [\n---\n", "has metadata that is not YAML: "),
    ],
)
def test_error_when_there_is_no_metadata(text, message):
    with pytest.raises(ValueError, match=message):
        check_card(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("```python\nx = 1\n", 6),
        ("```\na\n```\n\n~~~\nb\n```\n", 10),
        ("````\n```\n", 6),
        ("```\na\n``` b\n", 6),
    ],
)
def test_error_when_a_block_of_code_does_not_end(text, line):
    with pytest.raises(ValueError, match=f"a block of code that does not end; it begins in line {line}\\."):
        check_card(card(text))


@pytest.mark.parametrize("text", ["```python\nx = 1\n```\n", "````\n```\n````\n", "~~~\n```\n~~~\n", "``` a ` b\n"])
def test_blocks_that_end_pass(text):
    check_card(card(text))


def test_lists_hold_each_entry_once():
    for entries in (LICENSES.split(), LANGUAGES_OF_TWO_LETTERS.split()):
        assert len(entries) == len(set(entries))
    assert {len(language) for language in LANGUAGES_OF_TWO_LETTERS.split()} == {2}
