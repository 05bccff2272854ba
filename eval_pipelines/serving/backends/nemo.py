"""nemo: a Megatron checkpoint by NeMo Export-Deploy, behind its OpenAI-style proxy on Triton.

Needs   NeMo's container (NGC), or its packages and a checkout of Export-Deploy: its scripts are in no wheel
Offers  chat, completions. No log-likelihood: its reply names no tokens. `stop` and `seed` are ignored, usage and finish
        reason are not told, and a wrong model name is answered after 300 s only
Limits  no key; Triton's gRPC is always on port 8001, so there is one such server per machine. The command lines are
        tested as text, the proxy for real around a small model on a CPU; a Megatron model was not run here yet
Source  NVIDIA-NeMo/Export-Deploy 0.7: scripts/deploy/nlp/, nemo_deploy/service/fastapi_interface_to_pytriton.py
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from eval_pipelines.client.dialects.triton import model_name
from eval_pipelines.errors import ConfigError
from eval_pipelines.serving.backends import Cause, Model, ServerCommand
from eval_pipelines.serving.flags import check_extra_args, program
from eval_pipelines.serving.weights import huggingface_folder

# the folder of one iteration looks like any other of torch.distributed
READS = frozenset({"megatron", "torch_distributed"})
N_PORTS = 3  # REST proxy, Triton, Triton's metrics
_SCRIPTS = "scripts/deploy/nlp"
_PARALLEL = (
    "tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size",
    "expert_model_parallel_size", "expert_tensor_parallel_size",
)  # fmt: skip
_VALUES = ("max_batch_size", "inference_max_seq_length", "micro_batch_size")
_SWITCHES = ("sequence_parallel", "enable_flash_decode", "enable_cuda_graphs", "legacy_ckpt", "legacy_model_format")
_LEASE = "the lease chooses it"
_NODES = "it follows from the parallel sizes and the nodes"
_ELSEWHERE = {
    "--megatron-checkpoint": "it is the model's `weights`",
    "-mc": "it is the model's `weights`",
    "--hf-model-id-path": "it is the model's `weights`",
    "--triton-model-name": "the server answers to the model key and to nothing else",
    "-tmn": "the server answers to the model key and to nothing else",
    **dict.fromkeys(("--server-address", "--server-port", "--triton-http-address", "--triton-port"), _LEASE),
    **dict.fromkeys(("-sa", "-sp", "-tha", "-trp"), _LEASE),
    **dict.fromkeys(("--num-gpus", "--num-nodes", "-ng", "-nn"), _NODES),
    "-tps": "use `tensor_model_parallel_size`",
    "-pps": "use `pipeline_model_parallel_size`",
    "-cps": "use `context_parallel_size`",
    "-emps": "use `expert_model_parallel_size`",
    "-mbs": "use `max_batch_size`",
    "-imsl": "use `inference_max_seq_length`",
}
_CAUSES = (
    Cause(r"cannot start .*no such file", "there is no `torchrun`: run inside NeMo's container, or name it in full"),
    Cause(
        r"can't open file .*deploy_inframework",
        "the scripts of Export-Deploy are not there: name the folder of its checkout in `export_deploy`",
    ),
    Cause(r"unrecognized arguments|invalid choice", "this version of Export-Deploy does not take an argument"),
    Cause(
        r"world size .*(not divisible|is not a multiple)",
        "the parallel sizes do not multiply to the GPUs: see `n_gpus`",
    ),
    Cause(
        r"cuda out of memory|outofmemoryerror",
        "the GPU's memory does not suffice: lower `max_batch_size` or `inference_max_seq_length`, or raise "
        "`tensor_model_parallel_size`",
    ),
    Cause(
        r"failed to start grpc service|0\.0\.0\.0:8001|127\.0\.0\.1:8001",
        "another Triton is on port 8001, which NeMo cannot change: stop it",
    ),
)


class Spec(BaseModel):
    """Options of NeMo's deploy script. What is left out is left to it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    torchrun: str = Field(default="torchrun", min_length=1, description="The `torchrun` of NeMo's environment.")
    export_deploy: str = Field(
        default="/opt/Export-Deploy", pattern="^/", description="Folder of the Export-Deploy checkout, a full path."
    )
    model_type: Literal["gpt", "mamba"] = Field(default="gpt", description="Kind of Megatron model.")
    tensor_model_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each layer.")
    pipeline_model_parallel_size: int = Field(default=1, ge=1, description="Groups of GPUs with successive layers.")
    context_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each context.")
    expert_model_parallel_size: int = Field(default=1, ge=1, description="GPUs that share the experts of a layer.")
    expert_tensor_parallel_size: int = Field(default=1, ge=1, description="GPUs that share each expert.")
    sequence_parallel: bool = Field(default=False, description="Share the sequence too, within tensor parallel.")
    max_batch_size: int | None = Field(default=None, ge=1, description="Requests computed at once.")
    inference_max_seq_length: int | None = Field(default=None, ge=1, description="Prompt plus answer, in tokens.")
    micro_batch_size: int | None = Field(default=None, ge=1, description="Requests in one pass of the pipeline.")
    enable_flash_decode: bool = Field(default=False, description="Faster decoding kernels.")
    enable_cuda_graphs: bool = Field(default=False, description="Record the decoding step once, then replay it.")
    legacy_ckpt: bool = Field(default=False, description="The checkpoint is of Megatron's older format.")
    legacy_model_format: bool = Field(default=False, description="The model is of NeMo's older format.")
    port: int | None = Field(
        default=None, ge=1, le=65533, description="Fixed port (proxy; Triton and metrics take the next two)."
    )
    extra_args: tuple[str, ...] = Field(default=(), description="Further arguments of the script, one word each.")

    @property
    def n_gpus(self) -> int:
        """GPUs over all nodes: the fewest that both the dense layers and the experts divide."""
        dense = self.tensor_model_parallel_size * self.context_parallel_size
        experts = self.expert_model_parallel_size * self.expert_tensor_parallel_size
        return self.pipeline_model_parallel_size * math.lcm(dense, experts)

    @field_validator("torchrun")
    @classmethod
    def _is_found_from_anywhere(cls, torchrun: str) -> str:
        return program(torchrun)

    @field_validator("extra_args")
    @classmethod
    def _says_nothing_twice(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        own = {f"--{name.replace('_', '-')}": f"use `{name}`" for name in cls.model_fields if name != "extra_args"}
        check_extra_args(args, owned=own | _ELSEWHERE, gone={})
        return args

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise ValueError("sequence_parallel shares what tensor parallel shares: raise tensor_model_parallel_size")
        return self


def served_name(model: Model) -> str:
    """The name its clients must send: Triton's form of the model key."""
    return model_name(str(model.key))


def command(spec: Spec, model: Model, *, host: str, port: int) -> ServerCommand:
    """The command line for one Megatron checkpoint on one machine. Raises ConfigError for other weights."""
    [argv] = node_commands(spec, model, nodes=[host], host=host, port=port)
    return ServerCommand(
        argv=argv,
        # the script starts the proxy and does not tell it where Triton is; nor Triton where to tell its metrics
        env={
            "PYTHONPATH": "",
            "TRITON_HTTP_ADDRESS": host,
            "TRITON_PORT": str(port + 1),
            "PYTRITON_TRITON_CONFIG_METRICS_PORT": str(port + 2),
        },
        health_path="/v1/triton_health",
        path_suffix="/",
        metrics_port=2,
        metrics_path="/metrics",
        metric_names={"n_waiting": "nv_inference_pending_request_count"},
        served_name=served_name(model),
        causes=_CAUSES,
    )


def node_commands(
    spec: Spec, model: Model, *, nodes: Sequence[str], host: str, port: int, master_port: int = 29500
) -> list[list[str]]:
    """One command line per node, the first for the node that answers; each wants the environment of `command()`.

    The others serve nothing and do not end when the first does: who starts them must stop each one.

    Raises:
        ConfigError: the GPUs do not divide by the nodes, or the weights are no Megatron checkpoint.
    """
    checkpoint = ["--megatron_checkpoint", str(_megatron_folder(model)), "--model_type", spec.model_type]
    address = ["--server_address", host, "--server_port", str(port), "--triton_http_address", host]
    named = [f"--{name}" for name in _SWITCHES if getattr(spec, name)]
    values = [(name, getattr(spec, name)) for name in (*_PARALLEL, *_VALUES)]
    sizes = [part for name, value in values if value is not None for part in (f"--{name}", str(value))]
    per_node = _per_node(spec, model, nodes)
    script = [
        f"{spec.export_deploy}/{_SCRIPTS}/deploy_inframework_triton.py", *checkpoint, "--triton_model_name",
        served_name(model), *address, "--triton_port", str(port + 1), "--num_gpus", str(per_node), "--num_nodes",
        str(len(nodes)), *sizes, *named, *spec.extra_args,
    ]  # fmt: skip
    return [[*line, *script] for line in _torchrun(spec, nodes, per_node, master_port)]


def huggingface_commands(
    spec: Spec, model: Model, *, nodes: Sequence[str], host: str, port: int, master_port: int = 29500
) -> list[list[str]]:
    """The same for a Hugging Face folder, as Triton only (`prompts` in, `sentences` out) and therefore not leased:
    the proxy sends tensors that this script's model does not take."""
    folder = huggingface_folder(model, server="NeMo")
    per_node = _per_node(spec, model, nodes)
    script = [
        f"{spec.export_deploy}/{_SCRIPTS}/deploy_inframework_hf_triton.py", "--hf_model_id_path", str(folder),
        "--triton_model_name", served_name(model), "--triton_http_address", host, "--triton_port", str(port),
        "--tp_plan", "auto", *(["--max_batch_size", str(spec.max_batch_size)] if spec.max_batch_size else []),
    ]  # fmt: skip
    return [[*line, *script] for line in _torchrun(spec, nodes, per_node, master_port)]


def _per_node(spec: Spec, model: Model, nodes: Sequence[str]) -> int:
    if not nodes or spec.n_gpus % len(nodes):
        raise ConfigError(f"{model.key}: {spec.n_gpus} GPUs cannot be shared evenly by {len(nodes)} nodes")
    return spec.n_gpus // len(nodes)


def _torchrun(spec: Spec, nodes: Sequence[str], per_node: int, master_port: int) -> list[list[str]]:
    if len(nodes) == 1:
        return [[spec.torchrun, "--standalone", "--nnodes", "1", "--nproc-per-node", str(per_node)]]
    # static ranks: with c10d any node may become rank 0, and that is the one that answers
    shared = [spec.torchrun, "--nnodes", str(len(nodes)), "--nproc-per-node", str(per_node)]
    shared += ["--master-addr", nodes[0], "--master-port", str(master_port), "--node-rank"]
    return [[*shared, str(rank)] for rank in range(len(nodes))]


def _megatron_folder(model: Model) -> Path:
    """The folder of one iteration. Raises ConfigError for another layout."""
    folder = model.weights
    if folder is None:
        raise ConfigError(f"{model.key}: nemo needs `weights`, a folder with a Megatron checkpoint")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "latest_checkpointed_iteration.txt" in names:
        told = (folder / "latest_checkpointed_iteration.txt").read_text().strip()
        latest = folder / (f"iter_{int(told):07d}" if told.isdigit() else told)
        if not told or not latest.is_dir():
            raise ConfigError(f"{model.key}: {folder} names {told!r} as its latest iteration, and there is no {latest}")
        return latest
    if {"weights", "context"} <= names:
        raise ConfigError(
            f"{model.key}: {folder} is a NeMo 2 checkpoint, which Export-Deploy 0.7 no longer reads. Export it to a "
            f"Hugging Face folder and serve that by `vllm`, or import that with Megatron Bridge."
        )
    is_megatron = names & {".metadata", "run_config.yaml", "common.pt"} or any(n.startswith("mp_rank_") for n in names)
    if not is_megatron or "config.json" in names:
        raise ConfigError(
            f"{model.key}: {folder} is no Megatron checkpoint (no latest_checkpointed_iteration.txt, no .metadata). "
            f"`vllm`, `sglang` and `pytriton` read Hugging Face folders; Megatron Bridge converts them: "
            f"AutoBridge.import_ckpt(hf_model_id={str(folder)!r}, megatron_path=OUT)."
        )
    return folder
