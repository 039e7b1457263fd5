"""The repository: docs, examples, benchmarks, the wheel, the image's files, and private data that must not leak."""
