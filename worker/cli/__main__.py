"""``python -m worker.cli``."""

import signal

# Until `main` takes over nothing has been started, so a Ctrl-C may simply end us, without the traceback of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

PROBES = {"--live", "--ready", "--json"}

import sys  # noqa: E402

if sys.argv[1:2] == ["health"] and {"--live", "--ready"} & set(sys.argv) and set(sys.argv[2:]) <= PROBES:
    # A container's probe runs every few seconds: too often to import the whole command line.
    from worker.processes.heartbeat_file import main as probe

    sys.exit(probe(sys.argv[2:]))

from worker.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
