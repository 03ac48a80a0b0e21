"""The image store: every kind of image becomes the right RGB, once; bad files are reported together."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from support.project import PROJECT
from support.stored_faces import SIZE, open_store, picture, table_of

from fer.data.images import content_hashes, store_building, store_files
from fer.data.images import decode as decode_module
from fer.data.images.decode import ImageFault, decode
from fer.data.images.store import ImageStore
from fer.data.table import DatasetError
from fer.errors import ConfigError


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    picture(0).save(stream, kind)
    return stream.getvalue()


def test_row_i_holds_the_pixels_of_file_i_read_only(faces: Path, cache: Path) -> None:
    store = open_store(faces, cache)
    assert store.images.shape == (5, 3, SIZE, SIZE)
    assert store.images.dtype == np.uint8
    for number in range(5):
        np.testing.assert_array_equal(store.images[number].transpose(1, 2, 0), np.asarray(picture(number)))
    assert store.bad.tolist() == []
    assert store.warnings == ()
    with pytest.raises(ValueError, match="read-only"):
        store.images[0] = 0


def test_more_files_than_one_block_keep_their_order(tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(700):
        Image.new("RGB", (2, 2), (number % 256, number // 256, 7)).save(root / f"{number:04d}.bmp")
    (root / "0600.bmp").write_bytes(b"nothing")
    store = ImageStore.open(table_of(root), size=2, cache_dir=cache, on_bad_image="skip", workers=4)
    expected = [[number % 256, number // 256, 7] for number in range(700)]
    expected[600] = [0, 0, 0]
    assert store.bad.tolist() == [600]
    np.testing.assert_array_equal(store.images[:, :, 0, 0], expected)


def gray16(path: Path) -> None:
    Image.fromarray(np.full((SIZE, SIZE), 40000, dtype=np.uint16)).save(path.with_suffix(".png"))


def rgba(path: Path) -> None:
    image = Image.new("RGBA", (SIZE, SIZE), (10, 20, 30, 255))
    image.paste((1, 2, 3, 0), (0, 0, SIZE // 2, SIZE))
    image.save(path.with_suffix(".png"))


def palette(path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (200, 100, 50)).quantize(4).save(path.with_suffix(".png"))


def transparent_palette(path: Path) -> None:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([9, 9, 9, 60, 70, 80])
    image.paste(1, (SIZE // 2, 0, SIZE, SIZE))
    image.save(path.with_suffix(".png"), transparency=0)


def cmyk(path: Path) -> None:
    Image.new("RGB", (SIZE, SIZE), (250, 20, 30)).convert("CMYK").save(path.with_suffix(".jpg"), quality=100)


@pytest.mark.parametrize(
    ("write", "left", "right", "tolerance"),
    [
        (lambda path: Image.new("L", (SIZE, SIZE), 90).save(path.with_suffix(".png")), (90,) * 3, (90,) * 3, 0),
        (lambda path: Image.new("1", (SIZE, SIZE), 1).save(path.with_suffix(".png")), (255,) * 3, (255,) * 3, 0),
        (gray16, (156,) * 3, (156,) * 3, 0),
        (rgba, (255,) * 3, (10, 20, 30), 0),
        (palette, (200, 100, 50), (200, 100, 50), 0),
        (transparent_palette, (255,) * 3, (60, 70, 80), 0),
        (cmyk, (250, 20, 30), (250, 20, 30), 4),
    ],
    ids=["gray", "black and white", "16 bit", "RGBA", "palette", "transparent palette", "CMYK"],
)
def test_every_kind_of_picture_becomes_its_rgb(
    tmp_path: Path,
    cache: Path,
    write: Callable[[Path], None],
    left: tuple[int, int, int],
    right: tuple[int, int, int],
    tolerance: int,
) -> None:
    root = tmp_path / "one"
    root.mkdir()
    write(root / "a")
    write(root / "b")
    pixels = open_store(root, cache).images[0].astype(int)
    np.testing.assert_allclose(pixels[:, 3, 2], left, atol=tolerance)
    np.testing.assert_allclose(pixels[:, 3, SIZE - 3], right, atol=tolerance)


def test_the_orientation_written_by_a_camera_is_applied(faces: Path, cache: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture(1, 8, 12).save(faces / "1.png", exif=exif)
    turned = picture(1, 8, 12).transpose(Image.Transpose.ROTATE_270).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(open_store(faces, cache).images[1].transpose(1, 2, 0), np.asarray(turned))


def test_other_sizes_are_resized_with_pils_bilinear_filter_and_counted(faces: Path, cache: Path) -> None:
    picture(2, 40, 20).save(faces / "2.png")
    picture(3, 20, 20).save(faces / "3.png")
    store = open_store(faces, cache)
    expected = picture(2, 40, 20).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(store.images[2].transpose(1, 2, 0), np.asarray(expected))
    (warning,) = store.warnings
    assert warning == "2 of 5 images are not 16 x 16 pixels and were resized, 1 of them not nearly square"
    assert open_store(faces, cache).warnings == store.warnings


@pytest.mark.parametrize("moved", [False, True])
def test_unchanged_files_are_never_decoded_again(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, moved: bool
) -> None:
    first = open_store(faces, cache)
    if moved:
        faces = faces.rename(faces.with_name("elsewhere"))

    def refuse(content: bytes) -> Image.Image:
        raise AssertionError("decoded again")

    monkeypatch.setattr(store_building, "decode_bytes", refuse)
    again = open_store(faces, cache)
    assert again.path == first.path
    assert again.content_fingerprint == first.content_fingerprint
    np.testing.assert_array_equal(again.images, first.images)


def test_a_changed_file_another_size_and_another_list_give_another_store(faces: Path, cache: Path) -> None:
    first = open_store(faces, cache)
    assert open_store(faces, cache, size=8).images.shape[-1] == 8
    picture(99).save(faces / "2.png")
    os.utime(faces / "2.png", ns=(0, 12345))
    changed = open_store(faces, cache)
    np.testing.assert_array_equal(changed.images[2].transpose(1, 2, 0), np.asarray(picture(99)))
    assert changed.content_fingerprint != first.content_fingerprint
    (faces / "4.png").unlink()
    assert len(open_store(faces, cache).images) == 4


def test_the_fingerprint_follows_the_pixels_not_the_place(faces: Path, cache: Path, tmp_path: Path) -> None:
    first = open_store(faces, cache).content_fingerprint
    moved = faces.rename(tmp_path / "elsewhere")
    for number in range(5):
        os.utime(moved / f"{number}.png", ns=(0, number))
    assert open_store(moved, tmp_path / "other cache").content_fingerprint == first


def test_an_image_file_beyond_the_allowed_size_is_a_fault_and_is_not_held_in_memory(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (decode_module, content_hashes):
        monkeypatch.setattr(module, "MAX_BYTES", 10_000)
    (faces / "1.png").write_bytes((faces / "1.png").read_bytes() + b"\0" * 10_000)
    store = open_store(faces, cache, "skip")
    assert store.bad.tolist() == [1]
    assert content_hashes.read_content(faces / "1.png", keep=True).data is None
    with pytest.raises(ImageFault, match=r"bytes are more than the allowed 10,000"):
        decode(faces / "1.png")


def test_all_bad_images_come_in_one_report(faces: Path, cache: Path) -> None:
    (faces / "1.png").write_bytes((faces / "1.png").read_bytes()[:-200])
    (faces / "2.png").write_bytes(b"<html>404</html>")
    for _ in range(2):  # the second time from the stored facts
        with pytest.raises(DatasetError) as caught:
            open_store(faces, cache)
        assert len(caught.value.faults) == 2
        assert caught.value.faults[0].startswith("1.png: cannot be decoded")
        assert caught.value.faults[1].startswith("2.png: not an image in a known format")
        assert "data.on_bad_image=skip" in caught.value.faults[1]


def test_skipped_images_are_listed_and_the_others_stay(faces: Path, cache: Path) -> None:
    (faces / "1.png").write_bytes(b"nothing")
    store = open_store(faces, cache, "skip")
    assert store.bad.tolist() == [1]
    assert "1 images cannot be decoded and are left out" in store.warnings[0]
    np.testing.assert_array_equal(store.images[3].transpose(1, 2, 0), np.asarray(picture(3)))
    (faces / "4.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match="no test image can be decoded"):
        open_store(faces, cache, "skip")


def test_a_file_that_vanished_is_named(faces: Path, cache: Path) -> None:
    table = table_of(faces)
    (faces / "3.png").unlink()
    with pytest.raises(DatasetError, match=r"3\.png: missing"):
        ImageStore.open(table, size=SIZE, cache_dir=cache)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_of_unknown_range_are_a_fault(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (SIZE, SIZE), 70_000).save(tmp_path / "odd.tif")
    with pytest.raises(ImageFault, match="save it with 8 or 16 bits"):
        decode(tmp_path / "odd.tif")


def test_an_error_that_is_not_about_reading_is_a_fault_too(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("comment", "x" * 3_000_000, zip=True)  # PIL answers with a ValueError
    picture(0).save(tmp_path / "long.png", pnginfo=info)
    with pytest.raises(ImageFault, match="cannot be decoded"):
        decode(tmp_path / "long.png")


@pytest.mark.parametrize("edge", [9_500, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_a_fault_and_is_not_decoded(faces: Path, cache: Path, edge: int) -> None:
    header = struct.pack(">IIBBBBB", edge, edge, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (faces / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DatasetError, match=r"more than the allowed 80,000,000"):
        open_store(faces, cache)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@settings(max_examples=60, deadline=None)
@given(edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8), cut=st.integers(0, 800))
def test_damaged_bytes_give_rgb_or_a_fault_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str, edits: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(encoded(kind))
    for position, value in edits:
        data[position % len(data)] = value
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(data[: len(data) - cut])
    try:
        image = decode(path)
    except ImageFault as fault:
        assert str(fault)
    else:
        assert image.mode == "RGB"


@pytest.mark.parametrize("damage", ["truncate array", "remove array", "remove facts", "break facts", "other array"])
def test_a_damaged_store_is_made_anew(faces: Path, cache: Path, damage: str) -> None:
    first = open_store(faces, cache)
    path, expected = first.path, first.images.copy()
    del first
    if damage == "truncate array":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other array":
        np.save(path, np.zeros(3))
    elif damage == "remove array":
        path.unlink()
    elif damage == "remove facts":
        path.with_suffix(".json").unlink()
    else:
        path.with_suffix(".json").write_text("[1]")
    np.testing.assert_array_equal(open_store(faces, cache).images, expected)


OPEN = """
import sys
from pathlib import Path
import numpy as np
from fer.data.table import SampleTable
from fer.data.images import store
from fer.errors import ConfigError
built, build = [], store.build
store.build = lambda *arguments: (built.append(1), build(*arguments))[1]
root, cache, limit = Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
paths = tuple(sorted(root.iterdir()))
rows = len(paths)
table = SampleTable("files", root, paths, np.zeros(rows, int), np.arange(rows) > 0, ("a", "b"))
try:
    opened = store.ImageStore.open(table, size=16, cache_dir=cache)
    print(opened.content_fingerprint, len(built), opened.path)
except ConfigError as error:
    print(error)
"""


def start(root: Path, cache: Path | str, limit: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OPEN, str(root), str(cache), str(limit)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)


def test_processes_that_open_a_store_at_the_same_time_build_it_once(faces: Path, cache: Path) -> None:
    for copy in range(200):
        picture(copy).save(faces / f"more{copy}.png")
    outputs = [process.communicate(timeout=60)[0].split() for process in [start(faces, cache) for _ in range(3)]]
    assert len({fingerprint for fingerprint, _, _ in outputs}) == 1
    assert sorted(built for _, built, _ in outputs) == ["0", "0", "1"]
    store = open_store(faces, cache)
    assert outputs[0][0] == store.content_fingerprint
    left = {path.name for path in cache.iterdir() if not path.name.startswith("content-hashes-")}
    assert left == {store.path.with_suffix(".json").name, store.path.name}


def test_without_a_cache_folder_the_store_lives_as_long_as_its_process(faces: Path, cache: Path) -> None:
    fingerprint, built, path = start(faces, "").communicate(timeout=60)[0].split()
    assert built == "1"
    assert fingerprint == open_store(faces, cache).content_fingerprint
    assert not Path(path).parent.exists()


def test_building_says_how_far_it_is(
    faces: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store_building, "_SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(store_building, "BLOCK", 2)
    monkeypatch.setattr(store_files, "BLOCK", 2)
    with caplog.at_level("INFO"):
        open_store(faces, cache)
    said = [record.message for record in caplog.records]
    assert [line for line in said if line.startswith("decoded ") and "of" in line][:3] == [
        "decoded 2 of 5 images", "decoded 4 of 5 images", "decoded 5 of 5 images",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_explained_and_leaves_nothing_behind(faces: Path, cache: Path) -> None:
    message = start(faces, cache, limit=1000).communicate(timeout=60)[0]
    assert "cannot write the image store" in message
    assert "cache_dir=FOLDER" in message
    assert list(cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_is_explained(faces: Path, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(ConfigError, match="cannot write the image store"):
        open_store(faces, cache)


def test_a_store_travels_to_workers_by_its_path(tmp_path: Path, faces: Path, cache: Path) -> None:
    store = open_store(faces, cache, size=200)
    packed = pickle.dumps(store)
    assert len(packed) < 5_000 < store.images.nbytes
    copy = pickle.loads(packed)
    np.testing.assert_array_equal(copy.images, store.images)
    assert not copy.images.flags.writeable
    assert copy.content_fingerprint == store.content_fingerprint


@pytest.mark.parametrize(("size", "on_bad_image", "key"), [(0, "error", "store_size"), (16, "ignore", "on_bad_image")])
def test_unknown_settings_are_refused(faces: Path, cache: Path, size: int, on_bad_image: str, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        open_store(faces, cache, on_bad_image, size)
