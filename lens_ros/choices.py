"""Define the values of options.

Imports neither torch nor numpy.

The command line and the node's parameters offer them before anything is loaded.
"""

from __future__ import annotations

from typing import Literal

# Numbers that the language model's Linear layers are stored in.
Scheme = Literal["int8", "int4"]
SCHEMES: tuple[Scheme, ...] = ("int8", "int4")
Quantization = Literal["none", "int8", "int4"]
QUANTIZATIONS: tuple[Quantization, ...] = ("none", *SCHEMES)

# How the language model writes an answer; each gives the tokens of "dynamic", but where two of them are equal
# up to rounding:
# dynamic   a cache that grows.
# static    a cache of fixed size; on a GPU, replayed as a CUDA graph.
# compiled  static, and compiled: the first answers of a batch size wait for the compiler, which on a CPU
#           must be a C++ compiler, on a GPU Triton.
# lookup    dynamic, with several tokens at a time proposed from the question and the answer so far; where
#           several answers are written together, or sampled, the same as dynamic.
Decoding = Literal["dynamic", "static", "compiled", "lookup"]
DECODINGS: tuple[Decoding, ...] = ("dynamic", "static", "compiled", "lookup")

# Halves of a segmenter, and what an engine of one is made in and made by.
Part = Literal["encoder", "decoder"]
PARTS: tuple[Part, ...] = ("encoder", "decoder")
Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
Backend = Literal["tensorrt", "tensorrt_rtx", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx", "onnxruntime")

# What runs the segmenter: engines of a backend, or torch.
BackendChoice = Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime", "torch"]
BACKEND_CHOICES: tuple[BackendChoice, ...] = ("auto", *BACKENDS, "torch")
