"""`python -m llava_next_video convert`, with each of its options, and the way back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import RepoUrl
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration, LlavaNextVideoProcessor
from llava_next_video.__main__ import main
from llava_next_video.hub import upload
from llava_next_video.hub.stored_tensors import stored_tensors
from tests.golden_data import VARIANTS, Recording


QWEN, LLAMA, SIGLIP = (
    Recording(name) for name in ("qwen_grid_avg", "llama_notoken_avg_before", "qwen_siglip_grid_bilinear")
)


def run(*arguments) -> int:
    return main(["convert", *map(str, arguments)])


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    """Every weight of a checkpoint, read with the libraries of its format."""
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return {name: tensor for file in files for name, tensor in load_file(file).items()}
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back_is_bit_identical(tmp_path, variant):
    recording = Recording(variant)
    there, back = tmp_path / "there", tmp_path / "back"
    assert run(recording.checkpoint, there, "--vision-tower", recording.vision_tower) == 0
    assert run(there, back, "--to-original") == 0
    before, after = tensors_in(recording.checkpoint), tensors_in(back)
    # The second names of the projector are the same tensors again.
    before = {name: tensor for name, tensor in before.items() if "vision_resampler" not in name}
    assert set(before) == set(after)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert {str(tensor.dtype) for tensor in after.values()} == {"torch.float32"}
    old, new = (json.loads((folder / "config.json").read_text()) for folder in (recording.checkpoint, back))
    assert {key: new[key] for key in old} == old
    assert set(new) - set(old) <= {"add_faster_video", "mm_pooling_position"}
    for file in recording.checkpoint.iterdir():
        if file.name.startswith(("tokenizer", "vocab", "merges", "special", "added", "generation")):
            assert (back / file.name).read_bytes() == file.read_bytes()
    assert run(back, tmp_path / "again", "--vision-tower", recording.vision_tower) == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (there / "model.safetensors").read_bytes()


def test_a_checkpoint_that_never_was_an_original_becomes_one(tmp_path):
    saved = tmp_path / "saved"
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(DEMO_CHECKPOINT)
    model.save_pretrained(saved)
    LlavaNextVideoProcessor.from_pretrained(DEMO_CHECKPOINT).save_pretrained(saved)
    original = tmp_path / "original"
    assert run(saved, original, "--to-original", "--vision-tower", "somewhere/tower") == 0
    config = json.loads((original / "config.json").read_text())
    assert config["model_type"].startswith("llava_")
    assert config["mm_vision_tower"] == "somewhere/tower"
    assert config["mm_spatial_pool_mode"] == model.config.spatial_pool_mode
    tower = tmp_path / "tower"
    model.model.vision_tower.config.save_pretrained(tower)
    if model.config.vision_config.model_type == "siglip_vision_model":
        settings = json.loads((tower / "config.json").read_text())
        settings["num_hidden_layers"] += 1  # the original cuts one off
        (tower / "config.json").write_text(json.dumps(settings))
    again = LlavaNextVideoForConditionalGeneration.from_pretrained(original, vision_tower=str(tower))
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight)


def test_dry_run_says_everything_and_writes_nothing(tmp_path, capsys):
    arguments = ("--vision-tower", LLAMA.vision_tower, "--num-frames", 4, "--max-shard-size", "300KB", "--dry-run")
    assert run(LLAMA.checkpoint, tmp_path / "made", *arguments) == 0
    text = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert "97 tensors, 0.78 MB" in text
    assert "num_frames = 4, from you" in text
    assert "spatial_pool_mode = 'average', from its config.json" in text
    assert "chat_template = 'vicuna_v1', from what is usual for its language model" in text
    assert "model-00001-of-00003.safetensors: " in text
    assert "model.mm_projector.0.bias -> model.multi_modal_projector.linear_1.bias [64] torch.float32" in text
    assert "model.embed_tokens.weight -> model.language_model.embed_tokens.weight [402, 64] torch.float32" in text
    assert "left out: model.vision_resampler.mm_projector.0.bias (the same tensor as model.mm_projector.0.bias)" in text
    every_name = set(tensors_in(LLAMA.checkpoint))
    assert all(name in text for name in every_name)


def test_dtype_and_shards(tmp_path):
    made = tmp_path / "made"
    arguments = ("--vision-tower", QWEN.vision_tower, "--dtype", "bfloat16", "--max-shard-size", "100 KB")
    assert run(QWEN.checkpoint, made, *arguments) == 0
    files = sorted(made.glob("*.safetensors"))
    assert len(files) == 4
    # A single tensor may be larger; headers come on top.
    assert all(file.stat().st_size < 100_000 + 20_000 for file in files)
    index = json.loads((made / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors_in(made).values())
    for name, file in index["weight_map"].items():
        with safe_open(made / file, "pt") as opened:
            assert opened.get_tensor(name).dtype == torch.bfloat16
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(made)
    assert model.dtype == torch.bfloat16
    stored = load_file(QWEN.checkpoint / "model-00001-of-00004.safetensors")["model.image_newline"]
    assert torch.equal(model.model.image_newline, stored.bfloat16())


def test_recipe_and_single_facts_are_carried_by_the_files(tmp_path):
    made = tmp_path / "made"
    recipe = ("--recipe", "LLaVA-NeXT-Video-32B-Qwen", "--num-frames", 7, "--time-instruction", "--rope-factor", "3")
    pooling = ("--spatial-pool-mode", "max", "--spatial-pool-stride", 4, "--spatial-pool-position", "before_projector")
    rest = ("--video-newline-position", "frame", "--chat-template", "chatml_direct", "--frame-sampling", "uniform")
    options = (*recipe, *pooling, *rest, "--context-length", 1000)
    assert run(LLAMA.checkpoint, made, "--vision-tower", LLAMA.vision_tower, *options) == 0
    model, processor = AutoModelForImageTextToText.from_pretrained(made), AutoProcessor.from_pretrained(made)
    config = model.config
    assert (config.spatial_pool_mode, config.spatial_pool_stride) == ("max", 4)
    assert (config.spatial_pool_position, config.video_newline_position) == ("before_projector", "frame")
    assert (processor.spatial_pool_mode, processor.video_newline_position) == ("max", "frame")
    assert config.text_config.rope_parameters["factor"] == 3.0
    assert processor.tokenizer.model_max_length == 3000
    video = processor.video_processor
    assert (video.num_frames, video.frame_sampling, video.time_instruction) == (7, "uniform", True)
    assert "Answer the questions." in processor.chat_template


def test_vocabulary_grows_by_the_mean_of_the_old_rows(tmp_path):
    made = tmp_path / "made"
    assert run(LLAMA.checkpoint, made, "--vision-tower", LLAMA.vision_tower) == 0
    before, after = tensors_in(LLAMA.checkpoint), tensors_in(made)
    for old, new in (
        ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ):
        assert torch.equal(after[new][:400], before[old])
        assert after[new].shape == (402, 64)
        torch.testing.assert_close(after[new][400:], before[old].mean(0).expand(2, -1))
    tokenizer = AutoTokenizer.from_pretrained(made)
    assert tokenizer.convert_tokens_to_ids(["<video>", "<image>"]) == [400, 401]
    config = json.loads((made / "config.json").read_text())
    assert (config["video_token_index"], config["image_token_index"]) == (400, 401)


def test_vocabulary_padding_is_used_and_left_as_it_is(tmp_path):
    made = tmp_path / "made"
    assert run(QWEN.checkpoint, made, "--vision-tower", QWEN.vision_tower) == 0
    before = load_file(QWEN.checkpoint / "model-00001-of-00004.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(tensors_in(made)["model.language_model.embed_tokens.weight"], before)
    assert AutoTokenizer.from_pretrained(made).convert_tokens_to_ids(["<image>", "<video>"]) == [379, 380]


def take_the_tower_out(recording: Recording, folder: Path) -> dict[str, torch.Tensor]:
    """A copy of a checkpoint without its vision tower, which is returned."""
    folder.mkdir()
    for file in recording.checkpoint.iterdir():
        if not file.name.startswith(("model", "pytorch_model")):
            shutil.copyfile(file, folder / file.name)
    tensors = tensors_in(recording.checkpoint)
    prefix = "model.vision_tower.vision_tower."
    tower = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    save_file(
        {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}, folder / "model.safetensors"
    )
    return tower


@pytest.mark.parametrize("recording", [QWEN, SIGLIP], ids=["clip", "siglip"])
@pytest.mark.parametrize("how", ["converted", "direct"])
def test_tower_is_taken_from_its_own_folder(tmp_path, recording, how):
    tower = take_the_tower_out(recording, tmp_path / "source")
    settings = json.loads((Path(recording.vision_tower) / "config.json").read_text())["vision_config"]
    own = (
        SiglipVisionModel(SiglipVisionConfig(**settings))
        if recording is SIGLIP
        else CLIPVisionModel(CLIPVisionConfig(**settings))
    )
    # Its repository has the layer and the head that the original does not use, and the names of the whole model.
    whole = {f"vision_model.{name.removeprefix('vision_model.')}": weight for name, weight in own.state_dict().items()}
    whole |= tower | {"logit_scale": torch.ones(())}
    shutil.copytree(recording.vision_tower, tmp_path / "tower")
    save_file(
        {name: weight.clone().contiguous() for name, weight in whole.items()}, tmp_path / "tower" / "model.safetensors"
    )
    options = {"vision_tower": str(tmp_path / "tower")}
    source = tmp_path / "source"
    if how == "converted":
        assert run(source, tmp_path / "made", "--vision-tower", options["vision_tower"]) == 0
        source, options = tmp_path / "made", {}
    model = LlavaNextVideoForConditionalGeneration.from_pretrained(source, **options)
    for name, weight in tower.items():
        assert torch.equal(model.model.vision_tower.state_dict()[name.removeprefix("vision_model.")], weight)


def test_result_is_uploaded(tmp_path, capsys, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, name, private, exist_ok):
            calls.append(("create", name, private, exist_ok))
            return RepoUrl(f"https://huggingface.co/{name}")

        def upload_folder(self, repo_id, folder_path):
            calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(upload, "HfApi", Hub)
    arguments = ("--vision-tower", QWEN.vision_tower, "--push-to-hub", "me/mine")
    assert run(QWEN.checkpoint, tmp_path / "made", *arguments) == 0
    assert calls[0] == ("create", "me/mine", None, True)
    assert calls[1][:2] == ("upload", "me/mine")
    assert {"config.json", "model.safetensors", "processor_config.json", "generation_config.json"} <= set(calls[1][2])
    text = capsys.readouterr().out
    assert "made: 103 tensors, 0.74 MB in 1 file, written and verified in" in text
    assert text.endswith("https://huggingface.co/me/mine\n")


def test_source_may_be_a_hub_id(tmp_path, monkeypatch):
    asked, formats = [], set()

    def download(name, allow_patterns):
        asked.append(name)
        formats.update(pattern for pattern in allow_patterns if pattern.startswith("*"))
        return str({"lmms-lab/LLaVA-NeXT-Video-32B-Qwen": QWEN.checkpoint, "the/tower": QWEN.vision_tower}[name])

    monkeypatch.setattr("llava_next_video.hub.checkpoint_folders.snapshot_download", download)
    made = tmp_path / "made"
    assert run("lmms-lab/LLaVA-NeXT-Video-32B-Qwen", made, "--vision-tower", "the/tower") == 0
    assert {"lmms-lab/LLaVA-NeXT-Video-32B-Qwen", "the/tower"} == set(asked)
    assert formats == {"*.safetensors", "*.safetensors.index.json"}  # not the same weights as .bin once more
    assert LlavaNextVideoProcessor.from_pretrained(made).video_processor.num_frames == 32


def test_pickled_shards_and_stray_files(tmp_path):
    source = Path(shutil.copytree(LLAMA.checkpoint, tmp_path / "source"))
    weights = tensors_in(source)
    (source / "pytorch_model.bin").unlink()
    torch.save({"learning_rate": 1.0}, source / "training_args.bin")
    shards, names = {"pytorch_model-00001-of-00002.bin": {}, "pytorch_model-00002-of-00002.bin": {}}, {}
    for number, (name, weight) in enumerate(weights.items()):
        names[name] = sorted(shards)[number % 2]
        shards[names[name]][name] = weight
    for file, shard in shards.items():
        torch.save(shard, source / file)
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    for folder, made in ((source, "sharded"), (LLAMA.checkpoint, "whole")):
        assert run(folder, tmp_path / made, "--vision-tower", LLAMA.vision_tower) == 0
    sharded, whole = tensors_in(tmp_path / "sharded"), tensors_in(tmp_path / "whole")
    assert set(sharded) == set(whole)
    assert all(torch.equal(sharded[name], weight) for name, weight in whole.items())


def test_progress_shows_bytes_rate_and_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run(QWEN.checkpoint, tmp_path / "made", "--vision-tower", QWEN.vision_tower) == 0
    progress = capsys.readouterr().err
    for step in ("Writing", "Verifying"):
        assert f"{step}: 100%" in progress
    assert "739k/739k [00:00<00:00, " in progress
    assert "B/s]" in progress


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to-original", "--num-frames", "4"], "--to-original takes no recipe"),
        (["--to-original"], "has model_type 'llava_qwen'; only a llava_next_video checkpoint can be turned into"),
    ],
)
def test_error_of_the_way_back(tmp_path, capsys, arguments, message):
    assert run(QWEN.checkpoint, tmp_path / "made", *arguments) == 1
    assert message in capsys.readouterr().err


def test_error_when_the_tower_of_the_way_back_has_no_name(tmp_path, capsys):
    assert run(DEMO_CHECKPOINT, tmp_path / "made", "--to-original") == 1
    message = (
        "siglip_vision_model with 144 x 144 pixels and hidden size 128 is none of openai/clip-vit-large-patch14-336"
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_error_when_there_is_nothing_to_turn_back(tmp_path, capsys):
    assert run(tmp_path, tmp_path / "made", "--to-original") == 1
    assert "is not a checkpoint: it has no config.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-shard-size", "big"], "'big' is not a size; write it like 5GB or 200MiB"),
        (["--rope-factor", "0.5"], "'0.5' is not a factor; write 'auto' or a number of at least 1"),
        (["--rope-factor", "much"], "'much' is not a factor"),
        (["--recipe", "unknown"], "invalid choice: 'unknown'"),
        (["--dtype", "float8"], "argument --dtype: invalid choice: 'float8'"),
    ],
)
def test_error_for_wrong_options(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(QWEN.checkpoint, tmp_path / "made", *arguments)
    assert message in capsys.readouterr().err


def test_tokenizer_of_sentencepiece_asks_for_its_packages(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("llava_next_video.conversion.tokenizer.find_spec", lambda name: None)
    assert run(LLAMA.checkpoint, tmp_path / "made", "--vision-tower", LLAMA.vision_tower) == 1
    assert "is a SentencePiece file, and reading it takes two more packages" in capsys.readouterr().err


def test_positions_in_safetensors_files_are_read_right():
    for name, stored in stored_tensors(QWEN.checkpoint).items():
        assert torch.equal(torch.cat(list(stored.pieces())).view(stored.shape), tensors_in(QWEN.checkpoint)[name])
