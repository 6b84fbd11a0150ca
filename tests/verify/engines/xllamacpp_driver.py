"""llama.cpp's own HTTP server, in this process: FILE PORT [FIELD=VALUE ...], fields of its parameters."""

import sys
import time

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
params.n_ctx, params.n_parallel, params.warmup = 512, 1, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
for word in sys.argv[3:]:
    name, value = word.split("=", 1)
    setattr(params, name, type(getattr(params, name))(float(value)))
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
while True:
    time.sleep(60)
