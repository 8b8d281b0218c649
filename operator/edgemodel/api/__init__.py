"""The four custom resources of the group `edgemodel.dev`, as frozen types. `python -m edgemodel.api` writes crds/."""

GROUP = "edgemodel.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
