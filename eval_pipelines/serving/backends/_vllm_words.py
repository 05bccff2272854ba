"""vLLM's own words: flags it no longer takes, flags that belong elsewhere, its metrics, how to read its failures."""

from eval_pipelines.serving.backends import Cause

_SPECULATIVE = "use `speculative_config`, such as {method: ngram, num_speculative_tokens: 4, prompt_lookup_max: 4}"
_GONE_WITH_V0 = "it belonged to the old engine; leave it out"

# flags that `vllm serve` 0.32 ends with status 2 on, some ten seconds after it was started
REMOVED = {
    "--swap-space": "preempted requests are computed again; `--cpu-offload-gb` and `--kv-offloading-size` use the CPU",
    "--disable-log-requests": "leave it out: requests are only logged with `--enable-log-requests`",
    "--speculative-model": _SPECULATIVE,
    "--num-speculative-tokens": _SPECULATIVE,
    "--ngram-prompt-lookup-max": _SPECULATIVE,
    "--ngram-prompt-lookup-min": _SPECULATIVE,
    "--task": "use `--runner` (generate, pooling) and `--convert`",
    "--rope-scaling": "use `--hf-overrides` with JSON",
    "--rope-theta": "use `--hf-overrides` with JSON",
    "--enable-reasoning": "`reasoning_parser` alone turns it on",
    "--guided-decoding-backend": "use `--structured-outputs-config` with JSON",
    "--device": "the installed build decides",
    "--num-redundant-experts": "use `--eplb-config` with JSON",
    "--eplb-window-size": "use `--eplb-config` with JSON",
    "--lora-extra-vocab-size": "adapters may add no tokens any more; leave it out",
    "--max-num-partial-prefills": "use `--long-prefill-token-threshold`",
    "--max-long-partial-prefills": "use `--long-prefill-token-threshold`",
    "--quantization-param-path": "the scales are read from the checkpoint",
    "--calculate-kv-scales": "the scales are read from the checkpoint",
    "--worker-use-ray": "use `--distributed-executor-backend ray`",
    "--engine-use-ray": "use `--distributed-executor-backend ray`",
    "--cuda-graph-sizes": "use `--cudagraph-capture-sizes`",
    "--max-seq-len-to-capture": "use `--max-cudagraph-capture-size`",
    "--full-cuda-graph": "use `--compilation-config` with JSON",
    "--disable-mm-preprocessor-cache": "use `--mm-processor-cache-gb 0`",
    "--use-v2-block-manager": _GONE_WITH_V0,
    "--num-scheduler-steps": _GONE_WITH_V0,
    "--num-lookahead-slots": _GONE_WITH_V0,
    "--preemption-mode": _GONE_WITH_V0,
    "--tokenizer-pool-size": _GONE_WITH_V0,
    "--disable-async-output-proc": _GONE_WITH_V0,
    "--disable-frontend-multiprocessing": _GONE_WITH_V0,
}

_LEASE = "the lease chooses it"
_PLAIN = "servers here speak plain HTTP on a port of their own"
_NODES = "one machine serves here; node_commands() writes the command lines for several"
ELSEWHERE = {
    "--host": _LEASE,
    "--model": "it is the model's `weights`",
    "--served-model-name": "the server answers to the model key and to nothing else",
    "--generation-config": "it is always `vllm`, so that no file beside the weights changes how answers are sampled",
    "--api-key": "each server gets a random key through its environment, which no other user can read",
    "--config": "a second file could contradict this one; write its entries here",
    "--enable-lora": "`lora_modules` and `lora_base` turn it on",
    "--spec-method": "use `speculative_config`",
    "--spec-model": "use `speculative_config`",
    "--spec-tokens": "use `speculative_config`",
    **dict.fromkeys(("--uds", "--grpc", "--root-path", "--ssl-keyfile", "--ssl-certfile"), _PLAIN),
    **dict.fromkeys(("--nnodes", "--node-rank", "--master-addr", "--master-port", "--headless", "-n", "-r"), _NODES),
}
SHORT = {
    "-tp": "tensor_parallel_size",
    "-pp": "pipeline_parallel_size",
    "-dp": "data_parallel_size",
    "-dcp": "decode_context_parallel_size",
    "-pcp": "prefill_context_parallel_size",
    "-ep": "enable_expert_parallel",
    "-q": "quantization",
    "-sc": "speculative_config",
    "--device-memory-utilization": "gpu_memory_utilization",
}

# of vLLM 0.32; one series per engine, that is per data-parallel rank
METRICS = {
    "n_running": "vllm:num_requests_running",
    "n_waiting": "vllm:num_requests_waiting",
    "kv_cache_share": "vllm:kv_cache_usage_perc",
    "prefix_cache_hits": "vllm:prefix_cache_hits_total",
    "prefix_cache_queries": "vllm:prefix_cache_queries_total",
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generation_tokens": "vllm:generation_tokens_total",
    "n_finished": "vllm:request_success_total",
    "n_preempted": "vllm:num_preemptions_total",
}

# vLLM's last line is always "Engine core initialization failed. See root cause above.": these are the lines above
CAUSES = (
    Cause(
        r"cannot start .*no such file",
        "there is no such command: install vLLM in an environment of its own and name its `vllm` in `executable`",
    ),
    Cause(
        r"unrecognized arguments|expected (one|at least one) argument|invalid choice|error: argument -",
        "this version of vLLM does not take an argument: look at `extra_args`",
    ),
    Cause(
        r"max_model_len \(\d+\) is greater than the derived",
        "the context is longer than the model's own: lower `max_model_len`",
    ),
    Cause(
        r"estimated maximum model length|to serve at least one request with the model's max seq len|"
        r"no available memory for the cache blocks",
        "keys and values of one full context do not fit: lower `max_model_len`, or raise `kv_cache_memory_bytes` "
        "or `gpu_memory_utilization`",
    ),
    Cause(
        r"on kv cache allocation is less than requested",
        "the cache asked for is larger than the memory that is free: lower `kv_cache_memory_bytes`",
    ),
    Cause(
        r"free memory on device .* is less than desired",
        "another process uses this GPU: stop it, or lower `gpu_memory_utilization`",
    ),
    Cause(
        r"cuda out of memory|outofmemoryerror|hip out of memory",
        "the GPU's memory does not suffice: lower `gpu_memory_utilization`, `max_num_seqs` or `max_model_len`, set "
        "`quantization`, or raise `tensor_parallel_size`",
    ),
    Cause(
        r"world size .* is larger than the number of available gpus|number of available gpus .* is less than",
        "tensor * pipeline * data parallel needs more GPUs than this machine has",
    ),
    Cause(
        r"attention heads .*must be divisible by tensor parallel size|not divisible by tensor parallel",
        "the model's attention heads do not divide by `tensor_parallel_size`: choose a divisor of their number",
    ),
    Cause(r"cannot find any model weights", "the folder holds no weights: is the checkpoint complete?"),
    Cause(
        r"safetensorerror|incomplete metadata|file not fully covered|headertoolarge|invalidheader",
        "a weights file is cut short or damaged: copy the checkpoint again",
    ),
    Cause(
        r"model architectures .* (are|is) not supported|does not recognize this architecture|unknown architecture",
        "this version of vLLM does not know the model's architecture: a newer vLLM, or another backend",
    ),
    Cause(
        r"trust_remote_code=true|requires you to execute the (configuration|model|tokenizer) file",
        "the checkpoint carries its own code: set `trust_remote_code: true` if you trust it",
    ),
    Cause(
        r"unknown quantization method|quantization method specified in the model config|cannot find the config file for",
        "`quantization` does not fit the checkpoint: leave it out, and vLLM reads it from config.json",
    ),
    Cause(
        r"lora rank \d+ is greater than max_lora_rank",
        "the adapter's rank is above `max_lora_rank`: raise it to the rank in adapter_config.json",
    ),
    Cause(
        r"localentrynotfound|offline mode is enabled|couldn't connect to|hfvalidationerror|"
        r"invalid repository id or local directory|gatedrepoerror|repositorynotfound",
        "something is wanted from the hub that is not on this machine (a tokenizer, a draft model, code): give a "
        "folder, or fetch it before",
    ),
    Cause(
        r"invalidcxxcompiler|no working c\+\+ compiler|failed to find c compiler",
        "vLLM compiles a helper and finds no C++ compiler: install g++, or set `env: {TORCH_COMPILE_DISABLE: '1'}`",
    ),
    Cause(
        r"packagenotfounderror|no package metadata was found",
        "the `vllm` package is not whole in the server's environment: install it again",
    ),
)
