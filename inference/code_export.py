"""Writes the code that loads a checkpoint into its folder, for people who have only transformers.

The files of this package lie in rooms (`modeling/`, `reading/`, ...); beside a checkpoint they lie in one folder,
because transformers copies single files. So `from ..room.name import` becomes `from .name import`, and nothing else
changes. Code that was exported can be exported again from where it lies.
"""

import json
import re
from pathlib import Path


MODEL = "modeling_llava_next_video.LlavaNextVideoForConditionalGeneration"
AUTO_MAP = {
    "AutoConfig": "configuration_llava_next_video.LlavaNextVideoConfig",
    "AutoModel": "modeling_llava_next_video.LlavaNextVideoModel",
    "AutoModelForImageTextToText": MODEL,
    "AutoModelForMultimodalLM": MODEL,
    "AutoModelForPreTraining": MODEL,
}
PROCESSOR_AUTO_MAP = {
    "AutoProcessor": "processing_llava_next_video.LlavaNextVideoProcessor",
    "AutoVideoProcessor": "video_processing_llava_next_video.LlavaNextVideoVideoProcessor",
    "AutoImageProcessor": "image_processing_llava_next_video.LlavaNextVideoImageProcessor",
}
CUSTOM_PIPELINES = {
    "video-text-to-text": {
        "impl": "pipeline_video_text_to_text.VideoTextToTextPipeline",
        "pt": ["AutoModelForImageTextToText", "AutoModelForMultimodalLM"],
        "type": "multimodal",
    }
}
WHOLE_ROOMS = ("modeling", "reading", "processing")
FROM_A_ROOM = re.compile(r"^( *from )\.\.\w+(?=\.\w+ import )", re.MULTILINE)
IMPORT = re.compile(r"^ *from \.(?:\.\w+\.)?(\w+) import ", re.MULTILINE)


def write_code(folder: str | Path):
    """Copy the code into the folder of a checkpoint, and name its classes in the settings, where the Auto classes and
    `pipeline` find them when they are called with `trust_remote_code=True`."""
    folder = Path(folder)
    add_to_json(folder / "config.json", {"auto_map": AUTO_MAP, "custom_pipelines": CUSTOM_PIPELINES})
    nested = {"video_processor": "AutoVideoProcessor", "image_processor": "AutoImageProcessor"}
    maps = {part: {"auto_map": {auto: PROCESSOR_AUTO_MAP[auto]}} for part, auto in nested.items()}
    add_to_json(folder / "processor_config.json", {"auto_map": PROCESSOR_AUTO_MAP, **maps})
    for file in code_files():
        (folder / file.name).write_text(FROM_A_ROOM.sub(r"\1", file.read_text(encoding="utf-8")), encoding="utf-8")


def code_files() -> list[Path]:
    """The files that load a checkpoint and run its pipeline: those named in the settings above, and all that they
    import."""
    here = Path(__file__).parent
    rooms = [here, *(here.parent / room for room in WHOLE_ROOMS)]
    files = {file.stem: file for room in rooms for file in room.glob("*.py")}
    references = [*AUTO_MAP.values(), *PROCESSOR_AUTO_MAP.values(), CUSTOM_PIPELINES["video-text-to-text"]["impl"]]
    waiting = [reference.partition(".")[0] for reference in references]
    found = set()
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += IMPORT.findall(files[name].read_text(encoding="utf-8"))
    return sorted(files[name] for name in found)


def add_to_json(path: Path, entries: dict):
    """Merge entries, which are dictionaries, into those of a JSON file."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    for key, value in entries.items():
        settings[key] = {**settings.get(key, {}), **value}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
