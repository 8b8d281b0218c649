"""The chart on a real API server: it takes every object, and an install, an upgrade and an uninstall do what they say.

No pod runs here. kubeconform would check less: it knows neither our kinds nor Pod Security.
"""

import base64
import importlib.util
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
import yaml

from tests.chart.chart import (
    BUCKET,
    CHART,
    EMBEDDED,
    HARDWARE,
    RUNTIMES,
    VALUES,
    Helm,
    HelmError,
    Manifest,
    documents,
    one,
    pods,
)

NAMESPACE = "edgemodel-system"
RESTRICTED = "pod-security.kubernetes.io/enforce"
NOT_BUILT_IN = {"ServiceMonitor", "PodMonitor"}


class Cluster:
    """The API server, by kubectl and helm."""

    def __init__(self, kubeconfig: Path, kubectl: Path, helm: Helm) -> None:
        self.kubeconfig = kubeconfig
        self.helm = Helm(helm.program, kubeconfig)
        self._kubectl = kubectl

    def kubectl(self, *words: str, text: str | None = None) -> str:
        command = [str(self._kubectl), "--kubeconfig", str(self.kubeconfig), *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, *manifests: Manifest, dry_run: bool = False) -> None:
        text = yaml.safe_dump_all(manifests)
        options = ["--dry-run=server"] if dry_run else []
        self.kubectl("apply", "--server-side", "--force-conflicts", *options, "-f", "-", text=text)

    def names(self, kind: str) -> set[str]:
        return set(self.kubectl("get", kind, "--all-namespaces", "-o", "name").split())


pytestmark = pytest.mark.xdist_group("release")
"""One API server, on which releases come and go."""


@pytest.fixture(scope="module")
def cluster(kubeconfig: Path, kubectl: Path, helm: Helm) -> Cluster:
    """With the namespaces that the values name, all of them restricted."""
    cluster = Cluster(kubeconfig, kubectl, helm)
    for name in (NAMESPACE, "retail", "factory"):
        metadata = {"name": name, "labels": {RESTRICTED: "restricted"}}
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    return cluster


@pytest.fixture
def crds(cluster: Cluster) -> Iterator[None]:
    """The CRDs, in the cluster for one test."""
    found = [one for one in cluster.helm.render(BUCKET, crds=True) if one["kind"] == "CustomResourceDefinition"]
    cluster.apply(*found)
    cluster.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
    yield
    cluster.kubectl("delete", "crd", "--all", "--wait")


@pytest.mark.usefixtures("crds")
@pytest.mark.parametrize("case", VALUES)
def test_takes_every_object(cluster: Cluster, case: str) -> None:
    manifests = cluster.helm.render(VALUES[case])
    cluster.apply(*(one for one in manifests if one["kind"] not in NOT_BUILT_IN), dry_run=True)


@pytest.mark.parametrize("case", VALUES)
def test_takes_every_pod_where_only_restricted_ones_may_be(cluster: Cluster, case: str) -> None:
    """A Deployment is never refused for its pods, so each pod is tried by itself."""
    manifests = cluster.helm.render(VALUES[case], crds=True, served=False)
    for number, (_, spec) in enumerate(pods(manifests)):
        metadata = {"name": f"pod-{number}", "namespace": NAMESPACE}
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, dry_run=True)


def test_refuses_a_pod_that_is_not_restricted(cluster: Cluster) -> None:
    metadata = {"name": "pod", "namespace": NAMESPACE}
    spec = {"containers": [{"name": "a", "image": "a"}]}
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}, dry_run=True)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CHART / "files" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_builtins_job(cluster: Cluster, hooks: list[Manifest], folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What the kubelet would do: the Job's script, with the Job's own account."""
    ours = [hook for hook in hooks if hook["metadata"]["name"] == "edgemodel-builtins"]
    cluster.apply(*(hook for hook in ours if hook["kind"] != "Job"))
    config = yaml.safe_load(cluster.kubectl("config", "view", "--raw", "-o", "yaml"))
    server = config["clusters"][0]["cluster"]
    account = folder / "account"
    account.mkdir()
    token = cluster.kubectl("create", "token", "edgemodel-builtins", "--namespace", NAMESPACE)
    (account / "token").write_text(token.strip())
    authority = cluster.kubectl(
        *("config", "view", "--raw", "--flatten", "-o", "jsonpath={.clusters[0].cluster.certificate-authority-data}")
    )
    (account / "ca.crt").write_bytes(base64.b64decode(authority))
    mounted = folder / "builtins"
    mounted.mkdir()
    for name, content in one(hooks, "ConfigMap", "edgemodel-builtins")["data"].items():
        (mounted / name).write_text(content)
    address = urlsplit(server["server"])
    patch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
    patch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
    script = load("apply")
    patch.setattr(script, "ACCOUNT", account)
    script.main(mounted)


def later_version(folder: Path) -> Path:
    """The chart with a field more in a CRD, and a built-in object that has it."""
    chart = shutil.copytree(CHART, folder / "later")
    file = chart / "files" / "crds" / "hardwareclasses.yaml"
    crd = yaml.safe_load(file.read_text())
    (version,) = crd["spec"]["versions"]
    version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["novelty"] = {"type": "string"}
    file.write_text(yaml.safe_dump(crd))
    file = chart / "files" / "hardware.yaml"
    classes = yaml.safe_load(file.read_text())
    classes["x86-64"]["novelty"] = "here"
    file.write_text(yaml.safe_dump(classes))
    return chart


def test_a_release_lives_and_ends(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helm = cluster.helm
    values = EMBEDDED | {"metrics": {}, "builtins": {"enabled": True}}
    values["objectStore"] = EMBEDDED["objectStore"] | {"credentials": {}}
    where = ("edgemodel", str(CHART), "--namespace", NAMESPACE)

    told = helm.run("install", *where, "--no-hooks", values=values)
    assert "kind: EdgeModel" in told
    assert len(cluster.names("crd")) == 4
    hooks = list(documents(helm.run("get", "hooks", "edgemodel", "--namespace", NAMESPACE)))
    run_builtins_job(cluster, hooks, tmp_path, monkeypatch)
    built_in = {f"hardwareclass.edgemodel.dev/{name}" for name in HARDWARE}
    assert cluster.names("hardwareclasses") == built_in
    assert cluster.names("edgeruntimes") == {f"edgeruntime.edgemodel.dev/{name}" for name in RUNTIMES}

    # The keys are not made anew, and the release takes over what the Job applied.
    secret = ("get", "secret", "edgemodel-store", "-o", "jsonpath={.data}", "--namespace")
    keys = cluster.kubectl(*secret, NAMESPACE)
    upgraded = helm.run("upgrade", *where, values=values)
    assert "STATUS: deployed" in upgraded
    assert cluster.kubectl(*secret, NAMESPACE) == cluster.kubectl(*secret, "retail") == keys
    assert "Secret edgemodel-store" in upgraded.replace("the Secret", "Secret")
    assert "kind: EdgeRuntime" in helm.run("get", "manifest", "edgemodel", "--namespace", NAMESPACE)

    # A later version's objects keep what the definitions did not have before.
    helm.run("upgrade", "edgemodel", later_version(tmp_path), "--namespace", NAMESPACE, values=values)
    assert cluster.kubectl("get", "hardwareclass", "x86-64", "-o", "jsonpath={.spec.novelty}") == "here"

    # The operator's account may do what it must, and read no Secret.
    operator = f"--as=system:serviceaccount:{NAMESPACE}:edgemodel"
    for verb, resource, allowed in (
        ("create", "jobs.batch", True),
        ("patch", "edgemodels.edgemodel.dev/status", True),
        ("patch", "nodes", True),
        ("get", "secrets", False),
        ("list", "secrets", False),
        ("create", "pods/exec", False),
        ("delete", "nodes", False),
    ):
        resource, _, subresource = resource.partition("/")
        words = ["auth", "can-i", verb, resource, operator, "--all-namespaces"]
        words += [f"--subresource={subresource}"] if subresource else []
        command = [str(cluster._kubectl), "--kubeconfig", str(cluster.kubeconfig), *words]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
        assert answer == ("yes" if allowed else "no"), (verb, resource)

    helm.run("uninstall", "edgemodel", "--namespace", NAMESPACE)
    assert len(cluster.names("crd")) == 4
    assert cluster.names("hardwareclasses") == set()
    assert len(cluster.names("persistentvolumeclaims")) == 1

    # With the CRDs there, a new install needs no Job.
    helm.run("install", *where, values=values)
    assert cluster.names("hardwareclasses") == built_in
    helm.run("uninstall", "edgemodel", "--namespace", NAMESPACE)
    cluster.kubectl("delete", "crd", "--all", "--wait")


@pytest.mark.usefixtures("crds")
def test_an_edgemodel_as_the_notes_show_it_is_valid(cluster: Cluster) -> None:
    words = ("install", "edgemodel", str(CHART), "--namespace", NAMESPACE, "--dry-run=server")
    told = cluster.helm.run(*words, values=BUCKET | {"crds": {"install": False}})
    shown = told.rpartition("<<EOF\n")[2].partition("  EOF")[0]
    (model,) = documents(shown)
    cluster.apply(model, dry_run=True)


def test_a_wrong_value_reaches_no_cluster(cluster: Cluster) -> None:
    with pytest.raises(HelmError, match="not allowed"):
        cluster.helm.run("install", "x", str(CHART), "--dry-run=server", values=json.loads('{"no": 1}'))
