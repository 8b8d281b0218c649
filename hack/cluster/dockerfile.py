"""As much of the Dockerfile language as it takes to say what a stage is made of: the stages and the files it needs.

An image's tag is the hash of just that, so that a change elsewhere in the Dockerfile or the repository makes no new
image.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

_FROM = re.compile(r"FROM\s+(?P<base>\S+)(?:\s+AS\s+(?P<name>\S+))?\s*$", re.IGNORECASE)
_ARGUMENT = re.compile(r"ARG\s+(\w+)=(\S+)")
_OTHER_STAGE = re.compile(r"(?:--from=|[,=]from=)([^\s,]+)")
_BIND = re.compile(r"--mount=(\S*type=bind\S*)")


@dataclass(frozen=True)
class Stage:
    name: str
    base: str
    instructions: tuple[str, ...]

    def needs(self) -> set[str]:
        """The stages or images it starts from or copies from."""
        return {self.base, *(name for each in self.instructions for name in _OTHER_STAGE.findall(each))}

    def sources(self) -> set[str]:
        """What it takes from the build's context: paths and patterns."""
        found = set()
        for instruction in self.instructions:
            keyword, *words = instruction.replace("\\\n", " ").split()
            if keyword.upper() in ("COPY", "ADD") and not any(word.startswith("--from=") for word in words):
                found.update([word for word in words if not word.startswith("--")][:-1])
            for mount in _BIND.findall(instruction):
                options = dict(option.partition("=")[::2] for option in mount.split(","))
                if "from" not in options:
                    found.add(options.get("source") or options.get("src") or ".")
        return found

    def text(self) -> str:
        return "\n".join([f"FROM {self.base} AS {self.name}", *self.instructions]) + "\n"


@dataclass(frozen=True)
class Dockerfile:
    arguments: tuple[str, ...]
    stages: tuple[Stage, ...]

    def needed(self, target: str) -> list[Stage]:
        """The stages that the target is made of, in order, itself last."""
        wanted = {target}
        needed: list[Stage] = []
        for stage in reversed(self.stages):
            if stage.name in wanted:
                wanted |= stage.needs()
                needed.insert(0, stage)
        return needed

    def starting_from(self, made: Mapping[str, str]) -> "Dockerfile":
        """The same, with each stage in `made` replaced by the image that it was made into, and so each base there."""
        stages = (
            Stage(each.name, made[each.name], ())
            if each.name in made
            else replace(each, base=made.get(each.base, each.base))
            for each in self.stages
        )
        return Dockerfile(self.arguments, tuple(stages))

    def text(self, target: str) -> str:
        """The Dockerfile of the target and no more."""
        return "\n".join([*self.arguments, *(stage.text() for stage in self.needed(target))])


def parse(text: str) -> Dockerfile:
    arguments: list[str] = []
    stages: list[Stage] = []
    for instruction in _instructions(text):
        if start := _FROM.match(instruction):
            stages.append(Stage(start["name"] or str(len(stages)), _substituted(start["base"], arguments), ()))
        elif stages:
            last = stages.pop()
            stages.append(Stage(last.name, last.base, (*last.instructions, instruction)))
        else:
            arguments.append(instruction)
    return Dockerfile(tuple(arguments), tuple(stages))


def files(context: Path, stages: list[Stage]) -> list[Path]:
    """The files and folders of the context that the stages take."""
    patterns = {source.strip("/") for stage in stages for source in stage.sources()}
    return sorted({path for pattern in patterns for path in (context.glob(pattern) if pattern != "." else [context])})


def _substituted(text: str, arguments: list[str]) -> str:
    """The text with the arguments' default values in it."""
    for argument in filter(None, map(_ARGUMENT.match, arguments)):
        text = re.sub(rf"\${argument[1]}\b|\${{{argument[1]}}}", argument[2], text)
    return text


def _instructions(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return re.split(r"(?<!\\)\n", "\n".join(lines))
