"""What operators change: holds, redrive, erasure, new encryption keys, recovery after a restore."""
