"""The errors a user can meet. Each message says what is wrong, where, and what to do; none shows a traceback.

`exit_code` follows the shell's habit: 2 for a mistake of the user's, 1 for a fault of the machine or the data.
"""


class DavamError(Exception):
    """Base of every error that is meant for a user's eyes."""

    exit_code = 1


class ConfigError(DavamError):
    """A recipe key or value that cannot be."""

    exit_code = 2


class DataError(DavamError):
    """Input text that cannot be read or cannot be trained on."""

    exit_code = 2


class ArtifactError(DavamError):
    """A store, manifest or model folder that is missing, torn or contradicts itself."""


class ClusterError(DavamError):
    """A request that the cluster at hand can never satisfy."""

    exit_code = 2


class ClusterFaultError(DavamError):
    """A fault of the cluster's: it did not start, or lost what the work cannot do without. The same command goes on."""

    exit_code = 1


class GenerationError(DavamError):
    """A corpus that cannot be generated as asked for."""


class TrainingError(DavamError):
    """Training that cannot go on (a loss or gradient that is not finite)."""
