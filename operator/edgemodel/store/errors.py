"""What can go wrong with the store. Each error says whether the same call can pass next time.

    StoreError
    ├── StoreConfigError    an environment variable, a credentials file or the bucket is missing
    │   └── SecretNotFoundError  the Secret with the credentials is not there yet                retry
    ├── TransientError      5xx, throttling, timeouts, a cut connection, a removal under way     retry
    ├── DeniedError         the store refuses these credentials
    │   └── ExpiredError    their time is over, and no others came
    ├── NotFoundError       no such artifact
    ├── ConflictError       someone else wrote first
    ├── CorruptError        bytes are not those that were promised, also after asking again
    └── DiskFullError       the folder's disk has no room for the artifact                       retry

No message carries a secret, a signed URL, or text that a server sent.
"""

from typing import ClassVar


class StoreError(Exception):
    """Anything that the store refuses or fails at."""

    reason: ClassVar[str] = "StoreFailed"
    """Why, as one word for programs."""
    retry: ClassVar[bool] = False
    """Whether the same call can pass later with nobody doing anything about it."""


class StoreConfigError(StoreError):
    """The settings of the store are incomplete or wrong; the message says what to set."""

    reason = "StoreMisconfigured"


class SecretNotFoundError(StoreConfigError):
    """The mounted Secret is empty: it may come, for it is mounted optionally."""

    reason = "StoreSecretNotFound"
    retry = True


class TransientError(StoreError):
    """The store could not answer, although it was asked several times."""

    reason = "StoreUnavailable"
    retry = True


class DeniedError(StoreError):
    """The store refuses the credentials, or they may not do this."""

    reason = "StoreDenied"


class ExpiredError(DeniedError):
    """The time of the credentials is over. Others may be about to come: they are read for each signature."""


class NotFoundError(StoreError):
    """There is no such object."""

    reason = "ArtifactNotFound"


class ConflictError(StoreError):
    """The object is not as the writer last saw it: someone else wrote first."""

    reason = "ArtifactConflict"
    retry = True


class CorruptError(StoreError):
    """Bytes are not those that were promised."""

    reason = "ArtifactCorrupt"


class DiskFullError(StoreError):
    """The artifact does not fit on the disk."""

    reason = "DiskFull"
    retry = True
