from collections.abc import Iterable
from typing import Any

import pytest

from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.objects import Key, Object, Ref, Resource

PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)


def wakes(obj: Object) -> Iterable[Key]:
    yield Key("c", obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def node_of(pod: Object) -> Iterable[str]:
    if node := pod.get("spec", {}).get("nodeName"):
        yield node


def without_heartbeat(node: Object) -> Object:
    return {name: value for name, value in node.items() if name != "heartbeat"}


class World:
    def __init__(self) -> None:
        self.woken: list[str] = []
        self.cache = Cache(
            [Watch(PODS, keys=wakes, indices={"node": node_of}), Watch(NODES, keys=wakes, project=without_heartbeat)],
            lambda key: self.woken.append(key.name),
        )

    def put(self, name: str, version: int, node: str | None = None) -> None:
        self.cache.put("Pod", a_pod(name, version, node))


def a_pod(name: str, version: int, node: str | None = None) -> Object:
    metadata: Object = {"name": name, "namespace": "n", "resourceVersion": str(version), "managedFields": [{"big": 1}]}
    return {"metadata": metadata, "spec": {"nodeName": node}}


@pytest.fixture
def world() -> World:
    return World()


def version(obj: Object | None) -> Any:
    return obj and obj["metadata"]["resourceVersion"]


def test_an_object_comes_back_whole_but_for_managed_fields(world: World) -> None:
    world.put("a", 1, "x")
    assert world.cache.get("Pod", "n", "a") == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "n", "resourceVersion": "1"},
        "spec": {"nodeName": "x"},
    }


def test_what_is_read_is_a_copy(world: World) -> None:
    world.put("a", 1, "x")
    world.cache.get("Pod", "n", "a")["spec"].clear()  # type: ignore[index]
    assert world.cache.get("Pod", "n", "a")["spec"] == {"nodeName": "x"}  # type: ignore[index]


def test_a_newer_version_never_gives_way_to_an_older_one(world: World) -> None:
    world.put("a", 10, "new")
    world.put("a", 9, "old")
    assert version(world.cache.get("Pod", "n", "a")) == "10"
    assert world.cache.by_index("Pod", "node", "old") == []


def test_the_echo_of_a_write_wakes_nobody(world: World) -> None:
    world.put("a", 10)
    world.put("a", 10)
    assert world.woken == ["a"]


def test_what_changes_nothing_that_is_kept_wakes_nobody_but_counts_as_seen(world: World) -> None:
    node = {"metadata": {"name": "x", "resourceVersion": "1"}, "heartbeat": 1}
    world.cache.put("Node", node)
    world.cache.put("Node", {"metadata": {"name": "x", "resourceVersion": "2"}, "heartbeat": 2})
    assert world.woken == ["x"]
    kept = world.cache.get("Node", "", "x")
    assert version(kept) == "2"
    assert kept
    assert "heartbeat" not in kept


def test_what_was_deleted_is_not_brought_back_by_a_late_answer(world: World) -> None:
    world.put("a", 10)
    world.cache.remove("Pod", a_pod("a", 12))
    world.put("a", 11)
    assert world.cache.get("Pod", "n", "a") is None
    world.put("a", 13)
    assert version(world.cache.get("Pod", "n", "a")) == "13"
    assert world.woken == ["a", "a", "a"]


def test_the_deletion_of_a_predecessor_leaves_its_successor(world: World) -> None:
    world.put("a", 10)
    world.put("a", 20)  # our own write, before the watch has told of 15
    world.cache.remove("Pod", a_pod("a", 15))
    assert version(world.cache.get("Pod", "n", "a")) == "20"


def test_a_list_takes_away_what_it_lacks_unless_that_is_newer(world: World) -> None:
    for name, number in (("kept", 1), ("gone", 2), ("just-made", 9)):
        world.put(name, number)
    world.woken.clear()
    world.cache.retain("Pod", {Ref("Pod", "n", "kept")}, 5)
    assert [ref.name for ref in world.cache.refs("Pod")] == ["kept", "just-made"]
    assert world.woken == ["gone"]


def test_an_index_follows_the_object(world: World) -> None:
    world.put("a", 1, "x")
    world.put("b", 2, "x")
    assert [ref.name for ref in world.cache.by_index("Pod", "node", "x")] == ["a", "b"]
    world.put("a", 3, "y")
    world.cache.remove("Pod", a_pod("b", 4))
    assert world.cache.by_index("Pod", "node", "x") == []
    assert world.cache.by_index("Pod", "node", "y") == [Ref("Pod", "n", "a")]


def test_an_index_that_was_not_declared_is_an_error(world: World) -> None:
    with pytest.raises(KeyError):
        world.cache.by_index("Pod", "nod", "x")


def test_a_list_can_be_of_one_namespace(world: World) -> None:
    world.put("a", 1)
    assert [obj["metadata"]["name"] for obj in world.cache.list("Pod", "n")] == ["a"]
    assert [*world.cache.list("Pod", "other")] == []


def test_a_kind_is_watched_once() -> None:
    with pytest.raises(ValueError, match="only once"):
        Cache([Watch(PODS), Watch(PODS)])


def test_unwatched_kinds_are_known_to_be_so(world: World) -> None:
    assert "Pod" in world.cache
    assert "Secret" not in world.cache


def test_an_index_may_give_an_object_the_same_value_twice() -> None:
    cache = Cache([Watch(PODS, indices={"twice": lambda pod: ["x", "x"]})])
    cache.put("Pod", a_pod("a", 1, "x"))
    cache.put("Pod", a_pod("a", 2, "y"))
    assert [ref.name for ref in cache.by_index("Pod", "twice", "x")] == ["a"]
    cache.remove("Pod", a_pod("a", 3))
    assert cache.by_index("Pod", "twice", "x") == []
