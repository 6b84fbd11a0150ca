"""Arrays of a GPU that is not there, by CuPy's rules: they meet only their own kind, and the host sees them by get().

What an operation writes lands when something waits. Operators, ufuncs and NumPy's functions run as kernels of CuPy's
own: their results are new arrays, their numbers come later.
"""

import math
import weakref
from types import SimpleNamespace

import numpy as np
import strict_queue as queue
from strict_queue import STATE, CUDARuntimeError, Place, submit

from kernels.launch import aligned, poison

LIVE: "weakref.WeakValueDictionary[int, Memory]" = weakref.WeakValueDictionary()  # by address
UFUNCS = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
          "mod": "remainder", "pow": "power", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
          "xor": "bitwise_xor"}
COMPARISONS = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal",
               "ne": "not_equal"}
# Functions that reach CuPy when NumPy's is called; those of the last line wait, for the size of their result.
FUNCTIONS = {"all", "any", "argmax", "argmin", "argsort", "clip", "concatenate", "cumsum", "dot", "einsum",
             "empty_like", "full_like", "ones_like", "zeros_like", "max", "mean", "min", "prod", "repeat", "sort",
             "stack", "sum", "take_along_axis", "where",
             "nonzero", "unique", "flatnonzero"}
WAITING = {"nonzero", "unique", "flatnonzero"}
HOST = object()  # where queued work will find an array: it holds none, for a graph does not either


class OutOfMemoryError(MemoryError):
    """CuPy's error for memory that the device does not have."""

    def __init__(self, size, total, limit=0):
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class Memory:
    """One allocation, which a GPU would begin at a multiple of 256 bytes.

    It counts as held until its last array is gone. The bytes stay until queued work has used them: CuPy's pool gives
    them only to what is queued later.
    """

    def __init__(self, size):
        queue.forbid_in_capture()
        if STATE["held"] + size > min(STATE["memory"], STATE["limit"] or STATE["memory"]):
            raise OutOfMemoryError(size, STATE["held"], STATE["limit"])
        STATE["allocations"] += 1
        STATE["held"] += size
        STATE["peak"] = max(STATE["peak"], STATE["held"])
        self.size, self.device_id, self.bytes = size, queue.current_device(), aligned((size,), np.dtype(np.uint8))
        self.ptr = self.bytes.ctypes.data if size else 0
        if size:
            LIVE[self.ptr] = self


class Lease:
    """What the arrays on some memory share: with the last of them it is given back."""

    def __init__(self, memory):
        self.memory, self.machine = memory, STATE["machine"]

    def __del__(self):
        if STATE.get("machine") is self.machine:
            STATE["held"] -= self.memory.size


def memory_at(address: int) -> tuple[Memory, int]:
    """The memory that an address lies in, and how far. An address of nothing is what it is on a GPU."""
    for memory in [LIVE[address]] if address in LIVE else list(LIVE.values()):
        if memory.ptr <= address < memory.ptr + memory.size:
            return memory, address - memory.ptr
    raise CUDARuntimeError(700)


class MemoryPointer:
    """An address: memory, and how far inside."""

    def __init__(self, mem, offset):
        self.mem, self._offset, self._lease = mem, offset, None
        self.ptr, self.device_id = mem.ptr + offset, mem.device_id


class ndarray:
    """An array on the device. Views keep the memory of their base."""

    __module__ = "cupy"
    __array_priority__ = 100
    __hash__ = None

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        self.shape = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.ndim, self.size, self.itemsize = len(self.shape), math.prod(self.shape), self.dtype.itemsize
        self.nbytes = self.size * self.itemsize
        self.data = MemoryPointer(Memory(self.nbytes), 0) if memptr is None else memptr
        self.data._lease = self.data._lease or Lease(self.data.mem)
        self.base = None
        self.strides = np.ndarray(self.shape, self.dtype, order=order).strides if strides is None else strides
        flags = self._host().flags
        self.flags = SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous,
                                     owndata=memptr is None)  # CuPy's flags know no `writeable`
        if memptr is None:
            self._poison()

    # ---- what only this stand-in has: the memory behind

    def _place(self):
        return Place(weakref.ref(self.data._lease), self.data._offset, self.shape, self.strides, self.dtype)

    def _host(self):
        return np.ndarray(self.shape, self.dtype, self.data.mem.bytes, self.data._offset, self.strides)

    def _poison(self):
        if self.dtype == np.uint8:
            self._host().fill(255)  # what these bytes are views of is NaN then
        elif self.dtype.kind in "iufV":
            poison(self._host())

    def _view(self, make):
        """What make(host array) shows: a view where NumPy makes one, else a copy."""
        host, memory = make(self._host()), self.data.mem
        if not np.may_share_memory(host, memory.bytes) and host.size:
            return lazily("copy", make, (self,))
        offset = host.ctypes.data - memory.ptr if host.size else 0
        pointer = MemoryPointer(memory, offset)
        pointer._lease = self.data._lease
        view = ndarray(host.shape, host.dtype, pointer, host.strides)
        view.base = self if self.base is None else self.base
        return view

    # ---- borders to the host

    def __array__(self, dtype=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy "
                        "array explicitly.")

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "descr": self.dtype.descr, "version": 3,
                "data": (self.data.ptr, False), "strides": None if self.flags.c_contiguous else self.strides,
                "stream": 1}

    def get(self, stream=None, order="C", out=None, blocking=True):
        line = queue.line_of(stream)
        if queue.capturing(line):
            raise RuntimeError("the current stream is capturing, so D2H transfers are disallowed")
        if out is None and STATE["shared memory"]:
            return self._host()
        result = np.empty(self.shape, self.dtype) if out is None else out
        if self.dtype != result.dtype:
            raise TypeError(f"{result.dtype} array cannot be obtained from {self.dtype} array")
        if self.shape != result.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {result.shape}")
        if not self.size:
            return result
        if self.dtype.kind in "iufV":
            poison(result)
        STATE["downloads"] += self.nbytes
        submit("download", lambda host: np.copyto(result, host), (self,), stream)
        if blocking:
            queue.wait(line)
        return result

    def set(self, arr, stream=None):
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        upload(self, arr, stream)

    def item(self):
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __bool__(self):
        return bool(self.get())

    def __int__(self):
        return int(self.get())

    def __float__(self):
        return float(self.get())

    def __repr__(self):
        return repr(self.get())

    def __len__(self):
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __iter__(self):
        if not self.shape:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(self.shape[0]))

    # ---- the same numbers, seen otherwise

    @property
    def T(self):
        return self._view(lambda host: host.T)

    def reshape(self, *shape, order="C", copy=None):
        return self._view(lambda host: host.reshape(*shape, order=order))

    def ravel(self, order="C"):
        return self._view(lambda host: host.reshape(-1, order=order))

    def transpose(self, *axes):
        return self._view(lambda host: host.transpose(*axes))

    def swapaxes(self, axis1, axis2):
        return self._view(lambda host: host.swapaxes(axis1, axis2))

    def squeeze(self, axis=None):
        return self._view(lambda host: host.squeeze(axis))

    def view(self, dtype=None, type=None):
        return self._view(lambda host: host if dtype is None else host.view(dtype))

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        laid_out = order == "K" or self.flags.c_contiguous
        if not copy and self.dtype == np.dtype(dtype) and laid_out:
            return self
        return lazily("copy", lambda host: host.astype(dtype), (self,))

    def copy(self, order="C"):
        return lazily("copy", lambda host: host.copy(order), (self,))

    def fill(self, value):
        if isinstance(value, ndarray):
            if value.shape:
                raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
            lazily("fill", lambda x: x, (value,), out=self)
            return
        value = np.asarray(value, dtype=self.dtype)
        if value.shape:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        submit("cupy_fill", lambda host: host.fill(value[()]), (self,))

    # ---- indices: of the host are uploaded, and those out of bounds wrap around

    def __getitem__(self, slices):
        parts, arrays = prepare(slices)
        if not arrays:
            return self._view(lambda host: host[parts if Ellipsis in parts else (*parts, ...)])
        if any(array.dtype.kind == "b" for array in arrays):
            queue.wait(queue.current_line())
        return lazily("take", lambda host, *indices: host[wrapped(host.shape, parts, indices)], (self, *arrays))

    def __setitem__(self, slices, value):
        parts, arrays = prepare(slices)
        if not arrays:
            target = self[slices]
            if not isinstance(value, ndarray):
                target.fill(value)
            else:
                submit("cupy_copy", put_in, (target, value))
            return
        if isinstance(value, np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        given = (value,) if isinstance(value, ndarray) else ()

        def scatter(host, *rest):
            host[wrapped(host.shape, parts, rest[len(given):])] = rest[0] if given else value
        submit("cupy_scatter", scatter, (self, *given, *arrays))

    # ---- arithmetic

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        out = kwargs.pop("out", (None,))[0]
        for x in (*inputs, out):
            if isinstance(x, np.ndarray):
                raise TypeError(f"Unsupported type {type(x)}")
        return lazily(ufunc.__name__, lambda *given: getattr(ufunc, method)(*given, **kwargs), inputs, out)

    def __array_function__(self, func, types, args, kwargs):
        if func.__name__ not in FUNCTIONS or not all(issubclass(t, ndarray) for t in types):
            return NotImplemented
        if func.__name__ in WAITING:
            queue.wait(queue.current_line())
        out = kwargs.pop("out", None)
        return lazily(func.__name__, lambda *given: func(*given, **kwargs), args, out)

    def __neg__(self):
        return np.negative(self)


def operator(name, ufunc, turned=False, in_place=False):
    """One special method, which is a ufunc."""
    def method(self, other):
        return self.__array_ufunc__(ufunc, "__call__", *((other, self) if turned else (self, other)),
                                    **({"out": (self,)} if in_place else {}))
    method.__name__ = name
    setattr(ndarray, name, method)


def reduction(name):
    """One method that is also a function."""
    def method(self, axis=None, dtype=None, out=None, keepdims=False):
        given = {"axis": axis, "keepdims": bool(keepdims), **({} if dtype is None else {"dtype": dtype})}
        return lazily(name, lambda host: getattr(host, name)(**given), (self,), out)
    method.__name__ = name
    method.__defaults__ = (None, None, None, None if name == "prod" else False)
    setattr(ndarray, name, method)


for short, long in UFUNCS.items():
    operator(f"__{short}__", getattr(np, long))
    operator(f"__r{short}__", getattr(np, long), turned=True)
    if short != "matmul":  # CuPy has no __imatmul__
        operator(f"__i{short}__", getattr(np, long), in_place=True)
for short, long in COMPARISONS.items():
    operator(f"__{short}__", getattr(np, long))
for short in ("sum", "prod", "mean"):
    reduction(short)


def lazily(name, function, inputs, out=None):
    """Run a function of arrays as a kernel of CuPy: the result's shape is known now, its numbers come later.

    The shape is found by running the function on what is in memory, which may still be poison.
    """
    arrays = [x for part in inputs for x in (part if isinstance(part, (list, tuple)) else [part])
              if isinstance(x, ndarray)]
    without = lambda x: HOST if isinstance(x, ndarray) else x
    form = [type(x)(map(without, x)) if isinstance(x, (list, tuple)) else without(x) for x in inputs]

    def call(hosts):
        hosts = iter(hosts)
        put = lambda x: next(hosts) if x is HOST else x
        with np.errstate(all="ignore"):
            return function(*[type(x)(map(put, x)) if isinstance(x, (list, tuple)) else put(x) for x in form])

    example = call([array._host() for array in arrays])
    many = example if isinstance(example, tuple) else (example,)
    outs = [out] if out is not None else [ndarray(np.shape(x), np.asarray(x).dtype) for x in many]

    def run(*hosts):
        result = call(hosts[len(outs):])
        for host, values in zip(hosts, result if isinstance(result, tuple) else (result,)):
            put_in(host, values)
    submit(f"cupy_{name}", run, [*outs, *arrays])
    return tuple(outs) if isinstance(example, tuple) else outs[0]


def put_in(host, values):
    with np.errstate(all="ignore"):
        host[...] = values


def prepare(slices):
    """An index as a tuple, and its arrays; those of the host are uploaded, without a word."""
    parts = slices if isinstance(slices, tuple) else (slices,)
    parts = [array(part) if isinstance(part, (list, np.ndarray)) else part for part in parts]
    return (tuple(HOST if isinstance(part, ndarray) else part for part in parts),
            [part for part in parts if isinstance(part, ndarray)])


def wrapped(shape, parts, indices):
    """An index for NumPy: the arrays put in, each number of theirs taken modulo its axis."""
    indices = iter(indices)
    parts = [next(indices) if part is HOST else part for part in parts]
    taken = [part.ndim if is_mask(part) else int(part is not None and part is not Ellipsis) for part in parts]
    result, axis = [], 0
    for part, axes in zip(parts, taken):
        result.append(part % shape[axis] if isinstance(part, np.ndarray) and not is_mask(part) else part)
        axis += len(shape) - sum(taken) if part is Ellipsis else axes
    return tuple(result)


def is_mask(part):
    return isinstance(part, np.ndarray) and part.dtype.kind == "b"


def upload(there, host, stream=None):
    """Copy to the device. The numbers are those of now: CuPy copies them to memory of its own first."""
    if queue.capturing(queue.line_of(stream)):
        raise RuntimeError("the current stream is capturing, so H2D transfers are disallowed")
    STATE["uploads"] += there.nbytes
    kept = host.copy()
    submit("upload", lambda target: np.copyto(target, kept), (there,), stream)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def zeros(shape, dtype=float, order="C"):
    result = ndarray(shape, dtype, order=order)
    submit("cupy_memset", lambda host: host.fill(0), (result,))
    return result


def full(shape, fill_value, dtype=None, order="C"):
    result = ndarray(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order=order)
    result.fill(fill_value)
    return result


def ones(shape, dtype=float, order="C"):
    return full(shape, 1, dtype, order)


def empty_like(prototype, dtype=None, order="K", subok=None, shape=None):
    return ndarray(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)


def copyto(dst, src, casting="same_kind", where=None):
    assert where is None, "not modelled"
    dst[...] = src


class Generator:
    """Random numbers, made on the device. They are NumPy's, not CuPy's."""

    def __init__(self, bit_generator):
        self._random = np.random.default_rng(bit_generator)

    def standard_normal(self, size=None, dtype=np.float64, out=None):
        numbers = self._random.standard_normal(size, dtype)
        result = ndarray(numbers.shape, numbers.dtype) if out is None else out
        submit("cupy_random", lambda host: np.copyto(host, numbers), (result,))
        return result


def default_rng(seed=None):
    return Generator(seed)


def array(obj, dtype=None, copy=True, order="K", subok=False, ndmin=0, *, blocking=False):
    if isinstance(obj, ndarray):
        return obj.astype(obj.dtype if dtype is None else dtype, order=order or "K", copy=bool(copy))
    host = np.array(obj, dtype=dtype, copy=None, ndmin=ndmin)
    if host.dtype.kind not in "biufcV":
        raise ValueError(f"Unsupported dtype {host.dtype}")
    result = ndarray(host.shape, host.dtype)
    if host.ndim:
        upload(result, host)
    else:
        result.fill(host)
    if blocking:
        queue.wait(queue.current_line())
    return result


def asarray(a, dtype=None, order=None, *, copy=None, blocking=False):
    return array(a, dtype, copy, order, blocking=blocking)


def ascontiguousarray(a, dtype=None):
    if not isinstance(a, ndarray):
        raise TypeError(f"Argument 'a' has incorrect type (expected cupy._core.core._ndarray_base, got "
                        f"{type(a).__module__}.{type(a).__name__})")
    return a.astype(a.dtype if dtype is None else dtype, order="C", copy=False)


def asnumpy(a, stream=None, order="C", out=None, *, blocking=True):
    return a.get(stream, order, out, blocking) if isinstance(a, ndarray) else np.asarray(a, order=order)
