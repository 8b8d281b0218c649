import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemodel.api.artifact import Progress, Source
from edgemodel.core.problem import pod_problem
from edgemodel.pipeline import children, cpus, errors, resolve_main, texts
from edgemodel.pipeline.llamacpp_schemes import DEFAULT_SCHEME, SCHEMES, runtime_schemes
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.toolchain import toolchain
from edgemodel.store import errors as store
from tests.unit.pipeline.models import TINYSAWYER

# Errors


@pytest.mark.parametrize(
    ("error", "reason", "retry"),
    [
        (errors.PickleRefusedError("x"), "PickleRefused", False),
        (OSError(errno.ENOSPC, "No space left on device"), "DiskFull", False),
        (store.DiskFullError("x"), "DiskFull", False),
        (store.TransientError("x"), "StoreUnavailable", True),
        (store.DeniedError("x"), "StoreDenied", False),
        (store.CorruptError("x"), "StoreFailed", False),
        (MemoryError(), "OutOfMemory", True),
        (RuntimeError("the password is swordfish"), "Internal", False),
    ],
)
def test_an_error_is_told_by_its_reason(error: Exception, reason: str, retry: bool) -> None:
    failure = errors.translate(error)
    assert (failure.reason, failure.retry) == (reason, retry)
    assert "swordfish" not in failure.termination()


def test_the_operator_understands_what_a_pod_leaves_behind() -> None:
    left = errors.SourceUnavailableError("the hub answers 503").termination()
    pod = {"status": {"containerStatuses": [{"state": {"terminated": {"exitCode": 1, "message": left}}}]}}
    problem = pod_problem(pod)
    assert problem
    assert (problem.reason, problem.policy) == ("SourceUnavailable", "retrying")


def test_a_termination_message_fits() -> None:
    assert len(errors.InternalError("x" * 9000).termination()) < 4096


# Threads


def test_threads_follow_the_quota_of_cgroup_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    assert cpus.threads(tmp_path) == 3
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert cpus.threads(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cpus.threads(tmp_path) == 16


def test_threads_follow_the_quota_of_cgroup_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cpus.threads(tmp_path) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpus.threads(tmp_path) == 16


def test_threads_without_a_cgroup_are_the_cpus_that_are_allowed(tmp_path: Path) -> None:
    assert cpus.threads(tmp_path) == len(os.sched_getaffinity(0))


# Progress


def test_only_the_latest_progress_is_told_and_not_too_often() -> None:
    told: list[Progress] = []
    complete = threading.Event()

    def write(progress: Progress) -> None:
        told.append(progress)
        if progress.percent == 100:
            complete.set()

    started = time.monotonic()
    reporter = Reporter(write, interval=0.2)
    step = reporter.step("Fetch", 1000)
    for _ in range(1000):
        step.add(1)
    assert complete.wait(30)
    reporter.close()
    # The first at once, and one more at the end.
    assert len(told) <= (time.monotonic() - started) / 0.2 + 2
    assert (told[-1].step, told[-1].percent, told[-1].bytes_done) == ("Fetch", 100, 1000)


def test_the_last_news_is_told_also_when_the_end_comes_soon_after() -> None:
    told: list[str] = []
    begun = threading.Event()

    def write(progress: Progress) -> None:
        told.append(progress.step)
        begun.set()

    reporter = Reporter(write, interval=10)
    reporter.step("Evaluate")
    assert begun.wait(30)
    reporter.step("Publish")
    reporter.close()
    assert told == ["Evaluate", "Publish"]


def test_a_store_that_hangs_or_fails_holds_nothing_up() -> None:
    hanging = threading.Event()

    def write(_: Progress) -> None:
        hanging.wait(5)
        raise store.TransientError("away")

    reporter = Reporter(write, interval=0.05)
    started = time.monotonic()
    reporter.step("Convert").share(0.5)
    reporter.close()
    assert time.monotonic() - started < 1
    hanging.set()


SPEAK = """
import sys, threading
sys.setswitchinterval(1e-6)
from edgemodel.pipeline.termination import log
speakers = [threading.Thread(target=lambda: [log("word", number=n) for n in range(2000)]) for _ in range(4)]
for speaker in speakers: speaker.start()
for speaker in speakers: speaker.join()
"""


def test_what_threads_log_at_the_same_time_are_lines(tmp_path: Path) -> None:
    said = subprocess.run([sys.executable, "-c", SPEAK], capture_output=True, text=True, check=True).stdout
    assert [json.loads(line)["message"] for line in said.splitlines()] == ["word"] * 8000


# Programs


WRITES_ON_WHEN_HEARD = """
import pathlib, time
print("[0]", end="", flush=True)
for _ in range(3000):
    if pathlib.Path("heard").exists(): break
    time.sleep(0.02)
print("[1]", end="")
"""


def _python(code: str, tmp_path: Path, hear: Callable[[str], None] = lambda _: None, **environ: str) -> str:
    return children.run_child([sys.executable, "-c", code], tmp_path, hear, **environ)


def test_a_program_is_heard_while_it_writes_a_line(tmp_path: Path) -> None:
    heard: list[str] = []

    def hear(text: str) -> None:
        heard.append(text)
        (tmp_path / "heard").touch()

    assert _python(WRITES_ON_WHEN_HEARD, tmp_path, hear) == "[0][1]"
    assert heard[0] == "[0]"


def test_a_program_sees_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    said = _python("import os; print('HF_TOKEN' in os.environ, os.environ['MORE'])", tmp_path, MORE="1")
    assert said == "False 1"


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(children.ChildFailedError) as caught:
        _python("import sys; print('why'); sys.exit(3)", tmp_path)
    assert (caught.value.status, caught.value.tail) == (3, "why")


def test_a_program_that_was_killed_ran_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(errors.OutOfMemoryError):
        _python("import os; os.kill(os.getpid(), 9)", tmp_path)


def test_a_program_that_found_the_disk_full_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.DiskFullError):
        _python("raise OSError(28, 'No space left on device')", tmp_path)


def test_programs_are_ended_with_the_job(tmp_path: Path) -> None:
    with pytest.raises(errors.OutOfMemoryError):
        _python("import time; print('here', flush=True); time.sleep(60)", tmp_path, lambda _: children.kill_children())


# Schemes and texts


def test_every_scheme_is_one_that_an_edgeruntime_can_list() -> None:
    listed = runtime_schemes()
    assert [scheme.name for scheme in listed] == list(SCHEMES)
    assert DEFAULT_SCHEME in SCHEMES
    bits = [float(scheme.bits_per_weight) for scheme in listed]
    assert bits == sorted(bits)


def test_the_texts_are_apart() -> None:
    calibration, held_out = (set(text.split(b"\n\n")) for text in (texts.calibration_text(), texts.held_out_text()))
    assert {paragraph for paragraph in calibration & held_out if len(paragraph) > 60} == set()
    assert texts.calibration_digest() == texts.digest(texts.calibration_text())


def test_a_toolchain_that_is_not_in_the_image_is_told() -> None:
    with pytest.raises(errors.InternalError, match=r"pipeline\.toolchain"):
        toolchain("tensorrt")


# The resolver


RESOLVER = """
import sys
from edgemodel.pipeline.resolve_main import main
code = main()
assert not {"numpy", "torch", "llama_cpp", "kopf"} & sys.modules.keys()
sys.exit(code)
"""


def _resolver(tmp_path: Path, **environ: str) -> tuple[int, dict[str, object]]:
    left = tmp_path / "termination"
    done = subprocess.run(
        [sys.executable, "-c", RESOLVER],
        env=os.environ | {"EDGEMODEL_TERMINATION_LOG": str(left)} | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    assert len(left.read_bytes()) <= resolve_main.MAX_MESSAGE
    said: dict[str, object] = json.loads(left.read_text())
    return done.returncode, said


def test_the_resolver_answers_by_its_termination_message(tmp_path: Path) -> None:
    source = Source(uri="pvc://claim/tinysawyer-hf").model_dump_json(by_alias=True)
    code, said = _resolver(tmp_path, EDGEMODEL_SOURCE=source, PVC_ROOT=str(TINYSAWYER.parent))
    assert code == 0
    assert said["format"] == "safetensors"


def test_the_resolver_tells_why_it_failed(tmp_path: Path) -> None:
    source = Source(uri="pvc://claim/none").model_dump_json(by_alias=True)
    code, said = _resolver(tmp_path, EDGEMODEL_SOURCE=source, PVC_ROOT=str(tmp_path))
    assert code == 1
    assert said["reason"] == "SourceNotFound"
    assert said["retry"] is False


def test_the_resolver_without_a_source_is_a_bug(tmp_path: Path) -> None:
    code, said = _resolver(tmp_path, EDGEMODEL_SOURCE="{}")
    assert (code, said["reason"]) == (1, "Internal")


def test_sigterm_ends_the_job_at_once(tmp_path: Path) -> None:
    code = """
import time
from edgemodel.pipeline import __main__ as job
job.run = lambda: (print("up", flush=True), time.sleep(120))
job.main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert running.stdout.readline() == b"up\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 128 + signal.SIGTERM
