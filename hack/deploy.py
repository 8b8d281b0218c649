"""Brings up a cluster with the operator in it, from this checkout: what the demo and the end-to-end tests start from.

Cluster, images, and the chart with its own small object store. Each step is quick where there is nothing to do.
"""

import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from hack.cluster import binaries, cache, images, kind, oci
from hack.cluster.cli import cluster
from hack.cluster.shell import REPOSITORY, ClusterError, run, say

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

RELEASE = "edgemodel"
SYSTEM_NAMESPACE = "edgemodel-system"
STORE_SECRET = "edgemodel-store"  # noqa: S105 - its name
STORE_PORT = 7070
SOURCES = "sources"
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"


@dataclass(frozen=True)
class Deployed:
    """A cluster that has the operator."""

    kubeconfig: Path

    def kubectl(self, *words: str | Path, text: str | None = None) -> str:
        """Runs kubectl against it. Raises with what kubectl said if that fails."""
        return run(binaries.one("kubectl"), "--kubeconfig", self.kubeconfig, *words, text=text)

    def helm(self, *words: str | Path) -> str:
        """Runs helm against it, in the operator's namespace."""
        return run(binaries.one("helm"), "--kubeconfig", self.kubeconfig, "--namespace", SYSTEM_NAMESPACE, *words)

    def store_keys(self, namespace: str) -> dict[str, str]:
        """The store's credentials that the namespace has."""
        secret = json.loads(self.kubectl("get", "secret", "--namespace", namespace, STORE_SECRET, "-o", "json"))
        return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}

    @contextmanager
    def store(self, namespace: str) -> Iterator["S3Client"]:
        """A client of the cluster's object store, with the credentials that the namespace has."""
        keys = self.store_keys(namespace)
        with self.forwarded(SYSTEM_NAMESPACE, f"service/{RELEASE}-store", STORE_PORT) as port:
            yield boto3.client(
                "s3",
                endpoint_url=f"http://127.0.0.1:{port}",
                region_name="us-east-1",
                aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
                aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
                config=Config(s3={"addressing_style": "path"}),
            )

    @contextmanager
    def forwarded(self, namespace: str, target: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to a Service or a pod."""
        command = [str(binaries.one("kubectl")), "--kubeconfig", str(self.kubeconfig)]
        command += ["port-forward", "--namespace", namespace, target, f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                found = re.search(r"127\.0\.0\.1:(\d+)", line)
                if found is None:
                    raise ClusterError(f"port-forward to {target}: {line}")
                yield int(found[1])
            finally:
                process.terminate()


def upload_sources(deployed: Deployed, namespace: str, files: Mapping[str, Path]) -> None:
    """Puts files (name -> file) into the bucket `sources` of the cluster's store, and a Secret `sources` into the
    namespace with which EdgeModels can read them."""
    keys = deployed.store_keys(namespace)
    with deployed.store(namespace) as s3:
        if SOURCES not in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]:
            s3.create_bucket(Bucket=SOURCES)
        for name, file in files.items():
            s3.upload_file(str(file), SOURCES, name)
    endpoint = f"http://{RELEASE}-store.{SYSTEM_NAMESPACE}.svc:{STORE_PORT}"
    data = {name: keys[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    credentials = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SOURCES, "namespace": namespace},
        "stringData": data | {"AWS_ENDPOINT_URL": endpoint},
    }
    deployed.kubectl("apply", "--server-side", "-f", "-", text=json.dumps(credentials))


def _store_image() -> str:
    """The small object store as an image: upstream's where Docker can pull it, else our own build of it."""
    if kind.docker_answers():
        return "ghcr.io/versity/versitygw:v1.8.0"
    program = binaries.one("versitygw")
    reference = f"ghcr.io/edgemodel/versitygw:{cache.key_of(program.parent, [program])}"
    if reference not in oci.layout().images():
        oci.layout().add_program(reference, program)
    return reference


def _image_values(name: str, reference: str) -> list[str]:
    registry, _, rest = reference.rpartition("/")
    repository, _, tag = rest.rpartition(":")
    return [
        f"images.{name}.{field}={value}"
        for field, value in (("registry", registry), ("repository", repository), ("tag", tag))
    ]


def deploy(namespaces: Sequence[str], hub: str = "") -> Deployed:
    """The cluster with the operator, and with `namespaces` in which EdgeModels can be applied. `hub` is the URL of a
    mirror of the model hub."""
    built = images.build(*images.default_names())
    store = _store_image()
    here = cluster()
    here.up(1)
    deployed = Deployed(here.kubeconfig)
    say("loading images")
    here.load([*built.values(), *([] if kind.docker_answers() else [store])])
    for namespace in (SYSTEM_NAMESPACE, *namespaces):
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        deployed.kubectl("apply", "--server-side", "-f", "-", text=json.dumps(manifest))
        deployed.kubectl("label", "--overwrite", "namespace", namespace, RESTRICTED)
    switches = [
        "objectStore.embedded.enabled=true",
        "probe.enabled=true",
        "macNodes.enabled=true",
    ]
    # As texts: a tag, which is a hash, may be all digits, or a number with an exponent.
    texts = [
        *(value for name, reference in built.items() for value in _image_values(name, reference)),
        *_image_values("store", store),
        *(f"objectStore.namespaces[{number}]={name}" for number, name in enumerate(namespaces)),
        f"hubEndpoint={hub}",
    ]
    say("installing the chart")
    deployed.helm(
        *("upgrade", "--install", RELEASE, REPOSITORY / "charts" / "edgemodel", "--wait", "--timeout", "2m"),
        *(word for value in switches for word in ("--set", value)),
        *(word for value in texts for word in ("--set-string", value)),
    )
    say("the operator is ready")
    return deployed


if __name__ == "__main__":
    print(deploy(sys.argv[1:]).kubeconfig)
