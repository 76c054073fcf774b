"""Errors that a user, a config or a data set can cause: what came, what was expected and what to do."""


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
