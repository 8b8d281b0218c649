"""What can go wrong, as the cluster hears of it. Each error says whether the same try can pass next time.

    PipelineError
    ├── SourceError
    │   ├── SourceUnauthorizedError       401, 403
    │   ├── SecretNotFoundError           the Secret with the credentials is not there yet       retry
    │   ├── SourceNotFoundError           no such model, revision, bucket or file
    │   ├── SourceUnavailableError        5xx, throttling, timeouts, cut connections             retry
    │   ├── SourceChangedError            no longer the bytes that were pinned
    │   ├── SourceUnsupportedError        no model that can be read, or several
    │   ├── TruncatedError                a file is shorter than its own header says
    │   ├── MalformedError                a header or config that makes no sense
    │   ├── PickleRefusedError            the only weights are a format that can run code
    │   ├── PathRefusedError              a name that leaves its folder
    │   └── AddressRefusedError           plain http, or an address that no source has
    ├── UnsupportedArchitectureError      the toolchain does not know the model
    ├── UnknownSchemeError                the toolchain does not offer the scheme
    ├── TaskUnsupportedError              the toolchain makes nothing for the task
    ├── TargetUnsupportedError            the toolchain does not compile for the chip
    ├── CalibrationMismatchError          the image's calibration text is not the one that the key stands for
    ├── QuantizationFailedError, EvaluationFailedError
    ├── DiskFullError
    ├── OutOfMemoryError                                                                         retry, with more
    ├── StoreUnavailableError                                                                    retry
    ├── StoreDeniedError, StoreFailedError
    └── InternalError                     a bug of ours

No message carries a secret, a signed URL, or text that a server sent.
"""

import errno
import json
import traceback
from pathlib import Path
from typing import ClassVar

from edgemodel.store import errors as store


class PipelineError(Exception):
    """Anything that ends a pipeline without an artifact. Its message says what to do."""

    retry: ClassVar[bool] = False
    """Whether the same try can pass later with nobody doing anything about it."""

    @property
    def reason(self) -> str:
        """Why, as one word for programs."""
        return type(self).__name__.removesuffix("Error")

    def termination(self) -> str:
        """The JSON that the pod leaves behind."""
        return json.dumps({"reason": self.reason, "message": str(self)[:1024], "retry": self.retry})

    @staticmethod
    def of(termination: str) -> "PipelineError":
        """The error that left this behind."""
        said = json.loads(termination)
        kind: type[PipelineError] = globals()[f"{said['reason']}Error"]
        return kind(said["message"])


class SourceError(PipelineError):
    """The source cannot be read, or must not be."""


class SourceUnauthorizedError(SourceError):
    """The source wants other credentials."""


class SecretNotFoundError(SourceError):
    """The Secret is missing or lacks a key. It may come: GitOps applies things in any order."""

    retry = True


class SourceNotFoundError(SourceError):
    """There is no such source."""


class SourceUnavailableError(SourceError):
    """The source could not answer, although it was asked several times."""

    retry = True


class SourceChangedError(SourceError):
    """The source no longer has the bytes that were pinned."""


class SourceUnsupportedError(SourceError):
    """The source is not one model in a format that can be read."""


class TruncatedError(SourceError):
    """A file is shorter than its header says."""


class MalformedError(SourceError):
    """A header or a config makes no sense."""


class PickleRefusedError(SourceError):
    """The only weights are pickles, which run code when they are loaded."""


class PathRefusedError(SourceError):
    """A file's name leaves its folder."""


class AddressRefusedError(SourceError):
    """The source is at an address that no source has."""


class UnsupportedArchitectureError(PipelineError):
    """The toolchain does not know the model's architecture."""


class UnknownSchemeError(PipelineError):
    """The toolchain does not offer the scheme."""


class TaskUnsupportedError(PipelineError):
    """The toolchain makes nothing that does the task."""


class TargetUnsupportedError(PipelineError):
    """The toolchain does not compile for what the artifact is wanted for."""


class CalibrationMismatchError(PipelineError):
    """The image's calibration text is not the one that the artifact's key stands for."""


class QuantizationFailedError(PipelineError):
    """The toolchain could not convert or quantize the model."""


class EvaluationFailedError(PipelineError):
    """The artifact could not be compared with the unquantized model."""


class DiskFullError(PipelineError):
    """The scratch volume is full."""


class OutOfMemoryError(PipelineError):
    """The toolchain was killed for memory."""

    retry = True


class StoreUnavailableError(PipelineError):
    """The object store could not answer."""

    retry = True


class StoreDeniedError(PipelineError):
    """The object store refuses the credentials."""


class StoreFailedError(PipelineError):
    """The object store is not set up, or damaged."""


class InternalError(PipelineError):
    """Something that we did not foresee."""


def translate(error: BaseException) -> PipelineError:
    """What an error means to the cluster. What we do not know is named by its type and place alone: its text may hold
    secrets."""
    match error:
        case PipelineError():
            return error
        case store.DiskFullError() | OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return DiskFullError(
                "the scratch volume is full: the node needs more ephemeral storage, or the model is too large"
            )
        case store.TransientError() | store.ConflictError():
            return StoreUnavailableError(str(error))
        case store.SecretNotFoundError():
            return SecretNotFoundError(str(error))
        case store.DeniedError():
            return StoreDeniedError(str(error))
        case store.StoreError():
            return StoreFailedError(str(error))
        case MemoryError():
            return OutOfMemoryError("the pipeline ran out of memory")
    frame = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" at {Path(line.filename).name}:{line.lineno}" for line in frame)
    return InternalError(f"unexpected {type(error).__name__}{place}: this is a bug of EdgeModel, please report it")
