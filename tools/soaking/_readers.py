"""All readers that are fuzzed, with the share of each: readers that take microseconds get more inputs."""

from transformers.utils.logging import disable_progress_bar

from soaking._reader import Reader
from soaking._readers_data import data_readers
from soaking._readers_model import model_readers
from soaking._readers_text import text_readers


def all_readers() -> list[Reader]:
    """Return the readers; building them loads the packaged nano."""
    disable_progress_bar()
    return [*data_readers(), *text_readers(), *model_readers()]
