"""A vendor on loopback that costs next to nothing, in a process of its own: `python -m bench.loopback_vendor PORTS`.

Prints its ports as JSON. Each line on its standard input is a command for one of them: `down 0` ends its connections
and takes no more, `up 0` undoes that, `slow 0 2.5` lets every answer wait so long. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys

_ANSWER = json.dumps(
    {
        "id": "em_1",
        "sid": "SM00000000000000000000000000000001",
        "status": "queued",
        "date_created": "Thu, 24 Aug 2027 05:01:45 +0000",
        "messages": [{"status": "0", "message-id": "0C000000217B7F02"}],
        "daily": {
            "time": ["2027-06-19"],
            "weather_code": [1],
            "temperature_2m_max": [24.5],
            "temperature_2m_min": [14.5],
            "precipitation_probability_max": [10],
        },
    }
).encode()
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)


class Port:
    """One port."""

    def __init__(self) -> None:
        self.port = 0
        self.slow_seconds = 0.0
        self.open: set[asyncio.Transport] = set()
        self._server: asyncio.Server | None = None

    async def up(self) -> None:
        """Take connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Talk(self), "127.0.0.1", self.port, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    def down(self) -> None:
        """End those that are open and take no more."""
        if self._server is not None:
            self._server.close()
        for transport in list(self.open):
            transport.abort()


class Talk(asyncio.Protocol):
    """One connection: requests one after another, none pipelined."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._port.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, end, rest = self._held.partition(b"\r\n\r\n")
        if not end:
            return
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), 0)
        if len(rest) < length:
            return
        self._held = b""
        if self._port.slow_seconds:
            asyncio.get_running_loop().call_later(self._port.slow_seconds, self._answer)
        else:
            self._answer()

    def _answer(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(_HEAD + _ANSWER)


async def main(count: int) -> None:
    """Serve until standard input ends."""
    ports = [Port() for _ in range(count)]
    for port in ports:
        await port.up()
    print(json.dumps([port.port for port in ports]), flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, which, *more = line.split()
        port = ports[int(which)]
        if command == "down":
            port.down()
        elif command == "up":
            await port.up()
        else:
            port.slow_seconds = float(more[0])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
