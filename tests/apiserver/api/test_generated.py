"""Whatever EdgeModel, EdgeRuntime and HardwareClass a real API server takes, the operator can read, decide and report
on, and make objects of.

They come from the schemas that are generated from the types, with a share of values that these don't allow.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgemodel.api.artifact import ModelArtifact
from edgemodel.api.crd import CUSTOM_RESOURCES, custom_resource_definition
from edgemodel.api.model import EdgeModel, EdgeModelStatus
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.hardware import NodeFacts
from edgemodel.core.keys import answered_request, source_request, source_status
from edgemodel.core.model_status import ModelScope, VariantScope, model_status
from edgemodel.core.objects import model_artifact, quantization_job, resolver_pod, service, workload
from edgemodel.core.plan import Choice, Landscape, decide, wanted_keys
from tests.apiserver.api.conftest import Object, Server
from tests.unit.core.samples import (
    ARM,
    GPU,
    NOW,
    ONE_X86_NODE,
    SETTINGS,
    X86,
    edge_model,
    landscape,
    node,
    published,
    resolved,
    runtime,
)


def spec_of(kind: str) -> Object:
    """The schema of a kind's spec."""
    (resource,) = [resource for resource in CUSTOM_RESOURCES if resource.kind == kind]
    (version,) = custom_resource_definition(resource)["spec"]["versions"]
    schema: Object = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return schema


# What is worth naming: values of the cluster below, and the edges of what an expression in the schema tells apart.
_KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "uri": st.sampled_from(["hf://a/b", "s3://bucket/x", "https://host/x.gguf", "pvc://claim/x", "s3://b/\u00e9"]),
    "runtime": st.sampled_from(["llamacpp", "cuda", "missing"]),
    "variants.hardware": st.sampled_from(["x86-64", "arm64", "gpu", "missing"]),
    "scheme": st.sampled_from(["Q4_K_M", "Q8_0", "Q2_K"]),
    "minAccuracy": st.sampled_from(["0", "0.95", "1", "1.000000"]),
    "revision": st.sampled_from(["main", "refs/pr/1"]),
    "class": st.sampled_from(["x86-64", "arm64", "gpu", "missing"]),
    "schemes.name": st.sampled_from(["Q4_K_M", "Q8_0", "Q2_K"]),
    "defaultScheme": st.sampled_from(["Q4_K_M", "Q8_0"]),
    "resources.name": st.sampled_from(["nvidia.com/gpu", "gpu.intel.com/i915"]),
    "operator": st.just("Exists"),
    "labels.values": st.just([]),
    "devices.name": st.sampled_from(["nvidia.com/gpu", "gpu.intel.com/i915"]),
    "architectures": st.lists(st.sampled_from(["amd64", "arm64"]), min_size=1, max_size=2, unique=True),
}
_ODD: dict[str, st.SearchStrategy[Any]] = {
    "uri": st.sampled_from(
        ["hf://a", "hf://a/b/c", "https://169.254.1.1/x", "s3://b/../x", "https://u@host/x", "s3://b/\u2003x",
         "s3://b/\u0085x", "s3://b/x\n", "s3://b/\x0bx", "S3://b/x"]
    ),
    "operator": st.sampled_from(["In", "NotIn", "DoesNotExist", "Equal"]),
    "minAccuracy": st.sampled_from(["1.1", ".5", "1.0000000", "-1", "NaN"]),
}  # fmt: skip
_ONE_IN_FORTY = st.sampled_from([False] * 39 + [True])


def values(schema: Object, name: str = "", within: str = "") -> st.SearchStrategy[Any]:
    """Values of a schema, and now and then others of its type."""
    known = next((path for path in (f"{within}.{name}", name) if path in _KNOWN), None)
    good = _KNOWN[known] if known else _of_type(schema, name, within)
    if schema["type"] not in ("string", "integer"):
        return good
    other = st.text(max_size=80) if schema["type"] == "string" else st.integers(-2, 2**60)
    odd = _ODD.get(name, other) | other
    return _ONE_IN_FORTY.flatmap(lambda is_odd: odd if is_odd else good)


def _of_type(schema: Object, name: str, within: str) -> st.SearchStrategy[Any]:
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema["type"]
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(schema["minimum"], schema["maximum"])
    if kind == "array":
        keys = schema.get("x-kubernetes-list-map-keys", [])
        unique = (lambda item: tuple(item[key] for key in keys)) if keys else None
        return st.lists(
            values(schema["items"], "", name),
            min_size=schema.get("minItems", 0),
            max_size=min(4, schema["maxItems"]),
            unique_by=unique,
        )
    if kind == "object":
        fields = {field: values(child, field, within) for field, child in schema["properties"].items()}
        needed = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {field: strategy for field, strategy in fields.items() if field in needed},
            optional={field: strategy for field, strategy in fields.items() if field not in needed},
        )
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) <= schema["maxLength"])
    return st.text(min_size=schema.get("minLength", 0), max_size=schema["maxLength"])


def objects(kind: str, *names: str) -> st.SearchStrategy[Object]:
    """Objects of a kind that have one of these names."""
    metadata = st.sampled_from(names).map(
        lambda name: {"name": name} | ({"namespace": "default"} if kind == "EdgeModel" else {})
    )
    head = {"apiVersion": st.just("edgemodel.dev/v1alpha1"), "kind": st.just(kind)}
    return st.fixed_dictionaries(head | {"metadata": metadata, "spec": values(spec_of(kind))})


CPU, CUDA = runtime(hardware={"x86-64": 100, "arm64": 50}), runtime("cuda", {"gpu": 200}, tasks=["Embeddings"])
CLUSTERS = (
    landscape(),
    ONE_X86_NODE,
    landscape((CPU, CUDA), (X86, ARM, GPU), (node(), node("a", arch="arm64"))),
)


def live(model: EdgeModel, cluster: Landscape) -> None:
    """All that the operator computes of an EdgeModel, from before its source is known to serving."""
    resolver_pod(model, 1, SETTINGS)
    service(model)
    source = resolved()
    request = source_request(model.spec.source)
    known = source_status(source, request)
    assert answered_request(known) == request
    made: list[VariantScope] = []
    for decision in decide(model.spec, cluster):
        if not isinstance(decision, Choice):
            made.append(VariantScope(decision))
            continue
        record = ModelArtifact.model_validate(model_artifact(model, decision, source))
        done = record.model_copy(update={"status": published().status})
        quantization_job(done, decision.runtime, decision.scheme, 1, 1, SETTINGS)
        pods = workload(model, decision, done, source, SETTINGS)
        made.append(VariantScope(decision, decision.key(source), done, pods | {"status": {}}))
    wanted_keys(model.spec, source, cluster)
    for scope in (ModelScope(model), ModelScope(model, known, variants=made)):
        status = model_status(scope, NOW)
        assert EdgeModelStatus.model_validate(status.dump()) == status


WISHES = (edge_model(), edge_model({"name": "v", "runtime": "llamacpp"}), edge_model({"name": "v"}, task="Embeddings"))


def cluster_with_runtime(found: Object) -> Landscape:
    """Two kinds of nodes, and this runtime beside another."""
    return landscape((EdgeRuntime.model_validate(found), CUDA), (X86, ARM, GPU), (node(), node("a", arch="arm64")))


def cluster_with_class(found: Object) -> Landscape:
    """Nodes of many kinds, of which some may be of this class too."""
    nodes = (node(), node("a", arch="arm64"), NodeFacts("g", "amd64", "linux", {}, {"nvidia.com/gpu": "1"}))
    return landscape((CPU, CUDA), (HardwareClass.model_validate(found), ARM, GPU), nodes)


def all_are_taken_well(
    server: Server, generated: st.SearchStrategy[Object], lives: Callable[[Object], None], count: int
) -> None:
    """Of so many objects the API server takes many and refuses many, and `lives` takes all those that it takes."""
    verdicts: Counter[bool] = Counter()

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
    )
    @given(obj=generated)
    def each(obj: Object) -> None:
        answer = server.create(obj)
        assert answer.status in (201, 400, 422), answer.body
        verdicts[answer.accepted] += 1
        if answer.accepted:
            lives(answer.body)

    each()
    assert min(verdicts[True], verdicts[False]) >= count / 5, verdicts


def test_operator_can_live_with_whatever_model_the_api_server_takes(server: Server) -> None:
    def lives(found: Object) -> None:
        for cluster in CLUSTERS:
            live(EdgeModel.model_validate(found), cluster)

    all_are_taken_well(server, objects("EdgeModel", "m", "a" * 40), lives, 300)


def test_operator_can_live_with_whatever_runtime_the_api_server_takes(server: Server) -> None:
    def lives(found: Object) -> None:
        for model in WISHES:
            live(model, cluster_with_runtime(found))

    all_are_taken_well(server, objects("EdgeRuntime", "llamacpp", "new"), lives, 100)


def test_operator_can_live_with_whatever_class_the_api_server_takes(server: Server) -> None:
    def lives(found: Object) -> None:
        for model in WISHES:
            live(model, cluster_with_class(found))

    all_are_taken_well(server, objects("HardwareClass", "x86-64", "new"), lives, 100)
