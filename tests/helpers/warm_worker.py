"""A worker that has imported everything and forks for each submission. It is started by warm_tests.py, for tests only.

    python -ISu warm_worker.py TREE PACKAGES DESCRIPTOR

TREE is the book, PACKAGES a JSON list of folders, DESCRIPTOR the socket on which requests come: a job with
the three pipes of its process, or the number of a process that may have ended.
"""

import contextlib
import importlib
import json
import os
import socket
import sys
from pathlib import Path


def main() -> None:
    """Begin as a worker does, up to where it is given its submission; then answer requests until there are no more."""
    tree, packages, descriptor = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    del sys.argv[1:]
    sys.path[:0], sys.path[len(sys.path) :] = [tree], packages
    from tutorial.grader import doors

    doors.take_modules()
    from tutorial.grader import worker

    for path in sorted(Path(tree).glob("tiny/[a-z]*.py")):
        with contextlib.suppress(ImportError):  # Of those that need files which are not there.
            importlib.import_module(f"tiny.{path.stem}")
    requests = socket.socket(fileno=descriptor)
    while True:
        data, pipes, _, _ = socket.recv_fds(requests, 1 << 18, 3)
        if not data:
            return
        request = json.loads(data)
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            requests.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
            continue
        pid = os.fork()
        if pid == 0:
            requests.close()
            for n, pipe in enumerate(pipes):
                os.dup2(pipe, n)
                os.close(pipe)
            os.environ.clear()
            os.environ.update(request["environment"])
            job = worker.Job(**request["job"])
            os.chdir(job.home)
            module = importlib.import_module(job.module)
            exec(compile(request["hole"], module.__file__, "exec"), vars(module))
            worker.serve(job)
        for pipe in pipes:
            os.close(pipe)
        requests.send(json.dumps(pid).encode())


if __name__ == "__main__":
    main()
