"""Turn a GGUF file into a Hugging Face folder in float32, so that no rounding but the file's own is left.

`python make_float32.py FILE.gguf FOLDER`, by a Python with torch and transformers.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, target = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
unpacked = GgufConfig(dequantize=True)
model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, quantization_config=unpacked)
# transformers marks what it read from GGUF as quantised, also where it unpacked it, and then refuses to save it
model.hf_quantizer, model.is_quantized = None, False
if hasattr(model.config, "quantization_config"):
    del model.config.quantization_config
model.generation_config.temperature = model.generation_config.top_p = None
AutoTokenizer.from_pretrained(**place).save_pretrained(target)
model.save_pretrained(target)
