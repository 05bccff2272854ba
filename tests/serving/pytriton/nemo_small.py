"""NeMo's own DeployPyTriton and OpenAI proxy around the small GGUF model, which stands in for a Megatron model.

Run by the Python of .cache/nemo-proxy. The environment is what the `nemo` backend gives its server.
"""

import argparse
import json
import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVERS = HERE.parents[2] / "eval_pipelines" / "serving" / "servers"
sys.path[:0] = [str(HERE / "stubs"), str(SERVERS)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--triton_model_name", required=True)
    parser.add_argument("--server_port", type=int, required=True)
    parser.add_argument("--triton_port", type=int, required=True)
    parser.add_argument("--grpc_port", type=int, required=True, help="NeMo's own scripts leave it at 8001")
    options = parser.parse_args()

    import pytriton_server

    pytriton_server._find_our_code()
    import numpy as np
    import uvicorn
    from nemo_deploy import DeployPyTriton, ITritonDeployable
    from nemo_deploy.utils import cast_output, str_ndarray2list
    from pytriton.decorators import batch, first_value
    from pytriton.model_config import Tensor

    from eval_pipelines.serving.servers.gguf_engine import GgufEngine
    from eval_pipelines.serving.servers.questions import Question

    engine = GgufEngine(options.weights, options.triton_model_name, max_context=1024, threads=0, kv_cache_gb=1)
    kinds = {
        "max_length": np.int_, "max_batch_size": np.int_, "top_k": np.int_, "top_p": np.single,
        "temperature": np.single, "random_seed": np.int_, "compute_logprob": np.bool_,
        "apply_chat_template": np.bool_, "n_top_logprobs": np.int_, "echo": np.bool_,
    }  # fmt: skip

    class Small(ITritonDeployable):
        """The tensors of NeMo's MegatronLLMDeployable."""

        @property
        def get_triton_input(self):
            optional = (Tensor(name=name, shape=(-1,), dtype=kind, optional=True) for name, kind in kinds.items())
            return (Tensor(name="prompts", shape=(-1,), dtype=bytes), *optional)

        @property
        def get_triton_output(self):
            return (Tensor(name="sentences", shape=(-1,), dtype=bytes),)

        @batch
        @first_value(*kinds)
        def triton_infer_fn(self, prompts, **told):
            is_greedy = told.get("top_k") == 1 or told.get("temperature") == 0
            params = {"max_tokens": int(told["max_length"]), "temperature": 0 if is_greedy else 1}
            asked = [
                Question("chat", messages=tuple(json.loads(text)), parameters=params)
                if told.get("apply_chat_template") else Question("completion", text, parameters=params)
                for text in str_ndarray2list(prompts)
            ]  # fmt: skip
            return {"sentences": cast_output([one.text or "" for one in engine.answer(asked)], np.bytes_)}

    deployed = DeployPyTriton(
        model=Small(), triton_model_name=options.triton_model_name, max_batch_size=8, http_port=options.triton_port,
        grpc_port=options.grpc_port, address=os.environ["TRITON_HTTP_ADDRESS"],
    )  # fmt: skip
    deployed.deploy()
    deployed.run()
    uvicorn.run("nemo_deploy.service.fastapi_interface_to_pytriton:app", host="127.0.0.1", port=options.server_port)


if __name__ == "__main__":
    main()
