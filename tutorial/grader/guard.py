"""The second layer: ends the process of a submission as soon as it tries what no answer needs, and says what that was.

Python tells an audit hook what it is about to do, and no Python code can remove a hook again. This one lets a
submission read Python's own files and the book with holes, and write in its own folder. The wall (wall.py) is the
first layer; this one gives the reason, and is all there is where no wall can be had.

The hook runs while the submission may have replaced whatever it can reach, `builtins.any` as well as `os.path`. So it
uses private builtins, calls nothing but its own functions and C code, asks `type(x) is str` of what it is given,
lets no exception out, and keeps the garbage collector still: in each of these ways code of the submission would run
from here, or be handed a frame, and from a frame it could change this module.
"""

import builtins
import gc
import os
import sys

__builtins__ = dict(vars(builtins))  # What the functions below find, whatever becomes of the module `builtins`.

# Events that no answer needs, by how their names begin.
FORBIDDEN = ("os.chdir", "os.chflags", "os.chmod", "os.chown", "os.chroot", "os.exec", "os.fchdir", "os.fork",
             "os.forkpty", "os.kill", "os.lchown", "os.link", "os.lockf", "os.posix_spawn", "os.removexattr",
             "os.setxattr", "os.spawn", "os.symlink", "os.system", "os.truncate", "code.__new__", "ctypes.",
             "fcntl.", "ftplib.", "gc.", "http.", "imaplib.", "mmap.", "poplib.", "pty.", "resource.", "shutil.rmtree",
             "signal.", "smtplib.", "socket.", "sqlite3.", "subprocess.Popen", "sys._current_", "sys.remote_exec",
             "syslog.", "telnetlib.", "urllib.", "webbrowser.", "cpython.remote_debugger")
OWN_FOLDER = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.utime": 1}  # paths among the arguments
LISTING = ("os.listdir", "os.scandir")
# When it is imported, matplotlib looks for fonts here, and asks these programs. It goes on when nothing starts them.
FONTS = ("/usr/X11R6/lib/X11/fonts", "/usr/X11/lib/X11/fonts", "/usr/local/share/fonts", "/usr/share/fonts",
         "/usr/lib/openoffice", "/Library/Fonts", "/Network/Library/Fonts", "/System/Library/Fonts",
         "/opt/local/share/fonts")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | getattr(os, "O_TMPFILE", 0)
PROGRAMS = ("fc-list", "system_profiler")
FILES = 64  # openings for writing, of at most a MiB each

RELATIVE = "os.open with a relative path"  # Relative to which folder, the hook is not told.
STRANGE = "open in no known way"
MANY = f"open more than {FILES} files for writing"
OUTSIDE = "open for writing outside of its folder"
READING = "open for reading outside of its folder"
LIBRARY = "import of its own compiled library"
CODE = "replace the code of a function"

MODULES = sys.modules
WRITE, LEAVE, FRAME = os.write, os._exit, sys._getframe
COLLECTS, STILL, COLLECT = gc.isenabled, gc.disable, gc.enable


class Rules:
    """Where a submission may read and write."""

    def __init__(self, home: str, readable: list[str], hidden: list[str], modules: tuple[str, ...]):
        self.home, self.readable, self.hidden, self.modules = home, (home, *readable, *FONTS), tuple(hidden), modules
        self.opened = 0

    def whole(self, path: object) -> str:
        """A path from the root; "" for what is no plain path. One with `..` leads elsewhere behind a link."""
        if type(path) is bytes:
            path = path.decode("utf-8", "surrogateescape")
        if type(path) is not str:
            return ""
        parts = (path if path.startswith("/") else f"{self.home}/{path}").split("/")
        return "" if ".." in parts else "/" + "/".join([part for part in parts if part not in ("", ".")])

    def may_read(self, path: object) -> bool:
        """Whether this may be read. A submission can make no links, so paths lead where they seem to."""
        where = self.whole(path)
        return below(where, self.readable) and not below(where, self.hidden)

    def may_write(self, path: object) -> bool:
        """Whether this lies in its own folder."""
        return below(self.whole(path), (self.home,))

    def opens(self, path: object, mode: object, flags: object) -> str:
        """What is wrong with opening a file. `open` gives mode and flags, `os.open` flags alone."""
        if type(path) is int or self.whole(path) == "/dev/null":
            return ""
        if mode is None and type(path) is str and not path.startswith("/"):
            return RELATIVE
        if type(mode) not in (str, type(None)) or type(flags) is not int:
            return STRANGE
        if flags & WRITING or mode is not None and set(mode) & set("wax+"):
            self.opened += 1
            if self.opened > FILES:
                return MANY
            return "" if self.may_write(path) else OUTSIDE
        return "" if self.may_read(path) else READING

    def wrong(self, event: str, args: tuple) -> str:
        """What is wrong with an event; "" for most of them."""
        if event == "open":
            return self.opens(*args)
        if event == "import":
            name, file = args[:2]
            if file is not None and (self.may_write(file) or not self.may_read(file)):
                return LIBRARY
            # What is None there raises ImportError, which libraries that look for it expect.
            known = type(name) is str and name in self.modules and MODULES.get(name, "") is not None
            return f"import {name}" if known else ""
        if event == "object.__setattr__":
            return CODE if type(args[1]) is not str or args[1] == "__code__" else ""
        if event in LISTING:
            return "" if args[0] is None or type(args[0]) is int or self.may_read(args[0]) else event
        if event in OWN_FOLDER:
            paths, folders = args[: OWN_FOLDER[event]], args[OWN_FOLDER[event] :]
            descriptors = folders[1:] if event in ("os.mkdir", "os.utime") else folders
            inside = [self.may_write(path) for path in paths] + [n == -1 for n in descriptors if type(n) is int]
            return "" if all(inside) else event
        if event == "subprocess.Popen" and type(args[1]) is list and args[1] and type(args[1][0]) is str:
            return "" if args[1][0] in PROGRAMS else event
        return next((start.rstrip(".") for start in FORBIDDEN if event.startswith(start)), "")


def words(modules: tuple[str, ...]) -> set[str]:
    """All that the guard ever says, so that nobody else can say more in its name."""
    return {RELATIVE, STRANGE, MANY, OUTSIDE, READING, LIBRARY, CODE, *OWN_FOLDER, *LISTING,
            *(start.rstrip(".") for start in FORBIDDEN), *(f"import {name}" for name in modules)}


def below(path: str, folders: tuple[str, ...]) -> bool:
    """Whether a path is one of these, or lies in one of them."""
    return any([path == folder or path.startswith(folder + "/") for folder in folders])


def line_of(file: str) -> int:
    """The line of a file that is being run, or 0."""
    frame = FRAME()
    while frame is not None:
        if frame.f_code.co_filename == file:
            return frame.f_lineno
        frame = frame.f_back
    return 0


def watch(channel: int, file: str, home: str, readable: list[str], hidden: list[str], modules: tuple[str, ...]) -> None:
    """End this process, after a message on the channel, when its submission does what it may not.

    The submission is `file`, in its folder `home`; it may also read `readable`, but for what is `hidden`, and may not
    import `modules`.
    """
    rules = Rules(home, readable, hidden, modules)

    def hook(event: str, args: tuple) -> None:
        collecting = COLLECTS()
        STILL()
        try:
            wrong = rules.wrong(event, args)
            if wrong:
                head = f'{{"dict": {{"forbidden": "{wrong}", "line": {line_of(file)}}}}}'.encode()
                WRITE(channel, len(head).to_bytes(8, "little") + bytes(8) + head)
                LEAVE(3)
        except BaseException:
            LEAVE(3)
        if collecting:
            COLLECT()

    # Nobody can name this module from now on.
    del sys.modules[__name__]
    vars(sys.modules[__package__]).pop(__name__.rpartition(".")[2], None)
    sys.addaudithook(hook)
