"""``python -m worker.cli``."""

import signal

# Until `main` takes over nothing has been started, so a Ctrl-C may simply end us, without the traceback of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys  # noqa: E402

from worker.cli.main import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
