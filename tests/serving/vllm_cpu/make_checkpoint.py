"""Turn a GGUF file into the Hugging Face folder that vLLM reads: `python make_checkpoint.py FILE.gguf FOLDER [DTYPE]`.

The dtype is bfloat16 unless told.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
dtype = getattr(torch, sys.argv[3] if len(sys.argv) > 3 else "bfloat16")
place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
tokenizer = AutoTokenizer.from_pretrained(**place)
model = AutoModelForCausalLM.from_pretrained(**place, dtype=dtype, quantization_config=GgufConfig(dequantize=True))
# transformers marks what it read from GGUF as quantised, also where it unpacked it, and then refuses to save it
model.hf_quantizer, model.is_quantized = None, False
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.generation_config.temperature = model.generation_config.top_p = None
tokenizer.save_pretrained(target)
model.save_pretrained(target)
