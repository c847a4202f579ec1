import os

import pytest
import torch
from transformers.utils import logging


# The models of the tests are so small that a second thread costs more than it brings, here and in processes that tests
# start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def warnings_are_new():
    """transformers gives each warning once in a process; here, once in a test."""
    logging.get_logger().warning_once.cache_clear()
