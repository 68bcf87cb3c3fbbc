import bz2
import gzip
import lzma
import shutil
import tarfile
import warnings
import zipfile

import pytest

from sharding.errors import InputError
from sharding.openimages.class_list import read_classes
from sharding.openimages.dump import Dump
from sharding.openimages.layouts import RELEASES
from tests.support.dumpmaking import (
    CLASSES,
    LABELS,
    pack_gz,
    pack_tar_gz,
    write_classes,
    write_labels,
)

ROWS = {
    split: ["0000000000000001,verification,/m/0a,1"] for split in ("train", "validation", "test")
}
NAMES = {"v3": "2017_11", "v4": "2018_04", "v5": "v5", "v6": "v6", "v7": "v7"}


def write(folder, release):
    write_labels(folder, ROWS, release)
    return write_classes(folder, release=release)


@pytest.mark.parametrize("release", NAMES)
def test_a_release_is_recognised_from_its_own_and_its_parent_folder(tmp_path, release):
    dump = Dump.open(write(tmp_path, release))
    assert (dump.release, dump.name) == (release, NAMES[release])
    assert dump.splits == ("train", "validation", "test")
    if release != "v6":  # V6's folder holds the train labels only
        alone = Dump.open(tmp_path / NAMES[release])
        assert (alone.release, alone.name, alone.splits) == (dump.release, dump.name, dump.splits)
    for split in dump.splits:
        (file,) = dump.annotation_files(split)
        assert file.path == tmp_path / LABELS[release][split]
    assert dump.class_list_file.path == tmp_path / CLASSES[release][0]
    assert dump.descriptions_file.path == tmp_path / CLASSES[release][1]


def test_v6_takes_validation_and_test_from_v5(tmp_path):
    dump = Dump.open(write(tmp_path, "v6"))
    assert dump.annotation_files("train")[0].name.startswith("oidv6-train")
    assert dump.annotation_files("test")[0].short_name == (
        "v5/test-annotations-human-imagelabels.csv"
    )


def test_v7_calls_the_validation_split_val(tmp_path):
    dump = Dump.open(write(tmp_path, "v7"))
    assert "-val-" in dump.annotation_files("validation")[0].name


def test_v4_and_v5_are_told_apart_by_folder_or_by_the_user_never_by_guess(tmp_path):
    write(tmp_path, "v4")
    (tmp_path / "2018_04").rename(tmp_path / "labels")
    with pytest.raises(InputError, match=r"v4 and v5.*--release"):
        Dump.open(tmp_path)
    assert Dump.open(tmp_path, release="v5").release == "v5"
    assert Dump.open(tmp_path, release="v4").name == "labels"


def boxable(folder, split):
    """Only the boxable variant of a split's V5 labels."""
    whole = folder / LABELS["v5"][split]
    return whole.rename(whole.with_name(f"{split}-annotations-human-imagelabels-boxable.csv"))


def test_boxable_labels_stand_in_for_whole_ones_and_it_is_said(tmp_path):
    write(tmp_path, "v5")
    assert not Dump.open(tmp_path).remarks
    cut = boxable(tmp_path, "train")
    dump = Dump.open(tmp_path)
    assert (dump.release, dump.splits) == ("v5", ("train", "validation", "test"))
    assert dump.annotation_files("train")[0].path == cut
    assert len(dump.remarks) == 1
    assert f"only those of the classes that have boxes ({cut.name})" in dump.remarks[0]
    for split in ("validation", "test"):
        boxable(tmp_path, split)
    assert len(Dump.open(tmp_path).remarks) == 3


def test_whole_labels_are_better_than_boxable_ones(tmp_path):
    write(tmp_path, "v6")
    (tmp_path / "v5/train-annotations-human-imagelabels-boxable.csv").write_text("cut\n")
    (tmp_path / "v5/test-annotations-human-imagelabels-boxable.csv").write_text("cut\n")
    dump = Dump.open(tmp_path)
    assert (dump.release, dump.remarks) == ("v6", ())
    for split in ("validation", "test"):
        boxable(tmp_path, split)
    assert Dump.open(tmp_path).release == "v6"
    assert len(Dump.open(tmp_path).remarks) == 2


def test_two_releases_in_one_folder_need_a_choice(tmp_path):
    write(tmp_path, "v3")
    write(tmp_path, "v7")
    with pytest.raises(InputError, match="v3 and v7"):
        Dump.open(tmp_path)
    for release in ("v3", "v7"):
        dump = Dump.open(tmp_path, release=release)
        assert dump.class_list_file.path.parent.name == NAMES[release]


def test_two_dumps_of_one_release_in_one_folder_are_refused(tmp_path):
    write(tmp_path, "v3")
    (tmp_path / "2017_11").rename(tmp_path / "2017_07")
    write(tmp_path, "v3")
    with pytest.raises(InputError, match="two files claim to be the train labels"):
        Dump.open(tmp_path)


@pytest.mark.parametrize("release", NAMES)
def test_compressed_tables_are_recognised_alike(tmp_path, release):
    pack_gz(write(tmp_path, release))
    dump = Dump.open(tmp_path)
    assert (dump.release, dump.name) == (release, NAMES[release])
    assert dump.class_list_file.path.name.endswith(".txt.gz")
    with dump.annotation_files("train")[0].open() as stream:
        assert stream.readline() == b"ImageID,Source,LabelName,Confidence\n"


def test_archives_are_read_whatever_the_order_of_members(tmp_path):
    plain = write(tmp_path / "plain", "v3")
    archives = tmp_path / "archives"
    archives.mkdir()
    human = [LABELS["v3"][split] for split in ("test", "train", "validation")]
    pack_tar_gz(plain, archives / "annotations_human_2017_11.tar.gz", human)
    pack_tar_gz(plain, archives / "classes_2017_11.tar.gz", CLASSES["v3"])
    dump = Dump.open(archives)
    assert (dump.release, dump.name) == ("v3", "2017_11")
    for split in dump.splits:
        (file,) = dump.annotation_files(split)
        assert file.member == LABELS["v3"][split]
    assert Dump.open(archives / "annotations_human_2017_11.tar.gz").splits == dump.splits


def test_one_archive_may_hold_everything_in_any_order(tmp_path):
    plain = write(tmp_path / "plain", "v3")
    machine = "2017_11/train/annotations-machine.csv"
    (plain / machine).write_text("ImageID\n")
    (plain / "2017_11" / "classes-bbox.txt").write_text("/m/0a\n")
    names = ["2017_11/classes-bbox.txt", machine, *CLASSES["v3"], *LABELS["v3"].values()]
    (tmp_path / "packed").mkdir()
    pack_tar_gz(plain, tmp_path / "packed" / "openimages-v3.tar.gz", names)
    dump = Dump.open(tmp_path / "packed")
    assert dump.splits == ("train", "validation", "test")
    assert dump.class_list_file.member == CLASSES["v3"][0]
    assert dump.machine_file("train").member == machine


def test_unpacked_files_are_preferred_to_archives_beside_them(tmp_path):
    write(tmp_path, "v3")
    pack_tar_gz(tmp_path, tmp_path / "annotations_human_2017_11.tar.gz", LABELS["v3"].values())
    assert Dump.open(tmp_path).annotation_files("train")[0].member is None


def test_archives_of_images_are_passed_over(tmp_path):
    write(tmp_path, "v3")
    (tmp_path / "picture.jpg").write_bytes(b"jpeg")
    with tarfile.open(tmp_path / "train_0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "picture.jpg", arcname="train_0/picture.jpg")
    assert Dump.open(tmp_path).splits == ("train", "validation", "test")


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".tbz2", ".zip"])
@pytest.mark.parametrize("kind", ["w", "w:gz", "w:xz", "w:bz2", "zip"])
def test_archives_are_read_by_content_whatever_their_names_and_other_members(
    tmp_path, suffix, kind
):
    plain = write(tmp_path / "plain", "v3")
    extras = ("._README", "README", "2017_11/._classes-trainable.txt", ".DS_Store")
    for name in extras:
        (plain / name).write_bytes(b"\x00\x05\x16\x07")
    names = [*extras, *CLASSES["v3"], *LABELS["v3"].values()]
    (tmp_path / "packed").mkdir()
    path = tmp_path / f"packed/annotations{suffix}"
    (tmp_path / f"packed/._annotations{suffix}").write_bytes(b"\x00\x05\x16\x07")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as pack:
            for name in names:
                pack.write(plain / name, name)
    else:
        with tarfile.open(path, kind) as archive:
            for name in names:
                archive.add(plain / name, name)
    dump = Dump.open(tmp_path / "packed")
    assert dump.splits == ("train", "validation", "test")
    assert len(dump.files) == 5
    assert read_classes(dump) == read_classes(Dump.open(plain))
    with dump.annotation_files("train")[0].open() as stream:
        assert stream.read() == (plain / LABELS["v3"]["train"]).read_bytes()


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress, bytes])
@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2"])
def test_tables_are_decompressed_by_content(tmp_path, pack, suffix):
    path = write(tmp_path, "v3") / LABELS["v3"]["train"]
    content = path.read_bytes()
    path.unlink()
    path.with_name(f"{path.name}{suffix}").write_bytes(pack(content))
    (file,) = Dump.open(tmp_path).annotation_files("train")
    with file.open() as stream:
        assert stream.read() == content


@pytest.mark.parametrize("release", ["v6", "v7"])
def test_the_layout_of_fiftyone_is_known(tmp_path, release):
    home = tmp_path / f"open-images-{release}"
    plain = write(tmp_path / "plain", "v3")
    for split in ROWS:
        (home / split / "labels").mkdir(parents=True)
        (home / split / "metadata").mkdir()
        shutil.copy(plain / LABELS["v3"][split], home / split / "labels/classifications.csv")
        shutil.copy(plain / CLASSES["v3"][1], home / split / "metadata/classes.csv")
    with pytest.raises(InputError, match="class list is missing: looked for oidv"):
        read_classes(Dump.open(home))
    shutil.copy(plain / CLASSES["v3"][0], home)
    dump = Dump.open(home)
    assert (dump.release, dump.name) == (release, home.name)
    assert dump.splits == ("train", "validation", "test")
    assert read_classes(dump) == read_classes(Dump.open(plain))


def test_a_format_that_is_not_read_is_named(tmp_path):
    path = write(tmp_path, "v3") / LABELS["v3"]["train"]
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    (file,) = Dump.open(tmp_path).annotation_files("train")
    with pytest.raises(InputError, match=r"human\.csv: a zstd file is not read\. Fix: unpack it"):
        file.read_text()


def test_what_is_packed_as_none_is_read_is_named(tmp_path, capsys):
    folder = write(tmp_path, "v3")
    (file,) = Dump.open(tmp_path).annotation_files("train")
    packed = folder / f"{LABELS['v3']['train']}.zst"
    packed.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    assert Dump.open(tmp_path).annotation_files("train") == (file,)
    file.path.unlink()
    (file,) = Dump.open(tmp_path).annotation_files("train")
    with pytest.raises(InputError, match=r"human\.csv\.zst: a zstd file is not read\. Fix: unpack"):
        file.read_text()
    archive = packed.rename(tmp_path / "annotations_human_2017_11.tar.zst")
    assert Dump.open(tmp_path).splits == ("validation", "test")
    printed = capsys.readouterr()
    assert "skipped: " in printed.out + printed.err
    assert "2017_11.tar.zst: a zstd file is not read" in printed.out + printed.err
    with pytest.raises(InputError, match="a zstd file is not read"):
        Dump.open(archive)


@pytest.mark.parametrize("mark", [" (1)", "(2)", " copy", " copy 3"])
def test_a_second_download_is_named_with_its_new_name(tmp_path, mark):
    path = tmp_path / f"reviewed-first-epoch-020-train{mark}.csv"
    path.write_text("ImageID,Source,LabelName,Confidence\n")
    for place in (path, tmp_path):
        with pytest.raises(InputError) as caught:
            Dump.open(place)
        assert path.name in caught.value.problem
        fix = "rename it to reviewed-first-epoch-020-train.csv, in a folder of its own"
        assert caught.value.fix == fix
    path.rename(tmp_path / "reviewed-first-epoch-020-train.csv")
    assert Dump.open(tmp_path).splits == ("train",)


def test_a_folder_of_any_name_names_the_labels(tmp_path):
    write(tmp_path, "v3")
    (tmp_path / "2017_11").rename(tmp_path / "Open Images (V3)")
    assert Dump.open(tmp_path).name == "Open-Images-V3-"
    (tmp_path / "Open Images (V3)").rename(tmp_path / "\u56fe")
    with pytest.raises(InputError, match=r"Fix: give --labels a name of letters"):
        Dump.open(tmp_path)


@pytest.mark.parametrize("content", [b"\x1f\x8b not gzip", b"noise" * 500])
def test_a_damaged_archive_is_named_on_one_line(tmp_path, content):
    path = tmp_path / "annotations_human_2017_11.tar.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged") as caught:
        Dump.open(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_bz2_is_damage(tmp_path):
    path = write(tmp_path, "v3") / f"{LABELS['v3']['train']}.bz2"
    packed = bz2.compress(bytes(range(256)) * 40)
    path.write_bytes(packed.replace(packed[40:44], b"????"))
    path.with_suffix("").unlink()
    (file,) = Dump.open(tmp_path).annotation_files("train")
    with pytest.raises(InputError, match=r"damaged \(Invalid data stream\)"):
        file.read_text()


def test_a_half_downloaded_zip_is_skipped_with_a_warning(tmp_path, capsys):
    write(tmp_path, "v3")
    (tmp_path / "masks2.zip").write_bytes(b"PK\3\4" + bytes(1000))
    assert Dump.open(tmp_path).splits == ("train", "validation", "test")
    printed = capsys.readouterr()
    assert "masks2.zip: the archive is cut off" in printed.out + printed.err
    with pytest.raises(InputError, match="cut off or damaged"):
        Dump.open(tmp_path / "masks2.zip")


def test_an_archive_of_pictures_is_left_at_the_first(tmp_path):
    write(tmp_path, "v3")
    (tmp_path / "COCO_1.PNG").write_bytes(b"png")
    with tarfile.open(tmp_path / "pictures.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "COCO_1.PNG", "val/COCO_1.PNG")
        archive.add(tmp_path / LABELS["v3"]["test"], "val/notes.csv")
    assert all(file.member is None for file in Dump.open(tmp_path).files)


def test_the_tables_of_joined_tars_are_read(tmp_path):
    plain = write(tmp_path / "plain", "v3")
    (tmp_path / "packed").mkdir()
    path = tmp_path / "packed/annotations.tar"
    for names in (CLASSES["v3"], LABELS["v3"].values()):
        with tarfile.open(tmp_path / "part.tar", "w") as archive:
            for name in names:
                archive.add(plain / name, name)
        with path.open("ab") as joined:
            joined.write((tmp_path / "part.tar").read_bytes())
    (file,) = Dump.open(tmp_path / "packed").annotation_files("train")
    with file.open() as stream:
        assert b"".join(stream) == (plain / LABELS["v3"]["train"]).read_bytes()


@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_a_table_that_was_appended_again_is_read_as_it_is_last(tmp_path, suffix):
    plain = write(tmp_path / "plain", "v3")
    (tmp_path / "packed").mkdir()
    path, name = tmp_path / f"packed/annotations{suffix}", LABELS["v3"]["train"]
    for mode, more in (("w", ""), ("a", "0123456789abcdef,verification,/m/0a,1\n")):
        with (plain / name).open("a") as table:
            table.write(more)
        if suffix == ".zip":
            with zipfile.ZipFile(path, mode) as pack, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the name, which it has
                pack.write(plain / name, name)
        else:
            with tarfile.open(path, mode) as archive:
                archive.add(plain / name, name)
    (file,) = Dump.open(tmp_path / "packed").annotation_files("train")
    with file.open() as stream:
        assert stream.read() == (plain / name).read_bytes()


def test_archives_that_nobody_asks_for_are_not_opened(tmp_path):
    write(tmp_path, "v3")
    for name in ("annotations_machine_2017_11.tar.gz", "annotations_human_bbox_2017_11.tar.gz"):
        (tmp_path / name).write_bytes(b"noise" * 500)
    (tmp_path / "2017_11/train/images.csv").write_text("ImageID\n")
    pack_tar_gz(tmp_path, tmp_path / "images_2017_11.tar.gz", ["2017_11/train/images.csv"])
    (tmp_path / "2017_11/train/images.csv").unlink()
    dump = Dump.open(tmp_path)
    assert dump.images_file("train").member == "2017_11/train/images.csv"
    assert dump.images_file("test") is None
    with pytest.raises(InputError, match=r"annotations_machine.*damaged"):
        dump.machine_file("train")


def test_our_exports_are_a_release(tmp_path):
    write_labels(tmp_path, {"train": ROWS["train"]}, "export")
    dump = Dump.open(tmp_path / "corrections")
    assert (dump.release, dump.name, dump.splits) == ("export", "corrections", ("train",))
    dump = Dump.open(tmp_path / "corrections" / "train.csv", name="ll-cp-run-7")
    assert (dump.release, dump.name) == ("export", "ll-cp-run-7")
    with pytest.raises(InputError, match="the class list is missing"):
        _ = dump.class_list_file


def test_a_stray_table_does_not_hide_a_published_release(tmp_path):
    write(tmp_path, "v3")
    (tmp_path / "notes-train.csv").write_text("a,b\n")
    assert Dump.open(tmp_path).release == "v3"


def test_a_linked_folder_is_followed_and_a_cycle_ends(tmp_path):
    write(tmp_path / "elsewhere", "v3")
    home = tmp_path / "home"
    home.mkdir()
    (home / "2017_11").symlink_to(tmp_path / "elsewhere" / "2017_11")
    assert Dump.open(home).name == "2017_11"
    (home / "2017_11" / "again").symlink_to(home / "empty")
    (home / "empty").mkdir()
    (home / "empty" / "self").symlink_to(home / "empty")
    assert Dump.open(home).splits == ("train", "validation", "test")


def test_nothing_found_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError) as caught:
        Dump.open(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    for part in (*RELEASES, "train/annotations-human.csv", "oidv6-train-annotations-human"):
        assert part in message


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda folder: Dump.open(folder / "absent"), "is missing"),
        (lambda folder: Dump.open(folder, release="v9"), "no release 'v9'"),
        (lambda folder: Dump.open(folder, release="v7"), "looked for v7: oidv7-train"),
        (lambda folder: Dump.open(folder, name="a/b"), "cannot name a label version"),
        (lambda folder: Dump.open(folder, name="a" * 256), r"version. Fix: give --labels .* 255"),
        (lambda folder: Dump.open(folder, name="README.md"), r"cannot .* and not README\.md"),
        (lambda folder: Dump.open(folder).annotation_files("val"), "no 'val' labels"),
        (lambda folder: Dump.open(folder).machine_file("train"), "train/annotations-machine.csv"),
    ],
)
def test_wrong_use_is_one_clear_line(tmp_path, call, message):
    write(tmp_path, "v3")
    with pytest.raises(InputError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_image_list_is_optional_and_machine_labels_are_found(tmp_path):
    write(tmp_path, "v3")
    assert Dump.open(tmp_path).images_file("train") is None
    for name in ("images", "annotations-machine"):
        (tmp_path / "2017_11" / "train" / f"{name}.csv").write_text("ImageID\n")
    dump = Dump.open(tmp_path)
    assert dump.images_file("train").name == "images.csv"
    assert dump.machine_file("train").name == "annotations-machine.csv"


@pytest.mark.shared
@pytest.mark.parametrize("place", ["v3_2017_11", "v3_2017_11/2017_11", "v3_2017_11/archives", ""])
def test_the_real_v3_dump_is_found_from_everywhere(shared, place):
    dump = Dump.open(shared / "data" / "openimages" / place)
    assert (dump.release, dump.name) == ("v3", "2017_11")
    assert dump.splits == ("train", "validation", "test")
    assert dump.class_list_file.name == "classes-trainable.txt"
    for split in dump.splits:
        assert dump.images_file(split).short_name == f"{split}/images.csv"
        assert dump.machine_file(split).short_name == f"{split}/annotations-machine.csv"
