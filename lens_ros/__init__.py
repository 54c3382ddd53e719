"""Segment what an instruction means and show the reasoning: a ROS 2 node, and plain Python."""

import logging
from pkgutil import extend_path

# The generated interfaces (lens_ros.msg, .srv, .action) lie in the built overlay, the sources perhaps in a
# checkout in front of it on sys.path. Both folders are one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"

# Where torchao is installed, transformers imports it, and it warns of kernels for other machines.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
