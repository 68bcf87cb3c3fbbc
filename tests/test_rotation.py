import numpy as np
import pytest

from sharding.dumpfiles import DumpFile
from sharding.errors import InputError
from sharding.rotation import read_image_list, read_rotations

COLUMNS = "ImageID,Subset,OriginalURL,Title,Rotation"


def written(tmp_path, *rows: str, header: str = COLUMNS) -> DumpFile:
    path = tmp_path / "images-with-rotation.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return DumpFile(path=path, location=f"x/{path.name}")


def test_rotations_are_found_by_id_in_a_list_that_is_not_sorted(tmp_path):
    file = written(
        tmp_path,
        "4fa8000000000000,train,u,one,90.0",
        '00000000000123e5,train,u,"a, b\nand ""c""",0.0',
        "7e85000000000000,train,u,two,",
        "0000000000000001,train,u,three,270",
        "4fa8000000000000,train,u,again,180.0",
    )
    rotations = read_rotations([file])
    wanted = np.array([0x4FA8 << 48, 0x123E5, 0x7E85 << 48, 1, 2], np.uint64)
    assert rotations.of(wanted).tolist() == [90, 0, -1, 270, -1]
    assert rotations.unknown == 1


def test_no_list_knows_no_rotation():
    assert read_rotations([]).of(np.array([1], np.uint64)).tolist() == [-1]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("4fa8000000000000,train,u,t,45.0", "'45.0' is no quarter turn"),
        ("4fa8,train,u,t,90.0", "'4fa8' is not 16"),
        ("4fa8000000000000,train", "not an image list"),
    ],
)
def test_a_bad_list_is_one_line_that_names_it(tmp_path, row, message):
    file = written(tmp_path, row)
    with pytest.raises(InputError, match=message) as caught:
        read_rotations([file])
    assert str(file.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_v3_lists_have_no_rotation_but_their_other_columns_are_read(shared):
    path = shared / "data/openimages/v3_2017_11/2017_11/train/images.csv"
    file = DumpFile(path=path, location="train/images.csv")
    with pytest.raises(InputError, match="Rotation"):
        read_rotations([file])
    batches = list(read_image_list(file, ["ImageID", "OriginalMD5"]))
    assert sum(len(batch) for batch in batches) == 1000
    assert all(len(md5.as_py()) == 24 for batch in batches for md5 in batch.column("OriginalMD5"))
