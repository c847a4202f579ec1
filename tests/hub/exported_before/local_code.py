"""What is left behind when the package itself loads an exported checkpoint, beside which a copy of the package lies."""

from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


class LocalCodeMixin:
    """Goes in front of an image or video processor: it forgets where the copy lies, and is saved without it.

    The class in the copy itself remembers, because transformers saves it together with its code.
    """

    def __init__(self, **kwargs):
        if not type(self).__module__.startswith(TRANSFORMERS_DYNAMIC_MODULE_NAME):
            kwargs.pop("auto_map", None)
        super().__init__(**kwargs)
