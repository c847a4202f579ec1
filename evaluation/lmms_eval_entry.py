"""The entry point `lmms_eval.models`, where lmms-eval finds the model's name and the place of its class."""


def manifest():
    """The `ModelManifest` of `--model llava_next_video`."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(
        model_id="llava_next_video",
        simple_class_path="llava_next_video.evaluation.lmms_eval_model.LlavaNextVideoForLmmsEval",
    )
