"""The size of a model before it is loaded is the size that it has when it is."""

import pytest
import torch
from huggingface_hub.errors import NotASafetensorsRepoError
from huggingface_hub.utils import SafetensorsFileMetadata, SafetensorsRepoMetadata, TensorInfo
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from llava_next_video import DEMO_CHECKPOINT
from llava_next_video.__main__ import main
from llava_next_video.hub import free_memory
from llava_next_video.hub.free_memory import free_bytes, num_bytes_loaded, warning_of_memory, weights_of
from llava_next_video.hub.loading import KEPT_AS_STORED
from tests.package.test_command_line import SAMPLE


def size(model: str, dtype: str = "auto", quantize: str | None = None) -> float:
    return sum(num_bytes_loaded(*weight, dtype, quantize) for weight in weights_of(model))


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float32"])
def test_size_is_that_of_the_loaded_model(dtype):
    model = AutoModelForImageTextToText.from_pretrained(DEMO_CHECKPOINT, dtype=dtype)
    assert size(DEMO_CHECKPOINT, dtype) == model.get_memory_footprint(return_buffers=False)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_size_is_that_of_the_quantized_model(bits):
    """Scales of the rounded weights come on top."""
    pytest.importorskip("bitsandbytes")
    config = BitsAndBytesConfig(**{f"load_in_{bits}": True}, llm_int8_skip_modules=KEPT_AS_STORED)
    model = AutoModelForImageTextToText.from_pretrained(
        DEMO_CHECKPOINT, dtype=torch.bfloat16, quantization_config=config, device_map={"": "cpu"}
    )
    assert size(DEMO_CHECKPOINT, "bfloat16", bits) == pytest.approx(
        model.get_memory_footprint(return_buffers=False), rel=0.02
    )


def test_warning_when_weights_are_larger_than_the_free_memory(monkeypatch, capsys):
    monkeypatch.setattr(free_memory, "free_bytes", lambda place: 3_000_000)
    assert main(["ask", SAMPLE, "What?", "--device", "cpu", "--max-new-tokens", "1"]) == 0  # it may fit all the same
    told = capsys.readouterr().err
    assert "llava-next-video: warning: The weights of " in told
    assert "take 7.55 MB, and cpu has 3.00 MB of memory free. If loading fails: --dtype" in told


def test_places_count_together(monkeypatch):
    monkeypatch.setattr(free_memory, "free_bytes", {"cuda:0": 3_000_000, "cpu": 1_000_000, "npu:0": None}.get)
    assert "and cuda:0 and cpu have 4.00 MB of memory free" in warning_of_memory(
        DEMO_CHECKPOINT, ["cuda:0", "cpu"], "auto", None
    )
    assert warning_of_memory(DEMO_CHECKPOINT, ["cuda:0", "cpu"], "bfloat16", None) is None
    assert warning_of_memory(DEMO_CHECKPOINT, ["npu:0"], "auto", None) is None


def test_free_memory_of_this_machine():
    assert free_bytes("cpu") > 10**6


def test_size_of_a_checkpoint_on_the_hub_is_known_before_it_is_fetched(monkeypatch):
    tensor = TensorInfo(dtype="BF16", shape=[3, 4], data_offsets=(0, 24))
    file = SafetensorsFileMetadata(metadata={}, tensors={"weight": tensor})
    found = SafetensorsRepoMetadata(
        metadata=None,
        sharded=False,
        weight_map={"weight": "model.safetensors"},
        files_metadata={"model.safetensors": file},
    )
    monkeypatch.setattr(free_memory, "get_safetensors_metadata", lambda name: found)
    assert list(weights_of("owner/name")) == [("weight", (3, 4), torch.bfloat16)]
    assert size("owner/name") == 24
    assert size("owner/name", "float32") == 48


@pytest.mark.parametrize("error", [NotASafetensorsRepoError("no"), OSError("no network")])
def test_nothing_is_said_where_the_hub_does_not_answer(error, monkeypatch):
    def fail(name):
        raise error

    monkeypatch.setattr(free_memory, "get_safetensors_metadata", fail)
    assert warning_of_memory("owner/name", ["cpu"], "auto", None) is None


def test_damaged_weights_are_for_loading_to_tell(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    assert list(weights_of(str(tmp_path))) == []
    assert list(weights_of(str(tmp_path / ".."))) == []


def test_weights_of_one_byte_stay_what_they_are():
    assert num_bytes_loaded("model.layers.0.weight", (4, 4), "F8_E4M3", "float32", None) == 16
