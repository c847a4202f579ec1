"""Tells the package's own classes from the copies of them that were exported with a checkpoint."""

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


def forget_exported_code(owner: object, settings: dict):
    """Remove the entries of `settings` that lead to a checkpoint's copy of our code, when the package's own class
    loads the checkpoint.

    A class from the copy keeps them, because transformers saves it together with its code.
    """
    if not type(owner).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
        settings.pop("auto_map", None)
        settings.pop("custom_pipelines", None)
