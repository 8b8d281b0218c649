"""The user's Secret, as it is mounted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgemodel.pipeline.errors import SecretNotFoundError, SourceUnauthorizedError


@dataclass(frozen=True)
class Credentials:
    """A folder with a file for each key of the Secret. Values are read when they are needed and kept nowhere."""

    folder: Path | None
    secret: str
    """The Secret's name, for messages."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "Credentials":
        """The Secret that EDGEMODEL_SOURCE_CREDENTIALS and _SECRET name, or none."""
        folder = environ.get("EDGEMODEL_SOURCE_CREDENTIALS")
        return cls(Path(folder) if folder else None, environ.get("EDGEMODEL_SOURCE_SECRET", ""))

    def optional(self, key: str) -> str | None:
        """The value of a key, if the Secret has it."""
        try:
            return (self.folder / key).read_text().strip() or None if self.folder else None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SourceUnauthorizedError(f"{key} of {self._name} cannot be read: {type(error).__name__}") from None

    def get(self, key: str) -> str | None:
        """The value of a key. None without a Secret; a Secret that lacks the key is refused."""
        value = self.optional(key)
        if value is None and self.folder:
            raise SecretNotFoundError(
                f"{self._name} is missing or has no {key}: create it, or remove spec.source.secretRef"
            )
        return value

    @property
    def _name(self) -> str:
        return f"the Secret {self.secret!r}" if self.secret else f"the Secret at {self.folder}"
