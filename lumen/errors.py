"""Errors that a user, a config or a data set can cause: what came, what was expected and what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class LumenError(ValueError):
    """Base of all errors that Lumen raises on purpose."""


class DataError(LumenError):
    """An image, an annotation or a whole data set is not what it should be."""


class ConfigError(LumenError):
    """A config holds an unknown key, an unknown name, or values that do not fit each other."""


class CheckpointError(LumenError):
    """A checkpoint is broken, unsafe, or belongs to another model."""


class PromptError(LumenError):
    """A prompt is empty, too long, or names an unknown task."""


def printable(text: str) -> str:
    """Return a text with control characters other than line breaks and tabs as escapes: a terminal would obey them."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], text)


@contextmanager
def named_faults(fault: str, kind: type[LumenError], *, remedy: str) -> Iterator[None]:
    """Raise whatever fails inside as an error of Lumen, for what is read from files that others wrote.

    Libraries raise errors of all classes on values that they do not expect. The first one stays as the cause.

    Args:
        fault: What cannot be done, with the path: the start of the message.
        kind: Class of the error.
        remedy: What the user can do.
    """
    try:
        yield
    except LumenError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise kind(f"{fault} ({type(error).__name__}{': ' + lines[0] if lines else ''}): {remedy}") from error
