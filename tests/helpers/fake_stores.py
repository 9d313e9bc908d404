"""Local emulators of Google Cloud Storage and Amazon S3.

Creates a bucket named `bucket` in each, prints the environment variables that clients need as JSON,
and runs until its standard input is closed.
"""

import contextlib
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser


@contextlib.contextmanager
def running(log) -> Iterator[dict[str, str]]:
    """Runs the stores in a subprocess with stderr in `log`; yields the environment variables."""
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as process:
        yield json.loads(process.stdout.readline())
        process.stdin.close()


class Parser(BytesParser):
    """Keeps a carriage return at the end of an upload.

    The emulator parses an upload as an e-mail. gcsfs adds a line feed to the content, and both
    characters together would be taken for the line break before the boundary.
    """

    def parsebytes(self, text: bytes, headersonly: bool = False) -> Message:
        return super().parsebytes(re.sub(rb"\n(?=--[^\n]*--\Z)", b"\r\n", text), headersonly)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main() -> None:
    from gcp_storage_emulator import server
    from moto.server import ThreadedMotoServer

    server.BytesParser = Parser
    # gcsfs opens a connection for each of many files at once. Beyond the usual queue of 5 the
    # system drops them, and a dropped one tries again after 1, 3 and 7 seconds.
    http.server.HTTPServer.request_queue_size = 256
    port = free_port()
    server.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket").start()
    amazon = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    amazon.start()
    endpoint = "http://{}:{}".format(*amazon.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT"))
    variables = {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # it would ask Google about the bucket
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    print(json.dumps(variables), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
