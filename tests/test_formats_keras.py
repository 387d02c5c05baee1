"""Keras's files, with three kinds of names and two of containers: read correctly, or refused by name."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest

from mobilenetv2.checkpoint import Checkpoint
from mobilenetv2.errors import MissingExtraError, ModelFileError
from mobilenetv2.formats import read
from mobilenetv2.runtime import Reference

from .conftest import random_checkpoint
from .writers import difference, edged, write_keras_archive, write_keras_legacy, write_keras_weights

KERAS = {"padding": "same", "bn_epsilon": 1e-3}
PUBLISHED = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_{}_{}.h5"


def keras_checkpoint(**changes: object) -> Checkpoint:
    return random_checkpoint(**{"width_mult": 0.35, "classes": 5, **KERAS, **changes})


def weights(path: Path, checkpoint: Checkpoint, **how: object) -> Path:
    write_keras_weights(path, checkpoint, **how)
    return path


KINDS: dict[str, tuple[str, Callable[[Path, Checkpoint], Path]]] = {
    "published weights": ("model.h5", partial(write_keras_legacy, style="published")),
    "weights of Keras 2.2.0": ("model.h5", partial(write_keras_legacy, style="2.2.0")),
    "weights, today's names": ("model.h5", write_keras_legacy),
    "model of Keras 2": ("model.h5", partial(write_keras_legacy, whole=True)),
    "model of Keras 3": ("model.h5", partial(write_keras_legacy, whole=True, keras=3)),
    "model inside a model": (
        "model.h5",
        partial(write_keras_legacy, keras=3, scope="mobilenetv2_0.35_224"),
    ),
    "Keras 3 weights": ("model.weights.h5", weights),
    "Keras 2.12 weights": ("model.weights.h5", partial(weights, named=False)),
    "Keras 3 weights, nested": ("model.weights.h5", partial(weights, scope="layers/functional/")),
    "Keras 3 archive": ("model.keras", write_keras_archive),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"width_mult": 0.5, "last_channels": 640}, {"head": "features", "classes": 1000}],
    ids=["classifier", "640 last", "no top"],
)
def test_every_kind_of_file(tmp_path, kind, changes) -> None:
    name, write = KINDS[kind]
    checkpoint = keras_checkpoint(**changes)
    imported = read(write(tmp_path / name, checkpoint))
    assert imported.architecture == checkpoint.architecture
    assert difference(checkpoint, imported) < 1e-5
    assert imported.provenance == {"source": "Keras", "file": name}
    assert (imported.preprocessing.mean, imported.preprocessing.std) == (
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
    )


@pytest.mark.parametrize("width", [0.5, 1.0, 1.4])
@pytest.mark.parametrize("kind", ["published weights", "Keras 3 archive"])
def test_other_widths(tmp_path, kind, width) -> None:
    name, write = KINDS[kind]
    checkpoint = keras_checkpoint(width_mult=width)
    imported = read(write(tmp_path / name, checkpoint))
    assert imported.architecture == checkpoint.architecture
    assert difference(checkpoint, imported) < 1e-5


def test_edges_of_batch_norm_survive(tmp_path) -> None:
    checkpoint = edged(keras_checkpoint())
    imported = read(write_keras_archive(tmp_path / "model.keras", checkpoint))
    for name, array in checkpoint.arrays.items():
        np.testing.assert_array_equal(imported.arrays[name], array, err_msg=name)


@pytest.mark.parametrize("kind", ["model of Keras 2", "model of Keras 3", "Keras 3 archive"])
@pytest.mark.parametrize("size", [(96, 96), (160, 224), (33, 31)])
def test_size_from_the_configuration(tmp_path, kind, size) -> None:
    name, write = KINDS[kind]
    imported = read(write(tmp_path / name, keras_checkpoint(resolution=size)))
    assert imported.preprocessing.size == imported.architecture.resolution == size


def test_size_from_the_published_name(tmp_path) -> None:
    for side in (96, 224):
        path = write_keras_legacy(
            tmp_path / PUBLISHED.format(0.35, side), keras_checkpoint(classes=1000), "published"
        )
        imported = read(path)
        assert imported.preprocessing.size == (side, side)
        assert imported.labels[0] == "tench, Tinca tinca"  # Keras dropped the background class


@pytest.mark.parametrize(
    "config",
    [
        b"{",
        b"[]",
        b'{"config": {"layers": []}}',
        b'{"config": {"layers": [{"config": {}}]}}',
        7,
        [1.0, 2.0],
    ],
)
def test_size_without_a_readable_configuration(tmp_path, config) -> None:
    """The size is then 224; only the arrays are checked."""
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint())
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = config
    assert read(path).preprocessing.size == (224, 224)


def test_classifier_that_a_user_put_on_top(tmp_path) -> None:
    """A Sequential of the network without its top, and a Dense layer."""
    checkpoint = keras_checkpoint()
    path = write_keras_legacy(
        tmp_path / "mine.h5", checkpoint, keras=3, whole=True, scope="mobilenetv2_0.35_64"
    )
    with h5py.File(path, "r+") as file:
        group = file["model_weights"]
        for array in ("kernel", "bias"):
            group[f"dense_1/sequential/dense_1/{array}"] = group[
                f"mobilenetv2_0.35_64/predictions/{array}"
            ][()]
        del group["mobilenetv2_0.35_64/predictions"]
    assert difference(checkpoint, read(path)) < 1e-5
    with h5py.File(path, "r+") as file:
        file["model_weights/dense_2/dense_2/kernel"] = np.zeros((1280, 5), np.float32)
    with pytest.raises(
        ModelFileError,
        match=r"mine\.h5: not Keras's MobileNetV2: two arrays would be classifier\.1\.w",
    ):
        read(path)


def test_axes_of_kernels(tmp_path) -> None:
    """Kernels with a single 1 at a known position of Keras's documented axes."""
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint(), "published")
    with h5py.File(path, "r+") as file:
        file.visititems(
            lambda name, item: item.write_direct(np.zeros_like(item)) if "kernel" in name else None
        )
        file.visititems(
            lambda name, item: (
                item.write_direct(np.zeros_like(item))
                if name[-6:] in ("beta:0", "mean:0")
                else None
            )
        )
        for name in ("bn_Conv1", "bn0_conv_0_bn_depthwise", "bn0_conv_0_bn_project"):
            file[f"{name}/{name}/gamma:0"][:] = 1
            file[f"{name}/{name}/moving_variance:0"][:] = 1 - 1e-3
        file["Conv1/Conv1/kernel:0"][2, 1, 0, 5] = 1  # row, column, in, out
        depthwise = file["mobl0_conv_0_depthwise/mobl0_conv_0_depthwise/depthwise_kernel:0"]
        depthwise[0, 2, 5, 0] = 1  # row, column, channel
        file["mobl0_conv_0_project/mobl0_conv_0_project/kernel:0"][0, 0, 5, 3] = 1
    image = np.random.default_rng(0).uniform(0, 1, (1, 16, 20, 3)).astype(np.float32)
    output = Reference(read(path)).run(image, ["features.1.conv.1"])["features.1.conv.1"]
    padded = np.pad(image[0, :, :, 0], ((0, 2), (0, 2)))
    stem = padded[2::2, 1::2][:8, :10]  # row 2i + 2, column 2j + 1
    expected = np.pad(stem, 1)[0:8, 2:12]  # row i - 1, column j + 1
    np.testing.assert_allclose(output[0, :, :, 3], expected, atol=1e-6)
    assert not output[..., [0, 1, 2, 4, 5, 6, 7]].any()


# --- refused ---

DAMAGED_ARRAYS = [  # path in the published weights, our name
    ("Conv1/Conv1/kernel:0", "features.0.0.weight"),
    ("bn_Conv1/bn_Conv1/gamma:0", "features.0.1.weight"),
    (
        "mobl0_conv_0_depthwise/mobl0_conv_0_depthwise/depthwise_kernel:0",
        "features.1.conv.0.0.weight",
    ),
    (
        "mobl7_conv_7_depthwise/mobl7_conv_7_depthwise/depthwise_kernel:0",
        "features.8.conv.1.0.weight",
    ),
    ("mobl7_conv_7_expand/mobl7_conv_7_expand/kernel:0", "features.8.conv.0.0.weight"),
    ("mobl7_conv_7_project/mobl7_conv_7_project/kernel:0", "features.8.conv.2.weight"),
    (
        "bn16_conv_16_bn_project/bn16_conv_16_bn_project/moving_variance:0",
        "features.17.conv.3.running_var",
    ),
    ("Conv_1/Conv_1/kernel:0", "features.18.0.weight"),
    ("Conv_1_bn/Conv_1_bn/beta:0", "features.18.1.bias"),
    ("Logits/Logits/kernel:0", "classifier.1.weight"),
    ("Logits/Logits/bias:0", "classifier.1.bias"),
]


@pytest.mark.parametrize("cut", [False, True], ids=["missing", "misshapen"])
@pytest.mark.parametrize(
    ("theirs", "ours"), DAMAGED_ARRAYS, ids=[ours for _, ours in DAMAGED_ARRAYS]
)
def test_an_array_missing_or_misshapen(tmp_path, theirs, ours, cut) -> None:
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint(), "published")
    with h5py.File(path, "r+") as file:
        array = file[theirs][()]
        del file[theirs]
        if cut:
            file[theirs] = array[..., :-1]
    with pytest.raises(ModelFileError, match=r"model\.h5") as caught:
        read(path)
    expected = "classifier.1" if ours.startswith("classifier") and cut else ours
    assert expected in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "Conv2/Conv2/kernel:0",
        "block_3_shuffle/block_3_shuffle/kernel:0",
        "block_17_expand/block_17_expand/kernel:0",
        "block_0_expand/block_0_expand/kernel:0",
        "Conv1/Conv1/bias:0",
        "bn_Conv1/bn_Conv1/momentum:0",
        "kernel:0",
        "predictions/predictions/extra:0",
    ],
)
def test_an_extra_array(tmp_path, name) -> None:
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint())
    with h5py.File(path, "r+") as file:
        file[name] = np.zeros((1, 1, 8, 8), np.float32)
    ours = "features.18.conv"  # where a block 17 would be
    with pytest.raises(ModelFileError, match=rf"model\.h5: .*({name}|{ours})"):
        read(path)


def test_two_arrays_for_one_place(tmp_path) -> None:
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint())
    with h5py.File(path, "r+") as file:
        file["copy/Conv1/kernel:0"] = file["Conv1/Conv1/kernel:0"][()]
    with pytest.raises(
        ModelFileError, match=r"model\.h5: .*two arrays would be features\.0\.0\.weight"
    ):
        read(path)


@pytest.mark.parametrize(
    ("lost", "complaint"),
    [
        ("layers/conv2d/vars/0", "conv2d number 0 is missing"),
        ("layers/conv2d_7/vars/0", "conv2d number 7 is missing"),
        ("layers/conv2d_34/vars/0", "conv2d number 34 is missing"),
        ("layers/depthwise_conv2d_9/vars/0", "depthwise_conv2d number 9 is missing"),
        ("layers/batch_normalization_5/vars/2", r"missing: features\.\S+\.running_mean"),
        ("layers/dense/vars/1", r"missing: classifier\.1\.bias"),
    ],
)
def test_numbered_layers_that_are_missing(tmp_path, lost, complaint) -> None:
    path = weights(tmp_path / "model.weights.h5", keras_checkpoint())
    with h5py.File(path, "r+") as file:
        del file[lost]
    with pytest.raises(ModelFileError, match=rf"model\.weights\.h5: .*{complaint}"):
        read(path)


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [
        ("layers/conv2d_35/vars/0", "conv2d number 35 is one too many"),
        ("layers/dense_1/vars/0", "dense number 1 is one too many"),
        ("layers/conv2d_3/vars/1", r"its array layers/conv2d_3/vars/1 is one too many"),
        (
            "layers/p_re_lu/vars/0",
            r"its array layers/p_re_lu/vars/0 is of a layer that the network does not have",
        ),
        (
            "layers/conv2d_0/vars/0",
            r"layers/conv2d/vars/0 and layers/conv2d_0/vars/0 are the same variable",
        ),
        (
            "layers/functional/layers/conv2d/vars/0",
            r"layers/functional/layers/conv2d/vars/0 are the same variable",
        ),
        ("seed_generator", "its array seed_generator is of a layer"),
    ],
)
def test_numbered_layers_that_are_too_many(tmp_path, extra, complaint) -> None:
    path = weights(tmp_path / "model.weights.h5", keras_checkpoint())
    with h5py.File(path, "r+") as file:
        file[extra] = np.zeros(3, np.float32)
    with pytest.raises(ModelFileError, match=rf"model\.weights\.h5: .*{complaint}"):
        read(path)


@pytest.mark.parametrize(
    "value", ["text", np.int32([1, 2]), h5py.Empty("f"), np.complex64(1)], ids=repr
)
def test_arrays_of_another_type(tmp_path, value) -> None:
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint())
    theirs = "block_3_depthwise/block_3_depthwise/depthwise_kernel:0"
    with h5py.File(path, "r+") as file:
        del file[theirs]
        file[theirs] = value
    with pytest.raises(ModelFileError, match=r"model\.h5: "):
        read(path)


@pytest.mark.parametrize("how", ["external", "virtual", "link"])
def test_arrays_that_lie_in_other_files_are_not_followed(tmp_path, how) -> None:
    """HDF5 can refer to any file of the machine; a model file that does so is refused."""
    (tmp_path / "secret").write_bytes(b"0123456789abcdef" * 100)
    other = write_keras_legacy(tmp_path / "other.h5", keras_checkpoint())
    path = write_keras_legacy(tmp_path / f"{how}.h5", keras_checkpoint())
    theirs = "predictions/predictions/bias:0"
    with h5py.File(path, "r+") as file:
        del file[theirs]
        if how == "external":
            file.create_dataset(
                theirs, (5,), np.float32, external=[(str(tmp_path / "secret"), 0, 20)]
            )
        elif how == "virtual":
            layout = h5py.VirtualLayout((5,), np.float32)
            layout[:] = h5py.VirtualSource(str(other), theirs, shape=(5,))
            file.create_virtual_dataset(theirs, layout)
        else:
            file[theirs] = h5py.ExternalLink(str(other), theirs)
    with pytest.raises(
        ModelFileError,
        match=rf"{how}\.h5: .*(lies in another file|missing: classifier\.1\.bias)",
    ):
        read(path)


def test_an_array_that_claims_to_be_huge(tmp_path) -> None:
    path = write_keras_legacy(tmp_path / "model.h5", keras_checkpoint())
    with h5py.File(path, "r+") as file:
        file.create_dataset(
            "huge/Conv9/kernel:0", (1 << 40,), np.float32, chunks=(1 << 20,)
        )  # takes no room
    with pytest.raises(ModelFileError, match=r"model\.h5: .*huge/Conv9/kernel:0 .* larger"):
        read(path)


@pytest.mark.parametrize("size", [40, 1000, 0.5, -30])
def test_a_truncated_archive(tmp_path, size) -> None:
    path = write_keras_archive(tmp_path / "model.keras", keras_checkpoint())
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content)) if size == 0.5 else size])
    with pytest.raises(ModelFileError, match=r"model\.keras"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"no hdf5"])
def test_an_archive_with_damaged_weights(tmp_path, content) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", content)
    with pytest.raises(ModelFileError, match=r"model\.keras: damaged, or not a Keras weights file"):
        read(path)


def test_an_archive_without_a_configuration(tmp_path) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(ModelFileError, match=r"model\.keras: damaged, or not a \.keras archive"):
        read(path)


def test_another_hdf5_file(tmp_path) -> None:
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file["images"] = np.zeros((4, 4), np.float32)
    with pytest.raises(ModelFileError, match=r"data\.h5: not Keras's MobileNetV2: .*images"):
        read(path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(ModelFileError, match=r"data\.h5: .*not a MobileNetV2"):
        read(path)


def test_without_h5py(tmp_path, monkeypatch) -> None:
    path = write_keras_archive(tmp_path / "model.keras", keras_checkpoint())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[formats\]'"):
        read(path)


def test_padding_and_epsilon_of_keras_matter() -> None:
    checkpoint = keras_checkpoint()
    for changes in ({"padding": "symmetric"}, {"bn_epsilon": 1e-5}):
        changed = replace(checkpoint, architecture=replace(checkpoint.architecture, **changes))
        assert difference(checkpoint, changed) > 1e-4, changes
