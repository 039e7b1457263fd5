"""No server and no process: seconds."""
