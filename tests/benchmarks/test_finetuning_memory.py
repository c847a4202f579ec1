"""The arithmetic of memory agrees with what tiny models really hold in a step."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from benchmarks.checkpoint_sizes import model_of
from benchmarks.finetuning_memory import ADAPTED, SIZES, bytes_in_a_layer, main, memory_of_step
from llava_next_video import LlavaNextVideoCollator, train_only
from llava_next_video.hub.recipes import RELEASED
from tests.tiny import TEXT_CONFIGS, make_model
from tests.training.rows import processor_of, video_row


GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "fine_tuning.md"
ALL = ("vision_tower", "projector", "newlines", "language_model")


class BytesKept:
    """Counts what autograd keeps of a forward pass: every storage once, and no weights."""

    def __init__(self, model: torch.nn.Module):
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.kept = {}

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.note, lambda tensor: tensor)
        self.hooks.__enter__()
        return self

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no other gets its address
        return tensor

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def __int__(self) -> int:
        return sum(size for size, _ in self.kept.values())


def bytes_of(tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_weights_gradients_and_optimizer_are_what_a_step_leaves(method):
    model = make_model(video_newline_position="grid")
    train_only(model, *ALL)
    memory = memory_of_step(model, method, num_tokens=100, num_frames=2, rank=4)
    base = bytes_of(model.parameters())
    if method == "lora":
        model = get_peft_model(model, LoraConfig(r=4, target_modules=ADAPTED))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    collate = LlavaNextVideoCollator(processor_of("qwen_1_5", video_newline_position="grid"))
    model(**collate([video_row("a", "b")])).loss.backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert memory.gradients == bytes_of(weight.grad for weight in trained)
    assert memory.optimizer == bytes_of(moments)
    # The tiny model is in float32, the base of adapters half of that.
    expected = base if method == "full" else base / 2 + bytes_of(trained)
    assert memory.weights == expected


@pytest.mark.parametrize("text", ["llama", "qwen2"])
def test_a_layer_keeps_about_what_the_formula_says(text):
    """In bfloat16, as adapters are trained, with a width and a length where small things no longer count."""
    sizes = {"hidden_size": 128, "intermediate_size": 344, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = make_model(text_config={**TEXT_CONFIGS[text], **sizes}).to(torch.bfloat16)
    layer, config = model.model.language_model.layers[0], model.config.text_config
    for weight in layer.parameters():
        weight.requires_grad_(False)
    num_tokens = 512
    states = torch.randn(1, num_tokens, config.hidden_size, dtype=torch.bfloat16, requires_grad=True)
    positions = model.model.language_model.rotary_emb(states, torch.arange(num_tokens)[None])
    for name, module in layer.named_modules():
        if name.endswith("_proj"):
            module.weight.requires_grad_(True)  # as an adapter, it asks for what goes into the matrix
    with BytesKept(model) as kept:
        layer(states, position_embeddings=positions, attention_mask=None)
    assert int(kept) == pytest.approx(num_tokens * bytes_in_a_layer(config), rel=0.02)


def test_the_sizes_are_those_that_are_called_7b_and_32b():
    weights = {
        size: sum(weight.numel() for weight in model_of(RELEASED[name]).parameters()) for size, name in SIZES.items()
    }
    assert weights["7B"] == pytest.approx(7.06e9, rel=0.01)
    assert weights["32B"] == pytest.approx(33.0e9, rel=0.01)


def test_the_table_of_the_guide_is_what_is_printed(capsys):
    main([])
    assert capsys.readouterr().out.rstrip() in GUIDE.read_text()


def test_another_number_of_frames(capsys):
    main(["--num-frames", "8"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if len(row) == 10 and row[0] != "GB:"] == [
        [size, method] for size in SIZES for method in ("full", "lora", "qlora")
    ]
    totals = [float(row[-2]) for row in rows if len(row) == 10 and row[0] == "7B"]
    assert totals == sorted(totals, reverse=True)
