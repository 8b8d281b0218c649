"""Whatever EdgeModel a real API server takes, the operator can read, decide and report on, and make objects of.

The EdgeModels come from the schema that is generated from the types, with a share of values that it doesn't allow.
"""

from typing import Any

from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from edgemodel.api.artifact import ModelArtifact
from edgemodel.api.crd import CUSTOM_RESOURCES, custom_resource_definition
from edgemodel.api.model import EdgeModel, EdgeModelStatus
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
    landscape,
    node,
    published,
    resolved,
    runtime,
)

(_RESOURCE,) = [resource for resource in CUSTOM_RESOURCES if resource.kind == "EdgeModel"]
(_VERSION,) = custom_resource_definition(_RESOURCE)["spec"]["versions"]
SPEC: Object = _VERSION["schema"]["openAPIV3Schema"]["properties"]["spec"]

# What is worth naming: values of the cluster below, and the edges of what an expression in the schema tells apart.
_KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "uri": st.sampled_from(["hf://a/b", "s3://bucket/x", "https://host/x.gguf", "pvc://claim/x", "s3://b/\u00e9"]),
    "runtime": st.sampled_from(["llamacpp", "cuda", "missing"]),
    "hardware": st.sampled_from(["x86-64", "arm64", "gpu", "missing"]),
    "scheme": st.sampled_from(["Q4_K_M", "Q8_0", "Q2_K"]),
    "minAccuracy": st.sampled_from(["0", "0.95", "1", "1.000000"]),
    "revision": st.sampled_from(["main", "refs/pr/1"]),
}
_ODD: dict[str, st.SearchStrategy[Any]] = {
    "uri": st.sampled_from(
        ["hf://a", "hf://a/b/c", "https://169.254.1.1/x", "s3://b/../x", "https://u@host/x", "s3://b/\u2003x",
         "s3://b/\u0085x", "s3://b/x\n", "s3://b/\x0bx", "S3://b/x"]
    ),
    "minAccuracy": st.sampled_from(["1.1", ".5", "1.0000000", "-1", "NaN"]),
}  # fmt: skip
_ONE_IN_FORTY = st.sampled_from([False] * 39 + [True])


def values(schema: Object, name: str = "") -> st.SearchStrategy[Any]:
    """Values of a schema, and now and then others of its type."""
    good = _KNOWN[name] if name in _KNOWN else _of_type(schema)
    if schema["type"] not in ("string", "integer"):
        return good
    other = st.text(max_size=80) if schema["type"] == "string" else st.integers(-2, 2**60)
    odd = _ODD.get(name, other) | other
    return _ONE_IN_FORTY.flatmap(lambda is_odd: odd if is_odd else good)


def _of_type(schema: Object) -> st.SearchStrategy[Any]:
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
        return st.lists(values(schema["items"]), min_size=schema.get("minItems", 0), max_size=4, unique_by=unique)
    if kind == "object":
        fields = {field: values(child, field) for field, child in schema["properties"].items()}
        needed = set(schema.get("required", ()))
        return st.fixed_dictionaries(
            {field: strategy for field, strategy in fields.items() if field in needed},
            optional={field: strategy for field, strategy in fields.items() if field not in needed},
        )
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], fullmatch=True).filter(lambda text: len(text) <= schema["maxLength"])
    return st.text(min_size=schema.get("minLength", 0), max_size=schema["maxLength"])


MODELS = st.builds(
    lambda name, spec: {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    },
    st.sampled_from(["m", "a" * 40]),
    values(SPEC),
)

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


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(obj=MODELS, cluster=st.sampled_from(CLUSTERS))
@example(obj={"apiVersion": "edgemodel.dev/v1alpha1", "kind": "EdgeModel",
              "metadata": {"name": "m", "namespace": "default"}, "spec": {"source": {"uri": "hf://a/b"}}},
         cluster=CLUSTERS[1])  # fmt: skip
def test_operator_can_live_with_whatever_the_api_server_takes(server: Server, obj: Object, cluster: Landscape) -> None:
    answer = server.create(obj)
    assert answer.status in (201, 400, 422), answer.body
    event("accepted" if answer.accepted else "refused")
    if answer.accepted:
        live(EdgeModel.model_validate(answer.body), cluster)
