"""Pins a source: which files will be read, a digest that stands for their bytes, and what their headers say."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from edgemodel.api.artifact import ResolvedSource
from edgemodel.pipeline import headers
from edgemodel.pipeline.errors import MalformedError, PickleRefusedError, SourceUnsupportedError
from edgemodel.pipeline.sources import SourceFile, SourceReader
from edgemodel.pipeline.sources.base import WORKERS, safe_path
from edgemodel.store.parallel import run_all

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
README = "README.md"
MAX_CONFIG = 4 << 20
MAX_INDEX = 64 << 20
MAX_README = 1 << 16
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"}
_NOT_TEXT = _PICKLES | {".py", ".safetensors", ".gguf"}
_CONFIGURATION = re.compile(
    r"[^/]+\.(json|jinja|model|tiktoken)|tokenizer[^/]*|vocab\.txt|merges\.txt|[^/]*_Pooling/config\.json"
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)


@dataclass(frozen=True)
class Resolution:
    """A pinned source, and the files that will be read of it."""

    resolved: ResolvedSource
    files: list[SourceFile]


def resolve(reader: SourceReader) -> Resolution:
    """Pins the source behind the reader. Of the weights, only the headers are read."""
    files = {file.path: file for file in reader.files()}
    weights = _safetensors(reader, files) or _gguf(files)
    if not weights:
        suffixes = {PurePosixPath(path).suffix for path in files}
        if suffixes & _PICKLES:
            raise PickleRefusedError(
                "the only weights are pickles, which can run code when they are loaded: use a safetensors copy"
            )
        raise SourceUnsupportedError("the source has no .safetensors and no .gguf file: correct spec.source.uri")
    if weights[0].path.endswith(".gguf"):
        return _resolve_gguf(reader, weights)
    configuration = [file for path, file in files.items() if _is_configuration(path)]
    return _resolve_safetensors(reader, weights, configuration, files.get(README))


def _safetensors(reader: SourceReader, files: dict[str, SourceFile]) -> list[SourceFile]:
    """The safetensors files that belong to the model: those of the index, else the one, else all in the folder."""
    if INDEX in files:
        names = headers.index_files(_small(reader, files[INDEX], MAX_INDEX))
        missing = sorted(safe_path(name) for name in names if name not in files)
        if missing:
            raise SourceUnsupportedError(f"{missing[0]} of the model's index is missing: upload the model again")
        return [files[name] for name in sorted(names)]
    if SINGLE in files:
        return [files[SINGLE]]
    return sorted(file for path, file in files.items() if "/" not in path and path.endswith(".safetensors"))


def _gguf(files: dict[str, SourceFile]) -> list[SourceFile]:
    """The one GGUF model, of one file or several."""
    names = sorted(path for path in files if path.endswith(".gguf") and "mmproj" not in path.lower())
    shards = [match for match in map(_SHARD.fullmatch, names) if match]
    if len(names) > 1 and (len(shards) < len(names) or len({match["stem"] for match in shards}) > 1):
        raise SourceUnsupportedError(
            f"the source has {len(names)} GGUF models: name one in spec.source.uri, for example .../{names[0]}"
        )
    if shards and len(names) != int(shards[0]["count"]):
        raise SourceUnsupportedError(
            f"the source has {len(names)} of {int(shards[0]['count'])} parts of its GGUF model"
        )
    return [files[name] for name in names]


def _is_configuration(path: str) -> bool:
    return bool(_CONFIGURATION.fullmatch(path)) and PurePosixPath(path).suffix not in _NOT_TEXT


def _resolve_safetensors(
    reader: SourceReader, weights: list[SourceFile], configuration: list[SourceFile], readme: SourceFile | None
) -> Resolution:
    found = next((file for file in configuration if file.path == CONFIG), None)
    if found is None:
        raise SourceUnsupportedError("the source has weights but no config.json: name the folder of a whole model")
    config = headers.read_config(_small(reader, found, MAX_CONFIG))
    counted = headers.combined(
        run_all(
            lambda file: headers.read_safetensors(
                file.path, file.size, lambda start, size: reader.read(file, start, size)
            ),
            weights,
            WORKERS,
        )
    )
    method = config.get("quantization_config")
    name = method.get("quant_method") if isinstance(method, dict) else None
    note = f"the source is quantized already ({name})" if isinstance(name, str) and name else ""
    return _resolution(
        reader,
        weights + configuration,
        ResolvedSource(
            digest=_NOTHING,
            format="safetensors",
            weight_type=counted.type,
            bytes=0,
            licence=(reader.licence or _licence(reader, readme))[:256],
            model=headers.config_facts(config, counted),
            note=note[:256],
        ),
    )


def _resolve_gguf(reader: SourceReader, files: list[SourceFile]) -> Resolution:
    first, *others = run_all(
        lambda file: headers.read_gguf(file.path, file.size, lambda start, size: reader.read(file, start, size)),
        files,
        WORKERS,
    )
    for other in others:
        first.weights.add(other.weights)
    kind = first.weights.type
    return _resolution(
        reader,
        files,
        ResolvedSource(
            digest=_NOTHING,
            format="gguf",
            weight_type=kind,
            bytes=0,
            licence=(reader.licence or first.text("general.license"))[:256],
            model=first.facts(),
            note="" if kind in headers.UNQUANTIZED else f"dequantized from {kind}",
        ),
    )


_NOTHING = "sha256:" + 64 * "0"


def _resolution(reader: SourceReader, files: list[SourceFile], found: ResolvedSource) -> Resolution:
    files = sorted(files)
    lines = sorted(f"{file.path}\t{file.size}\t{reader.identity(file)}\n" for file in files)
    pinned = {
        "digest": f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}",
        "bytes": sum(file.size for file in files),
        "revision": reader.revision[:256],
    }
    return Resolution(found.model_copy(update=pinned), files)


def _small(reader: SourceReader, file: SourceFile, limit: int) -> bytes:
    if file.size > limit:
        raise MalformedError(f"{file.path} has {file.size} bytes, far too many: it is damaged")
    return reader.read(file, 0, file.size)


def _licence(reader: SourceReader, readme: SourceFile | None) -> str:
    """`license:` of the README's front matter, as model cards have it."""
    if readme is None:
        return ""
    text = reader.read(readme, 0, min(readme.size, MAX_README)).decode("utf-8", "replace")
    front = _FRONT_MATTER.match(text)
    line = re.search(r"^license:\s*['\"]?([^'\"\n]+)", front[1], re.MULTILINE) if front else None
    return line[1].strip() if line else ""
