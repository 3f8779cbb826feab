import pytest


@pytest.fixture(autouse=True, scope="module")
def _short(few_validation_images: None) -> None:
    """Shorten the validation of all trainings."""
