"""The client and the applier against a real API server."""

import asyncio

import pytest

from edgemodel.engine.access import Access
from edgemodel.engine.applier import Applier
from edgemodel.engine.cache import Cache
from edgemodel.engine.client import Client
from edgemodel.engine.errors import Conflict, Invalid, NotFound
from edgemodel.engine.events import EVENTS, Events
from edgemodel.engine.objects import Object, Ref
from tests.apiserver.engine import toy
from tests.apiserver.engine.conftest import RESOURCES, Api, a_toy


def a_service(api: Api, name: str) -> Object:
    metadata = {"name": name, "namespace": api.namespace}
    ports = [{"port": 80, "targetPort": "http"}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}


def test_answers_become_typed_exceptions(api: Api) -> None:
    bad = a_service(api, "a")
    bad["spec"]["ports"] = [{"port": 0}]
    with pytest.raises(Invalid, match="must be between 1 and 65535"):
        api.apply(bad)
    with pytest.raises(NotFound):
        api.do(lambda client: client.get(Ref("Service", api.namespace, "nothing")))
    api.do(lambda client: client.create(a_service(api, "a")))
    with pytest.raises(Conflict):
        api.do(lambda client: client.create(a_service(api, "a")))


def test_a_uid_guards_a_delete_and_a_stale_version_a_merge(api: Api) -> None:
    ref = Ref("Service", api.namespace, "a")
    made = api.apply(a_service(api, "a"))
    with pytest.raises(Conflict):
        api.do(lambda client: client.delete(ref, uid="another"))
    version = made["metadata"]["resourceVersion"]
    api.do(lambda client: client.merge(ref, {"metadata": {"labels": {"a": "b"}}}))
    with pytest.raises(Conflict):
        api.do(lambda client: client.merge(ref, {"metadata": {"resourceVersion": version, "labels": {"a": "c"}}}))
    api.do(lambda client: client.delete(ref, uid=made["metadata"]["uid"]))
    api.do(lambda client: client.delete(ref))  # gone is gone
    assert api.find(*ref[::2]) is None


def test_apply_takes_back_what_it_no_longer_wants(api: Api) -> None:
    service = a_service(api, "a")
    service["metadata"]["labels"] = {"a": "b"}
    api.apply(service)
    assert "labels" not in api.apply(a_service(api, "a"))["metadata"]


def test_a_list_comes_in_pages(api: Api) -> None:
    names = [f"toy-{number:03}" for number in range(260)]
    external = {"externalName": "a.example", "type": "ExternalName"}

    async def scenario(client: Client) -> list[str]:
        await asyncio.gather(*(client.apply(a_service(api, name) | {"spec": external}) for name in names))
        return [obj["metadata"]["name"] async for obj in client.list("Service", api.namespace)]

    assert api.do(scenario) == names


def test_our_own_write_is_in_the_cache_and_is_not_written_twice(api: Api) -> None:
    async def scenario(client: Client) -> None:
        cache = Cache(toy.WATCHES)
        applier = Applier(client, cache)
        parent = await client.apply(a_toy(api.namespace, "a"))
        made = await applier.ensure(toy.deployment(parent))
        kept = cache.get("Deployment", api.namespace, "a")
        assert kept
        assert kept["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
        assert await applier.ensure(toy.deployment(parent)) == kept
        status = {"observedGeneration": 1, "address": "10.0.0.1"}
        written = await applier.ensure_status(parent, status)
        kept = cache.get("Toy", api.namespace, "a")
        assert kept
        assert kept["status"] == status
        assert await applier.ensure_status(written, status) is written
        await applier.delete(Ref("Deployment", api.namespace, "a"))
        assert cache.get("Deployment", api.namespace, "a") is None

    api.do(scenario)


def test_an_event_is_written_once_and_never_fails(api: Api) -> None:
    async def scenario() -> None:
        async with Client(Access(), [*RESOURCES, EVENTS]) as client:
            events = Events(client, "engine.test", "me")
            parent = await client.apply(a_service(api, "a"))
            for _ in range(3):
                await events.emit(parent, "Placed", "x" * 5000)
            await events.emit(parent, "not a valid reason", "", kind="Warning")
            await events.emit(parent | {"metadata": parent["metadata"] | {"namespace": "nowhere"}}, "Placed", "lost")
            found = [event async for event in client.list("Event", api.namespace)]
            assert [(event["reason"], len(event["note"])) for event in found if event["type"] == "Normal"] == [
                ("Placed", 1024)
            ]

    asyncio.run(scenario())
