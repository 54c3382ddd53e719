r"""Average the weights of models that started from the same weights ("model soup", arXiv 2203.05482).

python -m training.tools.average runs/nano_average runs/compare/supervise-0/model \
    runs/compare/supervise-1/model

Runs on small batches end at different points around an optimum; their mean is closer to it. The program reads
and writes model folders. The record names the averaged runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lens_ros.model.checkpoint import find_model, load_model, load_tensors, without_tied_head
from lens_ros.model.errors import CheckpointError
from training.export import RECORD, save_trained
from training.progress import METRICS


def average(folders: Sequence[Path], out: Path) -> Path:
    """Write the mean of the models in ``folders`` to ``out``, in float16, with a record.

    The curves are those of the first model.

    Raises:
        ValueError: There are fewer than two models, or their architectures or vocabularies differ.
        CheckpointError: A folder is incomplete or damaged.
    """
    if len(folders) < 2:
        raise ValueError(f"a mean needs at least two models, got {len(folders)}")
    model, tokenizer = load_model(folders[0])
    config, words = model.config, tokenizer.get_vocab()
    mean = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for folder in folders[1:]:
        other, its_tokenizer = load_model(folder)
        if other.config != config or its_tokenizer.get_vocab() != words:
            raise ValueError(f"{folder} is another architecture or speaks other words than {folders[0]}")
        for name, tensor in other.state_dict().items():
            mean[name] += tensor.double()
    tensors = {
        name: (total / len(folders)).to(model.state_dict()[name].dtype)
        for name, total in without_tied_head(mean, model).items()
    }
    load_tensors(model, tensors, source="the mean")
    save_trained(model, tokenizer, out)
    records = [json.loads((folder / RECORD).read_text(encoding="utf-8")) for folder in folders]
    record = {
        "program": "training.tools.average",
        "seconds": sum(record["seconds"] for record in records),
        "rendered_seeds": sorted({seed for record in records for seed in record["rendered_seeds"]}),
        "averaged": records,
    }
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.copy(folders[0] / METRICS, out)
    return out


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the mean")
    parser.add_argument("models", nargs="+", help="names or folders")
    options = parser.parse_args(arguments)
    try:
        print("averaged", average([find_model(model) for model in options.models], options.out))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"training.tools.average: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
