"""One pod of ours, from the time it is bound to this node until nothing of it is left.

A task a pod: it looks at what is, decides by `lifecycle` what comes next, does that, and tells what changed. What it
must remember lies in the pod's folder, so that an agent that was killed goes on where it was.
"""

import asyncio
import base64
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import aiohttp
import psutil
from prometheus_client import Counter
from pydantic import ValidationError

from edgemodel.api.runtime import EdgeRuntime
from edgemodel.core.objects import FETCH, FETCH_COMMAND, MODEL_DIR, RUNTIME_LABEL, SERVE
from edgemodel.engine.client import Client
from edgemodel.engine.desired import needs_status
from edgemodel.engine.errors import ApiError, Conflict, Forbidden, NotFound
from edgemodel.engine.events import Events
from edgemodel.engine.objects import Object, Ref
from edgemodel.node import status
from edgemodel.node.admission import NOT_NATIVE, Plan, Refused, admit, expand
from edgemodel.node.identity import write_private
from edgemodel.node.lifecycle import Health, Kind, Life, Probe, Step, next_step, wait_before
from edgemodel.node.processes import Box, Run, port_problem
from edgemodel.node.record import Record, seconds_of, whole_seconds
from edgemodel.node.resources import PODS, RUNTIMES, SECRETS
from edgemodel.node.room import Refusals, Room
from edgemodel.node.server import LogFile, NotThere, Usage

_log = logging.getLogger(__name__)
_MODEL = "model"
_LAST_WORDS = "termination"
_TICK = 0.5
_LONGEST_WAIT = 60.0
"""Seconds between two looks at something in the way."""
_KILLED_AFTER_GONE = 2.0
"""Seconds that a process has when its pod is no more."""
_SECRET_KEYS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}

_ENDS = Counter("edgemodel_node_process_ends", "Processes that ended while their pod was wanted", ["container"])
_REFUSALS = Counter("edgemodel_node_refused_pods", "Pods refused", ["reason"])


@dataclass(frozen=True)
class Place:
    """What of this machine pods use."""

    folder: Path
    """For the pods' folders."""
    address: str
    """The node's own."""
    python: str
    """What `python3` is."""
    store_endpoint: str = ""
    """URL of the object store, if not that which pods are told."""
    programs: Path = Path(sys.executable).parent
    """Where other programs are, and nowhere else."""


@dataclass(frozen=True)
class Surroundings:
    """What all pods have in common."""

    client: Client
    events: Events
    probing: aiohttp.ClientSession
    place: Place
    room: Room
    refusals: Refusals


class Pod:
    """One pod."""

    def __init__(self, pod: Object, around: Surroundings) -> None:
        self.object = pod
        self._around = around
        self.folder = around.place.folder / pod["metadata"]["uid"]
        self._record = Record.read(self.folder) or Record.of(pod)
        around.room.keep(self._record)
        self.boxes = {name: Box(self.folder / name) for name in (FETCH, SERVE)}
        self._plan: Plan | None = None
        self._health: Health | None = None
        self._status: Object = pod.get("status", {})
        self._version = int(pod["metadata"]["resourceVersion"])
        """Of the pod when that was its status."""
        self._waiting = ("PodInitializing", "")
        self._again_at = 0.0
        self._tries = 0
        self._gone_at: float | None = None
        self._wake = asyncio.Event()

    @property
    def ref(self) -> Ref:
        """Which pod."""
        return Ref(PODS.kind, self._record.namespace, self._record.name)

    def changed(self, pod: Object) -> None:
        """The API server has this of it now."""
        self.object = pod
        if int(pod["metadata"]["resourceVersion"]) > self._version:
            # Another wrote after us: where our Lease had ended, for example, that none of our pods is ready.
            self._status = pod.get("status", {})
        self._wake.set()

    def gone(self) -> None:
        """The API server has it no more."""
        self._gone_at = self._gone_at or time.monotonic()
        self._wake.set()

    def log(self, container: str, previous: bool) -> LogFile:
        """A container's log. Raises NotThere."""
        box = self.boxes.get(container)
        if box is None:
            raise NotThere(f"container {container} is not in pod {self._record.name}: there are {FETCH} and {SERVE}")
        attempt = (self._record.fetch if container == FETCH else self._record.serve).attempt - previous
        if attempt < 1 or not box.log(attempt).exists():
            which = "previous terminated container" if previous else "container"
            raise NotThere(f"{which} {container} in pod {self._record.name} has not started: {self._waiting[0]}")

        def goes_on() -> bool:
            run = box.look()
            return run is not None and run.attempt == attempt and run.going_on

        return LogFile(box.log(attempt), goes_on)

    def usage(self) -> Iterator[Usage]:
        """What its containers take."""
        for name, box in self.boxes.items():
            run = box.look()
            if run and run.going_on and run.pid:
                seconds, memory = box.usage()
                yield Usage(self._record.namespace, self._record.name, name, seconds, memory, seconds_of(run.started))

    async def run(self) -> None:
        """Until nothing of it is left."""
        while True:
            self._wake.clear()
            try:
                if await self._turn():
                    return
            except ApiError as error:
                _log.warning("%s: %s", self.ref, error)
                self._postpone(error.reason or "Unavailable", error.message)
            except Exception:
                _log.exception("%s", self.ref)
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._wake.wait()

    async def _turn(self) -> bool:
        """One look and one step. Whether nothing is left to do for ever."""
        clock = time.monotonic()
        if not (self._leaving or self._refused or self._plan) and clock >= self._again_at:
            await self._admit()
        step = next_step(self._life(clock), clock)
        match step:
            case Step.REFUSE:
                _log.info("%s is refused: %s", self.ref, self._record.refusal)
            case Step.FETCH:
                await self._fetch()
            case Step.START:
                await self._start()
            case Step.PROBE:
                await self._probe()
            case Step.RESTART:
                assert self._health
                await self._say("Unhealthy", f"{self._health.sick}; it is started again", "Warning")
                await self._end(self.boxes[SERVE])
                self._health = None
            case Step.LEAVE:
                await self._leave()
            case Step.FORGET:
                await self._forget()
                return True
        await self._tell(refuse=step is Step.REFUSE)
        return False

    # What is

    @property
    def _leaving(self) -> bool:
        return self._gone_at is not None or "deletionTimestamp" in self.object["metadata"]

    @property
    def _told(self) -> bool:
        return self._status.get("phase") in ("Failed", "Succeeded")

    @property
    def _refused(self) -> bool:
        return self._record.refusal is not None or self._told

    def _life(self, clock: float) -> Life:
        runs = {name: box.look() for name, box in self.boxes.items()}
        fetched = _is_fetched(runs[FETCH])
        name = SERVE if fetched else FETCH
        counts, run = (self._record.serve if fetched else self._record.fetch), runs[name]
        if run and not self._leaving and counts.judge(run):
            self._record.write(self.folder)
            self._health = None
            _ENDS.labels(name).inc()
        wait = 0.0 if self._refused else counts.wait(run)
        if wait > 0 and run:
            told = _last_words(self.folder / name) or f"exit code {run.code}"
            self._waiting = status.CRASH_LOOP, f"tried again in {wait_before(counts.crashes):.0f} s: {told}"
        return Life(
            refused=self._refused,
            told=self._told,
            leaving=self._leaving,
            busy=any(run is not None and run.going_on for run in runs.values()),
            fetched=fetched,
            sick=self._health is not None and bool(self._health.sick),
            again_at=max(self._again_at, clock + wait),
        )

    def _container(self, name: str) -> status.Container:
        counts = self._record.fetch if name == FETCH else self._record.serve
        run = self.boxes[name].look()
        going_on = run is not None and run.going_on
        done = name == FETCH and _is_fetched(run)
        healthy = self._health if name == SERVE and going_on else None
        return status.Container(
            run=run,
            last=Run(**counts.last) if counts.last else None,
            restarts=counts.restarts,
            started=healthy.started if healthy else name == FETCH and going_on,
            ready=healthy.ready if healthy else False,
            waiting=self._waiting,
            message=_last_words(self.folder / name),
            done=done,
        )

    # What to do

    async def _admit(self) -> None:
        """Decides whether it may run, once: what was admitted stays so."""
        try:
            runtime = await self._runtime()
            plan = admit(self.object, runtime)
            assert runtime is not None
            if not self._record.address:
                address = self._around.room.take(self._record.uid, plan.memory)
                if address is None:
                    self._postpone("PodLeaving", "another pod is leaving this node: its memory or address is needed")
                    return
                self._record.address, self._record.memory = address, plan.memory
                self._record.runtime = runtime.dump()
                self._record.write(self.folder)
                _log.info("%s is taken, at %s", self.ref, self._record.address)
            self._plan, self._tries = plan, 0
        except Refused as refused:
            self._record.refusal = refused.reason, refused.message
            self._waiting = self._record.refusal
            self._again_at = time.monotonic() + self._around.refusals.delay(self.object, time.monotonic())
            self._record.write(self.folder)
            _REFUSALS.labels(refused.reason).inc()
            await self._say(refused.reason, refused.message, "Warning")
        except Forbidden as error:
            self._postpone("RuntimeUnreadable", f"{error.message}. Install the chart with macNodes.enabled=true")

    async def _runtime(self) -> EdgeRuntime | None:
        """By which it was admitted, or is to be."""
        found = self._record.runtime
        name = self.object["metadata"].get("labels", {}).get(RUNTIME_LABEL)
        if not found and name:
            with suppress(NotFound):
                found = await self._around.client.get(Ref(RUNTIMES.kind, "", name))
        try:
            return EdgeRuntime.model_validate(found) if found else None
        except ValidationError as error:
            raise Refused(NOT_NATIVE, f"EdgeRuntime {name} can't be read by this agent: {error}") from None

    async def _fetch(self) -> None:
        assert self._plan
        env = dict(self._plan.fetch_env)
        if self._plan.secret:
            env["EDGEMODEL_STORE_CREDENTIALS"] = str(await self._credentials(self._plan.secret))
        if self._around.place.store_endpoint:
            env["EDGEMODEL_STORE_ENDPOINT"] = self._around.place.store_endpoint
        env["EDGEMODEL_MODEL_DIR"] = str(self.folder / _MODEL)
        env["EDGEMODEL_TERMINATION_LOG"] = str(self.folder / FETCH / _LAST_WORDS)
        self._begin(FETCH, FETCH_COMMAND, env)

    async def _credentials(self, secret: str) -> Path:
        """The Secret as a folder, as a container would have it; empty if there is none."""
        folder = _empty(self.folder / "credentials")
        with suppress(NotFound):
            found = await self._around.client.get(Ref(SECRETS.kind, self._record.namespace, secret))
            for key in _SECRET_KEYS & found.get("data", {}).keys():
                write_private(folder / key, base64.b64decode(found["data"][key]))
        return folder

    async def _start(self) -> None:
        assert self._plan
        shutil.rmtree(self.folder / "credentials", ignore_errors=True)
        if problem := port_problem(self._record.address, self._plan.port):
            self._postpone(status.PORT_IN_USE, problem)
            await self._say(status.PORT_IN_USE, problem, "Warning")
            return
        here = {"HOST": self._record.address, "PORT": str(self._plan.port)}
        env = {name: self._here(value) for name, value in self._plan.env.items()} | here
        self._begin(SERVE, [expand(word, env) for word in self._plan.command], env)
        self._health = Health.new(self._plan.probes, time.monotonic())
        self._tries = 0
        await self._say("Started", f"started {self._plan.command[0]} at {self._record.address}:{self._plan.port}")

    def _begin(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        """Starts a container's process."""
        counts, box = (self._record.fetch if name == FETCH else self._record.serve), self.boxes[name]
        before = box.look()
        if before:
            counts.last = asdict(replace(before, message=_last_words(self.folder / name) or before.message))
        counts.attempt += 1
        self._record.write(self.folder)
        (self.folder / name / _LAST_WORDS).unlink(missing_ok=True)
        home, tmp = self.folder / "home", self.folder / "tmp"
        for folder in (home, tmp):
            folder.mkdir(mode=0o700, exist_ok=True)
        box.start(self._program(command), {**_surroundings(home, tmp, self._around.place), **env}, home, counts.attempt)
        self._waiting = ("ContainerCreating", "") if name == SERVE else ("PodInitializing", "")

    def _program(self, command: Sequence[str]) -> list[str]:
        """`python3` is the installation's; other programs are beside our own."""
        place = self._around.place
        program = place.python if command[0] == "python3" else str(place.programs / command[0])
        return [program, *command[1:]]

    def _here(self, value: str) -> str:
        """A path in a pod, on this machine."""
        inside = value == MODEL_DIR or value.startswith(f"{MODEL_DIR}/")
        return str(self.folder / _MODEL) + value.removeprefix(MODEL_DIR) if inside else value

    async def _probe(self) -> None:
        assert self._plan
        if self._health is None:
            self._health = self._health_of_before(self._plan)
        kinds = self._health.due(time.monotonic())
        problems = await asyncio.gather(*(self._ask(self._health.probe(kind)) for kind in kinds))
        for kind, problem in zip(kinds, problems, strict=True):
            self._health = self._health.judged(kind, problem, time.monotonic())
            if problem and kind is not Kind.STARTUP:
                await self._say("Unhealthy", f"{kind.value} probe failed: {problem}", "Warning")

    def _health_of_before(self, plan: Plan) -> Health:
        """Of a process that an agent before us has seen: what it said of it holds until a probe says otherwise."""
        health = Health.new(plan.probes, time.monotonic())
        run = self.boxes[SERVE].look()
        for each in self._status.get("containerStatuses", ()):
            if run and each.get("containerID") == status.container_id(run):
                return replace(health, started=bool(each.get("started")), ready=bool(each.get("ready")))
        return health

    async def _ask(self, probe: Probe) -> str:
        """What is wrong, by a probe; empty if nothing is."""
        assert self._plan
        address = f"[{self._record.address}]" if ":" in self._record.address else self._record.address
        try:
            async with self._around.probing.get(
                f"http://{address}:{self._plan.port}{probe.path}", timeout=aiohttp.ClientTimeout(total=probe.timeout)
            ) as answer:
                return "" if 200 <= answer.status < 400 else f"{probe.path} answered {answer.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{probe.path}: {error or type(error).__name__}"

    async def _leave(self) -> None:
        """Ends what runs: what is being answered first, if there is still a pod."""
        begun = time.monotonic()
        self._around.room.leaves(self._record.uid)
        serve = self.boxes[SERVE].look()
        if self._plan and serve and serve.going_on and self._gone_at is None:
            await self._say("Killing", "the pod was deleted; its process ends when it has answered")
            if self._plan.drain:
                await self._drain(self._plan.drain, begun)
            await self._while(lambda: time.monotonic() < begun + (self._plan.pause if self._plan else 0), begun)
        for box in self.boxes.values():
            await self._end(box, begun)

    async def _drain(self, command: Sequence[str], begun: float) -> None:
        """Runs the runtime's drain command to its end, or as long as there is time."""
        assert self._plan
        env = _surroundings(self.folder / "home", self.folder / "tmp", self._around.place)
        env |= {"HOST": self._record.address, "PORT": str(self._plan.port)}
        try:
            process = await asyncio.create_subprocess_exec(*self._program(command), env=env)
        except OSError as error:
            await self._say("FailedPreStopHook", f"cannot run {command[0]}: {error.strerror}", "Warning")
            return
        ended = asyncio.ensure_future(process.wait())
        await self._while(lambda: not ended.done(), begun)
        if not ended.done():
            process.kill()
        await ended

    async def _end(self, box: Box, begun: float | None = None) -> None:
        """SIGTERM; SIGKILL when its time is over."""
        begun = time.monotonic() if begun is None else begun

        def goes_on() -> bool:
            run = box.look()
            return run is not None and run.going_on

        if not goes_on():
            return
        box.ask_to_end()
        await self._while(goes_on, begun)
        while goes_on():
            box.kill()
            await asyncio.sleep(0.1)

    async def _while(self, holds: Callable[[], bool], begun: float) -> None:
        """Waits, but no longer than the pod's grace period."""
        while True:
            if not holds() or time.monotonic() >= self._deadline(begun):
                return
            await asyncio.sleep(0.1)

    def _deadline(self, begun: float) -> float:
        if self._gone_at is not None:
            return self._gone_at + _KILLED_AFTER_GONE
        grace = self.object["metadata"].get("deletionGracePeriodSeconds")
        usual = self._plan.grace if self._plan else 0.0
        return begun + (usual if grace is None else float(grace))

    async def _forget(self) -> None:
        """Lets the API server forget it, then does so too."""
        if self._gone_at is None:
            with suppress(NotFound, Conflict):
                await self._tell(refuse=False, ended=True)
                await self._around.client.delete(self.ref, uid=self._record.uid, grace=0)
        for box in self.boxes.values():
            box.remove()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._around.room.give_back(self._record.uid)
        _log.info("%s has ended", self.ref)

    def _postpone(self, reason: str, message: str) -> None:
        """Something is in the way; longer each time."""
        self._tries += 1
        self._again_at = time.monotonic() + min(2.0**self._tries, _LONGEST_WAIT)
        self._waiting = reason, message

    # What to tell

    async def _tell(self, refuse: bool, ended: bool = False) -> None:
        """Writes the status, if it is another."""
        if self._told or self._gone_at is not None:
            return
        seen = status.Seen(
            node_address=self._around.place.address,
            address=self._record.address,
            refusal=self._record.refusal if refuse else None,
            accepted_at=self._record.accepted_at,
            fetch=self._container(FETCH),
            serve=self._container(SERVE),
            ended=ended,
        )
        wanted = status.pod_status(self.object, self._status, seen, whole_seconds())
        if not needs_status(wanted, self._status):
            return
        metadata = {"namespace": self._record.namespace, "name": self._record.name, "uid": self._record.uid}
        told = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": wanted}
        try:
            written = await self._around.client.apply_status(told)
        except (NotFound, Conflict):  # it is no more, or another has its name
            self.gone()
            return
        self._status, self._version = wanted, int(written["metadata"]["resourceVersion"])

    async def _say(self, reason: str, message: str, kind: Literal["Normal", "Warning"] = "Normal") -> None:
        await self._around.events.emit(self.object, reason, message, kind=kind, action="Run")


def forget_folder(folder: Path) -> None:
    """Ends and removes what is left of a pod that is no more."""
    for name in (FETCH, SERVE):
        box = Box(folder / name)
        if box.look():
            box.remove()
    shutil.rmtree(folder, ignore_errors=True)


def _is_fetched(run: Run | None) -> bool:
    """Whether the artifact is there, whole: after the machine was started anew, nobody knows."""
    if run is None or run.going_on or run.code != 0:
        return False
    return seconds_of(run.started) > psutil.boot_time()


def _surroundings(home: Path, tmp: Path, place: Place) -> dict[str, str]:
    """The environment that any process of ours has: nothing of the agent's own, and no credentials of the machine's."""
    return {
        "PATH": os.pathsep.join((str(place.programs), "/usr/bin", "/bin", "/usr/sbin", "/sbin")),
        "HOME": str(home),
        "TMPDIR": str(tmp),
        "LANG": "en_US.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    return folder


def _last_words(folder: Path) -> str:
    """What a container left as its termination message."""
    try:
        return (folder / _LAST_WORDS).read_text(errors="replace")[:4096]
    except OSError:
        return ""
