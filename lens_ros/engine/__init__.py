"""Compiled and quantised forms of a model: ONNX, TensorRT, int8."""
