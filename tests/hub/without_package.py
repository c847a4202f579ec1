"""What `test_export.py` runs in processes of their own, which have transformers and not this package:
`python without_package.py FOLDER AGAIN TASK ...`, with the folder of a checkpoint, a folder to make, and names of
functions below. The last line it prints is JSON: what each function returned."""

import json
import sys
import warnings
from pathlib import Path


VIDEO = str(Path(__file__).parents[2] / "demo_model" / "samples" / "red_circle_moves_left.mp4")
QUESTION = "Which way does the circle move?"
OPTIONS = {"max_new_tokens": 12, "do_sample": False}


class Absent:
    """Keeps the package from being found, whichever way it is installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "llava_next_video":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def answer_to_file(model, processor) -> list[int]:
    """Token ids of prompt and answer about a video file."""
    content = [{"type": "video", "path": VIDEO}, {"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"num_frames": 4},
    )
    return model.generate(**inputs, **OPTIONS)[0].tolist()


def answer_to_frames(model, processor) -> list[int]:
    """Token ids of prompt and answer about frames, which the built-in takes too."""
    import numpy as np

    frames = np.random.default_rng(0).integers(0, 256, (4, 24, 32, 3), dtype=np.uint8)
    inputs = processor(text=f"<video>{QUESTION}", videos=[frames], return_tensors="pt")
    return model.generate(**inputs, **OPTIONS)[0].tolist()


def load_trusting(folder: str, again: str) -> dict:
    """Load everything with `trust_remote_code=True`, answer, save to `again` and answer from there."""
    import transformers

    def load(auto: str, source: str):
        return getattr(transformers, auto).from_pretrained(source, trust_remote_code=True)

    autos = "AutoConfig AutoModel AutoModelForImageTextToText AutoModelForMultimodalLM AutoModelForPreTraining"
    autos += " AutoProcessor AutoVideoProcessor AutoImageProcessor"
    loaded = {auto: load(auto, folder) for auto in autos.split()}
    model, processor = loaded["AutoModelForImageTextToText"], loaded["AutoProcessor"]
    pipe = transformers.pipeline("video-text-to-text", model=folder, trust_remote_code=True)
    loaded |= {"pipeline": pipe, "its model": pipe.model, "its processor": pipe.processor}
    loaded |= {"video_processor": processor.video_processor, "image_processor": processor.image_processor}

    model.save_pretrained(again)
    processor.save_pretrained(again)
    return {
        "classes": {name: f"{type(each).__module__}.{type(each).__name__}" for name, each in loaded.items()},
        "tokens": answer_to_file(model, processor),
        "tokens again": answer_to_file(load("AutoModelForImageTextToText", again), load("AutoProcessor", again)),
        "answer of the pipeline": pipe(VIDEO, QUESTION, num_frames=4, **OPTIONS),
    }


def try_the_builtin(folder: str, again: str) -> dict:
    """The errors of everything that could load the checkpoint with the built-in, or None."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers.models.llava_next_video import LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration

    autos = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
    loaders = {auto: getattr(transformers, auto).from_pretrained for auto in autos}
    loaders["its config"] = LlavaNextVideoConfig.from_pretrained
    loaders["its model"] = LlavaNextVideoForConditionalGeneration.from_pretrained
    loaders["pipeline"] = lambda source: transformers.pipeline("image-text-to-text", model=source)

    def error_of(load) -> str | None:
        try:
            load(folder)
        except StrictDataclassError as error:
            return str(error)

    return {name: error_of(load) for name, load in loaders.items()}


def load_the_builtin(folder: str, again: str) -> dict:
    """The built-in's answer."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    return {"class": type(model).__module__, "tokens": answer_to_frames(model, processor)}


if __name__ == "__main__":
    sys.meta_path.insert(0, Absent)
    try:
        import llava_next_video  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        sys.exit("the package is there")

    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("error", module="transformers_modules")
    folder, again, *tasks = sys.argv[1:]
    print(json.dumps({task: globals()[task](folder, again) for task in tasks}))
