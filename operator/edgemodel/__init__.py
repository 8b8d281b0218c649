"""The EdgeModel operator: from one resource to a quantized, proven and served model on every kind of edge hardware."""

__version__ = "0.1.0"
