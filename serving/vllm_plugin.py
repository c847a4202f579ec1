"""What makes vLLM answer about videos with this model, without further flags.

vLLM calls `register` in each of its processes; it finds it by the entry point `vllm.general_plugins` of this package.
`VLLM_PLUGINS=""` in the environment keeps vLLM from that. Importing this module imports the package, which registers
its classes with transformers, where vLLM finds them.
"""

from llava_next_video.serving.vllm_videos import READER, CheckpointDefaults, VideoReader


ARCHITECTURE = "LlavaNextVideoForConditionalGeneration"


def register():
    """Make vLLM run the architecture by its Transformers backend, with our processor, and read its videos as we do."""
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports]
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP  # pyright: ignore[reportMissingImports]
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY  # pyright: ignore[reportMissingImports]

    # By name: the module imports much of vLLM, which should happen when the model is built.
    ModelRegistry.register_model(ARCHITECTURE, "llava_next_video.serving.vllm_model:LlavaNextVideoForVllm")
    MODELS_CONFIG_MAP[ARCHITECTURE] = CheckpointDefaults
    VIDEO_LOADER_REGISTRY.register(READER, video_processor="LlavaNextVideoVideoProcessor")(VideoReader)
