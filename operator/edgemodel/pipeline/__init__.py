"""What runs inside a quantization Job, and the short pod that resolves a source.

`sources` reads models where they are, `headers` understands them by their first bytes, `resolve` pins them, `job` makes
the artifact with a `Toolchain` and publishes it. Every failure is a `PipelineError` with a reason and what to do.
"""
