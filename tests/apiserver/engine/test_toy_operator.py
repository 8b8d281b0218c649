"""The engine as a whole, by a toy operator in a process of its own."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from edgemodel.engine.objects import Ref
from tests.apiserver.engine import toy
from tests.apiserver.engine.conftest import DEFINITION, DEFINITIONS, Api, Operator, wait_for

Start = Callable[..., Operator]


def test_a_new_object_gets_its_children_and_its_status(api: Api, operator: Operator) -> None:
    api.toy("a", 2)
    wait_for(lambda: api.settled("a"))
    assert api.size("a") == 2
    found = api.find(toy.TOYS.kind, "a")
    assert found
    assert found["status"]["address"]
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    assert operator.writes_of(4) == 4  # two children, an event, a status


def test_a_change_is_carried_to_the_child(api: Api, operator: Operator) -> None:
    api.toy("a", 2)
    wait_for(lambda: api.settled("a"))
    before = operator.writes_of(4)
    api.toy("a", 3)
    wait_for(lambda: api.settled("a"))
    assert api.size("a") == 3
    assert operator.writes_of(before + 2) - before <= 3  # the Service stays as it is


def test_what_others_change_is_repaired_and_what_they_delete_comes_back(api: Api, operator: Operator) -> None:
    api.toy("a", 2)
    wait_for(lambda: api.settled("a"))
    ref = Ref(toy.DEPLOYMENTS.kind, api.namespace, "a")
    api.do(lambda client: client.merge(ref, {"spec": {"replicas": 9}}))
    wait_for(lambda: api.size("a") == 2)
    api.delete(toy.DEPLOYMENTS.kind, "a")
    wait_for(lambda: api.size("a") == 2)


def test_nothing_is_written_when_nothing_changes(api: Api, operator: Operator, start: Start) -> None:
    for number in range(5):
        api.toy(f"toy-{number}", number + 1)
    wait_for(lambda: all(api.settled(f"toy-{number}") for number in range(5)))
    before = operator.writes_of(20)
    time.sleep(3)
    assert operator.writes() == before
    operator.end()
    again = start()
    wait_for(lambda: again.metric("edgemodel_reconcile_total") >= 5)
    time.sleep(1)
    assert again.writes() == 0


def test_a_reconcile_that_fails_is_tried_less_and_less_and_harms_no_other(api: Api, operator: Operator) -> None:
    failed = r"edgemodel_reconcile_total\{.*result=\"error\""
    api.toy("bad", 13)
    wait_for(lambda: operator.metric(failed) >= 3)
    api.toy("good", 1)
    wait_for(lambda: api.settled("good"))
    before = operator.metric(failed)
    time.sleep(1)
    assert operator.metric(failed) - before < 5
    api.toy("bad", 12)
    wait_for(lambda: api.settled("bad"))
    line = next(line for line in map(json.loads, operator.log().splitlines()) if line["level"] == "error")
    assert (line["controller"], line["namespace"], line["name"]) == ("toy", api.namespace, "bad")
    assert line["exception"].endswith("RuntimeError: thirteen")


def test_a_reconcile_that_waits_is_run_again_and_is_no_failure(api: Api, operator: Operator) -> None:
    api.toy("a", 0)
    wait_for(lambda: operator.metric(r"edgemodel_reconcile_total\{.*result=\"done\"") >= 3)
    assert operator.metric("workqueue_retries_total") == 0


def test_sigterm_ends_it_gracefully(operator: Operator) -> None:
    assert operator.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in operator.log().splitlines()]
    assert lines[-1]["message"] == "stopped"
    assert {line["level"] for line in lines} == {"info"}


def test_a_missing_definition_is_said_and_waited_for(api: Api, start: Start) -> None:
    api.do(lambda client: client.delete(Ref(DEFINITIONS.kind, "", toy.TOYS.plural + "." + toy.TOYS.group)))
    wait_for(lambda: not api.do(lambda client: client.serves(toy.TOYS)))
    operator = start()
    wait_for(lambda: operator.get("/readyz") == (503, "not installed in this cluster: toys.engine.test"))
    assert operator.get("/healthz")[0] == 200
    assert "Apply the CRDs" in operator.log()
    api.apply(DEFINITION)
    wait_for(operator.ready)
    wait_for(lambda: api.toy("a", 1))
    wait_for(lambda: api.settled("a"))


def test_it_answers_health_and_metrics(operator: Operator) -> None:
    assert operator.get("/healthz") == (200, "ok")
    metrics = operator.get("/metrics")[1]
    for name in (
        "workqueue_depth",
        "workqueue_adds_total",
        "workqueue_queue_duration_seconds_bucket",
        "workqueue_work_duration_seconds_bucket",
        "workqueue_retries_total",
        "workqueue_unfinished_work_seconds",
        "workqueue_longest_running_processor_seconds",
    ):
        assert f"{name}{{" in metrics, name


class TestLease:
    """Two replicas, one lease: of 30 s, so that a leader that seldom gets its turn renews it in time."""

    @pytest.fixture
    def pair(self, api: Api, start: Start) -> tuple[Operator, Operator]:
        lease = {"TOY_LEASE": f"toy-{api.namespace}", "TOY_LEASE_SECONDS": "30"}
        leader = start(**lease)
        wait_for(leader.leading)
        standby = start(**lease)
        wait_for(standby.ready)
        return leader, standby

    def test_only_the_leader_writes(self, api: Api, pair: tuple[Operator, Operator]) -> None:
        leader, standby = pair
        api.toy("a", 1)
        wait_for(lambda: api.settled("a"))
        assert leader.writes() > 0
        assert standby.writes() == 0
        assert not standby.leading()

    def test_a_killed_leader_is_followed(self, api: Api, pair: tuple[Operator, Operator]) -> None:
        leader, standby = pair
        leader.end(signal.SIGKILL)
        killed = time.monotonic()
        api.toy("a", 1)
        wait_for(lambda: api.settled("a"))
        assert standby.leading()
        assert time.monotonic() - killed < 60

    def test_a_stopped_leader_releases_the_lease(self, pair: tuple[Operator, Operator]) -> None:
        leader, standby = pair
        assert leader.end() == 0
        stopped = time.monotonic()
        wait_for(standby.leading)
        assert time.monotonic() - stopped < 15, "it waited until the lease ran out"

    def test_a_leader_whose_lease_is_taken_ends(self, api: Api, pair: tuple[Operator, Operator]) -> None:
        leader, _ = pair
        taken = {"spec": {"holderIdentity": "somebody"}}
        api.do(lambda client: client.merge(Ref("Lease", "default", f"toy-{api.namespace}"), taken))
        assert leader.process.wait(60) == 1
        assert "lost the lease" in leader.log()
        assert "Traceback" not in leader.log()
