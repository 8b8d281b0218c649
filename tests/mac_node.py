"""The agent of a Mac as a process of this machine, and what a cluster has for it to join."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgemodel.api.artifact import ModelArtifact, ModelArtifactStatus, ModelFacts, ResolvedSource
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core import objects
from edgemodel.core.hardware import NodeFacts, fleet_of
from edgemodel.core.plan import Choice, Landscape, decide
from edgemodel.core.settings import Settings, StoreSettings
from hack.cluster.controlplane import free_ports
from hack.cluster.shell import REPOSITORY, run

Json = dict[str, Any]

TOKEN = "abcdef.0123456789abcdef"
NODE = "mac-1"

LIKE_KUBEADM: list[Json] = [
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": TOKEN.partition(".")[0],
            "token-secret": TOKEN.partition(".")[2],
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    },
    *(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        }
        for name, role, group in (
            (
                "kubeadm:kubelet-bootstrap",
                "system:node-bootstrapper",
                "system:bootstrappers:kubeadm:default-node-token",
            ),
            (
                "kubeadm:node-autoapprove-bootstrap",
                "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
                "system:bootstrappers:kubeadm:default-node-token",
            ),
            (
                "kubeadm:node-autoapprove-certificate-rotation",
                "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
                "system:nodes",
            ),
        )
    ),
]
"""What kubeadm sets up so that a token is enough to join."""


def workload(
    name: str,
    namespace: str,
    runtime: EdgeRuntime,
    hardware: HardwareClass,
    node: NodeFacts,
    store: StoreSettings,
    status: ModelArtifactStatus,
    key: str = "",
    task: str = "TextGeneration",
    **variant: Any,
) -> Json:
    """The Deployment that the operator makes for an EdgeModel with one variant, on the one node's hardware."""
    wanted = {"name": "mac", "runtime": runtime.metadata.name, "hardware": hardware.metadata.name} | variant
    model = EdgeModel.model_validate(
        {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"source": {"uri": "s3://sources/any"}, "task": task, "variants": [wanted]},
        }
    )
    landscape = Landscape(
        {runtime.metadata.name: runtime}, {hardware.metadata.name: hardware}, fleet_of([node], [hardware])
    )
    (choice,) = decide(model.spec, landscape)
    assert isinstance(choice, Choice), choice
    facts = ModelFacts(architecture="LlamaForCausalLM", parameters=1 << 20)
    resolved = ResolvedSource(digest=f"sha256:{'0' * 64}", format="safetensors", bytes=1 << 21, model=facts)
    record = objects.model_artifact(model, choice, resolved) | {"status": status.dump()}
    record["spec"] |= {"key": key} if key else {}
    settings = Settings(operator_image="operator:1", store=store, owner="cluster")
    made = objects.workload(model, choice, ModelArtifact.model_validate(record), resolved, settings)
    del made["metadata"]["ownerReferences"]  # there is no such EdgeModel
    return made


def cluster_info(kubeconfig: Path) -> list[Json]:
    """Where kubeadm says to anyone who the cluster's authority is."""
    (found,) = json.loads(kubeconfig.read_text())["clusters"]
    said = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": found["cluster"]}]}
    metadata = {"name": "cluster-info", "namespace": "kube-public"}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "cluster-info"}
    rule = {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["get"]}
    anyone = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:anonymous"}
    rights = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata}
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"kubeconfig": json.dumps(said)}},
        rights | {"kind": "Role", "rules": [rule]},
        rights | {"kind": "RoleBinding", "roleRef": role, "subjects": [anyone]},
    ]


class Agent:
    """`edgemodel-node run`, as a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def command(self, *words: str | Path) -> str:
        """`edgemodel-node` with these words."""
        return run(sys.executable, "-m", "edgemodel.node.main", *words, "--folder", self.folder, env=self._env)

    def join(self, server: str, authority: Path, address: str, addresses: str, *more: str | Path) -> None:
        """`edgemodel-node join`, with a GiB of this machine's memory for itself."""
        (self.port,) = free_ports(1)
        self.command(
            *("join", "--server", server, "--token", TOKEN, "--ca-file", authority, "--name", NODE),
            *("--address", address, "--addresses", addresses, "--port", str(self.port), "--reserve", "1Gi"),
            *("--request-serving-certificate", *more),
        )

    def start(self) -> None:
        """Starts it."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "edgemodel.node.main", "run", "--folder", str(self.folder)]
            self._process = subprocess.Popen(command, env=self._env, stderr=log, cwd=self.folder)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends it a signal, and waits until it has ended. The exit status."""
        assert self._process
        self._process.send_signal(number)
        return self._process.wait(60)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing and hears nothing, but is there."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """Whether it is."""
        return self._process is not None and self._process.poll() is None

    @property
    def _env(self) -> dict[str, str]:
        # Not what the tests have in theirs: a secret in it must not come to light in a pod's process.
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY / "operator"), "AWS_PROFILE": "the-owner's"}
