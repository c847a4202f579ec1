"""An exported folder, in processes without this package (trusting its code, and not) and in ours."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard, RepoUrl, save_torch_state_dict
from huggingface_hub.utils import httpx
from packaging.version import Version
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.dynamic_module_utils import get_relative_imports

import llava_next_video
from llava_next_video import DEMO_CHECKPOINT, LlavaNextVideoForConditionalGeneration, export_for_hub
from llava_next_video.__main__ import main
from llava_next_video.hub import export as hub_export
from llava_next_video.hub import upload
from llava_next_video.hub.destination import WritingError
from llava_next_video.modeling.checkpoint_settings import CheckpointError
from llava_next_video.modeling.configuration_llava_next_video import REFUSAL
from tests.golden_data import Recording
from tests.hub import without_package
from tests.hub.without_package import OPTIONS, QUESTION, VIDEO, answer_to_file, answer_to_frames
from tests.package.test_registration import renamed
from tests.tiny import make_model, make_processor


@pytest.fixture(scope="module")
def hub_source(tmp_path_factory) -> Path:
    """A recipe that the built-in has, in the layout of early Hub repositories: old names of weights, in several files,
    and one flat `preprocessor_config.json`."""
    folder = tmp_path_factory.mktemp("source")
    model = make_model()
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    make_processor(model.config).save_pretrained(folder)
    weights = {renamed(name, "llava-hf"): value.contiguous() for name, value in model.state_dict().items()}
    save_torch_state_dict(weights, folder, max_shard_size="20KB")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings.pop("video_processor")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")))
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def from_hub(hub_source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "from_hub"
    export_for_hub(hub_source, folder)
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A recipe that the built-in lacks."""
    folder = tmp_path_factory.mktemp("export") / "demo"
    export_for_hub(DEMO_CHECKPOINT, folder)
    return folder


def run_without_package(folder: Path, *tasks: str) -> dict:
    env = {**os.environ, "HF_HOME": str(folder.parent / "hf"), "HF_HUB_OFFLINE": "1"}
    env.pop("HF_MODULES_CACHE", None)
    command = [sys.executable, without_package.__file__, str(folder), str(folder.parent / "again"), *tasks]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, env=env)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def demo_elsewhere(demo) -> dict:
    """What processes without the package do with `demo`; without its code first, which would change the process."""
    return run_without_package(demo, "try_the_builtin", "load_trusting")


@pytest.fixture(scope="module")
def from_hub_elsewhere(from_hub) -> dict:
    return run_without_package(from_hub, "load_the_builtin", "load_trusting")


def load(folder: Path, **trust):
    return (auto.from_pretrained(folder, **trust) for auto in (AutoModelForImageTextToText, AutoProcessor))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "from_hub"])
def test_process_without_the_package_answers_the_same(name, request):
    folder, got = request.getfixturevalue(name), request.getfixturevalue(f"{name}_elsewhere")["load_trusting"]
    assert all(name.startswith("transformers_modules.") for name in got["classes"].values()), got["classes"]
    assert got["classes"]["AutoModel"].endswith(".LlavaNextVideoModel")
    assert got["tokens"] == got["tokens again"] == answer_to_file(*load(folder))
    pipe = pipeline("video-text-to-text", model=str(folder))
    assert got["answer of the pipeline"] == pipe(VIDEO, QUESTION, num_frames=4, **OPTIONS)


@pytest.mark.slow
def test_builtin_refuses_a_recipe_that_it_lacks(demo_elsewhere):
    for name, error in demo_elsewhere["try_the_builtin"].items():
        assert REFUSAL in (error or ""), (name, error)
        assert "spatial_pool_position='after_projector', video_newline_position='grid'" in error


@pytest.mark.slow
def test_builtin_answers_the_same_with_a_recipe_that_it_has(from_hub, from_hub_elsewhere):
    got = from_hub_elsewhere["load_the_builtin"]
    assert got["class"].startswith("transformers.models.")
    assert got["tokens"] == answer_to_frames(*load(from_hub))


@pytest.mark.parametrize("trust", [None, True, False])
def test_with_the_package_its_own_code_is_used_and_saved_without_the_copy(trust, demo, tmp_path):
    autos = {
        "AutoConfig": "LlavaNextVideoConfig",
        "AutoModel": "LlavaNextVideoModel",
        "AutoModelForImageTextToText": "LlavaNextVideoForConditionalGeneration",
        "AutoModelForMultimodalLM": "LlavaNextVideoForConditionalGeneration",
        "AutoModelForPreTraining": "LlavaNextVideoForConditionalGeneration",
        "AutoProcessor": "LlavaNextVideoProcessor",
        "AutoVideoProcessor": "LlavaNextVideoVideoProcessor",
    }
    for auto, name in autos.items():
        loaded = getattr(transformers, auto).from_pretrained(demo, trust_remote_code=trust)
        assert type(loaded) is getattr(llava_next_video, name)
    pipe = pipeline("video-text-to-text", model=str(demo), trust_remote_code=trust)
    assert type(pipe) is llava_next_video.VideoTextToTextPipeline
    assert type(pipe.model) is LlavaNextVideoForConditionalGeneration
    assert type(pipe.processor) is llava_next_video.LlavaNextVideoProcessor
    assert pipe(VIDEO, QUESTION)[0]["generated_text"] == "The circle moves left."

    pipe.model.save_pretrained(tmp_path)
    pipe.processor.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        assert not {"auto_map", "custom_pipelines"} & keys_in(json.loads((tmp_path / name).read_text()))


def keys_in(settings) -> set[str]:
    """Keys of a dictionary and of those in it."""
    nested = [keys_in(value) for value in settings.values() if isinstance(value, dict)]
    return set(settings).union(*nested)


def test_exported_code_is_flat_and_whole(demo):
    files = {file.stem: file for file in demo.glob("*.py")}
    assert {"configuration_llava_next_video", "video_reading", "pipeline_video_text_to_text"} <= set(files)
    for name, file in files.items():
        # Read as transformers reads it, by lines: what looks like an import in a docstring counts.
        assert set(get_relative_imports(file)) <= set(files), name
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level < 2, f"{name}.py, line {node.lineno}"
                assert node.module, f"{name}.py, line {node.lineno}"
                assert not node.module.startswith("llava_next_video"), f"{name}.py, line {node.lineno}"


def test_weights_of_a_folder_are_copied_and_not_loaded(hub_source, tmp_path, monkeypatch):
    before = {file.name: file.read_bytes() for file in hub_source.iterdir()}
    monkeypatch.setattr(LlavaNextVideoForConditionalGeneration, "__init__", lambda *args: pytest.fail("loaded"))
    export = export_for_hub(hub_source, tmp_path / "made")
    shards = [name for name in export.files if name.endswith(".safetensors")]
    assert len(shards) > 1
    for name in [*shards, "model.safetensors.index.json"]:
        assert (tmp_path / "made" / name).read_bytes() == before[name]
        assert not (tmp_path / "made" / name).samefile(hub_source / name)
    assert {file.name: file.read_bytes() for file in hub_source.iterdir()} == before


def test_one_file_that_an_index_names_is_exported_with_it(tmp_path):
    """The index was left out, and the export did not load."""
    source, destination = tmp_path / "source", tmp_path / "export"
    shutil.copytree(DEMO_CHECKPOINT, source)
    name = "model-00001-of-00001.safetensors"
    (source / "model.safetensors").rename(source / name)
    weights = dict.fromkeys(load_file(source / name), name)
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    export_for_hub(source, destination)
    LlavaNextVideoForConditionalGeneration.from_pretrained(destination)


def test_card_says_the_license_and_the_base_model_that_were_given(tmp_path):
    options = ["--license", "apache-2.0", "--base-model", "a/b", "c/d"]
    assert main(["export", DEMO_CHECKPOINT, str(tmp_path / "made"), *options]) == 0
    card = ModelCard.load(tmp_path / "made" / "README.md").data
    assert (card.license, card.base_model) == ("apache-2.0", ["a/b", "c/d"])


def test_card_says_what_was_said_before_and_what_is_said_now(demo, tmp_path):
    """The file with facts goes along; an argument stands above it."""
    export_for_hub(demo, tmp_path / "made", language=["en", "de"], limits=["It has none."])
    facts = json.loads((tmp_path / "made" / "model_card.json").read_text())
    assert facts == {
        **json.loads((Path(DEMO_CHECKPOINT) / "model_card.json").read_text()),
        "language": ["en", "de"],
        "limits": ["It has none."],
    }
    card = (tmp_path / "made" / "README.md").read_text()
    assert ModelCard(card).data.language == ["en", "de"]
    assert "\n## Limits\n\n* It has none.\n\n" in card


def test_checkpoint_of_which_nothing_is_said_gets_no_file(from_hub):
    assert not (from_hub / "model_card.json").exists()


def test_license_that_the_hub_does_not_know_is_one_line_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hub_export, "copy_files", lambda *_: pytest.fail("the weights were copied first"))
    assert main(["export", DEMO_CHECKPOINT, str(tmp_path / "made"), "--license", "Apache 2.0"]) == 1
    assert "has the license 'Apache 2.0', which the Hub does not know (but 'apache-2.0')" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_files_do_not_say_how_they_were_loaded_here(demo, from_hub):
    for folder in (demo, from_hub):
        assert not {"is_local", "local_files_only"} & json.loads((folder / "tokenizer_config.json").read_text()).keys()
        for file in folder.glob("*.json"):
            assert str(Path(DEMO_CHECKPOINT).parent) not in file.read_text(), file.name


def test_loaded_model_is_exported_with_its_processor(tmp_path):
    model, processor = load(DEMO_CHECKPOINT)
    planned = export_for_hub(model, tmp_path / "made", processor=processor, dry_run=True)
    assert list(tmp_path.iterdir()) == []
    export = export_for_hub(model, tmp_path / "made", processor=processor)
    assert planned.files.keys() == export.files.keys()
    assert export.files["model.safetensors"] >= planned.files["model.safetensors"] > 10**6
    exported, _ = load(tmp_path / "made")
    assert all(torch.equal(value, exported.state_dict()[name]) for name, value in model.state_dict().items())
    assert not hasattr(model.config, "auto_map")
    assert exported.generation_config.max_new_tokens == model.generation_config.max_new_tokens


def test_dry_run_lists_what_is_written_and_writes_nothing(demo, tmp_path, capsys):
    assert main(["export", DEMO_CHECKPOINT, str(tmp_path / "made"), "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert main(["export", DEMO_CHECKPOINT, str(tmp_path / "made")]) == 0
    assert listed == f"Dry run: nothing was written. What would be:\n{capsys.readouterr().out}"
    written = {file.name: file.stat().st_size for file in (tmp_path / "made").iterdir()}
    assert export_for_hub(DEMO_CHECKPOINT, tmp_path / "other", dry_run=True).files == written
    assert written.keys() == {file.name for file in demo.iterdir()}
    assert "  model.safetensors: " in listed


class Hub:
    """Stands in for `HfApi`, with one public repository."""

    public = ("me/public",)
    calls: list

    def create_repo(self, name, private, exist_ok):
        self.calls.append(("create", name, private, exist_ok))
        return RepoUrl(f"https://huggingface.co/{name}")

    def repo_info(self, name):
        return type("Info", (), {"private": name not in self.public})

    def upload_folder(self, repo_id, folder_path):
        self.calls.append(("upload", repo_id, sorted(os.listdir(folder_path))))


@pytest.fixture
def calls(monkeypatch) -> list:
    """What is asked of the Hub."""
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    monkeypatch.setattr(upload, "HfApi", Hub)
    return Hub.calls


@pytest.mark.parametrize(("options", "private"), [([], None), (["--private"], True)])
def test_export_is_uploaded_in_one_commit(options, private, tmp_path, capsys, calls):
    destination = tmp_path / "made"
    assert main(["export", DEMO_CHECKPOINT, str(destination), "--push-to-hub", "me/mine", *options]) == 0
    files = sorted(file.name for file in destination.iterdir())
    assert calls == [("create", "me/mine", private, True), ("upload", "me/mine", files)]
    assert capsys.readouterr().out.endswith("https://huggingface.co/me/mine\n")


def test_dry_run_uploads_nothing(tmp_path, calls):
    export_for_hub(DEMO_CHECKPOINT, tmp_path / "made", push_to_hub="me/mine", dry_run=True)
    assert calls == []


def test_private_export_does_not_go_to_a_public_repository(tmp_path, calls):
    with pytest.raises(ValueError, match=r"me/public exists and is public. Nothing was uploaded"):
        export_for_hub(DEMO_CHECKPOINT, tmp_path / "made", push_to_hub="me/public", private=True)
    assert [call[0] for call in calls] == ["create"]


def test_export_stays_when_the_upload_fails(tmp_path, monkeypatch, capsys):
    def unreachable(*args, **kwargs):
        raise httpx.ConnectError("Name or service not known")

    monkeypatch.setattr(upload.HfApi, "create_repo", unreachable)
    destination = tmp_path / "made"
    assert main(["export", DEMO_CHECKPOINT, str(destination), "--push-to-hub", "me/mine"]) == 1
    told = capsys.readouterr().err
    assert f"{destination} is written, but was not uploaded to me/mine: Name or service not known. Upload it" in told
    assert (destination / "config.json").is_file()


def test_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_export, "model_card", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_for_hub(DEMO_CHECKPOINT, tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_destination_is_not_written_over(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WritingError, match="exists already; name another destination"):
        export_for_hub(DEMO_CHECKPOINT, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_error_when_privacy_has_no_repository(tmp_path):
    with pytest.raises(
        ValueError, match=r"A private export needs a repository to be uploaded to; name one \(push_to_hub\)"
    ):
        export_for_hub(DEMO_CHECKPOINT, tmp_path / "made", private=True)


def test_error_when_a_model_comes_without_processor(tmp_path):
    with pytest.raises(ValueError, match="exported without its processor; pass `processor` too"):
        export_for_hub(make_model(), tmp_path / "made")


def test_error_when_a_part_of_a_model_is_given(tmp_path):
    model = make_model()
    with pytest.raises(ValueError, match=r"A LlavaNextVideoModel cannot be exported; .* or a LlavaNextVideoForCond"):
        export_for_hub(model.model, tmp_path / "made", processor=make_processor(model.config))


def test_error_when_the_source_is_an_original_checkpoint(tmp_path):
    source = Recording("qwen_grid_avg").checkpoint
    with pytest.raises(CheckpointError, match=r"model_type 'llava_qwen'.*has to be converted first"):
        export_for_hub(source, tmp_path / "made")


def test_error_when_the_source_has_no_config(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no config\.json"):
        export_for_hub(tmp_path, tmp_path / "made")


def test_error_when_the_weights_are_pickled(hub_source, tmp_path):
    for name in ("config.json", "processor_config.json", "preprocessor_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((hub_source / name).read_bytes())
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weights are in pytorch_model\.bin, .* Load the model and pass it"):
        export_for_hub(tmp_path, tmp_path / "made")


def test_source_that_is_nowhere_is_one_line(tmp_path, capsys):
    assert main(["export", "no/such", str(tmp_path / "made")]) == 1
    captured = capsys.readouterr()
    assert "error: 'no/such' is not a folder, and could not be fetched" in captured.err
    assert captured.out == ""


EXPORTED_BEFORE = Path(__file__).parent / "exported_before"


def test_folder_exported_before_the_rooms_is_answered_by_the_package():
    answer = json.loads((EXPORTED_BEFORE / "answer.json").read_text())
    model, processor = load(EXPORTED_BEFORE)
    assert type(model) is LlavaNextVideoForConditionalGeneration
    assert answer_to_file(model, processor) == answer["tokens"]
    pipe = pipeline("video-text-to-text", model=str(EXPORTED_BEFORE))
    assert pipe(VIDEO, QUESTION, num_frames=4, **OPTIONS)[0]["generated_text"] == answer["text"]


@pytest.mark.slow
@pytest.mark.skipif(
    Version(transformers.__version__) >= Version("5.24"),
    reason="its own code knows keys and values as `past_key_values` only; export it again",
)
def test_folder_exported_before_the_rooms_still_runs_its_own_code(tmp_path):
    answer = json.loads((EXPORTED_BEFORE / "answer.json").read_text())
    shutil.copytree(EXPORTED_BEFORE, tmp_path / "exported")
    got = run_without_package(tmp_path / "exported", "load_trusting")["load_trusting"]
    assert got["tokens"] == got["tokens again"] == answer["tokens"]
