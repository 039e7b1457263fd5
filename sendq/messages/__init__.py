"""A message and its parts, its attachments, and the exact bytes that go over the wire."""
