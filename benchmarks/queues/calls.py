"""The call itself, for queues in Python: a pool of connections that are kept alive, and an error for any refusal."""

from __future__ import annotations

from benchmarks.queues.role import IN_FLIGHT, headers, url


class Threads:
    """urllib3: one pool for all threads of a process."""

    def __init__(self) -> None:
        import urllib3

        self._pool = urllib3.PoolManager(maxsize=IN_FLIGHT, retries=False, timeout=urllib3.Timeout(10.0, read=150.0))

    def send(self, grant: str, id: str, body: str) -> None:
        answer = self._pool.request("POST", url(grant), body=body.encode(), headers=headers(id))
        if answer.status != 200:
            raise RuntimeError(f"the API said {answer.status}")


class Tasks:
    """aiohttp: one session for all tasks of an event loop, in which it must be made."""

    def __init__(self) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=IN_FLIGHT), timeout=aiohttp.ClientTimeout(total=None, sock_read=150.0)
        )

    async def send(self, grant: str, id: str, body: str) -> None:
        async with self._session.post(url(grant), data=body.encode(), headers=headers(id)) as answer:
            await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the API said {answer.status}")

    async def close(self) -> None:
        await self._session.close()
