"""The repository: docs, examples, benchmarks, the wheel, the image's files, and what no log may hold."""
