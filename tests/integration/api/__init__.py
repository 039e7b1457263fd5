"""The HTTP API, as an application in this process, and as a command on a socket."""
