"""Importing the package makes the Auto classes return ours for every `llava_next_video` checkpoint, old or new."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.models.llava_next_video import LlavaNextVideoConfig as BuiltInConfig
from transformers.models.llava_next_video import LlavaNextVideoForConditionalGeneration as BuiltInModel
from transformers.models.llava_next_video import LlavaNextVideoProcessor as BuiltInProcessor

import llava_next_video
from tests.golden_data import Recording
from tests.tiny import config_arguments, make_model, make_processor, random_frames


MODEL_CLASSES = {
    "AutoModel": "LlavaNextVideoModel",
    "AutoModelForImageTextToText": "LlavaNextVideoForConditionalGeneration",
    "AutoModelForMultimodalLM": "LlavaNextVideoForConditionalGeneration",
    "AutoModelForPreTraining": "LlavaNextVideoForConditionalGeneration",
}


@pytest.fixture(scope="module")
def builtin_checkpoint(tmp_path_factory):
    """Model and processor as the built-in saves them."""
    folder = tmp_path_factory.mktemp("builtin")
    model = BuiltInModel(BuiltInConfig(**config_arguments())).eval()
    model.save_pretrained(folder)
    make_processor(model.config, cls=BuiltInProcessor).save_pretrained(folder)
    return folder, model


@pytest.fixture(scope="module")
def our_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    model = make_model()
    model.save_pretrained(folder)
    make_processor(model.config).save_pretrained(folder)
    return folder, model


@pytest.fixture(params=["builtin", "ours"])
def checkpoint(request, builtin_checkpoint, our_checkpoint):
    return builtin_checkpoint if request.param == "builtin" else our_checkpoint


@pytest.mark.parametrize("auto_class", MODEL_CLASSES)
def test_auto_classes_load_our_model(auto_class, checkpoint):
    folder, source = checkpoint
    model, report = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True)
    assert type(model) is getattr(llava_next_video, MODEL_CLASSES[auto_class])
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert not report["unexpected_keys"]
    expected = source.model if auto_class == "AutoModel" else source
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_auto_classes_load_our_config_and_processors(checkpoint):
    folder, _ = checkpoint
    assert type(transformers.AutoConfig.from_pretrained(folder)) is llava_next_video.LlavaNextVideoConfig
    processor = transformers.AutoProcessor.from_pretrained(folder)
    assert type(processor) is llava_next_video.LlavaNextVideoProcessor
    assert type(processor.video_processor) is llava_next_video.LlavaNextVideoVideoProcessor
    assert type(processor.image_processor) is llava_next_video.LlavaNextVideoImageProcessor
    video_processor = transformers.AutoVideoProcessor.from_pretrained(folder)
    assert type(video_processor) is llava_next_video.LlavaNextVideoVideoProcessor


def test_auto_image_processor_is_ours_unless_the_file_names_the_builtin(checkpoint, tmp_path):
    """Our files name the built-in's class, so that it can read them, and that name is its alone."""
    folder, _ = checkpoint
    settings = transformers.AutoProcessor.from_pretrained(folder).image_processor.to_dict()
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    for name, expected in {
        "LlavaNextImageProcessor": transformers.models.llava_next.LlavaNextImageProcessor,
        "LlavaNextVideoImageProcessor": llava_next_video.LlavaNextVideoImageProcessor,
        None: llava_next_video.LlavaNextVideoImageProcessor,
    }.items():
        settings["image_processor_type"] = name
        written = {key: value for key, value in settings.items() if value is not None}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(written))
        assert type(transformers.AutoImageProcessor.from_pretrained(tmp_path)) is expected


@pytest.mark.parametrize("image_processor_type", ["LlavaNextImageProcessor", "LlavaNextVideoImageProcessor"])
def test_processor_of_an_early_hub_checkpoint_loads(image_processor_type, builtin_checkpoint, tmp_path):
    """One flat `preprocessor_config.json` for images and videos, and a processor config with nothing nested in it."""
    folder, _ = builtin_checkpoint
    settings = json.loads((folder / "processor_config.json").read_text())
    flat = {**settings.pop("image_processor"), "image_processor_type": image_processor_type}
    settings.pop("video_processor")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(flat))
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is llava_next_video.LlavaNextVideoProcessor
    expected = transformers.AutoProcessor.from_pretrained(folder)
    case = {"text": "<video><image>", "videos": [random_frames(3)], "images": [random_frames(1)[0]]}
    for name, value in expected(**case).items():
        assert torch.equal(processor(**case)[name], value)


NAMING_STYLES = {
    "transformers 5": [],
    "transformers 4.52 and later": [("model.vision_tower.", "model.vision_tower.vision_model.")],
    "llava-hf": [
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ],
    "transformers 5, saved from scratch": [
        ("model.vision_tower.", "vision_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.image_newline", "image_newline"),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ],
}


def renamed(name: str, style: str) -> str:
    for prefix, other in NAMING_STYLES[style]:
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name


@pytest.mark.parametrize("auto_class", ["AutoModel", "AutoModelForImageTextToText"])
@pytest.mark.parametrize("tower", ["clip", "siglip"])
@pytest.mark.parametrize("style", NAMING_STYLES)
def test_every_naming_style_loads_whole(style, tower, auto_class, tmp_path):
    model = make_model(tower=tower)
    model.config.save_pretrained(tmp_path)
    weights = {renamed(name, style): tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, report = getattr(transformers, auto_class).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    expected = model.model if auto_class == "AutoModel" else model
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())


def test_a_checkpoint_we_saved_is_read_by_the_builtin_and_answers_the_same(our_checkpoint):
    folder, model = our_checkpoint
    builtin, report = BuiltInModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = BuiltInProcessor.from_pretrained(folder)(text="<video>\nWhat?", videos=[random_frames(2)])
    assert (builtin.eval()(**inputs).logits - model(**inputs).logits).abs().max() <= 1e-5


def test_loading_and_saving_keeps_the_names_of_the_file(builtin_checkpoint, tmp_path):
    folder, _ = builtin_checkpoint
    transformers.AutoModelForImageTextToText.from_pretrained(folder).save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(folder / "model.safetensors").keys()


@pytest.mark.parametrize("style", NAMING_STYLES)
def test_names_of_the_file_are_kept_where_all_renamings_are_noted(style, tmp_path, monkeypatch):
    """As transformers' loading does with DeepSpeed's ZeRO-3: unneeded ones were undone, too, in what was saved."""
    model = make_model()
    model.config.save_pretrained(tmp_path)
    weights = {renamed(name, style): tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    from_pretrained = transformers.PreTrainedModel.from_pretrained.__func__

    def noting_all(cls, *args, **kwargs):
        loaded = from_pretrained(cls, *args, **kwargs)
        used = [renaming.source_patterns for renaming in loaded._weight_conversions]
        renamings = get_model_conversion_mapping(loaded)
        loaded._weight_conversions += [each for each in renamings if each.source_patterns not in used]
        return loaded

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", classmethod(noting_all))
    transformers.AutoModelForImageTextToText.from_pretrained(tmp_path).save_pretrained(tmp_path / "again")
    assert load_file(tmp_path / "again" / "model.safetensors").keys() == weights.keys()


@pytest.mark.slow
def test_transformers_itself_still_loads_its_own_classes_in_a_process_without_us(our_checkpoint):
    code = (
        "import sys, transformers; folder = sys.argv[1];"
        "model = transformers.AutoModelForImageTextToText.from_pretrained(folder);"
        "processor = transformers.AutoProcessor.from_pretrained(folder);"
        "print(type(model).__module__, type(processor).__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code, our_checkpoint[0]], capture_output=True, text=True, check=True)
    modules = result.stdout.split()
    assert all(module.startswith("transformers.models.llava_next_video.") for module in modules)


def test_pipeline_task_is_registered_without_disturbing_the_others():
    tasks = transformers.pipelines.PIPELINE_REGISTRY.get_supported_tasks()
    assert {"video-text-to-text", "image-text-to-text", "text-generation"} <= set(tasks)


# Runs each code that it is told in a process of its own, and answers with the traceback of how that ended. They are
# copies of this process, which has imported what takes long and nothing of ours waits for: torch, other libraries, and
# the lists of transformers' modules.
FRESH_PROCESSES = """
import json, os, sys, traceback
import accelerate, av, huggingface_hub, jinja2, PIL.Image, torch, torchvision, transformers.models, yaml
torch.set_num_threads(1)
waited_for = {f"transformers.{name}" for name in ("models.auto", "models.llava_next", "modeling_utils", "pipelines")}
assert not (waited_for | {"llava_next_video"}) & set(sys.modules)
for line in sys.stdin:
    listen, tell = os.pipe()
    if os.fork() == 0:
        os.dup2(2, 1)
        try:
            exec(json.loads(line), {"__name__": "__main__"})
        except BaseException:
            os.write(tell, traceback.format_exc()[-4000:].encode())
        os._exit(0)
    os.close(tell)
    with open(listen) as told:
        problem = told.read()
    status = os.wait()[1]
    print(json.dumps(problem or (status and f"status {status}")), flush=True)
"""


@pytest.fixture(scope="module")
def run_fresh():
    """Runs code in a process that has imported nothing of ours; fails with its traceback if it raises."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FRESH_PROCESSES], text=True, **pipes) as server:

        def run(code: str):
            print(json.dumps(code), file=server.stdin, flush=True)
            problem = json.loads(server.stdout.readline())
            assert not problem, f"{code}\n{problem}"

        yield run
        server.stdin.close()


IN_PLACE = """
import llava_next_video, transformers
from transformers.pipelines import PIPELINE_REGISTRY

folder = llava_next_video.DEMO_CHECKPOINT
for name in ("Config", "Processor", "VideoProcessor"):
    loaded = getattr(transformers, f"Auto{name}").from_pretrained(folder)
    assert type(loaded) is getattr(llava_next_video, f"LlavaNextVideo{name}"), loaded
model = transformers.AutoModelForImageTextToText.from_pretrained(folder)
assert type(model) is llava_next_video.LlavaNextVideoForConditionalGeneration
assert PIPELINE_REGISTRY.check_task("video-text-to-text")[1]["impl"] is llava_next_video.VideoTextToTextPipeline
module = type(transformers.AutoConfig.for_model("llava_qwen")).__module__
assert module == "llava_next_video.conversion.original_model_types"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import llava_next_video",
        "from transformers import AutoProcessor, PreTrainedModel, pipeline; import llava_next_video",
        "import llava_next_video; import transformers.modeling_utils",
        "import llava_next_video; from transformers import CLIPVisionModel",
        "import llava_next_video; import transformers.models.auto.video_processing_auto",
        "from llava_next_video import LlavaNextVideoForConditionalGeneration",
        "from llava_next_video import LlavaNextVideoConfig",
        "from llava_next_video import VideoTextToTextPipeline",
        "import llava_next_video.conversion.direct_loading",
        "import transformers.models.llava_next_video.video_processing_llava_next_video; import llava_next_video",
        *(
            f"import llava_next_video; import transformers.models.llava_next_video.{builtin}_llava_next_video"
            for builtin in ("configuration", "modeling", "processing", "video_processing")
        ),
    ],
)
def test_whatever_is_imported_first(first, run_fresh):
    """transformers' modules import ours, and ours import transformers': neither may find the other half done."""
    run_fresh(first + IN_PLACE)


# What each public name does with an original checkpoint, and with one of ours; names that read none are only imported.
READ_A_CHECKPOINT = """
for source, options in ((ORIGINAL, {"vision_tower": TOWER}), (DEMO, {})):
    loaded = NAME.from_pretrained(source, **options)
    assert type(loaded) is NAME, type(loaded)
"""
READ_A_CHECKPOINT_OF_OURS = "assert type(NAME.from_pretrained(DEMO)) is NAME"
USES = {
    "LlavaNextVideoConfig": READ_A_CHECKPOINT,
    "LlavaNextVideoProcessor": READ_A_CHECKPOINT,
    "LlavaNextVideoModel": READ_A_CHECKPOINT,
    "LlavaNextVideoForConditionalGeneration": READ_A_CHECKPOINT,
    "LlavaNextVideoImageProcessor": READ_A_CHECKPOINT_OF_OURS,
    "LlavaNextVideoVideoProcessor": READ_A_CHECKPOINT_OF_OURS,
    "VideoTextToTextPipeline": """
from transformers import AutoModelForImageTextToText as Model, AutoProcessor as Processor
for source, options in ((ORIGINAL, {"vision_tower": TOWER}), (DEMO, {})):
    parts = [part.from_pretrained(source, **options) for part in (Model, Processor)]
    NAME(model=parts[0], processor=parts[1])
""",
}


ORIGINAL = Recording("qwen_grid_avg")
PATHS = f"""
ORIGINAL = {str(ORIGINAL.checkpoint)!r}
TOWER = {ORIGINAL.vision_tower!r}
DEMO = {llava_next_video.DEMO_CHECKPOINT!r}
"""


def first_imports() -> list[str]:
    """Every public name, imported from the package and from the module that defines it, and what is done with it."""
    cases = []
    for name in llava_next_video.__all__:
        modules = ["llava_next_video"]
        if name in USES:
            modules.append(getattr(llava_next_video, name).__module__)
        cases += [f"from {module} import {name} as NAME\n{USES.get(name, '')}" for module in modules]
    # Data-loader workers have the processor before the model; a configuration needs neither.
    orders = [
        ["Processor", "ForConditionalGeneration"],
        ["ForConditionalGeneration", "Processor"],
        ["Config", "Processor", "Model"],
    ]
    for order in orders:
        names = [f"LlavaNextVideo{part}" for part in order]
        cases.append("\n".join(f"from llava_next_video import {name} as NAME\n{READ_A_CHECKPOINT}" for name in names))
    return cases


@pytest.mark.slow
@pytest.mark.parametrize("code", first_imports())
def test_every_public_name_works_as_the_first_and_only_thing_that_is_imported(code, run_fresh):
    """`LlavaNextVideoProcessor.from_pretrained(ORIGINAL)` failed unless an Auto class had been imported."""
    run_fresh(PATHS + code)


def test_what_public_names_do_is_about_public_names():
    assert set(USES) <= set(llava_next_video.__all__)


def test_version_is_the_one_of_pyproject():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert llava_next_video.__version__ == project["version"]
