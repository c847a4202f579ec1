"""Whether a whole prefill, pixels included, compiles as one graph that serves a second video too. The number of graphs
does not depend on the size of a model, so these are tiny, and graphs run as they are."""

import torch

from benchmarks.comparison import BUILTIN, HERE, Setting
from benchmarks.models import model, processor
from tests.graphs import CountingBackend


def graphs_of_two_prefills(side: str, setting: Setting) -> str:
    """What `torch.compile(fullgraph=True)` makes of the prefills of two videos of one shape, in words."""
    setting = Setting(tiny=True, clips=setting.clips, device=setting.device)
    whole, of_side = model(side, "clip", setting), processor(side, "clip", setting)
    backend = CountingBackend()
    compiled = torch.compile(whole, fullgraph=True, backend=backend)
    try:
        for seed in range(2):
            frames = torch.randint(
                256, (4, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
            )
            inputs = of_side(text=f"{of_side.video_token}\nWhat?", videos=[frames], return_tensors="pt")
            with torch.no_grad():
                compiled(**inputs.to(whole.device, whole.dtype))
    except Exception as error:
        return f"does not trace: {type(error).__name__}"
    count = len(backend.graphs)
    return f"{count} graph for two videos" if count == 1 else f"{count} graphs for two videos"


def table(setting: Setting) -> list[str]:
    """Lines of Markdown."""
    return [
        "| prefill with pixels, `torch.compile(fullgraph=True)` | |",
        "|---|---|",
        *(f"| {side} | {graphs_of_two_prefills(side, setting)} |" for side in (HERE, BUILTIN)),
    ]
