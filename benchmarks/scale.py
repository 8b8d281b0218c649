"""A thousand EdgeModels against a real API server: how fast, how small and how quiet the operator is.

    python -m benchmarks.scale [--count 1000] [--idle 60] [--changes 100] [--json FILE]

The artifacts of all of them exist. The operator is started cold, as its image starts it, in an environment that has
just what the image has. Then, in the same run, a bare client writes the same objects to the same API server; it has
them ready and decides nothing. Each bound is printed with its figure; the exit code is 1 if one of them does not hold.

Needs the Kubernetes binaries (`python3 -m hack.cluster binaries`) and an otherwise idle machine: the API server, etcd,
the operator and this program share it. See README.md for what is counted how.
"""

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgemodel.api.artifact import ModelArtifactStatus
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.controllers.context import node_facts
from edgemodel.core.conditions import conditions
from edgemodel.core.hardware import fleet_of
from edgemodel.core.objects import model_artifact
from edgemodel.core.plan import Choice, Landscape, decide
from edgemodel.core.problem import Problem
from edgemodel.core.sizing import baseline_bytes
from hack.cluster import controlplane
from tests.apiserver.operator.process import ROOT, Operator, environment, start
from tests.apiserver.operator.world import CLUSTER, edge_model
from tests.cluster_stand_in import APPLY, QUALITY, Api, Obj, path_of, resolved
from tests.s3 import free_port, serve

SCALE, BARE = "scale", "bare"
SETUP_AT_A_TIME = 16
BUSY = 10.0
"""Per cent of all CPUs that other work may take before times are not to be trusted."""
BARE_AT_A_TIME = 8
"""As many as the operator has workers for EdgeModels."""
WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE", "APPLY"})

OF_ITS_OWN = frozenset({"leases", "endpoints", "endpointslices", "ipaddresses", "apiservices"})
"""What the API server writes to itself: its identity, its own Service, an address object for each Service made."""


@dataclass(frozen=True)
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str
    bound: str = ""
    holds: bool = True

    def __str__(self) -> str:
        verdict = f"   {'PASS' if self.holds else 'FAIL'}  ({self.bound})" if self.bound else ""
        return f"{self.name:58} {self.value:10.2f} {self.unit:5}{verdict}"


def at_most(name: str, value: float, bound: float, unit: str = "") -> Figure:
    """A figure with an upper bound."""
    return Figure(name, value, unit, f"at most {bound:g} {unit}".rstrip(), value <= bound)


def at_least(name: str, value: float, bound: float, unit: str = "") -> Figure:
    """A figure with a lower bound."""
    return Figure(name, value, unit, f"at least {bound:g} {unit}".rstrip(), value >= bound)


# The cluster


async def prepare(api: Api, count: int) -> None:
    """The definitions, a node, a class, a runtime; EdgeModels whose status is empty, and their finished artifacts."""
    await api.install(ROOT / "crds")
    parts = {document["kind"]: document for document in yaml.safe_load_all(CLUSTER)}
    for obj in parts.values():
        await api.apply(obj)
    for namespace in (SCALE, BARE):
        await api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    hardware = HardwareClass.model_validate(parts["HardwareClass"])
    runtime = EdgeRuntime.model_validate(parts["EdgeRuntime"])
    fleet = fleet_of([node_facts(parts["Node"])], [hardware])
    landscape = Landscape({"llamacpp": runtime}, {"x86-64": hardware}, fleet)

    async def one(number: int) -> None:
        obj = model_of(number, SCALE)
        await api.create(obj)
        model = EdgeModel.model_validate(obj)
        choice = decide(model.spec, landscape)[0]
        assert isinstance(choice, Choice)
        source = resolved(model.spec.source.uri, model.spec.source.revision or "")
        made = await api.create(model_artifact(model, choice, source))
        status = ModelArtifactStatus(
            observed_generation=1,
            conditions=conditions(
                [],
                Problem.waiting("Published", "the artifact is in the object store, whole"),
                1,
                [],
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            ),
            digest=f"sha256:{number:064x}",
            bytes=90_000_000 + number,
            entrypoint="model.gguf",
            baseline_bytes=baseline_bytes(source.model),
            compression="2.99",
            quality=QUALITY,
        )
        await api.merge(made, {"status": status.dump()}, "status")

    await at_a_time(SETUP_AT_A_TIME, (one(number) for number in range(count)))


def model_of(number: int, namespace: str) -> Obj:
    """An EdgeModel of its own source."""
    name = f"model-{number:04d}"
    return edge_model(name, namespace, source={"uri": f"hf://owner/{name}", "revision": "main"})


async def at_a_time(limit: int, work: Iterable[Any]) -> None:
    """Awaits all, so many at a time."""
    todo = iter(work)

    async def worker() -> None:
        for one in todo:
            await one

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(worker())


async def requests(api: Api) -> Counter[str]:
    """Writes that the API server has answered so far, by verb and resource, without those to itself."""
    text = (await api.send("GET", "/metrics")).decode()
    found: Counter[str] = Counter()
    for line in re.findall(r"^apiserver_request_total\{.*$", text, re.MULTILINE):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
        if labels["verb"] in WRITES and labels["resource"] not in OF_ITS_OWN:
            name = "/".join(part for part in (labels["resource"], labels["subresource"]) if part)
            found[f"{labels['verb']} {name}"] += int(float(line.rpartition(" ")[2]))
    return found


class Done:
    """Watches until each of a namespace's EdgeModels has its Deployment, its Service and a status."""

    def __init__(self, api: Api, namespace: str, count: int) -> None:
        self._api = api
        self._namespace = namespace
        self._count = count
        self.first = 0.0
        self.last = 0.0
        self._there: dict[str, set[str]] = {"Deployment": set(), "Service": set(), "EdgeModel": set()}
        self.listed = asyncio.Event()
        self._lists = 0

    async def wait(self) -> None:
        """Until it is so."""
        async with asyncio.TaskGroup() as group:
            for kind in self._there:
                group.create_task(self._follow(kind))

    async def _follow(self, kind: str) -> None:
        found = self._there[kind]
        # Of the EdgeModels the metadata is enough, too: it says who wrote the status.
        async for event in self._api.watch(kind, self._namespace, metadata_only=True):
            if event["type"] == "LISTED":
                self._lists += 1
                if self._lists == len(self._there):
                    self.listed.set()
                continue
            metadata = event["object"]["metadata"]
            if kind == "EdgeModel" and not any(
                entry.get("subresource") == "status" for entry in metadata.get("managedFields", ())
            ):
                continue
            self.last = time.monotonic()
            self.first = self.first or self.last
            found.add(metadata["name"])
            if len(found) == self._count:
                return


# The process


def memory(pid: int) -> tuple[float, float]:
    """Resident memory now and at its highest, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1]) for name in ("VmRSS", "VmHWM"))  # type: ignore[index]
    return now / 1024, peak / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time used so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Others:
    """How busy the machine is with what is not ours: this process and all below it."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._busy, self._ours = _busy_seconds(), _own_seconds()

    def share(self, phase: str) -> Figure:
        """In per cent of all CPUs, since this was made."""
        passed = (time.monotonic() - self._since) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self._busy) - (_own_seconds() - self._ours)
        return Figure(f"CPU taken by other work during {phase}", max(0.0, others / passed * 100), "%")


def _busy_seconds() -> float:
    """User, nice, system, interrupts and what a hypervisor took."""
    _, user, nice, system, _, _, irq, softirq, steal, *_ = Path("/proc/stat").read_text().splitlines()[0].split()
    return sum(map(int, (user, nice, system, irq, softirq, steal))) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    parents: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                parents[int(process.name)] = int(fields[1])
    ours, more = {os.getpid()}, {os.getpid()}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more}
        ours |= more
    total = sum(os.times()[2:4])  # of children that have ended
    for pid in ours:
        with suppress(OSError):
            total += cpu_seconds(pid)
    return total


async def quiet(api: Api, seconds: float = 3.0) -> None:
    """Until no write has come for a while."""
    before = await requests(api)
    while True:
        await asyncio.sleep(seconds)
        now = await requests(api)
        if now == before:
            return
        before = now


# What is measured


async def cold_start(
    api: Api, operator: Operator, done: Done, count: int, started: float
) -> tuple[list[Figure], float]:
    """From the start of the process until all is there."""
    before = await requests(api)
    others = Others()
    waiting = asyncio.create_task(done.wait())
    while not any("all watched resources are listed" in line["message"] for line in operator.messages()):
        assert operator.alive, operator.log.read_text()
        await asyncio.sleep(0.02)
    listed = time.monotonic()
    await waiting
    used, peak, others_share = cpu_seconds(operator.pid), memory(operator.pid)[1], others.share("this")
    await quiet(api)
    writes = await requests(api) - before
    told = operator.writes()
    # Kubernetes' own events, for example of its Service allocator, which writes through the same door.
    foreign = Counter(event["reason"] for event in await api.list("Event") if is_foreign(event))
    if foreign:
        print_counts("events by others", foreign)
        writes["POST events"] -= foreign.total()
    total = writes.total()
    rate = total / (done.last - listed)
    print_counts("writes that the API server counted", writes)
    print_counts("writes that the operator counted", told)
    figures = [
        Figure("process start to all listed", listed - started, "s"),
        Figure("process start to every Deployment, Service and status", done.last - started, "s"),
        Figure("all listed to every Deployment, Service and status", done.last - listed, "s"),
        Figure("CPU used by then", used, "s"),
        others_share,
        at_most("writes an EdgeModel (API server's count)", total / count, 4),
        at_most("writes an EdgeModel (operator's count)", sum(told.values()) / count, 4),
        Figure("writes a second, from process start", total / (done.last - started), "/s"),
        Figure("writes a second, from all listed", rate, "/s"),
        at_most("peak resident memory", max(peak, memory(operator.pid)[1]), 160, "MiB"),
    ]
    return figures, total / (done.last - started)


def is_foreign(event: Obj) -> bool:
    """Whether it is not the operator's."""
    return bool(event.get("reportingController") != "edgemodel")


async def idle(api: Api, operator: Operator, seconds: float) -> list[Figure]:
    """Nothing changes."""
    before, told, used = await requests(api), operator.writes(), cpu_seconds(operator.pid)
    started = time.monotonic()
    await asyncio.sleep(seconds)
    passed = time.monotonic() - started
    busy = (cpu_seconds(operator.pid) - used) / passed * 100
    writes = await requests(api) - before
    own = sum(operator.writes().values()) - sum(told.values())
    if writes:
        print_counts("writes while idle", writes)
    return [
        at_most(f"writes in {passed:.0f} idle seconds (API server's count)", writes.total(), 0),
        at_most(f"writes in {passed:.0f} idle seconds (operator's count)", own, 0),
        at_most(f"CPU over {passed:.0f} idle seconds", busy, 1, "%"),
        Figure("resident memory now", memory(operator.pid)[0], "MiB"),
    ]


async def single_changes(api: Api, count: int, changes: int) -> list[Figure]:
    """One EdgeModel's replicas change; until the watch shows its Deployment changed."""
    heard: asyncio.Queue[tuple[str, int, float]] = asyncio.Queue()
    listed = asyncio.Event()

    async def follow() -> None:
        async for event in api.watch("Deployment", SCALE):
            if event["type"] == "LISTED":
                listed.set()
            elif listed.is_set():
                obj = event["object"]
                heard.put_nowait((obj["metadata"]["name"], obj["spec"]["replicas"], time.monotonic()))

    following = asyncio.create_task(follow())
    await listed.wait()
    taken = []
    others = Others()
    for change in range(changes):
        number = change * 7919 % count
        obj = model_of(number, SCALE)
        replicas = 2 + change % 5
        variants = [obj["spec"]["variants"][0] | {"replicas": replicas}]
        started = time.monotonic()
        await api.merge(obj, {"spec": {"variants": variants}})
        while True:
            name, is_now, at = await asyncio.wait_for(heard.get(), 30)
            if (name, is_now) == (f"{obj['metadata']['name']}-cpu", replicas):
                taken.append((at - started) * 1000)
                break
    following.cancel()
    others_share = others.share("the changes")
    cuts = statistics.quantiles(taken, n=100, method="inclusive") if len(taken) > 1 else taken * 99
    return [
        Figure(f"spec change to applied child, median of {changes}", statistics.median(taken), "ms"),
        at_most(f"spec change to applied child, p99 of {changes}", cuts[98], 250, "ms"),
        Figure(f"spec change to applied child, worst of {changes}", max(taken), "ms"),
        others_share,
    ]


async def bare_client(api: Api, kubeconfig: Path, count: int) -> tuple[float, Figure]:
    """Writes a second of a client that applies the same objects, in another namespace, with nothing to decide.

    For each EdgeModel in turn its Deployment, its Service, its status, as the operator does; the bytes are made before.
    It has no EdgeModels to list, no watches to serve, and the API server is warm.
    """
    owners: dict[str, Obj] = {}

    async def own(number: int) -> None:
        made = await api.create(model_of(number, BARE))
        owners[made["metadata"]["name"]] = made

    await at_a_time(SETUP_AT_A_TIME, (own(number) for number in range(count)))
    batches: list[list[tuple[str, bytes]]] = []
    theirs = {
        kind: {obj["metadata"]["name"]: obj for obj in await api.list(kind, SCALE)}
        for kind in ("EdgeModel", "Deployment", "Service")
    }
    for name, owner in owners.items():
        batch = []
        for kind, child in (("Deployment", f"{name}-cpu"), ("Service", name)):
            wanted = as_applied(theirs[kind][child], owner)
            batch.append((path_of(kind, BARE, child), json.dumps(wanted, separators=(",", ":")).encode()))
        status = {
            "apiVersion": owner["apiVersion"],
            "kind": "EdgeModel",
            "metadata": {"name": name, "namespace": BARE, "uid": owner["metadata"]["uid"]},
            "status": theirs["EdgeModel"][name]["status"],
        }
        batch.append((path_of("EdgeModel", BARE, name, "status"), json.dumps(status, separators=(",", ":")).encode()))
        batches.append(batch)
    done = Done(api, BARE, count)
    waiting = asyncio.create_task(done.wait())
    await done.listed.wait()
    others = Others()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batches.json"
        file.write_text(json.dumps([[(path, body.decode()) for path, body in batch] for batch in batches]))
        # A process of its own, as the operator is one; its time is from its first request.
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "benchmarks.scale",
            "--bare-client",
            str(file),
            cwd=ROOT,
            env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        )
        await waiting
        assert await process.wait() == 0
    return 3 * count / (done.last - done.first), others.share("the bare client")


def as_applied(live: Obj, owner: Obj) -> Obj:
    """What the operator applied, from what the API server says that it owns of the object."""
    metadata = live["metadata"]
    fields = next(
        entry["fieldsV1"]
        for entry in metadata["managedFields"]
        if entry["manager"] == "edgemodel" and entry["operation"] == "Apply" and "subresource" not in entry
    )
    wanted: Obj = _owned(live, fields)
    reference = wanted["metadata"]["ownerReferences"][0]
    wanted["metadata"]["ownerReferences"] = [reference | {"uid": owner["metadata"]["uid"]}]
    wanted["metadata"] |= {"name": metadata["name"], "namespace": BARE}
    return {"apiVersion": live["apiVersion"], "kind": live["kind"]} | wanted


def _owned(value: Any, fields: Mapping[str, Any]) -> Any:
    """The part of a value that `fieldsV1` names."""
    if not any(name != "." for name in fields):
        return value
    if isinstance(value, list):
        found = []
        for name, below in fields.items():
            if name.startswith("k:"):
                key = json.loads(name[2:])
                item = next(item for item in value if all(item.get(part, "TCP") == at for part, at in key.items()))
                found.append((value.index(item), _owned(item, below)))
        return [item for _, item in sorted(found, key=lambda pair: pair[0])]
    return {
        name[2:]: _owned(value[name[2:]], below)
        for name, below in fields.items()
        if name.startswith("f:") and name[2:] in value
    }


async def be_the_bare_client(batches: list[list[tuple[str, str]]]) -> None:
    """The process of `bare_client`."""
    api = Api(Path(os.environ["KUBECONFIG"]), "edgemodel-bare")
    todo = iter(batches)
    async with api:

        async def worker() -> None:
            for batch in todo:
                for path, body in batch:
                    answer = await api.send("PATCH", path, body.encode(), APPLY, fieldManager="edgemodel", force="true")
                    json.loads(answer)

        async with asyncio.TaskGroup() as group:
            for _ in range(BARE_AT_A_TIME):
                group.create_task(worker())


async def measure(kubeconfig: Path, env: Mapping[str, str], log: Path, options: argparse.Namespace) -> list[Figure]:
    """Everything, in order."""
    async with Api(kubeconfig, "edgemodel-benchmark") as api:
        await prepare(api, options.count)
        say(f"{options.count} EdgeModels and their artifacts are there")
        await quiet(api, 2.0)
        done = Done(api, SCALE, options.count)
        started = time.monotonic()
        leads = {"EDGEMODEL_LEASE": "edgemodel-operator", "EDGEMODEL_NAMESPACE": "default"}  # as the chart has it
        with start(environment(kubeconfig, env, EDGEMODEL_PORT=str(free_port()), **leads), log) as operator:
            figures, rate = await cold_start(api, operator, done, options.count, started)
            say(f"all rolled out; {options.idle:.0f} s of nothing")
            figures += await idle(api, operator, options.idle)
            say(f"{options.changes} changes, one after the other")
            figures += await single_changes(api, options.count, options.changes)
            assert operator.complaints() == [], operator.complaints()
        say("a bare client writes the same")
        bare, others_share = await bare_client(api, kubeconfig, options.count)
        figures += [
            Figure("bare client: writes a second", bare, "/s"),
            others_share,
            at_least("operator's rate, from process start, of the bare client's", rate / bare, 0.6),
        ]
        return figures


def say(text: str) -> None:
    """Progress."""
    print(f"  {text} ...", flush=True)


def print_counts(what: str, counts: Mapping[str, float]) -> None:
    """A line of the report that is no figure."""
    print(f"  {what}: " + ", ".join(f"{name} {count:.0f}" for name, count in sorted(counts.items())), flush=True)


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="EdgeModels")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds of nothing")
    parser.add_argument("--changes", type=int, default=100, help="single spec changes")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--bare-client", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare_client:
        asyncio.run(be_the_bare_client(json.loads(options.bare_client.read_text())))
        return
    load = os.getloadavg()[0]
    machine = f"{os.cpu_count()} CPUs, load {load:.2f} before the run, Python {platform.python_version()}"
    print(f"{options.count} EdgeModels; {machine}")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        kubeconfig = stack.enter_context(controlplane.apiserver(folder / "api"))
        store = stack.enter_context(serve(folder / "store"))
        figures = asyncio.run(measure(kubeconfig, store.env, folder / "operator.log", options))
    print()
    print(*figures, sep="\n")
    failed = [figure for figure in figures if not figure.holds]
    if any(figure.name.startswith("CPU taken by other work") and figure.value > BUSY for figure in figures):
        print("\nThe machine did other work as well: times and rates say little.")
    if options.json:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        lines = [figure.__dict__ for figure in figures]
        options.json.write_text(json.dumps({"commit": commit, "load": load, "figures": lines}, indent=2) + "\n")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
