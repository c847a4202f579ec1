"""Names of weights: the original code's on the left, ours on the right.

Read the tables as a document. A pattern matches a whole name, and every name has to match exactly one pattern, or
`rename` raises an error: so nothing is dropped or left random by accident. The order of the rules does not matter.

Sources, in LLaVA-NeXT: `LlavaMetaModel` in llava/model/llava_arch.py, `build_vision_projector` in
llava/model/multimodal_projector/builder.py, `SpatialPool` in llava/model/multimodal_resampler/spatial_pool.py (branch
`video_inference`), clip_encoder.py and siglip_encoder.py in llava/model/multimodal_encoder/.
"""

import re


ATTENTION = r"self_attn\.(?:q_proj|k_proj|v_proj|o_proj|out_proj)"
MLP = r"mlp\.(?:gate_proj|up_proj|down_proj|fc1|fc2)"
NORM = r"(?:input_layernorm|post_attention_layernorm|layer_norm1|layer_norm2)"
LAYER = rf"(\d+\.(?:{ATTENTION}|{MLP}|{NORM})\.(?:weight|bias))"
TOWER = r"vision_model\.((?:embeddings|pre_layrnorm|post_layernorm)\.[\w.]*(?:weight|bias|class_embedding))"

RENAMED = {
    rf"model\.layers\.{LAYER}": r"model.language_model.layers.\1",
    r"model\.(embed_tokens|norm)\.weight": r"model.language_model.\1.weight",
    r"lm_head\.weight": r"lm_head.weight",
    r"model\.mm_projector\.0\.(weight|bias)": r"model.multi_modal_projector.linear_1.\1",
    r"model\.mm_projector\.2\.(weight|bias)": r"model.multi_modal_projector.linear_2.\1",
    r"model\.(image_newline|faster_token)": r"model.\1",
    r"model\.vision_resampler\.pool\.(weight|bias)": r"model.vision_resampler.pool.\1",
    rf"model\.vision_tower\.vision_tower\.vision_model\.encoder\.layers\.{LAYER}": (
        r"model.vision_tower.encoder.layers.\1"
    ),
    rf"model\.vision_tower\.vision_tower\.{TOWER}": r"model.vision_tower.\1",
}

# The branch `video_inference` holds the projector under two names. safetensors keeps one of them, and not always the
# first; where a checkpoint has both, they are the same tensor.
SECOND_NAMES = {
    r"model\.vision_resampler\.mm_projector\.0\.(weight|bias)": r"model.multi_modal_projector.linear_1.\1",
    r"model\.vision_resampler\.mm_projector\.2\.(weight|bias)": r"model.multi_modal_projector.linear_2.\1",
}

DROPPED = {
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq": "computed from the configuration",
    r"model\.rotary_emb\.inv_freq": "computed from the configuration",
    r"model\.vision_tower\.vision_tower\.vision_model\.embeddings\.position_ids": "0, 1, 2, ...",
    r"model\.vision_tower\.vision_tower\.vision_model\.head\..+": "SigLIP's pooling head, which LLaVA does not use",
}

# A vision tower's own repository holds a whole CLIP or SigLIP model.
TOWER_RENAMED = {
    rf"vision_model\.encoder\.layers\.{LAYER}": r"model.vision_tower.encoder.layers.\1",
    TOWER: r"model.vision_tower.\1",
}
TOWER_DROPPED = {
    r"text_model\..+": "the tower's text half",
    r"(?:logit_scale|logit_bias|(?:text|visual)_projection\.weight)": "compares images with texts",
    r"vision_model\.embeddings\.position_ids": "0, 1, 2, ...",
    r"vision_model\.head\..+": "SigLIP's pooling head, which LLaVA does not use",
}

# Our names -> the original's, the inverse of RENAMED. The parts in (?:...)? are for models that were built and not
# loaded: they are saved with the names of transformers 4.
OURS_TO_ORIGINAL = {
    rf"(?:model\.)?language_model\.(?:model\.)?layers\.{LAYER}": r"model.layers.\1",
    r"(?:model\.)?language_model\.(?:model\.)?(embed_tokens|norm)\.weight": r"model.\1.weight",
    r"(?:language_model\.)?lm_head\.weight": r"lm_head.weight",
    r"(?:model\.)?multi_modal_projector\.linear_1\.(weight|bias)": r"model.mm_projector.0.\1",
    r"(?:model\.)?multi_modal_projector\.linear_2\.(weight|bias)": r"model.mm_projector.2.\1",
    r"(?:model\.)?(image_newline|faster_token)": r"model.\1",
    r"(?:model\.)?vision_resampler\.pool\.(weight|bias)": r"model.vision_resampler.pool.\1",
    rf"(?:model\.)?vision_tower\.(?:vision_model\.)?encoder\.layers\.{LAYER}": (
        r"model.vision_tower.vision_tower.vision_model.encoder.layers.\1"
    ),
    r"(?:model\.)?vision_tower\.(?:vision_model\.)?((?:embeddings|pre_layrnorm|post_layernorm)\.[\w.]+)": (
        r"model.vision_tower.vision_tower.vision_model.\1"
    ),
}


class UnknownWeight(ValueError):
    """A weight's name meets no rule of the tables above, or more than one."""


def rename(name: str, renamed: dict[str, str], dropped: dict[str, str]) -> tuple[str | None, str]:
    """Look a name up in the tables: its new name and "", or None and the reason why it is dropped.

    Raises:
        UnknownWeight: it meets no rule, or more than one.

    >>> rename("model.mm_projector.2.bias", RENAMED, DROPPED)
    ('model.multi_modal_projector.linear_2.bias', '')
    >>> rename("model.layers.0.self_attn.rotary_emb.inv_freq", RENAMED, DROPPED)
    (None, 'computed from the configuration')
    """
    rules = [rule for rule in (*renamed, *dropped) if re.fullmatch(rule, name)]
    if len(rules) != 1:
        raise UnknownWeight(
            f"The weight {name!r} meets {len(rules) or 'no'} rules{f' ({rules})' if rules else ''}; it has to meet "
            "exactly one. If the checkpoint is a LLaVA-NeXT one, its name is missing in conversion/weight_names.py."
        )
    rule = rules[0]
    return (re.sub(rule, renamed[rule], name), "") if rule in renamed else (None, dropped[rule])
