"""Which code a class comes from: this package, or a copy that was exported with a checkpoint and lies beside it."""

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


def forget_exported_code(owner: object, settings: dict):
    """Remove from `settings` where a checkpoint's copy of our code lies, when the package's own class loads it.

    A class that comes from the copy keeps the entries, because transformers saves it together with its code.
    """
    if not type(owner).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
        settings.pop("auto_map", None)
        settings.pop("custom_pipelines", None)
