"""Exports a model that embeds to ONNX, in the step `export`.

How its states are pooled is part of the graph: it takes token ids and their mask, and gives embeddings.
"""

from pathlib import Path

import onnx
import torch
from torch import Tensor

from edgemodel.pipeline.embeddings import Pooling
from edgemodel.pipeline.onnx_olive import MODEL, WEIGHTS, refuse_unknown
from edgemodel.pipeline.onnx_schemes import EMBEDDING_TABLES
from edgemodel.pipeline.pretrained import Pretrained
from edgemodel.serve.onnxruntime_embedder import EMBEDDING, IDS, MASK, TOKENIZER

_OPSET = 20


class _Embedder(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
    """A model of `transformers`, with what makes an embedding of its states."""

    def __init__(self, model: torch.nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model = model
        self._pooling = pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and their mask, (texts, tokens) -> (texts, width)."""
        states: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        match self._pooling.mode:
            case "mean":
                weights = attention_mask.unsqueeze(-1).to(states.dtype)
                found = (states * weights).sum(1) / weights.sum(1)
            case "cls":
                found = states[:, 0]
            case "last":
                last = (attention_mask.sum(1) - 1).reshape(-1, 1, 1).expand(-1, 1, states.shape[-1])
                found = states.gather(1, last)[:, 0]
        return torch.nn.functional.normalize(found) if self._pooling.normalize else found


def export(source: str, target: str) -> None:
    """Writes the model in the folder `source` to the folder `target`, with its tokenizer."""
    folder, pretrained = Path(target), Pretrained.at(Path(source))
    pooling = Pooling.read(pretrained.folder)
    refuse_unknown(pretrained)
    model = pretrained.load_encoder()
    made = folder.with_name("exported") / MODEL
    for each in (folder, made.parent):
        each.mkdir(parents=True)
    ids = torch.ones((2, 8), dtype=torch.int64)
    sizes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        _Embedder(model, pooling).eval(),
        (ids, torch.ones_like(ids)),
        str(made),
        input_names=[IDS, MASK],
        output_names=[EMBEDDING],
        dynamic_axes={IDS: sizes, MASK: sizes, EMBEDDING: {0: "texts"}},
        opset_version=_OPSET,
        dynamo=False,
    )
    whole = onnx.load(str(made))
    _name_tables(whole.graph)
    onnx.save_model(whole, str(folder / MODEL), save_as_external_data=True, location=WEIGHTS)
    pretrained.tokenizer().backend_tokenizer.save(str(folder / TOKENIZER))


def _name_tables(graph: onnx.GraphProto) -> None:
    """Calls the tables of embeddings what the schemes call them, the largest first."""
    sizes = {tensor.name: len(tensor.raw_data) for tensor in graph.initializer}
    tables = [node for node in graph.node if node.op_type == "Gather" and node.input[0] in sizes]
    tables.sort(key=lambda node: -sizes[node.input[0]])
    for node, name in zip(tables, EMBEDDING_TABLES, strict=False):
        node.name = name
