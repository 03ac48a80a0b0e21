"""Weights reach the backbone they belong to, every file says what it gave, and no file gets to run anything."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from fer.models.backbones import mobilenet_v2, resnet, tiny
from fer.models.vggface2 import vggface2_resnet50
from fer.models.weights import numpy_pickle
from fer.models.weights.load import WeightsError, load_backbone_weights
from fer.models.weights.weight_file import read_once

pytestmark = pytest.mark.measured

State = dict[str, Tensor]


class Save(Protocol):
    def __call__(self, content: Any, name: str = "weights.pth") -> str: ...


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Writes an object with torch.save, or bytes as they are, and returns the path."""

    def write(content: Any, name: str = "weights.pth") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return str(path)

    return write


def state_of(backbone: nn.Module) -> State:
    return {key: value.clone() for key, value in backbone.state_dict().items()}


def hollow_state(build: Callable[[], nn.Module]) -> State:
    """All names and shapes of a network, in a file of a few kilobytes."""
    with torch.device("meta"):
        state = build().state_dict()
    return {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}


def assert_same(state: State, expected: State) -> None:
    assert state.keys() == expected.keys()
    torch.testing.assert_close(state, expected, rtol=0, atol=0)


# ---- What can be loaded ------------------------------------------------------------------------------------------


WRAPPERS = st.lists(st.sampled_from(["module.", "model.", "network.", "backbone.", "_orig_mod."]), max_size=3)


@settings(max_examples=25, deadline=None)
@given(WRAPPERS, st.sampled_from([None, "state_dict", "model_state_dict", "model"]), st.booleans(), st.booleans())
def test_wrapping_prefixes_and_checkpoints_make_no_difference(
    tmp_path_factory: pytest.TempPathFactory, wrappers: list[str], container: str | None, legacy: bool, head: bool
) -> None:
    expected = state_of(tiny())
    state = {"".join(wrappers) + key: value for key, value in expected.items()}
    if head:
        state |= {"".join(wrappers) + "fc.weight": torch.ones(7, 96)}
    path = tmp_path_factory.mktemp("wrapped") / "weights.pth"
    torch.save({container: state, "epoch": 3} if container else state, path, _use_new_zipfile_serialization=not legacy)

    backbone = tiny(weights=str(path))

    assert_same(state_of(backbone), expected)
    assert backbone.weights_report is not None
    assert backbone.weights_report.unexpected == (("fc.weight",) if head else ())


def test_a_run_folder_gives_the_backbone_of_its_last_checkpoint(save: Save, tmp_path: Path) -> None:
    expected = state_of(tiny())
    state = {f"network.backbone.{key}": value for key, value in expected.items()}
    state |= {"network.classifier.weight": torch.ones(7, 96), "network.classifier.bias": torch.ones(7)}
    checkpoint = save({"state_dict": state, "epoch": 4, "hyper_parameters": {"lam": 5.0}}, "run/checkpoints/last.ckpt")

    for source in (str(tmp_path / "run"), checkpoint):
        backbone = tiny(weights=source)
        assert_same(state_of(backbone), expected)
        assert backbone.weights_report.unexpected == ("classifier.weight", "classifier.bias")
    with pytest.raises(WeightsError, match=r"no file .*checkpoints/last\.ckpt"):
        tiny(weights=str(tmp_path))


def test_the_layout_of_the_released_eac_code_is_understood(save: Save) -> None:
    source = resnet(depth=18)
    expected = state_of(source)
    features = nn.Sequential(
        source.conv1, source.bn1, source.relu, source.maxpool, *(getattr(source, f"layer{i}") for i in range(1, 5))
    )
    released = nn.ModuleDict({"features": features, "fc": nn.Linear(512, 7)}).state_dict()
    assert {"features.0.weight", "features.4.0.conv1.weight", "fc.bias"} <= released.keys()

    backbone = resnet(depth=18, weights=save(released))

    assert_same(state_of(backbone), expected)
    assert backbone.weights_report.unexpected == ("fc.weight", "fc.bias")


def test_torchvisions_own_file_fills_a_resnet_and_only_its_classifier_is_left_over(save: Save) -> None:
    source = torchvision.models.resnet18()
    report = resnet(depth=18, weights=save(source.state_dict())).weights_report
    assert report.share == 1
    assert (report.missing, report.mismatched, report.unexpected) == ((), (), ("fc.weight", "fc.bias"))
    assert len(report.loaded) == 120


def test_files_older_than_batch_counters_are_complete(save: Save) -> None:
    old = {key: value for key, value in state_of(tiny()).items() if "num_batches_tracked" not in key}
    report = tiny(weights=save(old)).weights_report
    assert (report.share, report.missing) == (1, ())


def test_mobilenet_v2_takes_torchvisions_layout_at_every_stem(save: Save) -> None:
    source = torchvision.models.mobilenet_v2()
    path = save(source.state_dict())
    for stem in ("imagenet", "small"):
        backbone = mobilenet_v2(stem=stem, weights=path)
        assert_same(state_of(backbone), {k: v for k, v in source.state_dict().items() if "classifier" not in k})


def test_a_small_stem_takes_everything_but_the_first_convolution(save: Save) -> None:
    source = state_of(resnet(depth=18))
    torch.manual_seed(5)
    own = state_of(resnet(depth=18, stem="small"))
    torch.manual_seed(5)
    backbone = resnet(depth=18, stem="small", weights=save(source))
    assert backbone.weights_report.mismatched == ("conv1.weight 64x3x7x7 for 64x3x3x3",)
    assert_same(state_of(backbone), {**source, "conv1.weight": own["conv1.weight"]})


def test_the_real_partial_file_is_loaded_only_on_demand_and_reported(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shared / "data/weights/resnet18_imagenet_partial.pth"
    with pytest.raises(
        WeightsError, match=r"(?s)only 80\.0%.*allow_partial_weights=true.*missing: 20 \(layer4\.0\.conv1"
    ):
        resnet(depth=18, weights=str(path))

    with caplog.at_level(logging.INFO, "fer"):
        backbone = resnet(depth=18, weights=str(path), allow_partial_weights=True)
    report = backbone.weights_report
    assert len(report.loaded) == 96
    assert {name.rpartition(".")[0] for name in report.missing} == {
        f"layer4.{block}.{module}" for block in (0, 1) for module in ("conv1", "bn1", "conv2", "bn2")
    }
    given_state = torch.load(path, weights_only=True)
    loaded = {key: value for key, value in backbone.state_dict().items() if key in given_state}
    assert_same(loaded, given_state)
    assert "96 tensors loaded, 80.0% of the backbone" in caplog.text
    assert "missing: 20 (layer4.0.conv1.weight" in caplog.text
    assert "... and 16 more" in caplog.text


def test_a_block_reads_each_file_once(save: Save) -> None:
    """A file that changes inside the block gives what it held at first, and outside what it holds now."""
    first, second = (state_of(tiny()) for _ in range(2))
    path = save(first)
    with read_once():
        assert_same(state_of(tiny(weights=path)), first)
        save(second)
        assert_same(state_of(tiny(weights=path)), first)
    assert_same(state_of(tiny(weights=path)), second)


# ---- What is refused because it does not fit ---------------------------------------------------------------------


def test_less_than_nine_tenths_of_the_tensors_is_an_error_unless_allowed(save: Save) -> None:
    full = state_of(tiny())
    weights = [key for key in full if "num_batches_tracked" not in key]
    for count in (len(weights) * 9 // 10, -(-len(weights) * 9 // 10)):
        path = save({key: full[key] for key in weights[:count]})
        if count / len(weights) >= 0.9:
            tiny(weights=path)
            continue
        backbone = tiny()
        before = state_of(backbone)
        with pytest.raises(WeightsError, match="allow_partial_weights=true"):
            load_backbone_weights(backbone, path, name="tiny")
        assert_same(state_of(backbone), before)
        assert len(tiny(weights=path, allow_partial_weights=True).weights_report.loaded) == count


def resnet_of(depth: int) -> Callable[[], nn.Module]:
    return lambda: resnet(depth=depth)


@pytest.mark.parametrize(
    ("file", "backbone", "fitting"),
    [
        (resnet_of(18), resnet_of(50), "resnet18"),
        (resnet_of(50), resnet_of(18), "resnet50"),
        # All tensors of the smaller network are there, in the larger one's file.
        (resnet_of(34), resnet_of(18), "resnet34"),
        (resnet_of(101), resnet_of(50), "resnet101"),
        (resnet_of(152), vggface2_resnet50, "resnet152"),
        (mobilenet_v2, resnet_of(18), "mobilenet_v2"),
        (resnet_of(18), mobilenet_v2, "resnet18"),
    ],
)
def test_a_file_of_another_architecture_is_refused_with_the_option_that_fits(
    save: Save, file: Callable[[], nn.Module], backbone: Callable[[], nn.Module], fitting: str
) -> None:
    path = save(hollow_state(file), "other.pth")
    wanted = backbone()
    with pytest.raises(WeightsError, match=rf"other\.pth.*use backbone={fitting}\b"):
        load_backbone_weights(wanted, path, name=wanted.name)


def test_a_file_in_which_nothing_fits_is_refused_even_where_parts_are_allowed(save: Save) -> None:
    with pytest.raises(WeightsError, match=r"nothing in .* fits backbone=tiny"):
        tiny(weights=save({"encoder.weight": torch.ones(3)}), allow_partial_weights=True)


@pytest.mark.parametrize("allow_partial", [False, True])
def test_vggface2_weights_never_enter_another_resnet(save: Save, allow_partial: bool) -> None:
    """The silent trap: names and shapes fit torchvision's ResNet-50 to the last tensor."""
    plain = hollow_state(resnet_of(50))
    eac = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    released = {f"features.{eac[key.partition('.')[0]]}.{key.partition('.')[2]}": value for key, value in plain.items()}
    converted = {**plain, "fc.weight": torch.zeros(8631, 2048), "fc.bias": torch.zeros(8631)}
    part = {key: np.zeros(tuple(value.shape), np.float32) for key, value in plain.items() if "layer4" not in key}
    own_run = {"state_dict": plain, "backbone": "resnet50_vggface2"}
    others, own = [resnet(depth=50), resnet(depth=101)], vggface2_resnet50()
    for content in (released, converted, python_2_pickle(part), own_run):
        path = save(content)
        for other in others:
            with pytest.raises(WeightsError, match="use backbone=resnet50_vggface2"):
                load_backbone_weights(other, path, name=other.name, allow_partial_weights=allow_partial)
        load_backbone_weights(own, path, name=own.name, allow_partial_weights=True)


def test_a_run_of_torchvisions_resnet50_never_enters_the_vggface2_kind(save: Save) -> None:
    path = save({"state_dict": hollow_state(resnet_of(50)), "backbone": "resnet50"})
    with pytest.raises(WeightsError, match=r"use backbone=resnet50$"):
        vggface2_resnet50(weights=path)
    resnet(depth=50, weights=path)


def test_two_networks_in_one_file_are_refused(save: Save) -> None:
    state = state_of(tiny())
    both = {**{f"model.{k}": v for k, v in state.items()}, **{f"module.{k}": v for k, v in state.items()}}
    with pytest.raises(WeightsError, match=r"conv1\.weight twice"):
        tiny(weights=save(both))


def test_values_that_are_not_finite_are_refused(save: Save) -> None:
    state = state_of(tiny())
    state["layer2.conv1.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"layer2\.conv1\.weight has values that are not finite"):
        tiny(weights=save(state))


@pytest.mark.parametrize("value", [1e300, -1e300, 1e39, float("nan")])
def test_values_are_finite_in_the_type_that_they_are_used_in(save: Save, value: float) -> None:
    state = {key: tensor.double() for key, tensor in state_of(tiny()).items() if tensor.is_floating_point()}
    tiny(weights=save(state))  # float64 as such is no fault
    state["layer2.conv1.weight"].view(-1)[0] = value
    with pytest.raises(WeightsError, match=r"layer2\.conv1\.weight has values that are not finite as float32"):
        tiny(weights=save(state))


def test_variances_below_zero_are_refused_before_anything_is_loaded(save: Save) -> None:
    state = state_of(tiny())
    name = next(key for key in state if key.endswith("running_var"))
    state[name][-1] = -1e-3
    fresh = tiny()
    before = state_of(fresh)
    with pytest.raises(WeightsError, match=rf"{name} has variances below 0"):
        load_backbone_weights(fresh, save(state), name="tiny")
    assert all(torch.equal(before[key], value) for key, value in fresh.state_dict().items())


def test_a_pinned_digest_lets_only_that_file_in(save: Save) -> None:
    path = save(state_of(tiny()))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert tiny(weights=path, weights_sha256=digest.upper()).weights_report.sha256 == digest
    with pytest.raises(WeightsError, match=f"sha256 {digest}"):
        tiny(weights=path, weights_sha256="0" * 64)


# ---- Names that torchvision publishes ----------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Path]:
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path / "hub")
    yield tmp_path / "hub/checkpoints"
    torch.hub.set_dir(before)


def test_a_weight_name_that_cannot_be_downloaded_says_where_to_put_the_file(
    hub: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, *arguments: object, **keywords: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        WeightsError, match=r"cannot download https://\S+ .*Name or service.*put it at .*resnet18-"
    ) as caught:
        resnet(depth=18, weights="IMAGENET1K_V1")

    name = str(caught.value).partition("put it at ")[2].partition(",")[0]
    assert Path(name).parent == hub
    source = state_of(resnet(depth=18))
    torch.save(source, name)
    assert_same(state_of(resnet(depth=18, weights="IMAGENET1K_V1")), source)


def test_a_download_is_checked_against_the_digest_in_its_name(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(url: str, target: str, hash_prefix: str) -> None:
        assert hash_prefix == "b0353104"
        torch.save(torchvision.models.mobilenet_v2().state_dict(), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fake)
    assert mobilenet_v2(weights="IMAGENET1K_V1").weights_report.path.parent == hub


@pytest.mark.parametrize(
    ("build", "known"),
    [(resnet_of, "IMAGENET1K_V1"), (None, "torchvision has none")],
)
def test_a_name_that_is_neither_file_nor_weights_lists_the_known_ones(build: object, known: str) -> None:
    with pytest.raises(WeightsError, match=rf"no file imagenett.*{known}"):
        resnet(depth=18, weights="imagenett") if build else tiny(weights="imagenett")


@pytest.mark.parametrize("path", ["~no_such_user/weights.pth", f"{'long' * 100}.pth"])
def test_a_path_that_cannot_be_looked_at_is_refused_by_name(path: str) -> None:
    with pytest.raises(WeightsError, match=f"weights={path[:9]}.*cannot be looked at"):
        tiny(weights=path)


# ---- Pickles of NumPy arrays -------------------------------------------------------------------------------------


def python_2_pickle(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """A pickle as Python 2 and its NumPy write it with protocol 2: byte strings, numpy.core, old-style booleans."""

    def string(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    parts = [b"\x80\x02}("]
    for key, array in arrays.items():
        raw = np.ascontiguousarray(array, "<f4").tobytes()
        parts += [
            string(key.encode()),
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01(" + b"".join(map(integer, array.shape)) + b"t",
            b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNN" + integer(-1) * 2 + b"K\x00tb",
            b"\x89" + string(raw) + b"tb",
        ]
    return b"".join([*parts, b"u."])


def test_the_hand_written_pickle_is_one_that_numpy_itself_reads() -> None:
    arrays = {"conv1.weight": np.random.default_rng(0).normal(size=(4, 3, 7, 7)).astype(np.float32)}
    read = pickle.loads(python_2_pickle(arrays), encoding="latin1")
    np.testing.assert_array_equal(read["conv1.weight"], arrays["conv1.weight"])


def test_the_vggface2_pickle_fills_its_own_resnet50(save: Save) -> None:
    source = state_of(vggface2_resnet50())
    arrays = {key: value.numpy() for key, value in source.items() if "num_batches_tracked" not in key}
    arrays |= {"fc.bias": np.zeros(8631, np.float32)}
    backbone = vggface2_resnet50(weights=save(python_2_pickle(arrays), "resnet50_ft_weight.pkl"))
    assert_same(state_of(backbone), source)
    assert backbone.weights_report.share == 1
    assert backbone.weights_report.unexpected == ("fc.bias",)


DTYPES = st.one_of(
    hnp.boolean_dtypes(), hnp.integer_dtypes(endianness="?"), hnp.floating_dtypes(sizes=(16, 32, 64), endianness="?")
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


@settings(deadline=None)
@given(st.dictionaries(st.text(), ARRAYS, max_size=3), st.booleans(), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_numeric_arrays_and_scalars_are_read_as_numpy_reads_them(
    arrays: dict[str, Any], fortran: bool, protocol: int
) -> None:
    if fortran:
        arrays = {key: np.asfortranarray(value) for key, value in arrays.items()}
    arrays |= {f"{key}/scalar": value.ravel()[0] for key, value in arrays.items() if value.size}
    written = pickle.dumps(arrays, protocol)
    for data in (written, written.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")):
        read = numpy_pickle.read(io.BytesIO(data))
        assert read.keys() == arrays.keys()
        for key, value in arrays.items():
            assert read[key].dtype == value.dtype.newbyteorder("=")
            np.testing.assert_array_equal(read[key], value)


# ---- Files that want to run something ----------------------------------------------------------------------------


class Hostile:
    """Unpickling it runs a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


def call(module: str, name: str, argument: str) -> list[bytes]:
    """Pickles that call ``module.name(argument)``, by each opcode that can name a function."""
    text = struct.pack("<I", len(argument)) + argument.encode()
    stack_name = b"".join(b"X" + struct.pack("<I", len(part)) + part.encode() for part in (module, name))
    return [
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + text + b"\x85R.",
        b"\x80\x04" + stack_name + b"\x93X" + text + b"\x85R.",
        b"(X" + text + b"i" + f"{module}\n{name}\n".encode() + b".",
        b"(c" + f"{module}\n{name}\n".encode() + b"X" + text + b"o.",
        b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X" + text + b"\x85\x81.",
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("subprocess", "getoutput"),
        ("builtins", "eval"),
        ("builtins", "bytearray"),
        ("__builtin__", "eval"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("numpy", "load"),
        ("numpy", "os.system"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy.core.numeric", "load"),
        ("numpy.testing._private.utils", "runstring"),
        ("_codecs", "decode"),
        ("codecs", "open"),
        ("pickle", "loads"),
        ("torch", "load"),
        ("torch.storage", "_load_from_bytes"),
        ("fer.models.weights.numpy_pickle", "pickle.loads"),
        ("collections", "OrderedDict"),
    ],
)
def test_a_pickle_cannot_name_anything_but_numpys_arrays(save: Save, tmp_path: Path, module: str, name: str) -> None:
    canary = tmp_path / "canary"
    for data in call(module, name, f"open('{canary}', 'w')" if name in ("eval", "exec") else f"touch '{canary}'"):
        with pytest.raises(WeightsError, match=rf"refused, and nothing in it was run.* {module}\.{name}"):
            tiny(weights=save(data, "weights.pkl"), allow_partial_weights=True)
        assert not canary.exists()


def test_the_hostile_object_of_these_tests_is_hostile(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(Hostile(canary)))
    assert canary.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_object_among_good_arrays_is_not_run(save: Save, tmp_path: Path, protocol: int) -> None:
    canary = tmp_path / "canary"
    good = {key: value.numpy() for key, value in state_of(tiny()).items()}
    hidden = np.empty(1, object)
    hidden[0] = Hostile(canary)
    for extra in (Hostile(canary), [Hostile(canary)], hidden):
        with pytest.raises(WeightsError, match="refused"):
            tiny(weights=save(pickle.dumps({**good, "extra": extra}, protocol), "weights.pkl"))
        assert not canary.exists()
    tiny(weights=save(pickle.dumps(good, protocol), "weights.pkl"))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("forced", [False, True])
def test_a_hostile_object_in_a_torch_file_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool, forced: bool
) -> None:
    if forced:  # torch's switch for unsafe loading must not reach this far
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    canary, path = tmp_path / "canary", tmp_path / "weights.pth"
    content = {"state_dict": state_of(tiny()), "callbacks": Hostile(canary)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(WeightsError, match=r"refused, and nothing in it was run.*save the state dict alone"):
        tiny(weights=str(path))
    assert not canary.exists()


DTYPE = b"cnumpy\ndtype\nU\x02%bK\x00K\x01\x87R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


@pytest.mark.parametrize(
    "data",
    {
        "objects": b"\x80\x02" + DTYPE % b"O8" + b".",
        "void": b"\x80\x02" + DTYPE % b"V8" + b".",
        "long double": b"\x80\x02" + DTYPE % b"g\x00" + b".",
        # A structured type with an object inside and flags that deny it: NumPy would take the bytes for pointers.
        "disguised objects": b"\x80\x02" + DTYPE % b"f8" + b"(K\x03U\x01|NU\x01a\x85}U\x01aNsK\x08K\x01K\x00tb.",
        "array class called": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x85R.",
        "array class built": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
        "too few bytes": b"\x80\x02" + ARRAY + b"(K\x01K\x09\x85" + DTYPE % b"f4" + b"\x89U\x04abcdtb.",
        "state of another type": b"\x80\x02" + ARRAY + b"}b.",
        "other text encoding": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
        "attributes of a stand-in": b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__)s\x86b.",
        "persistent object": b"\x80\x02U\x01aQ.",
        "name that is not called": b"\x80\x02}U\x01acnumpy\ndtype\ns.",
        "type instead of an array": b"\x80\x02}U\x01a" + DTYPE % b"f4" + b"s.",
        "array that is not filled": b"\x80\x02}U\x01a" + ARRAY + b"s.",
        "extension code": b"\x80\x02\x82\x01.",
    }.items(),
    ids=lambda item: item[0],
)
def test_tricks_with_the_admitted_names_are_refused(save: Save, data: tuple[str, bytes]) -> None:
    with pytest.raises(WeightsError, match="refused, and nothing in it was run"):
        tiny(weights=save(data[1], "weights.pkl"))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["python 2", "torch", "legacy torch"]))
def test_a_truncated_file_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str) -> None:
    state = state_of(tiny(width=8))
    whole = io.BytesIO()
    if kind == "python 2":
        whole.write(python_2_pickle({key: value.numpy() for key, value in state.items()}))
    else:
        torch.save(state, whole, _use_new_zipfile_serialization=kind == "torch")
    path = tmp_path_factory.mktemp("truncated") / "weights"
    path.write_bytes(whole.getvalue()[: data.draw(st.integers(0, whole.tell() - 1))])
    with pytest.raises(WeightsError, match=str(path)):
        tiny(width=8, weights=str(path))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html>quota exceeded</html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        pickle.dumps([1, 2], 2),
        pickle.dumps({"a": "text"}, 2),
        [torch.ones(2)],
        {"state_dict": {}},
        {"conv1.weight": torch.ones(2, 2).to_sparse()},
    ],
)
def test_what_is_no_weights_file_is_refused_by_name(save: Save, content: Any) -> None:
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        tiny(weights=save(content))


def test_a_name_with_any_number_of_wrapping_prefixes_is_read(save: Save) -> None:
    state = state_of(tiny(width=8))
    backbone = tiny(width=8, weights=save({"module." * 5000 + key: value for key, value in state.items()}))
    assert_same(state_of(backbone), state)
