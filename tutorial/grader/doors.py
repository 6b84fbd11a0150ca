"""What is taken away from the process of a submission before that is loaded: ways past the guard that give no sign.

Python's audit hook hears of files that are opened and programs that are started through `os`, `open` and `subprocess`.
It does not hear of what some modules and functions do, and another interpreter in the same process has no hook at all.
"""

import contextlib
import importlib
import sys
from types import ModuleType

# They start programs, reach memory, open files without an event, or make another interpreter.
MODULES = ("ctypes", "_ctypes", "_testcapi", "_testinternalcapi", "_testlimitedcapi", "_xxsubinterpreters",
           "_interpreters", "_xxinterpchannels", "_interpchannels", "_interpqueues", "_posixshmem", "_multiprocessing",
           "_gdbm", "_dbm", "_curses", "_tkinter", "readline", "faulthandler", "_remote_debugging", "_cffi_backend")
STARTER = "_posixsubprocess"
# They make files, or leave the group of processes that is ended together.
FUNCTIONS = ("mkfifo", "mknod", "setsid", "setpgid", "setns", "unshare", "memfd_create", "pidfd_open", "openpty",
             "posix_openpt", "login_tty", "copy_file_range", "splice")
# A handler would be given the frame that a signal interrupts, also if it is the guard's.
HANDLERS = ("signal", "setitimer", "alarm", "set_wakeup_fd", "raise_signal", "pthread_kill", "siginterrupt")


def take_modules() -> None:
    """Before NumPy is imported, so that it does not hold what nobody may have. An import of them raises ImportError."""
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    # matplotlib imports `subprocess`, which imports this one for its only function.
    starter = ModuleType(STARTER)
    starter.fork_exec = refuse  # type: ignore[attr-defined]
    sys.modules[STARTER] = starter


def take_functions() -> None:
    """When all else is imported. A fresh copy of a module of the interpreter itself would have everything back."""
    import _imp
    import signal  # noqa: F401  # While it can still be imported.

    for name in sys.builtin_module_names:
        if name not in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    _imp.create_builtin = refuse
    for names, modules in ((FUNCTIONS, ("os", "posix")), (HANDLERS, ("signal", "_signal"))):
        for name in names:
            for module in modules:
                vars(sys.modules[module]).pop(name, None)


def refuse(*args, **kwargs):
    """In the place of what a submission has no use for."""
    raise PermissionError("A submission may not do this.")
