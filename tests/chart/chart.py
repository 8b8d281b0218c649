"""Renders the chart, and judges the pods in it."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.shell import REPOSITORY

CHART = REPOSITORY / "charts" / "edgemodel"
Manifest = dict[str, Any]
Values = dict[str, Any]

SERVED = "edgemodel.dev/v1alpha1/EdgeRuntime"
"""What the API server offers once the CRDs are there."""

HARDWARE: frozenset[str] = frozenset(yaml.safe_load((CHART / "files" / "hardware.yaml").read_text()))
"""Names of the built-in hardware classes."""

RUNTIMES: frozenset[str] = frozenset(file.stem for file in (CHART / "files" / "runtimes").iterdir())
"""Names of the built-in runtimes."""

BUCKET: Values = {"objectStore": {"bucket": "artifacts"}}

POD_IDENTITY: Values = {
    "objectStore": {"bucket": "artifacts", "prefix": "edge", "region": "eu-central-1", "namespaces": ["retail"]},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/operator"}},
    "modelPods": {
        "serviceAccount": {
            "create": True,
            "name": "edgemodel",
            "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/models"},
        }
    },
    "networkPolicy": {"enabled": True},
}
"""AWS, where each pod has a role of its own."""

SECRET: Values = {
    "objectStore": {
        "bucket": "artifacts",
        "endpoint": "https://minio.storage.svc:9000",
        "existingSecret": "minio-keys",
        "secretName": "minio",
    },
    "image": {"registry": "mirror.example/edgemodel", "pullPolicy": "Always", "pullSecrets": ["mirror"]},
    "operator": {"replicas": 1, "logLevel": "debug"},
    "hubEndpoint": "https://hub.example",
    "networkPolicy": {"enabled": True},
    "probe": {"enabled": True},
    "builtins": {"enabled": False},
}
"""Another S3 service, with keys in Secrets that the user makes; images from a mirror."""

EMBEDDED: Values = {
    "objectStore": {
        "embedded": {"enabled": True},
        "credentials": {"accessKeyId": "an-access-key", "secretAccessKey": "a-secret-key"},
        "namespaces": ["retail", "factory"],
    },
    "metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True, "labels": {"release": "prom"}}},
    "networkPolicy": {"enabled": True},
    "macNodes": {"enabled": True},
    "builtins": {"enabled": False},
}
"""The store that comes along, and all that can be switched on."""

VALUES = {"pod-identity": POD_IDENTITY, "secret": SECRET, "embedded": EMBEDDED}


class HelmError(Exception):
    """What helm said."""


@dataclass(frozen=True)
class Helm:
    """helm, on an API server or on none."""

    program: Path
    kubeconfig: Path | None = None

    def run(self, *words: str | Path, values: Values | None = None) -> str:
        """Runs helm to its end. Raises HelmError with what it said if it fails."""
        command: list[str | Path] = [self.program, *words]
        if self.kubeconfig:
            command += ["--kubeconfig", self.kubeconfig]
        if values is not None:
            command += ["--values", "-"]
        text = None if values is None else json.dumps(values)
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def template(self, values: Values, *options: str, crds: bool = False, served: bool = True) -> str:
        """What the chart makes of the values; `served`: as if the CRDs were there already."""
        words = ["template", "edgemodel", str(CHART), "--namespace", "edgemodel-system", *options]
        words += ["--set", f"crds.install={json.dumps(crds)}"]
        if served:
            words += ["--api-versions", SERVED]
        return self.run(*words, values=values)

    def render(self, values: Values, *options: str, crds: bool = False, served: bool = True) -> list[Manifest]:
        """The same, parsed."""
        return list(documents(self.template(values, *options, crds=crds, served=served)))


def documents(text: str) -> Iterator[Manifest]:
    """The objects in a stream of YAML."""
    for document in yaml.safe_load_all(text):
        if document:
            yield document


def one(manifests: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one object of this kind and name."""
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def pods(manifests: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Each pod that the objects make: what makes it, and its spec."""
    for manifest in manifests:
        name = f"{manifest['kind']}/{manifest['metadata']['name']}"
        if manifest["kind"] == "Pod":
            yield name, manifest["spec"]
        elif manifest["kind"] in {"Deployment", "DaemonSet", "StatefulSet", "Job"}:
            yield name, manifest["spec"]["template"]["spec"]


_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def restricted_violations(pod: Manifest) -> list[str]:
    """What in a pod's spec Pod Security `restricted` refuses. Asks for each field at each container, where the standard
    would take some from the pod, and for what we want beside it: a root filesystem that cannot be written, limits."""
    found = [field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    found += [
        f"volume {volume['name']}" for volume in pod.get("volumes", ()) if not _VOLUMES & (volume.keys() - {"name"})
    ]
    outer = pod.get("securityContext", {})
    if outer.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        found.append("seccompProfile")
    if not outer.get("runAsNonRoot") or not outer.get("runAsUser"):
        found.append("runAsNonRoot")
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        name, inner = container["name"], container.get("securityContext", {})
        if inner.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name}: allowPrivilegeEscalation")
        if inner.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{name}: capabilities")
        if inner.get("privileged") or "runAsUser" in inner or "seccompProfile" in inner:
            found.append(f"{name}: securityContext")
        if not inner.get("readOnlyRootFilesystem"):
            found.append(f"{name}: readOnlyRootFilesystem")
        if any(port.get("hostPort") for port in container.get("ports", ())):
            found.append(f"{name}: hostPort")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            found.append(f"{name}: no limit of memory")
    return found
