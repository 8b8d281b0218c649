"""The operator's process: settings from the environment, the controllers on the engine.

Environment: EDGEMODEL_OPERATOR_IMAGE, EDGEMODEL_STORE_* (see `edgemodel.store.config`), EDGEMODEL_STORE_SECRET,
EDGEMODEL_IMAGE_PULL_POLICY, EDGEMODEL_IMAGE_PULL_SECRETS (comma-separated), EDGEMODEL_SERVICE_ACCOUNT,
EDGEMODEL_HUB_ENDPOINT, EDGEMODEL_LEASE (empty: no leader election), EDGEMODEL_PORT, EDGEMODEL_LOG_LEVEL.
"""

import asyncio
import os
import sys
from collections.abc import Mapping

from edgemodel.controllers.context import Context
from edgemodel.controllers.edgemodel import EdgeModelController
from edgemodel.controllers.metrics import register
from edgemodel.controllers.modelartifact import ModelArtifactController
from edgemodel.controllers.node import NodeController
from edgemodel.controllers.resources import (
    ARTIFACT_CONTROLLER,
    MODEL_CONTROLLER,
    NAMESPACE,
    NODE_CONTROLLER,
    Watches,
    artifact_key,
)
from edgemodel.core.settings import Settings, StoreSettings
from edgemodel.engine.objects import Ref
from edgemodel.engine.runtime import Options, Runtime
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.config import StoreConfig
from edgemodel.store.errors import StoreConfigError


def settings_from(environ: Mapping[str, str], owner: str) -> Settings:
    """The installation's settings. Raises KeyError where a needed variable is missing."""
    secrets = environ.get("EDGEMODEL_IMAGE_PULL_SECRETS", "")
    return Settings(
        operator_image=environ["EDGEMODEL_OPERATOR_IMAGE"],
        store=StoreSettings(
            uri=environ["EDGEMODEL_STORE_URI"],
            endpoint=environ.get("EDGEMODEL_STORE_ENDPOINT", ""),
            region=environ.get("EDGEMODEL_STORE_REGION", ""),
            secret_name=environ.get("EDGEMODEL_STORE_SECRET", ""),
        ),
        owner=owner,
        namespace=environ.get("EDGEMODEL_NAMESPACE", ""),
        image_pull_policy=environ.get("EDGEMODEL_IMAGE_PULL_POLICY", "IfNotPresent"),
        image_pull_secrets=tuple(name for name in secrets.split(",") if name),
        service_account=environ.get("EDGEMODEL_SERVICE_ACCOUNT", ""),
        hub_endpoint=environ.get("EDGEMODEL_HUB_ENDPOINT", ""),
    )


async def _cluster_identity(runtime: Runtime) -> str:
    """What tells this cluster from others that share the store: the uid of the namespace that each has."""
    async with runtime.client:
        namespace = await runtime.client.get(Ref("Namespace", "", "kube-system"))
    return str(namespace["metadata"]["uid"])


def main() -> None:
    """Runs the operator until it is told to stop."""
    environ = os.environ
    try:
        store = ArtifactStore(StoreConfig.from_env(environ))
    except StoreConfigError as error:
        sys.exit(f"edgemodel-operator: {error}")
    context: Context | None = None

    def landscape_changed() -> None:
        if context is not None:
            context.forget_landscape()

    watches = Watches(landscape_changed)
    runtime = Runtime(
        watches.all,
        resources=(NAMESPACE,),
        options=Options(
            lease=environ.get("EDGEMODEL_LEASE", ""),
            namespace=environ.get("EDGEMODEL_NAMESPACE", ""),
            port=int(environ.get("EDGEMODEL_PORT", "8080")),
        ),
    )
    watches.cache = runtime.cache
    context = Context(
        cache=runtime.cache,
        client=runtime.client,
        applier=runtime.applier,
        events=runtime.events,
        store=store,
        settings=settings_from(environ, asyncio.run(_cluster_identity(runtime))),
        wake=lambda namespace, name: runtime.wake(artifact_key(namespace, name)),
    )
    register(runtime.cache)
    runtime.main(
        {
            MODEL_CONTROLLER: EdgeModelController(context).reconcile,
            ARTIFACT_CONTROLLER: ModelArtifactController(context).reconcile,
            NODE_CONTROLLER: NodeController(context).reconcile,
        }
    )


if __name__ == "__main__":
    main()
