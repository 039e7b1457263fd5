"""``redis-cli`` for commands of docker-compose.yml: the embedded server comes without it. Imports nothing of ours."""

from __future__ import annotations

import os
import sys
from typing import Any

from redis import Redis
from redis.exceptions import RedisError


def main(arguments: list[str]) -> int:
    """``-p PORT COMMAND…``, with the password in REDISCLI_AUTH; prints the answer as redis-cli does to a pipe."""
    _, port, *command = arguments
    with Redis(port=int(port), password=os.environ.get("REDISCLI_AUTH"), decode_responses=True, protocol=2) as redis:
        redis.response_callbacks.clear()
        try:
            answer: Any = redis.execute_command(*command)
        except RedisError as error:
            print(f"NOAUTH {error}" if "uthentication required" in str(error) else error)
            return 1
    print(*(answer if isinstance(answer, list) else [answer]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
