"""kopf and the cache in this process, against a real API server."""

import asyncio

from edgemodel.engine.access import Access
from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.client import Client
from edgemodel.engine.informer import Informer
from edgemodel.engine.objects import Key, Object, Ref, Resource
from tests.apiserver.engine import toy
from tests.apiserver.engine.conftest import RESOURCES, Api, a_toy

WATCHES = (
    Watch(toy.TOYS, keys=lambda obj: [Key("c", obj["metadata"]["namespace"], obj["metadata"]["name"])]),
    Watch(toy.SERVICES, label_selector="engine.test/mine"),
)


def a_service(namespace: str, name: str, **labels: str | None) -> Object:
    metadata = {"name": name, "namespace": namespace, "labels": {f"engine.test/{key}": labels[key] for key in labels}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": [{"port": 80}]}}


def test_the_cache_is_kept_like_the_cluster(api: Api) -> None:
    woken: list[Key] = []
    cache = Cache(WATCHES, woken.append)

    async def names(kind: str, *expected: str) -> None:
        async with asyncio.timeout(20):
            while {ref.name for ref in cache.refs(kind, api.namespace)} != set(expected):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def scenario(client: Client) -> None:
        for obj in (
            a_toy(api.namespace, "before"),
            a_service(api.namespace, "mine", mine="yes"),
            a_service(api.namespace, "other"),
        ):
            await client.apply(obj)
        informer = Informer(Access(), client, WATCHES, cache)
        await informer.find_definitions()
        running = asyncio.create_task(informer.run(started=lambda: None))
        bystander = asyncio.create_task(asyncio.sleep(3600))
        try:
            await asyncio.wait_for(informer.synced.wait(), 20)
            await names("Toy", "before")
            await names("Service", "mine")
            assert Key("c", api.namespace, "before") in woken

            await client.apply(a_toy(api.namespace, "later"))
            await names("Toy", "before", "later")
            await client.delete(Ref("Toy", api.namespace, "before"))
            await names("Toy", "later")

            await client.merge(
                Ref("Service", api.namespace, "other"), {"metadata": {"labels": {"engine.test/mine": "yes"}}}
            )
            await names("Service", "mine", "other")
            await client.merge(
                Ref("Service", api.namespace, "mine"), {"metadata": {"labels": {"engine.test/mine": None}}}
            )
            await names("Service", "other")
        finally:
            running.cancel()
            await asyncio.wait([running])
        await asyncio.sleep(0.25)  # kopf has closed its connections; TLS says goodbye before the sockets go
        assert not bystander.done(), "kopf ends its own tasks only"
        bystander.cancel()

    api.do(scenario)


def test_our_client_knows_what_is_served(api: Api) -> None:
    assert api.do(lambda client: client.serves(RESOURCES[0]))
    assert not api.do(lambda client: client.serves(Resource("engine.test", "v1", "ghosts", "Ghost")))
    assert not api.do(lambda client: client.serves(Resource("nowhere.test", "v1", "toys", "Toy")))
