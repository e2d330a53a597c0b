"""File to file: only the chosen nodes differ, strip is the inverse, bad input costs nothing."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import orthwrap
from orthwrap.errors import FileFault
from orthwrap.model_config.tree import is_ours
from orthwrap.stores.files import open_file
from orthwrap.stores.replacing import replacing
from tests.conftest import needs_keras
from tests.support.samples import nested_file, small_file

SUFFIXES = (".h5", ".keras")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def root_of(path: Path) -> Any:
    with contextlib.closing(open_file(path)) as store:
        return store.root


def h5_content(path: Path) -> dict[str, Any]:
    """Everything in an HDF5 file: attributes and datasets by name, as bytes."""
    content: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        for key, value in item.attrs.items():
            content[f"{name}@{key}"] = np.asarray(value).tolist()
        if isinstance(item, h5py.Dataset):
            content[name] = (item.dtype.str, item.shape, item[()].tobytes())

    with h5py.File(path, "r") as f:
        note("", f)
        f.visititems(note)
    return content


def without_ours(tree: Any, removed: list[str], where: str = "") -> Any:
    """The tree without orthwrap's nodes, which are noted and give way to what they hold."""
    if isinstance(tree, dict):
        result = {}
        for key, value in tree.items():
            if is_ours(value):
                removed.append(f"{where}/{key}")
                config = value["config"]
                if config.get("absent"):
                    continue
                value = config["combined_with"] or config["replaced"]
            result[key] = without_ours(value, removed, f"{where}/{key}")
        return result
    if isinstance(tree, list):
        return [without_ours(v, removed, f"{where}/{i}") for i, v in enumerate(tree)]
    return tree


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "rule", [{}, {"target": "all"}, {"existing": "replace"}, {"on": "activity"}]
)
def test_only_the_chosen_nodes_differ_and_strip_is_the_inverse(tmp_path, suffix, rule) -> None:
    needs_keras("3.11", "writes models within models that no upgrade concerns")
    source = nested_file(suffix)
    before = digest(source)
    out, plain = tmp_path / f"out{suffix}", tmp_path / f"plain{suffix}"
    result = orthwrap.apply(source, out, **rule)
    orthwrap.strip(out, plain)
    assert digest(source) == before
    roots = [root_of(p) for p in (source, out, plain)]
    assert roots[0] == roots[2]
    changed: list[str] = []
    assert without_ours(roots[1], changed) == roots[0]
    regularized = [r for r in result.report.layers if r.decision == "regularized"]
    assert len(changed) == len(regularized)
    key = "activity_regularizer" if rule.get("on") else "_regularizer"
    assert all(x.endswith(key) for x in changed)


def test_the_rest_of_an_h5_file_is_the_same(tmp_path) -> None:
    out = tmp_path / "out.h5"
    orthwrap.apply(nested_file(".h5"), out, target="all")
    before, after = h5_content(nested_file(".h5")), h5_content(out)
    before.pop("@model_config"), after.pop("@model_config")
    assert before == after
    assert any("optimizer" in key for key in after)


def test_the_rest_of_a_keras_archive_is_the_same(tmp_path) -> None:
    source, out = nested_file(".keras"), tmp_path / "out.keras"
    orthwrap.apply(source, out, target="all")
    with zipfile.ZipFile(source) as a, zipfile.ZipFile(out) as b:
        assert a.namelist() == b.namelist()
        for x, y in zip(a.infolist(), b.infolist(), strict=True):
            assert (x.compress_type, x.date_time, x.external_attr) == (
                (y.compress_type, y.date_time, y.external_attr)
            )
            if x.filename != "config.json":
                assert a.read(x) == b.read(y)


def test_a_compressed_archive_stays_compressed(tmp_path) -> None:
    source = tmp_path / "packed.keras"
    with (
        zipfile.ZipFile(small_file(".keras")) as a,
        zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as b,
    ):
        for name in a.namelist():
            b.writestr(name, a.read(name))
    report = orthwrap.apply(source, tmp_path / "out.keras").report
    plain = orthwrap.apply(small_file(".keras"), tmp_path / "plain.keras").report
    assert [r.before for r in report.layers] == [r.before for r in plain.layers]
    with zipfile.ZipFile(tmp_path / "out.keras") as z:
        assert {i.compress_type for i in z.infolist()} == {zipfile.ZIP_DEFLATED}


@pytest.mark.dear
@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_keras_loads_the_result_with_the_same_outputs(tmp_path, suffix) -> None:
    import keras

    out = tmp_path / f"out{suffix}"
    report = orthwrap.apply(nested_file(suffix), out, target="all", factor=0.5).report
    plain, ours = (orthwrap.load_model(p) for p in (nested_file(suffix), out))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(plain(x), ours(x))
    kernels = sum(r.decision == "regularized" for r in report.layers)
    # The sample's own losses: an L2, which ours now holds, and an L1 of an activity.
    assert len(ours.losses) == kernels + 1
    l2 = float(keras.regularizers.L2(0.01)(ours.get_layer("stem").kernel))
    weights_only = sum(float(v.regularizer(v)) for v in ours.trainable_variables if v.regularizer)
    assert weights_only - l2 == pytest.approx(report.summary["penalty_before"], rel=1e-4)


def test_a_config_over_64_kb_is_written(tmp_path) -> None:
    source = tmp_path / "big.h5"
    source.write_bytes(small_file(".h5").read_bytes())
    with h5py.File(source, "r+") as f:
        config = json.loads(f.attrs["model_config"])
        config["config"]["note"] = "x" * 100_000
        f.attrs.create("model_config", json.dumps(config), dtype=h5py.string_dtype())
    out = orthwrap.apply(source, tmp_path / "out.h5").output
    assert open_file(out).root["config"]["note"] == "x" * 100_000


@pytest.mark.parametrize(
    ("suffix", "stem"), [(".h5", "m"), (".keras", "m"), (".hdf5", "m"), (".h5", "a.b c é")]
)
def test_the_default_output_lies_beside_the_input(tmp_path, suffix, stem) -> None:
    source = tmp_path / f"{stem}{suffix}"
    source.write_bytes(small_file(".keras" if suffix == ".keras" else ".h5").read_bytes())
    assert orthwrap.apply(source).output == tmp_path / f"{stem}-orth{suffix}"
    assert orthwrap.strip(tmp_path / f"{stem}-orth{suffix}").output == (
        tmp_path / f"{stem}-orth-plain{suffix}"
    )


def test_a_file_without_extension_gets_one(tmp_path) -> None:
    source = tmp_path / "saved"
    source.write_bytes(small_file(".h5").read_bytes())
    assert orthwrap.apply(str(source)).output == tmp_path / "saved-orth.h5"


@pytest.mark.parametrize(("source", "target"), [(".h5", ".keras"), (".keras", ".h5")])
def test_the_suffix_of_the_output_converts(tmp_path, source, target) -> None:
    out = tmp_path / f"out{target}"
    result = orthwrap.apply(small_file(source), out)
    assert open_file(out).format == target.removeprefix(".")
    assert result.report.output == str(out)
    again = orthwrap.inspect(out)
    assert again.summary["regularized"] == 3
    assert [r.before for r in again.layers] == [r.before for r in result.report.layers]


def test_permissions_are_the_input_s_and_links_are_followed(tmp_path) -> None:
    source, link = tmp_path / "m.h5", tmp_path / "link.h5"
    source.write_bytes(small_file(".h5").read_bytes())
    source.chmod(0o640)
    link.symlink_to(source)
    out, out_link = tmp_path / "real-out.h5", tmp_path / "out.h5"
    out.write_bytes(b"old")
    out_link.symlink_to(out)
    orthwrap.apply(link, out_link, force=True)
    assert out_link.is_symlink()
    assert open_file(out).format == "h5"
    assert stat.S_IMODE(out.stat().st_mode) == 0o640


# Bad input: one line, the input untouched, no output left.


def truncated(path: Path) -> None:
    data = small_file(".h5").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def truncated_zip(path: Path) -> None:
    data = small_file(".keras").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def weights_only(path: Path) -> None:
    with h5py.File(path, "w") as f:
        f.attrs["layer_names"] = [b"conv1"]
        f.create_group("conv1").create_dataset("kernel", data=np.ones(3))


def keras3_weights(path: Path) -> None:
    with h5py.File(path, "w") as f:
        f.create_group("layers/conv2d/vars").create_dataset("0", data=np.ones(3))


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as z:
        z.writestr("hello.txt", "hi")


def config(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as f:
            f.attrs["model_config"] = text

    return make


def zip_with(**members: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with zipfile.ZipFile(small_file(".keras")) as a, zipfile.ZipFile(path, "w") as b:
            for name in a.namelist():
                b.writestr(name, members.get(name.replace(".", "_"), a.read(name)))

    return make


def twice(path: Path) -> None:
    with zipfile.ZipFile(small_file(".keras")) as a, zipfile.ZipFile(path, "w") as b:
        for name in a.namelist():
            b.writestr(name, a.read(name))
        with pytest.warns(UserWarning, match="Duplicate"):
            b.writestr("config.json", b"{}")


BAD_FILES: list[tuple[str, Callable[[Path], object], str]] = [
    ("text.h5", lambda p: p.write_text("not a model"), "neither an HDF5"),
    ("empty.h5", lambda p: p.write_bytes(b""), "empty"),
    ("cut.h5", truncated, "broken HDF5"),
    ("cut.keras", truncated_zip, "cut short"),
    ("weights.h5", weights_only, "weights only"),
    ("model.weights.h5", keras3_weights, "weights only"),
    ("other.h5", lambda p: h5py.File(p, "w").close(), "no Keras model"),
    ("other.keras", other_zip, "no .keras archive"),
    ("missing.h5", lambda p: None, "does not exist"),
    ("folder.keras", lambda p: p.mkdir(), "is a folder"),
    ("junk.h5", config("{"), "not JSON"),
    ("list.h5", config("[]"), "no Keras model"),
    ("none.h5", config("{}"), "no Keras model"),
    ("string.h5", config('{"class_name": "Sequential", "config": "x"}'), "no layers"),
    ("deep.h5", config('{"a":' * 40_000), "not JSON"),
    ("deep2.h5", config("[" * 5_000 + "]" * 5_000), "JSON"),
    ("badjson.keras", zip_with(config_json=b"nope"), "not JSON"),
    ("badweights.keras", zip_with(model_weights_h5=b"nope" * 999), "broken weights"),
    ("twice.keras", twice, "twice"),
]


@pytest.mark.parametrize(("name", "make", "words"), BAD_FILES, ids=[b[0] for b in BAD_FILES])
@pytest.mark.parametrize("verb", ["inspect", "apply", "strip", "compare"])
def test_a_bad_file_is_one_line_and_costs_nothing(tmp_path, name, make, words, verb) -> None:
    path = tmp_path / name
    make(path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    call = getattr(orthwrap, verb)
    arguments = (path, path) if verb == "compare" else (path,)
    if name == "string.h5" and verb != "apply":
        return  # a model of no layers can be looked at
    with pytest.raises(orthwrap.OrthwrapError) as caught:
        call(*arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("m.h5", "is the input"),
        ("./m.h5", "is the input"),
        ("link.h5", "is the input"),
        ("there.h5", "exists"),
        ("folder.h5", "is a folder"),
        ("no/such/out.h5", "does not exist"),
        ("out.txt", "must end in"),
        ("-", "standard output"),
    ],
)
def test_an_output_that_must_not_be_written(tmp_path, monkeypatch, output, words) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.h5").write_bytes(small_file(".h5").read_bytes())
    Path("there.h5").write_bytes(b"precious")
    Path("folder.h5").mkdir()
    Path("link.h5").symlink_to("m.h5")
    before = digest(Path("m.h5"))
    with pytest.raises(FileFault, match=words):
        orthwrap.apply("m.h5", output, force=output in ("m.h5", "./m.h5", "link.h5"))
    assert digest(Path("m.h5")) == before
    assert Path("there.h5").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "folder.h5",
        "link.h5",
        "m.h5",
        "there.h5",
    ]


def test_a_failure_while_writing_leaves_the_old_file(tmp_path) -> None:
    target = tmp_path / "out.h5"
    target.write_bytes(b"old")

    def fail() -> None:
        with replacing(target) as sibling:
            sibling.write_bytes(b"half")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write to")
def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(FileFault, match="cannot write into"):
        orthwrap.apply(small_file(".h5"), "/proc/out.h5")


def test_dry_run_writes_nothing(tmp_path) -> None:
    result = orthwrap.apply(small_file(".h5"), tmp_path / "out.h5", dry_run=True)
    assert result.report.output is None
    assert result.report.summary["regularized"] == 3
    assert not list(tmp_path.iterdir())


def test_no_measure_skips_the_figures(tmp_path) -> None:
    report = orthwrap.apply(small_file(".h5"), tmp_path / "o.h5", measure=False).report
    assert all(r.before is None for r in report.layers)
    assert report.summary["penalty_before"] is None


def test_compare_tells_what_differs(tmp_path) -> None:
    source, out = small_file(".h5"), tmp_path / "out.h5"
    orthwrap.apply(source, out, target="all-conv", factor=0.5, scale="unit")
    with h5py.File(out, "r+") as f:
        group = f["model_weights/conv2"]
        (name,) = (n for n in group.attrs["weight_names"] if n.endswith("kernel"))
        group[name][...] = group[name][...] * 1.1
    report = orthwrap.compare(source, out)
    by_path = {c.path: c for c in report.layers}
    assert by_path["conv1"].status == "same"
    assert by_path["conv2"].status == "changed"
    assert by_path["conv2"].weight_change == pytest.approx(0.1, rel=1e-3)
    assert by_path["conv1"].regularizer_before is None
    assert by_path["conv1"].regularizer_after == "so 0.5"
    assert report.summary["regularizers_changed"] == 2
    json.dumps(report.to_json(), allow_nan=False)
