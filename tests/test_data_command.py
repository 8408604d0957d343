"""``trust-exp data``: what a user sees of the data sets, and what he reads when one is missing or damaged."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.waiting import PATIENCE
from trust_exp import cli
from trust_exp.commands import data as command
from trust_exp.commands.data import chosen_rows, list_data, open_data, rarest, read_choice, state
from trust_exp.commands.list import described
from trust_exp.data import store
from trust_exp.data.config import DatasetInfo
from trust_exp.messages import exit_code_of
from trust_exp.schema import ROOT
from trust_exp.viz.contact_sheet import Labels, colours, draw_contact_sheet, mapped_sheet, plain_sheet


def trust_exp(*arguments):
    """The command in a process of its own."""
    words = [sys.executable, "-m", "trust_exp.cli", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def here(capsys):
    """The command in this process, which has imported torch already: its exit code, and what it said."""

    def run(*arguments):
        code = exit_code_of(lambda: cli.run(["data", *map(str, arguments)]))
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def unpack(shared_data, folder, *names):
    script = shared_data.parent / "tools" / "unpack_data.py"
    subprocess.run([sys.executable, script, "--to", folder, *names], check=True, capture_output=True)


@pytest.fixture(scope="module")
def voc(shared_data, tmp_path_factory):
    """A data folder into which the real sample of VOC was imported, and what that printed."""
    folder = tmp_path_factory.mktemp("voc")
    unpack(shared_data, folder, "voc2007")
    done = trust_exp("data", "import", "voc", folder, "--root", folder / "root")
    assert done.returncode == 0, done.stderr
    return folder / "root", done


# --- list ----------------------------------------------------------------------------------------------------------


def test_list_imports_nothing_that_takes_long(tmp_path):
    code = f"import sys; from trust_exp import cli; cli.run(['data', 'list', '--root', {str(tmp_path)!r}]); "
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    imported = done.stderr.split()
    assert "trust_exp.data.sources.voc" in imported
    for heavy in ("torch", "lightning", "sklearn", "scipy", "matplotlib", "torchvision"):
        assert heavy not in imported


def test_list_has_a_line_for_every_data_set(tmp_path, capsys):
    list_data(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    firsts = {line.split(" ")[0]: line for line in lines}
    for name, _ in described("dataset"):
        assert name in firsts
    for text in ("boxes", "16,551 + 4,952", "~2.9 GB", "missing", "downloads itself", "Flickr"):
        assert text in firsts["voc"]
    assert "embedded" in firsts["digits"]


def test_a_narrow_terminal_gets_everything_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "70")
    list_data(tmp_path)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 70
    joined = " ".join(out.split())
    for name, _ in described("dataset"):
        for source in read_choice(name).sources:
            assert not source.images or source.licence in joined
            assert not source.images or source.remotes or source.homepage in joined
        assert f"{name}: " in joined


def test_state_tells_what_is_there(tmp_path):
    voc = read_choice("voc")
    assert state(voc, tmp_path) == "missing"
    devkit = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (devkit / name).mkdir(parents=True)
    (devkit / "ImageSets" / "Main" / "test.txt").write_text("a")
    assert state(voc, tmp_path) == f"files in {tmp_path}"
    (tmp_path / "prepared" / "voc").mkdir(parents=True)
    (tmp_path / "prepared" / "voc" / "manifest.json").write_text("{")
    assert state(voc, tmp_path) == "prepared"
    assert "damaged" in command._row(voc, tmp_path)
    assert state(read_choice("digits"), tmp_path) == "embedded"


def test_a_set_made_of_others_is_there_when_they_are(tmp_path, monkeypatch):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "both.yaml").write_text("# Two sets\nname: both\nmade_of: [cifar10, cifar100]\n")
    for module in ("choices", "commands.data"):
        monkeypatch.setattr(f"trust_exp.{module}.CONF", tmp_path)
    both = read_choice("both")
    assert [source.name for source in both.sources] == ["cifar10", "cifar100"]
    assert state(both, tmp_path) == "missing"
    write_manifest(tmp_path, "cifar10")
    assert state(both, tmp_path) == "cifar100 missing"
    write_manifest(tmp_path, "cifar100")
    assert state(both, tmp_path) == "prepared"


def write_manifest(root, name):
    with store.preparing(root, name) as writer:
        writer.info = DatasetInfo(name, ("a",), (1, 8, 8), (0.0, 1.0))


def test_list_tells_the_size_of_what_is_there(voc):
    _, _, _, size, where, *_ = command._row(read_choice("voc"), voc[0])
    assert (size, where) == ("~41 MB", "prepared")  # 300 of 21,503 images


# --- import and verify -----------------------------------------------------------------------------------------------


def test_import_says_what_it_found(voc):
    root, done = voc
    assert done.stdout.splitlines() == [
        f"imported voc into {root}/prepared/voc",
        "  2007_trainval: 0 of 5,011 images",
        "  2007_test: 300 of 4,952 images",
        "  2012_trainval: 0 of 11,540 images",
    ]
    assert done.stderr.strip() == (
        "warning: these may not be the published files of voc: images are missing or too many"
    )


def test_import_says_what_was_converted(tmp_path, capsys, monkeypatch):
    def prepare(name, folder, root):
        with store.preparing(root, name) as writer:
            writer.info, writer.source = DatasetInfo(name, ("a",), (1, 8, 8), (0.0, 1.0)), {"verified": True}
            writer.count_images({"grey": 12, "cmyk": 0})
            writer.converted["boxes beyond the border"] = 3
            writer.put("test", images=np.zeros((4, 1, 8, 8), np.uint8), labels=np.zeros(4, np.uint8))
        return store.prepared_folder(root, name)

    monkeypatch.setattr("trust_exp.data.sources.import_dataset", prepare)
    command.import_data("mnist", tmp_path, tmp_path)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  train: 0 of 60,000 images",
        "  test: 4 of 10,000 images",
        "  12 grey images were converted",
        "  3 boxes beyond the border were converted",
        "  the files are the published ones: their checksums agree",
    ]


@pytest.fixture
def photographs(tmp_path):
    """A small Caltech-101, with a photograph that EXIF turns, a file that is no image and one that cannot be read."""
    for label in ("ant", "bass"):
        for number in range(5):
            path = tmp_path / "files" / "101_ObjectCategories" / label / f"image_{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 9)).save(path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 9)).save(path, exif=exif)
    (path.parent / "notes.txt").touch()
    (path.parent / "x.HEIC").touch()
    return tmp_path / "files"


LEFT_OUT = [
    "1 file that is not an image is left out (notes.txt)",
    "1 image is left out, as images of its kind are not read (.heic); convert it, e.g. to PNG",
]


def test_import_and_show_say_what_was_left_out_and_why(photographs, tmp_path, here):
    done = here("import", "caltech101", photographs, "--root", tmp_path)
    expected = ["  1 images that EXIF turns were converted", *(f"  {one}" for one in LEFT_OUT)]
    assert done.stdout.splitlines()[3:] == expected
    shown = here("show", "caltech101", "--root", tmp_path, "--out", tmp_path / "a.png", "dataset.workers=0")
    assert shown.stdout == f"{tmp_path / 'a.png'}\n"
    assert shown.stderr.splitlines() == [f"dataset=caltech101: {one}" for one in LEFT_OUT]


def test_verify_knows_that_photographs_were_turned(photographs, tmp_path, here):
    here("import", "caltech101", photographs, "--root", tmp_path)
    assert here("verify", "caltech101", "--root", tmp_path).returncode == 0
    path = photographs / "101_ObjectCategories" / "bass" / "image_0004.jpg"
    Image.new("RGB", (12, 9)).save(path)
    assert_one_sentence(here("verify", "caltech101", "--root", tmp_path), f"{path} has changed since caltech101 was")


def test_verify_says_that_an_older_version_prepared_a_set(photographs, tmp_path, here):
    here("import", "caltech101", photographs, "--root", tmp_path)
    path = tmp_path / "prepared" / "caltech101" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "reading": 1}))
    done = here("verify", "caltech101", "--root", tmp_path)
    assert_one_sentence(done, f"caltech101 in {tmp_path} was prepared by an older version; the next run prepares it")


def test_names_that_are_not_utf8_are_printed():
    code = "from trust_exp import cli; cli.run = lambda words: print(*words); cli.main()"
    done = subprocess.run([sys.executable, "-c", code, os.fsdecode(b"caf\xe9")], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"caf\\xe9\n"), done.stderr


def test_verify_reads_every_image_of_the_index(voc, here):
    root, _ = voc
    whole = here("verify", "voc", "--root", root)
    assert whole.stdout.splitlines()[0] == f"voc in {root} is complete"
    image = root.parent / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000025.jpg"
    before = image.read_bytes()
    try:
        for content, sentence in (
            (before[: len(before) // 2], f"{image} is damaged"),
            (None, f"{image} cannot be read: No such file or directory"),
            (png_of_another_size(), f"{image} has changed since voc was prepared"),
        ):
            image.unlink(missing_ok=True)
            if content:
                image.write_bytes(content)
            assert_one_sentence(here("verify", "voc", "--root", root), sentence)
    finally:
        image.write_bytes(before)


def png_of_another_size():
    stream = io.BytesIO()
    Image.new("RGB", (5, 5)).save(stream, "PNG")
    return stream.getvalue()


def test_verify_finds_a_changed_index(voc, tmp_path, here):
    shutil.copytree(voc[0] / "prepared", tmp_path / "prepared")
    index = tmp_path / "prepared" / "voc" / "2007_test_boxes.npy"
    content = bytearray(index.read_bytes())
    content[-1] ^= 1
    index.write_bytes(content)
    assert_one_sentence(here("verify", "voc", "--root", tmp_path), f"{index} has changed")


def test_verify_says_when_the_images_are_gone(voc, tmp_path, here):
    shutil.copytree(voc[0] / "prepared", tmp_path / "prepared")
    path = tmp_path / "prepared" / "voc" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "folder": str(tmp_path / "moved")}))
    done = here("verify", "voc", "--root", tmp_path)
    assert_one_sentence(done, f"the images of voc are no longer in {tmp_path / 'moved'}")


def assert_one_sentence(process, sentence):
    assert process.returncode == 2, process.stderr
    assert process.stderr.startswith("error: ")
    assert len(process.stderr.strip().splitlines()) == 1, process.stderr
    assert sentence in process.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["import", "vocc", "."], "the data set 'vocc' does not exist; did you mean voc?"),
        (["import", "voc", "/nowhere"], "/nowhere is not a folder"),
        (["import", "voc", "conf"], "conf lacks a list of images such as"),
        (["import", "digits", "."], "digits cannot be imported from a folder, as it is embedded; sets that can: "),
        (["import", "npz", "."], "npz cannot be imported from a folder; it is served from where it is"),
        (["verify", "vocc"], "did you mean voc?"),
        (["verify", "digits"], "digits cannot be verified, as it is embedded"),
        (["verify", "voc", "--root", "/nowhere"], "voc is not prepared in /nowhere; a run prepares it, or: trust-exp"),
        (["show", "vocc"], "did you mean voc?"),
        (["show", "voc", "--root", "/nowhere"], "voc is not in /nowhere; trust-exp data list says how to get it"),
        (["show", "digits", "--count", "0"], "--count must be at least 1; got 0"),
        (["show", "digits", "seed=1"], "'seed=1' is not dataset.key=value"),
        (["show", "digits", "dataset.imagesize=1"], "the key 'dataset.imagesize' does not exist"),
        (["show", "digits", "--out", "/proc/sheet.png"], "cannot write /proc/sheet.png"),
        (["show", "two_moons"], "dataset=two_moons has no images to show"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_sentence_and_exit_code_2(here, arguments, sentence):
    assert_one_sentence(here(*arguments), sentence)


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_draws_and_does_not_write_over_what_is_there(tmp_path, here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = here("show", "digits")
    assert (done.returncode, done.stdout, done.stderr) == (0, "digits.png\n", "")
    with Image.open("digits.png") as page:
        assert page.format == "PNG"
        assert page.width > 1000
    before = Path("digits.png").read_bytes()
    assert_one_sentence(here("show", "digits"), "digits.png exists already; --out digits.png overwrites it")
    assert Path("digits.png").read_bytes() == before
    assert here("show", "digits", "--out", "digits.png", "--count", "3", "--split", "train").returncode == 0
    assert Path("digits.png").read_bytes() != before


def test_show_takes_the_options_of_the_data_set(voc, tmp_path, here):
    options = ["--count", "2", "dataset.image_size=[64,96]", "--root", voc[0], "--out", tmp_path / "voc.png"]
    done = here("show", "voc", *options)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'voc.png'}\n"), done.stderr
    with Image.open(tmp_path / "voc.png") as page:
        assert page.height < page.width / 2  # two tiles that are wider than high


def test_as_many_of_each_class_are_shown_as_may_be(tmp_path):
    data = open_data("digits", tmp_path, [])
    labels = data.arrays("test").labels
    for count, tallies in ((10, {1}), (24, {2, 3}), (400, None)):
        rows = chosen_rows(data, "test", count)
        assert len(rows.unique()) == len(rows) == min(count, 359)
        assert labels[rows].tolist() == sorted(labels[rows].tolist())
        assert tallies is None or set(labels[rows].bincount().tolist()) == tallies
    assert labels[chosen_rows(data, "test", 4)].tolist() == [0, 3, 6, 9]


def test_detection_shows_images_with_rare_classes(voc):
    data = open_data("voc", voc[0], [])
    batch = data.samples("test", chosen_rows(data, "test", 24))
    assert set(range(20)) <= set(batch.label.unique().tolist())


def test_the_rarest_label_of_each_image():
    assert rarest(np.array([0, 0, 1, 2, 0, 2]), np.array([3, 0, 3])).tolist() == [1, -1, 2]


def test_missing_parts_of_the_training_are_named(voc, tmp_path, here):
    done = here("show", "voc", "--split", "train", "--root", voc[0], "--out", tmp_path / "voc.png")
    assert_one_sentence(done, "2007_trainval")
    assert "2007_test" in done.stderr


def test_maps_are_drawn_in_the_colours_of_the_legend():
    images = np.full((1, 40, 40, 3), 128, np.uint8)
    maps = np.zeros((1, 40, 40), np.int64)
    maps[:, :, 20:], maps[:, 30:], maps[:, :, :5] = 1, -1, -2
    sheet = mapped_sheet(images, [Labels("classes", ("road", "sky", "car"), maps)], [7])
    first, second = colours(2)
    assert sheet.legend == {
        "classes": {"(unlabelled)": (52, 58, 64), "(nothing)": (255, 255, 255), "sky": first, "road": second}
    }
    (image, overlay) = (tile.image for tile in sheet.strips[0])
    assert image is images[0] or np.array_equal(image, images[0])
    for place, colour in (((10, 10), second), ((10, 30), first)):
        assert overlay[place] == pytest.approx(np.array(colour) * 0.62 + 128 * 0.38, abs=1)
    assert len({tuple(overlay[place]) for place in ((10, 10), (10, 30), (35, 30), (10, 2))}) == 4


def test_small_images_are_enlarged_pixel_by_pixel(tmp_path):
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, 0, 0] = (250, 10, 10)
    (tmp_path / "page.png").write_bytes(draw_contact_sheet("a page", plain_sheet(image, ["corner"], [0])))
    with Image.open(tmp_path / "page.png") as page:
        pixels = np.asarray(page.convert("RGB"))
    red = (pixels == (250, 10, 10)).all(2)
    side = int(red.sum() ** 0.5)
    assert side >= 20
    assert red.sum() == side**2
    rows, columns = red.any(1).nonzero()[0], red.any(0).nonzero()[0]
    assert (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) == (side, side)


def test_colours_are_distinct():
    found = torch.tensor(colours(20)).float()
    apart = torch.cdist(found, found) + 1000 * torch.eye(20)
    assert apart.min() > 40


def test_a_root_that_cannot_be_written_is_one_sentence(voc, tmp_path, here):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder of the data should be")
    assert_one_sentence(here("import", "voc", voc[0].parent, "--root", blocked), f"{blocked / 'prepared'} cannot be")
