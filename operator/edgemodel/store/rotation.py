"""Keys for botocore that are read for each signature, so that the next call knows of a rotation."""

from collections.abc import Callable

from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials

from edgemodel.store.config import Keys

Read = Callable[[], Keys]


def rotating(read: Read) -> CredentialResolver:
    """What gives a session of botocore's the keys that `read` finds."""
    return CredentialResolver([_Provider(read)])


class _Provider(CredentialProvider):
    METHOD = "edgemodel-mounted-secret"

    def __init__(self, read: Read) -> None:
        super().__init__()
        self._read = read

    def load(self) -> Credentials:
        return _Rotated(self._read)


class _Rotated(Credentials):
    def __init__(self, read: Read) -> None:
        keys = read()
        super().__init__(keys.access_key, keys.secret_key, keys.token)
        self._read = read

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        keys = self._read()
        return ReadOnlyCredentials(keys.access_key, keys.secret_key, keys.token)
