"""What an image is made of, read from its Dockerfile."""

from pathlib import Path

from hack.cluster import cache, dockerfile

TEXT = """
# A comment.
ARG RELEASE=bookworm
FROM debian:${RELEASE}-slim AS build
COPY requirements/build.txt /tmp/
RUN make \\
    # a comment within
    && make install

FROM scratch AS engine
COPY --from=build /opt /opt

FROM build AS check
RUN --mount=type=bind,source=tests,target=/tests --mount=type=cache,target=/root/.cache run /tests

FROM debian:$RELEASE-slim AS serve
COPY --from=engine /opt/lib /opt/lib
COPY --chmod=0755 operator/*.py pyproject.toml /app/
"""


def names(target: str) -> list[str]:
    return [stage.name for stage in dockerfile.parse(TEXT).needed(target)]


def test_a_target_needs_what_it_starts_from_and_copies_from() -> None:
    assert names("serve") == ["build", "engine", "serve"]
    assert names("check") == ["build", "check"]
    assert names("engine") == ["build", "engine"]


def test_arguments_have_their_defaults_in_a_base() -> None:
    assert {stage.name: stage.base for stage in dockerfile.parse(TEXT).stages} == {
        "build": "debian:bookworm-slim",
        "engine": "scratch",
        "check": "build",
        "serve": "debian:bookworm-slim",
    }


def test_sources_are_those_of_the_context() -> None:
    sources = {stage.name: stage.sources() for stage in dockerfile.parse(TEXT).stages}
    assert sources["build"] == {"requirements/build.txt"}
    assert sources["engine"] == set()
    assert sources["check"] == {"tests"}
    assert sources["serve"] == {"operator/*.py", "pyproject.toml"}


def test_what_is_made_already_replaces_its_stages() -> None:
    reduced = dockerfile.parse(TEXT).starting_from({"engine": "example/engine:1"})
    assert [stage.name for stage in reduced.needed("serve")] == ["engine", "serve"]
    assert reduced.text("serve").splitlines()[1] == "FROM example/engine:1 AS engine"
    assert "make" not in reduced.text("serve")


def test_a_base_that_is_made_already_is_named_as_it_was_made() -> None:
    reduced = dockerfile.parse(TEXT).starting_from({"debian:bookworm-slim": "example/debian:1"})
    assert [stage.base for stage in reduced.needed("serve")] == ["example/debian:1", "scratch", "example/debian:1"]
    assert reduced.needed("build")[0].instructions == dockerfile.parse(TEXT).needed("build")[0].instructions


def test_the_key_follows_what_the_target_takes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("operator/a.py", "pyproject.toml", "requirements/build.txt", "tests/test_a.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def key(target: str) -> str:
        parsed = dockerfile.parse(TEXT)
        files = dockerfile.files(tmp_path, parsed.needed(target))
        return cache.key_of(tmp_path, files, parsed.text(target))

    before = {target: key(target) for target in ("engine", "check", "serve")}
    (tmp_path / "operator/a.py").write_text("changed")
    (tmp_path / "operator/__pycache__").mkdir()
    (tmp_path / "operator/__pycache__/a.pyc").write_text("compiled")
    after = {target: key(target) for target in before}

    assert before["serve"] != after["serve"]
    assert (before["engine"], before["check"]) == (after["engine"], after["check"])
