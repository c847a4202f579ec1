"""The plug-in with which vLLM answers about videos with this model, without further flags.

vLLM finds `register` by this package's entry point `vllm.general_plugins`, and calls it in each of its processes,
unless the environment has `VLLM_PLUGINS=""`. Importing this module imports the package, which registers its classes
with transformers, where vLLM finds them.
"""

from llava_next_video.serving.vllm_videos import READER, CheckpointDefaults, VideoReader


ARCHITECTURE = "LlavaNextVideoForConditionalGeneration"


def register():
    """Have vLLM run the architecture in its Transformers backend, with our processor and our reader of videos."""
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports]
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP  # pyright: ignore[reportMissingImports]
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY  # pyright: ignore[reportMissingImports]

    # By name: the module imports much of vLLM, which should happen when the model is built.
    ModelRegistry.register_model(ARCHITECTURE, "llava_next_video.serving.vllm_model:LlavaNextVideoForVllm")
    MODELS_CONFIG_MAP[ARCHITECTURE] = CheckpointDefaults
    VIDEO_LOADER_REGISTRY.register(READER, video_processor="LlavaNextVideoVideoProcessor")(VideoReader)
