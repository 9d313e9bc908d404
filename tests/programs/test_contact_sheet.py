"""The sheet shows stored images on the left and their augmentations to the right."""

import numpy as np
from PIL import Image

from train import contact_sheet


def test_alternating_mirrors_are_shown(tmp_path):
    contact_sheet.main(
        [
            *("--config=digits", f"--workdir={tmp_path}", "--config.data.pad=0"),
            *("--config.data.flip=True", "--config.data.alternate_flip=True"),
        ]
    )
    with Image.open(tmp_path / "contact_sheet.png") as image:
        sheet = np.asarray(image)
    size, gap = 8 * contact_sheet.SCALE + 2 * contact_sheet.GAP, contact_sheet.GAP
    stored, odd, even = (
        sheet[:size, n * size : (n + 1) * size][gap:-gap, gap:-gap] for n in range(3)
    )
    first, second = (np.array_equal(each, stored) for each in (odd, even))
    assert first != second  # one of two epochs mirrors it
    assert np.array_equal(even if first else odd, stored[:, ::-1])


def test_a_sheet_of_digits(tmp_path, capsys):
    contact_sheet.main(["--config=digits", f"--workdir={tmp_path / 'run'}"])
    path = tmp_path / "run" / "contact_sheet.png"
    assert capsys.readouterr().out == f"written to {path}\n"
    with Image.open(path) as image:
        sheet = np.asarray(image)
    size = 8 * contact_sheet.SCALE + 2 * contact_sheet.GAP
    assert sheet.shape == (10 * size, (1 + contact_sheet.COLUMNS) * size)
    cells = sheet.reshape(10, size, 1 + contact_sheet.COLUMNS, size).transpose(0, 2, 1, 3)
    for row in cells:
        assert len({cell.tobytes() for cell in row}) > 3  # of nine possible crops
