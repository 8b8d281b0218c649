"""LoRA adapters where they are read from: their files, and what pins them beside the model that they change."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgemodel.pipeline.errors import SourceUnsupportedError
from edgemodel.pipeline.resolve import Resolution
from edgemodel.pipeline.sources import SourceFile, SourceReader

CONFIG = "adapter_config.json"
PEFT, MLX = "adapter_model.safetensors", "adapters.safetensors"


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter where it is read from."""

    reader: SourceReader
    files: list[SourceFile]

    @classmethod
    def of(cls, reader: SourceReader) -> "AdapterFiles":
        """The files of an adapter. `SourceUnsupportedError` if it is none."""
        files = {file.path: file for file in reader.files()}
        weights = [files[name] for name in (PEFT, MLX) if name in files]
        if CONFIG not in files or not weights:
            raise SourceUnsupportedError(
                f"spec.source.adapter has no {CONFIG} and {PEFT} (of PEFT) or {MLX} (of mlx-lm): correct its uri"
            )
        return cls(reader, [files[CONFIG], weights[0]])

    def pinned(self, model: Resolution) -> Resolution:
        """The model's resolution, with the adapter in it: a digest that stands for the bytes of both."""
        if model.resolved.format != "safetensors":
            raise SourceUnsupportedError(
                f"an adapter is fused into safetensors, not {model.resolved.format}: name the model's safetensors"
            )
        lines = [f"{file.path}\t{file.size}\t{self.reader.identity(file)}" for file in self.files]
        both = "\n".join([model.resolved.digest, *lines])
        found = {
            "digest": f"sha256:{hashlib.sha256(both.encode()).hexdigest()}",
            "bytes": model.resolved.bytes + sum(file.size for file in self.files),
            "adapter_revision": self.reader.revision[:256],
        }
        return Resolution(model.resolved.model_copy(update=found), model.files)

    def fetch(self, folder: Path, report: Callable[[int], None]) -> None:
        """Brings them."""
        for file in self.files:
            self.reader.fetch(file, folder / file.path, report)
