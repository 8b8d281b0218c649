"""Requests to the session's API server, on which our CustomResourceDefinitions are installed."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from kubernetes import client, config

Object = dict[str, Any]

CRDS = Path(__file__).parents[3] / "crds"
NAMESPACE = "default"
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True)
class Answer:
    """What the API server said."""

    status: int
    body: Object
    warnings: tuple[str, ...]

    @property
    def accepted(self) -> bool:
        """Whether it took the object."""
        return self.status < 300

    @property
    def message(self) -> str:
        """Why it did not."""
        return str(self.body.get("message", ""))


@dataclass(frozen=True)
class Server:
    """The API server."""

    api: client.ApiClient

    def send(self, method: str, path: str, body: Object | None = None, mime: str = "", **query: str) -> Answer:
        """One request."""
        response = self.api.rest_client.pool_manager.request(
            method,
            f"{self.api.configuration.host}{path}?{urlencode(query)}",
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": mime} if mime else {},
        )
        return Answer(response.status, json.loads(response.data), tuple(response.headers.getlist("Warning")))

    def create(self, obj: Object, *, dry_run: bool = True, validation: str = "Warn") -> Answer:
        """Creates an object of ours, by default without keeping it."""
        query = {"fieldValidation": validation} | ({"dryRun": "All"} if dry_run else {})
        return self.send("POST", collection(obj["kind"]), obj, "application/json", **query)

    def merge(self, obj: Object, patch: Object, subresource: str = "") -> Answer:
        """Changes an object that is there."""
        return self.send("PATCH", place(obj) + subresource, patch, "application/merge-patch+json")

    def apply(self, path: str, obj: Object) -> Answer:
        """Server-side apply."""
        return self.send("PATCH", path, obj, _APPLY, fieldManager="test", force="true")


PLURALS = {
    "EdgeModel": "edgemodels",
    "ModelArtifact": "modelartifacts",
    "EdgeRuntime": "edgeruntimes",
    "HardwareClass": "hardwareclasses",
}


def collection(kind: str) -> str:
    """Path of a kind of ours."""
    scope = f"namespaces/{NAMESPACE}/" if kind in ("EdgeModel", "ModelArtifact") else ""
    return f"/apis/edgemodel.dev/v1alpha1/{scope}{PLURALS[kind]}"


def place(obj: Object) -> str:
    """Path of an object of ours."""
    return f"{collection(obj['kind'])}/{obj['metadata']['name']}"


@pytest.fixture(scope="session")
def server(kubeconfig: Path) -> Iterator[Server]:
    """The API server, once it has Established all our definitions."""
    with config.new_client_from_config(str(kubeconfig)) as api:
        found = Server(api)
        for path in sorted(CRDS.glob("*.yaml")):
            definition = yaml.safe_load(path.read_text(encoding="utf-8"))
            name = definition["metadata"]["name"]
            where = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
            answer = found.apply(where, definition)
            assert answer.accepted, answer.message
            _await_established(found, where)
            _await_served(found, definition["spec"]["names"]["plural"])
        yield found


def conditions(definition: Object) -> dict[str, str]:
    """The conditions of a definition."""
    return {item["type"]: item["status"] for item in (definition.get("status", {}).get("conditions") or ())}


def _await_established(server: Server, where: str) -> None:
    for _ in range(100):
        if conditions(server.send("GET", where).body).get("Established") == "True":
            return
        time.sleep(0.1)
    raise AssertionError(f"{where} is not Established: {server.send('GET', where).body}")


def _await_served(server: Server, plural: str) -> None:
    for _ in range(100):
        if server.send("GET", f"/apis/edgemodel.dev/v1alpha1/{plural}").accepted:
            return
        time.sleep(0.1)
    raise AssertionError(f"{plural} is not served")
