"""Each golden manifest as a real API server takes it, in a namespace that enforces Pod Security `restricted`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.apiserver.api.conftest import Object, Server

GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*.yaml"))
NAMESPACE = "restricted"
PATHS = {
    "Pod": "/api/v1/namespaces/restricted/pods",
    "Service": "/api/v1/namespaces/restricted/services",
    "Deployment": "/apis/apps/v1/namespaces/restricted/deployments",
    "DaemonSet": "/apis/apps/v1/namespaces/restricted/daemonsets",
    "Job": "/apis/batch/v1/namespaces/restricted/jobs",
    "ModelArtifact": "/apis/edgemodel.dev/v1alpha1/namespaces/restricted/modelartifacts",
}


@pytest.fixture(scope="module")
def restricted(server: Server) -> Iterator[Server]:
    """The API server with that namespace."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": NAMESPACE, "labels": labels}
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    answer = server.apply(f"/api/v1/namespaces/{NAMESPACE}", body)
    assert answer.accepted, answer.message
    yield server
    server.send("DELETE", f"/api/v1/namespaces/{NAMESPACE}")


def manifest(path: Path) -> Object:
    """The manifest, moved to that namespace."""
    found: Object = yaml.safe_load(path.read_text(encoding="utf-8"))
    found["metadata"]["namespace"] = NAMESPACE
    return found


def applied(server: Server, obj: Object) -> Any:
    where = f"{PATHS[obj['kind']]}/{obj['metadata']['name']}"
    query = {"fieldManager": "test", "force": "true", "dryRun": "All", "fieldValidation": "Strict"}
    return server.send("PATCH", where, obj, "application/apply-patch+yaml", **query)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_manifest_is_accepted_without_a_warning(restricted: Server, path: Path) -> None:
    answer = applied(restricted, manifest(path))
    assert answer.accepted, answer.message
    assert answer.warnings == ()


def test_namespace_refuses_what_is_not_restricted(restricted: Server) -> None:
    """Else the test above would prove nothing."""
    (path,) = [path for path in GOLDEN if path.stem == "minimal.resolver-pod"]
    pod = manifest(path)
    del pod["spec"]["securityContext"]["seccompProfile"]
    answer = applied(restricted, pod)
    assert answer.status == 403
    assert 'violates PodSecurity "restricted' in answer.message
