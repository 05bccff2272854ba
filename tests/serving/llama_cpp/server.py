"""A `llama-server` from the Python package xllamacpp, whose wheel holds llama.cpp's server but no command for it.

Takes the flags that the `llama_cpp` backend writes, reads the key from LLAMA_API_KEY, and leaves routes, answers,
metrics and log to llama.cpp. Stand-alone: runs in an environment that has xllamacpp and nothing of ours.
"""

import argparse
import os
import signal
import sys

import xllamacpp


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--metrics", action="store_true")
    for name in ("threads", "threads-batch", "ctx-size", "parallel", "batch-size", "ubatch-size", "n-gpu-layers"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--chat-template-file")
    args, unknown = parser.parse_known_args()
    if unknown:
        sys.exit(f"error: invalid argument: {unknown[0]}")  # as llama-server words it
    return args


def parameters(args: argparse.Namespace) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.model_alias = {args.alias}
    params.hostnames, params.port = [args.host], args.port
    params.endpoint_metrics = args.metrics
    params.use_jinja = True  # llama-server's own default, not the library's
    if os.environ.get("LLAMA_API_KEY"):
        params.api_keys = os.environ["LLAMA_API_KEY"].split(",")
    if args.threads:
        params.cpuparams.n_threads = args.threads
    if args.threads_batch:
        params.cpuparams_batch.n_threads = args.threads_batch
    if args.chat_template_file:
        with open(args.chat_template_file) as file:
            params.chat_template = file.read()
    for name in ("n_ctx", "n_parallel", "n_batch", "n_ubatch", "n_gpu_layers"):
        flag = {"n_ctx": "ctx_size", "n_parallel": "parallel", "n_batch": "batch_size", "n_ubatch": "ubatch_size"}
        value = getattr(args, flag.get(name, name))
        if value is not None:
            setattr(params, name, value)
    return params


def main() -> None:
    args = arguments()
    # blocked before the server's threads start, so that they leave the signals to sigwait
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        server = xllamacpp.Server(parameters(args))
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    print(f"llama-server {xllamacpp.__version__}: {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os._exit(0)  # nothing to save, and its threads need not be waited for


if __name__ == "__main__":
    main()
