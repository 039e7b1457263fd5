"""What operators change: holds, retries, doubts, erasure, encryption keys, recovery after a restore."""
