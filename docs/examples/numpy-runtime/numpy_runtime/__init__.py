"""A runtime for EdgeModel that computes with NumPy alone: Llamas, their weights at eight bits."""
