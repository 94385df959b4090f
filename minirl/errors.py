"""The errors minirl raises on purpose: each says what was wrong and what to do next."""


class MinirlError(Exception):
    """Base of every error that minirl raises on purpose."""


class ConfigError(MinirlError):
    """A config, override or notebook parameter is wrong; names the key, the file and the nearest valid key."""


class RunError(MinirlError):
    """A run directory or checkpoint is broken, in use, or belongs to another configuration."""


class TrainingError(MinirlError):
    """Training produced a NaN or infinite loss; names the step so that it can be reproduced."""
