"""The library beside other frameworks: ``python -m benchmarks`` (docs/benchmarks.md)."""
