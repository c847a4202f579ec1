"""The scripts of fine-tuning in `examples/`, as modules, for the tests and for `finetune_run.py`."""

from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@cache
def load_example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
