"""What the tests of files from strangers share."""

import pytest

from pplfast.data.dataset import DataConfig, open_dataset
from pplfast.errors import UserError


def refused(**settings):
    with pytest.raises(UserError) as caught:
        open_dataset(DataConfig(**{key: str(value) for key, value in settings.items()}))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600, message
    return message


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)
    return path
