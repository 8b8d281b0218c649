"""llama-perplexity may end before its log thread has written the summary. Seen on a busy machine, with the real one."""

from pathlib import Path

import pytest

from edgemodel.pipeline.errors import EvaluationFailedError
from edgemodel.pipeline.llamacpp import LlamaCpp
from edgemodel.pipeline.progress import Reporter

SUMMARY = r"""Mean PPL(Q)                   :  53.721500 ±   2.000000
Mean PPL(base)                :  53.458400 ±   2.000000
Mean    KLD:   0.007755 ±   0.000500
Same top p: 92.600 ± 0.600 %
"""


def stand_in(home: Path, lost: int) -> None:
    """A llama-perplexity that loses its summary `lost` times. A stand-in: it computes nothing."""
    (home / "bin").mkdir()
    (home / "summary").write_text(SUMMARY)
    program = home / "bin" / "llama-perplexity"
    program.write_text(
        f"""#!/bin/sh
echo "computing over 8 chunks"
case "$*" in *--kl-divergence) echo run >> {home}/runs
  [ "$(wc -l < {home}/runs)" -gt {lost} ] && cat {home}/summary ;; esac
exit 0
"""
    )
    program.chmod(0o755)


def evaluate(home: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setenv("LLAMACPP_HOME", str(home))
    work = home / "work"
    work.mkdir()
    reporter = Reporter(lambda _: None)
    try:
        step = reporter.step("Evaluate")
        return LlamaCpp()._evaluate(home / "full.gguf", home / "model.gguf", 512, work, step).perplexity
    finally:
        reporter.close()


def test_a_summary_that_was_lost_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, lost=2)
    assert evaluate(tmp_path, monkeypatch) == "53.7215"


def test_one_that_never_comes_is_a_failure_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, lost=99)
    with pytest.raises(EvaluationFailedError):
        evaluate(tmp_path, monkeypatch)
