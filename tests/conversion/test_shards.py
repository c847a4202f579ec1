"""How tensors are put into safetensors files."""

import torch
from safetensors import safe_open

from llava_next_video.conversion.planned_tensors import PlannedTensor
from llava_next_video.conversion.writing import safetensors_header, split_into_shards


def planned(name: str, num_values: int) -> PlannedTensor:
    """A float32 tensor of `num_values`; only its place is looked at."""
    return PlannedTensor(name, source=None, dtype=torch.float32, shape=(num_values,))


def test_a_shard_is_filled_to_the_last_byte():
    tensors = [planned(name, 4) for name in "abc"]
    assert list(split_into_shards(tensors, 48)) == ["model.safetensors"]
    first, second = split_into_shards(tensors, 32).values()
    assert [tensor.name for tensor in first] == ["a", "b"]
    assert [tensor.name for tensor in second] == ["c"]
    assert len(split_into_shards(tensors, 31)) == 3


def test_data_begin_at_a_multiple_of_eight_bytes_and_say_they_are_of_torch(tmp_path):
    for length in range(1, 10):
        header = safetensors_header([planned("a" * length, 1)])
        assert len(header) % 8 == 0
        (tmp_path / "model.safetensors").write_bytes(header + b"\0" * 4)
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert file.get_tensor("a" * length).tolist() == [0]
