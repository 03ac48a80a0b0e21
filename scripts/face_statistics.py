"""Measures what every BatchNorm of dlib's face network is given, over faces, and writes ``face_statistics.npz``.

    python scripts/face_statistics.py WEIGHTS.dat FOLDER --out fer/models/weights/face_statistics.npz

WEIGHTS.dat is dlib's file, FOLDER a data set in RAF-DB's layout. The file that is shipped was made from every ninth of
the first 4,608 training faces of LFW (press photographs, aligned, 100 x 100 pixels) at 112 pixels; it holds a mean and
a deviation for every channel, and no picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fer.data.images.decode import decode, pixels
from fer.data.readers import raf_db
from fer.models.face_resnet import FaceResNet
from fer.models.weights import dlib_file

MEAN = (122.782, 117.001, 104.298)
SCALE = 256.0


def main() -> None:
    """Write the file, and print for how many layers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, default=512)
    parser.add_argument("--every", type=int, default=9)
    parser.add_argument("--size", type=int, default=112, help="edge of the views in pixels")
    arguments = parser.parse_args()
    table = raf_db.read(arguments.folder, expected=None)
    chosen = table.train[:: arguments.every][: arguments.faces]
    images = np.stack([pixels(decode(table.paths[row]), arguments.size) for row in chosen])
    view = (torch.from_numpy(images).float() - torch.tensor(MEAN)[:, None, None]) / SCALE
    with arguments.weights.open("rb") as file:
        folded = dlib_file.read(file)
    statistics = measured(folded_network(folded), view)
    np.savez(arguments.out, **statistics)
    print(f"{len(statistics)} layers, {len(view)} faces, {arguments.out.stat().st_size:,} bytes")


def folded_network(folded: dict[str, Tensor]) -> FaceResNet:
    """Build the network with affine maps in the place of BatchNorm, in evaluation mode."""
    network = FaceResNet(len(dlib_file.BLOCKS)).eval()
    network.load_state_dict({name: value for name, value in folded.items() if name != "fc.weight"}, strict=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # running mean 0, running variance 1
            module.eps = 0.0
    return network


def measured(network: nn.Module, view: Tensor) -> dict[str, np.ndarray]:
    """Measure mean and deviation (2, C) of the input of every BatchNorm, float32."""
    found: dict[str, np.ndarray] = {}

    def keep(name: str, z: Tensor) -> None:
        values = z.double()
        found[name] = torch.stack([values.mean((0, 2, 3)), values.std((0, 2, 3), correction=0)]).float().numpy()

    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
    with torch.no_grad():
        network(view)
    return found


if __name__ == "__main__":
    main()
