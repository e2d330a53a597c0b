"""Folders of images, by Keras's rules: what is in them, decoded as it is needed."""

from __future__ import annotations

import difflib
import math
import numbers
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from orthwrap import keras_inside
from orthwrap.data.batches import has_tensorflow
from orthwrap.data.pillow_images import check_pillow, decoded, resized
from orthwrap.data.ports import Array, NotFinite, Port, shape_text, trained_dtype
from orthwrap.data.samples import Samples
from orthwrap.errors import FileFault, OrthwrapError, UsageError, ValueFault
from orthwrap.stores.regular import open_regular
from orthwrap.text import first_line, shortened

TRAINING = "train"
VALIDATION = ("val", "valid", "validation")

_KINDS = ".bmp, .gif, .jpeg, .jpg, .png"
# How files of those kinds begin, and WebP, which newer versions of TensorFlow decode as well.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"RIFF")


# What becomes of the pixels


@dataclass(frozen=True)
class Pixels:
    """How a model wants its images.

    Attributes:
        scale: what each value from 0 to 255 is multiplied by; None for nothing.
        preprocessing: a module of `keras.applications`, whose `preprocess_input` is applied.
        size: height and width, where the model's input leaves them open.
    """

    scale: float | None = None
    preprocessing: str | None = None
    size: tuple[int, int] | None = None

    def describe(self) -> str:
        if self.preprocessing is not None:
            return f"preprocessed as for {self.preprocessing}"
        if self.scale is None:
            return "0–255, not rescaled"
        return f"0–{255 * self.scale:g}, rescaled"


def pixels(rescale: Any = None, preprocessing: Any = None, image_size: Any = None) -> Pixels | None:
    """What the user says of pixels, checked; None where it is nothing.

    Args:
        rescale: a number, or text such as `1/255`.
        preprocessing: the name of a module of `keras.applications`.
        image_size: `(height, width)`, or text such as `224x224`.

    Raises:
        ValueFault: a value that is none of these; of a module, the nearest name is given.
        UsageError: both rescale and preprocessing, which rescales in its own way.
    """
    if rescale is None and preprocessing is None and image_size is None:
        return None
    if rescale is not None and preprocessing is not None:
        raise UsageError(
            "rescale and preprocessing contradict each other: preprocessing rescales too"
        )
    return Pixels(
        None if rescale is None else _scale(rescale),
        None if preprocessing is None else _module(preprocessing),
        None if image_size is None else _size(image_size),
    )


def _scale(value: Any) -> float:
    top, _, bottom = str(value).partition("/")
    try:
        scale = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        scale = math.nan
    if not math.isfinite(scale) or scale == 0 or isinstance(value, bool):
        raise ValueFault(f"rescale {value!r} must be a number other than 0, or one like 1/255")
    return scale


def _size(value: Any) -> tuple[int, int]:
    parts = re.split(r"[x×,]", value) if isinstance(value, str) else value
    if isinstance(parts, numbers.Integral) and not isinstance(parts, bool):
        parts = [parts]
    try:
        parts = list(parts) * (2 if len(parts) == 1 else 1)  # one number is both
        height, width = (int(part) for part in parts)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1:
        raise ValueFault(
            f"image size {value!r} must be height and width, like 224x224, or one for both"
        )
    return height, width


def _module(name: Any) -> str:
    import keras

    known = [n for n in dir(keras.applications) if hasattr(_application(n), "preprocess_input")]
    if not isinstance(name, str):
        module = getattr(name, "__module__", None) or getattr(name, "__name__", "")
        family = str(module).rpartition(".")[2]
        example = family if family in known else "mobilenet_v2"
        raise ValueFault(
            f"preprocessing takes the name of a keras.applications family, such as {example!r}; "
            f"got {'a function' if callable(name) else type(name).__name__}"
        )
    if name not in known:
        close = difflib.get_close_matches(str(name).lower(), known, 1, 0.0)
        raise ValueFault(
            f"unknown preprocessing {name!r}; did you mean {close[0]!r}? "
            f"There are: {', '.join(known)}"
        )
    return str(name)


def _application(name: str) -> Any:
    import keras

    return getattr(keras.applications, name)


# Rows of x


@dataclass(frozen=True)
class ImageRows:
    """Image files, each decoded when its row is asked for.

    Attributes:
        paths: of the files.
        shape: height, width and channels.
        channels_first: whether the model takes channels × height × width.
        pixels: what becomes of them.
    """

    paths: tuple[str, ...]
    shape: tuple[int, int, int]
    channels_first: bool
    pixels: Pixels

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, samples: int) -> str:
        return f"images {shape_text((samples, *self.shape))} ({self.pixels.describe()})"

    def batches(self, rows: Any, batch_size: int) -> Any:
        import keras
        import tensorflow as tf

        with tf.device("CPU"):
            paths = tf.constant(self.paths)

        def image_of(row: Any) -> Any:
            return tf.cast(self._decoded(tf.gather(paths, row)), keras.config.floatx())

        images = tf.data.Dataset.from_tensor_slices(rows).map(
            tf.autograph.experimental.do_not_convert(image_of),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        batches = images.batch(batch_size)
        if self.pixels.preprocessing is None:
            return batches
        return batches.map(self._preprocessor(), num_parallel_calls=2, deterministic=True)

    def read(self, rows: Array) -> Any:
        with ThreadPoolExecutor() as pool:
            images = np.stack(list(pool.map(self._image, rows)))
        images = images.astype(trained_dtype(images.dtype), copy=False)
        return images if self.pixels.preprocessing is None else self._preprocess(images)

    def _image(self, row: int) -> Array:
        """As `_decoded`, by Pillow."""
        height, width, channels = self.shape
        image = resized(decoded(self.paths[row], channels), height, width)
        if self.pixels.scale is not None:
            image *= np.float32(self.pixels.scale)
        return image.transpose(2, 0, 1) if self.channels_first else image

    def not_finite(self, rows: Array | None) -> NotFinite | None:
        return None  # images hold whole numbers

    def explain(self, error: BaseException) -> OrthwrapError | None:
        """Decodes the files again until one fails."""
        if not has_tensorflow():
            return None  # Pillow's errors name the file at once
        import tensorflow as tf

        if not isinstance(error, tf.errors.OpError):
            return None
        decoded = tf.data.Dataset.from_tensor_slices(list(self.paths)).map(
            lambda path: tf.reduce_max(self._decoded(path)),  # a shape alone would be known without
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        at = -1
        try:
            for at, _ in enumerate(decoded):  # noqa: B007  # how far it came
                pass
        except tf.errors.OpError as e:
            why = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", first_line(e)).strip()
            return FileFault(
                f"image {self.paths[at + 1]} cannot be decoded ({why}): mend it or remove it"
            )
        return None

    def _decoded(self, path: Any) -> Any:
        """As `keras.utils.image_dataset_from_directory` has it; then rescaled and transposed."""
        import tensorflow as tf

        height, width, channels = self.shape
        image = tf.image.resize(_pixels_of(tf.io.read_file(path), channels), (height, width))
        image.set_shape((height, width, channels))
        if self.pixels.scale is not None:
            image *= self.pixels.scale
        return tf.transpose(image, (2, 0, 1)) if self.channels_first else image

    def _preprocess(self, batch: Array) -> Array:
        assert self.pixels.preprocessing is not None
        preprocess = _application(self.pixels.preprocessing).preprocess_input
        data_format = "channels_first" if self.channels_first else "channels_last"
        # A copy: it is changed in place.
        done = preprocess(np.array(batch), data_format=data_format)
        return np.asarray(done, batch.dtype)

    def _preprocessor(self) -> Any:
        import tensorflow as tf

        def of_tensors(batch: Any) -> Any:
            # NumPy: Keras's own operations on tensors are those of its backend.
            done = tf.numpy_function(self._preprocess, [batch], batch.dtype, stateful=False)
            done.set_shape(batch.shape)
            return done

        return tf.autograph.experimental.do_not_convert(of_tensors)


def _pixels_of(content: Any, channels: int) -> Any:
    """A file's pixels, uint8; the combinations that TensorFlow does not decode are converted."""
    import tensorflow as tf

    def decode(channels: int) -> Any:
        image = tf.io.decode_image(content, channels=channels, expand_animations=False)
        image.set_shape((None, None, channels))
        return image

    first = tf.strings.substr(content, 0, 1)
    if channels == 1:
        is_direct = (first != b"G") & (first != b"B") & (first != b"R")
        return tf.cond(is_direct, lambda: decode(1), lambda: tf.image.rgb_to_grayscale(decode(3)))
    if channels == 4:
        is_direct = (first != b"G") & (first != b"\xff") & (first != b"R")

        def opaque() -> Any:
            return tf.pad(decode(3), ((0, 0), (0, 0), (0, 1)), constant_values=255)

        return tf.cond(is_direct, lambda: decode(4), opaque)
    return decode(3)


# What is in a folder


class ImageFolder(NamedTuple):
    """The two sets of a folder; the second may be None."""

    train: Samples
    held_out: Samples | None


def find_images(
    folder: Path, inputs: Sequence[Port], outputs: Sequence[Port], labelled: bool, how: Pixels
) -> ImageFolder:
    """The images of a folder of class folders, or of `train` and `val` with such.

    Which files are images, and the order of classes and files, are those of
    `keras.utils.image_dataset_from_directory`. Files that do not begin as an image does are
    found here; others that are broken, when they are decoded.

    Args:
        folder: where they are.
        inputs, outputs: of the model, which takes one image and gives one output.
        labelled: False takes class folders and a flat folder alike.
        how: what becomes of the pixels.

    Raises:
        FileFault: no images, a class without any, or a file that is no image.
        ValueFault: images or classes do not fit the model.
    """
    sub = _folders(folder)
    held_out = _validation_folder(folder, sub)
    if held_out is not None:
        sub = _folders(folder / TRAINING)
    if labelled and not sub:
        at = folder if held_out is None else folder / TRAINING
        raise FileFault(
            f"{at} is a folder without class folders: put the images of each class in a folder "
            "of its name, or give a .npz file with x and y"
        )
    shape, channels_first = _image_shape(inputs, how)
    if not has_tensorflow():
        check_pillow()

    def read(path: Path) -> Samples:
        found, classes, numbers = _list(path, labelled)
        if labelled:
            if path != held_out:
                _check_filled(path, classes, numbers)
            _check_classes(path, classes, outputs)
        _check_signatures(found)
        rows = ImageRows(found, shape, channels_first, how)
        return Samples(rows, (numbers,) if labelled else (), class_names=classes)

    if held_out is None:
        return ImageFolder(read(folder), None)
    return ImageFolder(read(folder / TRAINING), read(held_out))


def _folders(folder: Path) -> list[str]:
    """The folders in a folder that Keras takes as classes."""
    try:
        return sorted(
            e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith(".")
        )
    except OSError as e:
        raise FileFault(f"cannot read the folder {folder}: {e.strerror}") from e


def _validation_folder(folder: Path, names: list[str]) -> Path | None:
    """The folder to validate on, where a folder is one of `train` and `val`.

    A class may be called `train` too: then it holds images rather than folders.
    """
    also = [n for n in names if n in VALIDATION]
    if TRAINING not in names:
        return None
    if len(names) == 2 and also:
        return folder / also[0]
    if _folders(folder / TRAINING) and not any(
        e.name.lower().endswith(tuple(_KINDS.split(", "))) for e in os.scandir(folder / TRAINING)
    ):
        raise ValueFault(
            f"{folder} holds {', '.join(names)}: expected {TRAINING} and {VALIDATION[0]} alone; "
            f"give {folder / TRAINING} as data, and the folder to validate on as validation"
        )
    return None


def _image_shape(inputs: Sequence[Port], how: Pixels) -> tuple[tuple[int, int, int], bool]:
    """Height, width and channels, and whether the channels come first."""
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 3:
        wanted = ", ".join(f"{p.name!r} {shape_text(p.shape) or '()'}" for p in inputs)
        raise ValueFault(f"a folder of images needs a model of one image input; it takes {wanted}")
    channels_first = shape[2] not in (1, 3, 4) and shape[0] in (1, 3, 4)
    channels = shape[0] if channels_first else shape[2]
    own = shape[1:] if channels_first else shape[:2]
    if channels not in (1, 3, 4):
        raise ValueFault(
            f"input {inputs[0].name!r} of the model takes {shape_text(shape)}: an image has 1, 3 "
            "or 4 channels; give arrays instead"
        )
    if how.size is not None and any(a not in (None, b) for a, b in zip(own, how.size, strict=True)):
        raise ValueFault(
            f"image size {shape_text(how.size)} does not fit input {inputs[0].name!r} of the "
            f"model, which takes {shape_text(own)}"
        )
    height, width = how.size or own
    if height is None or width is None:
        raise ValueFault(
            f"input {inputs[0].name!r} of the model takes images of any size "
            f"({shape_text(shape)}): give an image size, like 224x224"
        )
    return (height, width, channels), channels_first


def _list(folder: Path, labelled: bool) -> tuple[tuple[str, ...], tuple[str, ...], Array]:
    """Files, classes and each file's class, as Keras finds and sorts them."""
    try:
        found, classes = keras_inside.files_in(str(folder), labelled, tuple(_KINDS.split(", ")))
        for path in found:
            path.encode()
    except UnicodeError as e:
        raise FileFault(f"{folder} has a name in it that is no UTF-8: rename it") from e
    except OSError as e:
        raise FileFault(f"cannot read the folder {e.filename or folder}: {e.strerror}") from e
    if not found:
        raise FileFault(f"{folder} holds no images ({_KINDS}){_others(folder)}")
    paths = tuple(found)
    if not labelled:
        return paths, (), np.zeros(0, np.int32)
    number = {name: i for i, name in enumerate(classes)}
    start = len(os.path.join(folder, ""))
    numbers = [number[path[start:].split(os.sep, 1)[0]] for path in paths]
    return paths, tuple(classes), np.array(numbers, np.int32)


def _others(folder: Path) -> str:
    """What kinds of file are in a folder without images."""
    kinds = Counter(p.suffix.lower() or p.name for p in folder.rglob("*") if p.is_file())
    found = ", ".join(kind for kind, _ in kinds.most_common(5))
    return f": it holds {found}" if found else ": it is empty"


def _check_filled(folder: Path, classes: Sequence[str], numbers: Array) -> None:
    """Each class to train on must have images."""
    for i, name in enumerate(classes):
        if not np.any(numbers == i):
            raise FileFault(
                f"class folder {folder / name} holds no images ({_KINDS})"
                f"{_others(folder / name)}; remove it or fill it"
            )


def _check_classes(folder: Path, classes: Sequence[str], outputs: Sequence[Port]) -> None:
    if len(outputs) != 1:
        raise ValueFault(
            f"{folder} gives one class per image; the model has {len(outputs)} outputs: give "
            "arrays or a function instead"
        )
    units = outputs[0].shape[-1] if outputs[0].shape else None
    is_binary = units == 1 and len(classes) == 2
    if units is not None and units != len(classes) and not is_binary:
        raise ValueFault(
            f"{folder} has {len(classes)} classes ({shortened(classes)}); output "
            f"{outputs[0].name!r} of the model has {units}"
        )


def _check_signatures(paths: Iterable[str]) -> None:
    def start_of(path: str) -> tuple[str, bytes]:
        try:
            with open_regular(path) as f:
                return path, f.read(8)
        except OSError as e:
            raise FileFault(f"cannot read the image {path}: {e.strerror}") from e

    with ThreadPoolExecutor(8) as pool:
        odd = [
            (path, start)
            for path, start in pool.map(start_of, paths)
            if not start.startswith(_SIGNATURES)
        ]
    if odd:
        path, start = odd[0]
        more = f" ({len(odd) - 1} more like it)" if len(odd) > 1 else ""
        what = f"it begins with {start!r}" if start else "it is empty"
        raise FileFault(f"{path} is no JPEG, PNG, GIF or BMP: {what}; mend or remove it{more}")
