"""The network: a Qwen2.5-VL reasoner, context queries, and a SAM-type segmenter."""
