"""Makes the files in this folder from the full recording: `python tests/golden/cut_down.py FULL_RECORDING`.

Left out is what the rest implies or repeats: debug tensors, masks, scores of generated tokens, input embeddings other
than of the case `video`, logits before the last 16 positions other than of `video` and `text`. Pixel values are kept as
the 8-bit levels they were computed from; the script stops unless they give the recorded floats again to the last bit.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


HERE = Path(__file__).parent
VARIANTS = ("qwen_grid_avg", "llama_notoken_avg_before", "qwen_siglip_grid_bilinear")
WHOLE_LOGITS = ("video.logits", "text.logits")
DROPPED_FIELDS = ("visual_mask", "generated_scores", "attention_mask_in")


def pixel_levels(values: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    """The 0..255 levels (..., 3, H, W), uint8, that normalised pixel values were computed from."""
    mean, std = (torch.tensor(channel)[:, None, None] for channel in (mean, std))
    levels = ((values * std + mean) * 255).round().to(torch.uint8)
    if not torch.equal(((levels.double() * (1 / 255)).float() - mean) / std, values):
        raise ValueError("The recorded pixel values are not made of 8-bit levels.")
    return levels


def cut_down(name: str, tensors: dict[str, torch.Tensor], preprocessing: dict) -> dict[str, torch.Tensor]:
    kept = {}
    for key, value in tensors.items():
        field = key.rsplit(".", 1)[-1]
        if ".debug." in key or field in DROPPED_FIELDS or (field == "inputs_embeds" and key != "video.inputs_embeds"):
            continue
        if field == "pixel_values":
            key = key.replace("pixel_values", "pixel_levels")
            value = pixel_levels(value, preprocessing["image_mean"], preprocessing["image_std"])
        elif field == "logits" and (key not in WHOLE_LOGITS or name != "expected"):
            key, value = key.replace("logits", "logits_tail"), value[:, -16:]
        kept[key] = value.contiguous()
    return kept


def main(full: Path):
    for variant in VARIANTS:
        source, target = full / variant, HERE / variant
        shutil.rmtree(target, ignore_errors=True)
        for folder in ("checkpoint", "vision_tower", "inputs"):
            shutil.copytree(source / folder, target / folder)
        (target / "inputs" / "prompts.json").unlink()  # stands in meta.json too
        preprocessing = json.loads((source / "vision_tower" / "preprocessor_config.json").read_text())
        for file in sorted(source.glob("expected*.safetensors")):
            save_file(cut_down(file.stem, load_file(file), preprocessing), target / file.name)
        meta = json.loads((source / "meta.json").read_text())
        del meta["tensors"], meta["weights"], meta["video"]["all_frames_sha256"]
        (target / "meta.json").write_text(json.dumps(meta, indent=1))
    for name in ("prompts.json", "sampling.json"):
        shutil.copyfile(full / name, HERE / name)
    shutil.copytree(full / "preprocess_336" / "inputs", HERE / "preprocess_336" / "inputs", dirs_exist_ok=True)
    shutil.copyfile(full / "preprocess_336" / "spec.json", HERE / "preprocess_336" / "spec.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
