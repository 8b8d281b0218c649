"""What the operator is told by its installation. The decisions in this package take it as a value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StoreSettings:
    """The object store, as pods are told of it."""

    uri: str
    """`s3://BUCKET/PREFIX`."""
    endpoint: str = ""
    """URL of an S3 service that is not AWS."""
    region: str = ""
    """Region, where the service has some."""
    secret_name: str = ""
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in each namespace that has EdgeModels. Empty: the pods'
    own identity."""


@dataclass(frozen=True)
class Settings:
    """The installation."""

    operator_image: str
    """The operator's own image: it also resolves sources and fetches artifacts."""
    store: StoreSettings
    owner: str
    """What marks this cluster's references in a store that several share."""
    namespace: str = ""
    """The operator's own."""
    image_pull_policy: str = "IfNotPresent"
    """For all pods."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets, in each namespace that has EdgeModels."""
    service_account: str = ""
    """ServiceAccount of all pods, in each namespace that has EdgeModels. Empty: the namespace's default."""
    hub_endpoint: str = ""
    """URL of a mirror of the model hub. Empty: the public hub."""
