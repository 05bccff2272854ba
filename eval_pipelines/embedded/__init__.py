"""A small OpenAI-compatible server for one GGUF model, on openvino-genai. Usable without the rest of the project.

    eval-pipelines-embedded serve --weights MODEL.gguf --served-model-name NAME

It exists for machines without a GPU: no torch, no compiler, correct log-probabilities of prompts (`echo`).

cli         two commands: serve, rewrite
serving     from a file to a listening address, and back down
app         the HTTP routes; requests (request shapes), answers (response shapes), text, metrics beneath
engine      the asyncio side of the engine; worker: the process that owns the openvino pipeline
tokenizer   text to token ids and back, byte-exact
gguf_file   reads and checks a GGUF header; rewrite: any quantisation to F16

Nothing here imports the rest of eval_pipelines. Importing the package imports nothing heavy.
"""
