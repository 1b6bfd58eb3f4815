"""usage: _servers.py PORTS DATABASE...: servers of many users in one process, one port and one open database each.

They only return the name of their session cookie. The first port is PORTS. Writes "ready" once all listen.
"""

import asyncio
import json
import os
import sys

SESSION = json.dumps({"authenticated": False, "auth": {"sessionCookieName": "t3_session"}}).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
    SESSION
)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER + SESSION)
    await writer.drain()
    writer.close()


async def main() -> None:
    """Open all databases and ports, then serve forever."""
    opened = [os.open(path, os.O_RDONLY) for path in sys.argv[2:]]
    for number in range(len(opened)):
        await asyncio.start_server(answer, "0.0.0.0", int(sys.argv[1]) + number)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
