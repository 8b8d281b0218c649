"""Tokens a second through a model's Service, beside a bare llama-server of the same build on the same machine.

Both serve the same artifact with the same arguments and as many threads as the pod may use. They are asked in turns,
so that a machine whose speed drifts is fair to both. Needs the demo's EdgeModel to be Ready (`make demo`), and an
otherwise idle machine. Exits with 1 if the Service gives less than the bound.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hack.cluster import images
from hack.cluster.cli import cluster
from hack.cluster.controlplane import free_ports
from hack.demo import NAMESPACE
from hack.deploy import STORE_SECRET, Deployed

MODEL = "smollm2"
BOUND = 0.97
TOKENS = 128


def serving_container(deployed: Deployed) -> dict[str, Any]:
    """The container that serves, as it is in the pod."""
    deployment = json.loads(
        deployed.kubectl("get", "deployments", "-n", NAMESPACE, "-l", f"edgemodel.dev/model={MODEL}", "-o", "json")
    )["items"][0]
    container: dict[str, Any] = deployment["spec"]["template"]["spec"]["containers"][0]
    return container


def artifact(deployed: Deployed, into: Path) -> Path:
    """The artifact's file, out of the cluster's store."""
    model = json.loads(deployed.kubectl("get", "em", MODEL, "-n", NAMESPACE, "-o", "json"))
    key = model["status"]["variants"][0]["artifact"]["key"]
    with deployed.store(NAMESPACE) as s3:
        bucket = next(each["Name"] for each in s3.list_buckets()["Buckets"] if each["Name"] != "sources")
        listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
        prefix = next(each["Key"] for each in listed if each["Key"].endswith(f"artifacts/{key}/manifest.json"))
        manifest = json.loads(s3.get_object(Bucket=bucket, Key=prefix)["Body"].read())
        (file,) = manifest["files"]
        digest = file["sha256"].removeprefix("sha256:")
        blob = next(each["Key"] for each in listed if each["Key"].endswith(digest))
        s3.download_file(bucket, blob, str(into / "model.gguf"))
    return into / "model.gguf"


@contextmanager
def bare_server(container: dict[str, Any], file: Path) -> Iterator[str]:
    """The address of a llama-server with the pod's arguments."""
    (port,) = free_ports(1)
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    cpu = container["resources"]["limits"]["cpu"]
    threads = -(-int(cpu[:-1]) // 1000) if cpu.endswith("m") else int(cpu)
    variables |= {"MODEL_FILE": str(file), "PORT": str(port), "THREADS": str(threads)}
    arguments = []
    for argument in container["args"]:
        for name, value in variables.items():
            argument = argument.replace(f"$({name})", value)
        arguments.append(argument)
    program = images.llamacpp() / "bin" / "llama-server"
    with subprocess.Popen([program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health"):
                        break
                except OSError:
                    time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


@contextmanager
def service_address(deployed: Deployed) -> Iterator[str]:
    """Where the Service is reached from here: its own address, if this machine is a node; else through kubectl, which
    takes a share of the same cores."""
    service = json.loads(deployed.kubectl("get", "service", MODEL, "-n", NAMESPACE, "-o", "json"))
    address = f"{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
    try:
        with urllib.request.urlopen(f"http://{address}/health", timeout=2):
            pass
    except OSError:
        with deployed.forwarded(NAMESPACE, f"service/{MODEL}", 80) as port:
            print("the Service is reached through kubectl port-forward, which uses the same cores")
            yield f"127.0.0.1:{port}"
    else:
        yield address


def tokens_a_second(address: str) -> float:
    """Of one request, from the client's side."""
    body = {"prompt": "The edge of the network", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    started = time.monotonic()
    with urllib.request.urlopen(request) as answer:
        tokens: int = json.load(answer)["usage"]["completion_tokens"]
    return tokens / (time.monotonic() - started)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="requests to each, in turns")
    rounds = parser.parse_args().rounds
    deployed = Deployed(cluster().kubeconfig)
    container = serving_container(deployed)
    deployed.kubectl("get", "secret", "-n", NAMESPACE, STORE_SECRET)
    with tempfile.TemporaryDirectory() as scratch:
        file = artifact(deployed, Path(scratch))
        with (
            bare_server(container, file) as bare,
            service_address(deployed) as service,
        ):
            for address in (bare, service):
                tokens_a_second(address)
            measured = [(tokens_a_second(bare), tokens_a_second(service)) for _ in range(rounds)]
    bare_speed, service_speed = (statistics.median(speeds) for speeds in zip(*measured, strict=True))
    ratio = statistics.median(through / without for without, through in measured)
    print(
        f"machine              {os.cpu_count()} cores; limit of the pod: {container['resources']['limits']['cpu']} CPU"
    )
    print(f"bare llama-server    {bare_speed:7.1f} tokens/s (median of {rounds})")
    print(f"through the Service  {service_speed:7.1f} tokens/s (median of {rounds})")
    print(f"ratio                {ratio:7.3f} (median of pairs; bound {BOUND})  {'PASS' if ratio >= BOUND else 'FAIL'}")
    sys.exit(ratio < BOUND)


if __name__ == "__main__":
    main()
