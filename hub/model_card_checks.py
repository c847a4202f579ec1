"""Checks of a model card before it is written: the Hub's checks of an upload, without the Hub.

`huggingface_hub.ModelCard.validate` asks the Hub. Sources: for licenses
https://huggingface.co/docs/hub/repositories-licenses, for languages (ISO 639-1, -2 or -3, or a word for several) and
base models (ids of the Hub) https://huggingface.co/docs/hub/model-cards.
"""

import re
from difflib import get_close_matches

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


PIPELINE_TAG, LIBRARY = "video-text-to-text", "transformers"
LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
    other
"""
LANGUAGES_OF_TWO_LETTERS = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
    es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg
    ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn
    no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw
    ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
WORDS_FOR_LANGUAGES = ("code", "multilingual")
FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")


def check_card(card: str):
    """Check the text of a README.md: its metadata, and that its blocks of code end.

    Raises:
        ValueError: names the first thing that the Hub would refuse, or show wrongly.
    """
    data = metadata_of(card)
    check_license(data)
    for language in as_list(data.get("language")):
        is_code = language in LANGUAGES_OF_TWO_LETTERS.split() or re.fullmatch("[a-z]{3}", str(language))
        if not is_code and language not in WORDS_FOR_LANGUAGES:
            raise ValueError(
                f"The model card has the language {language!r}, which is not a code of ISO 639. Write two or three "
                "letters, as in 'en', or 'multilingual'."
            )
    for model in as_list(data.get("base_model")):
        try:
            validate_repo_id(model)
        except HFValidationError as error:
            raise ValueError(
                f"The model card has the base model {model!r}, which is not an id of the Hub: {error} Write it as "
                "owner/name."
            ) from error
    if (data.get("pipeline_tag"), data.get("library_name")) != (PIPELINE_TAG, LIBRARY):
        raise ValueError(
            f"The model card has pipeline_tag {data.get('pipeline_tag')!r} and library_name "
            f"{data.get('library_name')!r}; those of these checkpoints are {PIPELINE_TAG!r} and {LIBRARY!r}."
        )
    if (line := unclosed_fence(card)) is not None:
        raise ValueError(f"The model card has a block of code that does not end; it begins in line {line}.")


def metadata_of(card: str) -> dict:
    """The YAML at the head of a card.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    head = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    try:
        data = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError as error:
        raise ValueError(f"The model card has metadata that is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise ValueError("The model card has no metadata: it has to begin with names and values between lines of ---.")
    return data


def check_license(data: dict):
    license = data.get("license")
    if license is None:
        return
    if license not in LICENSES.split():
        near = get_close_matches(str(license).lower(), LICENSES.split(), n=1)
        raise ValueError(
            f"The model card has the license {license!r}, which the Hub does not know"
            f"{f' (but {near[0]!r})' if near else ''}. Take one of "
            "https://huggingface.co/docs/hub/repositories-licenses; or 'other', with `license_name` in model_card.json."
        )
    if license == "other" and not data.get("license_name"):
        raise ValueError(
            "The model card has the license 'other' without its name: say `license_name` in model_card.json."
        )


def unclosed_fence(card: str) -> int | None:
    """The line, counted from 1, where a block of code begins that does not end."""
    opened, begun = "", None
    for number, line in enumerate(card.splitlines(), start=1):
        found = FENCE.match(line)
        if found is None:
            continue
        marks, rest = found[1], found[2].strip()
        if not opened and not (marks[0] == "`" and "`" in rest):
            opened, begun = marks, number
        elif opened and marks.startswith(opened) and not rest:
            opened, begun = "", None
    return begun


def as_list(value) -> list:
    return [] if value is None else value if isinstance(value, list) else [value]
