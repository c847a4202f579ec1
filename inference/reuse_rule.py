"""May the keys and values of an earlier prompt be reused? Only where the answer is the same as without them.

This is decided from the generation configuration that will run: the pipeline's, the call's and the model's, merged as
`generate` merges them. The settings listed here were checked. With any other setting, also of later versions of
transformers, nothing is reused.
"""

from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer


# Settings for the end of an answer, or for the scores of one token whatever stands before it.
SETTINGS_PER_TOKEN = {
    "begin_suppress_tokens",
    "bos_token_id",
    "do_sample",
    "eos_token_id",
    "epsilon_cutoff",
    "eta_cutoff",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "max_length",
    "max_new_tokens",
    "max_time",
    "min_length",
    "min_new_tokens",
    "min_p",
    "pad_token_id",
    "remove_invalid_values",
    "renormalize_logits",
    "suppress_tokens",
    "temperature",
    "top_h",
    "top_k",
    "top_p",
    "typical_p",
}
# Settings and arguments that use all tokens so far: right for one prompt, but in a batch they would count the padding
# in the middle of a prompt.
SETTINGS_PER_PROMPT = {"bad_words_ids", "no_repeat_ngram_size", "repetition_penalty", "sequence_bias", "stop_strings"}
ARGUMENTS_PER_TOKEN = {"streamer", "tokenizer"}
ARGUMENTS_PER_PROMPT = {"logits_processor", "prefix_allowed_tokens_fn", "stopping_criteria"}
# Kinds of rotary positions whose frequencies do not depend on the length of the prompt.
FIXED_ROPE = {None, "default", "linear", "llama3", "yarn"}


def may_reuse(model, generate_kwargs: dict, num_prompts: int) -> bool:
    """Whether `model.generate(**generate_kwargs)` gives a batch of prompts the same answers with keys and values from
    earlier."""
    if not isinstance(model, PreTrainedModel) or not has_plain_cache(model):
        return False
    settings, arguments = changed_settings(model, generate_kwargs)
    single = num_prompts == 1
    return settings <= SETTINGS_PER_TOKEN | (SETTINGS_PER_PROMPT if single else set()) and (
        arguments <= ARGUMENTS_PER_TOKEN | (ARGUMENTS_PER_PROMPT if single else set())
    )


def changed_settings(model: PreTrainedModel, generate_kwargs: dict) -> tuple[set[str], set[str]]:
    """Names of the settings that differ from the defaults of `generate`, and of its arguments that are not settings."""
    arguments = {name: value for name, value in generate_kwargs.items() if name != "generation_config"}
    config, rest = model._prepare_generation_config(generate_kwargs.get("generation_config"), **arguments)
    defaults = GenerationConfig._get_default_generation_params()
    settings = {
        name
        for name, value in vars(config).items()
        if name != "transformers_version"
        and not name.startswith("_")
        # A setting without a default is off when it is `None` or False.
        and value != defaults.get(name, False)
        and not (value is None and name not in defaults)
    }
    return settings, {name for name, value in rest.items() if value is not None}


def has_plain_cache(model: PreTrainedModel) -> bool:
    """Whether every layer keeps all keys and values as they are (no window, no state, no other format), and none of
    them depends on the length of the prompt."""
    text_config = model.config.get_text_config(decoder=True)
    rope = getattr(text_config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(part.get("rope_type") for part in rope.values() if isinstance(part, dict))}
    return kinds <= FIXED_ROPE and all(type(layer) is DynamicLayer for layer in new_cache(model).layers)


def new_cache(model: PreTrainedModel) -> DynamicCache:
    return DynamicCache(config=model.config.get_text_config(decoder=True))
